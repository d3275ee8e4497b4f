//! Where a capture writes its files: frames on a bounded channel, hashed on the way, with progress beside it.

use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use prexor_format::{digest::Hasher, manifest::StoredFile};
use tokio::sync::mpsc;

/// Bytes in one chunk.
pub const CHUNK_SIZE: usize = 256 << 10;

/// Chunks that may wait for the network before a source is held up.
pub const CHUNKS_IN_FLIGHT: usize = 16;

/// One piece of a capture on its way to the coordinator.
#[derive(Debug, Clone)]
pub enum Frame {
    /// A file begins; several may be open at once.
    Begin {
        /// Names the file within this capture.
        file: u32,
        /// Relative to the backup's directory.
        path: String,
    },
    /// The next bytes of a file.
    Chunk {
        /// See [`Frame::Begin`].
        file: u32,
        /// At most [`CHUNK_SIZE`] bytes.
        data: Bytes,
    },
    /// A file is complete.
    End {
        /// See [`Frame::Begin`].
        file: u32,
        /// Path, size and digest of what was sent.
        stored: StoredFile,
    },
    /// Everything so far is void: the capture begins anew.
    Restart,
}

/// What a running capture or restore has done so far; shared with whoever reports it.
#[derive(Debug, Default)]
pub struct Progress {
    subject: Mutex<String>,
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
    done_items: AtomicU64,
}

/// A copy of the figures of a [`Progress`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProgressFigures {
    /// The collection or path at work.
    pub subject: String,
    /// Bytes of source data dealt with (before compression).
    pub done_bytes: u64,
    /// Expected sum of them; 0 when unknown.
    pub total_bytes: u64,
    /// Documents, keys or files dealt with.
    pub done_items: u64,
}

impl Progress {
    /// Names the collection or path at work.
    pub fn set_subject(&self, subject: impl Into<String>) {
        *self.subject.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = subject.into();
    }

    /// Sets the expected bytes of source data.
    pub fn set_total_bytes(&self, bytes: u64) {
        self.total_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Adds bytes of source data (before compression) and items.
    pub fn add(&self, bytes: u64, items: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.done_items.fetch_add(items, Ordering::Relaxed);
    }

    /// Forgets what was done so far: it is done again.
    fn restart(&self) {
        self.done_bytes.store(0, Ordering::Relaxed);
        self.done_items.store(0, Ordering::Relaxed);
    }

    /// The figures now.
    pub fn figures(&self) -> ProgressFigures {
        ProgressFigures {
            subject: self.subject.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone(),
            done_bytes: self.done_bytes.load(Ordering::Relaxed),
            total_bytes: self.total_bytes.load(Ordering::Relaxed),
            done_items: self.done_items.load(Ordering::Relaxed),
        }
    }
}

/// Receives the files of one capture. Cheap to clone; clones write to the same capture.
#[derive(Debug, Clone)]
pub struct ArtifactSink {
    tx: mpsc::Sender<Frame>,
    next: Arc<AtomicU32>,
    progress: Arc<Progress>,
}

impl ArtifactSink {
    /// A sink and the end that its frames come out of. Dropping the receiver makes every write fail.
    pub fn new() -> (Self, mpsc::Receiver<Frame>, Arc<Progress>) {
        let (tx, rx) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let progress = Arc::new(Progress::default());
        (Self { tx, next: Arc::default(), progress: progress.clone() }, rx, progress)
    }

    /// The figures that people watch.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Declares everything so far void. Every [`FileWriter`] must be gone by then.
    ///
    /// # Errors
    /// `BrokenPipe` when the receiver is gone.
    pub async fn restart(&self) -> io::Result<()> {
        self.progress.restart();
        self.tx.send(Frame::Restart).await.map_err(|_| gone())
    }

    /// Begins a file. **Blocking**, as is everything on [`FileWriter`]: call from a blocking thread.
    ///
    /// # Errors
    /// `BrokenPipe` when the receiver is gone.
    pub fn create(&self, path: impl Into<String>) -> io::Result<FileWriter> {
        let (file, path) = (self.next.fetch_add(1, Ordering::Relaxed), path.into());
        let writer = FileWriter {
            tx: self.tx.clone(),
            file,
            path: path.clone(),
            pending: BytesMut::new(),
            size: 0,
            hasher: Hasher::default(),
        };
        writer.send(Frame::Begin { file, path })?;
        Ok(writer)
    }
}

/// Writes one file of a capture; see [`ArtifactSink::create`]. A file that is not finished is never stored.
#[derive(Debug)]
pub struct FileWriter {
    tx: mpsc::Sender<Frame>,
    file: u32,
    path: String,
    pending: BytesMut,
    size: u64,
    hasher: Hasher,
}

impl FileWriter {
    fn send(&self, frame: Frame) -> io::Result<()> {
        self.tx.blocking_send(frame).map_err(|_| gone())
    }

    fn send_pending(&mut self) -> io::Result<()> {
        let data = self.pending.split().freeze();
        self.send(Frame::Chunk { file: self.file, data })
    }

    /// Sends what is left and declares the file complete.
    ///
    /// # Errors
    /// `BrokenPipe` when the receiver is gone.
    pub fn finish(mut self) -> io::Result<StoredFile> {
        if !self.pending.is_empty() {
            self.send_pending()?;
        }
        let hasher = std::mem::take(&mut self.hasher);
        let stored =
            StoredFile { path: std::mem::take(&mut self.path), size_bytes: self.size, sha256: hasher.finish() };
        self.send(Frame::End { file: self.file, stored: stored.clone() })?;
        Ok(stored)
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the capture was cancelled")
}

impl Write for FileWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(CHUNK_SIZE - self.pending.len());
        self.pending.extend_from_slice(&buf[..n]);
        self.hasher.update(&buf[..n]);
        self.size += n as u64;
        if self.pending.len() == CHUNK_SIZE {
            self.send_pending()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
