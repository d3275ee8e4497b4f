//! MongoDB: captures one database, or several, as a mongodump directory, and restores beside the live collections,
//! swapping by renames.
//!
//! Documents pass through as bytes (law L15). What is kept between the verbs of a restore is in the unit's notes and
//! in the names of temporary collections, which all begin with `_prexor_`.

mod accounts;
mod capture;
mod catalog;
mod check;
mod databases;
mod define;
mod drain;
mod insert;
mod inspect;
mod laws;
mod members;
mod prepare;
mod privileges;
mod records;
mod revert;
mod server;
mod sessions;
mod space;
mod staged;
mod swap;
mod temporary;
mod underway;

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use prexor_format::artifact::ArtifactKind;
use prexor_proto::facts;
use tokio_util::sync::CancellationToken;

use self::server::Server;
pub use self::{capture::CaptureOptions, databases::Databases, server::ReadFrom};
use super::{Captured, Inspection, Source, SourceError};
use crate::{connection::ConnectionString, restore_unit::RestoreUnit, sink::ArtifactSink};

/// Which database, and how to reach it.
#[derive(Clone)]
pub struct MongoConfig {
    /// A connection string of MongoDB; most often it holds a password.
    pub uri: ConnectionString,
    /// The database's name.
    pub database: String,
    /// Which databases are captured and may be restored.
    pub databases: Databases,
}

impl MongoConfig {
    fn covers(&self, database: &str) -> bool {
        self.databases.covers(&self.database, database)
    }

    /// The configured databases in words.
    fn named(&self) -> String {
        match &self.databases {
            Databases::Default => self.database.clone(),
            Databases::All => "all databases".to_owned(),
            Databases::These(names) => names.join(", "),
        }
    }
}

impl fmt::Debug for MongoConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoConfig")
            .field("database", &self.database)
            .field("databases", &self.databases)
            .finish_non_exhaustive()
    }
}

/// Databases of one MongoDB server or replica set.
#[derive(Debug)]
pub struct MongoSource {
    config: MongoConfig,
    options: CaptureOptions,
    /// What `controller.yml` has controllers connect with.
    controllers: Option<ConnectionString>,
}

impl MongoSource {
    /// Connects to nothing yet: each verb has a connection of its own, with short timeouts.
    pub fn new(config: MongoConfig) -> Self {
        Self { config, options: CaptureOptions::default(), controllers: None }
    }

    /// Tells controllers by how they log in: with this URI of `controller.yml`.
    pub fn beside_controllers(self, uri: Option<ConnectionString>) -> Self {
        Self { controllers: uri, ..self }
    }

    /// Captures as `options` say.
    pub fn capturing(self, options: CaptureOptions) -> Self {
        Self { options, ..self }
    }
}

#[async_trait]
impl Source for MongoSource {
    fn kind(&self) -> ArtifactKind {
        ArtifactKind::Mongo
    }

    async fn inspect(&self) -> Inspection {
        inspect::inspect(&self.config).await
    }

    async fn inspect_laws(&self) -> BTreeMap<String, String> {
        let server = match Server::open(&self.config).await {
            Ok(server) => server,
            Err(error) => {
                tracing::warn!(%error, "what the restore laws need could not be looked at");
                return BTreeMap::new();
            }
        };
        let controllers = self.controllers.as_ref();
        let (leases, records, sessions) =
            futures::join!(laws::leases(&server), records::of(&server), sessions::of(&server, controllers));
        let mut told = BTreeMap::new();
        told.extend(fact(facts::LEASES, leases));
        told.extend(fact(facts::RECORDS, records));
        match sessions {
            Ok(sessions) => told.extend(fact(facts::SESSIONS, Ok(sessions))),
            Err(error) => drop(told.insert(facts::SESSIONS_HIDDEN.to_owned(), error.to_string())),
        }
        told
    }

    async fn capture(&self, sink: ArtifactSink, cancel: CancellationToken) -> Result<Captured, SourceError> {
        tokio::select! {
            done = capture::capture(&self.config, self.options, sink) => done,
            () = cancel.cancelled() => Err(SourceError::Cancelled),
        }
    }

    async fn prepare(&self, unit: &RestoreUnit) -> Result<(), SourceError> {
        prepare::prepare(&self.config, unit).await
    }

    async fn swap(&self, unit: &RestoreUnit) -> Result<(), SourceError> {
        swap::swap(&members::open(&self.config).await?, &self.config, unit).await
    }

    async fn revert(&self, unit: &RestoreUnit) -> Result<(), SourceError> {
        revert::revert(&members::open(&self.config).await?, &self.config, unit).await
    }

    async fn commit(&self, unit: &RestoreUnit) -> Result<(), SourceError> {
        swap::commit(&members::open(&self.config).await?, &self.config, unit).await
    }

    async fn check(&self, unit: &RestoreUnit) -> Result<Vec<String>, SourceError> {
        let server = members::open(&self.config).await?;
        members::patiently(&server, || check::check(&server, &self.config, unit)).await
    }
}

/// What was found, as a fact; nothing where it could not be looked at, which the log tells.
fn fact<T: serde::Serialize>(name: &str, found: Result<T, SourceError>) -> Option<(String, String)> {
    let found = found.inspect_err(|error| tracing::warn!(%error, fact = name, "it could not be looked at")).ok()?;
    Some((name.to_owned(), serde_json::to_string(&found).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_debug_output_shows_the_uri() {
        let source = MongoSource::new(MongoConfig {
            uri: "mongodb://prexor:hunter2@127.0.0.1:27017/".into(),
            database: "prexorcloud".to_owned(),
            databases: Databases::default(),
        });
        let text = format!("{source:?}");
        assert!(text.contains("prexorcloud") && !text.contains("hunter2"), "{text}");
    }

    #[tokio::test]
    async fn a_uri_that_cannot_be_used_is_not_repeated() {
        for uri in ["mongodb://prexor:hunter2@", "hunter2", "mongodb://prexor:hunt/er2@127.0.0.1/"] {
            let (database, databases) = ("db".to_owned(), Databases::default());
            let source = MongoSource::new(MongoConfig { uri: uri.into(), database, databases });
            let problem = source.inspect().await.problem.expect("no server can be reached");
            assert!(!problem.contains("er2"), "{problem}");
        }
    }
}
