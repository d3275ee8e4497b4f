//! Compares what a collection holds with what the manifest says of it.

use std::{io::Read, time::Instant};

use prexor_format::{
    bson::DocumentReader,
    digest::{ContentDigest, ContentHasher, Order},
    manifest::{Collection, CollectionType},
    mongodump::{BUCKETS_PREFIX, Expiry, collection_expiries, definition_digest},
};

use super::{
    MongoConfig, Server, accounts, catalog,
    drain::{drain, panicked},
    laws,
    server::CursorError,
    staged::{self, Definition},
};
use crate::{restore_unit::RestoreUnit, source::SourceError};

/// Documents that may expire within this time are not compared where some have expired already (law L17).
const EXPIRY_MARGIN_MS: i64 = 3_600_000;

/// What a number of documents come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) documents: u64,
    pub(super) bytes: u64,
    pub(super) content: ContentDigest,
}

/// A walk through all documents of a collection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scan {
    /// All of them.
    pub(super) all: Sum,
    /// Those that cannot have expired by the time given.
    pub(super) lasting: Sum,
}

impl Scan {
    /// Reads `collection`. What `expiries` may have taken at `cutoff` (milliseconds since the epoch) does not count as
    /// lasting.
    pub(super) async fn of(
        server: &Server,
        collection: &str,
        order: Order,
        expiries: Vec<Expiry>,
        cutoff: i64,
    ) -> Result<Self, CursorError> {
        let mut adder = Adder::new(order, expiries, cutoff);
        let consume = move |batches: super::drain::Batches| {
            batches.for_each(|document, _| {
                adder.add(document);
                Ok(())
            })?;
            Ok(adder.finish())
        };
        drain(server, collection, consume).await
    }

    /// The same of a data file. Blocking.
    fn of_file(data: impl Read, order: Order, expiries: Vec<Expiry>, cutoff: i64) -> Result<Self, String> {
        let mut adder = Adder::new(order, expiries, cutoff);
        let mut documents = DocumentReader::new(data);
        while let Some((document, _)) = documents.read().map_err(|e| e.to_string())? {
            adder.add(document);
        }
        Ok(adder.finish())
    }
}

/// Adds documents up as they pass.
pub(super) struct Adder {
    expiries: Vec<Expiry>,
    cutoff: i64,
    all: (u64, u64, ContentHasher),
    lasting: (u64, u64, ContentHasher),
}

impl Adder {
    pub(super) fn new(order: Order, expiries: Vec<Expiry>, cutoff: i64) -> Self {
        let empty = || (0, 0, ContentHasher::new(order));
        Self { expiries, cutoff, all: empty(), lasting: empty() }
    }

    pub(super) fn add(&mut self, document: &[u8]) {
        let count = |sum: &mut (u64, u64, ContentHasher)| {
            sum.0 += 1;
            sum.1 += document.len() as u64;
            sum.2.add(document);
        };
        count(&mut self.all);
        if !self.expiries.is_empty() && !self.expiries.iter().any(|e| e.may_have_taken(document, self.cutoff)) {
            count(&mut self.lasting);
        }
    }

    pub(super) fn finish(self) -> Scan {
        let sum =
            |(documents, bytes, hasher): (u64, u64, ContentHasher)| Sum { documents, bytes, content: hasher.finish() };
        Scan { all: sum(self.all), lasting: sum(self.lasting) }
    }
}

/// How the documents differ from those of the backup, in words.
pub(super) fn differences(entry: &Collection, found: &Sum) -> Option<String> {
    if found.documents != entry.documents {
        return Some(format!("{} documents instead of {}", found.documents, entry.documents));
    }
    if found.bytes != entry.bson_bytes {
        return Some(format!("{} bytes of documents instead of {}", found.bytes, entry.bson_bytes));
    }
    (Some(found.content) != entry.content).then(|| "the same number of documents, with other content".to_owned())
}

