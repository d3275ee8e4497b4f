//! One connection to the server: commands and cursors as bytes, and errors in words.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bson::{Document, RawDocumentBuf, doc};
use mongodb::{
    Client, Database,
    error::{Error, ErrorKind},
    options::ClientOptions,
    raw_batch_cursor::RawBatchCursor,
};

use super::{MongoConfig, databases::is_name};
use crate::source::SourceError;

mod reading;
mod writing;

pub(super) use reading::Estimate;
pub use reading::ReadFrom;

/// How long a server may take to answer at all. Both ends are in one data centre, most often on one host.
const REACHABLE_WITHIN: Duration = Duration::from_secs(5);

/// By which our sessions are known.
pub(super) const APP_NAME: &str = "prexor-agent";

/// See [`Server::can_be_restored_onto`].
const OLDEST_RESTORED_ONTO: (u32, u32) = (5, 1);

/// `NamespaceNotFound`
pub(super) const NAMESPACE_NOT_FOUND: i32 = 26;
/// `QueryPlanKilled`: what an open cursor says when its collection is dropped.
pub(super) const QUERY_PLAN_KILLED: i32 = 175;
const UNAUTHORIZED: i32 = 13;
const CAPPED_POSITION_LOST: i32 = 136;
const KEY_NOT_FOUND: i32 = 211;
const SNAPSHOT_TOO_OLD: i32 = 239;
const SNAPSHOT_UNAVAILABLE: i32 = 246;
const AUTHENTICATION_FAILED: i32 = 18;
const OUT_OF_DISK_SPACE: i32 = 14031;

/// The configured database on a server that answers.
#[derive(Debug)]
pub(super) struct Server {
    client: Client,
    db: Database,
    /// `127.0.0.1:27017`, or several with commas.
    pub(super) place: String,
    /// `version` of buildInfo.
    pub(super) version: String,
    /// Absent on a standalone.
    pub(super) replica_set: Option<String>,
    /// See [`Self::accept_absent_members`].
    accepts_absent: AtomicBool,
}

impl Server {
    /// Connects, authenticates, and asks the server what it is.
    pub(super) async fn open(config: &MongoConfig) -> Result<Self, SourceError> {
        let options = options(config).await?;
        let client = Client::with_options(options.clone()).map_err(|e| bad_uri(&e))?;
        Self::on(client, config, &options).introduced().await
    }

    fn on(client: Client, config: &MongoConfig, options: &ClientOptions) -> Self {
        let place = options.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let (db, accepts_absent) = (client.database(&config.database), AtomicBool::new(false));
        Self { db, client, place, version: String::new(), replica_set: None, accepts_absent }
    }

    /// Asks the server what it is.
    async fn introduced(mut self) -> Result<Self, SourceError> {
        let hello = self.ask(doc! { "hello": 1 }).await?;
        if hello.get_str("msg").is_ok_and(|m| m == "isdbgrid") {
            return Err(SourceError::Failed(format!(
                "{} is a mongos: sharded clusters cannot be backed up with this product, point the agent at a replica set",
                self.place
            )));
        }
        self.replica_set = hello.get_str("setName").ok().map(str::to_owned);
        self.version = self.ask(doc! { "buildInfo": 1 }).await?.get_str("version").unwrap_or("?").to_owned();
        Ok(self)
    }

    /// The same server with another database.
    pub(super) fn on_database(&self, name: &str) -> Self {
        Self {
            client: self.client.clone(),
            db: self.client.database(name),
            place: self.place.clone(),
            version: self.version.clone(),
            replica_set: self.replica_set.clone(),
            accepts_absent: AtomicBool::new(self.accepts_absent.load(Ordering::Relaxed)),
        }
    }

    /// The database's name.
    pub(super) fn database(&self) -> &str {
        self.db.name()
    }

    /// `database prexorcloud on 127.0.0.1:27017`
    pub(super) fn target(&self) -> String {
        format!("database {} on {}", self.database(), self.place)
    }

    /// Whether collections can be swapped on it: before 5.1 an index cannot get its expiry by `collMod`, and so not at
    /// the swap (law L17).
    pub(super) fn can_be_restored_onto(&self) -> Result<(), SourceError> {
        let mut parts = self.version.split('.').map_while(|p| p.parse::<u32>().ok());
        match (parts.next(), parts.next()) {
            (Some(major), Some(minor)) if (major, minor) < OLDEST_RESTORED_ONTO => Err(SourceError::Invalid(format!(
                "MongoDB at {} is {}: a restore needs 6.0 or newer",
                self.place, self.version
            ))),
            _ => Ok(()),
        }
    }

    /// Runs a command that reads.
    pub(super) async fn ask(&self, command: Document) -> Result<Document, SourceError> {
        let doing = command.keys().next().cloned().unwrap_or_default();
        self.db.run_command(command).await.map_err(|e| self.explain(&e, &doing))
    }

    /// Runs a command on `admin` that reads; `None` when it fails, which callers can live with.
    pub(super) async fn ask_admin(&self, command: Document) -> Option<Document> {
        self.client.database("admin").run_command(command).await.ok()
    }

    /// Runs a command on `admin` that reads and must not fail. `doing` completes "cannot".
    pub(super) async fn ask_admin_or_fail(&self, command: Document, doing: &str) -> Result<Document, SourceError> {
        self.client.database("admin").run_command(command).await.map_err(|e| self.explain(&e, doing))
    }

