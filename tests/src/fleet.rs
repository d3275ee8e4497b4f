//! The whole product on several hosts, each with a real systemd: our programs run from their units, the datastores from units of
//! theirs, and so does a stand-in for PrexorCloud's controller.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mongodb::Client;

use crate::{
    cluster::{Said, program},
    dataset::{self, DATABASE, Layout, Site},
    equality::{self, Snapshot},
    rig::{Host, Needs, Rack},
    servers::{PATIENCE, binaries, repository},
};

mod controllers;
mod datastores;
pub mod matrix;
mod oplog;
mod recorder;

pub use controllers::{CONTROLLER_YML, Config, LEADER, LEADERSHIP, LEASE, LEASE_TOKEN, NOT_READY, UNIT, WRITES};
pub use datastores::{REPLICA, VALKEY};
pub use oplog::{Logged, Numbers};
pub use recorder::{Command, Recorder};

/// How many hosts there are.
pub const HOSTS: usize = 3;

/// What kind of installation a fleet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Whether it has a Valkey beside MongoDB.
    pub valkey: bool,
    /// Where the controllers' keys are, and with them the root.
    pub layout: Layout,
}

impl Profile {
    /// As the guide has it.
    pub const GUIDE: Self = Self { valkey: true, layout: Layout::Guide };
    /// As later versions have it: everything is in MongoDB.
    pub const LATER: Self = Self { valkey: false, layout: Layout::Later };
}

/// The first host has the coordinator and the store; all have a member of MongoDB's replica set, a controller and an agent, and two
/// have a Valkey. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Fleet {
    /// The hosts.
    pub rack: Rack,
    /// What it is.
    pub profile: Profile,
    /// What stands for a daemon, on no host.
    pub recorder: Recorder,
}

/// What is on all hosts.
#[derive(Debug, PartialEq, Eq)]
pub struct Everything {
    /// The datastores, and the files of the first host.
    first: Snapshot,
    /// The files of the others.
    others: Vec<equality::Things>,
}

impl Everything {
    /// What a restore of this over `live` leaves: the same, but for what the restore laws correct.
    #[must_use]
    pub fn restored_over(&self, live: &Self) -> Self {
        Self { first: self.first.restored_over(&live.first), others: self.others.clone() }
    }

    /// What differs in the files of `after`, in words; its datastores may go on.
    pub fn differences_of_files(&self, after: &Self) -> Vec<String> {
        let files_of = |of: &Self| Self {
            first: Snapshot { files: of.first.files.clone(), ..Snapshot::default() },
            others: of.others.clone(),
        };
        files_of(self).differences(&files_of(after))
    }

    /// What differs in `after`, in words.
    pub fn differences(&self, after: &Self) -> Vec<String> {
        let files = |things: &equality::Things| Snapshot { files: things.clone(), ..Snapshot::default() };
        let others = self.others.iter().zip(&after.others).flat_map(|(was, is)| files(was).differences(&files(is)));
        self.first.differences(&after.first).into_iter().chain(others).collect()
    }
}

impl Fleet {
    /// Hosts with data as in the guide, everything enrolled by `prexorctl setup`, controllers stopped.
    pub fn start() -> Self {
        Self::start_as(Profile::GUIDE)
    }

    /// As [`Fleet::start`], of this kind.
    pub fn start_as(profile: Profile) -> Self {
        let servers = binaries();
        let programs = program("prexor-agent").parent().expect("a directory").to_owned();
        let above = |path: &PathBuf| path.ancestors().nth(2).expect("bin lies in a directory").to_owned();
        let mut shared = vec![programs, above(&servers.mongod), above(&servers.valkey)];
        // Servers from PATH are in every Debian root's /usr already, or cannot be shared.
        shared.retain(|path| !path.starts_with("/usr"));
        let needs = Needs { packages: &["libatomic1", "libcurl4", "libfaketime", "liblzma5", "libssl3"], shared };
        let rack = Rack::up(HOSTS as u8, &needs);
        let recorder = Recorder::start(&rack);
        let fleet = Self { rack, profile, recorder };
        fleet.on_all_hosts(|number| fleet.install(number));
        fleet.unite_datastores();
        fleet.fill();
        fleet.restart_coordinator("");
        fleet.on_all_hosts(|number| drop(fleet.setup(number).ok()));
        fleet
    }

