//! The whole product on one host: real mongod, Valkey and file tree, and our three programs as processes over mTLS.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    dataset::{self, DATABASE, Layout, Site, Size},
    equality::Snapshot,
    proxy::Proxy,
    resp::Resp,
    servers::{self, Mongod, PATIENCE, Valkey, free_port, wait_until},
};

mod controller;
mod identity;

/// A running cluster. Its processes end when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    dir: TempDir,
    /// MongoDB, a replica set of one with authentication.
    pub mongod: Mongod,
    /// Valkey, or `None` in the profile without.
    pub valkey: Option<Valkey>,
    coordinator: Option<Child>,
    agent: Option<Child>,
    api_port: u16,
    enrolment_port: u16,
    agent_port: u16,
    /// Where the controller would say that it is ready.
    ready_port: u16,
    /// Between coordinator and agent, where the test asked for one.
    proxy: Option<Proxy>,
    /// Environment of the coordinator.
    env: Vec<(String, String)>,
}

/// What differs from a plain cluster.
#[derive(Debug, Default)]
pub struct Setup {
    /// Further lines of coordinator.yml.
    pub coordinator: &'static str,
    /// Variables of the coordinator's environment.
    pub env: Vec<(String, String)>,
    /// Further settings of Valkey.
    pub valkey: Vec<String>,
    /// The coordinator reaches the agent through a [`Proxy`].
    pub proxied: bool,
}

/// What a finished `prexorctl` said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit code; 128 + signal when it was killed.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Itself, when the exit code was 0.
    ///
    /// # Panics
    /// With everything it said, otherwise.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "out: {}\nerr: {}", self.out, self.err);
        self
    }

    /// Itself, when the exit code was this one.
    ///
    /// # Panics
    /// With everything it said, otherwise.
    #[track_caller]
    pub fn failed(self, code: i32) -> Self {
        assert_eq!(self.code, code, "out: {}\nerr: {}", self.out, self.err);
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e} in:\n{}\nerr: {}", self.out, self.err))
    }
}

impl From<Output> for Said {
    fn from(o: Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        let code = o.status.code().unwrap_or_else(|| 128 + o.status.signal().unwrap_or_default());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code, out: text(&o.stdout), err: text(&o.stderr) }
    }
}

/// One of our programs, built in the profile of the tests.
///
/// # Panics
/// When it was not built.
pub fn program(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("a test knows its own path");
    let deps = exe.parent().expect("a program lies in a directory");
    let profile =
        if deps.ends_with("deps") { deps.parent().expect("deps lies in the profile's directory") } else { deps };
    let path = profile.join(name);
    assert!(path.exists(), "{} is not there: run `cargo build --release --workspace`, or tests/run", path.display());
    path
}

impl Cluster {
    /// Servers with PrexorCloud-like data, and everything enrolled.
    pub async fn start() -> Self {
        Self::start_as(Setup::default()).await
    }

    /// As [`Cluster::start`], with these differences.
    pub async fn start_as(setup: Setup) -> Self {
        let cluster = Self::enrolled(true, setup).await;
        cluster.fill().await;
        cluster
    }

    /// As [`Cluster::start`], for an installation without Valkey.
    pub async fn start_without_valkey() -> Self {
        let cluster = Self::enrolled(false, Setup::default()).await;
        cluster.fill().await;
        cluster
    }

    /// Everything enrolled, with a `controller.yml` and no data beside it.
    pub async fn empty() -> Self {
        Self::enrolled(true, Setup::default()).await
    }

    async fn fill(&self) {
        let client = self.mongod.client().await;
        let mut resp = self.resp().await;
        dataset::fill(&client, DATABASE, resp.as_mut(), &self.root(), &self.site(), Size::SMALL).await.expect("data");
    }

    fn site(&self) -> Site {
        Site {
            layout: Layout::Guide,
            mongo_uri: self.mongod.uri(),
            database: DATABASE.to_owned(),
            valkey_uri: self.valkey.as_ref().map(Valkey::uri),
        }
    }

