//! The whole product on several hosts, each with a real systemd: our programs run from their units, the datastores from units of
//! theirs, and so does a stand-in for PrexorCloud's controller.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use mongodb::{
    Client,
    bson::{Document, doc},
};

use crate::{
    cluster::{Said, program},
    dataset::{self, DATABASE, Layout, Site, Size},
    equality::{self, Snapshot},
    resp::Resp,
    rig::{Host, Needs, Rack},
    servers::{PATIENCE, binaries, repository, wait_until},
};

mod controllers;
pub mod matrix;

pub use controllers::{CONTROLLER_YML, LEASE, LEASE_TOKEN, Logged, NOT_READY, UNIT, WRITES};

const VALKEY_PASSWORD: &str = "valkey-secret";
/// Where the controllers' files are.
const ROOT: &str = "/etc/prexorcloud";

/// The first host has the datastores, the coordinator and the store; all have a controller and an agent. Everything ends when it
/// is dropped.
#[derive(Debug)]
pub struct Fleet {
    /// The hosts.
    pub rack: Rack,
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
    /// Hosts with data, everything enrolled by `prexorctl setup`, controllers stopped.
    pub fn start(hosts: u8) -> Self {
        let servers = binaries();
        let programs = program("prexor-agent").parent().expect("a directory").to_owned();
        let above = |path: &PathBuf| path.ancestors().nth(2).expect("bin lies in a directory").to_owned();
        let mut shared = vec![programs, above(&servers.mongod), above(&servers.valkey)];
        // Servers from PATH are in every Debian root's /usr already, or cannot be shared.
        shared.retain(|path| !path.starts_with("/usr"));
        let needs = Needs { packages: &["libatomic1", "libcurl4", "libfaketime", "liblzma5", "libssl3"], shared };
        let fleet = Self { rack: Rack::up(hosts, &needs) };
        (1..=usize::from(hosts)).for_each(|number| fleet.install(number));
        fleet.start_datastores();
        fleet.fill();
        fleet.restart_coordinator("");
        for number in 1..=usize::from(hosts) {
            fleet.setup(number).ok();
        }
        fleet
    }

