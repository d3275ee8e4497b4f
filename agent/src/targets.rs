//! What this host's agent captures and restores: what `agent.yml` says, else what `controller.yml` says, else what it
//! said when it was last readable (after a disaster there may be no `controller.yml` left to read).

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use prexor_format::{manifest::Controller, tree::Pattern};
use serde::{Deserialize, Serialize};

use crate::{
    config::AgentConfig,
    connection::ConnectionString,
    discover::{self, Discovered},
    restore_unit::write_durably,
    source::{
        mongo::Databases,
        valkey::{CaptureWay, ValkeyTls},
    },
};

/// The database that PrexorCloud uses when nothing is configured.
const DEFAULT_DATABASE: &str = "prexorcloud";

/// Everything that sources are made from. Holds connection strings: `Debug` shows none, files with it are mode 0600.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Targets {
    /// MongoDB, if this agent is to care for it.
    pub mongo: Option<Mongo>,
    /// Valkey, if this agent is to care for it and the installation uses one.
    pub valkey: Option<Valkey>,
    /// The controller's files, if there is a controller.
    pub files: Option<Files>,
    /// The controller, as its configuration describes it.
    pub controller: Option<Controller>,
    /// The port of the controller's REST API.
    pub http_port: Option<u16>,
    /// What `controller.yml` has controllers connect with.
    #[serde(default)]
    pub logins: Logins,
}

/// By which the sessions of controllers are known (law L14), whatever the agent itself connects with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Logins {
    /// To MongoDB.
    pub mongo: Option<ConnectionString>,
    /// To Valkey.
    pub valkey: Option<ConnectionString>,
}

/// Where MongoDB is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of agent.yml")]
pub struct Mongo {
    pub uri: ConnectionString,
    pub database: String,
    #[serde(default)]
    pub databases: Databases,
}

/// Where Valkey is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of agent.yml")]
pub struct Valkey {
    pub uri: ConnectionString,
    pub data_dir: Option<PathBuf>,
    #[serde(default)]
    pub capture: CaptureWay,
    #[serde(default)]
    pub tls: ValkeyTls,
}

/// Where the controller's files are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of agent.yml")]
pub struct Files {
    pub root: PathBuf,
    pub exclude: Vec<Pattern>,
}

impl fmt::Debug for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Targets")
            .field("mongo", &self.mongo.as_ref().map(|m| &m.database))
            .field("valkey", &self.valkey.is_some())
            .field("files", &self.files)
            .field("controller", &self.controller)
            .finish()
    }
}

/// Finds the targets as of now. What `controller.yml` says is remembered in `<state_dir>/controller.json`; that record is
/// used, with a warning, when the file is gone or unreadable.
pub fn resolve(config: &AgentConfig) -> Targets {
    let record = config.state_dir.join("controller.json");
    let found = match &config.controller.root {
        Some(root) => discover::discover(&[root]),
        None => discover::discover(&discover::LAYOUTS),
    };
    let found = match found {
        Ok(Some(found)) => {
            if let Err(e) = remember(&record, &found) {
                tracing::warn!(path = %record.display(), error = %e, "controller.yml cannot be remembered for bad days");
            }
            Some(found)
        }
        Ok(None) => recall(&record, config),
        Err(e) => {
            tracing::warn!(error = %e, "controller.yml cannot be used");
            recall(&record, config)
        }
    };
    combine(config, found)
}