    async fn enrolled(with_valkey: bool, setup: Setup) -> Self {
        let mongod = Mongod::builder().auth().arg("--setParameter").arg("enableTestCommands=1").start().await;
        let valkey = if with_valkey {
            let valkey = Valkey::builder().append_only().password("valkey-secret");
            Some(setup.valkey.iter().fold(valkey, |v, line| v.setting(line)).start().await)
        } else {
            None
        };
        let dir = tempfile::tempdir().expect("a scratch directory");
        let agent_port = free_port();
        let mut cluster = Self {
            dir,
            mongod,
            valkey,
            coordinator: None,
            agent: None,
            api_port: free_port(),
            enrolment_port: free_port(),
            ready_port: free_port(),
            agent_port,
            proxy: setup.proxied.then(|| Proxy::start(agent_port)),
            env: setup.env,
        };
        fs::create_dir_all(cluster.root().join("config")).expect("the controller's root");
        cluster.write_controller_yml();
        cluster.write_coordinator_config(setup.coordinator);
        cluster.start_coordinator().await;
        cluster.enrol_agent();
        cluster.start_agent().await;
        cluster
    }

    /// A directory of the test's own.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The controller's root, in place of `/etc/prexorcloud`.
    pub fn root(&self) -> PathBuf {
        self.dir().join("etc/prexorcloud")
    }

    /// The central store.
    pub fn store(&self) -> PathBuf {
        self.dir().join("store")
    }

    /// The agent's state directory.
    pub fn agent_state(&self) -> PathBuf {
        self.dir().join("agent")
    }

    /// A connection to Valkey that reads everything.
    pub async fn resp(&self) -> Option<Resp> {
        match &self.valkey {
            Some(valkey) => Some(valkey.client().await),
            None => None,
        }
    }

    /// All data as it is now; `logs` and law L8's markers are left out.
    pub async fn snapshot(&self) -> Snapshot {
        let client = self.mongod.client().await;
        Snapshot::take(&client, DATABASE, self.resp().await.as_mut(), &self.root(), dataset::EXCLUDED)
            .await
            .expect("a snapshot")
    }

    /// Drops the database, flushes Valkey and removes the controller's root, all but its logs.
    pub async fn destroy(&self) {
        dataset::destroy(&self.mongod.client().await, DATABASE, self.resp().await.as_mut(), &self.root())
            .await
            .expect("destruction");
    }

    /// `prexorctl` with these arguments, to its end.
    pub fn ctl(&self, args: &[&str]) -> Said {
        self.ctl_command(args).output().expect("prexorctl can be started").into()
    }

