//! The way back: what a restore made goes, what it kept aside comes back under its own name.
//!
//! As [`super::swap`], every step finds out by names and UUIDs whether it was done.

use std::collections::BTreeSet;

use prexor_format::{manifest::CollectionType, mongodump::BUCKETS_PREFIX};

use super::{
    MongoConfig, Server, accounts, catalog, define, laws,
    members::patiently,
    staged,
    swap::{self, Installed, Kept, Plan},
    temporary::Names,
    underway,
};
use crate::{restore_unit::RestoreUnit, source::SourceError};

/// See [`crate::source::Source::revert`].
pub(super) async fn revert(server: &Server, config: &MongoConfig, unit: &RestoreUnit) -> Result<(), SourceError> {
    server.accept_absent_members();
    patiently(server, || accounts::revert(server, unit)).await?;
    let mut lost = Vec::new();
    for database in staged::databases(unit, config) {
        let server = server.on_database(&database);
        let back = patiently(&server, || async {
            underway::end(&server).await?;
            bring_back(&server, unit).await
        });
        lost.extend(back.await?);
    }
    match lost.is_empty() {
        true => Ok(()),
        false => Err(SourceError::Invalid(format!(
            "everything is back but {}, which someone dropped during the restore: restore the safety backup",
            lost.join(", ")
        ))),
    }
}

/// Returns the names whose collections are nowhere.
async fn bring_back(server: &Server, unit: &RestoreUnit) -> Result<Vec<String>, SourceError> {
    let mut lost = Vec::new();
    if let Some(plan) = swap::load_plan(unit, server.database())? {
        laws::keep_since(server, unit, &plan).await?;
        remove_new(server, &plan).await?;
        lost = rename_back(server, &plan).await?;
        laws::correct_back(server, unit).await?;
        load_back(server, &plan).await?;
        views_back(server, &plan).await?;
    }
    let names = Names::of(&unit.job_id);
    for left in catalog::list(server).await?.temporary.keys().filter(|n| names.owns(n)) {
        define::drop(server, left).await?;
    }
    Ok(lost)
}

/// Drops what the swap installed, and nothing else: collections are known by their UUIDs.
async fn remove_new(server: &Server, plan: &Plan) -> Result<(), SourceError> {
    let there = catalog::list(server).await?;
    let old: BTreeSet<_> = plan
        .keep
        .iter()
        .filter_map(|k| match &k.how {
            Kept::Collection { uuid, .. } | Kept::Timeseries { uuid, .. } => Some(uuid.as_str()),
            Kept::View { .. } => None,
        })
        .collect();
    for install in &plan.install {
        let live = there.live.get(&install.name);
        let (goes, kind) = match &install.how {
            Installed::Collection { uuid, .. } => (there.name_of(uuid), CollectionType::Collection),
            Installed::Timeseries => (Some(install.name.as_str()), CollectionType::Timeseries),
            Installed::View => (Some(install.name.as_str()), CollectionType::View),
        };
        let Some(name) = goes else { continue };
        let goes = match kind {
            CollectionType::Collection => true,
            CollectionType::Timeseries => {
                live.is_some_and(|n| n.kind == kind && n.uuid.as_deref().is_some_and(|u| !old.contains(u)))
                    && !is_brought_back(plan, name, &there)
            }
            // Old views come back from the plan, so it does not matter whose this one is.
            CollectionType::View => live.is_some_and(|n| n.kind == kind),
        };
        if goes {
            define::drop(server, name).await?;
        }
    }
    Ok(())
}

/// Whether the time series that is live under this name is the old one, loaded again by a revert that was cut short
/// later: its copy is gone then.
fn is_brought_back(plan: &Plan, name: &str, there: &catalog::Catalog) -> bool {
    plan.keep.iter().any(|k| match &k.how {
        Kept::Timeseries { kept, .. } => k.name == name && !there.temporary.contains_key(kept),
        Kept::Collection { .. } | Kept::View { .. } => false,
    })
}

/// Returns the names whose collections are nowhere.
async fn rename_back(server: &Server, plan: &Plan) -> Result<Vec<String>, SourceError> {
    let there = catalog::list(server).await?;
    let mut lost = Vec::new();
    for keep in &plan.keep {
        let Kept::Collection { uuid, .. } = &keep.how else { continue };
        match there.name_of(uuid) {
            Some(name) if name == keep.name => {}
            Some(name) => {
                if there.live.contains_key(&keep.name) {
                    // Born after the swap, under a name that has an owner.
                    tracing::warn!(collection = keep.name, "dropped what was created in place of a kept collection");
                    define::drop(server, &keep.name).await?;
                }
                define::rename(server, name, &keep.name).await?;
            }
            None => lost.push(keep.name.clone()),
        }
    }
    Ok(lost)
}

async fn load_back(server: &Server, plan: &Plan) -> Result<(), SourceError> {
    for keep in &plan.keep {
        let Kept::Timeseries { uuid, kept, options, indexes, .. } = &keep.how else { continue };
        let there = catalog::list(server).await?;
        if there.name_of(uuid).is_none() && there.temporary.contains_key(kept) {
            let (name, options) = (&keep.name, decode(options)?);
            let indexes = indexes.iter().map(|i| decode(i)).collect::<Result<Vec<_>, _>>()?;
            swap::drop_time_series(server, name, &there).await?;
            let buckets = format!("{BUCKETS_PREFIX}{name}");
            let load = swap::copy(server, kept, &buckets);
            define::create_time_series(server, name, &options, &indexes, load).await?;
            define::set_expiries(server, name, &options, &indexes).await?;
        }
        if there.temporary.contains_key(kept) {
            // Without its copy it counts as brought back.
            define::drop(server, kept).await?;
        }
    }
    Ok(())
}

async fn views_back(server: &Server, plan: &Plan) -> Result<(), SourceError> {
    for keep in &plan.keep {
        if let Kept::View { options } = &keep.how {
            swap::create_view(server, &keep.name, &decode(options)?).await?;
        }
    }
    Ok(())
}

fn decode(digits: &str) -> Result<Vec<u8>, SourceError> {
    hex::decode(digits).map_err(|e| SourceError::Failed(format!("the restore's own notes are damaged: {e}")))
}
