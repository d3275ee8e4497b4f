//! mongod: standalone, or a replica set of one member with or without authentication.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command},
    time::Duration,
};

use mongodb::{
    Client,
    bson::{Document, doc},
    options::ClientOptions,
};
use rustix::process::Signal;
use tempfile::TempDir;

use super::{PATIENCE, SmallDisk, binaries, process, wait_for, wait_until};

/// The user that a server with authentication knows; it has the role `root`.
pub const MONGO_USER: &str = "prexor";
/// Its password, with characters that must be escaped in a URI.
pub const MONGO_PASSWORD: &str = "s3cret/p@ss:w%rd";

pub(super) const SET: &str = "rs0";

/// What to start.
#[derive(Debug, Clone, Default)]
pub struct MongodBuilder {
    replica_set: bool,
    auth: bool,
    member: bool,
    disk: Option<(PathBuf, Vec<String>)>,
    args: Vec<String>,
}

impl MongodBuilder {
    /// One of several members of a replica set, which somebody else initiates.
    pub(super) fn member(mut self) -> Self {
        self.member = true;
        self.replica_set()
    }

    /// Keeps its data on this disk.
    pub fn disk(mut self, disk: &SmallDisk) -> Self {
        self.disk = Some((disk.dir(), disk.enter()));
        self
    }

    /// A replica set of one member, so that snapshot reads and an oplog are there.
    pub fn replica_set(mut self) -> Self {
        self.replica_set = true;
        self
    }

    /// Clients must authenticate as [`MONGO_USER`]. Implies a replica set.
    pub fn auth(mut self) -> Self {
        self.auth = true;
        self.replica_set()
    }

    /// One more argument of mongod.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Starts it and waits until it takes writes.
    ///
    /// # Panics
    /// When it does not, with the end of its log.
    pub async fn start(self) -> Mongod {
        let dir = tempfile::Builder::new().prefix("prexor-mongod-").tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("db")).expect("a directory for the data");
        let key = dir.path().join("key");
        // Members of a set with authentication know each other by this file; the content does not matter here.
        fs::write(&key, format!("{}\n", "cHJleG9y".repeat(8))).expect("a key file");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).expect("mongod insists on a private key file");
        let mut server = Mongod { port: process::free_port(), dir, spec: self, child: None };
        server.launch().await;
        if server.spec.member {
            return server;
        }
        if server.spec.replica_set {
            initiate_replica_set(server.port).await;
        }
        if server.spec.auth {
            create_root_user(server.port, MONGO_USER, MONGO_PASSWORD).await;
        }
        server.wait_ready().await;
        server
    }
}

/// A running mongod; ended and removed when dropped.
#[derive(Debug)]
pub struct Mongod {
    port: u16,
    dir: TempDir,
    spec: MongodBuilder,
    child: Option<Child>,
}

impl Mongod {
    /// What to start: plain and standalone at first.
    pub fn builder() -> MongodBuilder {
        MongodBuilder::default()
    }

    /// A standalone server without authentication.
    pub async fn standalone() -> Self {
        Self::builder().start().await
    }

    /// A replica set of one member without authentication.
    pub async fn replica_set() -> Self {
        Self::builder().replica_set().start().await
    }

    /// A replica set of one member that asks for [`MONGO_USER`] and [`MONGO_PASSWORD`].
    pub async fn replica_set_with_auth() -> Self {
        Self::builder().auth().start().await
    }

    /// How to connect, with credentials and the set's name where there are such.
    pub fn uri(&self) -> String {
        let credentials = self.spec.auth.then_some((MONGO_USER, MONGO_PASSWORD));
        mongo_uri(self.port, credentials, self.spec.replica_set)
    }

    /// The same address with a wrong password.
    pub fn uri_with_wrong_password(&self) -> String {
        mongo_uri(self.port, Some((MONGO_USER, "wrong")), self.spec.replica_set)
    }

    /// The port on 127.0.0.1; it stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it keeps its data.
    pub fn dbpath(&self) -> PathBuf {
        self.spec.disk.as_ref().map_or_else(|| self.dir.path().join("db"), |(dir, _)| dir.clone())
    }

    /// The server's pid, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// A client of the driver.
    ///
    /// # Panics
    /// When the URI cannot be used.
    pub async fn client(&self) -> Client {
        let mut options = ClientOptions::parse(self.uri()).await.expect("our own URI parses");
        options.server_selection_timeout = Some(Duration::from_secs(10));
        Client::with_options(options).expect("our own options are valid")
    }

    /// Starts it again, on the same port and data; does nothing while it runs.
    ///
    /// # Panics
    /// When it does not take writes in time, with the end of its log.
    pub async fn start(&mut self) {
        if self.child.is_none() {
            self.launch().await;
            self.wait_ready().await;
        }
    }

