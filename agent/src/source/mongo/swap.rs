//! The exchange: live collections are renamed aside, restored ones take their names.
//!
//! What is to happen is decided once and noted before anything moves. Every step finds out by names and UUIDs (which
//! a rename keeps) whether it was done, so a swap that was cut short goes on from wherever it stopped. Time series and
//! views cannot be renamed: the first are copied aside, dropped and loaded anew, the second dropped and created.

use std::collections::BTreeSet;

use prexor_format::{digest::Order, manifest::CollectionType, mongodump::BUCKETS_PREFIX};
use serde::{Deserialize, Serialize};

use super::{
    MongoConfig, Server, accounts,
    catalog::{self, Catalog},
    check::{Adder, Scan, differences},
    define,
    drain::drain,
    insert::{Room, insert},
    laws,
    members::patiently,
    prepare,
    staged::{self, Definition},
    temporary::Names,
    underway,
};
use crate::{restore_unit::RestoreUnit, sink::Progress, source::SourceError};

const PLAN: &str = "mongo-swap";
const LOADED: &str = "mongo-swap-loaded";
const DONE: &str = "mongo-swapped";

/// What a swap does, decided before it begins.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Everything that is live, and what becomes of it.
    pub(super) keep: Vec<Keep>,
    /// Everything that becomes live.
    pub(super) install: Vec<Install>,
}

/// A namespace that is live before the swap.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Keep {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) how: Kept,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum Kept {
    /// Renamed to `kept`.
    Collection { uuid: String, kept: String },
    /// Its buckets are copied to `kept`, by way of `copying`. Options and indexes are BSON in hexadecimal digits.
    Timeseries { uuid: String, kept: String, copying: String, options: String, indexes: Vec<String> },
    /// Remembered here only.
    View { options: String },
}

/// A namespace that the backup holds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Install {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) how: Installed,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum Installed {
    /// Renamed from `staged`.
    Collection { uuid: String, staged: String },
    /// Created and loaded.
    Timeseries,
    /// Created.
    View,
}

