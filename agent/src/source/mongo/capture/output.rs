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
/// Bytes of documents in one gzip member at most.
const LARGEST_MEMBER: usize = BLOCK + BLOCK / 2;

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
    /// Whole gzip members, each in a place of its own: none is copied to a larger one.
    members: Vec<Vec<u8>>,
    documents: u64,
    bytes: u64,
    digest: Digest,
}

/// What a block adds to the content digest of its file.
enum Digest {
    /// Of a multiset, taken where the block was compressed.
    Taken(ContentHasher, #[expect(dead_code, reason = "held until the piece is written")] Permit),
    /// To be taken over all documents in their order.
    Due(Block),
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
    let (mut members, mut documents, mut bytes) = (Vec::new(), 0, 0);
    for document in block.iter()? {
        let document = document?;
        if document.last() != Some(&0) {
            return Err(malformed(&"a document without its end"));
        }
        documents += 1;
        bytes += document.len() as u64;
        if let Some(hasher) = &mut hasher {
            hasher.add(document);
        }
        if document.len() > LARGEST_MEMBER {
            // One of up to 16 MiB is compressed where it lies.
            pack_members(packer, level, &plain, &mut members)?;
            plain.clear();
            pack_members(packer, level, document, &mut members)?;
        } else {
            plain.extend_from_slice(document);
        }
    }
    pack_members(packer, level, &plain, &mut members)?;
    packer.give_back(plain);
    let digest = match hasher {
        Some(hasher) => Digest::Taken(hasher, block.into_permit()),
        None => Digest::Due(block),
    };
    Ok(Piece { members, documents, bytes, digest })
}

/// Compresses to members of equal size.
fn pack_members(
    packer: &mut Packer,
    level: Level,
    plain: &[u8],
    members: &mut Vec<Vec<u8>>,
) -> Result<(), SourceError> {
    let count = plain.len().div_ceil(LARGEST_MEMBER).max(1);
    for part in plain.chunks(plain.len().div_ceil(count).max(1)) {
        let mut member = Vec::new();
        packer.member(level, part, &mut member).map_err(|e| SourceError::Failed(e.to_string()))?;
        members.push(member);
    }
    Ok(())
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
        match &piece.digest {
            Digest::Taken(hasher, _) => content.merge(hasher),
            Digest::Due(block) => block.iter()?.try_for_each(|document| document.map(|d| content.add(d)))?,
        }
        for member in piece.members {
            out.write_all(&member).map_err(|e| broken(&e))?;
        }
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
