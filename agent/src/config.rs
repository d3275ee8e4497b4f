//! `agent.yml`: what an operator may set. Everything about the data is optional: the agent finds it in PrexorCloud's
//! own `controller.yml` (see [`crate::targets`]).

use std::{fmt, net::SocketAddr, path::PathBuf};

use prexor_format::{gzip::Level, id::NodeName, tree::Pattern};
use serde::{Deserialize, Serialize};

use crate::{
    connection::ConnectionString,
    services::ServicesConfig,
    source::{
        mongo::{Databases, ReadFrom},
        valkey::{CaptureWay, ValkeyTls},
    },
};

/// Where the configuration is when `--config` does not say otherwise.
pub const DEFAULT_PATH: &str = "/etc/prexor-agent/agent.yml";

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// This host's name in the backup system; as in its certificate.
    pub node: NodeName,
    /// The backup cluster's name; as in its certificate.
    pub cluster: String,
    /// Where the coordinator connects to.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Credential, staged artifacts and journals. Must lie outside everything that is restored (law L22).
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// `host:port` where this host enrolled: where `prexorctl setup --rejoin` finds the coordinator. The agent itself
    /// never dials it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<String>,
    /// `host:port` where the coordinator finds this host, as it was said when it enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// PrexorCloud's controller on this host.
    #[serde(default)]
    pub controller: ControllerConfig,
    /// MongoDB.
    #[serde(default)]
    pub mongo: MongoSettings,
    /// Valkey.
    #[serde(default)]
    pub valkey: ValkeySettings,
    /// The controller's files.
    #[serde(default)]
    pub filesystem: FilesystemSettings,
    /// How services are stopped and started.
    #[serde(default)]
    pub services: ServicesConfig,
}

/// `controller`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControllerConfig {
    /// Root directory of the installation; by default `/etc/prexorcloud` or `/opt/prexorcloud/controller`.
    pub root: Option<PathBuf>,
    /// A command, as an argument list, whose output names the controller's version (law L19); without it versions are not
    /// compared, since nothing in the installation says it.
    pub version_command: Vec<String>,
}

/// `mongo`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MongoSettings {
    /// `false`: this agent leaves MongoDB alone.
    pub enabled: bool,
    /// Connection string; by default that of `controller.yml`.
    pub uri: Option<ConnectionString>,
    /// Database; by default that of `controller.yml`, or `prexorcloud`.
    pub database: Option<String>,
    /// Which databases a backup holds: `default` (the one above), `all` (all but MongoDB's own), or a list of names.
    pub databases: Databases,
    /// How hard a capture compresses: `fast`, `balanced` (the size of `gzip -6`) or `small`. All are gzip.
    pub compression: Level,
    /// Which member of a replica set a capture reads from: `primary` or `secondary`.
    pub read_from: ReadFrom,
}

/// `valkey`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValkeySettings {
    /// `false`: this agent leaves Valkey alone.
    pub enabled: bool,
    /// Connection string; by default that of `controller.yml`.
    pub uri: Option<ConnectionString>,
    /// The server's data directory, where `CONFIG GET dir` is forbidden or the directory is mounted elsewhere.
    pub data_dir: Option<PathBuf>,
    /// How to capture; by default the best way that the server and this host allow.
    pub capture: CaptureWay,
    /// What TLS (`rediss://`) trusts and shows; by default the system's CAs and no certificate.
    pub tls: ValkeyTls,
}

/// `filesystem`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilesystemSettings {
    /// `false`: this agent leaves the files alone.
    pub enabled: bool,
    /// The directory that is captured; by default the controller's root.
    pub root: Option<PathBuf>,
    /// Further patterns to leave out, relative to the root; `logs` always is.
    pub exclude: Vec<Pattern>,
}

impl Default for MongoSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            uri: None,
            database: None,
            databases: Databases::default(),
            compression: Level::default(),
            read_from: ReadFrom::default(),
        }
    }
}

impl Default for ValkeySettings {
    fn default() -> Self {
        Self { enabled: true, uri: None, data_dir: None, capture: CaptureWay::Auto, tls: ValkeyTls::default() }
    }
}

impl Default for FilesystemSettings {
    fn default() -> Self {
        Self { enabled: true, root: None, exclude: Vec::new() }
    }
}

// Connection strings hold passwords.

impl fmt::Debug for MongoSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoSettings").field("database", &self.database).finish_non_exhaustive()
    }
}

impl fmt::Debug for ValkeySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValkeySettings")
            .field("data_dir", &self.data_dir)
            .field("capture", &self.capture)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 9445))
}

fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/prexor-agent")
}

impl AgentConfig {
    /// What the shape of the file cannot say.
    ///
    /// # Errors
    /// In words, naming the setting and what to do.
    pub fn validate(&self) -> Result<(), String> {
        let paths = [
            ("state_dir", Some(&self.state_dir)),
            ("controller.root", self.controller.root.as_ref()),
            ("valkey.data_dir", self.valkey.data_dir.as_ref()),
            ("valkey.tls.ca", self.valkey.tls.ca.as_ref()),
            ("valkey.tls.certificate", self.valkey.tls.certificate.as_ref()),
            ("valkey.tls.key", self.valkey.tls.key.as_ref()),
            ("filesystem.root", self.filesystem.root.as_ref()),
        ];
        for (name, path) in paths {
            if path.is_some_and(|p| !p.is_absolute()) {
                return Err(format!("{name} must be an absolute path"));
            }
        }
        for root in [&self.controller.root, &self.filesystem.root].into_iter().flatten() {
            if self.state_dir.starts_with(root) {
                return Err(format!(
                    "state_dir {} lies inside {}, which a restore replaces: move it, for example to {}",
                    self.state_dir.display(),
                    root.display(),
                    default_state_dir().display()
                ));
            }
        }
        if let Some(problem) = self.mongo.databases.problem() {
            return Err(problem);
        }
        crate::services::from_config(&self.services).map_err(|e| e.0).map(drop)
    }

    /// Where the certificate and its key are.
    pub fn credential_dir(&self) -> PathBuf {
        self.state_dir.join("credential")
    }
}