    /// Ends it in good order.
    pub async fn stop(&mut self) {
        if let Some(child) = self.child.take() {
            process::end(child, Signal::TERM, PATIENCE).await;
        }
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(child) = self.child.take() {
            process::kill_now(child);
        }
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        process::tails(&[&self.path("mongod.log"), &self.path("output")])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the process and waits until it listens.
    async fn launch(&mut self) {
        let enter = self.spec.disk.as_ref().map_or(&[][..], |(_, enter)| enter);
        let mut words = enter.iter().map(OsString::from).chain([binaries().mongod.clone().into()]);
        let mut command = Command::new(words.next().expect("mongod is there"));
        command.args(words);
        command.arg("--dbpath").arg(self.dbpath()).arg("--logpath").arg(self.path("mongod.log"));
        command.args(["--logappend", "--bind_ip", "127.0.0.1", "--port", &self.port.to_string()]);
        command.arg("--unixSocketPrefix").arg(self.dir.path());
        // Small and quiet: many of them run side by side.
        command.args(["--wiredTigerCacheSizeGB", "0.25", "--setParameter", "diagnosticDataCollectionEnabled=false"]);
        if self.spec.replica_set {
            command.args(["--replSet", SET, "--oplogSize", "64"]);
        }
        if self.spec.auth {
            command.arg("--auth").arg("--keyFile").arg(self.path("key"));
        }
        command.args(&self.spec.args);
        self.child = Some(process::spawn(&mut command, &self.path("output")).expect("mongod can be started"));
        let client = direct(self.port).await;
        let what = format!("mongod on port {} to listen", self.port);
        let listening = wait_for(&what, PATIENCE, async || {
            if hello(&client).await.is_some() {
                return Some(true);
            }
            let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            ended.then_some(false)
        });
        assert!(listening.await, "mongod ended at its start\n{}", self.log_tail());
    }

    async fn wait_ready(&self) {
        if self.spec.member {
            return;
        }
        let client = direct(self.port).await;
        let what = format!("mongod on port {} to take writes", self.port);
        wait_until(&what, PATIENCE, async || is_primary(&client).await).await;
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `mongodb://user:password@127.0.0.1:port/?...`, escaped.
pub fn mongo_uri(port: u16, credentials: Option<(&str, &str)>, replica_set: bool) -> String {
    let login = credentials.map_or(String::new(), |(user, password)| format!("{}:{}@", escape(user), escape(password)));
    let mut options: Vec<String> = Vec::new();
    if replica_set {
        options.push(format!("replicaSet={SET}"));
    }
    if credentials.is_some() {
        options.push("authSource=admin".to_owned());
    }
    format!("mongodb://{login}127.0.0.1:{port}/?{}", options.join("&"))
}

fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

/// Makes the mongod on this port the only member of a replica set, and waits until it is primary. A set that exists
/// stays as it is.
///
/// # Panics
/// When the server refuses.
pub async fn initiate_replica_set(port: u16) {
    let client = direct(port).await;
    let config = doc! { "_id": SET, "members": [{ "_id": 0, "host": format!("127.0.0.1:{port}") }] };
    let done = client.database("admin").run_command(doc! { "replSetInitiate": config }).await;
    if let Err(e) = done {
        // 23 AlreadyInitialized; 13 Unauthorized: it has users already, so it was initiated before.
        assert!(matches!(code(&e), Some(23 | 13)), "replSetInitiate: {e}");
    }
    wait_until("the replica set's primary", PATIENCE, async || is_primary(&client).await).await;
}

/// Creates the first user, which the server allows without credentials from localhost. A user that exists stays.
///
/// # Panics
/// When the server refuses.
pub async fn create_root_user(port: u16, user: &str, password: &str) {
    let command = doc! { "createUser": user, "pwd": password, "roles": ["root"] };
    let admin = direct(port).await.database("admin");
    wait_until("the first user", PATIENCE, async || match admin.run_command(command.clone()).await {
        Ok(_) => true,
        // A machine that is busy with other things.
        Err(e) if code(&e).is_none() => false,
        Err(e) => {
            // 51003: exists; 13: the door for the first user is closed.
            assert!(matches!(code(&e), Some(51003 | 13)), "createUser: {e}");
            true
        }
    })
    .await;
}

fn code(error: &mongodb::error::Error) -> Option<i32> {
    match error.kind.as_ref() {
        mongodb::error::ErrorKind::Command(e) => Some(e.code),
        _ => None,
    }
}

/// A client that speaks to this one server, whatever set it is in, and without credentials.
pub(super) async fn direct(port: u16) -> Client {
    let mut options =
        ClientOptions::parse(format!("mongodb://127.0.0.1:{port}/?directConnection=true")).await.expect("a plain URI");
    options.server_selection_timeout = Some(Duration::from_millis(500));
    Client::with_options(options).expect("plain options")
}

async fn hello(client: &Client) -> Option<Document> {
    client.database("admin").run_command(doc! { "hello": 1 }).await.ok()
}

pub(super) async fn is_primary(client: &Client) -> bool {
    hello(client).await.is_some_and(|reply| reply.get_bool("isWritablePrimary").unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn data_survives_a_restart_and_a_kill() {
        let mut server = Mongod::replica_set_with_auth().await;
        let client = server.client().await;
        let numbers = client.database("t").collection::<Document>("numbers");
        numbers.insert_one(doc! { "n": 1 }).await.unwrap();
        server.stop().await;
        server.start().await;
        numbers.insert_one(doc! { "n": 2 }).await.unwrap();
        server.kill();
        server.start().await;
        assert_eq!(numbers.count_documents(doc! {}).await.unwrap(), 2);
        assert!(server.dbpath().join("WiredTiger").exists());
        let wrong = Client::with_uri_str(server.uri_with_wrong_password()).await.unwrap();
        assert!(wrong.list_database_names().await.is_err());
    }
}