    /// Puts a new machine in the place of a host that was killed: our programs and the controller's are installed there, which has
    /// an empty root and has never run.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn replace(&mut self, number: usize, hostname: &str) {
        self.rack.replace(number, hostname);
        self.install(number);
        fs::create_dir_all(self.rack.host(number).path(ROOT)).expect("the root");
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
        controllers::install(host, controllers::port(number), &self.replica_set_uri(), &self.valkey_uri());
        host.exec(&["systemctl", "daemon-reload"]).ok();
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
        let roots: Vec<PathBuf> = self.rack.hosts().iter().map(|h| h.path(ROOT)).collect();
        let files = |root: &PathBuf| equality::files(root, dataset::EXCLUDED).expect("the files");
        let others = roots[1..].iter().map(files).collect();
        let (mongo, valkey) = (self.mongo_uri(), self.valkey_uri());
        let first = self.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&mongo).await.expect("MongoDB");
            let mut resp = Resp::connect(&valkey).await.expect("Valkey");
            Snapshot::take(&client, DATABASE, Some(&mut resp), &roots[0], dataset::EXCLUDED).await.expect("a snapshot")
        });
        Everything { first, others }
    }

    /// Drops the database, flushes Valkey, and removes the controller's files on every host.
    ///
    /// # Panics
    /// When something resists.
    pub fn wreck(&self) {
        let root = self.rack.host(1).path(ROOT);
        let (mongo, valkey) = (self.mongo_uri(), self.valkey_uri());
        self.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&mongo).await.expect("MongoDB");
            let mut resp = Resp::connect(&valkey).await.expect("Valkey");
            dataset::destroy(&client, DATABASE, Some(&mut resp), &root).await.expect("destruction");
        });
        // The agent finds its servers by this file; without it an operator would write it first.
        self.write_controller_yml(1);
        for host in &self.rack.hosts()[1..] {
            fs::remove_dir_all(host.path("/etc/prexorcloud/templates")).expect("files to remove");
            host.write("/etc/prexorcloud/templates/born-after-the-backup", "x");
        }
    }

    /// Whether a unit runs on a host.
    pub fn is_active(&self, host: usize, unit: &str) -> bool {
        self.rack.host(host).exec(&["systemctl", "is-active", unit]).out.trim() == "active"
    }

    /// Starts Valkey anew and waits until it answers.
    pub fn restart_valkey(&self) {
        self.rack.host(1).exec(&["systemctl", "restart", "valkey"]).ok();
        let valkey = self.valkey_uri();
        self.rack.on_the_wire(async move || answers(&valkey).await);
    }

    /// Every one of our processes' logs on a host.
    pub fn journal(&self, host: usize) -> String {
        self.rack.host(host).exec(&["journalctl", "--no-pager", "-u", "prexor-*", "-u", "valkey"]).out
    }

    /// What is in the database for a restore that is not finished.
    pub fn temporary_collections(&self) -> usize {
        let uri = self.mongo_uri();
        self.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&uri).await.expect("MongoDB");
            let names = client.database(DATABASE).list_collection_names().await.expect("names");
            names.iter().filter(|n| n.starts_with("_prexor_")).count()
        })
    }

    fn mongo_uri(&self) -> String {
        format!("mongodb://{}:27017/?directConnection=true", self.rack.host(1).address)
    }

    fn replica_set_uri(&self) -> String {
        format!("mongodb://{}:27017/?replicaSet=rs0", self.rack.host(1).address)
    }

    fn valkey_uri(&self) -> String {
        format!("redis://:{VALKEY_PASSWORD}@{}:6379", self.rack.host(1).address)
    }

    fn site(&self) -> Site {
        Site {
            layout: Layout::Guide,
            mongo_uri: self.replica_set_uri(),
            database: DATABASE.to_owned(),
            valkey_uri: Some(self.valkey_uri()),
        }
    }

    /// On other hosts than the first, a controller of its own that leaves the datastores to the first one's agent.
    fn write_controller_yml(&self, number: usize) {
        let host = self.rack.host(number);
        if number == 1 {
            return dataset::write_controller_yml(&host.path(ROOT), &self.site()).expect("controller.yml");
        }
        let uuid = format!("00000000-0000-4000-8000-00000000000{number}");
        let (cluster, port) = (dataset::CLUSTER_ID, controllers::port(number));
        host.write(CONTROLLER_YML, &format!("uuid: {uuid}\nhttp:\n  port: {port}\ncluster:\n  id: {cluster}\n"));
    }

    fn start_datastores(&self) {
        let (host, servers) = (self.rack.host(1), binaries());
        let mongod = servers.mongod.display();
        host.exec(&["mkdir", "-p", "/var/lib/mongodb", "/var/lib/valkey"]).ok();
        unit(
            host,
            "mongod",
            &format!("{mongod} --dbpath /var/lib/mongodb --bind_ip_all --replSet rs0 --wiredTigerCacheSizeGB 0.25"),
        );
        let valkey = servers.valkey.display();
        unit(
            host,
            "valkey",
            &format!("{valkey} --dir /var/lib/valkey --bind 0.0.0.0 --appendonly yes --requirepass {VALKEY_PASSWORD}"),
        );
        let (mongo, valkey, member) = (self.mongo_uri(), self.valkey_uri(), format!("{}:27017", host.address));
        self.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&mongo).await.expect("a URI");
            let admin = client.database("admin");
            let config = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": member }] };
            wait_until("mongod to take its configuration", PATIENCE, async || {
                admin.run_command(doc! { "replSetInitiate": &config }).await.is_ok()
            })
            .await;
            wait_until("mongod to be primary", PATIENCE, async || {
                let hello: Result<Document, _> = admin.run_command(doc! { "hello": 1 }).await;
                hello.is_ok_and(|h| h.get_bool("isWritablePrimary").unwrap_or(false))
            })
            .await;
            answers(&valkey).await;
        });
    }

    fn fill(&self) {
        let (site, root) = (self.site(), self.rack.host(1).path(ROOT));
        fs::create_dir_all(&root).expect("the root");
        let (mongo, valkey) = (self.mongo_uri(), self.valkey_uri());
        self.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&mongo).await.expect("MongoDB");
            let mut resp = Resp::connect(&valkey).await.expect("Valkey");
            dataset::fill(&client, DATABASE, Some(&mut resp), &root, &site, Size::SMALL).await.expect("data");
        });
        for (number, host) in (2..).zip(&self.rack.hosts()[1..]) {
            self.write_controller_yml(number);
            for n in 0..50 {
                host.write(&format!("{ROOT}/templates/t{n}/server.properties"), &format!("motd=h{number} {n}\n"));
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
        self.setup_with(number, &["--root", ROOT])
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

async fn answers(valkey: &str) {
    wait_until("Valkey to answer", PATIENCE, async || Resp::connect(valkey).await.is_ok()).await;
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

/// A server that systemd starts again whatever ends it, with the open files that MongoDB's own unit gives it: it aborts when it
/// has no more of them.
fn unit(host: &Host, name: &str, command: &str) {
    let text = format!(
        "[Service]\nExecStart={command}\nRestart=always\nRestartSec=1\nLimitNOFILE=64000\n[Install]\nWantedBy=multi-user.target\n"
    );
    host.write(&format!("/etc/systemd/system/{name}.service"), &text);
    host.exec(&["systemctl", "daemon-reload"]).ok();
    host.exec(&["systemctl", "enable", "--now", name]).ok();
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
