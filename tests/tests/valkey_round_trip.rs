//! The acceptance of Valkey's backups: every type and encoding among very many keys, with expiries to the millisecond,
//! through every way of capturing and every way of restoring, compared by the server's own commands, its digest and its
//! checker.
//!
//! `PREXOR_VALKEY_KEYS` says how many keys; 1000000 make an RDB file of about 300 MB.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and a long one says where it is"
)]

use std::{
    fs,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use prexor_agent::source::{
    Source as _,
    valkey::{CaptureWay, ValkeyConfig, ValkeySource},
};
use prexor_format::manifest::{Artifact, Contents};
use prexor_tests::{
    capture::{stage, to_directory},
    dataset,
    equality::{Things, corrected, differences},
    servers::{Valkey, ValkeyBuilder, binaries, redis_binaries},
    valkey::{Bench, Nothing, digest_with},
};

/// Keys that have expired when they are restored.
const SHORT: u64 = 100;

fn keys() -> u32 {
    std::env::var("PREXOR_VALKEY_KEYS").map_or(100_000, |n| n.parse().expect("PREXOR_VALKEY_KEYS is a number"))
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// What does not expire before this.
fn alive(things: &Things, at: i64) -> Things {
    let lives = |a: &&std::collections::BTreeMap<String, String>| {
        a.get("expires at").and_then(|e| e.parse::<i64>().ok()).is_none_or(|e| e > at)
    };
    things.iter().filter(|(_, a)| lives(a)).map(|(n, a)| (n.clone(), a.clone())).collect()
}

fn same(expected: &Things, found: &Things, what: &str) {
    let now = now_ms();
    let told = differences("valkey", &alive(expected, now), &alive(found, now));
    assert_eq!(told, Vec::<String>::new(), "{what}");
}

async fn every_way(redis: bool, append_only: bool) {
    let kind = |b: ValkeyBuilder| if redis { b.redis() } else { b };
    let with = |b: ValkeyBuilder| if append_only { b.append_only() } else { b };
    let check = if redis { &redis_binaries().1 } else { &binaries().valkey_check_rdb };
    let sound = |file: &Path| {
        let stock = Command::new(check).arg(file).output().unwrap();
        assert!(stock.status.success(), "{}", String::from_utf8_lossy(&stock.stdout));
    };
    let begun = Instant::now();
    let say = |what: &str| eprintln!("redis {redis}, append-only {append_only}: {what} at {:.0?}", begun.elapsed());

    let builder = with(kind(Valkey::builder())).setting("repl-diskless-sync-delay 0").setting("save \"\"");
    let bench = Bench::filled(builder).await;
    let mut resp = bench.server.client().await;
    dataset::many_valkey(&mut resp, keys()).await.unwrap();
    let before = bench.live().await;
    let digest = bench.digest();
    let count = before.keys().filter(|name| name.starts_with("db")).count() as u64;
    assert!(count >= u64::from(keys()));
    say("filled and read");

    for n in 0..SHORT {
        resp.call(&["SET", &format!("short:{n}"), "1", "PX", "20000"]).await.unwrap();
    }
    let short = Instant::now();
    let mut taken: Vec<(&str, Artifact)> = Vec::new();
    for (way, name) in
        [(CaptureWay::Bgsave, "bgsave-file"), (CaptureWay::Replication, "replication"), (CaptureWay::Scan, "scan")]
    {
        let config = ValkeyConfig { uri: bench.server.uri().into(), capture: way, ..ValkeyConfig::default() };
        let source = ValkeySource::new(config, bench.service.clone());
        let dir = bench.dir.path().join(name);
        let artifact = to_directory(&source, &"h1".parse().unwrap(), &dir).await.unwrap();
        let Contents::Valkey(contents) = &artifact.contents else { unreachable!() };
        assert_eq!(contents.way, name);
        assert!(contents.keys >= count && contents.keys <= count + SHORT, "{} of {count}", contents.keys);
        sound(&dir.join("valkey/dump.rdb"));
        say(&format!("captured by {name}, {} bytes", artifact.size_bytes));
        taken.push((name, artifact));
    }
    tokio::time::sleep(Duration::from_secs(20).saturating_sub(short.elapsed())).await;

    let live = ValkeySource::new(
        ValkeyConfig { uri: bench.server.uri().into(), ..ValkeyConfig::default() },
        Arc::new(Nothing),
    );
    for (name, artifact) in &taken {
        let dir = bench.dir.path().join(name);
        let file = dir.join("valkey/dump.rdb");
        let mut expected_digest = String::new();
        for (restore, source) in [("files", &bench.source), ("live", &live)] {
            let what = format!("captured by {name}, restored by {restore}");
            bench.destroy().await;
            bench.server.cli(&["SET", "prexor:v1:jwt:revoked:since", "1", "PX", "900000123"]);
            assert_eq!(source.inspect().await.facts["restore_way"], restore);
            let expected = corrected(&before, &bench.live().await);
            if expected_digest.is_empty() {
                let loaded = kind(Valkey::builder()).setting("enable-debug-command yes").rdb(&file).start().await;
                // What has expired in the meantime goes when it is looked at.
                prexor_tests::equality::valkey(&mut loaded.client().await).await.unwrap();
                assert_eq!(loaded.cli(&["DEBUG", "DIGEST"]), digest, "{what}");
                expected_digest = digest_with(&loaded, &before, &expected).await;
            }
            let unit = stage(&bench.dir.path().join("state"), &format!("{name}-{restore}"), artifact, &dir).unwrap();
            source.prepare(&unit).await.unwrap();
            source.swap(&unit).await.unwrap();
            assert_eq!(source.check(&unit).await.unwrap(), Vec::<String>::new(), "{what}");
            same(&expected, &bench.live().await, &what);
            assert_eq!(bench.digest(), expected_digest, "{what}");
            source.commit(&unit).await.unwrap();
            assert_eq!(bench.server.cli(&["SAVE"]).trim(), "OK");
            sound(&bench.server.data_dir().join("dump.rdb"));
            fs::remove_dir_all(bench.dir.path().join("state")).unwrap();
            say(&what);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_without_append_only_files() {
    every_way(false, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_with_append_only_files() {
    every_way(false, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_without_append_only_files() {
    every_way(true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_with_append_only_files() {
    every_way(true, true).await;
}
