//! Inserts raw documents in big batches, two at a time where order does not count.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures::future::try_join_all;
use prexor_format::bson::{DocBuilder, Elements, OpenArray, Walked, kind};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};

use super::{Server, space::Disk};
use crate::{sink::Progress, source::SourceError};

/// Bytes of documents per command: from about here on the server's speed hardly depends on it, the memory used does.
const BATCH_BYTES: usize = 3 << 20;

/// The most documents that a server takes in one command.
const BATCH_DOCUMENTS: usize = 100_000;

/// Batches sent at once. One keeps the order (capped collections); a third would not be faster.
const WORKERS: usize = 2;

/// MiB of documents that wait for the server, of all collections that are loaded at once. A command is held some times
/// over on its way through the driver.
const IN_FLIGHT_MIB: u32 = 8;

/// Bytes after which the server's disk is looked at again.
const LOOK_AT_DISK_EVERY: u64 = 16 << 20;

/// The memory that all collections have together which are loaded at once.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(IN_FLIGHT_MIB as usize)))
    }
}

/// Collects documents into batches. Blocking, so it lives on a blocking thread.
#[derive(Debug)]
pub(super) struct Batcher {
    tx: mpsc::Sender<Batch>,
    target: String,
    room: Room,
    runtime: tokio::runtime::Handle,
    pending: Option<Pending>,
}

/// The command under construction.
#[derive(Debug)]
struct Pending {
    command: DocBuilder,
    documents: OpenArray,
    bytes: u64,
    with_zero_timestamps: Vec<Vec<u8>>,
}

#[derive(Debug)]
enum What {
    /// To insert documents.
    Command(DocBuilder),
    /// A document.
    One(Vec<u8>),
}

#[derive(Debug)]
struct Batch {
    what: What,
    count: u64,
    bytes: u64,
    /// Documents with a top-level Timestamp(0,0), which the server replaces by its own time when it inserts them.
    with_zero_timestamps: Vec<Vec<u8>>,
    _room: OwnedSemaphorePermit,
}

impl Batcher {
    /// Adds a document; waits while the server is behind.
    pub(super) fn add(&mut self, document: &[u8], walked: Walked) -> Result<(), SourceError> {
        let full =
            |p: &Pending| p.command.size() + document.len() > BATCH_BYTES || p.documents.items() == BATCH_DOCUMENTS;
        if self.pending.as_ref().is_some_and(full) {
            self.send()?;
        }
        if self.pending.is_none() {
            self.pending = Some(Pending::of(&self.target));
        }
        let Some(pending) = &mut self.pending else { return Ok(()) };
        pending.command.item(&mut pending.documents, document);
        pending.bytes += document.len() as u64;
        if walked.zero_timestamps > 0 {
            pending.with_zero_timestamps.push(document.to_vec());
        }
        Ok(())
    }

    /// Inserts a document of many MiB while nothing else is under way: the driver holds it three times.
    pub(super) fn add_alone(&mut self, document: Vec<u8>, walked: Walked) -> Result<(), SourceError> {
        self.send()?;
        let bytes = document.len() as u64;
        let with_zero_timestamps = if walked.zero_timestamps > 0 { vec![document.clone()] } else { Vec::new() };
        let room = self.room_for(u64::MAX)?;
        let batch = Batch { what: What::One(document), count: 1, bytes, with_zero_timestamps, _room: room };
        self.tx.blocking_send(batch).map_err(|_| SourceError::Cancelled)?;
        // Until then not even the next document is read.
        self.room_for(u64::MAX).map(drop)
    }

    /// Sends what is left.
    pub(super) fn finish(mut self) -> Result<(), SourceError> {
        self.send()
    }

    fn send(&mut self) -> Result<(), SourceError> {
        let Some(mut pending) = self.pending.take() else { return Ok(()) };
        let room = self.room_for(pending.bytes)?;
        let count = pending.documents.items() as u64;
        pending.command.close(pending.documents);
        let batch = Batch {
            what: What::Command(pending.command),
            count,
            bytes: pending.bytes,
            with_zero_timestamps: pending.with_zero_timestamps,
            _room: room,
        };
        self.tx.blocking_send(batch).map_err(|_| SourceError::Cancelled)
    }

    /// Waits until so many bytes may be on their way.
    fn room_for(&self, bytes: u64) -> Result<OwnedSemaphorePermit, SourceError> {
        let mib = u32::try_from(bytes >> 20).unwrap_or(u32::MAX).saturating_add(1).min(IN_FLIGHT_MIB);
        self.runtime.block_on(self.room.0.clone().acquire_many_owned(mib)).map_err(|_| SourceError::Cancelled)
    }
}

impl Pending {
    fn of(target: &str) -> Self {
        let mut command = DocBuilder::new();
        command.string("insert", target).boolean("ordered", true).boolean("bypassDocumentValidation", true);
        let documents = command.open_array("documents");
        Self { command, documents, bytes: 0, with_zero_timestamps: Vec::new() }
    }
}

