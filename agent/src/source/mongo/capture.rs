//! Captures every namespace of the database into the files of a mongodump directory.

use std::io::{self, Write as _};

use prexor_format::{
    digest::{ContentDigest, ContentHasher, Order},
    gzip::GzipWriter,
    manifest::{Collection, CollectionType, Consistency, Contents, MongoContents},
    mongodump::{self, BUCKETS_PREFIX, Metadata, definition_digest},
};
use tokio_util::sync::CancellationToken;

use super::{
    Server, catalog,
    catalog::Namespace,
    drain::{Batches, drain, panicked},
    inspect,
};
use crate::{
    sink::{ArtifactSink, FileWriter},
    source::{Captured, SourceError},
};

/// What is told in `prelude.json` where mongodump tells its own version.
const TOOL_VERSION: &str = concat!("prexor-", env!("CARGO_PKG_VERSION"));

/// See [`crate::source::Source::capture`].
pub(super) async fn capture(
    server: &Server,
    sink: ArtifactSink,
    cancel: &CancellationToken,
) -> Result<Captured, SourceError> {
    let before = catalog::list(server).await?;
    sink.progress().set_total_bytes(inspect::stats(server).await?.bytes);
    write_file(&sink, mongodump::prelude_path(), mongodump::prelude(&server.version, TOOL_VERSION)).await?;
    let mut warnings = vec![
        "collections were read one after the other while writes went on: they do not show one point in time".to_owned(),
    ];
    if before.has_functions {
        warnings.push("stored functions (system.js) are not captured".to_owned());
    }
    let mut collections = Vec::new();
    for (name, namespace) in &before.live {
        if cancel.is_cancelled() {
            return Err(SourceError::Cancelled);
        }
        match collection(server, &sink, name, namespace).await? {
            Some(entry) => collections.push(entry),
            None => warnings.push(format!("{name} was dropped during the capture and is not part of it")),
        }
    }
    changes(&before, &catalog::list(server).await?, &collections, &mut warnings);
    let contents = MongoContents {
        server_version: server.version.clone(),
        feature_compatibility_version: inspect::feature_compatibility_version(server).await,
        replica_set: server.replica_set.clone(),
        databases: vec![server.database().to_owned()],
        consistency: Consistency::Fuzzy,
        collections,
    };
    Ok(Captured {
        contents: Contents::Mongo(contents),
        path: mongodump::ROOT.to_owned(),
        format: mongodump::FORMAT,
        warnings,
    })
}

/// Captures one namespace; `None` when it is gone.
async fn collection(
    server: &Server,
    sink: &ArtifactSink,
    name: &str,
    namespace: &Namespace,
) -> Result<Option<Collection>, SourceError> {
    sink.progress().set_subject(name);
    let Some((options, indexes)) = catalog::definition(server, name, namespace).await? else { return Ok(None) };
    let kind = namespace.kind;
    let definition = definition_digest(&options, &indexes, kind).map_err(|e| unfit(name, &e))?;
    let metadata = Metadata {
        options,
        indexes,
        uuid: namespace.uuid.clone().filter(|_| kind == CollectionType::Collection),
        collection: name.to_owned(),
        kind,
    };
    let json = metadata.to_json().map_err(|e| unfit(name, &e))?;
    // What does not read back as it is now could not be restored as it is now.
    if Metadata::from_json(&json, "").ok().as_ref() != Some(&metadata) {
        return Err(unfit(name, &"they do not survive the way through Extended JSON"));
    }
    let data = match kind {
        CollectionType::View => None,
        CollectionType::Collection => Some((name.to_owned(), mongodump::data_path(server.database(), name, false))),
        CollectionType::Timeseries => {
            Some((format!("{BUCKETS_PREFIX}{name}"), mongodump::data_path(server.database(), name, true)))
        }
    };
    let mut entry = Collection {
        database: server.database().to_owned(),
        name: name.to_owned(),
        kind,
        documents: 0,
        bson_bytes: 0,
        indexes: u32::try_from(metadata.indexes.len()).unwrap_or(u32::MAX),
        data_path: None,
        metadata_path: mongodump::metadata_path(server.database(), name),
        content: None,
        definition,
    };
    if let Some((source, path)) = data {
        let order = if namespace.is_capped() { Order::Sequence } else { Order::Multiset };
        let (to, file) = (sink.clone(), path.clone());
        let written = drain(server, &source, move |batches| write_documents(&to, file, order, batches)).await;
        let written = match written {
            Ok(written) => written,
            Err(e) if e.is_gone() => return Ok(None),
            Err(e) => return Err(e.explain(server, &format!("read {name}"))),
        };
        (entry.documents, entry.bson_bytes) = (written.documents, written.bytes);
        (entry.content, entry.data_path) = (Some(written.content), Some(path));
    }
    write_file(sink, entry.metadata_path.clone(), json).await?;
    Ok(Some(entry))
}

struct Written {
    documents: u64,
    bytes: u64,
    content: ContentDigest,
}

/// Blocking. A file that is not finished is never stored, so giving up needs no cleaning.
fn write_documents(sink: &ArtifactSink, path: String, order: Order, batches: Batches) -> Result<Written, SourceError> {
    let mut out = GzipWriter::new(sink.create(path).map_err(|e| broken(&e))?);
    let mut hasher = ContentHasher::new(order);
    let (mut documents, mut bytes) = (0, 0);
    batches.for_each(|document, _| {
        hasher.add(document);
        documents += 1;
        bytes += document.len() as u64;
        sink.progress().add(document.len() as u64, 1);
        out.write_all(document).map_err(|e| broken(&e))
    })?;
    out.finish().and_then(FileWriter::finish).map_err(|e| broken(&e))?;
    Ok(Written { documents, bytes, content: hasher.finish() })
}

async fn write_file(sink: &ArtifactSink, path: String, content: Vec<u8>) -> Result<(), SourceError> {
    let sink = sink.clone();
    let write = move || {
        let mut out = GzipWriter::new(sink.create(path)?);
        out.write_all(&content)?;
        out.finish()?.finish().map(drop)
    };
    tokio::task::spawn_blocking(write).await.map_err(|e| panicked(&e))?.map_err(|e| broken(&e))
}

/// Names what came, went or was replaced between two listings.
fn changes(before: &catalog::Catalog, after: &catalog::Catalog, captured: &[Collection], warnings: &mut Vec<String>) {
    for name in after.live.keys().filter(|n| !before.live.contains_key(*n)) {
        warnings.push(format!("{name} was created during the capture and is not part of it"));
    }
    for entry in captured {
        let (old, new) = (before.live.get(&entry.name), after.live.get(&entry.name));
        if old.map(|n| &n.uuid) != new.map(|n| &n.uuid) {
            warnings.push(format!("{} was dropped or replaced during the capture: it may be incomplete", entry.name));
        }
    }
}

fn unfit(name: &str, why: &dyn std::fmt::Display) -> SourceError {
    SourceError::Failed(format!("the options and indexes of {name} cannot be written to a dump: {why}"))
}

/// The sink fails only when its receiver is gone.
fn broken(error: &io::Error) -> SourceError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => SourceError::Cancelled,
        _ => SourceError::Failed(format!("cannot write the capture: {error}")),
    }
}