    /// Does the same for every host, on all of them at once.
    fn on_all_hosts(&self, work: impl Fn(usize) + Sync) {
        std::thread::scope(|scope| {
            for number in 1..=HOSTS {
                let work = &work;
                scope.spawn(move || work(number));
            }
        });
    }

    /// Puts a new machine in the place of a host that was killed: our programs and the controller's are installed there, which has
    /// an empty root and has never run.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn replace(&mut self, number: usize, hostname: &str) {
        self.rack.replace(number, hostname);
        self.install(number);
        fs::create_dir_all(self.rack.host(number).path(self.root())).expect("the root");
    }

    /// Adds lines to a host's `agent.yml`, and has its agent read them.
    ///
    /// # Panics
    /// When the host refuses.
    pub fn configure_agent(&self, number: usize, more: &str) {
        let (host, config) = (self.rack.host(number), "/etc/prexor-agent/agent.yml");
        let text = fs::read_to_string(host.path(config)).expect("agent.yml");
        host.write(config, &format!("{text}{more}"));
        self.restart_agent(number);
    }

    /// Starts a host's agent anew, with its unit as it is on the disk now, and waits until it is reachable.
    ///
    /// # Panics
    /// When it does not come back.
    pub fn restart_agent(&self, number: usize) {
        let host = self.rack.host(number);
        host.exec(&["systemctl", "daemon-reload"]).ok();
        host.exec(&["systemctl", "restart", "prexor-agent"]).ok();
        self.until_reachable(number);
    }

    fn install(&self, number: usize) {
        let host = self.rack.host(number);
        install(host);
        controllers::install(host, self.root(), &self.recorder.address);
        self.install_datastores(number);
    }

    /// Where the controllers' files are.
    pub fn root(&self) -> &'static str {
        match self.profile.layout {
            Layout::Guide => "/etc/prexorcloud",
            Layout::Later => "/opt/prexorcloud/controller",
        }
    }

    /// A path below the root of a host's controller, as seen from here.
    pub fn file(&self, number: usize, path: &str) -> PathBuf {
        self.rack.host(number).path(self.root()).join(path)
    }

    /// `prexorctl` on the first host, as root there.
    pub fn ctl(&self, args: &[&str]) -> Said {
        self.rack.host(1).exec(&[&["prexorctl"], args].concat())
    }

    /// Creates a backup and returns its id.
    ///
    /// # Panics
    /// When that fails.
    pub fn backup(&self) -> String {
        let said = self.ctl(&["backup", "create", "--json"]).ok();
        said.json()["id"].as_str().expect("an id").to_owned()
    }

    /// Whose files are in a backup.
    ///
    /// # Panics
    /// When there is no such backup.
    pub fn nodes_of(&self, backup: &str) -> Vec<String> {
        let shown = self.ctl(&["backup", "show", backup, "--json"]).ok().json();
        let artifacts = shown["artifacts"].as_array().expect("artifacts").iter();
        let mut nodes: Vec<_> = artifacts.filter_map(|a| a["node"].as_str().map(str::to_owned)).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Waits until the coordinator reaches a host's agent.
    pub fn until_reachable(&self, number: usize) {
        let name = &self.rack.host(number).name;
        wait(&format!("{name} to be reachable"), || self.node(number)["reachable"] == true);
    }

    /// What `prexorctl status` says of a host; null when that is none of the nodes.
    ///
    /// # Panics
    /// When there is no status.
    pub fn node(&self, number: usize) -> serde_json::Value {
        let status = self.ctl(&["status", "--json"]).ok().json();
        let mut nodes = status["nodes"].as_array().expect("nodes").iter();
        nodes.find(|node| node["name"] == self.rack.host(number).name.as_str()).cloned().unwrap_or_default()
    }

    /// All there is now; logs are left out.
    ///
    /// # Panics
    /// When something cannot be read.
    pub fn snapshot(&self) -> Everything {
        let roots: Vec<PathBuf> = (1..=HOSTS).map(|number| self.file(number, "")).collect();
        let files = |root: &PathBuf| match root.exists() {
            true => equality::files(root, dataset::EXCLUDED).expect("the files"),
            false => equality::Things::new(),
        };
        let mut files = roots.iter().map(files);
        let (mongo, valkey) = (self.mongo_uri(), self.valkey());
        let mut first = self.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&mongo).await.expect("MongoDB");
            let mongo = equality::mongo(&client, DATABASE).await.expect("the database");
            let valkey = match Self::resp(valkey.as_deref()).await {
                Some(mut resp) => equality::valkey(&mut resp).await.expect("the keys"),
                None => equality::Things::new(),
            };
            Snapshot { mongo, valkey, ..Snapshot::default() }
        });
        first.files = files.next().expect("the first host");
        Everything { first, others: files.collect() }
    }

    /// Drops the database, flushes Valkey, and destroys the controller's files on every host: one loses all but its logs, one has
    /// them scrambled, one loses the root itself. No `controller.yml` can be read any more.
    ///
    /// # Panics
    /// When something resists.
    pub fn wreck(&self) {
        self.wreck_datastores();
        dataset::destroy_files(&self.file(1, "")).expect("files to remove");
        scramble(&self.file(2, "")).expect("files to scramble");
        fs::remove_dir_all(self.file(3, "")).expect("a root to remove");
    }

    /// Drops the database and flushes Valkey.
    ///
    /// # Panics
    /// When something resists.
    pub fn wreck_datastores(&self) {
        let (mongo, valkey) = (self.mongo_uri(), self.valkey());
        self.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&mongo).await.expect("MongoDB");
            dataset::destroy_mongo(&client, DATABASE).await.expect("destruction");
            if let Some(mut resp) = Self::resp(valkey.as_deref()).await {
                dataset::destroy_valkey(&mut resp).await.expect("destruction");
            }
        });
    }

    /// Whether a unit runs on a host.
    pub fn is_active(&self, host: usize, unit: &str) -> bool {
        self.rack.host(host).exec(&["systemctl", "is-active", unit]).out.trim() == "active"
    }

    /// Every one of our processes' logs on a host.
    pub fn journal(&self, host: usize) -> String {
        self.rack.host(host).exec(&["journalctl", "--no-pager", "-u", "prexor-*", "-u", "valkey"]).out
    }

    fn site(&self) -> Site {
        Site {
            layout: self.profile.layout,
            mongo_uri: self.mongo_uri(),
            database: DATABASE.to_owned(),
            valkey_uri: self.valkey(),
        }
    }

    /// Every controller finds the same datastores, and has a uuid and a port of its own.
    fn write_controller_yml(&self, number: usize) {
        let path = self.file(number, CONTROLLER_YML);
        dataset::write_controller_yml(&self.file(number, ""), &self.site()).expect("controller.yml");
        if number > 1 {
            let uuid = format!("00000000-0000-4000-8000-00000000000{number}");
            let port = format!("port: {}", controllers::port(number));
            let text = fs::read_to_string(&path).expect("controller.yml");
            let text = text.replace(dataset::CONTROLLER_UUID, &uuid).replace("port: 8080", &port);
            fs::write(path, text).expect("controller.yml");
        }
    }

    fn fill(&self) {
        let root = self.file(1, "");
        fs::create_dir_all(&root).expect("the root");
        self.fill_datastores();
        for number in 2..=HOSTS {
            self.write_controller_yml(number);
            for n in 0..50 {
                let path = format!("{}/templates/t{n}/server.properties", self.root());
                self.rack.host(number).write(&path, &format!("motd=h{number} {n}\n"));
            }
        }
    }

    /// Writes the coordinator's configuration with these further lines, starts it anew and waits until it answers.
    pub fn restart_coordinator(&self, more: &str) {
        let (host, address) = (self.rack.host(1), &self.rack.host(1).address);
        let config = format!("cluster: test\nlisten:\n  api: {address}:9443\n  enrolment: {address}:9444\n{more}");
        host.write("/etc/prexor-coordinator/coordinator.yml", &config);
        host.exec(&["systemctl", "enable", "prexor-coordinator"]).ok();
        host.exec(&["systemctl", "restart", "prexor-coordinator"]).ok();
        wait("the coordinator to answer", || self.ctl(&["status"]).code == 0);
    }

    /// `prexorctl setup` on a host, with a token for it.
    pub fn setup(&self, number: usize) -> Said {
        self.setup_with(number, &[])
    }

    /// As [`Fleet::setup`], on a machine that has no `controller.yml` yet to say where the controller's root is.
    pub fn setup_new_machine(&self, number: usize) -> Said {
        self.setup_with(number, &["--root", self.root()])
    }

    fn setup_with(&self, number: usize, more: &[&str]) -> Said {
        let host = self.rack.host(number);
        let coordinator = format!("{}:9444", self.rack.host(1).address);
        let advertise = format!("{}:9445", host.address);
        self.bring_token(number, &["--node", &host.name, "--ttl", "10m"]);
        let setup = ["prexorctl", "setup", "--coordinator", &coordinator, "--token-file", "/root/token"];
        host.exec(&[&setup[..], &["--node", &host.name, "--advertise", &advertise], more].concat())
    }

    /// The two commands that bring a host back: `prexorctl token create --description rejoin --ttl 1h` on the coordinator's host
    /// and `prexorctl setup --rejoin` on this one.
    pub fn rejoin(&self, number: usize) -> Said {
        self.bring_token(number, &["--description", "rejoin", "--ttl", "1h"]);
        self.rack.host(number).exec(&["prexorctl", "setup", "--rejoin", "--token-file", "/root/token", "--json"])
    }

    /// Makes a token on the first host and carries it to another.
    fn bring_token(&self, number: usize, args: &[&str]) {
        let said = self.ctl(&[&["token", "create", "--json"], args].concat()).ok().json();
        self.rack.host(number).write("/root/token", said["token"].as_str().expect("a token"));
    }
}

