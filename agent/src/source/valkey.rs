//! Valkey (or Redis) as a source: captured as an RDB file, that of a save made for it, or what a replica gets, or one put
//! together key by key; restored by exchanging the files that the server loads when it starts, or key by key while it runs.
//!
//! Exchanging files needs sight of the server's data directory; the other ways do not. It changes no setting of the
//! server but for the seconds that `reread` says, and knows nothing of RPCs, jobs or the coordinator.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use prexor_format::{
    artifact::ArtifactKind,
    laws::valkey::{LISTED_MAX, weight},
};
use prexor_proto::facts;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Captured, Inspection, Source, SourceError};
use crate::{
    arriving::Arriving, connection::ConnectionString, restore_unit::RestoreUnit, services::Services, sink::ArtifactSink,
};

mod address;
mod capture;
mod client;
mod keys;
mod laws;
mod live;
mod load;
mod place;
mod prepare;
mod raw;
mod ready;
mod replication;
mod reread;
mod restore;
mod save;
mod scan;
mod sessions;
mod site;
mod verify;
mod versions;
mod way;
mod wire;

use address::Address;
use client::Connection;
use restore::Restore;
use site::Site;

/// How long a look at all keys may take while planning.
const LAWS_TIMEOUT: Duration = Duration::from_secs(6);

/// Where Valkey is.
#[derive(Clone, Default)]
pub struct ValkeyConfig {
    /// `redis://[user][:password]@host[:port]`, `rediss://...` or `unix://[user][:password]@/path`.
    pub uri: ConnectionString,
    /// The server's data directory as this host sees it, where `CONFIG GET dir` is forbidden or names another place.
    pub data_dir: Option<PathBuf>,
    /// How to capture.
    pub capture: CaptureWay,
    /// TLS.
    pub tls: ValkeyTls,
}

/// How a capture obtains the bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaptureWay {
    /// The first of the others that the server and this host allow.
    #[default]
    Auto,
    /// The file of a BGSAVE; needs sight of the server's data directory.
    Bgsave,
    /// The snapshot that a replica gets; needs SYNC or PSYNC.
    Replication,
    /// Key by key with SCAN and DUMP: no single point in time.
    Scan,
}

/// TLS towards the server. All paths are absolute, all files PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValkeyTls {
    /// The CAs that may have signed the server's certificate; by default those of the system.
    pub ca: Option<PathBuf>,
    /// A certificate to show (with its chain), for servers that ask for one.
    pub certificate: Option<PathBuf>,
    /// The certificate's key.
    pub key: Option<PathBuf>,
}

impl fmt::Debug for ValkeyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValkeyConfig").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub struct ValkeySource {
    config: ValkeyConfig,
    services: Arc<dyn Services>,
    /// What `controller.yml` has controllers connect with.
    controllers: Option<ConnectionString>,
}

/// One lock for each unit that a verb was ever called for, held until the verb has ended, also when its caller went away.
static BUSY: Mutex<BTreeMap<PathBuf, Arc<tokio::sync::Mutex<()>>>> = Mutex::new(BTreeMap::new());

impl fmt::Debug for ValkeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValkeySource").field("config", &self.config).finish_non_exhaustive()
    }
}

impl ValkeySource {
    /// A source for the server at `config.uri`, which need not run yet. `services` stops and starts it.
    pub fn new(config: ValkeyConfig, services: Arc<dyn Services>) -> Self {
        Self { config, services, controllers: None }
    }

    /// Tells controllers by how they log in: with this URI of `controller.yml`.
    pub fn beside_controllers(self, uri: Option<ConnectionString>) -> Self {
        Self { controllers: uri, ..self }
    }

    fn address(&self) -> Result<Address, SourceError> {
        Address::parse(self.config.uri.expose(), &self.config.tls)
    }

    async fn connect(&self) -> Result<Connection, SourceError> {
        self.address()?.connect().await
    }

    /// Where the server keeps its data, if that is on this host. Hosts have the same directories, and the one here may be that of
    /// another server, such as a replica.
    async fn site(&self, connection: &Connection) -> Result<Site, SourceError> {
        let address = self.address()?;
        if self.config.data_dir.is_none() && !address.place.is_here().await {
            return Err(SourceError::Denied(format!(
                "Valkey at {address} runs on another host: run an agent there, or set valkey.data_dir where its directory is mounted"
            )));
        }
        Site::ask(connection, self.config.data_dir.as_deref()).await
    }

    async fn look(&self, facts: &mut BTreeMap<String, String>) -> Result<(), SourceError> {
        let connection = self.connect().await?;
        let info = connection.info().await?;
        let mut fact = |name: &str, value: String| facts.insert(name.to_owned(), value);
        fact(facts::SERVER_NAME, info.server_name().to_owned());
        fact(facts::SERVER_VERSION, info.server_version().to_owned());
        fact(facts::KEYS, info.keys().to_string());
        fact(facts::APPEND_ONLY, if info.append_only() { "yes" } else { "no" }.to_owned());
        for name in ["used_memory", "run_id"] {
            fact(name, info.text(name).to_owned());
        }
        fact(facts::ROLE, info.role().to_owned());
        if let Some(primary) = info.primary_out_of_reach() {
            fact(facts::CUT_OFF, primary);
        }
        if let Some(lag) = info.lag() {
            fact(facts::LAG, lag.to_string());
        }
        if let Ok(Some(limit)) = connection.setting("maxmemory").await {
            fact(facts::MAX_MEMORY, limit);
        }
        if let Some(modules) = connection.modules().await? {
            fact(facts::MODULES, modules.to_string());
        }
        let (way, because) = self.way(&connection).await?;
        fact(facts::RESTORE_WAY, way.as_str().to_owned());
        fact(facts::RESTORE_WAY_BECAUSE, because);
        if info.number("connected_slaves").is_some_and(|n| n > 0) {
            fact(facts::REPLICAS, info.text("connected_slaves").to_owned());
        }
        // Not needed for every way of capturing.
        if let Ok(site) = self.site(&connection).await {
            fact("dir", site.dir.display().to_string());
            fact("dbfilename", site.rdb.clone());
            if let Ok(rdb) = std::fs::metadata(site.rdb_path()) {
                fact(facts::BYTES, rdb.len().to_string());
            }
        }
        if info.loading() {
            return Err(self.address()?.loading());
        }
        fact(facts::CAPTURE, capture::foreseen(self, &connection).await?.to_string());
        Ok(())
    }

