//! Splits a big collection into ranges of records that are scanned side by side.
//!
//! A range ends at a document that exists at the time that is read, so the ranges meet exactly.

use futures::future;
use prexor_format::bson::{DocBuilder, Elements};

use super::{
    super::{catalog::all_of, server::CursorError},
    Failure, Run,
    output::Output,
    scan::{Block, Scan, View},
};
use crate::source::SourceError;

/// Collections below this size are read by one cursor.
const WORTH_IT: u64 = 64 << 20;
/// Cursors of one collection: enough that one fetches while another waits.
const RANGES: usize = 2;
/// Documents that are looked at to find the middle.
const SAMPLES: i32 = 15;

/// The last document of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
struct End {
    record: i64,
    /// Type and bytes of its `_id`.
    id: (u8, Vec<u8>),
}

/// Reads a collection that is no capped one into `output`.
pub(super) async fn read(run: &Run, source: &str, size: u64, output: &Output) -> Result<(), Failure> {
    let ends = match run.view {
        View::At(time) if size >= WORTH_IT => match ends(run, source, time).await {
            Ok(ends) => ends,
            Err(e) => {
                tracing::debug!(source, "is read by one cursor: {e:?}");
                Vec::new()
            }
        },
        _ => Vec::new(),
    };
    let scan = || Scan::new(&run.server, &run.budget, source, run.view).of_size(size);
    let starts = ends.iter().map(|end| {
        let mut token = DocBuilder::new();
        token.int64("$recordId", end.record);
        scan().after(token.finish())
    });
    let scans = [scan()].into_iter().chain(starts);
    let ranges = scans.zip(ends.iter().map(Some).chain([None]));
    future::try_join_all(ranges.map(|(scan, end)| range(scan, end, source, output))).await.map(drop)
}

async fn range(mut scan: Scan, end: Option<&End>, source: &str, output: &Output) -> Result<(), Failure> {
    while let Some(mut block) = scan.next().await? {
        let last = end.filter(|end| scan.ended() || scan.record().is_none_or(|r| r >= end.record));
        if let Some(end) = last {
            let Some(count) = up_to(&block, &end.id).map_err(Failure::Source)? else {
                return Err(Failure::Again(format!("a document of {source} was not found where it should be")));
            };
            block.keep(count);
        }
        output.add(block).await.map_err(Failure::Source)?;
        if last.is_some() {
            return Ok(());
        }
    }
    Ok(())
}

/// How many documents there are up to the one with this `_id`, it among them.
fn up_to(block: &Block, id: &(u8, Vec<u8>)) -> Result<Option<usize>, SourceError> {
    for (n, document) in block.iter()?.enumerate() {
        if id_of(document?).as_ref() == Some(id) {
            return Ok(Some(n + 1));
        }
    }
    Ok(None)
}

/// Type and bytes of a document's `_id`.
pub(super) fn id_of(document: &[u8]) -> Option<(u8, Vec<u8>)> {
    Elements::find(document, "_id").map(|e| (e.kind, e.value.to_vec()))
}

/// The ends of all ranges but the last, by record.
async fn ends(run: &Run, source: &str, time: u64) -> Result<Vec<End>, CursorError> {
    let (mut size, mut only_id) = (DocBuilder::new(), DocBuilder::new());
    size.int32("size", SAMPLES);
    only_id.int32("_id", 1);
    let only_id = only_id.finish();
    let (mut sample, mut project) = (DocBuilder::new(), DocBuilder::new());
    sample.document("$sample", &size.finish());
    project.document("$project", &only_id);
    let mut command = DocBuilder::new();
    command
        .string("aggregate", source)
        .array_of("pipeline", [sample.finish(), project.finish()])
        .document("cursor", prexor_format::bson::EMPTY_DOCUMENT);
    View::At(time).apply(&mut command);
    let mut found = Vec::new();
    for sampled in all_of(run.server.cursor(command.finish()).await?).await? {
        let Some(id) = id_of(&sampled) else { continue };
        let (mut equal, mut filter, mut command) = (DocBuilder::new(), DocBuilder::new(), DocBuilder::new());
        equal.raw(id.0, b"$eq", &id.1);
        filter.document("_id", &equal.finish());
        command
            .string("find", source)
            .document("filter", &filter.finish())
            .document("projection", &only_id)
            .int32("limit", 1)
            .boolean("showRecordId", true);
        View::At(time).apply(&mut command);
        for document in all_of(run.server.cursor(command.finish()).await?).await? {
            // Clustered collections number their records otherwise: they are read by one cursor.
            let record = Elements::find(&document, "$recordId").and_then(|r| r.as_integer());
            found.extend(record.map(|record| End { record, id: id.clone() }));
        }
    }
    found.sort_by_key(|end| end.record);
    found.dedup();
    let mut ends: Vec<End> = (1..RANGES).filter_map(|n| found.get(n * found.len() / RANGES).cloned()).collect();
    ends.dedup();
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use super::{super::scan::Budget, *};

    #[tokio::test]
    async fn a_block_is_cut_behind_a_document() {
        let document = |id: i32| {
            let mut b = DocBuilder::new();
            b.int32("_id", id).string("s", "x");
            b.finish()
        };
        let bytes: Vec<u8> = [1, 2, 3].map(document).concat();
        let permit = Budget::new().acquire(1).await;
        let mut block = Block::joined(bytes[..bytes.len() - 1].to_vec(), permit);
        let id = |n| id_of(&document(n)).unwrap();
        assert_eq!(up_to(&block, &id(2)).unwrap(), Some(2));
        assert!(up_to(&block, &id(4)).is_err(), "the last is cut short");
        block.keep(2);
        let mut kept = Vec::new();
        block.join(&mut kept).unwrap();
        assert_eq!(kept, bytes[..2 * document(1).len()]);
        assert_eq!(up_to(&block, &id(3)).unwrap(), None);
    }
}
