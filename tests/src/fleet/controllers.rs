//! The stand-in for PrexorCloud's controller (see `tests/src/bin/stand-in-controller.rs`): its unit and its configuration on every
//! host, and what it leaves in the datastores.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use mongodb::{
    Client,
    bson::{Document, doc},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Everything, Fleet, wait};
use crate::{cluster::program, dataset::DATABASE, rig::Host};

/// Says who a controller is; below its root.
pub const CONTROLLER_YML: &str = "config/controller.yml";
/// The lease that they take in turns.
pub const LEASE: &str = "prexor:v1:lease:stand-in";
/// Its fencing counter.
pub const LEASE_TOKEN: &str = "prexor:v1:lease-token:stand-in";
/// The collection that says who leads.
pub const LEADERSHIP: &str = "cluster_leadership";
/// The only record in it.
pub const LEADER: &str = "leader";
/// The collection that they write.
pub const WRITES: &str = "stand_in_writes";
/// While it exists on a host, the controller there says that it is not ready.
pub const NOT_READY: &str = "/etc/stand-in-is-not-ready";
/// Its unit.
pub const UNIT: &str = "prexorcloud-controller";
/// After which a controller that does not answer is not ready.
const READINESS_LIMIT: Duration = Duration::from_secs(5);
/// Where the unknown controller answers.
const UNKNOWN_PORT: &str = "8081";

/// Where a host's controller answers: PrexorCloud's port on the first one, on others what their controller.yml says.
pub(super) fn port(host: usize) -> u16 {
    if host == 1 { 8080 } else { 8090 }
}

/// What a stand-in controller reads in its `controller.yml`.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names are those of controller.yml")]
pub struct Config {
    pub uuid: String,
    pub cluster: String,
    pub mongo_uri: String,
    /// None in the profile without Valkey.
    pub valkey_uri: Option<String>,
    pub port: String,
}

impl Config {
    /// Reads it below a controller's root.
    ///
    /// # Errors
    /// When the file is not there, or something that is needed is not in it.
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join(CONTROLLER_YML);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut values: BTreeMap<(&str, &str), &str> = BTreeMap::new();
        let mut section = "";
        for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
            match key.strip_prefix("  ") {
                Some(key) => drop(values.insert((section, key), value.trim().trim_matches('"'))),
                None if value.is_empty() => section = key,
                None => drop(values.insert(("", key), value.trim())),
            }
        }
        let value = |section, key| values.get(&(section, key)).map(|v| (*v).to_owned());
        let needed =
            |section, key| value(section, key).with_context(|| format!("{}: no {section}.{key}", path.display()));
        Ok(Self {
            uuid: needed("", "uuid")?,
            cluster: needed("cluster", "id")?,
            mongo_uri: needed("database", "uri")?,
            valkey_uri: value("redis", "uri"),
            port: needed("http", "port")?,
        })
    }
}

/// Writes the unit; it is neither enabled nor started.
pub(super) fn install(host: &Host, root: &str, recorder: &str) {
    let program = program("stand-in-controller");
    std::os::unix::fs::symlink(program, host.path("/usr/bin/stand-in-controller")).expect("a link to the program");
    let text = format!(
        "[Unit]\nDescription=Stand-in for PrexorCloud's controller\nStartLimitIntervalSec=0\n[Service]\n\
         Environment=ROOT={root} RECORDER={recorder}\n\
         ExecStart=/usr/bin/stand-in-controller\nRestart=on-failure\nRestartSec=300ms\n[Install]\nWantedBy=multi-user.target\n"
    );
    host.write(&format!("/etc/systemd/system/{UNIT}.service"), &text);
}

impl Fleet {
    /// Enables and starts the controllers on these hosts, and waits until they are ready.
    pub fn start_controllers(&self, hosts: &[usize]) {
        for host in hosts {
            self.rack.host(*host).exec(&["systemctl", "enable", "--now", UNIT]).ok();
        }
        self.until_ready(hosts);
    }

    /// Stops and disables the controllers on these hosts.
    pub fn stop_controllers(&self, hosts: &[usize]) {
        for host in hosts {
            self.rack.host(*host).exec(&["systemctl", "disable", "--now", UNIT]).ok();
        }
    }