/// Whether a swap was decided on, and may have begun.
pub(super) fn is_begun(unit: &RestoreUnit, databases: &[String]) -> Result<bool, SourceError> {
    for database in databases {
        if load_plan(unit, database)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn load_plan(unit: &RestoreUnit, database: &str) -> Result<Option<Plan>, SourceError> {
    unit.load_note(&note(PLAN, database)).map_err(|e| note_failed(&e))
}

fn note(what: &str, database: &str) -> String {
    format!("{what}-{database}")
}

pub(super) fn note_failed(error: &std::io::Error) -> SourceError {
    SourceError::Failed(format!("the restore's own notes cannot be read or written: {error}"))
}

/// See [`crate::source::Source::swap`].
pub(super) async fn swap(server: &Server, config: &MongoConfig, unit: &RestoreUnit) -> Result<(), SourceError> {
    if unit.load_note::<bool>(DONE).map_err(|e| note_failed(&e))?.is_some() {
        return Ok(());
    }
    let contents = staged::contents(unit, config)?;
    let definitions = staged::definitions(unit, &contents).await?;
    for database in &contents.databases {
        let server = server.on_database(database);
        let of_it: Vec<&Definition> = definitions.iter().filter(|d| d.entry.database == *database).collect();
        patiently(&server, || async {
            underway::end(&server).await?;
            exchange(&server, unit, &of_it).await
        })
        .await?;
    }
    patiently(server, || accounts::swap(server, unit, &contents)).await?;
    unit.save_note(DONE, &true).map_err(|e| note_failed(&e))
}

/// Goes on from wherever an earlier attempt stopped.
async fn exchange(server: &Server, unit: &RestoreUnit, definitions: &[&Definition]) -> Result<(), SourceError> {
    let plan = match load_plan(unit, server.database())? {
        Some(plan) => plan,
        None => {
            let plan = decide(server, unit, definitions).await?;
            unit.save_note(&note(PLAN, server.database()), &plan).map_err(|e| note_failed(&e))?;
            plan
        }
    };
    laws::correct(server, unit, &plan).await?;
    copy_time_series(server, &plan, &unit.progress).await?;
    drop_views(server, &plan).await?;
    rename_collections(server, &plan).await?;
    load_time_series(server, &plan, definitions, unit).await?;
    for definition in definitions {
        if definition.entry.kind == CollectionType::View {
            create_view(server, &definition.target, &definition.metadata.options).await?;
        }
    }
    // Last, so that nothing expires while the exchange may still be taken back.
    for definition in definitions {
        let metadata = &definition.metadata;
        define::set_expiries(server, &definition.target, &metadata.options, &metadata.indexes).await?;
    }
    Ok(())
}

async fn decide(server: &Server, unit: &RestoreUnit, definitions: &[&Definition]) -> Result<Plan, SourceError> {
    let prepared = prepare::prepared(unit, server.database())?
        .ok_or_else(|| SourceError::Failed("nothing is prepared to be swapped in: prepare comes first".to_owned()))?;
    let names = Names::of(&unit.job_id);
    let mut keep = Vec::new();
    let live = catalog::list(server).await?.live;
    let going = live.iter().filter(|(name, _)| staged::gives_way(unit, server.database(), name));
    for (n, (name, namespace)) in going.enumerate() {
        let uuid =
            || namespace.uuid.clone().ok_or_else(|| SourceError::Failed(format!("the server tells no UUID of {name}")));
        let kept = names.kept(n);
        let how = match namespace.kind {
            CollectionType::Collection => Kept::Collection { uuid: uuid()?, kept },
            CollectionType::View => Kept::View { options: hex::encode(&namespace.options) },
            CollectionType::Timeseries => Kept::Timeseries {
                uuid: uuid()?,
                kept,
                copying: names.copying(n),
                options: hex::encode(&namespace.options),
                indexes: catalog::indexes(server, name).await?.unwrap_or_default().iter().map(hex::encode).collect(),
            },
        };
        keep.push(Keep { name: name.clone(), how });
    }
    let renamed = prepared
        .collections
        .into_iter()
        .map(|c| Install { name: c.name, how: Installed::Collection { uuid: c.uuid, staged: c.staged } });
    let made = definitions.iter().filter_map(|d| {
        let how = match d.entry.kind {
            CollectionType::Collection => return None,
            CollectionType::Timeseries => Installed::Timeseries,
            CollectionType::View => Installed::View,
        };
        Some(Install { name: d.target.clone(), how })
    });
    Ok(Plan { keep, install: renamed.chain(made).collect() })
}

/// A copy is whole once it has its final name.
async fn copy_time_series(server: &Server, plan: &Plan, progress: &Progress) -> Result<(), SourceError> {
    for keep in &plan.keep {
        let Kept::Timeseries { uuid, kept, copying, .. } = &keep.how else { continue };
        let there = catalog::list(server).await?;
        if there.temporary.contains_key(kept) || there.name_of(uuid).is_none() {
            continue;
        }
        if there.temporary.contains_key(copying) {
            define::drop(server, copying).await?;
        }
        progress.set_subject(format!("keeping {}", keep.name));
        define::create(server, copying, prexor_format::bson::EMPTY_DOCUMENT).await?;
        copy(server, &format!("{BUCKETS_PREFIX}{}", keep.name), copying).await?;
        define::rename(server, copying, kept).await?;
    }
    Ok(())
}

/// Copies all documents and proves that they arrived as they were read. The original is read once: of a live time
/// series buckets may expire meanwhile.
pub(super) async fn copy(server: &Server, from: &str, to: &str) -> Result<(), SourceError> {
    let doing = format!("copy {from} to {to}");
    // Progress counts what comes from the backup; this does not.
    let aside = Progress::default();
    let mut read = None;
    insert(server, to, false, &Room::default(), &aside, |mut batcher| async {
        let copied = drain(server, from, move |batches| {
            let mut adder = Adder::new(Order::Multiset, Vec::new(), 0);
            batches.for_each(|document, walked| {
                adder.add(document);
                batcher.add(document, walked)
            })?;
            batcher.finish()?;
            Ok(adder.finish().all)
        });
        read = Some(copied.await.map_err(|e| e.explain(server, &doing))?);
        Ok(())
    })
    .await?;
    let scan = Scan::of(server, to, Order::Multiset, Vec::new(), 0).await;
    let arrived = scan.map_err(|e| e.explain(server, &doing))?.all;
    match read == Some(arrived) {
        true => Ok(()),
        false => Err(SourceError::Failed(format!("{to} is not what was read from {from}: somebody writes to it"))),
    }
}

async fn drop_views(server: &Server, plan: &Plan) -> Result<(), SourceError> {
    let live = catalog::list(server).await?.live;
    for keep in &plan.keep {
        let is_view = live.get(&keep.name).is_some_and(|n| n.kind == CollectionType::View);
        if is_view && matches!(keep.how, Kept::View { .. }) {
            define::drop(server, &keep.name).await?;
        }
    }
    Ok(())
}

async fn rename_collections(server: &Server, plan: &Plan) -> Result<(), SourceError> {
    let there = catalog::list(server).await?;
    for keep in &plan.keep {
        match &keep.how {
            Kept::Collection { uuid, kept } if there.name_of(uuid) == Some(&keep.name) => {
                define::rename(server, &keep.name, kept).await?;
            }
            Kept::Timeseries { uuid, .. } if there.name_of(uuid) == Some(&keep.name) => {
                define::drop(server, &keep.name).await?;
            }
            _ => {}
        }
    }
    for install in &plan.install {
        let Installed::Collection { uuid, staged } = &install.how else { continue };
        match there.name_of(uuid) {
            Some(name) if name == install.name => {}
            Some(name) if name == staged => define::rename(server, staged, &install.name).await?,
            _ => {
                return Err(SourceError::Failed(format!(
                    "{staged}, which held the restored {}, was dropped by someone: revert the restore",
                    install.name
                )));
            }
        }
    }
    Ok(())
}

async fn load_time_series(
    server: &Server,
    plan: &Plan,
    definitions: &[&Definition],
    unit: &RestoreUnit,
) -> Result<(), SourceError> {
    let mut loaded: BTreeSet<String> =
        unit.load_note(&note(LOADED, server.database())).map_err(|e| note_failed(&e))?.unwrap_or_default();
    for install in plan.install.iter().filter(|i| matches!(i.how, Installed::Timeseries)) {
        let Some(definition) = definitions.iter().find(|d| d.target == install.name) else { continue };
        if loaded.contains(&install.name) {
            continue;
        }
        let (name, metadata) = (&install.name, &definition.metadata);
        unit.progress.set_subject(name);
        let buckets = format!("{BUCKETS_PREFIX}{name}");
        // One that is there is our own, from a swap that was cut short: the old one was dropped above.
        drop_time_series(server, name, &catalog::list(server).await?).await?;
        let room = Room::default();
        let load = staged::load(server, definition, &buckets, &room, &unit.progress);
        define::create_time_series(server, name, &metadata.options, &metadata.indexes, load).await?;
        let scan = Scan::of(server, &buckets, Order::Multiset, Vec::new(), 0).await;
        let found = scan.map_err(|e| e.explain(server, &format!("read {name} back")))?.all;
        if let Some(what) = differences(&definition.entry, &found) {
            return Err(SourceError::Failed(format!("the restored {name} is not what the backup holds: {what}")));
        }
        loaded.insert(name.clone());
        unit.save_note(&note(LOADED, server.database()), &loaded).map_err(|e| note_failed(&e))?;
    }
    Ok(())
}

/// Drops a time series when it is there.
pub(super) async fn drop_time_series(server: &Server, name: &str, there: &Catalog) -> Result<(), SourceError> {
    match there.live.get(name) {
        Some(n) if n.kind == CollectionType::Timeseries => define::drop(server, name).await,
        _ => Ok(()),
    }
}

/// Creates a view in place of one that may be there from an attempt before.
pub(super) async fn create_view(server: &Server, name: &str, options: &[u8]) -> Result<(), SourceError> {
    let live = catalog::list(server).await?.live;
    if live.get(name).is_some_and(|n| n.kind == CollectionType::View) {
        define::drop(server, name).await?;
    }
    define::create(server, name, options).await
}

/// See [`crate::source::Source::commit`].
pub(super) async fn commit(server: &Server, config: &MongoConfig, unit: &RestoreUnit) -> Result<(), SourceError> {
    if unit.load_note::<bool>(DONE).map_err(|e| note_failed(&e))?.is_none() {
        return Err(SourceError::Failed("the swap is not finished: swap again, or revert".to_owned()));
    }
    let names = Names::of(&unit.job_id);
    server.accept_absent_members();
    for database in staged::databases(unit, config) {
        let server = server.on_database(&database);
        patiently(&server, || async {
            for old in catalog::list(&server).await?.temporary.keys().filter(|n| names.owns(n)) {
                define::drop(&server, old).await?;
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}
