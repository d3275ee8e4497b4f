//! What the suites about Valkey share: a server with its service, a source for it, and a place for backups. Drives the
//! source without an agent.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use prexor_agent::{
    restore_unit::RestoreUnit,
    services::{self, HookCommands, Role, ServiceConfig, ServiceError, ServiceState, Services, ServicesConfig},
    source::{
        SourceError,
        valkey::{ValkeyConfig, ValkeySource},
    },
};
use prexor_format::{id::NodeName, manifest::Artifact};

use crate::{
    capture::{stage, to_directory},
    dataset::{self, Size},
    equality::{self, Things},
    servers::{Valkey, ValkeyBuilder},
};

/// The service of the test's server; either verb can be made to fail, and a start does not wait until data is loaded.
pub struct Service {
    hooks: Arc<dyn Services>,
    /// Whether the server cannot be stopped.
    pub stop_fails: AtomicBool,
    /// Whether it cannot be started.
    pub start_fails: AtomicBool,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

impl Service {
    /// That of this server.
    ///
    /// # Panics
    /// When its commands are none.
    pub fn of(server: &Valkey) -> Arc<Self> {
        let text = |path: PathBuf| path.display().to_string();
        let hooks = HookCommands {
            state: vec![text(server.state_command())],
            stop: vec![text(server.stop_command())],
            start: ["/bin/sh", "-c", "\"$0\" || exec \"$@\" --daemonize yes"]
                .map(str::to_owned)
                .into_iter()
                .chain([text(server.state_command())])
                .chain(server.words())
                .collect(),
            ..HookCommands::default()
        };
        let valkey = ServiceConfig { hooks: Some(hooks), ..ServiceConfig::default() };
        let config = ServicesConfig { manager: services::Manager::Hooks, valkey, ..ServicesConfig::default() };
        let hooks = services::from_config(&config).expect("commands of a service");
        Arc::new(Self { hooks, stop_fails: false.into(), start_fails: false.into() })
    }
}

#[async_trait::async_trait]
impl Services for Service {
    fn knows(&self, _: Role) -> bool {
        true
    }

    async fn state(&self, role: Role) -> Result<ServiceState, ServiceError> {
        self.hooks.state(role).await
    }
    async fn stop(&self, role: Role) -> Result<(), ServiceError> {
        if self.stop_fails.load(Ordering::Relaxed) {
            return Err(ServiceError("stop fails".into()));
        }
        self.hooks.stop(role).await
    }
    async fn start(&self, role: Role) -> Result<(), ServiceError> {
        if self.start_fails.load(Ordering::Relaxed) {
            return Err(ServiceError("start fails".into()));
        }
        self.hooks.start(role).await
    }
    fn start_command(&self, role: Role) -> String {
        self.hooks.start_command(role)
    }
}

/// What a test has at hand.
#[derive(Debug)]
pub struct Bench {
    /// It runs when the test begins.
    pub server: Valkey,
    /// What stops and starts it.
    pub service: Arc<Service>,
    /// Sees its files and its service.
    pub source: ValkeySource,
    /// For backups and the state of restores.
    pub dir: tempfile::TempDir,
}

impl Bench {
    /// A server without keys.
    pub async fn start(builder: ValkeyBuilder) -> Self {
        Self::around(builder.setting("enable-debug-command yes").start().await)
    }

    /// What is needed beside a server that runs.
    ///
    /// # Panics
    /// When no directory can be made.
    pub fn around(server: Valkey) -> Self {
        let service = Service::of(&server);
        let config = ValkeyConfig { uri: server.uri().into(), ..ValkeyConfig::default() };
        let source = ValkeySource::new(config, service.clone());
        Self { server, service, source, dir: tempfile::tempdir().expect("a temporary directory") }
    }

    /// A server with keys of every type.
    ///
    /// # Panics
    /// When it refuses them.
    pub async fn filled(builder: ValkeyBuilder) -> Self {
        let bench = Self::start(builder).await;
        dataset::valkey(&mut bench.server.client().await, Size::SMALL).await.expect("the server does as it is asked");
        bench
    }

    /// Where backups are.
    pub fn backup(&self) -> PathBuf {
        self.dir.path().join("backup")
    }

    /// Makes a backup in the place of the one before.
    ///
    /// # Errors
    /// What the source says.
    pub async fn try_capture(&self) -> Result<Artifact, SourceError> {
        let _ = fs::remove_dir_all(self.backup());
        to_directory(&self.source, &"h1".parse::<NodeName>().expect("a node's name"), &self.backup()).await
    }