fn combine(config: &AgentConfig, found: Option<Discovered>) -> Targets {
    let found = found.as_ref();
    let mongo_uri = config.mongo.uri.clone().or_else(|| found?.mongo_uri.clone());
    let database = config.mongo.database.clone().or_else(|| Some(found?.mongo_database.clone()));
    let valkey_uri = config.valkey.uri.clone().or_else(|| found?.valkey_uri.clone());
    let root = config.filesystem.root.clone().or_else(|| Some(found?.root.clone()));
    // A new machine in a lost one's place has no controller.yml before the restore that brings it.
    let root = root.or_else(|| config.controller.root.clone());
    Targets {
        mongo: mongo_uri.filter(|_| config.mongo.enabled).map(|uri| Mongo {
            uri,
            database: database.unwrap_or_else(|| DEFAULT_DATABASE.to_owned()),
            databases: config.mongo.databases.clone(),
        }),
        valkey: valkey_uri.filter(|_| config.valkey.enabled).map(|uri| Valkey {
            uri,
            data_dir: config.valkey.data_dir.clone(),
            capture: config.valkey.capture,
            tls: config.valkey.tls.clone(),
        }),
        files: root
            .filter(|_| config.filesystem.enabled)
            .map(|root| Files { root, exclude: config.filesystem.exclude.clone() }),
        controller: found.map(Discovered::controller),
        http_port: found.and_then(|found| found.http_port),
        logins: found
            .map(|found| Logins { mongo: found.mongo_uri.clone(), valkey: found.valkey_uri.clone() })
            .unwrap_or_default(),
    }
}

fn remember(record: &Path, found: &Discovered) -> io::Result<()> {
    let bytes = serde_json::to_vec(found)?;
    if fs::read(record).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    write_durably(record, &bytes)
}

/// What was remembered, unless it is of another installation than the configured one.
fn recall(record: &Path, config: &AgentConfig) -> Option<Discovered> {
    let found: Discovered = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
    if config.controller.root.as_ref().is_some_and(|root| *root != found.root) {
        return None;
    }
    tracing::warn!(root = %found.root.display(), "there is no usable controller.yml: using what it said before");
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(state: &Path, root: &Path, more: &str) -> AgentConfig {
        let text = format!(
            r#"{{"node": "h1", "cluster": "c", "state_dir": "{}", "controller": {{"root": "{}"}}{more}}}"#,
            state.display(),
            root.display()
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_controller_yml_is_remembered_for_the_day_it_is_gone() {
        let (state, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let yml = root.path().join("config/controller.yml");
        fs::create_dir_all(yml.parent().unwrap()).unwrap();
        let text = "uuid: u1\ndatabase: {uri: 'mongodb://u:p@127.0.0.1:1/x', database: d}\nredis: {uri: 'redis://127.0.0.1:2'}\n";
        fs::write(&yml, text).unwrap();
        let config = config(state.path(), root.path(), "");
        let before = resolve(&config);
        assert_eq!(before.mongo.as_ref().unwrap().database, "d");
        assert_eq!(before.files.as_ref().unwrap().root, root.path());
        fs::write(&yml, "}{ scrambled").unwrap();
        assert_eq!(resolve(&config), before);
        fs::remove_dir_all(root.path()).unwrap();
        assert_eq!(resolve(&config), before);
        assert!(!format!("{before:?}").contains("u:p"));
    }

    #[test]
    fn a_root_that_is_named_is_restored_onto_before_there_is_anything_in_it() {
        let (state, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let targets = resolve(&config(state.path(), root.path(), ""));
        assert_eq!(targets.files.map(|files| files.root).as_deref(), Some(root.path()));
        assert!(targets.mongo.is_none() && targets.controller.is_none());
    }

    #[test]
    fn agent_yml_comes_first_and_can_switch_off() {
        let (state, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(root.path().join("config")).unwrap();
        fs::write(root.path().join("config/controller.yml"), "database: {uri: 'mongodb://a'}\nredis: {uri: null}\n")
            .unwrap();
        let more = r#", "mongo": {"uri": "mongodb://b"}, "filesystem": {"enabled": false}"#;
        let targets = resolve(&config(state.path(), root.path(), more));
        assert_eq!(targets.mongo.map(|m| (m.uri, m.database)), Some(("mongodb://b".into(), "prexorcloud".into())));
        assert!(targets.valkey.is_none() && targets.files.is_none());
    }
}