/// Inserts what `produce` adds to its [`Batcher`] into `target`, past the collection's validator.
pub(super) async fn insert<P: Future<Output = Result<(), SourceError>>>(
    server: &Server,
    target: &str,
    in_order: bool,
    room: &Room,
    progress: &Progress,
    produce: impl FnOnce(Batcher) -> P,
) -> Result<(), SourceError> {
    let (tx, rx) = mpsc::channel(1);
    let rx = Arc::new(Mutex::new(rx));
    let runtime = tokio::runtime::Handle::current();
    let producing = produce(Batcher { tx, target: target.to_owned(), room: room.clone(), runtime, pending: None });
    let sent = AtomicU64::new(0);
    let workers = try_join_all((0..if in_order { 1 } else { WORKERS }).map(|_| {
        let (rx, sent) = (rx.clone(), &sent);
        async move {
            loop {
                let batch = rx.lock().await.recv().await;
                let Some(batch) = batch else { return Ok(()) };
                let (bytes, count) = (batch.bytes, batch.count);
                let done = async {
                    send(server, target, batch).await?;
                    let before = sent.fetch_add(bytes, Ordering::Relaxed);
                    match before / LOOK_AT_DISK_EVERY == (before + bytes) / LOOK_AT_DISK_EVERY {
                        true => Ok(()),
                        false => Disk::of(server).await?.still_has_room(server),
                    }
                };
                if let Err(e) = done.await {
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
    match batch.what {
        What::Command(command) => server.write(command, &doing).await?,
        What::One(document) => server.insert_one(target, document, &doing).await?,
    }
    put_back(server, target, &batch.with_zero_timestamps, &doing).await
}

/// Gives documents their empty timestamps back.
async fn put_back(server: &Server, target: &str, documents: &[Vec<u8>], doing: &str) -> Result<(), SourceError> {
    if documents.is_empty() {
        return Ok(());
    }
    let mut command = DocBuilder::new();
    command.string("update", target).boolean("bypassDocumentValidation", true);
    let mut updates = command.open_array("updates");
    for document in documents {
        if let Some(update) = put_back_one(document) {
            command.item(&mut updates, &update);
        }
    }
    let any = updates.items() > 0;
    command.close(updates);
    if any { server.write(command, doing).await } else { Ok(()) }
}

/// An update that leaves empty timestamps as they are, here and on the other members: `$set`, which is replicated as a
/// change of fields. Where names do not allow that the document as a literal of a pipeline; of small documents that is
/// replicated as a whole, and secondaries of MongoDB 6.0 replace the timestamps then.
fn put_back_one(document: &[u8]) -> Option<Vec<u8>> {
    let id = Elements::find(document, "_id")?;
    let (mut equal, mut query, mut update) = (DocBuilder::new(), DocBuilder::new(), DocBuilder::new());
    equal.raw(id.kind, b"$eq", id.value);
    query.document("_id", &equal.finish());
    update.document("q", &query.finish());
    let mut fields = DocBuilder::new();
    let mut settable = true;
    for e in Elements::of(document).ok()?.map_while(Result::ok) {
        if e.kind == kind::TIMESTAMP && e.value == [0; 8] && e.name != b"_id" {
            let twice = Elements::of(document).ok()?.map_while(Result::ok).filter(|o| o.name == e.name).count() > 1;
            let plain =
                std::str::from_utf8(e.name).is_ok_and(|n| !n.is_empty() && !n.contains('.') && !n.starts_with('$'));
            settable &= plain && !twice;
            fields.raw(e.kind, e.name, e.value);
        }
    }
    if settable {
        let mut set = DocBuilder::new();
        set.document("$set", &fields.finish());
        update.document("u", &set.finish());
    } else {
        let (mut literal, mut stage) = (DocBuilder::new(), DocBuilder::new());
        literal.document("$literal", document);
        stage.document("$replaceWith", &literal.finish());
        update.array_of("u", [stage.finish()]);
    }
    Some(update.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_timestamps_are_set_one_by_one_where_their_names_allow_it() {
        let with = |names: &[&str]| {
            let mut b = DocBuilder::new();
            b.int32("_id", 1).int32("other", 1);
            for name in names {
                b.raw(kind::TIMESTAMP, name.as_bytes(), &[0; 8]);
            }
            put_back_one(&b.finish()).unwrap()
        };
        let is_set = |update: &[u8]| Elements::find(update, "u").unwrap().kind == kind::DOCUMENT;
        assert!(is_set(&with(&["t"])) && is_set(&with(&["t", "ü"])));
        for odd in [&["a.b"][..], &["$c"], &[""], &["t", "t"], &["t", "a.b"]] {
            assert!(!is_set(&with(odd)), "{odd:?}");
        }
    }
}
