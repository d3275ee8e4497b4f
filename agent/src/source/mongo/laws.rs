//! Laws L2, L6 and L7 on a server: PrexorCloud's records that must not go back in time, corrected before they are live.
//!
//! What follows from what is `prexor_format::laws::mongo`'s to say. The restored collections are corrected under their
//! temporary names, while nobody who would write runs; what they then hold is noted, and is what a check compares with.

use std::collections::{BTreeMap, BTreeSet};

use bson::{Document, doc};
use prexor_format::{
    bson::{DocBuilder, Elements, kind},
    digest::Order,
    laws::{
        GAP, Lease, Leases,
        mongo::{
            Corrections, EPOCH, HOLDER, JOIN_TOKENS, LEADERSHIP, REDEEMED, REVOCATIONS, STAMP, State, corrections,
            words,
        },
    },
    manifest::{Collection, CollectionType},
};
use serde::{Deserialize, Serialize};

use super::{
    Server,
    catalog::{self, all_of},
    check::Scan,
    server::CursorError,
    swap::{Installed, Kept, Plan, note_failed},
};
use crate::{restore_unit::RestoreUnit, source::SourceError};

const NOTE: &str = "mongo-laws";

/// Note: what the restore has made live ([`Restored`]).
const RESTORED: &str = "mongo-laws-restored";
/// Note: what controllers that were started have made of it ([`Since`]).
const SINCE: &str = "mongo-laws-since";

/// The field of a record of [`LEADERSHIP`] that a leader moves forward.
const RENEWED: &str = "renewedAt";
/// How often that happens, at the least: what is waited for before nobody is said to lead.
const RENEWED_EVERY_MS: i64 = 3_000;
/// How old a record is that nobody renews.
const STALE_AFTER_MS: i64 = 30_000;

/// Changes in one command.
const BATCH: usize = 500;

/// Collections with what they hold since they were corrected, by the names that they get.
type Corrected = BTreeMap<String, Collection>;

/// The records that the laws are about, as they are in one set of collections.
#[derive(Debug, Default)]
struct Records {
    state: State,
    /// Of [`LEADERSHIP`] and [`REVOCATIONS`], whole.
    leadership: Vec<Vec<u8>>,
    revocations: Vec<Vec<u8>>,
}

/// What controllers find that are started after a restore.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Restored {
    epoch: Option<i64>,
    /// `_id`s of [`REVOCATIONS`], as BSON.
    revocations: BTreeSet<Vec<u8>>,
}

/// What must not be forgotten when such a restore is taken back.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Since {
    /// The highest epoch of all, where it is above the restored one.
    epoch: Option<i64>,
    /// Of [`LEADERSHIP`], whole, and of [`REVOCATIONS`] those that were made meanwhile.
    leadership: Vec<Vec<u8>>,
    revocations: Vec<Vec<u8>>,
}

/// A command that changes documents.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Update,
    Delete,
}

/// What [`correct`] has made of the collections of a database; empty when the laws change nothing in it.
pub(super) fn corrected(unit: &RestoreUnit, database: &str) -> Result<Corrected, SourceError> {
    Ok(noted(unit, database)?.unwrap_or_default())
}

fn noted(unit: &RestoreUnit, database: &str) -> Result<Option<Corrected>, SourceError> {
    unit.load_note(&format!("{NOTE}-{database}")).map_err(|e| note_failed(&e))
}

