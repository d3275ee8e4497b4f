//! A database as collections with options, indexes and the bytes of their documents.

use anyhow::{Context, Result};
use futures::TryStreamExt;
use mongodb::{
    Client, Database,
    bson::{Document, RawDocument, RawDocumentBuf, doc},
};
use sha2::{Digest, Sha256};

use super::{Aspects, Things};

/// Reads every collection, view and bucket collection of a database.
///
/// The documents of a capped collection count in natural order, of every other as a multiset. What the server makes
/// anew for each collection (its UUID) is left out, and so is what the restore laws L2 and L7 correct: the suite
/// `mongo_laws` looks at that.
///
/// # Errors
/// When the server refuses or goes away.
pub async fn mongo(client: &Client, database: &str) -> Result<Things> {
    let db = client.database(database);
    let listed: Vec<Document> = db.run_cursor_command(doc! { "listCollections": 1 }).await?.try_collect().await?;
    let mut things = Things::new();
    for entry in listed {
        let name = entry.get_str("name").context("listCollections names every collection")?.to_owned();
        // It holds the views' definitions, which are compared one by one.
        if name != "system.views" && name != "system.profile" {
            let aspects = collection(&db, &name, &entry).await.with_context(|| format!("reading {database}.{name}"))?;
            things.insert(name, aspects);
        }
    }
    Ok(things)
}

async fn collection(db: &Database, name: &str, entry: &Document) -> Result<Aspects> {
    let mut aspects = Aspects::new();
    let kind = entry.get_str("type").unwrap_or("collection").to_owned();
    let options = entry.get_document("options").cloned().unwrap_or_default();
    let capped = options.get_bool("capped").unwrap_or(false);
    // Debug output shows types and order: Int32(1) is not Int64(1).
    aspects.insert("options".into(), format!("{options:?}"));
    aspects.insert("type".into(), kind.clone());
    if kind != "view" && !name.starts_with("system.buckets.") {
        let mut indexes: Vec<Document> =
            db.run_cursor_command(doc! { "listIndexes": name }).await?.try_collect().await?;
        indexes.sort_by_key(|index| index.get_str("name").unwrap_or_default().to_owned());
        for index in indexes {
            aspects.insert(format!("index {}", index.get_str("name").unwrap_or_default()), format!("{index:?}"));
        }
    }
    let (count, digest) = documents(db, name, capped).await?;
    aspects.insert("count".into(), count.to_string());
    aspects.insert("documents".into(), digest);
    Ok(aspects)
}

async fn documents(db: &Database, name: &str, capped: bool) -> Result<(usize, String)> {
    let collection = db.collection::<RawDocumentBuf>(name);
    let mut find = collection.find(doc! {});
    if capped {
        find = find.hint(mongodb::options::Hint::Keys(doc! { "$natural": 1 }));
    }
    let mut batches = find.batch().await?;
    let mut digests: Vec<[u8; 32]> = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        for document in batch.doc_slices()? {
            let document = document?;
            let document = document.as_document().context("a batch consists of documents")?;
            if let Some(bytes) = but_for_laws(name, document)? {
                digests.push(Sha256::digest(bytes).into());
            }
        }
    }
    if !capped {
        digests.sort_unstable();
    }
    Ok((digests.len(), hex::encode(Sha256::digest(digests.as_flattened()))))
}

/// A document's bytes without what a restore corrects in it: who leads in which epoch; tokens that nobody has used.
fn but_for_laws(collection: &str, document: &RawDocument) -> Result<Option<Vec<u8>>> {
    match collection {
        "cluster_leadership" => {
            let mut rest = Document::try_from(document)?;
            rest.remove("epoch");
            rest.remove("holder");
            Ok(Some(rest.to_vec()?))
        }
        "cluster_join_tokens" if document.get_datetime("redeemedAt").is_err() => Ok(None),
        _ => Ok(Some(document.as_bytes().to_vec())),
    }
}