    /// Runs a controller that is not its host's unit, and waits until it writes.
    pub fn run_unknown_controller(&self, host: usize) {
        let [root, port] =
            [("ROOT", self.root()), ("PORT", UNKNOWN_PORT)].map(|(name, value)| format!("--setenv={name}={value}"));
        let recorder = format!("--setenv=RECORDER={}", self.recorder.address);
        let command = ["systemd-run", "--unit", "unknown", &root, &port, &recorder, "/usr/bin/stand-in-controller"];
        let before = self.writes().len();
        self.rack.host(host).exec(&command).ok();
        wait("it to write", || self.writes().len() > before);
    }

    /// Ends it.
    pub fn stop_unknown_controller(&self, host: usize) {
        self.rack.host(host).exec(&["systemctl", "stop", "unknown"]).ok();
    }

    /// Waits until the controllers on these hosts are ready.
    pub fn until_ready(&self, hosts: &[usize]) {
        for host in hosts {
            wait(&format!("the controller on h{host} to be ready"), || self.is_ready(*host));
        }
    }

    /// Whether the controller on a host says so now.
    pub fn is_ready(&self, host: usize) -> bool {
        let address = format!("{}:{}", self.rack.host(host).address, port(host));
        self.rack.on_the_wire(async move || {
            let line = tokio::time::timeout(READINESS_LIMIT, readiness(&address)).await;
            line.is_ok_and(|line| line.is_ok_and(|line| line.contains(" 200 ")))
        })
    }

    /// The pid of a host's controller; 0 while it is stopped.
    ///
    /// # Panics
    /// When systemd does not know.
    pub fn controller_pid(&self, host: usize) -> String {
        self.rack.host(host).exec(&["systemctl", "show", "--property=MainPID", "--value", UNIT]).ok().out
    }

    /// The controllers' uuids, each from its `controller.yml`.
    ///
    /// # Panics
    /// When one of them cannot be read.
    pub fn uuids(&self) -> Vec<String> {
        let roots = self.rack.hosts().iter().map(|host| host.path(self.root()));
        roots.map(|root: PathBuf| Config::read(&root).expect("controller.yml").uuid).collect()
    }

    /// What the controllers have written that is there: the numbers of the writes of each process of theirs.
    pub fn writes(&self) -> BTreeMap<i64, Vec<i64>> {
        let uri = self.mongo_uri();
        self.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&uri).await.expect("MongoDB");
            let all = client.database(DATABASE).collection::<Document>(WRITES).find(doc! {}).await;
            let all: Vec<Document> = all.expect("writes").try_collect().await.expect("writes");
            let mut out: BTreeMap<_, Vec<i64>> = BTreeMap::new();
            for write in all {
                let number = |field: &str| write.get_i64(field).expect("a number");
                out.entry(number("run")).or_default().push(number("seq"));
            }
            out.values_mut().for_each(|seqs| seqs.sort_unstable());
            out
        })
    }
}

impl Everything {
    /// All but what running controllers change.
    #[must_use]
    pub fn at_rest(mut self) -> Self {
        self.first.mongo.retain(|name, _| name != WRITES && name != LEADERSHIP);
        self.first.valkey.retain(|key, _| !key.ends_with(LEASE) && !key.ends_with(LEASE_TOKEN));
        self
    }
}

async fn readiness(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /api/v1/system/ready HTTP/1.1\r\nHost: controller\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") && stream.read_buf(&mut answer).await? > 0 {}
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Layout, Site, write_controller_yml};

    #[test]
    fn a_controller_reads_what_is_written_for_it() {
        let root = tempfile::tempdir().unwrap();
        let mut site = Site {
            layout: Layout::Guide,
            mongo_uri: "mongodb://a:27017,b:27017/?replicaSet=rs0".to_owned(),
            database: DATABASE.to_owned(),
            valkey_uri: Some("redis://:secret@a:6379".to_owned()),
        };
        write_controller_yml(root.path(), &site).unwrap();
        let config = Config::read(root.path()).unwrap();
        assert_eq!((config.mongo_uri, config.valkey_uri), (site.mongo_uri.clone(), site.valkey_uri.take()));
        assert_eq!((config.uuid.as_str(), config.port.as_str()), (crate::dataset::CONTROLLER_UUID, "8080"));
        write_controller_yml(root.path(), &site).unwrap();
        assert_eq!(Config::read(root.path()).unwrap().valkey_uri, None);
    }
}
