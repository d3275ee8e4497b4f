//! What the oplog says of some collections within a stretch of time.

use prexor_format::bson::{DocBuilder, Elements, kind};

use super::super::{
    catalog::all_of,
    server::{CursorError, Server},
};

/// The type of a UUID, and its bytes as a BSON binary.
const UUID: (u8, [u8; 5]) = (kind::BINARY, [16, 0, 0, 0, 4]);

/// A change to one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Cluster time.
    pub(super) time: u64,
    pub(super) change: Change,
    /// Type and bytes of the document's `_id`.
    pub(super) id: (u8, Vec<u8>),
}

/// What was done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// This document is new.
    Insert(Vec<u8>),
    /// It is gone: deleted, or the oldest of a capped collection that was full.
    Delete,
    /// It was updated, or something else that nothing can be concluded from.
    Other,
}

/// The entries on the collection with this UUID (32 hexadecimal digits), after `after` and up to `until`.
///
/// They are held in memory: `until` should be near, or `inserts` not be wanted.
pub(super) async fn entries(
    server: &Server,
    uuid: &str,
    after: u64,
    until: u64,
    inserts: bool,
) -> Result<Vec<Entry>, CursorError> {
    let uuid = hex::decode(uuid).unwrap_or_default();
    let uuid = [&UUID.1[..], &uuid].concat();
    let (mut times, mut plain, mut nested, mut filter) =
        (DocBuilder::new(), DocBuilder::new(), DocBuilder::new(), DocBuilder::new());
    times.timestamp("$gt", after).timestamp("$lte", until);
    plain.raw(UUID.0, b"ui", &uuid);
    if !inserts {
        let mut not = DocBuilder::new();
        not.string("$ne", "i");
        plain.document("op", &not.finish());
    }
    nested.raw(UUID.0, b"o.applyOps.ui", &uuid);
    filter.document("ts", &times.finish()).array_of("$or", [plain.finish(), nested.finish()]);
    let mut command = DocBuilder::new();
    command.string("find", "oplog.rs").document("filter", &filter.finish());
    let found = all_of(server.cursor_on("local", command.finish()).await?).await?;
    Ok(found.iter().flat_map(|entry| read(entry, &uuid)).collect())
}

/// Whether the oplog still reaches back to this time.
pub(super) async fn reaches(server: &Server, time: u64) -> Result<bool, CursorError> {
    let (mut natural, mut projection, mut command) = (DocBuilder::new(), DocBuilder::new(), DocBuilder::new());
    natural.int32("$natural", 1);
    projection.int32("ts", 1);
    command
        .string("find", "oplog.rs")
        .document("sort", &natural.finish())
        .document("projection", &projection.finish())
        .int32("limit", 1);
    let oldest = all_of(server.cursor_on("local", command.finish()).await?).await?;
    let oldest = oldest.first().and_then(|e| Elements::find(e, "ts")).and_then(|t| t.as_timestamp());
    Ok(oldest.is_some_and(|oldest| oldest <= time))
}

fn read(entry: &[u8], uuid: &[u8]) -> Vec<Entry> {
    let Some(time) = Elements::find(entry, "ts").and_then(|t| t.as_timestamp()) else { return Vec::new() };
    let object = Elements::find(entry, "o").and_then(|o| o.as_document());
    let Some(nested) = object.and_then(|o| Elements::find(o, "applyOps")).and_then(|n| n.as_document()) else {
        return vec![one(entry, time)];
    };
    let Ok(nested) = Elements::of(nested) else { return Vec::new() };
    let nested = nested.flatten().filter_map(|n| n.as_document());
    nested.filter(|n| Elements::find(n, "ui").is_some_and(|ui| ui.value == uuid)).map(|n| one(n, time)).collect()
}

fn one(entry: &[u8], time: u64) -> Entry {
    let object = Elements::find(entry, "o").and_then(|o| o.as_document()).unwrap_or_default();
    let change = match Elements::find(entry, "op").and_then(|op| op.as_str()) {
        Some("i") => Change::Insert(object.to_vec()),
        Some("d") => Change::Delete,
        _ => Change::Other,
    };
    let id = super::ranges::id_of(object).unwrap_or_default();
    Entry { time, change, id }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(op: &str, id: i32, uuid: &[u8]) -> DocBuilder {
        let (mut object, mut b) = (DocBuilder::new(), DocBuilder::new());
        object.int32("_id", id);
        b.string("op", op).raw(UUID.0, b"ui", uuid).document("o", &object.finish());
        b
    }

    #[test]
    fn entries_and_those_within_a_transaction_are_read() {
        let (ours, other) = ([&UUID.1[..], &[1; 16]].concat(), [&UUID.1[..], &[2; 16]].concat());
        let mut plain = entry("d", 1, &ours);
        plain.timestamp("ts", 7);
        let found = read(&plain.finish(), &ours);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].time, &found[0].change), (7, &Change::Delete));
        assert_eq!(found[0].id, (kind::INT32, vec![1, 0, 0, 0]));

        let (mut object, mut b) = (DocBuilder::new(), DocBuilder::new());
        object.array_of("applyOps", [entry("i", 2, &ours).finish(), entry("u", 3, &other).finish()]);
        b.string("op", "c").timestamp("ts", 8).document("o", &object.finish());
        let found = read(&b.finish(), &ours);
        assert!(matches!(&found[..], [Entry { time: 8, change: Change::Insert(_), .. }]), "{found:?}");
    }
}
