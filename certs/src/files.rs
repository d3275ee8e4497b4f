//! Secret files: written durably with mode 0600, read only while nobody else can.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// What went wrong with a file of keys or certificates.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others can read it.
    #[error("{} has mode {mode:04o}, so others than its owner can get at secrets: chmod {expected:o} it", path.display())]
    Mode {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The bits it should have.
        expected: u32,
    },
}

pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { action, path, source }
}

/// Creates a directory with mode 0700, whatever the umask; its parent must exist.
pub(crate) fn create_private_dir(path: &Path) -> Result<(), FileError> {
    let create = || {
        fs::DirBuilder::new().mode(0o700).create(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o700))
    };
    create().map_err(io_error("create", path))
}

/// Writes a new file with this mode and waits until it is on the disk.
pub(crate) fn write_new(path: &Path, mode: u32, content: &[u8]) -> Result<(), FileError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(io_error("write", path))
}

/// Waits until the entries of a directory are on the disk.
pub(crate) fn sync_dir(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(io_error("write", path))
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(io_error("read", path))
}

/// Replaces a file in one step, or makes it; waits until that is on the disk.
pub(crate) fn replace(path: &Path, mode: u32, content: &[u8]) -> Result<(), FileError> {
    let new = parent(path).join(format!(".new-{}", hex::encode(rand::random::<[u8; 8]>())));
    let replaced = write_new(&new, mode, content).and_then(|()| {
        fs::rename(&new, path).map_err(io_error("replace", path))?;
        sync_dir(parent(path))
    });
    if replaced.is_err() {
        let _ = fs::remove_file(&new);
    }
    replaced
}

/// Reads a file that only its owner may read.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    check_private(path, 0o600)?;
    read(path).map(Zeroizing::new)
}

/// Refuses a file or directory that group or others can open.
pub(crate) fn check_private(path: &Path, expected: u32) -> Result<(), FileError> {
    let mode = fs::metadata(path).map_err(io_error("read", path))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::Mode { path: path.to_owned(), mode, expected });
    }
    Ok(())
}

/// The directory that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
