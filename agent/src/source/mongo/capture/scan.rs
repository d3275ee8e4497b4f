//! Reads a collection in natural order, in blocks of documents, and goes on where it was when the connection breaks.
//!
//! A server that is asked to (`$_requestResumeToken`) says with each batch at which record it was; `$_resumeAfter`
//! continues there. Records are numbered by each member of a replica set for itself, so all reads of a capture go to
//! one member ([`Server::open_to_read`]).

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use prexor_format::bson::{BsonError, DocBuilder, Elements};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    super::{
        drain::{batch_documents, malformed},
        server::{CursorError, Server},
    },
    Failure,
};
use crate::source::SourceError;

/// Bytes of documents in a block, about: a gzip member of this size costs next to no ratio, and blocks that small are
/// made of memory that was just used.
pub(super) const BLOCK: usize = 1 << 20;
/// What a reply can hold at most: a document of 16 MiB and the little around it.
const LARGEST_REPLY: usize = 17 << 20;
/// Bytes of documents that may be under way at once: enough that no core waits. The driver and the compressors hold each
/// some times over. A reply that is larger is under way alone.
const IN_FLIGHT: usize = 8 * BLOCK;
/// Documents that are asked for while nothing is known of their size.
const FIRST_BATCH: i32 = 100;
/// How often one batch is asked for again before the capture fails.
const TRIES: u32 = 8;

/// Bounds the bytes of all scans of a capture that are read and not yet sent.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<Semaphore>);

impl Budget {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(IN_FLIGHT)))
    }

    /// Waits for room for so many bytes.
    pub(super) async fn acquire(&self, bytes: usize) -> Permit {
        let bytes = u32::try_from(bytes.min(IN_FLIGHT)).unwrap_or(u32::MAX);
        Permit(self.0.clone().acquire_many_owned(bytes).await.ok())
    }
}

/// Room for some bytes; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit(Option<OwnedSemaphorePermit>);

impl Permit {
    /// Gives back what is not needed.
    fn shrink(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.0 {
            drop(permit.num_permits().checked_sub(bytes).and_then(|spare| permit.split(spare)));
        }
    }
}

/// Whole documents in their order.
#[derive(Debug)]
pub(super) struct Block {
    documents: Documents,
    /// How many of them belong to the block.
    count: usize,
    permit: Permit,
}

#[derive(Debug)]
enum Documents {
    /// As it came: what is in it is copied once, by who compresses it.
    Reply(RawBatch),
    /// One after the other.
    Joined(Vec<u8>),
}

impl Block {
    /// Documents that lie one after the other.
    pub(super) fn joined(documents: Vec<u8>, permit: Permit) -> Self {
        Self { documents: Documents::Joined(documents), count: usize::MAX, permit }
    }

    /// Leaves out what is behind the first so many documents.
    pub(super) fn keep(&mut self, count: usize) {
        self.count = self.count.min(count);
    }

    /// Every document, its length checked.
    pub(super) fn iter(&self) -> Result<impl Iterator<Item = Result<&[u8], SourceError>>, SourceError> {
        let (reply, joined) = match &self.documents {
            Documents::Reply(reply) => (Some(batch_documents(reply)?), None),
            Documents::Joined(joined) => (None, Some(split(joined).map(|d| d.map_err(|e| malformed(&e))))),
        };
        Ok(reply.into_iter().flatten().chain(joined.into_iter().flatten()).take(self.count))
    }

    /// Copies the documents to the end of `out`.
    pub(super) fn join(&self, out: &mut Vec<u8>) -> Result<(), SourceError> {
        self.iter()?.try_for_each(|document| {
            out.extend_from_slice(document?);
            Ok(())
        })
    }

    /// What the block holds of the budget, to be kept until its bytes are gone.
    pub(super) fn into_permit(self) -> Permit {
        self.permit
    }
}

/// The documents that lie one after the other.
pub(super) fn split(mut block: &[u8]) -> impl Iterator<Item = Result<&[u8], BsonError>> {
    std::iter::from_fn(move || {
        let length = i32::from_le_bytes(block.get(..4)?.try_into().ok()?);
        let length = usize::try_from(length).ok().filter(|l| (5..=block.len()).contains(l));
        let Some(length) = length else {
            block = &[];
            return Some(Err(BsonError { offset: 0, what: "a wrong document length" }));
        };
        let (document, rest) = block.split_at(length);
        block = rest;
        Some(Ok(document))
    })
}

/// The state of the data that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// At this cluster time; see [`Server::committed`].
    At(u64),
    /// The latest that a majority has.
    Majority,
    /// The latest.
    Latest,
}

impl View {
    /// Adds the read concern to a command.
    pub(super) fn apply(self, command: &mut DocBuilder) {
        let mut concern = DocBuilder::new();
        match self {
            Self::At(time) => concern.string("level", "snapshot").timestamp("atClusterTime", time),
            Self::Majority => concern.string("level", "majority"),
            Self::Latest => return,
        };
        command.document("readConcern", &concern.finish());
    }
}

