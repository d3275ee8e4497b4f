//! Chooses the point in time that a capture shows: one cluster time T where the server can read at one.

use std::{collections::BTreeMap, sync::Arc};

use prexor_format::{manifest::Consistency, mongodump::FUNCTIONS};

use super::{
    super::{
        MongoConfig,
        catalog::{self, Catalog},
        databases,
        server::Server,
    },
    Failure, What,
    capped::{self, Capped, Unknown},
    scan::{Budget, View},
};
use crate::source::SourceError;

/// How often T is chosen anew while collections come and go; each takes milliseconds.
const TRIES: u32 = 40;
/// How often, while capped collections change in ways that cannot be followed.
const CAPPED_TRIES: u32 = 10;

/// A database, and what there is in it.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) server: Arc<Server>,
    pub(super) catalog: Catalog,
}

/// What there was in one database at the chosen time.
pub(super) struct Part {
    pub(super) listed: Listed,
    pub(super) capped: BTreeMap<String, Capped>,
}

/// What there was at the chosen time.
pub(super) struct Moment {
    /// By database.
    pub(super) parts: Vec<Part>,
    pub(super) view: View,
    pub(super) consistency: Consistency,
    pub(super) warnings: Vec<String>,
}

/// Lists what is to be captured now.
pub(super) async fn list(server: &Server, config: &MongoConfig, what: &What) -> Result<Vec<Listed>, SourceError> {
    let mut parts = Vec::new();
    for database in databases::present(server, config).await? {
        let server = Arc::new(server.on_database(&database));
        let mut catalog = catalog::list(&server).await?;
        if what.without_functions.contains(&database) {
            catalog.live.remove(FUNCTIONS);
        }
        parts.push(Listed { server, catalog });
    }
    Ok(parts)
}

/// Chooses T such that the catalogs are known as they were at T.
pub(super) async fn choose(
    server: &Arc<Server>,
    config: &MongoConfig,
    budget: &Budget,
    what: &What,
) -> Result<Moment, Failure> {
    let time = async || server.committed().await.map_err(Failure::Source);
    let list = async || list(server, config, what).await.map_err(Failure::Source);
    if server.replica_set.is_none() || time().await?.is_none() {
        let why = match &server.replica_set {
            None => "this MongoDB is no replica set, so that no common point in time can be read",
            Some(_) => "MongoDB before 5.0 cannot read at a common point in time",
        };
        return Ok(fuzzy(list().await?, why));
    }
    let (mut capped_tries, mut inexact) = (0, what.inexact_capped.clone());
    'tries: for _ in 0..TRIES {
        let since = time().await?.unwrap_or(0);
        let listed = list().await?;
        let has_capped = listed.iter().any(|p| p.catalog.live.values().any(catalog::Namespace::is_capped));
        let exactly = has_capped && inexact.is_none();
        let mut opened = Vec::new();
        for part in &listed {
            opened.push(match exactly {
                true => capped::open(&part.server, budget, &part.catalog).await?,
                false => BTreeMap::new(),
            });
        }
        let Some(time) = time().await? else { continue };
        let mut settled = Vec::new();
        for (part, opened) in listed.iter().zip(opened) {
            settled.push(match capped::settle(&part.server, &part.catalog, opened, since, time).await {
                Ok(capped) => capped,
                Err(Unknown::Failure(Failure::Denied(message))) => {
                    inexact = Some(format!("the oplog cannot be read ({message})"));
                    continue 'tries;
                }
                Err(Unknown::Failure(failure)) => return Err(failure),
                Err(Unknown::Again(why)) => {
                    capped_tries += 1;
                    if capped_tries == CAPPED_TRIES {
                        inexact = Some(why);
                    }
                    continue 'tries;
                }
            });
        }
        let now = list().await?;
        let same =
            |a: &Listed, b: &Listed| a.server.database() == b.server.database() && a.catalog.live == b.catalog.live;
        if now.len() != listed.len() || !now.iter().zip(&listed).all(|(a, b)| same(a, b)) {
            continue;
        }
        let (seconds, increment) = ((time >> 32) as u32, time as u32);
        let mut moment = Moment {
            parts: listed.into_iter().zip(settled).map(|(listed, capped)| Part { listed, capped }).collect(),
            view: View::At(time),
            consistency: Consistency::Snapshot { seconds, increment },
            warnings: Vec::new(),
        };
        match inexact.filter(|_| has_capped) {
            Some(why) => {
                moment.consistency = Consistency::Fuzzy;
                moment.warnings.push(format!(
                    "capped collections were read while writes went on, and do not show the time that all others show: \
                     {why}"
                ));
            }
            None if has_capped => moment.consistency = Consistency::SnapshotOplog { seconds, increment },
            None => {}
        }
        return Ok(moment);
    }
    Err(Failure::Source(SourceError::Failed(format!(
        "{}: collections are created and dropped without a pause, so that there is no moment to capture: try again when \
         it is quieter",
        server.target()
    ))))
}

fn fuzzy(listed: Vec<Listed>, why: &str) -> Moment {
    Moment {
        parts: listed.into_iter().map(|listed| Part { listed, capped: BTreeMap::new() }).collect(),
        view: View::Latest,
        consistency: Consistency::Fuzzy,
        warnings: vec![format!("collections were read one after the other while writes went on: {why}")],
    }
}
