//! The coordinator's configuration: read, checked as a whole before anything is opened or bound, then immutable.
//!
//! How YAML is read and how unknown keys are named is `prexor_daemon::config`'s.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Component, Path, PathBuf},
};

use prexor_daemon::{config, logging::Format};
use prexor_format::id::NodeName;
use serde::Deserialize;

mod limits;
mod retention;

pub use limits::{AgentLimits, JobLimits, Lifetimes, RecoveryPoints};
pub use retention::{Retention, Verification};

/// Where the configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/prexor-coordinator/coordinator.yml";

/// The file as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    cluster: NodeName,
    #[serde(default)]
    listen: Listen,
    #[serde(default)]
    advertise: Advertise,
    #[serde(default = "default_state_dir")]
    state_dir: PathBuf,
    #[serde(default)]
    store: StoreConfig,
    #[serde(default = "default_operator_config")]
    operator_config: PathBuf,
    #[serde(default)]
    jobs: JobLimits,
    #[serde(default)]
    agents: limits::RawAgents,
    #[serde(default)]
    certificates: limits::RawLifetimes,
    #[serde(default)]
    rpo: limits::RawRecoveryPoints,
    #[serde(default)]
    retention: retention::RawRetention,
    #[serde(default)]
    verify: retention::RawVerification,
    #[serde(default)]
    ca: RawCa,
    #[serde(default)]
    log: Log,
}

/// Where the coordinator listens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// For operators, with mutual TLS.
    pub api: SocketAddr,
    /// For new nodes and operators, who have no certificate yet.
    pub enrolment: SocketAddr,
}

impl Default for Listen {
    fn default() -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self { api: local(9443), enrolment: local(9444) }
    }
}

/// The backup CA.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawCa {
    passphrase_file: Option<PathBuf>,
}

/// How others reach what [`Listen`] binds, where that is not the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Advertise {
    /// `host:port` of the API.
    pub api: Option<String>,
    /// `host:port` of the enrolment listener.
    pub enrolment: Option<String>,
}

/// Where backups go.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// A local directory.
    pub path: PathBuf,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { path: "/var/backups/prexorcloud".into() }
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `text` or `json`.
    pub format: Format,
    /// `error`, `warn`, `info`, `debug` or `trace`, or `target=level,...`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: Format::default(), filter: "info".to_owned() }
    }
}

fn default_state_dir() -> PathBuf {
    "/var/lib/prexor-coordinator".into()
}

fn default_operator_config() -> PathBuf {
    prexor_transport::context::SYSTEM_CONFIG.into()
}

/// A configuration that makes sense.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name of the backup cluster, which stands in every certificate.
    pub cluster: String,
    /// Where to listen.
    pub listen: Listen,
    /// `host:port` under which operators reach the API.
    pub api_address: String,
    /// `host:port` under which new nodes reach the enrolment listener.
    pub enrolment_address: String,
    /// Catalog, CA and own credential; outside everything that a restore touches (law L22).
    pub state_dir: PathBuf,
    /// Where backups go.
    pub store: StoreConfig,
    /// Where the first operator's context is written at the first start.
    pub operator_config: PathBuf,
    /// How many jobs may wait.
    pub jobs: JobLimits,
    /// How long agents may be silent.
    pub agents: AgentLimits,
    /// How long certificates are good.
    pub certificates: Lifetimes,
    /// How old the newest complete backup may get.
    pub rpo: RecoveryPoints,
    /// How long backups are kept.
    pub retention: Retention,
    /// When backups are verified without anybody asking for it.
    pub verify: Verification,
    /// The file with the passphrase of the CA's key; `None`: the key lies in the clear, for root alone.
    pub ca_passphrase: Option<PathBuf>,
    /// What is logged.
    pub log: Log,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read as a configuration.
    #[error(transparent)]
    File(#[from] config::ConfigError),
    /// Its values make no sense together.
    #[error("{}: {problem}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which key, and what to write instead.
        problem: String,
    },
}

