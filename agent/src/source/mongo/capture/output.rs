//! One data file in the making: blocks are hashed and compressed on all cores, and written in the order in which they
//! came.

use std::io::{self, Write as _};

use prexor_format::{
    digest::{ContentDigest, ContentHasher, Order},
    gzip::{self, GzipWriter, Level, Packer},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::task::TaskTracker;

use super::{
    super::drain::{malformed, panicked},
    scan::{BLOCK, Block, Permit},
};
use crate::{sink::ArtifactSink, source::SourceError};

/// Blocks of a file that may be under way; their bytes are bounded by the budget.
const BLOCKS_IN_FLIGHT: usize = 64;

/// A file that is finished.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) documents: u64,
    pub(super) bytes: u64,
    pub(super) content: ContentDigest,
}

/// A block on its way: compressed when the receiver has it. `None` says that all have come.
type Slot = Option<oneshot::Receiver<Result<Piece, SourceError>>>;

/// A block that is compressed.
struct Piece {
    /// Kept where the digest is taken over all documents in their order.
    plain: Vec<u8>,
    packed: Vec<u8>,
    documents: u64,
    bytes: u64,
    hasher: Option<ContentHasher>,
    _permit: Permit,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Output {
    slots: mpsc::Sender<Slot>,
    writer: JoinHandle<Result<Written, SourceError>>,
    order: Order,
    level: Level,
}

impl Output {
    /// Begins a file. Its thread is one of `tracker`'s, and ends soon after the output is dropped.
    pub(super) fn new(sink: &ArtifactSink, path: String, order: Order, level: Level, tracker: &TaskTracker) -> Self {
        let (slots, rx) = mpsc::channel(BLOCKS_IN_FLIGHT);
        let sink = sink.clone();
        let writer = tracker.spawn_blocking(move || write(&sink, path, order, rx));
        Self { slots, writer, order, level }
    }

    /// Adds a block. Waits while too many are under way.
    pub(super) async fn add(&self, block: Block) -> Result<(), SourceError> {
        let (done, piece) = oneshot::channel();
        // Who writes has failed, and tells why in `failure`.
        self.slots.send(Some(piece)).await.map_err(|_| SourceError::Cancelled)?;
        let (order, level) = (self.order, self.level);
        gzip::run(move |packer| {
            // The writer may have given up.
            let _ = done.send(pack(packer, block, order, level));
        })
        .map_err(|e| SourceError::Failed(e.to_string()))
    }

    /// Declares the file complete, and waits until it is.
    pub(super) async fn finish(self) -> Result<Written, SourceError> {
        let _ = self.slots.send(None).await;
        self.failure().await
    }

    /// Gives the file up, and tells why it had to be: what the writer met, if anything.
    pub(super) async fn failure(self) -> Result<Written, SourceError> {
        drop(self.slots);
        self.writer.await.map_err(|e| panicked(&e))?
    }
}

/// Documents are checked by their lengths and ends alone: a backup holds what the server has, and `verify` walks through
/// it.
fn pack(packer: &mut Packer, block: Block, order: Order, level: Level) -> Result<Piece, SourceError> {
    let mut hasher = (order == Order::Multiset).then(|| ContentHasher::new(order));
    let mut plain = packer.take_room();
    let mut documents = 0;
    for document in block.iter()? {
        let document = document?;
        if document.last() != Some(&0) {
            return Err(malformed(&"a document without its end"));
        }
        documents += 1;
        if let Some(hasher) = &mut hasher {
            hasher.add(document);
        }
        plain.extend_from_slice(document);
    }
    let bytes = plain.len() as u64;
    let mut packed = Vec::new();
    // Members of equal size, none much beyond a block: a document may have 16 MiB.
    let members = plain.len().div_ceil(BLOCK + BLOCK / 2).max(1);
    for member in plain.chunks(plain.len().div_ceil(members).max(1)) {
        packer.member(level, member, &mut packed).map_err(|e| SourceError::Failed(e.to_string()))?;
    }
    let in_order = if hasher.is_none() { plain.clone() } else { Vec::new() };
    packer.give_back(plain);
    Ok(Piece { plain: in_order, packed, documents, bytes, hasher, _permit: block.into_permit() })
}

/// Blocking. A file that is not finished is never stored, so giving up needs no cleaning.
fn write(
    sink: &ArtifactSink,
    path: String,
    order: Order,
    mut slots: mpsc::Receiver<Slot>,
) -> Result<Written, SourceError> {
    let mut out = sink.create(path).map_err(|e| broken(&e))?;
    let mut content = ContentHasher::new(order);
    let (mut documents, mut bytes) = (0, 0);
    while let Some(piece) = slots.blocking_recv().ok_or(SourceError::Cancelled)? {
        let piece = piece.blocking_recv().map_err(|_| SourceError::Cancelled)??;
        match &piece.hasher {
            Some(hasher) => content.merge(hasher),
            None => content.add(&piece.plain),
        }
        out.write_all(&piece.packed).map_err(|e| broken(&e))?;
        documents += piece.documents;
        bytes += piece.bytes;
        sink.progress().add(piece.bytes, piece.documents);
    }
    if documents == 0 {
        // A file that unpacks to nothing is still a gzip member.
        let empty = GzipWriter::new(Vec::new()).finish().map_err(|e| broken(&e))?;
        out.write_all(&empty).map_err(|e| broken(&e))?;
    }
    out.finish().map_err(|e| broken(&e))?;
    Ok(Written { documents, bytes, content: content.finish() })
}

/// Writes a small file whole.
pub(super) async fn write_file(
    sink: &ArtifactSink,
    path: String,
    content: Vec<u8>,
    tracker: &TaskTracker,
) -> Result<(), SourceError> {
    let sink = sink.clone();
    let write = move || {
        let mut out = GzipWriter::new(sink.create(path)?);
        out.write_all(&content)?;
        out.finish()?.finish().map(drop)
    };
    tracker.spawn_blocking(write).await.map_err(|e| panicked(&e))?.map_err(|e| broken(&e))
}

/// The sink fails only when its receiver is gone.
fn broken(error: &io::Error) -> SourceError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => SourceError::Cancelled,
        _ => SourceError::Failed(format!("cannot write the capture: {error}")),
    }
}