    /// Opens a cursor that hands over reply batches as they came.
    pub(super) async fn cursor(&self, command: Vec<u8>) -> Result<RawBatchCursor, CursorError> {
        let command = raw(command).map_err(CursorError::Source)?;
        self.db.run_raw_cursor_command(command).batch().await.map_err(CursorError::Driver)
    }

    /// The server's clock, in milliseconds since the epoch.
    pub(super) async fn now(&self) -> Result<i64, SourceError> {
        let hello = self.ask(doc! { "hello": 1 }).await?;
        hello
            .get_datetime("localTime")
            .map(|t| t.timestamp_millis())
            .map_err(|_| SourceError::Failed(format!("{} does not tell its time in its reply to hello", self.place)))
    }

    /// An error of the driver in our words. `doing` completes "cannot".
    pub(super) fn explain(&self, error: &Error, doing: &str) -> SourceError {
        match error.kind.as_ref() {
            ErrorKind::Authentication { .. } => self.denied(),
            ErrorKind::Command(e) => self.by_code(e.code, &e.message, doing),
            ErrorKind::Io(e) => {
                SourceError::Unavailable(format!("the connection to MongoDB at {} broke: {e}", self.place))
            }
            ErrorKind::ServerSelection { .. } | ErrorKind::ConnectionPoolCleared { .. } => self.unreachable(error),
            _ => SourceError::Failed(format!("{}: cannot {doing}: {error}", self.target())),
        }
    }

    fn by_code(&self, code: i32, message: &str, doing: &str) -> SourceError {
        match code {
            AUTHENTICATION_FAILED => self.denied(),
            UNAUTHORIZED => SourceError::Denied(format!(
                "the account in the MongoDB URI may not {doing} on {}: grant it the roles backup, restore and \
                 readWrite ({message})",
                self.target()
            )),
            OUT_OF_DISK_SPACE => {
                SourceError::NoSpace(format!("the disk of MongoDB at {} is full: cannot {doing}", self.place))
            }
            // NotWritablePrimary, InterruptedAtShutdown, PrimarySteppedDown, ShutdownInProgress, ...DueToReplStateChange
            10107 | 13435 | 11600 | 189 | 91 | 11602 => SourceError::Unavailable(format!(
                "MongoDB at {} has no primary at this moment: cannot {doing}, try again ({message})",
                self.place
            )),
            _ => SourceError::Failed(format!("{}: cannot {doing}: {message} (code {code})", self.target())),
        }
    }

    fn denied(&self) -> SourceError {
        SourceError::Denied(format!(
            "MongoDB at {} refuses the user or password: check database.uri in controller.yml or mongo.uri in the \
             agent's config",
            self.place
        ))
    }

    fn unreachable(&self, error: &Error) -> SourceError {
        // The driver reports a refused password of a pooled connection as a server that cannot be selected.
        if error.to_string().contains("Authentication failed") {
            return self.denied();
        }
        SourceError::Unavailable(format!(
            "MongoDB at {} does not answer within {} seconds: check that it runs, and the address in database.uri in \
             controller.yml or mongo.uri in the agent's config",
            self.place,
            REACHABLE_WITHIN.as_secs()
        ))
    }
}

/// Why a cursor could not be opened or read, kept apart so that callers can tell a dropped collection.
#[derive(Debug)]
pub(super) enum CursorError {
    /// What the driver says.
    Driver(Error),
    /// Anything of our own.
    Source(SourceError),
}

impl CursorError {
    /// In our words.
    pub(super) fn explain(self, server: &Server, doing: &str) -> SourceError {
        match self {
            Self::Driver(e) => server.explain(&e, doing),
            Self::Source(e) => e,
        }
    }
}

/// What the driver is told, whatever the URI says; the URI's database has no part in it.
async fn options(config: &MongoConfig) -> Result<ClientOptions, SourceError> {
    let name = &config.database;
    if !is_name(name) {
        return Err(SourceError::Invalid(format!("'{name}' is no name of a MongoDB database")));
    }
    let mut options = ClientOptions::parse(config.uri.expose()).await.map_err(|e| bad_uri(&e))?;
    options.server_selection_timeout = Some(REACHABLE_WITHIN);
    options.connect_timeout = Some(REACHABLE_WITHIN);
    options.app_name = Some(APP_NAME.to_owned());
    Ok(options)
}

/// The code of a command's error.
fn code(error: &Error) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(e) => Some(e.code),
        _ => None,
    }
}

/// The driver's text may repeat parts of the URI, so it is not shown.
fn bad_uri(error: &Error) -> SourceError {
    match error.kind.as_ref() {
        ErrorKind::DnsResolve { .. } => SourceError::Unavailable(
            "the host name in the MongoDB URI cannot be resolved: check database.uri in controller.yml or mongo.uri in \
             the agent's config"
                .to_owned(),
        ),
        _ => SourceError::Invalid(
            "the MongoDB URI cannot be understood (not shown, it may hold a password): check database.uri in \
             controller.yml or mongo.uri in the agent's config; special characters in user and password are written \
             %XX"
                .to_owned(),
        ),
    }
}

fn raw(bytes: Vec<u8>) -> Result<RawDocumentBuf, SourceError> {
    RawDocumentBuf::from_bytes(bytes).map_err(|e| SourceError::Failed(format!("a command of ours is no BSON: {e}")))
}
