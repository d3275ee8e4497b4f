//! Unpacks a verified tar.gz into an empty directory of our own, checking on the way everything that can be checked:
//! nothing is ever made through a symbolic link or outside that directory, and an archive that does not hold exactly
//! what the manifest says is refused.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use prexor_format::{
    digest::Hasher,
    gzip,
    manifest::{FilesContents, StoredFile},
    tree::{
        Attributes, Checker, Entry, EntryKind, FileHasher, Finding, Piece, Step, Tally, Totals, TreeError, TreePath,
        TreeReader,
    },
};
use rustix::{
    fd::{AsFd as _, OwnedFd},
    fs::{AtFlags, FileType, Mode, OFlags},
};
use tokio_util::sync::CancellationToken;

use super::{
    os::{self, Cursor, Target},
    policy,
};
use crate::{sink::Progress, source::SourceError};

const CHUNK: usize = 256 << 10;

/// What an unpacked archive came to.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// Of what was put back; equal to the manifest's unless the archive holds something that never is.
    pub(super) restored: Totals,
    /// Of the root directory.
    pub(super) root: Attributes,
}

/// Unpacks `archive`, the staged file `stored`, into the empty directory `into`. Blocking.
pub(super) fn unpack(
    archive: &Path,
    stored: &StoredFile,
    contents: &FilesContents,
    into: OwnedFd,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Unpacked, SourceError> {
    let file = File::open(archive)
        .map_err(|e| SourceError::Failed(format!("{}: the staged archive cannot be read: {e}", archive.display())))?;
    let mut compressed = Counting { inner: file, hasher: Hasher::default(), size: 0 };
    let mut job = Job {
        name: &stored.path,
        contents,
        progress,
        stop,
        place: Unpacking {
            root: into.try_clone().map_err(failed)?,
            cursor: Cursor::new(into),
            open: Vec::new(),
            path: TreePath::root(),
        },
    };
    progress.set_total_bytes(contents.bytes);
    let unpacked = job.run(gzip::reader(BufReader::with_capacity(CHUNK, &mut compressed)))?;
    let (size, sha256) = (compressed.size, compressed.hasher.finish());
    if size != stored.size_bytes || sha256 != stored.sha256 {
        return Err(damaged(&stored.path, "its SHA-256 is not the manifest's"));
    }
    Ok(unpacked)
}

/// Hashes what is read through it.
struct Counting<R> {
    inner: R,
    hasher: Hasher,
    size: u64,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        self.size += n as u64;
        Ok(n)
    }
}

fn damaged(name: &str, what: impl std::fmt::Display) -> SourceError {
    SourceError::Invalid(format!("{name} cannot be restored: {what}; `prexorctl backup verify` checks the others"))
}

fn refused(name: &str, finding: &Finding) -> SourceError {
    damaged(name, format_args!("it holds {finding}"))
}

fn unreadable(name: &str, e: TreeError) -> SourceError {
    match e {
        TreeError::Malformed(what) => damaged(name, what),
        TreeError::Io(e) => damaged(name, format_args!("it cannot be decompressed: {e}")),
    }
}

fn failed(e: impl Into<io::Error>) -> SourceError {
    SourceError::Failed(format!("unpacking: {}", e.into()))
}

/// An error about one entry that is being made.
fn making(path: &TreePath, e: impl Into<io::Error>) -> SourceError {
    let e = e.into();
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SourceError::NoSpace(format!(
            "no space left while unpacking '{path}': free some beside the root and start the restore again"
        )),
        io::ErrorKind::PermissionDenied => {
            SourceError::Denied(format!("unpacking '{path}': {e}: prexor-agent must run as root"))
        }
        _ => SourceError::Failed(format!("unpacking '{path}': {e}")),
    }
}

struct Job<'a> {
    name: &'a str,
    contents: &'a FilesContents,
    progress: &'a Progress,
    stop: &'a CancellationToken,
    place: Unpacking,
}

