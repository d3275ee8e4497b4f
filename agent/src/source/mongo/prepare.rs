//! Brings a dump beside the live collections, under temporary names, and proves it equal to the manifest.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use prexor_format::{
    digest::Order,
    manifest::CollectionType,
    mongodump::{FUNCTIONS, Metadata, definition_digest, without_expiry},
};
use serde::{Deserialize, Serialize};

use super::{
    MongoConfig, Server, accounts, catalog,
    check::{Scan, differences},
    define,
    insert::Room,
    members::{self, patiently},
    privileges::{self, Need},
    space::Disk,
    staged::{self, Definition},
    swap,
    temporary::Names,
    underway,
};
use crate::{restore_unit::RestoreUnit, source::SourceError};

const NOTE: &str = "mongo-prepared";

/// Collections up to this many bytes are loaded several at a time: their time goes into waiting for the disk.
const SMALL: u64 = 4 << 20;

/// How many of them at a time. A bigger one is loaded meanwhile.
const SMALL_AT_ONCE: usize = 4;

/// What is ready to become live.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Prepared {
    pub(super) collections: Vec<PreparedCollection>,
}

/// A collection under its temporary name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PreparedCollection {
    /// The name that it is going to have.
    pub(super) name: String,
    pub(super) staged: String,
    pub(super) uuid: String,
}

/// What an earlier [`prepare`] noted when it was done with this database.
pub(super) fn prepared(unit: &RestoreUnit, database: &str) -> Result<Option<Prepared>, SourceError> {
    unit.load_note(&note(database)).map_err(|e| swap::note_failed(&e))
}

fn note(database: &str) -> String {
    format!("{NOTE}-{database}")
}

/// See [`crate::source::Source::prepare`].
pub(super) async fn prepare(config: &MongoConfig, unit: &RestoreUnit) -> Result<(), SourceError> {
    // Files first: a damaged dump is found before the server is touched.
    let contents = staged::contents(unit, config)?;
    if swap::is_begun(unit, &contents.databases)? {
        return Ok(());
    }
    unit.progress.set_subject("checking the staged dump");
    staged::verify(unit, &contents).await?;
    let definitions = staged::definitions(unit, &contents).await?;

    let server = Server::open(config).await?;
    server.can_be_restored_onto()?;
    accounts::demand(&server, unit, &contents).await?;
    for database in &contents.databases {
        let has_functions = definitions.iter().any(|d| d.entry.database == *database && d.entry.name == FUNCTIONS);
        privileges::demand(&server.on_database(database), Need::Restore, has_functions).await?;
    }
    let bytes = definitions.iter().map(|d| d.entry.bson_bytes).sum();
    let mut prepared = 0;
    for database in &contents.databases {
        let server = server.on_database(database);
        patiently(&server, || underway::end(&server)).await?;
        prepared += usize::from(clear(&server, unit).await?);
    }
    if prepared == contents.databases.len() {
        return Ok(());
    }
    if let Some(database) = contents.databases.first() {
        Disk::of(&server.on_database(database)).await?.has_room_for(bytes, &server)?;
    }
    unit.progress.set_total_bytes(bytes);
    for database in &contents.databases {
        let of_it: Vec<&Definition> = definitions.iter().filter(|d| d.entry.database == *database).collect();
        prepare_one(&server.on_database(database), unit, &of_it).await?;
    }
    Ok(())
}

/// Drops what an attempt before left in a database, unless it had come to its end: then it says so.
async fn clear(server: &Server, unit: &RestoreUnit) -> Result<bool, SourceError> {
    let names = Names::of(&unit.job_id);
    let there = catalog::list(server).await?;
    if let Some(before) = prepared(unit, server.database())?
        && before.collections.iter().all(|c| there.name_of(&c.uuid) == Some(&c.staged))
    {
        return Ok(true);
    }
    for leftover in there.temporary.keys().filter(|n| names.owns(n)) {
        define::drop(server, leftover).await?;
    }
    Ok(false)
}

