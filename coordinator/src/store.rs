//! The store: where backups lie. The only place that names object stores.
//!
//! It knows bytes, names and the one layout `<id>/<path>`; not what is inside a file. Whatever it calls done is on the
//! disk: files and the directories that name them are synced. Files are written under a temporary name and appear
//! whole; the manifest is put last by its caller and only where there is none yet (law L21).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use jiff::civil::Date;
use object_store::{GetResultPayload, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, local::LocalFileSystem};
use prexor_format::{
    id::BackupId,
    manifest::{CHECKSUMS_FILE, MANIFEST_FILE},
};
use prexor_proto::reason::Reason;

use crate::error::Error;

mod layout;
mod local;
mod upload;

pub use layout::check_path;
pub use local::FoundFile;
pub use upload::Upload;

/// A directory of the store and, where it has a manifest, a stamp that changes whenever the manifest does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The directory's name.
    pub id: BackupId,
    /// `None`: there is no manifest.
    pub stamp: Option<String>,
}

/// The largest manifest that is read: a guard against garbage, far above what a real one needs.
const MAX_SMALL_FILE: u64 = 256 << 20;

/// A store in a local directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    root: PathBuf,
}

impl Store {
    /// Opens the store in this directory, which is made if it is not there, and proves that it can be written to.
    ///
    /// # Errors
    /// When it cannot be made or written to.
    pub async fn open(root: &Path) -> Result<Self, Error> {
        let prepared = root.to_owned();
        local::blocking(move || local::prepare(&prepared)).await?;
        let files = LocalFileSystem::new_with_prefix(root).map_err(|e| error(&e, &root.display().to_string()))?;
        let objects = Arc::new(files.with_fsync(true).with_automatic_cleanup(true));
        Ok(Self { objects, root: root.to_owned() })
    }

    /// Where the store is, for people.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a backup lies, for people and scripts: `/var/backups/prexorcloud/bk-2026-05-10-001/`.
    pub fn location(&self, id: &BackupId) -> String {
        format!("{}/", self.root.join(id.to_string()).display())
    }

