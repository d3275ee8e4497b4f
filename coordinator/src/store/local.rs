//! What an object store cannot do in a local directory: making and removing directories, seeing files that it hides
//! (its own temporary ones), free space. All of it blocks.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::Path,
};

use bytes::Bytes;
use prexor_format::{id::BackupId, manifest::MANIFEST_FILE};
use prexor_proto::reason::Reason;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Survey;
use crate::error::Error;

/// Something that lies in a backup's directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoundFile {
    /// Relative to the backup's directory; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Whether it is a plain file, and not a link, a socket or the like.
    pub regular: bool,
}

/// Runs blocking work where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Error::internal(format!("a task of the store ended badly: {e}"))))
}

/// Bytes of one piece of a file that is read.
const PIECE: usize = 256 << 10;
/// Pieces that are read ahead.
const PIECES_AHEAD: usize = 2;

/// Reads a file on a blocking thread. Dropping the stream ends the reading.
pub(super) fn pieces(mut file: fs::File, path: &str) -> ReceiverStream<Result<Bytes, Error>> {
    let (tx, rx) = mpsc::channel(PIECES_AHEAD);
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let read = file.by_ref().take(PIECE as u64).read_to_end(&mut piece);
            let (piece, last) = match read {
                Ok(0) => return,
                Ok(_) => (Ok(Bytes::from(piece)), false),
                Err(e) => (Err(error(&e, &path)), true),
            };
            if tx.blocking_send(piece).is_err() || last {
                return;
            }
        }
    });
    ReceiverStream::new(rx)
}

/// An I/O error, with what it happened to.
pub(super) fn error(e: &io::Error, what: &str) -> Error {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::new(Reason::NoSpace, format!("the store is full ({what}): make room, or delete backups"))
        }
        io::ErrorKind::NotFound => Error::not_found(format!("{what} is not in the store")),
        _ => Error::new(Reason::StoreUnavailable, format!("the store cannot be used at {what}: {e}")),
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> Error {
    move |e| error(&e, &path.display().to_string())
}

/// An I/O error on the store's own directory: when that is gone, so is every backup, and not just the one in question.
fn at_root(root: &Path) -> impl Fn(io::Error) -> Error {
    move |e| match e.kind() {
        io::ErrorKind::NotFound => {
            Error::new(Reason::StoreUnavailable, format!("the store {} is not there: is it mounted?", root.display()))
        }
        _ => error(&e, &root.display().to_string()),
    }
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    fs::File::open(dir).and_then(|d| d.sync_all()).map_err(at(dir))
}

/// Makes the store's directory (mode 0700) and proves that files can be written in it.
pub(super) fn prepare(root: &Path) -> Result<(), Error> {
    let unusable = |e: &io::Error| {
        Error::new(Reason::StoreUnavailable, format!("the store {} cannot be written: {e}", root.display()))
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(|e| unusable(&e))?;
    let probe = root.join(format!(".probe-{}", uuid::Uuid::new_v4().simple()));
    fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe)).map_err(|e| unusable(&e))
}

/// The ids of all directories that are named like a backup. What else lies there is not ours.
pub(super) fn backup_ids(root: &Path) -> Result<Vec<BackupId>, Error> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(root).map_err(at_root(root))? {
        let entry = entry.map_err(at(root))?;
        let id = entry.file_name().to_str().and_then(|n| n.parse().ok());
        let dir = entry.file_type().map_err(at(root))?.is_dir();
        ids.extend(id.filter(|_| dir));
    }
    ids.sort();
    Ok(ids)
}

pub(super) fn reserve(root: &Path, id: &BackupId) -> Result<bool, Error> {
    let dir = root.join(id.to_string());
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Ok(()) => sync_dir(root).map(|()| true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(at(&dir)(e)),
    }
}

pub(super) fn survey(root: &Path) -> Result<Vec<Survey>, Error> {
    let stamp = |id: &BackupId| {
        let path = root.join(id.to_string()).join(MANIFEST_FILE);
        match fs::symlink_metadata(&path) {
            Ok(m) => Ok(Some(format!("{}-{}-{}.{:09}", m.ino(), m.size(), m.ctime(), m.ctime_nsec()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(at(&path)(e)),
        }
    };
    backup_ids(root)?.into_iter().map(|id| Ok(Survey { stamp: stamp(&id)?, id })).collect()
}

pub(super) fn files(dir: &Path) -> Result<Vec<FoundFile>, Error> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).map_err(at(&next))? {
            let path = entry.map_err(at(&next))?.path();
            let meta = fs::symlink_metadata(&path).map_err(at(&path))?;
            if meta.is_dir() {
                open.push(path);
                continue;
            }
            let relative = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned();
            found.push(FoundFile { path: relative, size_bytes: meta.len(), regular: meta.is_file() });
        }
    }
    found.sort();
    Ok(found)
}

/// Removes a backup's directory. An aborted upload may still be removing its own file: that is no error.
pub(super) fn remove(root: &Path, id: &BackupId) -> Result<(), Error> {
    let dir = root.join(id.to_string());
    let mut last = None;
    for _ in 0..5 {
        match fs::remove_dir_all(&dir) {
            Ok(()) => return sync_dir(root),
            Err(e) if e.kind() == io::ErrorKind::NotFound && !dir.exists() => return sync_dir(root),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => last = Some(e),
            Err(e) => return Err(at(&dir)(e)),
        }
    }
    last.map_or(Ok(()), |e| Err(at(&dir)(e)))
}

pub(super) fn free_bytes(root: &Path) -> Result<u64, Error> {
    let stat = rustix::fs::statvfs(root).map_err(|e| at_root(root)(e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