/// Loads what is restored into one database.
async fn prepare_one(server: &Server, unit: &RestoreUnit, definitions: &[&Definition]) -> Result<(), SourceError> {
    if clear(server, unit).await? {
        return Ok(());
    }
    let names = Names::of(&unit.job_id);
    // Time series and views cannot be renamed: they are made when the others are swapped.
    let renamed = definitions.iter().enumerate().filter(|(_, d)| d.entry.kind == CollectionType::Collection);
    let staged: Vec<_> = renamed.map(|(n, definition)| (*definition, names.staged(n))).collect();
    build_all(server, &staged, unit).await?;
    members::caught_up(server, &unit.progress).await;
    let there = catalog::list(server).await?;
    let mut collections = Vec::new();
    for (definition, staged) in staged {
        let name = definition.target.clone();
        let made = there.temporary.get(&staged);
        let (Some(made), Some(uuid)) = (made, made.and_then(|n| n.uuid.clone())) else {
            return Err(SourceError::Failed(format!(
                "{staged}, which held the restored {name}, was dropped by someone; the live data were not touched"
            )));
        };
        let indexes = catalog::indexes(server, &staged).await?.unwrap_or_default();
        same_definition(&definition.metadata, &made.options, indexes)?;
        collections.push(PreparedCollection { name, staged, uuid });
    }
    unit.save_note(&note(server.database()), &Prepared { collections }).map_err(|e| swap::note_failed(&e))
}

/// The small ones beside the big ones, the biggest first.
async fn build_all(server: &Server, staged: &[(&Definition, String)], unit: &RestoreUnit) -> Result<(), SourceError> {
    let room = Room::default();
    let (small, mut big): (Vec<_>, Vec<_>) = staged.iter().partition(|(d, _)| d.entry.bson_bytes <= SMALL);
    big.sort_by_key(|(d, _)| std::cmp::Reverse(d.entry.bson_bytes));
    futures::try_join!(lane(server, big, 1, &room, unit), lane(server, small, SMALL_AT_ONCE, &room, unit)).map(drop)
}

async fn lane(
    server: &Server,
    all: Vec<&(&Definition, String)>,
    at_once: usize,
    room: &Room,
    unit: &RestoreUnit,
) -> Result<(), SourceError> {
    let builds: Vec<_> = all.into_iter().map(|(d, staged)| build(server, d, staged, room, unit)).collect();
    stream::iter(builds).buffer_unordered(at_once).try_collect().await
}

async fn build(
    server: &Server,
    definition: &Definition,
    staged: &str,
    room: &Room,
    unit: &RestoreUnit,
) -> Result<(), SourceError> {
    let again = AtomicBool::new(false);
    // A batch may have arrived whose answer did not, so another attempt begins anew.
    patiently(server, || async {
        if again.swap(true, Ordering::Relaxed) {
            underway::end_on(server, staged).await?;
            if catalog::list(server).await?.temporary.contains_key(staged) {
                define::drop(server, staged).await?;
            }
        }
        build_once(server, definition, staged, room, unit).await
    })
    .await
}

async fn build_once(
    server: &Server,
    definition: &Definition,
    staged: &str,
    room: &Room,
    unit: &RestoreUnit,
) -> Result<(), SourceError> {
    let (name, metadata) = (&definition.entry.name, &definition.metadata);
    unit.progress.set_subject(name);
    define::create(server, staged, &metadata.options).await?;
    staged::load(server, definition, staged, room, &unit.progress).await?;
    define::create_indexes(server, staged, &metadata.options, &metadata.indexes).await?;
    let order = definition.entry.content.map_or(Order::Multiset, |c| c.order);
    let found = Scan::of(server, staged, order, Vec::new(), 0).await.map_err(|e| e.explain(server, "read it back"))?;
    match differences(&definition.entry, &found.all) {
        None => Ok(()),
        Some(what) => Err(SourceError::Failed(format!(
            "the restored copy of {name} is not what the backup holds: {what}; the live data were not touched"
        ))),
    }
}

/// Compares options and indexes with those of the dump, expiry aside.
fn same_definition(wanted: &Metadata, options: &[u8], indexes: Vec<Vec<u8>>) -> Result<(), SourceError> {
    let name = &wanted.collection;
    let malformed = |e| SourceError::Failed(format!("the options or indexes of {name} are malformed: {e}"));
    let lasting = |doc: &[u8]| without_expiry(doc).map(|(doc, _)| doc).map_err(malformed);
    let wanted = Metadata {
        options: lasting(&wanted.options)?,
        indexes: wanted.indexes.iter().map(|i| lasting(i)).collect::<Result<_, _>>()?,
        ..wanted.clone()
    };
    let found = Metadata { options: options.to_vec(), indexes, ..wanted.clone() };
    let digest = |m: &Metadata| definition_digest(&m.options, &m.indexes, m.kind).map_err(malformed);
    if digest(&wanted)? == digest(&found)? {
        return Ok(());
    }
    let text = |m: &Metadata| m.to_json().map(|j| String::from_utf8_lossy(&j).into_owned()).unwrap_or_default();
    Err(SourceError::Failed(format!(
        "this server made other options or indexes for {name} than the backup holds, is it of another version? wanted \
         {}, got {}; the live data were not touched",
        text(&wanted),
        text(&found)
    )))
}