impl Config {
    /// Reads and checks a file. Touches nothing else.
    ///
    /// # Errors
    /// When the file cannot be read, has unknown or missing keys, or its values make no sense.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let raw: Raw = config::load(path)?;
        Self::validate(raw).map_err(|problem| ConfigError::Value { path: path.to_owned(), problem })
    }

    /// The catalog's file.
    pub fn catalog_path(&self) -> PathBuf {
        self.state_dir.join("catalog.sqlite")
    }

    /// The CA's directory.
    pub fn ca_dir(&self) -> PathBuf {
        self.state_dir.join("ca")
    }

    /// The directory of the coordinator's own credential.
    pub fn credential_dir(&self) -> PathBuf {
        self.state_dir.join("credential")
    }

    fn validate(raw: Raw) -> Result<Self, String> {
        let Listen { api, enrolment } = raw.listen;
        if api.port() == 0 || enrolment.port() == 0 {
            return Err("listen: port 0 would be another one at every start: name a port".to_owned());
        }
        if api == enrolment {
            return Err(format!("listen: api and enrolment are both {api}: give them different ports"));
        }
        let state_dir = absolute("state_dir", &raw.state_dir)?;
        let store = StoreConfig { path: absolute("store.path", &raw.store.path)? };
        let operator_config = absolute("operator_config", &raw.operator_config)?;
        if store.path == Path::new("/") || state_dir == Path::new("/") {
            return Err("state_dir and store.path need a directory of their own, not /".to_owned());
        }
        let ca_passphrase = raw.ca.passphrase_file.map(|path| absolute("ca.passphrase_file", &path)).transpose()?;
        let state = ("state_dir", &state_dir);
        let backups = ("store.path", &store.path);
        let mut apart = vec![(backups, state), (state, backups), (("operator_config", &operator_config), backups)];
        // Whoever had a copy of one of these would have the passphrase too.
        apart.extend(
            ca_passphrase.iter().flat_map(|p| [state, backups].map(|outer| (("ca.passphrase_file", p), outer))),
        );
        for ((inner, a), (outer, b)) in apart {
            if a.starts_with(b) {
                return Err(format!(
                    "{inner} ({}) lies within {outer} ({}): keep keys, catalog and backups apart",
                    a.display(),
                    b.display()
                ));
            }
        }
        Ok(Self {
            cluster: raw.cluster.to_string(),
            api_address: advertised("advertise.api", raw.advertise.api, api)?,
            enrolment_address: advertised("advertise.enrolment", raw.advertise.enrolment, enrolment)?,
            listen: raw.listen,
            state_dir,
            store,
            operator_config,
            jobs: raw.jobs,
            agents: AgentLimits::validate(&raw.agents)?,
            certificates: Lifetimes::validate(&raw.certificates)?,
            rpo: RecoveryPoints::validate(&raw.rpo)?,
            retention: Retention::validate(raw.retention)?,
            verify: Verification::validate(&raw.verify)?,
            ca_passphrase,
            log: raw.log,
        })
    }
}

/// An absolute path in one spelling.
fn absolute(key: &str, path: &Path) -> Result<PathBuf, String> {
    if !path.is_absolute() {
        return Err(format!("{key} is '{}': write an absolute path", path.display()));
    }
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(format!("{key} is '{}': write it without '..'", path.display()));
    }
    Ok(path.components().collect())
}

