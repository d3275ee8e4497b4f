//! Chooses the point in time that a capture shows: one cluster time T where the server can read at one.

use std::{collections::BTreeMap, sync::Arc};

use prexor_format::manifest::Consistency;

use super::{
    super::{
        catalog::{self, Catalog},
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

/// What there was at the chosen time.
pub(super) struct Moment {
    pub(super) catalog: Catalog,
    pub(super) view: View,
    pub(super) capped: BTreeMap<String, Capped>,
    pub(super) consistency: Consistency,
    pub(super) warnings: Vec<String>,
}

/// Chooses T such that the catalog is known as it was at T.
pub(super) async fn choose(server: &Arc<Server>, budget: &Budget, what: What) -> Result<Moment, Failure> {
    let time = async || server.committed().await.map_err(Failure::Source);
    let list = async || catalog::list(server).await.map_err(Failure::Source);
    if server.replica_set.is_none() || time().await?.is_none() {
        let why = match &server.replica_set {
            None => "this MongoDB is no replica set, so that no common point in time can be read",
            Some(_) => "MongoDB before 5.0 cannot read at a common point in time",
        };
        return Ok(fuzzy(list().await?, why));
    }
    let (mut capped_tries, mut inexact) = (0, what.inexact_capped);
    for _ in 0..TRIES {
        let since = time().await?.unwrap_or(0);
        let catalog = list().await?;
        let has_capped = catalog.live.values().any(catalog::Namespace::is_capped);
        let exactly = has_capped && inexact.is_none();
        let opened = if exactly { capped::open(server, budget, &catalog).await? } else { BTreeMap::new() };
        let Some(time) = time().await? else { continue };
        let capped = match capped::settle(server, &catalog, opened, since, time).await {
            Ok(capped) => capped,
            Err(Unknown::Failure(Failure::Denied(message))) => {
                inexact = Some(format!("the oplog cannot be read ({message})"));
                continue;
            }
            Err(Unknown::Failure(failure)) => return Err(failure),
            Err(Unknown::Again(why)) => {
                capped_tries += 1;
                if capped_tries == CAPPED_TRIES {
                    inexact = Some(why);
                }
                continue;
            }
        };
        if list().await?.live != catalog.live {
            continue;
        }
        let (seconds, increment) = ((time >> 32) as u32, time as u32);
        let mut moment = Moment {
            catalog,
            view: View::At(time),
            capped,
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

fn fuzzy(catalog: Catalog, why: &str) -> Moment {
    Moment {
        catalog,
        view: View::Latest,
        capped: BTreeMap::new(),
        consistency: Consistency::Fuzzy,
        warnings: vec![format!("collections were read one after the other while writes went on: {why}")],
    }
}
