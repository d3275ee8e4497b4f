//! One file on its way into the store, hashed as it goes, with a bounded amount of it in memory.

use std::sync::Arc;

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload, path::Path};
use prexor_format::{digest::Hasher, manifest::StoredFile};

use super::error;
use crate::error::Error;

/// Bytes that are gathered before they are handed to the store.
const PART: usize = 1 << 20;

/// See the module's text. Dropping it leaves nothing under the file's name; what it wrote so far is removed.
#[derive(Debug)]
pub struct Upload {
    upload: Box<dyn MultipartUpload>,
    path: String,
    rename: Option<Rename>,
    pending: Vec<Bytes>,
    pending_bytes: usize,
    size: u64,
    hasher: Hasher,
}

/// A file that is written under another name first.
#[derive(Debug)]
pub(super) struct Rename {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) from: Path,
    pub(super) to: Path,
}

impl Upload {
    pub(super) fn new(upload: Box<dyn MultipartUpload>, path: &str, rename: Option<Rename>) -> Self {
        let path = path.to_owned();
        Self { upload, path, rename, pending: Vec::new(), pending_bytes: 0, size: 0, hasher: Hasher::default() }
    }

    /// Adds bytes; waits for the disk.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn write(&mut self, data: Bytes) -> Result<(), Error> {
        // Pieces are a network chunk at most: a fraction of a millisecond of hashing.
        self.hasher.update(&data);
        self.size += data.len() as u64;
        self.pending_bytes += data.len();
        self.pending.push(data);
        if self.pending_bytes >= PART { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Error> {
        self.pending_bytes = 0;
        let part: PutPayload = std::mem::take(&mut self.pending).into_iter().collect();
        self.upload.put_part(part).await.map_err(|e| error(&e, &self.path))
    }

    /// Writes what is left, waits until all of it is on the disk, and lets the file appear.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn finish(mut self) -> Result<StoredFile, Error> {
        if !self.pending.is_empty() {
            self.flush().await?;
        }
        self.upload.complete().await.map_err(|e| error(&e, &self.path))?;
        if let Some(Rename { objects, from, to }) = self.rename {
            objects.rename(&from, &to).await.map_err(|e| error(&e, &self.path))?;
        }
        Ok(StoredFile { path: self.path, size_bytes: self.size, sha256: self.hasher.finish() })
    }
}
