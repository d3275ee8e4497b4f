//! Every way of capturing Valkey, against real servers: Valkey and Redis, with and without append-only files. What comes
//! out is compared with what the server itself saves, and loaded by a server again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "valkey_capture/tls.rs"]
mod tls;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use prexor_agent::{
    services::{self, Manager, ServicesConfig},
    sink::{ArtifactSink, Frame},
    source::{
        Source as _, SourceError,
        valkey::{CaptureWay, ValkeyConfig, ValkeySource, ValkeyTls},
    },
};
use prexor_format::{
    manifest::{Artifact, Contents, KeyConsistency, ValkeyContents},
    rdb::{self, RdbSummary},
};
use prexor_tests::{
    capture::to_directory,
    dataset::{self, Size},
    equality,
    servers::{PATIENCE, Valkey, ValkeyBuilder, binaries, free_port, redis_binaries, wait_until},
};
use tokio_util::sync::CancellationToken;

const WAYS: [(CaptureWay, &str); 3] =
    [(CaptureWay::Bgsave, "bgsave-file"), (CaptureWay::Replication, "replication"), (CaptureWay::Scan, "scan")];

/// No snapshot for a replica waits for others to come.
fn builder() -> ValkeyBuilder {
    Valkey::builder().setting("repl-diskless-sync-delay 0").setting("enable-debug-command yes")
}

async fn filled(builder: ValkeyBuilder) -> Valkey {
    let server = builder.start().await;
    dataset::valkey(&mut server.client().await, Size::SMALL).await.unwrap();
    server
}

fn source(config: ValkeyConfig) -> ValkeySource {
    let none = ServicesConfig { manager: Manager::Hooks, ..ServicesConfig::default() };
    ValkeySource::new(config, Arc::clone(&services::from_config(&none).unwrap()))
}

fn by(server: &Valkey, capture: CaptureWay) -> ValkeyConfig {
    ValkeyConfig { uri: server.uri().into(), capture, ..ValkeyConfig::default() }
}

/// A capture in a directory of its own.
struct Taken {
    artifact: Artifact,
    dir: tempfile::TempDir,
}

impl Taken {
    async fn of(config: ValkeyConfig) -> Result<Self, SourceError> {
        let dir = tempfile::tempdir().unwrap();
        let artifact = to_directory(&source(config), &"h1".parse().unwrap(), dir.path()).await?;
        Ok(Self { artifact, dir })
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("valkey/dump.rdb")
    }

    fn contents(&self) -> &ValkeyContents {
        match &self.artifact.contents {
            Contents::Valkey(contents) => contents,
            other => panic!("{other:?}"),
        }
    }

    fn warnings(&self) -> String {
        self.artifact.warnings.join("\n")
    }
}

fn summary(file: &Path) -> RdbSummary {
    rdb::summarise(File::open(file).unwrap()).unwrap()
}

fn sound(check: &Path, file: &Path) {
    let stock = Command::new(check).arg(file).output().unwrap();
    assert!(stock.status.success(), "{}", String::from_utf8_lossy(&stock.stdout));
}

