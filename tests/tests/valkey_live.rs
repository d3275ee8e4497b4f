//! Restores into a Valkey that keeps running: everything where its service or its files are out of reach, or the keys of
//! one module.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "valkey_live/arriving.rs"]
mod arriving;

use std::{fs, process::Stdio};

use prexor_agent::{
    restore_unit::RestoreUnit,
    source::{Source, SourceError, valkey::ValkeySource},
};
use prexor_format::{manifest::Artifact, selection::Selection};
use prexor_tests::{
    capture::stage_part,
    dataset::many_valkey,
    equality::{Things, corrected, differences},
    resp::Resp,
    servers::{PATIENCE, Valkey, ValkeyBuilder, wait_until},
    valkey::{Bench, digest_of, remote},
};
use tokio::task::JoinHandle;

fn same(before: &Things, after: &Things) {
    assert_eq!(differences("valkey", before, after), Vec::<String>::new());
}

fn part(bench: &Bench, job: &str, artifact: &Artifact, keys: &[&str]) -> RestoreUnit {
    let selection = Selection { keys: keys.iter().map(|k| (*k).to_owned()).collect(), ..Selection::default() };
    stage_part(&bench.dir.path().join("state"), job, artifact, &bench.backup(), &selection).unwrap()
}

async fn everything(kind: ValkeyBuilder, builder: ValkeyBuilder) {
    let bench = Bench::filled(builder).await;
    let source = remote(bench.server.uri());
    let inspection = source.inspect().await;
    assert_eq!((inspection.problem, &*inspection.facts["restore_way"]), (None, "live"));
    let before = bench.live().await;
    let (settings, process) = (bench.settings(), bench.server.pid());
    let artifact = bench.capture().await;
    bench.destroy().await;
    bench.server.cli(&["SET", "prexor:v1:jwt:revoked:stolen", "1", "EX", "9000"]);
    let destroyed = bench.live().await;
    let expected = corrected(&before, &destroyed);

    let unit = bench.unit("job-1", &artifact);
    source.prepare(&unit).await.unwrap();
    source.prepare(&unit).await.unwrap();
    same(&destroyed, &bench.live().await);
    source.swap(&unit).await.unwrap();
    same(&expected, &bench.live().await);
    source.swap(&unit).await.unwrap();
    same(&expected, &bench.live().await);
    let file = bench.backup().join("valkey/dump.rdb");
    assert_eq!(source.check(&unit).await.unwrap(), Vec::<String>::new());
    let told = unit.told().unwrap().join("\n");
    assert!(told.contains("lease-token:leader goes on at 1000041") && told.contains("revocation"), "{told}");
    bench.server.cli(&["DEL", "prexor:v1:jwt:revoked:stolen"]);
    let without: Things = expected.clone().into_iter().filter(|(name, _)| !name.ends_with("stolen")).collect();
    assert_eq!(bench.digest(), digest_of(kind, &file, &without).await);
    assert_eq!(source.check(&unit).await.unwrap().len(), 1);
    source.revert(&unit).await.unwrap();
    same(&destroyed, &bench.live().await);
    source.revert(&unit).await.unwrap();
    same(&destroyed, &bench.live().await);

    let unit = bench.unit("job-2", &artifact);
    source.prepare(&unit).await.unwrap();
    assert!(source.commit(&unit).await.is_err(), "nothing was swapped");
    source.swap(&unit).await.unwrap();
    source.commit(&unit).await.unwrap();
    source.commit(&unit).await.unwrap();
    assert!(source.revert(&unit).await.is_err(), "there is no way back after commit");
    same(&expected, &bench.live().await);
    assert_eq!((bench.settings(), bench.server.pid()), (settings, process), "it was never restarted");
    assert!(!unit.dir().join("kept.rdb").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_replaced_while_the_server_runs() {
    everything(Valkey::builder(), Valkey::builder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_replaced_while_the_server_runs_with_append_only_files_and_a_password() {
    everything(Valkey::builder(), Valkey::builder().append_only().password("s3cret")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_replaced_in_a_redis_that_runs() {
    everything(Valkey::builder().redis(), Valkey::builder().redis()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_modules_keys_come_back_and_nothing_else_moves() {
    let bench = Bench::filled(Valkey::builder()).await;
    let module = |name: &str| name.contains(" prexor:v1:platform:stats:");
    let before = bench.live().await;
    let artifact = bench.capture().await;
    bench.server.cli(&["DEL", "prexor:v1:platform:stats:integer", "prexor:v1:platform:stats:list large"]);
    bench.server.cli(&["SET", "prexor:v1:platform:stats:born later", "1"]);
    bench.server.cli(&["SADD", "prexor:v1:platform:stats:set small", "more"]);
    bench.server.cli(&["INCR", "prexor:v1:lease-token:leader"]);
    bench.server.cli(&["SET", "prexor:v1:platform:shop:cart", "full"]);
    bench.server.cli(&["FUNCTION", "FLUSH"]);
    let live = bench.live().await;
    let mut expected: Things = live.clone().into_iter().filter(|(name, _)| !module(name)).collect();
    expected.extend(before.into_iter().filter(|(name, _)| module(name)));

    let unit = part(&bench, "job-1", &artifact, &["prexor:v1:platform:stats:*"]);
    bench.source.prepare(&unit).await.unwrap();
    bench.source.swap(&unit).await.unwrap();
    same(&expected, &bench.live().await);
    assert_eq!(bench.source.check(&unit).await.unwrap(), Vec::<String>::new());
    bench.server.cli(&["SET", "prexor:v1:platform:stats:integer", "5"]);
    assert_eq!(bench.source.check(&unit).await.unwrap().len(), 1);
    bench.source.revert(&unit).await.unwrap();
    same(&live, &bench.live().await);

    // Two patterns, one of which covers what the laws take care of.
    let unit = part(&bench, "job-2", &artifact, &["prexor:v1:lease*", "prexor:v1:platform:stats:[il]*"]);
    bench.source.prepare(&unit).await.unwrap();
    bench.source.swap(&unit).await.unwrap();
    assert_eq!(bench.server.cli(&["GET", "prexor:v1:lease-token:leader"]).trim(), "1000042");
    assert_eq!(bench.server.cli(&["EXISTS", "prexor:v1:lease:leader"]).trim(), "0");
    assert_eq!(bench.server.cli(&["EXISTS", "prexor:v1:platform:stats:born later"]).trim(), "1");
    assert_eq!(bench.server.cli(&["EXISTS", "prexor:v1:nodeowner:node-1"]).trim(), "1", "it is not covered");
    assert_eq!(bench.source.check(&unit).await.unwrap(), Vec::<String>::new());
    bench.source.commit(&unit).await.unwrap();
}

/// As if the agent had been killed anywhere after the old keys were written down.
#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_was_cut_off_goes_on_or_back() {
    let bench = Bench::filled(Valkey::builder()).await;
    let source = remote(bench.server.uri());
    let before = bench.live().await;
    let artifact = bench.capture().await;
    bench.destroy().await;
    bench.server.cli(&["RPUSH", "a list of old", "1", "2"]);
    let old = bench.live().await;
    let new = corrected(&before, &old);
    for (job, forward) in [("job-1", false), ("job-2", true), ("job-3", false)] {
        let unit = bench.unit(job, &artifact);
        source.prepare(&unit).await.unwrap();
        source.swap(&unit).await.unwrap();
        fs::remove_file(unit.dir().join("valkey-loaded.json")).unwrap();
        match job {
            "job-1" => drop(bench.server.cli(&["FLUSHALL"])),
            _ => {
                bench.server.cli(&["DEL", "prexor:v1:platform:stats:integer"]);
                bench.server.cli(&["SET", "a list of old", "half of it"]);
            }
        }
        let unit = RestoreUnit::open(unit.dir(), job).unwrap().unwrap();
        if forward {
            source.swap(&unit).await.unwrap();
            same(&new, &bench.live().await);
            assert_eq!(source.check(&unit).await.unwrap(), Vec::<String>::new());
        }
        source.revert(&unit).await.unwrap();
        same(&old, &bench.live().await);
    }
}

/// A swap that has put some of the keys in.
async fn half_way(
    bench: &Bench,
    source: &ValkeySource,
    job: &str,
    artifact: &Artifact,
) -> (RestoreUnit, JoinHandle<Result<(), SourceError>>) {
    let unit = bench.unit(job, artifact);
    source.prepare(&unit).await.unwrap();
    let swap = tokio::spawn({
        let (source, unit) = (source.clone(), unit.clone());
        async move { source.swap(&unit).await }
    });
    wait_until("some keys", PATIENCE, async || {
        bench.server.cli(&["DBSIZE"]).trim().parse::<u64>().is_ok_and(|n| n > 1_000)
    })
    .await;
    (unit, swap)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_becomes_a_replica_or_dies_in_the_middle_is_led_back_when_it_is_there_again() {
    let mut bench = Bench::filled(Valkey::builder().append_only().setting("appendfsync always")).await;
    let mut resp = bench.server.client().await;
    for n in 0..60 {
        let many: Vec<Vec<String>> = (0..1000)
            .map(|i| vec!["SET".into(), format!("prexor:v1:platform:many:{}", n * 1000 + i), "x".repeat(100)])
            .collect();
        resp.pipeline(&many).await.unwrap();
    }
    let artifact = bench.capture().await;
    bench.destroy().await;
    let old = bench.live().await;
    let source = remote(bench.server.uri());
    let (unit, swap) = half_way(&bench, &source, "job-1", &artifact).await;
    bench.server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let error = swap.await.unwrap().unwrap_err();
    assert!(matches!(error, SourceError::Invalid(_)) && error.to_string().contains("READONLY"), "{error:?}");
    bench.server.cli(&["REPLICAOF", "NO", "ONE"]);
    source.revert(&unit).await.unwrap();
    same(&old, &bench.live().await);

    let (unit, swap) = half_way(&bench, &source, "job-2", &artifact).await;
    bench.server.kill();
    let error = swap.await.unwrap().unwrap_err();
    assert!(matches!(error, SourceError::Unavailable(_)), "{error:?}");
    assert!(matches!(source.revert(&unit).await, Err(SourceError::Unavailable(_))), "it is not there");
    bench.server.start().await;
    source.revert(&unit).await.unwrap();
    same(&old, &bench.live().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_is_told_and_taken_back() {
    let bench = Bench::filled(Valkey::builder()).await;
    let source = remote(bench.server.uri());
    let artifact = bench.capture().await;
    bench.destroy().await;
    let old = bench.live().await;

    let unit = bench.unit("oom", &artifact);
    source.prepare(&unit).await.unwrap();
    bench.server.cli(&["CONFIG", "SET", "maxmemory", "1100000"]);
    let error = source.swap(&unit).await.unwrap_err();
    assert!(matches!(error, SourceError::NoSpace(_)) && error.to_string().contains("maxmemory"), "{error:?}");
    bench.server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    source.revert(&unit).await.unwrap();
    same(&old, &bench.live().await);

    let unit = bench.unit("misconf", &artifact);
    source.prepare(&unit).await.unwrap();
    // A file that cannot be replaced.
    let dump = bench.server.data_dir().join("dump.rdb");
    fs::remove_file(&dump).unwrap();
    fs::create_dir_all(dump.join("x")).unwrap();
    bench.server.cli(&["CONFIG", "SET", "save", "3600 1"]);
    bench.server.cli(&["BGSAVE"]);
    wait_until("writes to be refused", PATIENCE, async || bench.server.cli(&["SET", "x", "1"]).contains("MISCONF"))
        .await;
    let error = source.swap(&unit).await.unwrap_err();
    assert!(matches!(error, SourceError::Unavailable(_)), "{error:?}");
    assert!(error.to_string().contains("cannot save to its disk"), "{error}");
    fs::remove_dir_all(&dump).unwrap();
    bench.server.cli(&["SAVE"]);
    source.revert(&unit).await.unwrap();
    bench.server.cli(&["DEL", "x"]);
    same(&old, &bench.live().await);

    let unit = bench.unit("replica", &artifact);
    source.prepare(&unit).await.unwrap();
    bench.server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let error = source.swap(&unit).await.unwrap_err();
    assert!(matches!(error, SourceError::Invalid(_)) && error.to_string().contains("is a replica"), "{error:?}");
    bench.server.cli(&["REPLICAOF", "NO", "ONE"]);
    source.revert(&unit).await.unwrap();
    same(&old, &bench.live().await);
}

/// Restores once the server says `said`, which it does from when `begin` is run until `end` is: the restore is refused, and
/// goes on afterwards as if nothing had been.
async fn not_now(bench: &Bench, job: &str, said: &str, begin: &[&str], end: &[&str]) {
    let source = remote(bench.server.uri());
    let artifact = bench.capture().await;
    bench.server.cli(&["SET", job, "born later"]);
    let old = bench.live().await;
    let unit = bench.unit(job, &artifact);
    source.prepare(&unit).await.unwrap();
    let mut begun = bench.server.cli_command(begin).stdout(Stdio::null()).spawn().unwrap();
    wait_until("the server to say so", PATIENCE, async || bench.server.cli(&["DBSIZE"]).contains(&said.to_uppercase()))
        .await;
    let unprepared = bench.unit(&format!("{job}-new"), &artifact);
    for refused in [source.prepare(&unprepared).await, source.swap(&unit).await] {
        let error = refused.unwrap_err();
        assert!(matches!(error, SourceError::Unavailable(_)) && error.to_string().contains(said), "{error:?}");
    }
    bench.server.cli(end);
    begun.wait().unwrap();
    same(&old, &bench.live().await);
    source.swap(&unit).await.unwrap();
    assert_eq!(bench.server.cli(&["EXISTS", job]).trim(), "0");
    assert_eq!(source.check(&unit).await.unwrap(), Vec::<String>::new());
    source.revert(&unit).await.unwrap();
    same(&old, &bench.live().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_busy_or_loads_is_waited_for() {
    let builder = Valkey::builder().setting("loading-process-events-interval-bytes 1024").setting("lua-time-limit 50");
    let bench = Bench::filled(builder).await;
    not_now(&bench, "script", "busy", &["EVAL", "while true do end", "0"], &["SCRIPT", "KILL"]).await;
    // It loads for as long as it is told to wait at each key.
    many_valkey(&mut bench.server.client().await, 2_000).await.unwrap();
    bench.server.cli(&["CONFIG", "SET", "key-load-delay", "20000"]);
    not_now(&bench, "load", "loading", &["DEBUG", "RELOAD"], &["CONFIG", "SET", "key-load-delay", "0"]).await;
}

/// How often the server has made a snapshot for somebody else.
fn snapshots(bench: &Bench) -> u64 {
    let stats = bench.server.cli(&["INFO", "stats"]);
    stats.lines().find_map(|line| line.trim().strip_prefix("sync_full:")?.parse().ok()).unwrap()
}

async fn many_keys(builder: ValkeyBuilder) {
    let bench = Bench::filled(builder.setting("repl-diskless-sync-delay 7").setting("repl-diskless-sync no")).await;
    many_valkey(&mut bench.server.client().await, 11_000).await.unwrap();
    let before = bench.live().await;
    let settings = bench.settings();
    let artifact = bench.capture().await;
    bench.server.cli(&["DEL", "prexor:v1:platform:many:1"]);
    bench.server.cli(&["SET", "prexor:v1:platform:many:2", "another"]);
    bench.server.cli(&["SET", "prexor:v1:platform:many:a", "born later"]);
    let old = bench.live().await;
    let new = corrected(&before, &old);
    assert_eq!(snapshots(&bench), 0);

    let source = remote(bench.server.uri());
    let unit = bench.unit("job-1", &artifact);
    source.prepare(&unit).await.unwrap();
    source.swap(&unit).await.unwrap();
    assert_eq!((snapshots(&bench), bench.settings()), (1, settings.clone()), "the old keys are written down from one");
    same(&new, &bench.live().await);
    assert_eq!(source.check(&unit).await.unwrap(), Vec::<String>::new());
    assert_eq!((snapshots(&bench), bench.settings()), (2, settings.clone()));
    // What is compared was added up when the file was read through, and is once more when one of its keys has expired since.
    let mut sums: serde_json::Value = unit.load_note("valkey-foreseen").unwrap().unwrap();
    let kept = sums.clone();
    sums["foreseen"]["families"][0]["keys"] = serde_json::json!(77);
    unit.save_note("valkey-foreseen", &sums).unwrap();
    assert!(!source.check(&unit).await.unwrap().is_empty(), "it is what was noted that is compared");
    sums["foreseen"]["first_expiry_ms"] = serde_json::json!(1_000);
    unit.save_note("valkey-foreseen", &sums).unwrap();
    assert_eq!(source.check(&unit).await.unwrap(), Vec::<String>::new());
    unit.save_note("valkey-foreseen", &kept).unwrap();
    bench.server.cli(&["PEXPIREAT", "prexor:v1:platform:many:0", "33333333333333"]);
    assert_eq!(source.check(&unit).await.unwrap().len(), 1, "an expiry is part of it");
    assert_eq!(snapshots(&bench), 5);

    // As if the agent had been killed while it read.
    let run_id = bench.server.cli(&["INFO", "server"]);
    let run_id = run_id.lines().find_map(|line| line.trim().strip_prefix("run_id:")).unwrap();
    for (of, put_back) in [("another process", false), (run_id, true)] {
        let changed = [("rdbcompression", "yes", "no"), ("repl-diskless-sync-delay", "7", "0")];
        let changed = changed.map(|(name, before, meanwhile)| {
            bench.server.cli(&["CONFIG", "SET", name, meanwhile]);
            serde_json::json!({ "name": name, "before": before, "meanwhile": meanwhile })
        });
        let note = serde_json::json!({ "run_id": of, "settings": changed });
        unit.save_note("valkey-settings", &note).unwrap();
        // What an administrator sets meanwhile stays.
        bench.server.cli(&["CONFIG", "SET", "repl-diskless-sync-delay", "3"]);
        source.check(&unit).await.unwrap();
        let mut expected = settings.clone();
        expected.insert("repl-diskless-sync-delay".into(), "3".into());
        expected.insert("rdbcompression".into(), if put_back { "yes" } else { "no" }.into());
        assert_eq!(bench.settings(), expected, "{of}");
    }
    source.revert(&unit).await.unwrap();
    same(&old, &bench.live().await);

    // One that may not change settings has its keys read one by one, where a snapshot would be waited for; so has one that
    // gets no snapshot.
    for (job, rights) in [("job-2", &["-config|set"][..]), ("job-3", &["-sync", "-psync"])] {
        let account = ["ACL", "SETUSER", "agent", "reset", "on", ">s3cret", "~*", "&*", "+@all"];
        bench.server.cli(&[&account, rights].concat());
        let limited = remote(bench.server.uri().replace("redis://", "redis://agent:s3cret@"));
        let unit = bench.unit(job, &artifact);
        let (made, settings) = (snapshots(&bench), bench.settings());
        limited.prepare(&unit).await.unwrap();
        limited.swap(&unit).await.unwrap();
        same(&new, &bench.live().await);
        assert_eq!(limited.check(&unit).await.unwrap(), Vec::<String>::new());
        assert_eq!((snapshots(&bench), bench.settings()), (made, settings));
        limited.revert(&unit).await.unwrap();
        same(&old, &bench.live().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_keys_are_read_from_a_snapshot_and_settings_are_put_back() {
    many_keys(Valkey::builder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_keys_of_a_redis_are_read_from_a_snapshot_too() {
    many_keys(Valkey::builder().redis()).await;
}

/// RESTORE takes no more than `proto-max-bulk-len`; a string of that very size is a few bytes longer when it is dumped.
#[tokio::test(flavor = "multi_thread")]
async fn strings_as_long_as_can_be_are_rebuilt() {
    let bench = Bench::start(Valkey::builder().setting("proto-max-bulk-len 1mb")).await;
    let mut noise = vec![0; 1 << 20];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for byte in &mut noise {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    let mut resp = bench.server.client().await;
    for part in noise.chunks(1 << 18) {
        resp.call(&[b"APPEND".as_slice(), b"long", part]).await.unwrap();
    }
    resp.call(&["PEXPIRE", "long", "90000000"]).await.unwrap();
    let before = bench.live().await;
    let source = remote(bench.server.uri());
    let artifact = bench.capture().await;
    resp.call(&["DEL", "long"]).await.unwrap();
    let unit = bench.unit("job-1", &artifact);
    source.prepare(&unit).await.unwrap();
    source.swap(&unit).await.unwrap();
    same(&before, &bench.live().await);
    assert_eq!(source.check(&unit).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_under_sentinels_is_not_stopped() {
    let bench = Bench::filled(Valkey::builder()).await;
    assert_eq!(bench.source.inspect().await.facts["restore_way"], "files");
    let mut sentinel = Resp::connect(&bench.server.uri()).await.unwrap();
    sentinel.call(&["SUBSCRIBE", "__sentinel__:hello"]).await.unwrap();
    let facts = bench.source.inspect().await.facts;
    assert_eq!(facts["restore_way"], "live");
    assert!(facts["restore_way_because"].contains("Sentinel"), "{facts:?}");
}