    /// `prexorctl` with these arguments, not yet started.
    pub fn ctl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("prexorctl"));
        command.args(args).env("PREXORCTL_CONFIG", self.dir().join("prexorctl/config.yml")).stdin(Stdio::null());
        command
    }

    /// Creates a backup and returns its id.
    pub fn backup(&self) -> String {
        let said = self.ctl(&["backup", "create", "--json"]).ok();
        said.json()["id"].as_str().expect("an id").to_owned()
    }

    /// The directory of a backup.
    pub fn backup_dir(&self, id: &str) -> PathBuf {
        self.store().join(id)
    }

    /// Starts the coordinator and waits until it answers.
    pub async fn start_coordinator(&mut self) {
        let config = self.dir().join("coordinator.yml");
        self.coordinator = Some(self.spawn("prexor-coordinator", &config));
        let probe = self.ctl_command(&["status", "--json"]);
        self.wait_for_program("prexor-coordinator", probe).await;
    }

    /// Starts the coordinator, whether it answers the operator at hand or not.
    pub fn start_coordinator_unasked(&mut self) {
        let config = self.dir().join("coordinator.yml");
        self.coordinator = Some(self.spawn("prexor-coordinator", &config));
    }

    /// Starts the agent and waits until it answers the coordinator.
    pub async fn start_agent(&mut self) {
        let config = self.dir().join("agent.yml");
        self.agent = Some(self.spawn("prexor-agent", &config));
        let port = self.agent_port;
        wait_until("the agent to listen", PATIENCE, async || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
            .await;
    }

    /// Changes the agent's configuration, and starts it anew with that.
    pub async fn reconfigure_agent(&mut self, change: impl FnOnce(String) -> String) {
        let config = self.dir().join("agent.yml");
        let text = fs::read_to_string(&config).expect("setup wrote agent.yml");
        fs::write(config, change(text)).expect("agent.yml");
        self.kill_agent();
        self.start_agent().await;
    }

    /// From now on the agent cannot stop Valkey: a restore replaces its keys while it runs.
    pub async fn forget_valkey_service(&mut self) {
        let without = |text: String| {
            let (before, _) = text.split_once("  valkey:\n    hooks:").expect("the service comes last");
            before.to_owned()
        };
        self.reconfigure_agent(without).await;
    }

    /// The coordinator's process.
    pub fn coordinator_pid(&self) -> u32 {
        self.coordinator.as_ref().expect("the coordinator runs").id()
    }

    /// The agent's process.
    pub fn agent_pid(&self) -> u32 {
        self.agent.as_ref().expect("the agent runs").id()
    }

    /// The network between coordinator and agent.
    ///
    /// # Panics
    /// When the test did not ask for one.
    pub fn network(&self) -> &Proxy {
        self.proxy.as_ref().expect("the setup says `proxied`")
    }

    /// SIGSTOP for the agent: it hangs, its connections stay open.
    pub fn pause_agent(&self) {
        servers::send(self.agent_pid(), Signal::STOP);
    }

    /// SIGCONT for the agent.
    pub fn resume_agent(&self) {
        servers::send(self.agent_pid(), Signal::CONT);
    }

    /// The jobs, the last one first.
    pub fn jobs(&self) -> Vec<Value> {
        self.ctl(&["job", "list", "--json"]).ok().json().as_array().expect("an array").clone()
    }

    /// The backups, the newest first.
    pub fn backups(&self) -> Vec<Value> {
        self.ctl(&["backup", "list", "--json"]).ok().json().as_array().expect("an array").clone()
    }

    /// The directories of backups in the store, complete or not.
    pub fn backup_dirs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.store()).map(|d| d.map(|e| e.expect("an entry").path()).collect());
        let dirs: Vec<PathBuf> = entries.unwrap_or_default();
        dirs.into_iter().filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("bk-"))).collect()
    }

    /// `prexorctl` with these arguments, started, its output kept.
    pub fn ctl_spawn(&self, args: &[&str]) -> Child {
        let mut command = self.ctl_command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("prexorctl can be started")
    }

    /// Starts a backup of this scope and waits until its files artifact is being stored. `ballast.bin` makes that last.
    pub async fn capture_has_begun(&self, scope: &str) -> Child {
        let child = self.ctl_spawn(&["backup", "create", "--json", "--scope", scope]);
        wait_until("the capture to reach the store", PATIENCE, async || {
            self.backup_dirs().iter().any(|d| fs::read_dir(d.join("filesystem")).is_ok())
        })
        .await;
        child
    }

    /// A file below the root with bytes that do not compress, so that a capture takes its time.
    pub fn ballast(&self, megabytes: u64) {
        let mut file = fs::File::create(self.root().join("ballast.bin")).expect("a file");
        let mut random = fs::File::open("/dev/urandom").expect("a source of randomness");
        std::io::copy(&mut std::io::Read::take(&mut random, megabytes << 20), &mut file).expect("ballast");
    }

    /// SIGKILL for the coordinator.
    pub fn kill_coordinator(&mut self) {
        servers::kill_now(self.coordinator.take().expect("the coordinator runs"));
    }

    /// SIGKILL for the agent.
    pub fn kill_agent(&mut self) {
        servers::kill_now(self.agent.take().expect("the agent runs"));
    }

    /// What a program of ours logged.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.dir().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Writes the configuration with which PrexorCloud's controller would start, and the agent finds everything.
    pub fn write_controller_yml(&self) {
        dataset::write_controller_yml(&self.root(), &self.site()).expect("controller.yml");
    }

    fn write_coordinator_config(&self, more: &str) {
        let dir = self.dir().display();
        let text = format!(
            "cluster: test\nlisten:\n  api: 127.0.0.1:{}\n  enrolment: 127.0.0.1:{}\nstate_dir: {dir}/coordinator\n\
             store:\n  path: {dir}/store\noperator_config: {dir}/prexorctl/config.yml\n{more}\n",
            self.api_port, self.enrolment_port
        );
        fs::write(self.dir().join("coordinator.yml"), text).expect("coordinator.yml");
    }

    /// A fresh enrolment token, with these further arguments of `token create`.
    pub fn token(&self, args: &[&str]) -> String {
        let said = self.ctl(&[&["token", "create", "--json"], args].concat()).ok();
        said.json()["token"].as_str().expect("a token").to_owned()
    }

    /// `prexorctl setup` of an agent whose files lie in `dir`.
    pub fn setup(&self, node: &str, token: &str, dir: &Path) -> Said {
        let file = dir.join("token");
        fs::write(&file, token).expect("a file");
        let (listen, dir) = (format!("127.0.0.1:{}", self.agent_port), dir.display());
        let advertise = format!("127.0.0.1:{}", self.proxy.as_ref().map_or(self.agent_port, Proxy::port));
        let args = [
            "setup",
            "--coordinator",
            &format!("127.0.0.1:{}", self.enrolment_port),
            "--token-file",
            &file.display().to_string(),
            "--node",
            node,
            "--listen",
            &listen,
            "--advertise",
            &advertise,
            "--config",
            &format!("{dir}/agent.yml"),
            "--state-dir",
            &format!("{dir}/agent"),
            "--root",
            &self.root().display().to_string(),
        ];
        self.ctl(&args)
    }

    fn enrol_agent(&self) {
        self.setup("h1", &self.token(&["--node", "h1", "--ttl", "10m"]), self.dir()).ok();
        let dir = self.dir().display();
        let flag = format!("{dir}/controller-runs");
        let mut services = format!(
            "services:\n  manager: hooks\n  controller:\n    ready_url: http://127.0.0.1:{}/ready\n    hooks:\n      state: [/bin/sh, -c, 'test -e {flag} || exit 3']\n      \
             stop: [rm, '{flag}']\n      start: [touch, '{flag}']\n",
            self.ready_port
        );
        if let Some(v) = &self.valkey {
            services.push_str(&format!(
                "  valkey:\n    hooks:\n      state: ['{}']\n      stop: ['{}']\n      start: ['{}']\n",
                v.state_command().display(),
                v.stop_command().display(),
                v.start_command().display()
            ));
        }
        let config = self.dir().join("agent.yml");
        let text = fs::read_to_string(&config).expect("setup wrote agent.yml");
        fs::write(config, text + &services).expect("agent.yml");
    }

    fn spawn(&self, name: &str, config: &Path) -> Child {
        let mut command = Command::new(program(name));
        command.arg("--config").arg(config);
        if name == "prexor-coordinator" {
            command.envs(self.env.iter().map(|(k, v)| (k, v)));
        }
        servers::spawn(&mut command, &self.dir().join(format!("{name}.log"))).expect("the program can be started")
    }

    async fn wait_for_program(&self, name: &str, mut probe: Command) {
        let mut last = String::new();
        let begun = std::time::Instant::now();
        loop {
            let said = Said::from(probe.output().expect("prexorctl can be started"));
            if said.code == 0 {
                return;
            }
            last.clone_from(&said.err);
            assert!(begun.elapsed() < PATIENCE, "{name} does not answer: {last}\n{}", self.log(name));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in [self.agent.take(), self.coordinator.take()].into_iter().flatten() {
            servers::kill_now(child);
        }
    }
}
