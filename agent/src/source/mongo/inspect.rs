//! What can be said of the database without reading it all.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};
use prexor_format::{manifest::CollectionType, mongodump::BUCKETS_PREFIX};
use prexor_proto::facts;

use super::{
    MongoConfig, Server, catalog,
    privileges::{self, Need},
    space::Disk,
};
use crate::source::{Inspection, SourceError};

/// See [`crate::source::Source::inspect`].
pub(super) async fn inspect(config: &MongoConfig) -> Inspection {
    let mut inspection = Inspection { target: format!("database {}", config.database), ..Inspection::default() };
    inspection.facts.insert(facts::DATABASE.to_owned(), config.database.clone());
    match Server::open(config).await {
        Err(e) => inspection.problem = Some(e.to_string()),
        Ok(server) => {
            inspection.target = server.target();
            inspection.problem = look(&server, &mut inspection.facts).await.err().map(|e| e.to_string());
        }
    }
    inspection
}

async fn look(server: &Server, facts: &mut BTreeMap<String, String>) -> Result<(), SourceError> {
    let mut tell = |name: &str, value: String| facts.insert(name.to_owned(), value);
    tell(facts::SERVER_VERSION, server.version.clone());
    if let Some(set) = &server.replica_set {
        tell(facts::REPLICA_SET, set.clone());
    }
    if let Some(version) = feature_compatibility_version(server).await {
        tell(facts::FEATURE_COMPATIBILITY_VERSION, version);
    }
    let missing = privileges::missing(server).await?;
    let (helpful, needed): (Vec<_>, Vec<_>) = missing.iter().cloned().partition(|m| m.need == Need::Helpful);
    for (fact, which) in [(facts::MISSING_PRIVILEGES, needed), (facts::HELPFUL_PRIVILEGES, helpful)] {
        if let Some(all) = privileges::listed(&which) {
            tell(fact, all);
        }
    }
    privileges::demand_of(server, &missing, Need::Capture)?;
    let catalog = catalog::list(server).await?;
    tell(facts::COLLECTIONS, catalog.live.len().to_string());
    let stats = stats(server).await?;
    tell(facts::DOCUMENTS, stats.documents.to_string());
    tell(facts::BYTES, stats.bytes.to_string());
    if let Some(room) = Disk::of(server).await?.room() {
        tell(facts::ROOM_BYTES, room.to_string());
    }
    // One document of each kind shows whether the account may read it.
    for kind in [CollectionType::Collection, CollectionType::Timeseries] {
        if let Some((name, _)) = catalog.live.iter().find(|(_, n)| n.kind == kind) {
            let prefix = if kind == CollectionType::Timeseries { BUCKETS_PREFIX } else { "" };
            server.ask(doc! { "find": format!("{prefix}{name}"), "limit": 1, "singleBatch": true }).await?;
        }
    }
    Ok(())
}

/// `featureCompatibilityVersion`, where the account may read it.
pub(super) async fn feature_compatibility_version(server: &Server) -> Option<String> {
    let reply = server.ask_admin(doc! { "getParameter": 1, "featureCompatibilityVersion": 1 }).await?;
    Some(reply.get_document("featureCompatibilityVersion").ok()?.get_str("version").ok()?.to_owned())
}

/// Sizes of the database, as the server estimates them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stats {
    pub(super) documents: u64,
    pub(super) bytes: u64,
}

pub(super) async fn stats(server: &Server) -> Result<Stats, SourceError> {
    let reply = server.ask(doc! { "dbStats": 1 }).await?;
    Ok(Stats { documents: number(&reply, "objects"), bytes: number(&reply, "dataSize") })
}

pub(super) fn number(reply: &Document, key: &str) -> u64 {
    let n = match reply.get(key) {
        Some(Bson::Int32(n)) => i64::from(*n),
        Some(Bson::Int64(n)) => *n,
        Some(Bson::Double(d)) => *d as i64,
        _ => 0,
    };
    n.try_into().unwrap_or_default()
}