/// Corrects what is about to become live, once. A call that was cut short is repeated as a whole: an epoch then goes on a
/// little higher.
pub(super) async fn correct(server: &Server, unit: &RestoreUnit, plan: &Plan) -> Result<(), SourceError> {
    let database = server.database();
    if noted(unit, database)?.is_some() {
        return Ok(());
    }
    let staged: BTreeMap<&str, &str> = plan
        .install
        .iter()
        .filter_map(|i| match &i.how {
            Installed::Collection { staged, .. } => Some((i.name.as_str(), staged.as_str())),
            Installed::Timeseries | Installed::View => None,
        })
        .collect();
    let ours: Vec<&str> =
        [LEADERSHIP, REVOCATIONS, JOIN_TOKENS].into_iter().filter(|name| staged.contains_key(name)).collect();
    let mut sums = Corrected::new();
    if !ours.is_empty() {
        unit.progress.set_subject("what must not go back in time");
        let kept = plan.keep.iter().filter(|k| matches!(k.how, Kept::Collection { .. }));
        let live: BTreeMap<&str, &str> = kept.map(|k| (k.name.as_str(), k.name.as_str())).collect();
        let live = Records::of(server, &live, &ours).await?;
        let backup = Records::of(server, &staged, &ours).await?;
        let corrections = corrections(&live.state, &backup.state);
        apply(server, &staged, &corrections, &live, &backup).await?;
        let revocations = backup.state.revocations.union(&live.state.revocations).cloned().collect();
        let restored = Restored { epoch: corrections.epoch, revocations };
        unit.save_note(&format!("{RESTORED}-{database}"), &restored).map_err(|e| note_failed(&e))?;
        unit.tell(&words(&corrections, &live.state, &backup.state)).map_err(|e| note_failed(&e))?;
        for name in ours {
            let entry = unit_entry(unit, database, name)?;
            let scan = Scan::of(server, staged[name], Order::Multiset, Vec::new(), 0).await;
            let sum = scan.map_err(|e| e.explain(server, &format!("read {name}")))?.all;
            let (documents, bson_bytes, content) = (sum.documents, sum.bytes, Some(sum.content));
            sums.insert(name.to_owned(), Collection { documents, bson_bytes, content, ..entry });
        }
    }
    unit.save_note(&format!("{NOTE}-{database}"), &sums).map_err(|e| note_failed(&e))
}

/// Before the restored collections go: what controllers that were started have done to them that must not be forgotten.
pub(super) async fn keep_since(server: &Server, unit: &RestoreUnit, plan: &Plan) -> Result<(), SourceError> {
    let (restored, since) = (format!("{RESTORED}-{}", server.database()), format!("{SINCE}-{}", server.database()));
    let Some(restored) = unit.load_note::<Restored>(&restored).map_err(|e| note_failed(&e))? else { return Ok(()) };
    let there = catalog::list(server).await?;
    // Who stamps a record leads, and a leader's epoch is in its own record.
    let ours = plan.install.iter().filter(|i| [LEADERSHIP, REVOCATIONS].contains(&i.name.as_str()));
    let live: BTreeMap<&str, &str> = ours
        .filter_map(|i| match &i.how {
            Installed::Collection { uuid, .. } => Some((i.name.as_str(), there.name_of(uuid)?)),
            Installed::Timeseries | Installed::View => None,
        })
        .collect();
    let found = Records::of(server, &live, &[LEADERSHIP, REVOCATIONS]).await?;
    let mut kept: Since = unit.load_note(&since).map_err(|e| note_failed(&e))?.unwrap_or_default();
    let highest = found.state.epoch.max(found.state.stamp);
    if highest > restored.epoch && highest > kept.epoch {
        (kept.epoch, kept.leadership) = (highest, found.leadership);
    }
    let made_since = |d: &Vec<u8>| !restored.revocations.contains(&id_of(d)) && !kept.revocations.contains(d);
    let made_since: Vec<_> = found.revocations.into_iter().filter(made_since).collect();
    kept.revocations.extend(made_since);
    unit.save_note(&since, &kept).map_err(|e| note_failed(&e))
}

/// L2 and L6 on the way back, once the old collections have their names again. Safe to repeat.
pub(super) async fn correct_back(server: &Server, unit: &RestoreUnit) -> Result<(), SourceError> {
    let note = format!("{SINCE}-{}", server.database());
    let Some(since) = unit.load_note::<Since>(&note).map_err(|e| note_failed(&e))? else { return Ok(()) };
    if !since.revocations.is_empty() {
        put(server, REVOCATIONS, &since.revocations).await?;
    }
    let Some(issued) = since.epoch else { return Ok(()) };
    let old = find(server, LEADERSHIP).await?;
    if old.iter().filter_map(|d| integer(d, EPOCH)).max() > Some(issued) {
        return Ok(());
    }
    tracing::warn!(issued, "{LEADERSHIP} goes on above the epochs that were issued since the restore (law L2)");
    if old.is_empty() {
        put(server, LEADERSHIP, &since.leadership).await?;
    }
    nobody_leads(server, LEADERSHIP, issued.saturating_add(GAP)).await
}