    /// The highest number of this day that a directory of the store carries, 0 when there is none.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn highest_number(&self, day: Date) -> Result<u32, Error> {
        let root = self.root.clone();
        let ids = local::blocking(move || local::backup_ids(&root)).await?;
        Ok(ids.into_iter().filter(|id| id.day() == day).map(|id| id.number()).max().unwrap_or(0))
    }

    /// Makes the directory of a new backup; `false` when there is one with this id already.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn reserve(&self, id: &BackupId) -> Result<bool, Error> {
        let (root, id) = (self.root.clone(), id.clone());
        local::blocking(move || local::reserve(&root, &id)).await
    }

    /// Begins a file of a backup. It appears under its name when [`Upload::finish`] has returned.
    ///
    /// # Errors
    /// When the path is not one that [`check_path`] lets through, or the store cannot be written.
    pub async fn begin(&self, id: &BackupId, path: &str) -> Result<Upload, Error> {
        let key = layout::key(id, path)?;
        let provisional = layout::provisional_key(id, path);
        let first = provisional.as_ref().unwrap_or(&key);
        let upload = self.objects.put_multipart(first).await.map_err(|e| error(&e, path))?;
        let rename = provisional.map(|from| upload::Rename { objects: self.objects.clone(), from, to: key });
        Ok(Upload::new(upload, path, rename))
    }

    /// Writes a small file whole, in place of the one that is there: of what lies beside the manifest, and is not listed in it.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn put(&self, id: &BackupId, path: &str, content: Vec<u8>) -> Result<(), Error> {
        let put = self.objects.put(&layout::key(id, path)?, content.into()).await;
        put.map(drop).map_err(|e| error(&e, path))
    }

    /// Removes a file of a backup that is not listed in its manifest, or while there is none.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn remove_file(&self, id: &BackupId, path: &str) -> Result<(), Error> {
        self.objects.delete(&layout::key(id, path)?).await.map_err(|e| error(&e, path))
    }

    /// Writes `SHA256SUMS`, and then the manifest: from here on the backup exists.
    ///
    /// # Errors
    /// When the store cannot be written, or there is a manifest already.
    pub async fn commit(&self, id: &BackupId, checksums: String, manifest: Vec<u8>) -> Result<(), Error> {
        for (path, content) in [(CHECKSUMS_FILE, Bytes::from(checksums)), (MANIFEST_FILE, Bytes::from(manifest))] {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let put = self.objects.put_opts(&layout::key(id, path)?, content.into(), options).await;
            put.map_err(|e| error(&e, path))?;
        }
        Ok(())
    }

    /// Reads a small file whole.
    ///
    /// # Errors
    /// `NOT_FOUND` when it is not there; `DAMAGED` when it is far too big to be what it should be.
    pub async fn read(&self, id: &BackupId, path: &str) -> Result<Bytes, Error> {
        let got = self.objects.get(&layout::key(id, path)?).await.map_err(|e| error(&e, path))?;
        if got.meta.size > MAX_SMALL_FILE {
            return Err(Error::new(Reason::Damaged, format!("{path} has {} bytes: it cannot be real", got.meta.size)));
        }
        got.bytes().await.map_err(|e| error(&e, path))
    }

    /// Streams a file, in pieces of a quarter of a megabyte or less.
    ///
    /// # Errors
    /// `NOT_FOUND` when it is not there; while streaming, when the store cannot be read.
    pub async fn open_file(
        &self,
        id: &BackupId,
        path: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + Unpin + use<>, Error> {
        let got = self.objects.get(&layout::key(id, path)?).await.map_err(|e| error(&e, path))?;
        Ok(match got.payload {
            // An object store's own stream goes through local files in pieces of 8 KiB.
            GetResultPayload::File(file, _) => local::pieces(file, path).boxed(),
            GetResultPayload::Stream(stream) => {
                let path = path.to_owned();
                stream.map(move |piece| piece.map_err(|e| error(&e, &path))).boxed()
            }
        })
    }

    /// Everything in a backup's directory, temporary files and what has no business there included.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn files(&self, id: &BackupId) -> Result<Vec<FoundFile>, Error> {
        let dir = self.root.join(id.to_string());
        local::blocking(move || local::files(&dir)).await
    }

    /// Every backup directory, with the stamp of its manifest.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn survey(&self) -> Result<Vec<Survey>, Error> {
        let root = self.root.clone();
        local::blocking(move || local::survey(&root)).await
    }

    /// Removes a backup or what a capture has left: the manifest first, so that whoever is killed here leaves no
    /// backup that looks complete. What is gone already is fine.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub async fn remove(&self, id: &BackupId) -> Result<(), Error> {
        match self.objects.delete(&layout::key(id, MANIFEST_FILE)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(e) => return Err(error(&e, MANIFEST_FILE)),
        }
        let (root, id) = (self.root.clone(), id.clone());
        local::blocking(move || local::remove(&root, &id)).await
    }

    /// Bytes that can still be written.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn free_bytes(&self) -> Result<u64, Error> {
        let root = self.root.clone();
        local::blocking(move || local::free_bytes(&root)).await
    }
}

/// An object store's error, with the file it happened on.
fn error(e: &object_store::Error, path: &str) -> Error {
    if let object_store::Error::NotFound { .. } = e {
        return Error::not_found(format!("{path} is not in the store"));
    }
    if let object_store::Error::AlreadyExists { .. } = e {
        return Error::new(Reason::StoreUnavailable, format!("{path} is in the store already: it is not replaced"));
    }
    let cause = std::iter::successors(Some(e as &(dyn std::error::Error + 'static)), |e| e.source())
        .find_map(|e| e.downcast_ref::<std::io::Error>());
    cause.map_or_else(
        || Error::new(Reason::StoreUnavailable, format!("the store failed at {path}: {e}")),
        |io| local::error(io, path),
    )
}

#[cfg(test)]
mod tests;
