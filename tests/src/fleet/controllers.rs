//! The stand-in for PrexorCloud's controller (see `tests/src/bin/stand-in-controller.rs`): its unit on every host, and what it
//! leaves in the datastores.

use std::{collections::BTreeMap, time::Duration};

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

/// Says who a controller is.
pub const CONTROLLER_YML: &str = "/etc/prexorcloud/config/controller.yml";
/// The lease that they take in turns.
pub const LEASE: &str = "prexor:v1:lease:stand-in";
/// Its fencing counter.
pub const LEASE_TOKEN: &str = "prexor:v1:lease-token:stand-in";
/// The collection that they write.
pub const WRITES: &str = "stand_in_writes";
/// While it exists on a host, the controller there says that it is not ready.
pub const NOT_READY: &str = "/etc/stand-in-is-not-ready";
/// Its unit.
pub const UNIT: &str = "prexorcloud-controller";
/// After which a controller that does not answer is not ready.
const READINESS_LIMIT: Duration = Duration::from_secs(5);
/// Where the unknown controller answers.
const UNKNOWN_PORT: u16 = 8081;

/// Where a host's controller answers: PrexorCloud's port on the first one, on others what their controller.yml says.
pub(super) fn port(host: usize) -> u16 {
    if host == 1 { 8080 } else { 8090 }
}

/// An insert of a controller, or a renaming by a restore, as the oplog has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Logged {
    /// A controller's, with the fencing number that it bears.
    Write {
        /// The controller's uuid.
        controller: String,
        /// What it was given at its start.
        token: i64,
    },
    /// A collection was put in another's place, or away.
    Rename,
}

/// Writes the unit; it is neither enabled nor started.
pub(super) fn install(host: &Host, port: u16, mongo_uri: &str, valkey_uri: &str) {
    let program = program("stand-in-controller");
    std::os::unix::fs::symlink(program, host.path("/usr/bin/stand-in-controller")).expect("a link to the program");
    let text = format!(
        "[Unit]\nDescription=Stand-in for PrexorCloud's controller\nStartLimitIntervalSec=0\n[Service]\n\
         Environment=MONGO_URI={mongo_uri} VALKEY_URI={valkey_uri} LISTEN=0.0.0.0:{port}\n\
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
        let [mongo, valkey] = [("MONGO_URI", self.replica_set_uri()), ("VALKEY_URI", self.valkey_uri())]
            .map(|(name, value)| format!("--setenv={name}={value}"));
        let listen = format!("--setenv=LISTEN=0.0.0.0:{UNKNOWN_PORT}");
        let command = ["systemd-run", "--unit", "unknown", &mongo, &valkey, &listen, "/usr/bin/stand-in-controller"];
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

    /// Controllers' writes and restores' renamings, in the order in which the replica set took them.
    pub fn oplog(&self) -> Vec<Logged> {
        let uri = self.mongo_uri();
        self.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&uri).await.expect("MongoDB");
            let oplog = client.database("local").collection::<Document>("oplog.rs");
            let writes = doc! { "ns": format!("{DATABASE}.{WRITES}"), "op": "i" };
            let renames = doc! { "ns": format!("{DATABASE}.$cmd"), "o.renameCollection": { "$exists": true } };
            let found = oplog.find(doc! { "$or": [writes, renames] }).sort(doc! { "$natural": 1 }).await;
            let found: Vec<Document> = found.expect("the oplog").try_collect().await.expect("the oplog");
            found.iter().map(Logged::from).collect()
        })
    }

    /// The highest fencing number that the fence would give out next, less one.
    pub fn fencing_counter(&self) -> i64 {
        let uri = self.valkey_uri();
        self.rack.on_the_wire(async move || {
            let mut valkey = crate::resp::Resp::connect(&uri).await.expect("Valkey");
            valkey.call(&["GET", LEASE_TOKEN]).await.expect("a counter").text().parse().unwrap_or_default()
        })
    }

    /// What the controllers have written that is there, by controller, fencing number and its own numbering.
    pub fn writes(&self) -> BTreeMap<(String, i64), Vec<i64>> {
        let uri = self.mongo_uri();
        self.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&uri).await.expect("MongoDB");
            let all = client.database(DATABASE).collection::<Document>(WRITES).find(doc! {}).await;
            let all: Vec<Document> = all.expect("writes").try_collect().await.expect("writes");
            let mut out: BTreeMap<_, Vec<i64>> = BTreeMap::new();
            for write in all {
                let controller = write.get_str("controller").expect("a controller").to_owned();
                let key = (controller, write.get_i64("token").expect("a token"));
                out.entry(key).or_default().push(write.get_i64("seq").expect("a number"));
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
        self.first.mongo.remove(WRITES);
        self.first.valkey.retain(|key, _| !key.ends_with(LEASE) && !key.ends_with(LEASE_TOKEN));
        self
    }
}

impl From<&Document> for Logged {
    fn from(entry: &Document) -> Self {
        let o = entry.get_document("o").expect("an operation");
        match o.get_i64("token") {
            Ok(token) => Self::Write { controller: o.get_str("controller").unwrap_or_default().to_owned(), token },
            Err(_) => Self::Rename,
        }
    }
}

async fn readiness(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /api/v1/system/ready HTTP/1.1\r\nHost: controller\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") && stream.read_buf(&mut answer).await? > 0 {}
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
