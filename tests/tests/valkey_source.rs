//! The Valkey source against a real server: capture, every verb of a restore, with and without append-only files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use prexor_agent::{
    restore_unit::RestoreUnit,
    services::{Role, Services},
    sink::{ArtifactSink, Frame},
    source::{
        Source, SourceError,
        valkey::{ValkeyConfig, ValkeySource},
    },
};
use prexor_format::{
    id::NodeName,
    manifest::{Artifact, Contents, ValkeyContents},
    rdb,
};
use prexor_tests::{
    capture::{stage, to_directory},
    equality::{Things, corrected, differences},
    servers::{PATIENCE, Valkey, ValkeyBuilder, binaries, wait_until},
    valkey::{Bench, digest_of},
};

use rustix::process::{Pid, Resource, Rlimit};
use tokio_util::sync::CancellationToken;

fn contents(artifact: &Artifact) -> &ValkeyContents {
    match &artifact.contents {
        Contents::Valkey(contents) => contents,
        other => panic!("{other:?}"),
    }
}

fn same(before: &Things, after: &Things) {
    assert_eq!(differences("valkey", before, after), Vec::<String>::new());
}

/// Uid, gid and mode of the RDB file, the directory of append-only files and the base in it.
fn owners(bench: &Bench) -> Vec<(u32, u32, u32)> {
    let dir = bench.server.data_dir();
    let aof = dir.join("appendonlydir");
    let named = |dir: &Path, end: &str| {
        let mut entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries.find(|path| path.to_string_lossy().ends_with(end)).unwrap_or_else(|| panic!("no {end} in {dir:?}"))
    };
    let files = [named(&dir, ".rdb"), aof.clone(), named(&aof, ".base.rdb")].map(|path| fs::metadata(path).unwrap());
    files.iter().map(|m| (m.uid(), m.gid(), m.mode() & 0o7777)).collect()
}

/// Gives these to another account, as where the server does not run as root.
fn own(bench: &Bench) -> Vec<(u32, u32, u32)> {
    bench.server.cli(&["SAVE"]);
    let dir = bench.server.data_dir();
    for entry in fs::read_dir(&dir).unwrap().chain(fs::read_dir(dir.join("appendonlydir")).unwrap()) {
        let entry = entry.unwrap();
        let mode = if entry.file_type().unwrap().is_dir() { 0o750 } else { 0o640 };
        chown(entry.path(), Some(65_534), Some(65_533)).unwrap();
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode)).unwrap();
    }
    owners(bench)
}

