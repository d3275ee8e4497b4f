//! The restore laws of Valkey on a real server: what the naive way does to fencing numbers and revocations, and what ours
//! makes of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, sync::atomic::Ordering};

use prexor_agent::{
    restore_unit::RestoreUnit,
    source::{Source, SourceError, valkey::ValkeySource},
};
use prexor_format::{manifest::Contents, selection::Selection};
use prexor_proto::facts;
use prexor_tests::{
    capture::stage_part,
    servers::Valkey,
    valkey::{Bench, remote},
};

/// What a leaseholder does to get a number.
fn next_number(bench: &Bench) -> u64 {
    bench.server.cli(&["INCR", "prexor:v1:lease-token:leader"]).trim().parse().unwrap()
}

fn exists(bench: &Bench, key: &str) -> bool {
    bench.server.cli(&["EXISTS", key]).trim() == "1"
}

fn set(bench: &Bench, key: &str, value: &str, seconds: &str) {
    assert_eq!(bench.server.cli(&["SET", key, value, "EX", seconds]).trim(), "OK");
}

/// Laws L1, L5 and L6 broken: stop, copy `dump.rdb`, start.
#[tokio::test(flavor = "multi_thread")]
async fn the_naive_way_issues_a_number_twice_and_forgets_a_revocation() {
    let mut bench = Bench::filled(Valkey::builder()).await;
    bench.capture().await;
    let issued = next_number(&bench);
    set(&bench, "prexor:v1:jwt:revoked:stolen", "1", "9000");
    bench.server.stop().await;
    fs::copy(bench.backup().join("valkey/dump.rdb"), bench.server.data_dir().join("dump.rdb")).unwrap();
    bench.server.start().await;
    assert_eq!(next_number(&bench), issued, "two leaseholders pass the fence with one number");
    assert!(!exists(&bench, "prexor:v1:jwt:revoked:stolen"), "a stolen session works again");
    assert!(exists(&bench, "prexor:v1:login:lock:björn"), "and a user is locked out for what he did long ago");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_number_is_issued_twice_and_no_revocation_is_forgotten() {
    for append_only in [false, true] {
        let builder = if append_only { Valkey::builder().append_only() } else { Valkey::builder() };
        let mut bench = Bench::filled(builder).await;
        // Runs out before the live one does.
        set(&bench, "prexor:v1:jwt:revoked:extended", "1", "100");
        let artifact = bench.capture().await;
        let issued = next_number(&bench);
        // A lease whose counter is lost counts too.
        set(&bench, "prexor:v1:lease:orphan", "uuid|77", "9000");
        set(&bench, "prexor:v1:jwt:revoked:stolen", "1", "9000");
        set(&bench, "prexor:v1:jwt:revoked:extended", "1", "9000");
        let unit = bench.unit("job-1", &artifact);
        bench.source.prepare(&unit).await.unwrap();
        // What happens between prepare and swap counts as well.
        let last = (0..5).fold(issued, |_, _| next_number(&bench));
        assert_eq!(last, issued + 5);
        bench.source.swap(&unit).await.unwrap();
        assert_eq!(bench.source.check(&unit).await.unwrap(), Vec::<String>::new());
        let told = unit.told().unwrap().join("\n");
        assert!(told.contains("prexor:v1:lease-token:leader goes on at"), "{told}");
        assert!(told.contains("prexor:v1:jwt:revoked:*: 2 revocations made since"), "{told}");
        // A crash right after the commit takes nothing of it back.
        bench.source.commit(&unit).await.unwrap();
        if append_only {
            tokio::time::sleep(std::time::Duration::from_millis(1500)).await; // appendfsync everysec
        }
        bench.server.kill();
        bench.server.start().await;
        assert!(next_number(&bench) > last);
        assert_eq!(bench.server.cli(&["GET", "prexor:v1:lease-token:orphan"]).trim(), "1000077");
        assert!(exists(&bench, "prexor:v1:jwt:revoked:stolen"));
        let ttl: u64 = bench.server.cli(&["TTL", "prexor:v1:jwt:revoked:extended"]).trim().parse().unwrap();
        assert!(ttl > 8_000, "{ttl}");
        for gone in ["lease:leader", "node:node-1", "sse:events", "login:lock:björn", "pwreset:abcdef"] {
            assert!(!exists(&bench, &format!("prexor:v1:{gone}")), "{gone}");
        }
        assert!(exists(&bench, "prexor:v1:platform:stats:integer"));
    }
}

/// A restore is taken back after a controller was started, by exchanging files and by single keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_gives_back_no_number_and_no_revocation() {
    for live in [false, true] {
        let bench = Bench::filled(Valkey::builder()).await;
        let artifact = bench.capture().await;
        let there = remote(bench.server.uri());
        let source = if live { &there } else { &bench.source };
        let counter = |name: &str| bench.server.cli(&["GET", &format!("prexor:v1:lease-token:{name}")]);
        let (leader, scheduler) = (counter("leader"), counter("scheduler"));

        let unit = bench.unit("job-1", &artifact);
        source.prepare(&unit).await.unwrap();
        source.swap(&unit).await.unwrap();
        source.revert(&unit).await.unwrap();
        assert_eq!((counter("leader"), counter("scheduler")), (leader, scheduler.clone()), "nobody has done anything");

        let unit = bench.unit("job-2", &artifact);
        source.prepare(&unit).await.unwrap();
        source.swap(&unit).await.unwrap();
        let issued = next_number(&bench);
        set(&bench, "prexor:v1:nodecert:revoked:ffff", "node-3", "9000");
        for _ in 0..2 {
            source.revert(&unit).await.unwrap();
            assert!(exists(&bench, "prexor:v1:nodecert:revoked:ffff"));
            assert_eq!(counter("leader").trim().parse::<u64>().unwrap(), issued + 1_000_000, "live: {live}");
            assert_eq!(counter("scheduler"), scheduler);
        }
    }
}

