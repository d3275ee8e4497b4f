//! Inserts raw documents in big batches, two at a time where order does not count.

use std::sync::Arc;

use futures::future::try_join_all;
use prexor_format::bson::{DocBuilder, Elements, Walked, kind};
use tokio::sync::{Mutex, mpsc};

use super::Server;
use crate::{sink::Progress, source::SourceError};

/// Bytes of documents per command: from 4 MB on the server's speed no longer depends on it, the memory used does.
const BATCH_BYTES: usize = 6 << 20;

/// The most documents that a server takes in one command.
const BATCH_DOCUMENTS: usize = 100_000;

/// Batches sent at once. One keeps the order (capped collections); a third would not be faster.
const WORKERS: usize = 2;

/// Collects documents into batches. Blocking, so it lives on a blocking thread.
#[derive(Debug)]
pub(super) struct Batcher {
    tx: mpsc::Sender<Batch>,
    pending: Batch,
}

#[derive(Debug, Default)]
struct Batch {
    documents: DocBuilder,
    count: usize,
    bytes: u64,
    /// Documents with a top-level Timestamp(0,0), which the server replaces by its own time when it inserts them.
    with_zero_timestamps: Vec<Vec<u8>>,
}

impl Batcher {
    /// Adds a document; waits while the server is behind.
    pub(super) fn add(&mut self, document: &[u8], walked: Walked) -> Result<(), SourceError> {
        let full = self.pending.documents.size() + document.len() > BATCH_BYTES;
        if self.pending.count > 0 && (full || self.pending.count == BATCH_DOCUMENTS) {
            self.send()?;
        }
        let batch = &mut self.pending;
        batch.documents.document(&batch.count.to_string(), document);
        batch.count += 1;
        batch.bytes += document.len() as u64;
        if walked.zero_timestamps > 0 {
            batch.with_zero_timestamps.push(document.to_vec());
        }
        Ok(())
    }

    /// Sends what is left.
    pub(super) fn finish(mut self) -> Result<(), SourceError> {
        if self.pending.count > 0 { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<(), SourceError> {
        self.tx.blocking_send(std::mem::take(&mut self.pending)).map_err(|_| SourceError::Cancelled)
    }
}

/// Inserts what `produce` adds to its [`Batcher`] into `target`, past the collection's validator.
pub(super) async fn insert<P: Future<Output = Result<(), SourceError>>>(
    server: &Server,
    target: &str,
    in_order: bool,
    progress: &Progress,
    produce: impl FnOnce(Batcher) -> P,
) -> Result<(), SourceError> {
    let (tx, rx) = mpsc::channel(1);
    let rx = Arc::new(Mutex::new(rx));
    let producing = produce(Batcher { tx, pending: Batch::default() });
    let workers = try_join_all((0..if in_order { 1 } else { WORKERS }).map(|_| {
        let rx = rx.clone();
        async move {
            loop {
                let batch = rx.lock().await.recv().await;
                let Some(batch) = batch else { return Ok(()) };
                let (bytes, count) = (batch.bytes, batch.count as u64);
                if let Err(e) = send(server, target, batch).await {
                    // The producer ends when nobody takes its batches.
                    rx.lock().await.close();
                    return Err(e);
                }
                progress.add(bytes, count);
            }
        }
    }));
    drop(rx);
    let working = async { workers.await.map(drop) };
    let (produced, worked) = tokio::join!(producing, working);
    worked.and(produced)
}

async fn send(server: &Server, target: &str, batch: Batch) -> Result<(), SourceError> {
    let doing = format!("insert into {target}");
    let mut command = DocBuilder::new();
    command.string("insert", target).boolean("ordered", true).boolean("bypassDocumentValidation", true).raw(
        kind::ARRAY,
        b"documents",
        &batch.documents.finish(),
    );
    server.write(command, &doing).await?;
    for document in batch.with_zero_timestamps {
        put_back(server, target, &document, &doing).await?;
    }
    Ok(())
}

/// Replaces a document by itself in a way that leaves its timestamps alone: as a literal of a pipeline.
async fn put_back(server: &Server, target: &str, document: &[u8], doing: &str) -> Result<(), SourceError> {
    let Some(id) = Elements::find(document, "_id") else { return Ok(()) };
    let (mut equal, mut query) = (DocBuilder::new(), DocBuilder::new());
    equal.raw(id.kind, b"$eq", id.value);
    query.document("_id", &equal.finish());
    let (mut literal, mut stage) = (DocBuilder::new(), DocBuilder::new());
    literal.document("$literal", document);
    stage.document("$replaceWith", &literal.finish());
    let mut update = DocBuilder::new();
    update.document("q", &query.finish()).array_of("u", [stage.finish()]);
    let mut command = DocBuilder::new();
    command.string("update", target).boolean("bypassDocumentValidation", true).array_of("updates", [update.finish()]);
    server.write(command, doing).await
}