/// The address that others dial: the one that is configured, else the one that is bound, else this host's name.
fn advertised(key: &str, configured: Option<String>, bound: SocketAddr) -> Result<String, String> {
    if let Some(address) = configured {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        return match port {
            Some(Ok(1..)) => Ok(address),
            _ => Err(format!("{key} is '{address}': write host:port")),
        };
    }
    let everywhere: [IpAddr; 2] = [[0; 4].into(), [0u16; 8].into()];
    if !everywhere.contains(&bound.ip()) {
        return Ok(bound.to_string());
    }
    Ok(format!("{}:{}", rustix::system::uname().nodename().to_string_lossy(), bound.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(yaml: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coordinator.yml");
        std::fs::write(&path, yaml).unwrap();
        Config::load(&path).map_err(|e| e.to_string())
    }

    #[test]
    fn a_cluster_is_all_that_must_be_said() {
        let config = load("cluster: prexorcloud").unwrap();
        assert_eq!(config.api_address, "127.0.0.1:9443");
        assert_eq!(config.enrolment_address, "127.0.0.1:9444");
        assert_eq!(config.store.path, Path::new("/var/backups/prexorcloud"));
        assert_eq!(config.catalog_path(), Path::new("/var/lib/prexor-coordinator/catalog.sqlite"));
        assert_eq!(config.operator_config, Path::new("/etc/prexorctl/config.yml"));
    }

    #[test]
    fn the_example_is_valid_and_says_the_defaults() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/coordinator.example.yml");
        let (example, default) = (Config::load(&example).unwrap(), load("cluster: prexorcloud").unwrap());
        assert_eq!(format!("{example:?}"), format!("{default:?}"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_key() {
        for (yaml, says) in [
            ("", "'cluster' is missing"),
            ("cluster: ../x", "node name"),
            ("cluster: c\nstoer: {path: /x}", "did you mean 'store'?"),
            ("cluster: c\nstore: {pth: /x}", "did you mean 'path'?"),
            ("cluster: c\nlisten: {api: nonsense}", "line 2"),
            ("cluster: c\nlisten: {api: 127.0.0.1:1, enrolment: 127.0.0.1:1}", "different ports"),
            ("cluster: c\nlisten: {api: '127.0.0.1:0'}", "name a port"),
            ("cluster: c\nstate_dir: var/lib", "state_dir is 'var/lib': write an absolute path"),
            ("cluster: c\nstate_dir: /var/../lib", "without '..'"),
            ("cluster: c\nstore: {path: /}", "not /"),
            ("cluster: c\nstate_dir: /s\nstore: {path: /s/backups}", "store.path (/s/backups) lies within state_dir"),
            ("cluster: c\nstate_dir: /b/s\nstore: {path: /b}", "state_dir (/b/s) lies within store.path"),
            ("cluster: c\nstate_dir: /b/./\nstore: {path: /b}", "lies within"),
            ("cluster: c\nstore: {path: /b}\noperator_config: /b/c.yml", "operator_config (/b/c.yml) lies within"),
            (
                "cluster: c\nstate_dir: /s\nca: {passphrase_file: /s/p}",
                "ca.passphrase_file (/s/p) lies within state_dir",
            ),
            ("cluster: c\nstore: {path: /b}\nca: {passphrase_file: /b/p}", "lies within store.path"),
            ("cluster: c\nca: {passphrase_file: p}", "ca.passphrase_file is 'p': write an absolute path"),
            ("cluster: c\nadvertise: {api: controller}", "advertise.api is 'controller': write host:port"),
            ("cluster: c\nadvertise: {enrolment: 'h:0'}", "write host:port"),
            ("cluster: c\nagents: {stall: 500ms}", "agents.stall is 500ms: use 2s or more"),
            ("cluster: c\nagents: {heartbeat: 0s}", "agents.heartbeat is 0s: use 1s or more"),
            ("cluster: c\nagents: {stal: 60s}", "did you mean 'stall'?"),
            ("cluster: c\njobs: {max_queued: -1}", "line 2"),
            ("cluster: c\nrpo: {valkey: 0s}", "rpo.valkey is 0s: use 1min or more"),
            ("cluster: c\nrpo: {files: 1d}", "known are mongo, valkey, filesystem"),
            ("cluster: c\nretention: {daily: 1min}", "retention.daily is 1m: use 1h or more"),
            ("cluster: c\nverify: {every: 500ms}", "verify.every is 500ms: use 1s or more"),
            ("cluster: c\nverify: {again_after: 0s}", "verify.again_after is 0s: use 1s or more"),
            ("cluster: c\nretention: {dayly: 1d}", "did you mean 'daily'?"),
            ("cluster: c\nretention: {rules: [{class: hourly}]}", "number 1 is about every backup"),
            ("cluster: c\nretention: {rules: [{class: often, scope: [mongo]}]}", "pre-upgrade"),
            ("cluster: c\nretention: {rules: [{class: daily, scope: []}]}", "a scope that is not empty"),
            ("cluster: c\ncertificates: {agent: 1s}", "certificates.agent is 1s"),
            ("cluster: c\ncertificates: {operator: 4000d}", "certificates.operator is"),
        ] {
            let e = load(yaml).unwrap_err();
            assert!(e.contains(says), "{yaml}\n{e}");
        }
    }

    #[test]
    fn a_listener_on_every_address_is_advertised_by_host_name() {
        let config = load("cluster: c\nlisten: {api: '0.0.0.0:9443'}\nadvertise: {enrolment: 'c1:9'}").unwrap();
        assert!(config.api_address.ends_with(":9443") && !config.api_address.starts_with("0.0.0.0"));
        assert_eq!(config.enrolment_address, "c1:9");
    }
}