/// Of a part: counters that were put in and those that were never touched, and one that is new.
#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_of_a_part_gives_back_no_number_either() {
    let bench = Bench::filled(Valkey::builder()).await;
    let artifact = bench.capture().await;
    let next = |name: &str| -> u64 {
        bench.server.cli(&["INCR", &format!("prexor:v1:lease-token:{name}")]).trim().parse().unwrap()
    };
    let keys = ["prexor:v1:lease-token:[ln]*", "prexor:v1:platform:*"].map(str::to_owned).into();
    let selection = Selection { keys, ..Selection::default() };
    let unit = stage_part(&bench.dir.path().join("state"), "job-1", &artifact, &bench.backup(), &selection).unwrap();
    next("scheduler");
    bench.source.prepare(&unit).await.unwrap();
    bench.source.swap(&unit).await.unwrap();
    let issued = ["leader", "scheduler", "new"].map(|name| (name, next(name)));
    for _ in 0..2 {
        bench.source.revert(&unit).await.unwrap();
    }
    for (name, last) in issued {
        let above = next(name) - last;
        assert_eq!(above, if name == "scheduler" { 1 } else { 1_000_001 }, "{name} goes on above {last}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_come_back_where_that_is_asked_for() {
    let bench = Bench::filled(Valkey::builder()).await;
    let artifact = bench.capture().await;
    let selection = Selection { logins: true, ..Selection::default() };
    let unit = stage_part(&bench.dir.path().join("state"), "job-1", &artifact, &bench.backup(), &selection).unwrap();
    bench.source.prepare(&unit).await.unwrap();
    bench.source.swap(&unit).await.unwrap();
    assert!(exists(&bench, "prexor:v1:login:lock:björn") && !exists(&bench, "prexor:v1:lease:leader"));
    assert_eq!(bench.source.check(&unit).await.unwrap(), Vec::<String>::new());
}

/// The live keys are moved aside, and the agent is killed before it has seen the new ones: it still knows the old numbers.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_live_survives_a_crash_of_the_agent() {
    let bench = Bench::filled(Valkey::builder()).await;
    let artifact = bench.capture().await;
    let issued = next_number(&bench);
    set(&bench, "prexor:v1:nodecert:revoked:ffff", "node-3", "9000");
    let unit = bench.unit("job-1", &artifact);
    bench.source.prepare(&unit).await.unwrap();
    bench.service.start_fails.store(true, Ordering::Relaxed);
    assert!(bench.source.swap(&unit).await.is_err());
    bench.service.start_fails.store(false, Ordering::Relaxed);
    let dir = unit.dir().to_owned();
    drop(unit);
    let unit = RestoreUnit::open(&dir, "job-1").unwrap().unwrap();
    bench.source.swap(&unit).await.unwrap();
    assert!(next_number(&bench) > issued);
    assert!(exists(&bench, "prexor:v1:nodecert:revoked:ffff"));
    // Corrections that were settled are not settled again on top of themselves.
    let counter = || bench.server.cli(&["GET", "prexor:v1:lease-token:scheduler"]);
    let before = counter();
    bench.source.swap(&unit).await.unwrap();
    assert_eq!(counter(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_server_is_told_what_is_lost_with_its_keys() {
    let bench = Bench::filled(Valkey::builder()).await;
    let artifact = bench.capture().await;
    bench.server.cli(&["FLUSHALL"]);
    let unit = bench.unit("job-1", &artifact);
    bench.source.prepare(&unit).await.unwrap();
    bench.source.swap(&unit).await.unwrap();
    let told = unit.told().unwrap().join("\n");
    assert!(told.contains("rotate security.jwtSecret"), "{told}");
    assert_eq!(bench.server.cli(&["GET", "prexor:v1:lease-token:leader"]).trim(), "1000041");
}

/// Names of 60 kB, so that a thousand are more than a restore keeps in mind of all that the laws are about.
async fn long_names(bench: &Bench, family: &str, many: usize) {
    let mut resp = bench.server.client().await;
    for n in 0..many {
        resp.call(&["SET", &format!("{family}{n}:{}", "n".repeat(60_000)), "1"]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_can_be_kept_in_mind_is_refused_and_nothing_is_touched() {
    let bench = Bench::start(Valkey::builder()).await;
    long_names(&bench, "prexor:v1:lease-token:", 100).await;
    let artifact = bench.capture().await;
    let Contents::Valkey(contents) = &artifact.contents else { unreachable!() };
    let told = bench.source.inspect_laws().await;
    assert!(!told.contains_key(facts::LAWS) && !told.contains_key(facts::LEASES), "they would not fit into an answer");
    assert!(contents.fencing.is_none() && artifact.warnings.iter().any(|w| w.contains("fencing counters")));

    long_names(&bench, "prexor:v1:jwt:revoked:", 1_100).await;
    let artifact = bench.capture().await;
    let source = remote(bench.server.uri());
    let refused = async |source: &ValkeySource, job: &str, whose: &str| {
        let unit = bench.unit(job, &artifact);
        let error = source.prepare(&unit).await.unwrap_err();
        assert!(matches!(error, SourceError::NoSpace(_)) && error.to_string().starts_with(whose), "{error:?}");
        assert!(source.swap(&unit).await.is_err());
        source.revert(&unit).await.unwrap();
    };
    refused(&source, "live", "Valkey at").await;
    refused(&bench.source, "files", "Valkey at").await;
    assert_eq!(bench.server.cli(&["DBSIZE"]).trim(), "1200");
    bench.server.cli(&["FLUSHALL"]);
    refused(&source, "backup", "the backup").await;
    assert_eq!(bench.server.cli(&["DBSIZE"]).trim(), "0");
    // What files bring is only seen when they are loaded; then it is led back.
    let unit = bench.unit("loaded", &artifact);
    bench.source.prepare(&unit).await.unwrap();
    assert!(matches!(bench.source.swap(&unit).await, Err(SourceError::NoSpace(_))));
    bench.source.revert(&unit).await.unwrap();
    assert_eq!(bench.server.cli(&["DBSIZE"]).trim(), "0");
}
