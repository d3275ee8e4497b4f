//! Reads a whole collection as raw reply batches, in natural order, on to a blocking thread.
//!
//! Unlike a capture's scan it reads what nobody else writes to, and begins anew when it is interrupted.

use std::sync::Arc;

use futures::StreamExt as _;
use mongodb::raw_batch_cursor::RawBatch;
use prexor_format::bson::{DocBuilder, Elements, Walked, kind, walk};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinError,
};

use super::server::{CursorError, Estimate, Server};
use crate::source::SourceError;

/// Bytes of documents in a batch, about. The driver holds each some times over.
const BATCH: u64 = 1 << 20;
/// Documents in the first batch where nothing is known of their size: what servers take themselves.
const FIRST_BATCH: i32 = 101;
/// Batches that may wait for the blocking thread.
const BATCHES_IN_FLIGHT: usize = 1;
/// Bytes of a batch after which the next is only asked for when it was consumed: a document can have 16 MiB.
const LARGE: usize = 4 << 20;

/// The blocking thread's end.
#[derive(Debug)]
pub(super) struct Batches {
    /// `None` says that the cursor came to its end; a closed channel alone says that reading was given up.
    rx: mpsc::Receiver<Option<Held>>,
}

/// A batch, and who waits for its end.
type Held = (RawBatch, OwnedSemaphorePermit);

impl Batches {
    /// Hands over every document, walked to its leaves. Blocking.
    pub(super) fn for_each(
        mut self,
        mut take: impl FnMut(&[u8], Walked) -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        loop {
            let Some((batch, _held)) = self.rx.blocking_recv().ok_or(SourceError::Cancelled)? else { return Ok(()) };
            for document in batch_documents(&batch)? {
                let document = document?;
                let walked = walk(document).map_err(|e| malformed(&e))?;
                take(document, walked)?;
            }
        }
    }
}

/// Reads `collection` to its end while `consume` runs on a blocking thread. Memory is bounded by a few batches.
///
/// When the returned future is dropped, `consume` sees its batches end with `Cancelled`.
pub(super) async fn drain<T: Send + 'static>(
    server: &Server,
    collection: &str,
    consume: impl FnOnce(Batches) -> Result<T, SourceError> + Send + 'static,
) -> Result<T, CursorError> {
    let Estimate { documents, bytes } = server.estimate(collection).await;
    let batch = BATCH.saturating_mul(documents).checked_div(bytes).map(|n| i32::try_from(n.max(1)).unwrap_or(i32::MAX));
    let mut natural = DocBuilder::new();
    natural.int32("$natural", 1);
    let mut command = DocBuilder::new();
    command
        .string("find", collection)
        .document("hint", &natural.finish())
        .int32("batchSize", batch.unwrap_or(FIRST_BATCH))
        // A slow receiver may hold us up for longer than the ten minutes after which idle cursors end.
        .boolean("noCursorTimeout", true);
    let mut cursor = server.cursor_by(command.finish(), batch).await?;
    let (tx, rx) = mpsc::channel(BATCHES_IN_FLIGHT);
    // One batch on its way, one with the consumer, and the one that was just read.
    let held = Arc::new(Semaphore::new(BATCHES_IN_FLIGHT + 2));
    let consumer = tokio::task::spawn_blocking(move || consume(Batches { rx }));
    loop {
        let batch = cursor.next().await.transpose().map_err(CursorError::Driver)?;
        let Some(batch) = batch else {
            // A consumer that is gone has failed: its result says why.
            let _ = tx.send(None).await;
            break;
        };
        let large = batch.as_raw_document().as_bytes().len() > LARGE;
        let permit = held.clone().acquire_owned().await.map_err(|_| CursorError::Source(SourceError::Cancelled))?;
        if tx.send(Some((batch, permit))).await.is_err() {
            break;
        }
        if large {
            // All of them are back when everything was consumed, or nobody consumes any more.
            drop(held.acquire_many(BATCHES_IN_FLIGHT as u32 + 2).await);
        }
    }
    consumer.await.map_err(|e| CursorError::Source(panicked(&e)))?.map_err(CursorError::Source)
}

/// The documents of a reply, as slices of it.
pub(super) fn batch_documents(
    batch: &RawBatch,
) -> Result<impl Iterator<Item = Result<&[u8], SourceError>>, SourceError> {
    let cursor = Elements::find(batch.as_raw_document().as_bytes(), "cursor").and_then(|c| c.as_document());
    let cursor = cursor.ok_or_else(|| malformed(&"no cursor in the reply"))?;
    let documents = Elements::find(cursor, "firstBatch").or_else(|| Elements::find(cursor, "nextBatch"));
    let documents = documents.and_then(|d| d.as_document()).ok_or_else(|| malformed(&"no batch in the reply"))?;
    let elements = Elements::of(documents).map_err(|e| malformed(&e))?;
    Ok(elements.map(|e| match e {
        Ok(e) if e.kind == kind::DOCUMENT => Ok(e.value),
        Ok(_) => Err(malformed(&"something that is no document in a batch")),
        Err(e) => Err(malformed(&e)),
    }))
}

/// A blocking thread that did not come to its end.
pub(super) fn panicked(error: &JoinError) -> SourceError {
    if error.is_cancelled() {
        SourceError::Cancelled
    } else {
        SourceError::Failed(format!("an internal error, please report it: {error}"))
    }
}

/// What a server sent that is not what it should be.
pub(super) fn malformed(what: &dyn std::fmt::Display) -> SourceError {
    SourceError::Failed(format!("MongoDB sent what cannot be read: {what}"))
}
