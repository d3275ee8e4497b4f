//! PrexorCloud's records in a backup, for a plan to compare with the live ones: small collections, read out of the dump.

use std::io::Read;

use futures::TryStreamExt as _;
use prexor_format::{
    bson::DocumentReader,
    manifest::{Collection, CollectionType, Contents, Manifest},
    mongodump::plain,
    platform::{COLLECTIONS, READ_MAX, Records},
};

use crate::{context::Context, error::Error};

/// What the backup's dump has of them. What is too large for a plan, or cannot be read, is unknown: whether a backup is whole is
/// not for a plan to find out.
pub(super) async fn of_backup(ctx: &Context, manifest: &Manifest) -> Records {
    let mut records = Records::default();
    let dumps = manifest.artifacts.iter().filter_map(|a| match &a.contents {
        Contents::Mongo(dump) => Some(dump),
        Contents::Valkey(_) | Contents::Filesystem(_) => None,
    });
    for dump in dumps {
        let of = |database: &str| {
            let is_ours = |c: &&Collection| c.database == database && COLLECTIONS.contains(&c.name.as_str());
            dump.collections.iter().filter(is_ours).filter(|c| c.kind == CollectionType::Collection).collect::<Vec<_>>()
        };
        // Of several databases the controllers' own has the most of them.
        let database = dump.databases.iter().rev().max_by_key(|database| of(database).len());
        for collection in database.map(|database| of(database)).unwrap_or_default() {
            let Some(path) = collection.data_path.as_ref().filter(|_| collection.bson_bytes <= READ_MAX) else {
                continue;
            };
            if let Err(e) = read(ctx, manifest, &collection.name, path, &mut records).await {
                tracing::warn!(backup = %manifest.id, path, "it cannot be read for a plan: {e}");
                records.forget(&collection.name);
            }
        }
    }
    records
}

async fn read(ctx: &Context, manifest: &Manifest, name: &str, path: &str, records: &mut Records) -> Result<(), Error> {
    let pieces: Vec<bytes::Bytes> = ctx.store.open_file(&manifest.id, path).await?.try_collect().await?;
    let (name, path, mut read) = (name.to_owned(), path.to_owned(), std::mem::take(records));
    let walked = tokio::task::spawn_blocking(move || {
        let stored = pieces.concat();
        let outcome = walk(&name, plain(&path, &stored[..]), &mut read);
        (read, outcome)
    });
    let outcome;
    (*records, outcome) = walked.await.map_err(|e| Error::internal(e.to_string()))?;
    outcome
}

fn walk(name: &str, bson: impl Read, records: &mut Records) -> Result<(), Error> {
    records.begin(name);
    let mut documents = DocumentReader::new(bson.take(READ_MAX));
    while let Some((document, _)) = documents.read().map_err(|e| Error::internal(e.to_string()))? {
        records.add(name, document);
    }
    Ok(())
}
