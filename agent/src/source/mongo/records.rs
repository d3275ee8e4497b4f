//! Reads what a plan tells of PrexorCloud's records: names, and marks of what changes. See `prexor_format::platform`.

use bson::doc;
use prexor_format::{
    manifest::CollectionType,
    platform::{COLLECTIONS, READ_MAX, Records},
};

use super::{
    Server,
    catalog::{self, all_of},
    server::CursorError,
};
use crate::source::SourceError;

/// The records of the database; what is not there, or too much to be read for a plan, is unknown in them.
pub(super) async fn of(server: &Server) -> Result<Records, SourceError> {
    let mut records = Records::default();
    let catalog = catalog::list(server).await?;
    for collection in COLLECTIONS {
        let is_there = catalog.live.get(collection).is_some_and(|n| n.kind == CollectionType::Collection);
        if !is_there || server.estimate(collection).await.bytes > READ_MAX {
            continue;
        }
        let fields = doc! { "_id": 1, "username": 1, "passwordHash": 1, "nodeId": 1 };
        let command = doc! { "find": collection, "projection": fields }.to_vec();
        let command = command.map_err(|e| SourceError::Failed(format!("a command cannot be encoded: {e}")))?;
        let found: Result<_, CursorError> = async { all_of(server.cursor(command).await?).await }.await;
        let found = found.map_err(|e| e.explain(server, &format!("read {collection}")))?;
        records.begin(collection);
        found.iter().for_each(|document| records.add(collection, document));
    }
    Ok(records)
}