    /// As [`Bench::try_capture`].
    ///
    /// # Panics
    /// Where that fails.
    pub async fn capture(&self) -> Artifact {
        self.try_capture().await.expect("a capture")
    }

    /// A restore of a backup that is staged.
    ///
    /// # Panics
    /// When it cannot be.
    pub fn unit(&self, job: &str, artifact: &Artifact) -> RestoreUnit {
        stage(&self.dir.path().join("state"), job, artifact, &self.backup()).expect("a unit")
    }

    /// Takes all keys away.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn destroy(&self) {
        dataset::destroy_valkey(&mut self.server.client().await).await.expect("the server does as it is asked");
    }

    /// All keys and their aspects.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn live(&self) -> Things {
        equality::valkey(&mut self.server.client().await).await.expect("the server does as it is asked")
    }

    /// What the server says of all its keys.
    pub fn digest(&self) -> String {
        self.server.cli(&["DEBUG", "DIGEST"])
    }

    /// All settings by name, but for the one that tells who started the server.
    pub fn settings(&self) -> BTreeMap<String, String> {
        let text = self.server.cli(&["CONFIG", "GET", "*"]);
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        let pairs = lines.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone()));
        pairs.filter(|(name, _)| name != "daemonize").collect()
    }

    /// What is in the data directory, of this and of earlier restores.
    ///
    /// # Panics
    /// When that cannot be read.
    pub fn leftovers(&self) -> Vec<String> {
        let names = fs::read_dir(self.server.data_dir())
            .expect("the server does as it is asked")
            .map(|e| e.expect("the server does as it is asked").file_name());
        names
            .map(|n| n.into_string().expect("the server does as it is asked"))
            .filter(|n| n.starts_with(".prexor"))
            .collect()
    }
}

/// What `DEBUG DIGEST` says of a server of this kind that has loaded this file and was then made to hold these keys.
///
/// # Panics
/// When the server refuses.
pub async fn digest_of(builder: ValkeyBuilder, file: &Path, expected: &Things) -> String {
    let server = builder.setting("enable-debug-command yes").rdb(file).start().await;
    let found = equality::valkey(&mut server.client().await).await.expect("the server does as it is asked");
    digest_with(&server, &found, expected).await
}

/// What `DEBUG DIGEST` says of a server that holds `found` when it was made to hold `expected`, by plain commands.
///
/// # Panics
/// When the server refuses.
pub async fn digest_with(server: &Valkey, found: &Things, expected: &Things) -> String {
    let mut resp = server.client().await;
    let place = |name: &str| {
        let (db, key) = name
            .strip_prefix("db")
            .expect("the server does as it is asked")
            .split_once(' ')
            .expect("the server does as it is asked");
        (db.to_owned(), key.replace(r"\xc3\xb6", "ö"))
    };
    for name in found.keys().filter(|name| !expected.contains_key(*name)) {
        let (db, key) = place(name);
        resp.call(&["SELECT", &db]).await.expect("the server does as it is asked");
        assert_eq!(resp.call(&["DEL", &key]).await.expect("the server does as it is asked").integer(), 1, "{key}");
    }
    for (name, aspects) in expected.iter().filter(|(name, aspects)| found.get(*name) != Some(aspects)) {
        let (db, key) = place(name);
        assert_eq!(&*aspects["type"], "string", "{name}");
        resp.call(&["SELECT", &db]).await.expect("the server does as it is asked");
        resp.call(&["SET", &key, &aspects["value"]]).await.expect("the server does as it is asked");
        if aspects["expires at"] != "never" {
            resp.call(&["PEXPIREAT", &key, &aspects["expires at"]]).await.expect("the server does as it is asked");
        }
    }
    server.cli(&["DEBUG", "DIGEST"])
}

/// A host that has no service of Valkey.
#[derive(Debug, Clone, Copy)]
pub struct Nothing;

#[async_trait::async_trait]
impl Services for Nothing {
    fn knows(&self, _: Role) -> bool {
        false
    }
    async fn state(&self, _: Role) -> Result<ServiceState, ServiceError> {
        Ok(ServiceState::Absent)
    }
    async fn stop(&self, _: Role) -> Result<(), ServiceError> {
        panic!("it is not to be stopped")
    }
    async fn start(&self, _: Role) -> Result<(), ServiceError> {
        panic!("it is not to be started")
    }
    fn start_command(&self, _: Role) -> String {
        String::new()
    }
}

/// A source that does not know how to stop and start the server.
pub fn remote(uri: String) -> ValkeySource {
    ValkeySource::new(ValkeyConfig { uri: uri.into(), ..ValkeyConfig::default() }, Arc::new(Nothing))
}