impl Job<'_> {
    fn run(&mut self, archive: impl Read) -> Result<Unpacked, SourceError> {
        let mut tar = TreeReader::new(BufReader::with_capacity(CHUNK, archive));
        let (mut checker, mut all, mut restored) = (Checker::default(), Tally::default(), Tally::default());
        let mut root = None;
        let mut buf = vec![0; CHUNK];
        while let Some(step) = tar.next_entry().map_err(|e| unreadable(self.name, e))? {
            if self.stop.is_cancelled() {
                return Err(SourceError::Cancelled);
            }
            let entry = match step {
                Step::Entry(entry) => entry,
                Step::Refused(finding) => return Err(refused(self.name, &finding)),
            };
            if let Some(finding) = checker.check(&entry) {
                return Err(refused(self.name, &finding));
            }
            self.refuse_more_than_announced(&all, &entry)?;
            root.get_or_insert_with(|| entry.attributes.clone());
            self.progress.set_subject(entry.path.display());
            let wanted = policy::is_restored(&entry.path);
            let mut file = if wanted { self.place.make(&entry)? } else { None };
            let mut hasher = FileHasher::default();
            let mut holes = false;
            loop {
                let piece = tar.read_piece(&mut buf).map_err(|e| unreadable(self.name, e))?;
                if self.stop.is_cancelled() {
                    return Err(SourceError::Cancelled);
                }
                let done = match piece {
                    Piece::End => break,
                    Piece::Data(n) => {
                        hasher.update(&buf[..n]);
                        self.progress.add(n as u64, 0);
                        file.as_mut().map_or(Ok(()), |file| file.write_all(&buf[..n]))
                    }
                    Piece::Hole(zeros) => {
                        holes = true;
                        hasher.update_zeros(zeros);
                        self.progress.add(zeros, 0);
                        let by = i64::try_from(zeros).unwrap_or(i64::MAX);
                        file.as_mut().map_or(Ok(()), |file| file.seek_relative(by))
                    }
                };
                done.map_err(|e| making(&entry.path, e))?;
            }
            if let (Some(file), true, EntryKind::File { size }) = (&file, holes, &entry.kind) {
                file.set_len(*size).map_err(|e| making(&entry.path, e))?;
            }
            if let Some(file) = file {
                applied(&entry.path, Target::Fd(file.as_fd()).apply(&entry.attributes, false))?;
            }
            let digest = hasher.finish();
            all.add(&entry, Some(&digest));
            if wanted {
                restored.add(&entry, Some(&digest));
            }
            self.progress.add(0, 1);
        }
        self.place.finish()?;
        let found = all.totals();
        let expected = (self.contents.entries, self.contents.bytes, self.contents.content);
        if (found.entries, found.bytes, found.content) != expected {
            return Err(damaged(self.name, "its contents are not those of the manifest"));
        }
        let root = root.ok_or_else(|| damaged(self.name, "it is empty"))?;
        Ok(Unpacked { restored: restored.totals(), root })
    }

    /// So that an archive that unpacks to far more than the manifest says ends before it fills the disk.
    fn refuse_more_than_announced(&self, so_far: &Tally, next: &Entry) -> Result<(), SourceError> {
        let totals = so_far.totals();
        let size = if let EntryKind::File { size } = next.kind { size } else { 0 };
        if totals.entries >= self.contents.entries || totals.bytes.saturating_add(size) > self.contents.bytes {
            return Err(damaged(self.name, "it holds more than the manifest says"));
        }
        Ok(())
    }
}

fn applied(path: &TreePath, result: Result<(), String>) -> Result<(), SourceError> {
    result.map_err(|what| SourceError::Failed(format!("unpacking '{path}': {what}")))
}

/// The directory that is being filled, at the place of the entry made last.
struct Unpacking {
    root: OwnedFd,
    cursor: Cursor,
    /// The attributes of the directories from the root to the current one: set when everything in them is made.
    open: Vec<Attributes>,
    path: TreePath,
}