/// See the module's text.
pub(super) struct Scan {
    server: Arc<Server>,
    budget: Budget,
    collection: String,
    view: View,
    cursor: Option<RawBatchCursor>,
    /// Where the last block ended: `{$recordId: …}`.
    token: Option<Vec<u8>>,
    batch: i32,
    expected: usize,
    begun: bool,
    ended: bool,
}

impl Scan {
    pub(super) fn new(server: &Arc<Server>, budget: &Budget, collection: &str, view: View) -> Self {
        Self {
            server: server.clone(),
            budget: budget.clone(),
            collection: collection.to_owned(),
            view,
            cursor: None,
            token: None,
            batch: FIRST_BATCH,
            expected: LARGEST_REPLY,
            begun: false,
            ended: false,
        }
    }

    /// Expects about so many bytes of documents; 0 says nothing.
    pub(super) fn of_size(mut self, bytes: u64) -> Self {
        if let Some(bytes) = usize::try_from(bytes).ok().filter(|b| *b > 0) {
            self.expected = bytes.saturating_add(BLOCK / 8).min(LARGEST_REPLY);
        }
        self
    }

    /// Begins behind the record that `token` names.
    pub(super) fn after(mut self, token: Vec<u8>) -> Self {
        self.token = Some(token);
        self
    }

    /// Whether the block that came last was the last.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// The number of the last record of the last block, where the collection numbers its records.
    pub(super) fn record(&self) -> Option<i64> {
        Elements::find(self.token.as_ref()?, "$recordId")?.as_integer()
    }

    /// The next block; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Block>, Failure> {
        let mut tries = 0;
        while !self.ended {
            let mut permit = self.budget.acquire(self.expected).await;
            match self.fetch().await {
                Ok(None) => self.ended = true,
                Ok(Some(reply)) => {
                    let (count, bytes) = self.learn(&reply).map_err(Failure::Source)?;
                    if count > 0 {
                        permit.shrink(bytes);
                        return Ok(Some(Block { documents: Documents::Reply(reply), count, permit }));
                    }
                }
                Err(e) => {
                    self.cursor = None;
                    tries += 1;
                    let can_go_on = self.token.is_some() || !self.begun;
                    if tries == TRIES || !can_go_on || !e.is_passing() {
                        return Err(Failure::of(e, &self.server, &self.collection, self.view));
                    }
                    tracing::warn!(collection = self.collection, tries, "reading is interrupted and goes on: {e:?}");
                    tokio::time::sleep(Duration::from_millis(100 << tries)).await;
                }
            }
        }
        Ok(None)
    }

    async fn fetch(&mut self) -> Result<Option<RawBatch>, CursorError> {
        let cursor = match &mut self.cursor {
            Some(cursor) => cursor,
            None => self.cursor.insert(self.server.cursor_by(self.command(), Some(self.batch)).await?),
        };
        cursor.next().await.transpose().map_err(CursorError::Driver)
    }

    fn command(&self) -> Vec<u8> {
        let mut natural = DocBuilder::new();
        natural.int32("$natural", 1);
        let mut command = DocBuilder::new();
        command
            .string("find", &self.collection)
            .document("hint", &natural.finish())
            .int32("batchSize", self.batch)
            .boolean("$_requestResumeToken", true);
        if let Some(token) = &self.token {
            command.document("$_resumeAfter", token);
        }
        self.view.apply(&mut command);
        command.finish()
    }

    /// Where to go on, and how many documents of how many bytes came.
    fn learn(&mut self, reply: &RawBatch) -> Result<(usize, usize), SourceError> {
        let cursor = Elements::find(reply.as_raw_document().as_bytes(), "cursor").and_then(|c| c.as_document());
        let cursor = cursor.unwrap_or_default();
        let (mut count, mut bytes) = (0, 0);
        for document in batch_documents(reply)? {
            bytes += document?.len();
            count += 1;
        }
        self.begun = true;
        self.ended = Elements::find(cursor, "id").and_then(|id| id.as_integer()) == Some(0);
        self.token = Elements::find(cursor, "postBatchResumeToken").and_then(|t| t.as_document()).map(<[u8]>::to_vec);
        if let Some(size) = bytes.checked_div(count) {
            self.adapt(size.max(1), bytes);
        }
        Ok((count, bytes))
    }

    /// Asks for blocks of the right size from now on. A cursor's batch size is fixed: another one goes on.
    fn adapt(&mut self, document: usize, reply: usize) {
        self.expected = (reply.max(BLOCK) + BLOCK / 2).min(LARGEST_REPLY);
        let wanted = i32::try_from((BLOCK / document).max(1)).unwrap_or(i32::MAX);
        let fits = wanted / 2 <= self.batch && self.batch / 2 <= wanted;
        if !fits && !self.ended && self.token.is_some() {
            self.batch = wanted;
            self.cursor = None;
        }
    }
}