    /// What its keys say to the restore laws; nothing where that takes too long.
    async fn keys_by_law(&self, connection: &Connection) -> BTreeMap<String, String> {
        let mut live = match tokio::time::timeout(LAWS_TIMEOUT, laws::read(connection)).await {
            Ok(Ok(live)) => live,
            Ok(Err(error)) => {
                tracing::warn!(%error, "Valkey's keys could not be looked at");
                return BTreeMap::new();
            }
            Err(_) => return BTreeMap::new(),
        };
        // Their number is told with the families; the list may be long.
        live.state.revocations.clear();
        if live.state.issued.0.keys().map(|place| weight(&place.key)).sum::<u64>() > LISTED_MAX {
            tracing::warn!("there are too many fencing counters to list them in a plan");
            return BTreeMap::new();
        }
        let told =
            [(facts::LAWS, serde_json::to_string(&live.state)), (facts::LEASES, serde_json::to_string(&live.leases))];
        told.into_iter().filter_map(|(fact, json)| Some((fact.to_owned(), json.ok()?))).collect()
    }

    /// Runs a verb to its end whatever becomes of the caller; a repeated call waits for the one before it.
    async fn verb<T, F>(&self, unit: &RestoreUnit, verb: impl FnOnce(Restore) -> F) -> Result<T, SourceError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, SourceError>> + Send + 'static,
    {
        let lock =
            BUSY.lock().unwrap_or_else(PoisonError::into_inner).entry(unit.dir().to_owned()).or_default().clone();
        let held = lock.lock_owned().await;
        let verb = verb(Restore { source: self.clone(), unit: unit.clone() });
        let task = tokio::spawn(async move {
            let _held = held;
            verb.await
        });
        task.await.unwrap_or_else(|e| Err(SourceError::Failed(format!("a step of Valkey's restore broke down: {e}"))))
    }
}

#[async_trait]
impl Source for ValkeySource {
    fn kind(&self) -> ArtifactKind {
        ArtifactKind::Valkey
    }

    async fn inspect(&self) -> Inspection {
        let mut inspection = Inspection::default();
        match self.address() {
            Ok(address) => inspection.target = format!("Valkey on {address}"),
            Err(e) => {
                return Inspection { target: "Valkey".into(), problem: Some(e.to_string()), ..inspection };
            }
        }
        inspection.problem = self.look(&mut inspection.facts).await.err().map(|e| e.to_string());
        inspection
    }

    async fn inspect_laws(&self) -> BTreeMap<String, String> {
        let Ok(connection) = self.connect().await.inspect_err(|e| tracing::warn!("Valkey could not be looked at: {e}"))
        else {
            return BTreeMap::new();
        };
        let mut told = self.keys_by_law(&connection).await;
        match sessions::of(&connection, self.controllers.as_ref()).await {
            Ok(sessions) => {
                told.extend(serde_json::to_string(&sessions).ok().map(|json| (facts::SESSIONS.to_owned(), json)));
            }
            Err(error) => drop(told.insert(facts::SESSIONS_HIDDEN.to_owned(), error.to_string())),
        }
        told
    }

    async fn capture(&self, sink: ArtifactSink, cancel: CancellationToken) -> Result<Captured, SourceError> {
        capture::run(self, sink, cancel).await
    }

    async fn prepare(&self, unit: &RestoreUnit) -> Result<(), SourceError> {
        self.verb(unit, Restore::prepare).await
    }

    async fn takes_arriving(&self, unit: &RestoreUnit) -> bool {
        self.verb(unit, Restore::takes_arriving).await.unwrap_or_else(|error| {
            tracing::info!(%error, "Valkey's file is staged first");
            false
        })
    }

    async fn prepare_arriving(&self, unit: &RestoreUnit, file: Arriving) -> Result<(), SourceError> {
        self.verb(unit, |restore| restore.prepare_arriving(file)).await
    }

    async fn swap(&self, unit: &RestoreUnit) -> Result<(), SourceError> {
        self.verb(unit, Restore::swap).await
    }

    async fn revert(&self, unit: &RestoreUnit) -> Result<(), SourceError> {
        self.verb(unit, Restore::revert).await
    }

    async fn commit(&self, unit: &RestoreUnit) -> Result<(), SourceError> {
        self.verb(unit, Restore::commit).await
    }

    async fn check(&self, unit: &RestoreUnit) -> Result<Vec<String>, SourceError> {
        self.verb(unit, Restore::check).await
    }
}

/// Work on files, on a thread that may wait for them.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(SourceError::Failed(format!("work on Valkey's files broke down: {e}"))))
}
