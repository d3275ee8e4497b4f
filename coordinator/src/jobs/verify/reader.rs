//! Reads a stored file on a blocking thread, hashing what passes by: one pass feeds the digest and whoever walks the
//! contents.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Read},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Buf as _, Bytes};
use futures::StreamExt as _;
use prexor_format::{
    digest::{Hasher, Sha256Digest},
    id::BackupId,
};
use prexor_proto::backup::Progress;
use tokio::runtime::Handle;

use crate::{error::Error, jobs::JobHandle, store::Store};

/// Size and digest of a file, or why it could not be read.
pub(super) type FileOutcome = Result<(u64, Sha256Digest), String>;

/// Opens the files of one artifact and remembers what was read of each.
pub(super) struct Opener {
    pub(super) store: Store,
    pub(super) job: JobHandle,
    pub(super) id: BackupId,
    pub(super) runtime: Handle,
    pub(super) ledger: Arc<Ledger>,
}

/// What has been read so far of one artifact.
pub(super) struct Ledger {
    state: Mutex<LedgerState>,
}

struct LedgerState {
    files: BTreeMap<String, FileOutcome>,
    progress: Progress,
}

impl Ledger {
    pub(super) fn new(artifact_id: &str, total_bytes: u64) -> Self {
        let progress =
            Progress { artifact_id: artifact_id.to_owned(), total_bytes: Some(total_bytes), ..Progress::default() };
        Self { state: Mutex::new(LedgerState { files: BTreeMap::new(), progress }) }
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.lock().files.contains_key(path)
    }

    /// Everything that was recorded.
    pub(super) fn take(&self) -> BTreeMap<String, FileOutcome> {
        std::mem::take(&mut self.lock().files)
    }

    fn record(&self, path: &str, outcome: FileOutcome) {
        let mut state = self.lock();
        state.progress.done_items += 1;
        state.files.insert(path.to_owned(), outcome);
    }

    fn advance(&self, path: &str, bytes: usize) -> Progress {
        let progress = &mut self.lock().progress;
        progress.done_bytes += bytes as u64;
        if progress.subject != path {
            path.clone_into(&mut progress.subject);
        }
        progress.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LedgerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opener {
    /// Opens a file. **Blocking**, as is everything on [`StoredReader`]: not to be called from a task.
    pub(super) fn open(&self, path: &str) -> io::Result<StoredReader> {
        match self.runtime.block_on(self.store.open_file(&self.id, path)) {
            Ok(stream) => Ok(StoredReader {
                pieces: Box::new(stream),
                piece: Bytes::new(),
                path: path.to_owned(),
                size: 0,
                hasher: Hasher::default(),
                failed: None,
                runtime: self.runtime.clone(),
                job: self.job.clone(),
                ledger: self.ledger.clone(),
            }),
            Err(e) => {
                self.ledger.record(path, Err(e.message.clone()));
                Err(io::Error::other(e.message))
            }
        }
    }
}

type Pieces = Box<dyn futures::Stream<Item = Result<Bytes, Error>> + Send + Unpin>;

/// See the module's text. When it is dropped, what has not been read of the file is read and hashed too.
pub(super) struct StoredReader {
    pieces: Pieces,
    piece: Bytes,
    path: String,
    size: u64,
    hasher: Hasher,
    failed: Option<String>,
    runtime: Handle,
    job: JobHandle,
    ledger: Arc<Ledger>,
}

impl StoredReader {
    fn fail(&mut self, what: String) -> io::Error {
        self.failed = Some(what.clone());
        io::Error::other(what)
    }
}

impl BufRead for StoredReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.is_empty() {
            if self.job.cancel().is_cancelled() {
                return Err(self.fail("cancelled".to_owned()));
            }
            match self.runtime.block_on(self.pieces.next()) {
                None => break,
                Some(Ok(piece)) => {
                    self.hasher.update(&piece);
                    self.size += piece.len() as u64;
                    self.job.progress(self.ledger.advance(&self.path, piece.len()));
                    self.piece = piece;
                }
                Some(Err(e)) => return Err(self.fail(e.message)),
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, n: usize) {
        self.piece.advance(n);
    }
}

impl Read for StoredReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buf.len());
        buf[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl Drop for StoredReader {
    fn drop(&mut self) {
        while self.failed.is_none() && matches!(self.fill_buf(), Ok(rest) if !rest.is_empty()) {
            self.piece.clear();
        }
        let outcome = match self.failed.take() {
            Some(what) => Err(what),
            None => Ok((self.size, std::mem::take(&mut self.hasher).finish())),
        };
        self.ledger.record(&self.path, outcome);
    }
}
