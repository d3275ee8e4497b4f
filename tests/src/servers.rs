//! Real servers for tests: mongod and Valkey on 127.0.0.1, on free ports, in directories of their own.
//!
//! They are ended by pid when dropped, and by the kernel when the test process dies without dropping them. Failures
//! panic with the end of the server's log: these are test fixtures.

mod disk;
mod mongod;
mod mongos;
mod process;
mod replica_set;
mod valkey;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

pub use self::{
    disk::SmallDisk,
    mongod::{MONGO_PASSWORD, MONGO_USER, Mongod, MongodBuilder, create_root_user, initiate_replica_set, mongo_uri},
    mongos::StandInMongos,
    process::{free_port, kill_now, send, spawn},
    replica_set::ReplicaSet,
    valkey::{Valkey, ValkeyBuilder},
};

/// How long a server may take to start or stop. Generous: the machine may be busy compiling.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The programs that the tests start.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `mongod`
    pub mongod: PathBuf,
    /// `valkey-server` or `redis-server`
    pub valkey: PathBuf,
    /// `valkey-cli` or `redis-cli`
    pub valkey_cli: PathBuf,
    /// `valkey-check-rdb` or `redis-check-rdb`
    pub valkey_check_rdb: PathBuf,
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies one below the root")
}

/// Where the servers are: from the environment, else from `deploy/datastores`, which fetches them at first use.
///
/// # Panics
/// When they can neither be found nor fetched.
pub fn binaries() -> &'static Binaries {
    static FOUND: OnceLock<Binaries> = OnceLock::new();
    FOUND.get_or_init(|| {
        let path = found(&[]);
        Binaries {
            mongod: path("MONGOD_BIN"),
            valkey: path("VALKEY_BIN"),
            valkey_cli: path("VALKEY_CLI_BIN"),
            valkey_check_rdb: path("VALKEY_CHECK_RDB_BIN"),
        }
    })
}

/// Where `redis-server` and `redis-check-rdb` are, of whatever version the distribution has.
///
/// # Panics
/// When they can neither be found nor fetched.
pub fn redis_binaries() -> &'static (PathBuf, PathBuf) {
    static FOUND: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    FOUND.get_or_init(|| {
        let path = found(&["--redis"]);
        (path("REDIS_BIN"), path("REDIS_CHECK_RDB_BIN"))
    })
}

/// Where a `redis-server` 6 is.
///
/// # Panics
/// When it can neither be found nor fetched.
pub fn redis6_binary() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| found(&["--redis6"])("REDIS6_BIN"))
}

/// What `deploy/datastores` says. It takes what the environment names, so it is asked in any case.
fn found(args: &[&str]) -> impl Fn(&str) -> PathBuf {
    let script = repository().join("deploy/datastores");
    let output = Command::new(&script).args(args).output().unwrap_or_else(|e| panic!("{}: {e}", script.display()));
    assert!(
        output.status.success(),
        "no servers to test against; run tests/run, or set MONGOD_BIN, VALKEY_BIN and REDIS_BIN\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found: BTreeMap<String, PathBuf> = text
        .lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('\'').into()))
        .collect();
    move |name| found.get(name).unwrap_or_else(|| panic!("{name} is not in:\n{text}")).clone()
}

/// Asks again and again until the answer is yes.
///
/// # Panics
/// When it is still no after `timeout`; `what` completes the sentence "waited for".
pub async fn wait_until(what: &str, timeout: Duration, mut ask: impl AsyncFnMut() -> bool) {
    wait_for(what, timeout, async || ask().await.then_some(())).await;
}

/// Asks again and again until there is an answer, and returns it.
///
/// # Panics
/// When there is none after `timeout`; `what` completes the sentence "waited for".
pub async fn wait_for<T>(what: &str, timeout: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < timeout, "waited {timeout:?} for {what}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}