/// Every type and encoding, by every way, as the server itself saves it, and as another server loads it.
async fn all_ways_yield_what_the_server_saves(redis: bool, append_only: bool) {
    let kind = |b: ValkeyBuilder| if redis { b.redis() } else { b };
    let with = |b: ValkeyBuilder| if append_only { b.append_only() } else { b };
    let server = filled(with(kind(builder()))).await;
    let check = if redis { &redis_binaries().1 } else { &binaries().valkey_check_rdb };
    let before = equality::valkey(&mut server.client().await).await.unwrap();
    let digest = server.cli(&["DEBUG", "DIGEST"]);
    assert_eq!(server.cli(&["SAVE"]).trim(), "OK");
    let expected = summary(&server.data_dir().join("dump.rdb"));
    let settings = server.cli(&["CONFIG", "GET", "*"]);
    for (way, name) in WAYS {
        for diskless in ["yes", "no"] {
            if way != CaptureWay::Replication && diskless == "no" {
                continue;
            }
            server.cli(&["CONFIG", "SET", "repl-diskless-sync", diskless]);
            let taken = Taken::of(by(&server, way)).await.unwrap();
            let contents = taken.contents();
            assert_eq!(contents.way, name);
            assert_eq!(contents.server_name, if redis { "redis" } else { "valkey" });
            let fuzzy = way == CaptureWay::Scan;
            assert_eq!(contents.consistency == KeyConsistency::Fuzzy, fuzzy);
            assert_eq!(taken.warnings().contains("do not show one point in time"), fuzzy, "{}", taken.warnings());
            assert_eq!(contents.role.as_deref(), Some("primary"));
            assert_eq!((contents.append_only, contents.keys), (append_only, expected.keys));
            assert_eq!(contents.families, expected.families, "{name}");
            let found = summary(&taken.file());
            assert_eq!((found.functions, found.version), (expected.functions, expected.version));
            sound(check, &taken.file());
            let again = kind(builder()).rdb(&taken.file()).start().await;
            assert_eq!(again.cli(&["DEBUG", "DIGEST"]), digest, "{name}");
            let after = equality::valkey(&mut again.client().await).await.unwrap();
            assert_eq!(equality::differences("valkey", &before, &after), Vec::<String>::new());
        }
    }
    server.cli(&["CONFIG", "SET", "repl-diskless-sync", "yes"]);
    assert_eq!(server.cli(&["CONFIG", "GET", "*"]), settings);
    assert_eq!(server.cli(&["DEBUG", "DIGEST"]), digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_ways_from_valkey() {
    all_ways_yield_what_the_server_saves(false, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_ways_from_valkey_with_append_only_files() {
    all_ways_yield_what_the_server_saves(false, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_ways_from_redis() {
    all_ways_yield_what_the_server_saves(true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_ways_from_redis_with_append_only_files() {
    all_ways_yield_what_the_server_saves(true, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_server_is_captured_by_every_way() {
    for redis in [false, true] {
        let server = if redis { builder().redis() } else { builder() }.start().await;
        for (way, name) in WAYS {
            let taken = Taken::of(by(&server, way)).await.unwrap();
            assert_eq!((taken.contents().keys, taken.contents().way.as_str()), (0, name));
            let again = if redis { builder().redis() } else { builder() }.rdb(&taken.file()).start().await;
            assert_eq!(again.cli(&["DBSIZE"]).trim(), "0");
        }
    }
}

/// What the server refuses leads to the next way, and to a warning that says so; what is asked for by name does not.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_leads_to_the_next_way() {
    let server = filled(builder()).await;
    let keys = summary_of_saved(&server).keys;
    for (name, rules) in [
        ("all", vec!["+@all"]),
        ("no-save", vec!["+@all", "-bgsave"]),
        ("no-config", vec!["+@all", "-config"]),
        ("no-sync", vec!["+@all", "-bgsave", "-sync"]),
        ("no-replica", vec!["+@all", "-bgsave", "-sync", "-psync"]),
        ("scan", vec!["+acl", "+info", "+hello", "+scan", "+dump", "+pexpiretime", "+select", "+dbsize"]),
        ("no-dump", vec!["+@all", "-bgsave", "-sync", "-psync", "-dump"]),
    ] {
        let rules = ["ACL", "SETUSER", name, "on", ">p w@/", "~*"].into_iter().chain(rules).collect::<Vec<_>>();
        assert_eq!(server.cli(&rules).trim(), "OK");
    }
    let uri = |user: &str| format!("redis://{user}:p%20w%40%2F@127.0.0.1:{}", server.port());
    let config = |user: &str, capture| ValkeyConfig { uri: uri(user).into(), capture, ..ValkeyConfig::default() };
    for (user, way, why) in [
        ("all", "bgsave-file", ""),
        ("no-save", "replication", "bgsave"),
        ("no-config", "replication", "CONFIG GET"),
        ("no-sync", "replication", "bgsave"),
        ("no-replica", "scan", "psync"),
        ("scan", "scan", "psync"),
    ] {
        let inspection = source(config(user, CaptureWay::Auto)).inspect().await;
        assert_eq!(
            (inspection.problem, inspection.facts.get("capture").map(String::as_str)),
            (None, Some(way)),
            "{user}"
        );
        let taken = Taken::of(config(user, CaptureWay::Auto)).await.unwrap();
        assert_eq!((taken.contents().way.as_str(), taken.contents().keys), (way, keys), "{user}");
        assert!(taken.warnings().contains(why), "{user}: {}", taken.warnings());
        assert_eq!(taken.warnings().contains(&format!("captured by {way}, because")), way != "bgsave-file");
    }
    let warnings = Taken::of(config("scan", CaptureWay::Auto)).await.unwrap().warnings();
    assert!(warnings.contains("functions are not in") && warnings.contains("MULTI is refused"), "{warnings}");
    for (user, capture) in [
        ("no-save", CaptureWay::Bgsave),
        ("no-replica", CaptureWay::Replication),
        ("no-dump", CaptureWay::Scan),
        ("no-dump", CaptureWay::Auto),
    ] {
        let error = Taken::of(config(user, capture)).await.err().unwrap();
        assert!(matches!(error, SourceError::Denied(_)), "{error:?}");
        assert!(error.to_string().contains("cannot be captured") && !error.to_string().contains("p w"), "{error}");
        assert!(source(config(user, capture)).inspect().await.problem.unwrap().contains("cannot be captured"));
    }
    // A key out of reach must not be left out in silence.
    let rules = ["ACL", "SETUSER", "some", "on", ">pw", "~prexor:*", "+@all", "-bgsave", "-sync", "-psync"];
    assert_eq!(server.cli(&rules).trim(), "OK");
    let uri = format!("redis://some:pw@127.0.0.1:{}", server.port());
    let error = Taken::of(ValkeyConfig { uri: uri.into(), ..ValkeyConfig::default() }).await.err().unwrap();
    assert!(matches!(error, SourceError::Denied(_)), "{error:?}");
}

fn summary_of_saved(server: &Valkey) -> RdbSummary {
    assert_eq!(server.cli(&["SAVE"]).trim(), "OK");
    summary(&server.data_dir().join("dump.rdb"))
}

/// As managed servers do.
#[tokio::test(flavor = "multi_thread")]
async fn commands_that_do_not_exist_lead_to_the_next_way() {
    let renamed = ["BGSAVE", "SYNC", "PSYNC", "REPLCONF", "CONFIG"];
    for redis in [false, true] {
        let builder = if redis { builder().redis() } else { builder() };
        let server = renamed.iter().fold(builder, |b, name| b.setting(&format!("rename-command {name} \"\"")));
        let server = filled(server).await;
        let inspection = source(by(&server, CaptureWay::Auto)).inspect().await;
        assert_eq!((inspection.problem, inspection.facts.get("capture").map(String::as_str)), (None, Some("scan")));
        let taken = Taken::of(by(&server, CaptureWay::Auto)).await.unwrap();
        assert_eq!(taken.contents().way, "scan");
        for why in ["bgsave-file: ", "replication: ", "unknown command"] {
            assert!(taken.warnings().contains(why), "{}", taken.warnings());
        }
        assert_eq!(taken.contents().families, summary_of_saved(&server).families);
    }
}

/// A hash table that grows and shrinks makes SCAN name keys twice, and a server refuses a file with a key twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_scan_of_a_server_at_work_can_be_loaded() {
    let server = filled(builder()).await;
    let stable = summary_of_saved(&server).keys;
    let stop = CancellationToken::new();
    let work = {
        let (mut resp, stop) = (server.client().await, stop.clone());
        tokio::spawn(async move {
            while !stop.is_cancelled() {
                for command in ["SET", "DEL"] {
                    for some in 0..20 {
                        let commands: Vec<Vec<String>> = (0..500)
                            .map(|n| {
                                let key = format!("volatile:{some}:{n}");
                                if command == "SET" {
                                    vec!["SET".into(), key, "v".into(), "PX".into(), "86400123".into()]
                                } else {
                                    vec!["DEL".into(), key]
                                }
                            })
                            .collect();
                        resp.pipeline(&commands).await.unwrap();
                    }
                }
            }
        })
    };
    for _ in 0..5 {
        let taken = Taken::of(by(&server, CaptureWay::Scan)).await.unwrap();
        assert!(taken.contents().keys >= stable);
        let again = builder().rdb(&taken.file()).start().await;
        assert_eq!(
            again.cli(&["DBSIZE"]).trim().parse::<u64>().unwrap() + 1,
            taken.contents().keys,
            "one is in database 3"
        );
        let mut reader = rdb::Reader::new(File::open(taken.file()).unwrap()).unwrap();
        while let Some(entry) = reader.next_entry().unwrap() {
            assert_eq!(entry.key.starts_with(b"volatile:"), entry.expires_at_ms.is_some() && entry.key[0] == b'v');
        }
    }
    stop.cancel();
    work.await.unwrap();
}

/// The agent takes no more than some chunks ahead of the store, so the server is still at it when something happens.
async fn held_up(
    server: &Valkey,
    way: CaptureWay,
) -> (tokio::task::JoinHandle<SourceError>, CancellationToken, tokio::sync::mpsc::Receiver<Frame>) {
    let (sink, mut frames, _) = ArtifactSink::new();
    let (source, cancel) = (source(by(server, way)), CancellationToken::new());
    let token = cancel.clone();
    let task = tokio::spawn(async move { source.capture(sink, token).await.unwrap_err() });
    assert!(matches!(frames.recv().await, Some(Frame::Begin { .. })));
    assert!(matches!(frames.recv().await, Some(Frame::Chunk { .. })));
    (task, cancel, frames)
}

async fn nothing_finished(mut frames: tokio::sync::mpsc::Receiver<Frame>) {
    while let Some(frame) = frames.recv().await {
        assert!(!matches!(frame, Frame::End { .. }));
    }
}

/// More than all buffers between server and store hold.
async fn large(builder: ValkeyBuilder) -> Valkey {
    let server = builder.setting("rdbcompression no").setting("save \"\"").start().await;
    let mut resp = server.client().await;
    let value = vec![b'x'; 100_000];
    for some in 0..20 {
        let commands: Vec<Vec<Vec<u8>>> =
            (0..40).map(|n| vec![b"SET".to_vec(), format!("k{some}:{n}").into_bytes(), value.clone()]).collect();
        resp.pipeline(&commands).await.unwrap();
    }
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_in_the_middle_is_an_error() {
    for redis in [false, true] {
        for (way, name) in WAYS {
            let builder = if redis { builder().redis() } else { builder() };
            let mut server = large(builder).await;
            if way == CaptureWay::Bgsave {
                server.cli(&["CONFIG", "SET", "rdb-key-save-delay", "3000"]);
            }
            let (task, _, frames) = held_up(&server, way).await;
            server.kill();
            let drained = tokio::spawn(nothing_finished(frames));
            let error = tokio::time::timeout(PATIENCE, task).await.expect(name).unwrap();
            assert!(matches!(error, SourceError::Unavailable(_)), "{name}: {error:?}");
            assert!(error.to_string().contains(&format!("127.0.0.1:{}", server.port())), "{error}");
            drained.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_capture_leaves_no_link_and_no_child() {
    let server = large(builder()).await;
    for (way, name) in WAYS {
        if way == CaptureWay::Bgsave {
            server.cli(&["CONFIG", "SET", "rdb-key-save-delay", "1000"]);
        }
        let (task, cancel, frames) = held_up(&server, way).await;
        cancel.cancel();
        let drained = tokio::spawn(nothing_finished(frames));
        let error = tokio::time::timeout(PATIENCE, task).await.expect(name).unwrap();
        assert!(matches!(error, SourceError::Cancelled), "{name}: {error:?}");
        drained.await.unwrap();
        wait_until("a server at rest", PATIENCE, async || {
            let info = server.cli(&["INFO"]);
            let clients = server.cli(&["CLIENT", "LIST"]);
            ["connected_slaves:0", "rdb_bgsave_in_progress:0"].iter().all(|part| info.contains(part))
                && clients.lines().filter(|line| !line.trim().is_empty()).count() == 1
        })
        .await;
        let left: Vec<_> = fs::read_dir(server.data_dir())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| n.starts_with("temp-"))
            .collect();
        assert!(left.is_empty(), "{name}: {left:?}");
        server.cli(&["CONFIG", "SET", "rdb-key-save-delay", "0"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_the_server_cuts_is_named() {
    let server = large(builder()).await;
    let (task, _, frames) = held_up(&server, CaptureWay::Replication).await;
    server.cli(&["CLIENT", "KILL", "TYPE", "replica"]);
    let drained = tokio::spawn(nothing_finished(frames));
    let error = tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
    assert!(error.to_string().contains("client-output-buffer-limit replica"), "{error}");
    drained.await.unwrap();
}

/// A store that is slower than the server's patience.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_stands_still_for_longer_than_repl_timeout_is_named() {
    let server = large(builder().setting("repl-timeout 1")).await;
    let (task, _, frames) = held_up(&server, CaptureWay::Replication).await;
    wait_until("the server to lose its patience", PATIENCE, async || {
        server.cli(&["INFO", "replication"]).contains("connected_slaves:0")
    })
    .await;
    let drained = tokio::spawn(nothing_finished(frames));
    let error = tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
    assert!(error.to_string().contains("repl-timeout"), "{error}");
    drained.await.unwrap();
}

/// A save or a snapshot that others have begun is waited for; what came in between is in ours.
#[tokio::test(flavor = "multi_thread")]
async fn another_clients_save_is_waited_for() {
    let server = filled(builder()).await;
    for (way, name) in WAYS {
        server.cli(&["CONFIG", "SET", "rdb-key-save-delay", "1000"]);
        assert!(server.cli(&["BGSAVE"]).contains("started"));
        assert_eq!(server.cli(&["SET", &format!("since:{name}"), "1"]).trim(), "OK");
        server.cli(&["CONFIG", "SET", "rdb-key-save-delay", "0"]);
        let taken = Taken::of(by(&server, way)).await.unwrap();
        wait_until("the other's save", PATIENCE, async || {
            server.cli(&["INFO", "persistence"]).contains("rdb_bgsave_in_progress:0")
        })
        .await;
        assert_eq!(taken.contents().families, summary_of_saved(&server).families, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_a_source_and_named_as_one() {
    let server = filled(builder()).await;
    let replica = builder().setting(&format!("replicaof 127.0.0.1 {}", server.port())).start().await;
    wait_until("a link", PATIENCE, async || replica.cli(&["INFO", "replication"]).contains("master_link_status:up"))
        .await;
    for (way, name) in WAYS {
        let taken = Taken::of(by(&replica, way)).await.unwrap();
        assert_eq!((taken.contents().role.as_deref(), taken.contents().way.as_str()), (Some("replica"), name));
        assert!(taken.warnings().contains("from a replica"), "{}", taken.warnings());
        assert_eq!(taken.contents().families, summary_of_saved(&server).families, "{name}");
    }
    drop(server);
    wait_until("a lost link", PATIENCE, async || {
        replica.cli(&["INFO", "replication"]).contains("master_link_status:down")
    })
    .await;
    let error = Taken::of(by(&replica, CaptureWay::Replication)).await.err().unwrap();
    assert!(matches!(error, SourceError::Unavailable(_)) && error.to_string().contains("lost its primary"), "{error}");
    assert_eq!(replica.cli(&["CONFIG", "SET", "replica-serve-stale-data", "no"]).trim(), "OK");
    let error = Taken::of(by(&replica, CaptureWay::Scan)).await.err().unwrap();
    assert!(matches!(error, SourceError::Unavailable(_)) && error.to_string().contains("lost its primary"), "{error}");
}