/// See [`crate::source::Source::check`].
pub(super) async fn check(
    server: &Server,
    config: &MongoConfig,
    unit: &RestoreUnit,
) -> Result<Vec<String>, SourceError> {
    let contents = staged::contents(unit, config)?;
    let definitions = staged::definitions(unit, &contents).await?;
    let mut out = Vec::new();
    for database in &contents.databases {
        let of_it: Vec<&Definition> = definitions.iter().filter(|d| d.entry.database == *database).collect();
        check_one(&server.on_database(database), unit, &of_it, &mut out).await?;
    }
    out.extend(accounts::check(server, unit, &contents).await?);
    Ok(out)
}

async fn check_one(
    server: &Server,
    unit: &RestoreUnit,
    definitions: &[&Definition],
    out: &mut Vec<String>,
) -> Result<(), SourceError> {
    let live = catalog::list(server).await?.live;
    let stranger =
        |n: &&String| !definitions.iter().any(|d| d.target == **n) && staged::gives_way(unit, server.database(), n);
    let corrected = laws::corrected(unit, server.database())?;
    for name in live.keys().filter(stranger) {
        out.push(format!("{name} is there and is not in the backup"));
    }
    for definition in definitions {
        let name = &definition.target;
        unit.progress.set_subject(name);
        let Some(namespace) = live.get(name) else {
            out.push(format!("{name} is missing"));
            continue;
        };
        let Some((options, indexes)) = catalog::definition(server, name, namespace).await? else {
            out.push(format!("{name} is missing"));
            continue;
        };
        let wanted = &definition.metadata;
        let wanted = definition_digest(&wanted.options, &wanted.indexes, wanted.kind);
        if definition_digest(&options, &indexes, namespace.kind) != wanted {
            out.push(format!("{name}: other options or indexes than in the backup"));
        }
        if namespace.kind == definition.entry.kind
            && let Some(difference) = data_difference(server, definition, corrected.get(name)).await?
        {
            out.push(format!("{name}: {difference}"));
        }
    }
    Ok(())
}

/// Compares with the manifest, or with what the restore laws have made of a collection.
async fn data_difference(
    server: &Server,
    definition: &Definition,
    corrected: Option<&Collection>,
) -> Result<Option<String>, SourceError> {
    let (entry, Some(path)) = (corrected.unwrap_or(&definition.entry), &definition.data) else { return Ok(None) };
    let order = entry.content.map_or(Order::Multiset, |c| c.order);
    let prefix = if entry.kind == CollectionType::Timeseries { BUCKETS_PREFIX } else { "" };
    let collection = format!("{prefix}{}", definition.target);
    let expiries = collection_expiries(&definition.metadata).map_err(|e| SourceError::Invalid(e.to_string()))?;
    let begun = Instant::now();
    let cutoff = server.now().await?.saturating_add(EXPIRY_MARGIN_MS);
    let scan = Scan::of(server, &collection, order, expiries.clone(), cutoff).await;
    let live = scan.map_err(|e| e.explain(server, &format!("read {}", entry.name)))?;
    let difference = differences(entry, &live.all);
    if difference.is_none() || expiries.is_empty() || live.all.documents > entry.documents {
        return Ok(difference);
    }
    if corrected.is_some() {
        // Some may have expired; which were there before is not in a file.
        return Ok(None);
    }
    // Some may have expired since the swap: what cannot have expired must be all there.
    let path = path.clone();
    let scan =
        move || staged::open(&path).map_err(|e| e.to_string()).and_then(|f| Scan::of_file(f, order, expiries, cutoff));
    let wanted = tokio::task::spawn_blocking(scan).await.map_err(|e| panicked(&e))?.map_err(SourceError::Invalid)?;
    let in_time = i64::try_from(begun.elapsed().as_millis()).is_ok_and(|ms| ms < EXPIRY_MARGIN_MS);
    Ok(difference.filter(|_| !in_time || wanted.lasting != live.lasting))
}
