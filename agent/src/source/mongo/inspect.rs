//! What can be said of the database without reading it all.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};
use prexor_format::{
    manifest::CollectionType,
    mongodump::{BUCKETS_PREFIX, FUNCTIONS},
};
use prexor_proto::facts;

use super::{
    Databases, MongoConfig, Server,
    catalog::{self, Namespace},
    databases, members,
    privileges::{self, Missing, Need},
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
            inspection.problem = look(&server, config, &mut inspection.facts).await.err().map(|e| e.to_string());
        }
    }
    inspection
}

async fn look(server: &Server, config: &MongoConfig, facts: &mut BTreeMap<String, String>) -> Result<(), SourceError> {
    let mut tell = |name: &str, value: String| facts.insert(name.to_owned(), value);
    tell(facts::SERVER_VERSION, server.version.clone());
    if let Some(set) = &server.replica_set {
        tell(facts::REPLICA_SET, set.clone());
    }
    if let Some(version) = feature_compatibility_version(server).await {
        tell(facts::FEATURE_COMPATIBILITY_VERSION, version);
    }
    members::tell(server, &mut tell).await;
    let accounts = privileges::missing_for_accounts(server, false).await?;
    if !accounts.is_empty() {
        tell(facts::MISSING_ACCOUNT_PRIVILEGES, accounts.join(", "));
    }
    let (mut missing, mut collections, mut all, mut room) = (Vec::new(), 0, Stats::default(), None);
    let databases = databases::present(server, config).await?;
    for database in &databases {
        let server = server.on_database(database);
        let of_it = privileges::missing(&server).await?;
        let denied = privileges::demand_of(&server, &of_it, Need::Capture);
        missing.extend(of_it);
        // What is missing anywhere is told before it is an obstacle.
        if denied.is_err() {
            tell_missing(&missing, facts);
        }
        denied?;
        let catalog = catalog::list(&server).await?;
        collections += catalog.live.len();
        let stats = stats(&server).await?;
        all.documents += stats.documents;
        all.bytes += stats.bytes;
        room = room.max(Disk::of(&server).await?.room());
        // One document of each kind shows whether the account may read it; its `_id` will do, it may have 16 MiB.
        for kind in [CollectionType::Collection, CollectionType::Timeseries] {
            let readable = |name: &str, n: &Namespace| n.kind == kind && name != FUNCTIONS;
            if let Some((name, _)) = catalog.live.iter().find(|(name, n)| readable(name, n)) {
                let prefix = if kind == CollectionType::Timeseries { BUCKETS_PREFIX } else { "" };
                let one = doc! {
                    "find": format!("{prefix}{name}"),
                    "projection": { "_id": 1 },
                    "limit": 1,
                    "singleBatch": true,
                };
                server.ask(one).await?;
            }
        }
    }
    tell_missing(&missing, facts);
    let mut tell = |name: &str, value: String| facts.insert(name.to_owned(), value);
    if config.databases != Databases::Default {
        tell(facts::DATABASE, databases.join(", "));
    }
    tell(facts::COLLECTIONS, collections.to_string());
    tell(facts::DOCUMENTS, all.documents.to_string());
    tell(facts::BYTES, all.bytes.to_string());
    if let Some(room) = room {
        tell(facts::ROOM_BYTES, room.to_string());
    }
    Ok(())
}

fn tell_missing(missing: &[Missing], facts: &mut BTreeMap<String, String>) {
    let (helpful, needed): (Vec<_>, Vec<_>) = missing.iter().cloned().partition(|m| m.need == Need::Helpful);
    for (fact, which) in [(facts::MISSING_PRIVILEGES, needed), (facts::HELPFUL_PRIVILEGES, helpful)] {
        if let Some(all) = privileges::listed(&which) {
            facts.insert(fact.to_owned(), all);
        }
    }
}

/// `featureCompatibilityVersion`, where the account may read it.
pub(super) async fn feature_compatibility_version(server: &Server) -> Option<String> {
    let reply = server.ask_admin(doc! { "getParameter": 1, "featureCompatibilityVersion": 1 }).await?;
    Some(reply.get_document("featureCompatibilityVersion").ok()?.get_str("version").ok()?.to_owned())
}

/// Sizes of the database, as the server estimates them.
#[derive(Debug, Clone, Copy, Default)]
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