async fn what_comes_back_is_what_was_captured(kind: ValkeyBuilder, builder: ValkeyBuilder, append_only: bool) {
    let mut bench = Bench::filled(builder).await;
    let before = bench.live().await;
    let settings = bench.settings();

    let inspection = bench.source.inspect().await;
    assert_eq!(inspection.problem, None);
    assert_eq!(inspection.target, format!("Valkey on 127.0.0.1:{}", bench.server.port()));
    let keys = before.keys().filter(|name| name.starts_with("db")).count() as u64;
    assert_eq!(inspection.facts["keys"], keys.to_string());
    assert_eq!(inspection.facts["appendonly"], if append_only { "yes" } else { "no" });

    let artifact = bench.capture().await;
    let valkey = contents(&artifact);
    assert_eq!((valkey.keys, valkey.append_only, valkey.way.as_str()), (keys, append_only, "bgsave-file"));
    assert_eq!(artifact.path, "valkey/dump.rdb");
    assert!(valkey.families.iter().any(|f| f.name == "prexor:v1:lease-token:" && f.keys == 3), "{valkey:?}");
    let file = bench.backup().join("valkey/dump.rdb");
    assert_eq!(rdb::summarise(fs::File::open(&file).unwrap()).unwrap().families, valkey.families);
    let stock = Command::new(&binaries().valkey_check_rdb).arg(&file).output().unwrap();
    assert!(stock.status.success(), "{}", String::from_utf8_lossy(&stock.stdout));

    bench.destroy().await;
    let destroyed = bench.live().await;
    let before = corrected(&before, &destroyed);
    let owned = append_only.then(|| own(&bench));
    let unit = bench.unit("job-1", &artifact);
    bench.source.prepare(&unit).await.unwrap();
    bench.source.prepare(&unit).await.unwrap();
    same(&destroyed, &bench.live().await);
    bench.source.swap(&unit).await.unwrap();
    bench.source.swap(&unit).await.unwrap();
    assert_eq!(owned, append_only.then(|| owners(&bench)));
    same(&before, &bench.live().await);
    assert_eq!(bench.digest(), digest_of(kind, &file, &before).await);
    assert_eq!(bench.source.check(&unit).await.unwrap(), Vec::<String>::new());
    assert_eq!(bench.settings(), settings);
    bench.source.revert(&unit).await.unwrap();
    same(&destroyed, &bench.live().await);
    bench.source.revert(&unit).await.unwrap();
    same(&destroyed, &bench.live().await);
    assert_eq!(bench.leftovers(), Vec::<String>::new());

    let unit = bench.unit("job-2", &artifact);
    bench.source.prepare(&unit).await.unwrap();
    assert!(matches!(bench.source.commit(&unit).await, Err(SourceError::Failed(_))), "nothing was swapped");
    bench.source.swap(&unit).await.unwrap();
    bench.source.commit(&unit).await.unwrap();
    bench.source.commit(&unit).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
    assert!(bench.source.revert(&unit).await.is_err(), "there is no way back after commit");
    // It goes on from there as from data of its own: what is written now survives a crash where it did before.
    bench.server.cli(&["SET", "written:after", "1"]);
    if append_only {
        tokio::time::sleep(Duration::from_millis(1500)).await; // appendfsync everysec
        bench.server.kill();
    } else {
        bench.server.cli(&["SAVE"]);
        bench.server.stop().await;
    }
    bench.server.start().await;
    assert_eq!(bench.server.cli(&["DEL", "written:after"]).trim(), "1");
    same(&before, &bench.live().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_is_what_was_captured_without_append_only_files() {
    what_comes_back_is_what_was_captured(Valkey::builder(), Valkey::builder(), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_is_what_was_captured_with_append_only_files() {
    let builder = Valkey::builder().append_only().password("s3cret");
    let builder = builder.setting("appendfilename \"my own.aof\"").setting("dbfilename other.rdb");
    what_comes_back_is_what_was_captured(Valkey::builder(), builder, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_to_redis_is_what_was_captured_with_and_without_append_only_files() {
    let redis = || Valkey::builder().redis();
    what_comes_back_is_what_was_captured(redis(), redis(), false).await;
    what_comes_back_is_what_was_captured(redis(), redis().append_only(), true).await;
}

/// Law L12: the guide's way under `appendonly yes`.
#[tokio::test(flavor = "multi_thread")]
async fn replacing_the_rdb_file_alone_restores_nothing_under_append_only() {
    let mut bench = Bench::filled(Valkey::builder().append_only()).await;
    let before = bench.live().await;
    bench.capture().await;
    bench.destroy().await;
    let destroyed = bench.live().await;
    bench.server.stop().await;
    fs::copy(bench.backup().join("valkey/dump.rdb"), bench.server.data_dir().join("dump.rdb")).unwrap();
    bench.server.start().await;
    same(&destroyed, &bench.live().await);
    assert_ne!(differences("valkey", &before, &bench.live().await), Vec::<String>::new());
}

/// Switched on or off since the backup, and files that are not loaded but might be one day.
#[tokio::test(flavor = "multi_thread")]
async fn append_only_files_that_are_not_in_use_do_not_come_back_to_life() {
    let mut bench = Bench::filled(Valkey::builder().append_only()).await;
    let before = bench.live().await;
    let artifact = bench.capture().await;
    bench.destroy().await;
    bench.server.cli(&["CONFIG", "SET", "appendonly", "no"]);
    bench.server.cli(&["CONFIG", "REWRITE"]);
    assert!(bench.server.data_dir().join("appendonlydir").exists());
    let before = corrected(&before, &bench.live().await);
    let unit = bench.unit("job-1", &artifact);
    bench.source.prepare(&unit).await.unwrap();
    bench.source.swap(&unit).await.unwrap();
    same(&before, &bench.live().await);
    assert!(!bench.server.data_dir().join("appendonlydir").exists());
    bench.source.commit(&unit).await.unwrap();
    bench.server.stop().await;
    bench.server.start().await;
    same(&before, &bench.live().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_was_cut_off_is_finished_or_undone() {
    for append_only in [false, true] {
        let builder = if append_only { Valkey::builder().append_only() } else { Valkey::builder() };
        let bench = Bench::filled(builder).await;
        let before = bench.live().await;
        let artifact = bench.capture().await;
        bench.destroy().await;
        let destroyed = bench.live().await;
        let before = corrected(&before, &destroyed);
        let data = bench.server.data_dir();
        let fails = |flag: &AtomicBool, yes| flag.store(yes, Ordering::Relaxed);

        // Nothing is moved when the server cannot be stopped.
        let unit = bench.unit("job-1", &artifact);
        bench.source.prepare(&unit).await.unwrap();
        fails(&bench.service.stop_fails, true);
        assert!(bench.source.swap(&unit).await.is_err());
        same(&destroyed, &bench.live().await);
        fails(&bench.service.stop_fails, false);
        bench.source.revert(&unit).await.unwrap();
        same(&destroyed, &bench.live().await);

        // Back, from between two renames: as if the power had failed before the last one was noted.
        let unit = bench.unit("job-2", &artifact);
        bench.source.prepare(&unit).await.unwrap();
        fails(&bench.service.start_fails, true);
        assert!(bench.source.swap(&unit).await.is_err());
        let (aof, work) = (data.join("appendonlydir"), data.join(".prexor-job-2"));
        fs::rename(data.join("dump.rdb"), work.join("incoming/dump.rdb")).unwrap();
        if append_only {
            fs::rename(&aof, work.join("incoming/appendonlydir")).unwrap();
            fs::rename(work.join("kept/appendonlydir"), &aof).unwrap();
        }
        fs::remove_file(unit.dir().join("valkey-exchanged.json")).unwrap();
        assert!(bench.source.revert(&unit).await.is_err());
        fails(&bench.service.start_fails, false);
        bench.source.revert(&unit).await.unwrap();
        same(&destroyed, &bench.live().await);
        assert_eq!(bench.leftovers(), Vec::<String>::new());

        // On, from the same place.
        let unit = bench.unit("job-3", &artifact);
        bench.source.prepare(&unit).await.unwrap();
        fails(&bench.service.start_fails, true);
        assert!(bench.source.swap(&unit).await.is_err());
        fs::rename(data.join("dump.rdb"), data.join(".prexor-job-3/incoming/dump.rdb")).unwrap();
        fs::remove_file(unit.dir().join("valkey-exchanged.json")).unwrap();
        fails(&bench.service.start_fails, false);
        // Meanwhile somebody has started the half-moved server, and it has saved what it had.
        bench.service.start(Role::Valkey).await.unwrap();
        wait_until("a dump of the half-moved server", PATIENCE, async || {
            bench.server.cli(&["SAVE"]);
            data.join("dump.rdb").exists()
        })
        .await;
        bench.source.swap(&unit).await.unwrap();
        same(&before, &bench.live().await);
        assert_eq!(bench.source.check(&unit).await.unwrap(), Vec::<String>::new());
        bench.source.commit(&unit).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_that_fails_is_an_error_and_no_old_file() {
    let bench = Bench::filled(Valkey::builder()).await;
    bench.capture().await;
    let noise: String = (0..60_000u64).map(|i| char::from(b'!' + (i * i % 7919 % 90) as u8)).collect();
    bench.server.cli(&["SET", "new", &noise]);
    let pid = Pid::from_raw(bench.server.pid().unwrap() as i32);
    let limit = |current| Rlimit { current, maximum: None };
    rustix::process::prlimit(pid, Resource::Fsize, limit(Some(8 << 10))).unwrap();
    let error = bench.try_capture().await.unwrap_err();
    assert!(matches!(error, SourceError::Failed(_)), "{error:?}");
    assert!(error.to_string().contains("could not save to"), "{error}");
    rustix::process::prlimit(pid, Resource::Fsize, limit(None)).unwrap();
    let artifact = bench.capture().await;
    assert!(artifact.size_bytes > 8 << 10);

    // A file that cannot be replaced.
    fs::remove_file(bench.server.data_dir().join("dump.rdb")).unwrap();
    fs::create_dir(bench.server.data_dir().join("dump.rdb")).unwrap();
    fs::write(bench.server.data_dir().join("dump.rdb/x"), "").unwrap();
    assert!(bench.try_capture().await.unwrap_err().to_string().contains("could not save to"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_that_somebody_else_began_is_not_ours() {
    let bench = Bench::filled(Valkey::builder()).await;
    bench.server.cli(&["CONFIG", "SET", "rdb-key-save-delay", "1000"]);
    assert!(bench.server.cli(&["BGSAVE"]).contains("started"));
    bench.server.cli(&["SET", "written:while:another:saves", "1"]);
    let keys = bench.live().await.keys().filter(|name| name.starts_with("db")).count() as u64;
    assert_eq!(contents(&bench.capture().await).keys, keys);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_and_a_capture_that_is_cancelled_leave_nothing() {
    let mut bench = Bench::filled(Valkey::builder()).await;
    bench.server.cli(&["CONFIG", "SET", "rdb-key-save-delay", "20000"]);
    let capture = |cancel: CancellationToken| {
        let (sink, mut frames, _) = ArtifactSink::new();
        let source = bench.source.clone();
        tokio::spawn(async move {
            let drained = async {
                let mut unfinished = true;
                while let Some(frame) = frames.recv().await {
                    unfinished &= !matches!(frame, Frame::End { .. });
                }
                unfinished
            };
            let (outcome, unfinished) = tokio::join!(source.capture(sink, cancel), drained);
            (outcome.unwrap_err(), unfinished)
        })
    };
    let cancel = CancellationToken::new();
    let cancelled = capture(cancel.clone());
    let killed = capture(CancellationToken::new());
    tokio::time::sleep(Duration::from_millis(400)).await;
    cancel.cancel();
    let (error, nothing) = tokio::time::timeout(PATIENCE, cancelled).await.unwrap().unwrap();
    assert!(matches!(error, SourceError::Cancelled) && nothing, "{error:?}");
    bench.server.kill();
    let (error, nothing) = tokio::time::timeout(PATIENCE, killed).await.unwrap().unwrap();
    assert!(matches!(error, SourceError::Unavailable(_)) && nothing, "{error:?}");
    let error = bench.try_capture().await.unwrap_err();
    assert!(matches!(error, SourceError::Unavailable(_)), "{error:?}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{}", bench.server.port())), "{error}");
    let problem = bench.source.inspect().await.problem.unwrap();
    assert!(problem.contains("cannot be reached"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn loading_is_waited_for() {
    let slow = Valkey::builder().append_only().setting("key-load-delay 20000");
    let slow = slow.setting("loading-process-events-interval-bytes 1024");
    let bench = Bench::filled(slow).await;
    let before = bench.live().await;
    let artifact = bench.capture().await;
    bench.destroy().await;
    let before = corrected(&before, &bench.live().await);
    let unit = bench.unit("job-1", &artifact);
    bench.source.prepare(&unit).await.unwrap();
    let seen = async {
        wait_until("a server that loads", PATIENCE, async || {
            bench.source.inspect().await.problem.is_some_and(|p| p.contains("still loading"))
        })
        .await;
        assert!(matches!(bench.try_capture().await, Err(SourceError::Unavailable(_))));
    };
    let (swapped, ()) = tokio::join!(bench.source.swap(&unit), seen);
    swapped.unwrap();
    same(&before, &bench.live().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_restored_is_refused_before_anything_happens() {
    let bench = Bench::filled(Valkey::builder()).await;
    let artifact = bench.capture().await;
    let live = bench.live().await;
    let refused = async |bench: &Bench, unit: &RestoreUnit, what: &str| {
        let error = bench.source.prepare(unit).await.unwrap_err();
        assert!(matches!(error, SourceError::Invalid(_)), "{error:?}");
        assert!(error.to_string().contains(what), "{error}");
        assert!(bench.source.swap(unit).await.is_err());
        bench.source.revert(unit).await.unwrap();
        assert_eq!(bench.leftovers(), Vec::<String>::new());
    };

    let unit = bench.unit("damaged", &artifact);
    let staged = unit.staged(&artifact.files[0]);
    let mut bytes = fs::read(&staged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&staged, bytes).unwrap();
    refused(&bench, &unit, "is not what was backed up").await;

    let mut another = artifact.clone();
    let Contents::Valkey(contents) = &mut another.contents else { unreachable!() };
    contents.families[0].keys += 1;
    refused(&bench, &bench.unit("another", &another), "is not what was backed up").await;

    let mut newer = artifact.clone();
    let Contents::Valkey(contents) = &mut newer.contents else { unreachable!() };
    contents.rdb_version = 79;
    refused(&bench, &bench.unit("newer", &newer), "RDB file has version 79").await;

    let replica =
        Bench::start(Valkey::builder().setting(&format!("replicaof 127.0.0.1 {}", bench.server.port()))).await;
    let unit = stage(&replica.dir.path().join("state"), "replica", &artifact, &bench.backup()).unwrap();
    refused(&replica, &unit, "is a replica of 127.0.0.1").await;
    same(&live, &bench.live().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_load_its_new_data_is_led_back() {
    let bench = Bench::filled(Valkey::builder()).await;
    let artifact = bench.capture().await;
    bench.destroy().await;
    let destroyed = bench.live().await;
    let unit = bench.unit("job-1", &artifact);
    bench.source.prepare(&unit).await.unwrap();
    fs::write(bench.server.data_dir().join(".prexor-job-1/incoming/dump.rdb"), "REDIS0011 broken").unwrap();
    let error = bench.source.swap(&unit).await.unwrap_err();
    assert!(error.to_string().contains("did not come up") || error.to_string().contains("start"), "{error}");
    bench.source.revert(&unit).await.unwrap();
    same(&destroyed, &bench.live().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_after_a_swap_are_told_by_family() {
    let bench = Bench::filled(Valkey::builder()).await;
    let artifact = bench.capture().await;
    bench.server.cli(&["SET", "prexor:v1:jwt:revoked:new", "1", "EX", "9000"]);
    bench.server.cli(&["SET", "prexor:v1:lease:leader", "somebody|1041"]);
    let unit = bench.unit("job-1", &artifact);
    bench.source.prepare(&unit).await.unwrap();
    bench.source.swap(&unit).await.unwrap();
    bench.server.cli(&["INCR", "prexor:v1:lease-token:leader"]);
    bench.server.cli(&["DEL", "prexor:v1:workloadseq:node-1"]);
    bench.server.cli(&["SET", "prexor:v1:lease:leader", "somebody|7"]);
    bench.server.cli(&["DEL", "prexor:v1:jwt:revoked:new"]);
    bench.server.cli(&["SET", "prexor:v1:platform:new:x", "1"]);
    bench.server.cli(&["FUNCTION", "FLUSH"]);
    let told = bench.source.check(&unit).await.unwrap();
    let expected = [
        "0:prexor:v1:lease-token:leader is 1001042 instead of 1001041",
        "the revocation 0:prexor:v1:jwt:revoked:new is not in force",
        "prexor:v1:workloadseq:: 3 keys instead of 4",
        "prexor:v1:lease:: 1 keys instead of none",
        "prexor:v1:platform:new:: 1 keys instead of none",
        "functions: 0 libraries, the backup has 1, not the same",
    ];
    assert_eq!(told, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_and_wrong_places_are_named() {
    let bench = Bench::start(Valkey::builder().password("s3cret")).await;
    let source = |uri: String, data_dir| {
        let config = ValkeyConfig { uri: uri.into(), data_dir, ..ValkeyConfig::default() };
        ValkeySource::new(config, bench.service.clone())
    };
    let capture = async |source: &ValkeySource| {
        let dir = tempfile::tempdir().unwrap();
        to_directory(source, &"h1".parse::<NodeName>().unwrap(), dir.path()).await
    };
    for uri in [bench.server.uri_with_wrong_password(), format!("redis://127.0.0.1:{}", bench.server.port())] {
        let source = source(uri, None);
        let error = capture(&source).await.unwrap_err();
        assert!(matches!(error, SourceError::Denied(_)), "{error:?}");
        assert!(!format!("{error} {source:?}").contains("wrong@"));
        assert!(source.inspect().await.problem.unwrap().contains("valkey.uri"));
    }
    assert!(!format!("{:?}", bench.source).contains("s3cret"));

    // An account that may save but not read settings, and a directory that is another server's.
    let acl = ["ACL", "SETUSER", "saver", "on", ">pw", "+info", "+bgsave", "+hello", "+auth"];
    assert_eq!(bench.server.cli(&acl).trim(), "OK");
    let uri = format!("redis://saver:pw@127.0.0.1:{}", bench.server.port());
    let error = capture(&source(uri.clone(), None)).await.unwrap_err();
    assert!(matches!(error, SourceError::Denied(_)) && error.to_string().contains("valkey.data_dir"), "{error}");
    capture(&source(uri.clone(), Some(bench.server.data_dir()))).await.unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::copy(bench.server.data_dir().join("dump.rdb"), elsewhere.path().join("dump.rdb")).unwrap();
    let error = capture(&source(uri, Some(elsewhere.path().to_owned()))).await.unwrap_err();
    assert!(error.to_string().contains("did not change"), "{error}");
}