impl Unpacking {
    /// Makes an entry; a regular file is handed back to be written, and its attributes set, by the caller.
    fn make(&mut self, entry: &Entry) -> Result<Option<File>, SourceError> {
        let Some(parent) = entry.path.parent() else {
            self.open.push(entry.attributes.clone());
            return Ok(None);
        };
        // The checker has made sure that the parent is the current directory or one above it.
        while self.path != parent {
            self.close_directory()?;
        }
        let bytes = entry.path.file_name();
        let (at, name, wrong) = (self.cursor.dir(), os::name(bytes), |e| making(&entry.path, e));
        match &entry.kind {
            EntryKind::Directory => {
                rustix::fs::mkdirat(at, name, Mode::RWXU).map_err(wrong)?;
                let dir = os::open_dir(at, bytes).map_err(wrong)?;
                self.cursor.enter(dir).map_err(|e| making(&entry.path, e))?;
                self.open.push(entry.attributes.clone());
                self.path = entry.path.clone();
            }
            EntryKind::File { .. } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(at, name, flags, Mode::RUSR | Mode::WUSR).map_err(wrong)?;
                return Ok(Some(File::from(file)));
            }
            EntryKind::HardLink { target } => self.link(target, entry)?,
            EntryKind::Symlink { target } => {
                rustix::fs::symlinkat(os::name(target), at, name).map_err(wrong)?;
                applied(&entry.path, Target::Name(at, bytes).apply(&entry.attributes, true))?;
            }
            EntryKind::Fifo => {
                rustix::fs::mkfifoat(at, name, Mode::RUSR | Mode::WUSR).map_err(wrong)?;
                applied(&entry.path, Target::Name(at, bytes).apply(&entry.attributes, false))?;
            }
        }
        Ok(None)
    }

    /// A further name for a regular file that was made before; found without following any symbolic link.
    fn link(&self, target: &TreePath, entry: &Entry) -> Result<(), SourceError> {
        let wrong = |e: io::Error| making(&entry.path, e);
        let root = self.root.try_clone().map_err(wrong)?;
        let parent = Cursor::descend(root, &target.parent().unwrap_or_default()).map_err(wrong)?;
        let name = os::name(target.file_name());
        let stat = rustix::fs::statat(parent.dir(), name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| wrong(e.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(SourceError::Invalid(format!(
                "'{}' is a hard link to '{target}', which is no file",
                entry.path
            )));
        }
        let here = os::name(entry.path.file_name());
        rustix::fs::linkat(parent.dir(), name, self.cursor.dir(), here, AtFlags::empty()).map_err(|e| wrong(e.into()))
    }

    fn close_directory(&mut self) -> Result<(), SourceError> {
        let attributes = self.open.pop().unwrap_or_default();
        let left = self.cursor.leave().map_err(|e| making(&self.path, e))?;
        applied(&self.path, Target::Fd(left.as_fd()).apply(&attributes, false))?;
        self.path = self.path.parent().unwrap_or_default();
        Ok(())
    }

    /// Sets the attributes of the directories that are still open, and has everything written to the disk.
    fn finish(&mut self) -> Result<(), SourceError> {
        while !self.cursor.is_top() {
            self.close_directory()?;
        }
        if let Some(attributes) = self.open.pop() {
            applied(&self.path, Target::Fd(self.cursor.dir()).apply(&attributes, false))?;
        }
        rustix::fs::syncfs(self.cursor.dir()).map_err(failed)
    }
}

/// The bytes of files that are holes in `archive`; 0 when it cannot be read, which unpacking it will explain.
fn holes_in(archive: &Path, stop: &CancellationToken) -> u64 {
    let Ok(file) = File::open(archive) else { return 0 };
    let mut tar = TreeReader::new(BufReader::new(gzip::reader(BufReader::with_capacity(CHUNK, file))));
    let (mut holes, mut buf) = (0u64, vec![0; CHUNK]);
    while let Ok(Some(_)) = tar.next_entry() {
        loop {
            match tar.read_piece(&mut buf) {
                _ if stop.is_cancelled() => return holes,
                Ok(Piece::Data(_)) => {}
                Ok(Piece::Hole(zeros)) => holes = holes.saturating_add(zeros),
                Ok(Piece::End) => break,
                Err(_) => return holes,
            }
        }
    }
    holes
}

/// Refuses early when the file system of `beside` has not the room for the tree in `archive`.
pub(super) fn check_space(
    beside: &Path,
    contents: &FilesContents,
    archive: &Path,
    stop: &CancellationToken,
) -> Result<(), SourceError> {
    let fs = rustix::fs::statvfs(beside).map_err(failed)?;
    // Every entry takes a block, and the last block of a file is half empty on average.
    let blocks = contents.entries.saturating_mul(fs.f_frsize);
    let mut needed = contents.bytes.saturating_add(blocks);
    let free = fs.f_bavail.saturating_mul(fs.f_frsize);
    if free < needed {
        // Only now is it worth to read the archive once more.
        needed = contents.bytes.saturating_sub(holes_in(archive, stop)).saturating_add(blocks);
    }
    let short_of_inodes = fs.f_files > 0 && fs.f_favail < contents.entries;
    if free < needed || short_of_inodes {
        let what = if short_of_inodes {
            format!("{} free inodes, {} are needed", fs.f_favail, contents.entries)
        } else {
            format!("{free} bytes free, {needed} are needed")
        };
        let beside = String::from_utf8_lossy(beside.as_os_str().as_bytes()).into_owned();
        return Err(SourceError::NoSpace(format!(
            "{beside} has {what} to keep the new tree beside the old one: free some space and start the restore again"
        )));
    }
    Ok(())
}
