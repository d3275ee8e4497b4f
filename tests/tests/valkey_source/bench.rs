//! A Valkey with its service, a source for it, and a place for backups.

use std::{
    collections::BTreeMap,
    fs,
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
use prexor_tests::{
    capture::{stage, to_directory},
    dataset::{self, Size},
    equality::Things,
    servers::{Valkey, ValkeyBuilder},
};

/// The service of the test's server; either verb can be made to fail, and a start does not wait until data is loaded.
pub(crate) struct Service {
    hooks: Arc<dyn Services>,
    pub(crate) stop_fails: AtomicBool,
    pub(crate) start_fails: AtomicBool,
}

impl Service {
    pub(crate) fn of(server: &Valkey) -> Arc<Self> {
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
        };
        let valkey = ServiceConfig { hooks: Some(hooks), ..ServiceConfig::default() };
        let config = ServicesConfig { manager: services::Manager::Hooks, valkey, ..ServicesConfig::default() };
        let hooks = services::from_config(&config).unwrap();
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
pub(crate) struct Bench {
    pub(crate) server: Valkey,
    pub(crate) service: Arc<Service>,
    pub(crate) source: ValkeySource,
    pub(crate) dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) async fn start(builder: ValkeyBuilder) -> Self {
        Self::around(builder.setting("enable-debug-command yes").start().await)
    }

    pub(crate) fn around(server: Valkey) -> Self {
        let service = Service::of(&server);
        let config = ValkeyConfig { uri: server.uri().into(), ..ValkeyConfig::default() };
        let source = ValkeySource::new(config, service.clone());
        Self { server, service, source, dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) async fn filled(builder: ValkeyBuilder) -> Self {
        let bench = Self::start(builder).await;
        dataset::valkey(&mut bench.server.client().await, Size::SMALL).await.unwrap();
        bench
    }

    pub(crate) fn backup(&self) -> PathBuf {
        self.dir.path().join("backup")
    }

    pub(crate) async fn try_capture(&self) -> Result<Artifact, SourceError> {
        let _ = fs::remove_dir_all(self.backup());
        to_directory(&self.source, &"h1".parse::<NodeName>().unwrap(), &self.backup()).await
    }

    pub(crate) async fn capture(&self) -> Artifact {
        self.try_capture().await.unwrap()
    }

    pub(crate) fn unit(&self, job: &str, artifact: &Artifact) -> RestoreUnit {
        stage(&self.dir.path().join("state"), job, artifact, &self.backup()).unwrap()
    }

    pub(crate) async fn destroy(&self) {
        dataset::destroy_valkey(&mut self.server.client().await).await.unwrap();
    }

    pub(crate) async fn live(&self) -> Things {
        prexor_tests::equality::valkey(&mut self.server.client().await).await.unwrap()
    }

    pub(crate) fn digest(&self) -> String {
        self.server.cli(&["DEBUG", "DIGEST"])
    }

    /// All settings by name, but for the one that tells who started the server.
    pub(crate) fn settings(&self) -> BTreeMap<String, String> {
        let text = self.server.cli(&["CONFIG", "GET", "*"]);
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        let pairs = lines.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone()));
        pairs.filter(|(name, _)| name != "daemonize").collect()
    }

    /// What is in the data directory, of this and of earlier restores.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let names = fs::read_dir(self.server.data_dir()).unwrap().map(|e| e.unwrap().file_name());
        names.map(|n| n.into_string().unwrap()).filter(|n| n.starts_with(".prexor")).collect()
    }
}

/// What `DEBUG DIGEST` says of a server of this kind that has loaded this file and was then made to hold these keys.
pub(crate) async fn digest_of(builder: ValkeyBuilder, file: &Path, expected: &Things) -> String {
    let server = builder.setting("enable-debug-command yes").rdb(file).start().await;
    let found = prexor_tests::equality::valkey(&mut server.client().await).await.unwrap();
    digest_with(&server, &found, expected).await
}

/// What `DEBUG DIGEST` says of a server that holds `found` when it was made to hold `expected`, by plain commands.
pub(crate) async fn digest_with(server: &Valkey, found: &Things, expected: &Things) -> String {
    let mut resp = server.client().await;
    let place = |name: &str| {
        let (db, key) = name.strip_prefix("db").unwrap().split_once(' ').unwrap();
        (db.to_owned(), key.replace(r"\xc3\xb6", "ö"))
    };
    for name in found.keys().filter(|name| !expected.contains_key(*name)) {
        let (db, key) = place(name);
        resp.call(&["SELECT", &db]).await.unwrap();
        assert_eq!(resp.call(&["DEL", &key]).await.unwrap().integer(), 1, "{key}");
    }
    for (name, aspects) in expected.iter().filter(|(name, aspects)| found.get(*name) != Some(aspects)) {
        let (db, key) = place(name);
        assert_eq!(&*aspects["type"], "string", "{name}");
        resp.call(&["SELECT", &db]).await.unwrap();
        resp.call(&["SET", &key, &aspects["value"]]).await.unwrap();
        if aspects["expires at"] != "never" {
            resp.call(&["PEXPIREAT", &key, &aspects["expires at"]]).await.unwrap();
        }
    }
    server.cli(&["DEBUG", "DIGEST"])
}

/// A host that has no service of Valkey.
pub(crate) struct Nothing;

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
pub(crate) fn remote(uri: String) -> ValkeySource {
    ValkeySource::new(ValkeyConfig { uri: uri.into(), ..ValkeyConfig::default() }, Arc::new(Nothing))
}