/// Our programs with their units.
fn install(host: &Host) {
    for name in ["prexor-coordinator", "prexor-agent", "prexorctl"] {
        let target = host.path("/usr/bin").join(name);
        std::os::unix::fs::symlink(program(name), target).expect("a link to the program");
    }
    for name in ["prexor-coordinator", "prexor-agent"] {
        let text = fs::read_to_string(repository().join(format!("deploy/systemd/{name}.service"))).expect("the unit");
        host.write(&format!("/usr/lib/systemd/system/{name}.service"), &text);
    }
}

/// Writes nonsense over every other file and takes the rest away, but for the directories.
fn scramble(dir: &Path) -> io::Result<()> {
    let mut entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for (n, entry) in entries.iter().enumerate() {
        match entry.file_type()?.is_dir() {
            true => scramble(&entry.path())?,
            false if n % 2 == 0 => fs::write(entry.path(), "\0\u{fffd}}{ scrambled")?,
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::write(dir.join("born-after-the-backup"), "x")
}

/// Asks again and again until the answer is yes.
///
/// # Panics
/// When it is still no after [`PATIENCE`].
pub fn wait(what: &str, ask: impl FnMut() -> bool) {
    wait_within(PATIENCE, what, ask);
}

/// Asks again and again until the answer is yes.
fn wait_within(limit: Duration, what: &str, mut ask: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !ask() {
        assert!(begun.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
