//! Which namespaces the database has, with their options and indexes as BSON bytes.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use mongodb::raw_batch_cursor::RawBatchCursor;
use prexor_format::{
    bson::{DocBuilder, EMPTY_DOCUMENT, Elements, kind},
    manifest::CollectionType,
    mongodump::{BUCKETS_PREFIX, FUNCTIONS},
};

use super::{
    drain::batch_documents,
    server::{CursorError, Server},
    temporary,
};
use crate::source::SourceError;

/// A live collection, view or time series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Namespace {
    pub(super) kind: CollectionType,
    /// `options` of listCollections.
    pub(super) options: Vec<u8>,
    /// 32 hexadecimal digits; of a time series its buckets'; views have none. It survives a rename.
    pub(super) uuid: Option<String>,
}

impl Namespace {
    /// Whether documents have a natural order that must be kept.
    pub(super) fn is_capped(&self) -> bool {
        Elements::find(&self.options, "capped").and_then(|e| e.as_bool()).unwrap_or(false)
    }
}

/// What the database holds.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    /// By name; of what MongoDB keeps for itself (`system.*`) only stored functions are among them.
    pub(super) live: BTreeMap<String, Namespace>,
    /// Temporary collections of restores, by name.
    pub(super) temporary: BTreeMap<String, Namespace>,
}

impl Catalog {
    /// The name that the collection with this UUID has now.
    pub(super) fn name_of(&self, uuid: &str) -> Option<&str> {
        let mut all = self.live.iter().chain(&self.temporary);
        all.find(|(_, n)| n.uuid.as_deref() == Some(uuid)).map(|(name, _)| name.as_str())
    }
}

/// Lists the namespaces.
pub(super) async fn list(server: &Server) -> Result<Catalog, SourceError> {
    list_where(server, EMPTY_DOCUMENT).await
}

/// Whether `name` still is what it was when it was listed as `namespace`.
pub(super) async fn is_still(server: &Server, name: &str, namespace: &Namespace) -> Result<bool, SourceError> {
    // By name alone, which the server looks up instead of listing all.
    let buckets = format!("{BUCKETS_PREFIX}{name}");
    let (mut names, mut one_of, mut filter) = (DocBuilder::new(), DocBuilder::new(), DocBuilder::new());
    names.string("0", name).string("1", &buckets);
    one_of.raw(kind::ARRAY, b"$in", &names.finish());
    filter.document("name", &one_of.finish());
    let now = list_where(server, &filter.finish()).await?;
    Ok(now.live.get(name).is_some_and(|n| n.uuid == namespace.uuid && n.kind == namespace.kind))
}

async fn list_where(server: &Server, filter: &[u8]) -> Result<Catalog, SourceError> {
    let mut command = DocBuilder::new();
    command.int32("listCollections", 1).document("filter", filter).document("cursor", EMPTY_DOCUMENT);
    let mut catalog = Catalog::default();
    let mut buckets = BTreeMap::new();
    let doing = "list collections";
    for entry in documents(server, command.finish()).await.map_err(|e| e.explain(server, doing))? {
        let text = |key| Elements::find(&entry, key).and_then(|e| e.as_str());
        let Some(name) = text("name").map(str::to_owned) else { continue };
        let uuid = Elements::find(&entry, "info")
            .and_then(|i| Elements::find(i.as_document()?, "uuid"))
            // A binary: length, subtype, 16 bytes.
            .and_then(|u| Some(hex::encode(u.value.get(5..21)?)));
        if let Some(series) = name.strip_prefix(BUCKETS_PREFIX) {
            buckets.insert(series.to_owned(), uuid);
        } else if !name.starts_with("system.") || name == FUNCTIONS {
            let kind = match text("type") {
                Some("view") => CollectionType::View,
                Some("timeseries") => CollectionType::Timeseries,
                _ => CollectionType::Collection,
            };
            let options = Elements::find(&entry, "options").and_then(|o| o.as_document());
            let options = options.unwrap_or(EMPTY_DOCUMENT).to_vec();
            // A result in the making ($out, mapReduce): it is renamed when it is whole, or dropped.
            if Elements::find(&options, "temp").and_then(|e| e.as_bool()).unwrap_or(false) {
                continue;
            }
            let found = if name.starts_with(temporary::PREFIX) { &mut catalog.temporary } else { &mut catalog.live };
            found.insert(name, Namespace { kind, options, uuid });
        }
    }
    for (name, namespace) in &mut catalog.live {
        if namespace.kind == CollectionType::Timeseries {
            namespace.uuid = buckets.remove(name).flatten();
        }
    }
    Ok(catalog)
}

/// The indexes of a collection or time series, or `None` when it is not there (any more).
pub(super) async fn indexes(server: &Server, name: &str) -> Result<Option<Vec<Vec<u8>>>, SourceError> {
    let mut command = DocBuilder::new();
    command.string("listIndexes", name).document("cursor", EMPTY_DOCUMENT);
    match documents(server, command.finish()).await {
        Ok(all) => Ok(Some(all)),
        Err(e) if e.is_gone() => Ok(None),
        Err(e) => Err(e.explain(server, &format!("list the indexes of {name}"))),
    }
}

/// The definition of a namespace: options and indexes (none for a view), or `None` when it is gone.
pub(super) async fn definition(
    server: &Server,
    name: &str,
    namespace: &Namespace,
) -> Result<Option<(Vec<u8>, Vec<Vec<u8>>)>, SourceError> {
    let indexes = match namespace.kind {
        CollectionType::View => Some(Vec::new()),
        CollectionType::Collection | CollectionType::Timeseries => indexes(server, name).await?,
    };
    Ok(indexes.map(|i| (namespace.options.clone(), i)))
}

async fn documents(server: &Server, command: Vec<u8>) -> Result<Vec<Vec<u8>>, CursorError> {
    all_of(server.cursor(command).await?).await
}

/// All documents of a cursor: for what is small only.
pub(super) async fn all_of(mut cursor: RawBatchCursor) -> Result<Vec<Vec<u8>>, CursorError> {
    let mut all = Vec::new();
    while let Some(batch) = cursor.next().await {
        let batch = batch.map_err(CursorError::Driver)?;
        for document in batch_documents(&batch).map_err(CursorError::Source)? {
            all.push(document.map_err(CursorError::Source)?.to_vec());
        }
    }
    Ok(all)
}