/// The epoch goes on at this number, and nobody holds it.
async fn nobody_leads(server: &Server, collection: &str, epoch: i64) -> Result<(), SourceError> {
    let set = encode(&doc! { "$set": { EPOCH: epoch, HOLDER: bson::Bson::Null } })?;
    let mut update = DocBuilder::new();
    update.document("q", prexor_format::bson::EMPTY_DOCUMENT).document("u", &set).boolean("multi", true);
    change(server, collection, Verb::Update, &[update.finish()]).await
}

/// The manifest's entry of a collection that gets this name.
fn unit_entry(unit: &RestoreUnit, database: &str, name: &str) -> Result<Collection, SourceError> {
    let prexor_format::manifest::Contents::Mongo(dump) = &unit.artifact.contents else {
        return Err(SourceError::Invalid(format!("artifact {} is no MongoDB dump", unit.artifact.id)));
    };
    let is_it =
        |c: &&Collection| unit.selection.namespaces.target(&c.database, &c.name) == (database.into(), name.into());
    dump.collections.iter().find(is_it).cloned().ok_or_else(|| {
        SourceError::Failed(format!("{database}.{name} is about to be swapped in, and the manifest does not list it"))
    })
}

/// Who leads: the records that were renewed a short while ago. One that was not is nobody's any more.
pub(super) async fn leases(server: &Server) -> Result<Leases, SourceError> {
    let now = server.now().await?;
    let lease = |document: Vec<u8>| {
        let text = |field: &str| Elements::find(&document, field).and_then(|e| e.as_str()).map(str::to_owned);
        let mark = Elements::find(&document, RENEWED)?.as_date()?;
        let name = format!("{LEADERSHIP} {}", text("_id").unwrap_or_default());
        let lease = Lease { holder: text(HOLDER)?, mark, renewed_within: RENEWED_EVERY_MS };
        (now - mark < STALE_AFTER_MS).then_some((name, lease))
    };
    Ok(find(server, LEADERSHIP).await?.into_iter().filter_map(lease).collect())
}

impl Records {
    /// What is in these collections, by the names that they have or get.
    async fn of(server: &Server, collections: &BTreeMap<&str, &str>, ours: &[&str]) -> Result<Self, SourceError> {
        let mut records = Self::default();
        let there = catalog::list(server).await?;
        let is_there = |name: &str| {
            there.live.get(name).or(there.temporary.get(name)).is_some_and(|n| n.kind == CollectionType::Collection)
        };
        let place = |name: &str| collections.get(name).copied().filter(|place| ours.contains(&name) && is_there(place));
        if let Some(place) = place(LEADERSHIP) {
            records.leadership = find(server, place).await?;
            records.state.epoch = records.leadership.iter().filter_map(|d| integer(d, EPOCH)).max();
            for place in collections.values().filter(|place| is_there(place)) {
                records.state.stamp = records.state.stamp.max(highest_stamp(server, place).await?);
            }
        }
        if let Some(place) = place(REVOCATIONS) {
            records.revocations = find(server, place).await?;
            records.state.revocations = records.revocations.iter().map(|d| id_of(d)).collect();
        }
        if let Some(place) = place(JOIN_TOKENS) {
            let open = |d: &&Vec<u8>| Elements::find(d, REDEEMED).is_none_or(|e| e.kind == kind::NULL);
            records.state.open_tokens = find(server, place).await?.iter().filter(open).map(|d| id_of(d)).collect();
        }
        Ok(records)
    }
}

