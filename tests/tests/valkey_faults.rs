//! What goes wrong with Valkey: disks that are full, values and keys that are too long for a running server, data of
//! modules, replicas and Sentinels, Redis 6, and what only shows through coordinator and agent together.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path, process::Command};

use prexor_agent::source::{
    Source as _, SourceError,
    valkey::{CaptureWay, ValkeyConfig, ValkeySource},
};
use prexor_format::{
    digest::Sha256Digest,
    manifest::{Artifact, Contents},
    rdb::{self, Facts, Writer},
    selection::Selection,
};
use prexor_tests::{
    capture::{stage_part, to_directory},
    cluster::Cluster,
    dataset,
    equality::{Things, corrected, differences},
    resp::Resp,
    servers::{PATIENCE, SmallDisk, Valkey, ValkeyBuilder, binaries, free_port, kill_now, spawn, wait_until},
    valkey::{Bench, Nothing, remote},
};

/// Bytes that do not compress, others for every seed.
fn noise(seed: usize, len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed as u64 * 2 + 1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn config(server: &Valkey, capture: CaptureWay) -> ValkeyConfig {
    ValkeyConfig { uri: server.uri().into(), data_dir: Some(server.data_dir()), capture, ..ValkeyConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_before_and_while_it_matters() {
    let disk = SmallDisk::new(96).await;
    let builder = Valkey::builder().disk(&disk).setting("rdbcompression no").setting("save 3600 1000000");
    let mut bench = Bench::start(builder).await;
    bench.source = ValkeySource::new(config(&bench.server, CaptureWay::Auto), bench.service.clone());
    let mut resp = bench.server.client().await;
    for n in 0..30 {
        resp.call(&[&b"SET"[..], format!("k{n}").as_bytes(), &noise(n, 1 << 20)]).await.unwrap();
    }
    disk.leave_free(8);
    let error = bench.try_capture().await.unwrap_err();
    assert!(matches!(error, SourceError::NoSpace(_)), "{error:?}");
    assert!(error.to_string().contains("are left on its disk"), "{error}");
    assert!(bench.server.cli(&["SET", "x", "1"]).contains("MISCONF"));
    disk.empty();
    let artifact = bench.capture().await;
    let digest = bench.digest();

    // A restore looks for room before anything happens.
    disk.leave_free(20);
    let unit = bench.unit("job-1", &artifact);
    let error = bench.source.prepare(&unit).await.unwrap_err();
    assert!(matches!(error, SourceError::NoSpace(_)) && error.to_string().contains("make room there"), "{error:?}");
    assert_eq!(bench.leftovers(), Vec::<String>::new());
    disk.empty();
    bench.source.prepare(&unit).await.unwrap();
    bench.server.cli(&["FLUSHALL"]);
    bench.source.swap(&unit).await.unwrap();
    assert_eq!(bench.source.check(&unit).await.unwrap(), Vec::<String>::new());
    assert_eq!(bench.digest(), digest);
}

/// Servers give up `RESTORE` for anything above `proto-max-bulk-len`.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_for_a_running_server_is_put_in_by_parts() {
    let same = |before: &Things, after: &Things| {
        // The keys' names would fill the screen.
        let told: Vec<String> =
            differences("valkey", before, after).iter().map(|d| d.chars().take(99).collect()).collect();
        assert_eq!(told, Vec::<String>::new());
    };
    let bench = Bench::start(Valkey::builder().setting("proto-max-bulk-len 1mb")).await;
    let mut resp = bench.server.client().await;
    let text = |n: usize| n.to_string();
    let long = |name: &str| format!("prexor:v1:platform:long:{name}");
    let member = |n: usize| format!("member {n} {}", hex::encode(noise(n, 60)));
    let tail = "k".repeat(200_000);
    for some in (0..30_000).collect::<Vec<usize>>().chunks(1000) {
        let mut commands: Vec<Vec<String>> = Vec::new();
        for (command, name) in [("RPUSH", "list"), ("SADD", "set"), ("ZADD", "zset"), ("HSET", "hash")] {
            let mut args = vec![command.to_owned(), long(name)];
            for n in some {
                match command {
                    "ZADD" => args.extend([format!("{}", (*n as f64 - 7.0) / 3.0), member(*n)]),
                    "HSET" => args.extend([member(*n), text(*n)]),
                    _ => args.push(member(*n)),
                }
            }
            commands.push(args);
        }
        resp.pipeline(&commands).await.unwrap();
    }
    // A key that is long itself, with a value that is short and one that is not; and elements that are large.
    resp.call(&["SET", &long(&tail), "1"]).await.unwrap();
    for n in 0..8 {
        resp.call(&[b"RPUSH", long(&format!("{tail}l")).as_bytes(), &noise(n, 250_000)]).await.unwrap();
    }
    resp.call(&["ZADD", &long("zset"), "-inf", "low", "inf", "high"]).await.unwrap();
    resp.call(&["PEXPIRE", &long("hash"), "900000123"]).await.unwrap();
    resp.call(&["SET", "not:covered", "1"]).await.unwrap();
    let (before, digest) = (bench.live().await, bench.digest());
    let artifact = bench.capture().await;

    let source = remote(bench.server.uri());
    for (job, keys) in
        [("job-1", vec!["prexor:v1:platform:long:[hlsz]*".to_owned(), "*kl".to_owned()]), ("job-2", vec![])]
    {
        if keys.is_empty() {
            bench.server.cli(&["FLUSHALL"]);
        } else {
            let gone = [long("list"), long("zset"), long(&format!("{tail}l"))];
            resp.call(&[vec!["DEL".to_owned()], gone.to_vec()].concat()).await.unwrap();
            resp.call(&["HSET", &long("hash"), "another", "field"]).await.unwrap();
        }
        let old = bench.live().await;
        let selection = Selection { keys, ..Selection::default() };
        let state = bench.dir.path().join("state");
        let unit = stage_part(&state, job, &artifact, &bench.backup(), &selection).unwrap();
        source.prepare(&unit).await.unwrap();
        source.swap(&unit).await.unwrap();
        assert_eq!(source.check(&unit).await.unwrap(), Vec::<String>::new());
        same(&before, &bench.live().await);
        assert_eq!(bench.digest(), digest);
        source.revert(&unit).await.unwrap();
        same(&old, &bench.live().await);
    }

    // A stream cannot be put together again by parts: that is said before anything happens.
    for n in 0..24 {
        let entry = hex::encode(noise(n, 50_000));
        resp.call(&["XADD", "prexor:v1:platform:long:stream", &format!("{}-1", n + 1), "f", &entry]).await.unwrap();
    }
    let artifact = bench.capture().await;
    let unit = bench.unit("job-3", &artifact);
    let error = source.prepare(&unit).await.unwrap_err();
    assert!(matches!(error, SourceError::Invalid(_)) && error.to_string().contains("proto-max-bulk-len"), "{error:?}");
    assert!(source.swap(&unit).await.is_err());
}

/// Only where PREXOR_VALKEY_KEYS asks for much: it takes gigabytes of memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_string_of_512_mb_goes_through_the_narrow_ways() {
    if std::env::var("PREXOR_VALKEY_KEYS").ok().and_then(|n| n.parse().ok()).is_none_or(|n: u32| n < 1_000_000) {
        return;
    }
    let bench = Bench::start(Valkey::builder().setting("save \"\"")).await;
    let mut resp = bench.server.client().await;
    for n in 0..64 {
        let part = noise(n, 8 << 20);
        resp.call(&[&b"APPEND"[..], b"prexor:v1:platform:long:string", &part]).await.unwrap();
    }
    assert_eq!(bench.server.cli(&["STRLEN", "prexor:v1:platform:long:string"]).trim(), "536870912");
    bench.server.cli(&["PEXPIRE", "prexor:v1:platform:long:string", "900000123"]);
    let digest = bench.digest();
    let source = ValkeySource::new(
        ValkeyConfig { uri: bench.server.uri().into(), capture: CaptureWay::Scan, ..ValkeyConfig::default() },
        std::sync::Arc::new(Nothing),
    );
    let artifact = to_directory(&source, &"h1".parse().unwrap(), &bench.backup()).await.unwrap();
    bench.server.cli(&["FLUSHALL"]);
    let unit = bench.unit("job-1", &artifact);
    source.prepare(&unit).await.unwrap();
    source.swap(&unit).await.unwrap();
    assert_eq!(source.check(&unit).await.unwrap(), Vec::<String>::new());
    assert_eq!(bench.digest(), digest);
}

/// The artifact as if it had these bytes.
fn forged(mut artifact: Artifact, backup: &Path, bytes: &[u8]) -> Artifact {
    fs::write(backup.join("valkey/dump.rdb"), bytes).unwrap();
    let summary = rdb::summarise(bytes).unwrap();
    let Contents::Valkey(contents) = &mut artifact.contents else { unreachable!() };
    (contents.keys, contents.expiring_keys) = (summary.keys, summary.expiring_keys);
    (contents.families, contents.rdb_version) = (summary.families, summary.version);
    contents.modules = summary.modules;
    let file = &mut artifact.files[0];
    (file.size_bytes, file.sha256) = (bytes.len() as u64, Sha256Digest::of(bytes));
    artifact
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_a_module_that_is_not_there_changes_nothing() {
    let bench = Bench::filled(Valkey::builder()).await;
    let artifact = bench.capture().await;
    let mut file = Writer::new(Vec::new(), 11, &[]).unwrap();
    // A type id, an unsigned number, a string, the end.
    let value = [&b"\x81"[..], &0x1122_3344_5566_7788_u64.to_be_bytes(), b"\x02\x07\x05\x03abc\x00"].concat();
    for (key, code, value) in [("prexor:v1:platform:shop:a", 0, &b"\x01x"[..]), ("of a module", 7, &value)] {
        file.key(0, key.as_bytes(), code, &Facts::default()).unwrap();
        file.value(value).unwrap();
    }
    let artifact = forged(artifact, &bench.backup(), &file.finish().unwrap());
    let old = bench.live().await;

    let source = remote(bench.server.uri());
    let unit = bench.unit("live", &artifact);
    let error = source.prepare(&unit).await.unwrap_err();
    assert!(matches!(error, SourceError::Invalid(_)) && error.to_string().contains("module"), "{error:?}");
    assert!(source.swap(&unit).await.is_err());
    // Left out by a selection, it is no obstacle.
    let selection = Selection { keys: vec!["prexor:v1:platform:shop:*".to_owned()], ..Selection::default() };
    let unit = stage_part(&bench.dir.path().join("state"), "part", &artifact, &bench.backup(), &selection).unwrap();
    source.prepare(&unit).await.unwrap();
    source.swap(&unit).await.unwrap();
    assert_eq!(source.check(&unit).await.unwrap(), Vec::<String>::new());
    source.revert(&unit).await.unwrap();

    // Nothing is stopped for a file that the server could not load.
    let unit = bench.unit("refused", &artifact);
    let pid = bench.server.pid();
    let error = bench.source.prepare(&unit).await.unwrap_err();
    assert!(matches!(error, SourceError::Invalid(_)), "{error:?}");
    assert!(error.to_string().contains("(1 key of type ESIzRFVmd)"), "{error}");
    assert!(bench.source.swap(&unit).await.is_err());
    bench.source.revert(&unit).await.unwrap();
    assert_eq!((bench.source.inspect().await.facts["modules"].as_str(), bench.server.pid()), ("0", pid));

    // Of a backup whose manifest does not tell, the server itself does not load it, and is led back.
    let mut artifact = artifact;
    let Contents::Valkey(contents) = &mut artifact.contents else { unreachable!() };
    contents.modules.clear();
    let unit = bench.unit("files", &artifact);
    bench.source.prepare(&unit).await.unwrap();
    let error = bench.source.swap(&unit).await.unwrap_err();
    assert!(matches!(error, SourceError::Failed(_)), "{error:?}");
    bench.source.revert(&unit).await.unwrap();
    assert_eq!(differences("valkey", &old, &bench.live().await), Vec::<String>::new());
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

async fn in_step(primary: &Valkey, replica: &Valkey) {
    wait_until("the replica to be in step", PATIENCE, async || {
        let up = replica.cli(&["INFO", "replication"]).contains("master_link_status:up");
        up && replica.cli(&["DEBUG", "DIGEST"]) == primary.cli(&["DEBUG", "DIGEST"])
    })
    .await;
}

fn replica_of(primary: &Valkey) -> ValkeyBuilder {
    Valkey::builder()
        .setting(&format!("replicaof 127.0.0.1 {}", primary.port()))
        .setting("enable-debug-command yes")
        .setting("repl-diskless-sync-delay 0")
}

/// Nobody puts it in the primary's place meanwhile, and what it knew of the primary's past does not make it keep anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_gets_what_was_restored_by_files() {
    for append_only in [false, true] {
        let builder = Valkey::builder().setting("repl-diskless-sync-delay 0").setting("repl-ping-replica-period 1");
        let bench = Bench::filled(if append_only { builder.append_only() } else { builder }).await;
        let replica = replica_of(&bench.server).start().await;
        in_step(&bench.server, &replica).await;
        let before = bench.live().await;
        let artifact = bench.capture().await;
        bench.destroy().await;
        in_step(&bench.server, &replica).await;
        let expected = corrected(&before, &bench.live().await);
        let facts = bench.source.inspect().await.facts;
        assert_eq!((facts["restore_way"].as_str(), facts["replicas"].as_str()), ("files", "1"));
        let unit = bench.unit("job-1", &artifact);
        bench.source.prepare(&unit).await.unwrap();
        bench.source.swap(&unit).await.unwrap();
        assert_eq!(differences("valkey", &expected, &bench.live().await), Vec::<String>::new());
        in_step(&bench.server, &replica).await;
        let found = prexor_tests::equality::valkey(&mut replica.client().await).await.unwrap();
        assert_eq!(differences("valkey", &expected, &found), Vec::<String>::new());
        bench.source.revert(&unit).await.unwrap();
        in_step(&bench.server, &replica).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_sentinel_nothing_is_stopped_and_no_replica_takes_over() {
    let bench = Bench::filled(Valkey::builder().setting("repl-diskless-sync-delay 0")).await;
    let replica = replica_of(&bench.server).start().await;
    in_step(&bench.server, &replica).await;
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let file = dir.path().join("sentinel.conf");
    let settings = format!(
        "bind 127.0.0.1\nport {port}\ndir {}\nsentinel monitor prexor 127.0.0.1 {} 1\n\
         sentinel down-after-milliseconds prexor 20000\n",
        dir.path().display(),
        bench.server.port()
    );
    fs::write(&file, settings).unwrap();
    let mut command = Command::new(&binaries().valkey);
    command.arg(&file).arg("--sentinel");
    let sentinel = spawn(&mut command, &dir.path().join("log")).unwrap();
    wait_until("a Sentinel that watches", PATIENCE, async || {
        bench.source.inspect().await.facts.get("restore_way").is_some_and(|way| way == "live")
    })
    .await;
    let (before, process) = (bench.live().await, bench.server.pid());
    let artifact = bench.capture().await;
    bench.destroy().await;
    let expected = corrected(&before, &bench.live().await);
    let unit = bench.unit("job-1", &artifact);
    bench.source.prepare(&unit).await.unwrap();
    bench.source.swap(&unit).await.unwrap();
    assert_eq!(bench.source.check(&unit).await.unwrap(), Vec::<String>::new());
    assert_eq!(differences("valkey", &expected, &bench.live().await), Vec::<String>::new());
    assert_eq!(bench.server.pid(), process);
    in_step(&bench.server, &replica).await;
    let mut resp = Resp::connect(&format!("redis://127.0.0.1:{port}")).await.unwrap();
    let primary = resp.call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "prexor"]).await.unwrap().items();
    assert_eq!(primary[1].clone().text(), bench.server.port().to_string());
    kill_now(sentinel);
}

/// No PEXPIRETIME, no FUNCTION, one file of append-only data, no count of saves.
#[tokio::test(flavor = "multi_thread")]
async fn redis_6_by_every_way() {
    let kind = || Valkey::builder().redis6().setting("repl-diskless-sync-delay 0");
    for append_only in [false, true] {
        let server = if append_only { kind().append_only() } else { kind() }.start().await;
        let bench = Bench::around(server);
        let mut resp = bench.server.client().await;
        assert!(resp.call(&["INFO"]).await.unwrap().text().contains("redis_version:6."));
        dataset::many_valkey(&mut resp, 3_000).await.unwrap();
        resp.call(&["SET", "prexor:v1:lease-token:leader", "41"]).await.unwrap();
        let digest = bench.digest();
        let facts = bench.source.inspect().await.facts;
        assert_eq!((facts["server_name"].as_str(), facts["restore_way"].as_str()), ("redis", "files"));
        let mut taken = Vec::new();
        for way in [CaptureWay::Bgsave, CaptureWay::Replication, CaptureWay::Scan] {
            let source = ValkeySource::new(config(&bench.server, way), bench.service.clone());
            let dir = bench.dir.path().join(format!("{way:?}"));
            let artifact = to_directory(&source, &"h1".parse().unwrap(), &dir).await.unwrap();
            let loaded = kind().rdb(&dir.join("valkey/dump.rdb")).start().await;
            assert_eq!(loaded.cli(&["DEBUG", "DIGEST"]), digest, "{way:?}");
            taken.push((way, dir, artifact));
        }
        // Expiries too, to the millisecond.
        let families = |a: &Artifact| match &a.contents {
            Contents::Valkey(contents) => contents.families.clone(),
            other => panic!("{other:?}"),
        };
        assert!(taken.iter().all(|t| families(&t.2) == families(&taken[0].2)));
        for (way, dir, artifact) in &taken {
            for (name, source) in [("files", &bench.source), ("live", &remote(bench.server.uri()))] {
                bench.server.cli(&["FLUSHALL"]);
                bench.server.cli(&["SET", "prexor:v1:lease-token:leader", "57"]);
                bench.server.cli(&["SET", "prexor:v1:jwt:revoked:since", "1", "PX", "900000123"]);
                let state = bench.dir.path().join("state");
                let job = format!("{way:?}-{name}");
                let unit = stage_part(&state, &job, artifact, dir, &Selection::default()).unwrap();
                source.prepare(&unit).await.unwrap();
                source.swap(&unit).await.unwrap();
                assert_eq!(source.check(&unit).await.unwrap(), Vec::<String>::new(), "{job}");
                assert_eq!(bench.server.cli(&["GET", "prexor:v1:lease-token:leader"]).trim(), "1000057", "{job}");
                assert_eq!(bench.server.cli(&["DEL", "prexor:v1:jwt:revoked:since"]).trim(), "1", "{job}");
                bench.server.cli(&["SET", "prexor:v1:lease-token:leader", "41"]);
                assert_eq!(bench.digest(), digest, "{job}");
                source.commit(&unit).await.unwrap();
            }
        }
    }
}

/// By `prexorctl` through coordinator and agent: one module's keys, and a server that has too little memory for the rest.
#[tokio::test(flavor = "multi_thread")]
async fn keys_by_pattern_and_a_memory_that_is_too_small_through_the_whole_chain() {
    let cluster = Cluster::start().await;
    let before = cluster.snapshot().await;
    let id = cluster.backup();
    let valkey = cluster.valkey.as_ref().unwrap();
    valkey.cli(&["DEL", "prexor:v1:platform:stats:integer", "prexor:v1:platform:stats:zset large"]);
    valkey.cli(&["SET", "prexor:v1:platform:stats:born later", "1"]);
    valkey.cli(&["SET", "prexor:v1:platform:shop:cart", "full"]);
    valkey.cli(&["INCR", "prexor:v1:lease-token:leader"]);
    let now = cluster.snapshot().await;
    let pid = valkey.pid();
    let module = |name: &String| name.contains(" prexor:v1:platform:stats:");
    let mut expected = now.clone();
    expected.valkey.retain(|name, _| !module(name));
    expected.valkey.extend(before.valkey.clone().into_iter().filter(|(name, _)| module(name)));

    let args = ["restore", &id, "--keys", "prexor:v1:platform:stats:*"];
    let plan = cluster.ctl(&[&args[..], &["--dry-run"]].concat()).ok().out;
    assert!(plan.contains("only some keys are restored") && plan.contains("keeps running"), "{plan}");
    assert_eq!(now.differences(&cluster.snapshot().await), [] as [String; 0]);
    let out = cluster.ctl(&[&args[..], &["--yes"]].concat()).ok().out;
    assert!(out.contains("replace valkey keys") && !out.contains("drop+restore mongo"), "{out}");
    assert_eq!(expected.differences(&cluster.snapshot().await), [] as [String; 0]);
    assert_eq!(valkey.pid(), pid, "it was not restarted");

    let now = cluster.snapshot().await;
    valkey.cli(&["CONFIG", "SET", "maxmemory", "700kb"]);
    let said = cluster.ctl(&["restore", &id, "--datastores", "--yes"]);
    assert_ne!(said.code, 0);
    assert!(format!("{}{}", said.out, said.err).contains("maxmemory"), "{said:?}");
    valkey.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(now.differences(&cluster.snapshot().await), [] as [String; 0]);
}