async fn apply(
    server: &Server,
    staged: &BTreeMap<&str, &str>,
    corrections: &Corrections,
    live: &Records,
    backup: &Records,
) -> Result<(), SourceError> {
    if let (Some(epoch), Some(place)) = (corrections.epoch, staged.get(LEADERSHIP)) {
        // A backup from before anybody led has no record to go on with.
        let missing = if backup.leadership.is_empty() { &live.leadership[..] } else { &[] };
        put(server, place, missing).await?;
        nobody_leads(server, place, epoch).await?;
    }
    if let Some(place) = staged.get(REVOCATIONS) {
        put(server, place, &live.revocations).await?;
    }
    if let Some(place) = staged.get(JOIN_TOKENS) {
        let delete = |id: &Vec<u8>| {
            let mut delete = DocBuilder::new();
            delete.document("q", id).int32("limit", 1);
            delete.finish()
        };
        let deletes: Vec<Vec<u8>> = corrections.tokens.iter().map(delete).collect();
        change(server, place, Verb::Delete, &deletes).await?;
    }
    Ok(())
}

/// Puts documents in the place of those with the same `_id`, or beside the others.
async fn put(server: &Server, collection: &str, documents: &[Vec<u8>]) -> Result<(), SourceError> {
    let update = |document: &Vec<u8>| {
        let mut update = DocBuilder::new();
        update.document("q", &id_of(document)).document("u", document).boolean("upsert", true);
        update.finish()
    };
    let updates: Vec<Vec<u8>> = documents.iter().map(update).collect();
    change(server, collection, Verb::Update, &updates).await
}

/// Runs a command of one of these kinds as often as it takes to make all changes.
async fn change(server: &Server, collection: &str, verb: Verb, changes: &[Vec<u8>]) -> Result<(), SourceError> {
    for some in changes.chunks(BATCH) {
        let mut command = DocBuilder::new();
        match verb {
            Verb::Update => {
                command.string("update", collection).array_of("updates", some);
                command.boolean("bypassDocumentValidation", true)
            }
            Verb::Delete => command.string("delete", collection).array_of("deletes", some),
        };
        server.write(command, &format!("correct {collection} by the restore laws")).await?;
    }
    Ok(())
}

async fn find(server: &Server, collection: &str) -> Result<Vec<Vec<u8>>, SourceError> {
    let mut command = DocBuilder::new();
    command.string("find", collection);
    all(server, collection, command.finish()).await
}

/// The highest epoch that a record says it was owned in.
async fn highest_stamp(server: &Server, collection: &str) -> Result<Option<i64>, SourceError> {
    let pipeline = [
        encode(&doc! { "$match": { STAMP: { "$type": "number" } } })?,
        encode(&doc! { "$group": { "_id": null, "max": { "$max": format!("${STAMP}") } } })?,
    ];
    let mut command = DocBuilder::new();
    command
        .string("aggregate", collection)
        .array_of("pipeline", pipeline)
        .document("cursor", &encode(&Document::new())?);
    Ok(all(server, collection, command.finish()).await?.iter().filter_map(|d| integer(d, "max")).max())
}

async fn all(server: &Server, collection: &str, command: Vec<u8>) -> Result<Vec<Vec<u8>>, SourceError> {
    let found: Result<_, CursorError> = async { all_of(server.cursor(command).await?).await }.await;
    found.map_err(|e| e.explain(server, &format!("read {collection}")))
}

/// A number of whichever type; a fraction is rounded up.
fn integer(document: &[u8], field: &str) -> Option<i64> {
    let element = Elements::find(document, field)?;
    element.as_integer().or_else(|| {
        let bytes: [u8; 8] = element.value.try_into().ok().filter(|_| element.kind == kind::DOUBLE)?;
        #[expect(clippy::cast_possible_truncation, reason = "as casts saturate, which is what is wanted")]
        Some(f64::from_le_bytes(bytes).ceil() as i64)
    })
}

/// A document with the `_id` alone.
fn id_of(document: &[u8]) -> Vec<u8> {
    let mut id = DocBuilder::new();
    if let Some(element) = Elements::find(document, "_id") {
        id.raw(element.kind, b"_id", element.value);
    }
    id.finish()
}

fn encode(document: &Document) -> Result<Vec<u8>, SourceError> {
    document.to_vec().map_err(|e| SourceError::Failed(format!("a command cannot be encoded: {e}")))
}
