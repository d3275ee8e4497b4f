//! Makes the tree of an archive in an empty directory of our own, while another thread reads and checks it: nothing is
//! ever made through a symbolic link or outside that directory. What was made is listed in an index.

use std::{
    fs::File,
    io::{self, Seek as _, Write as _},
    path::Path,
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
};

use prexor_format::{
    digest::Sha256Digest,
    tree::{Attributes, Entry, EntryKind, Totals, TreePath},
};
use rustix::{
    fd::{AsFd as _, OwnedFd},
    fs::{AtFlags, FileType, Mode, OFlags},
};

use super::{
    archive::{Act, Archive, Batch, Role, Survey},
    index::{Identity, IndexWriter, Record},
    os::{self, Cursor, Target},
};
use crate::{sink::Progress, source::SourceError};

/// Batches on their way from the reading thread or back to it, a MiB each.
const BATCHES: usize = 4;

/// A file of this size is brought to the disk as soon as it is written, by a thread that does nothing else: at the end
/// everything must be there, and until then the disk would have nothing to do.
const LARGE: u64 = 1 << 20;

/// Large files that may wait for the disk.
const LARGE_FILES: usize = 32;

/// Where an archive is unpacked to.
pub(super) struct Destination<'a> {
    /// The empty directory that becomes the root.
    pub(super) tree: OwnedFd,
    /// An empty directory for files outside the part.
    pub(super) held: OwnedFd,
    /// The list of what was made.
    pub(super) index: &'a Path,
}

/// What an unpacked archive came to.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// Of what was put back; the manifest's, unless it is a part or the archive holds something that never is.
    pub(super) restored: Totals,
    /// Of the root directory.
    pub(super) root: Attributes,
}

/// Unpacks a part of an archive, which `survey` has found in it, and brings it to the disk. Blocking.
pub(super) fn unpack(
    archive: &Archive<'_>,
    survey: &Survey,
    into: Destination<'_>,
    progress: &Progress,
) -> Result<Unpacked, SourceError> {
    let listing = |e: io::Error| match e.kind() {
        io::ErrorKind::StorageFull => {
            SourceError::NoSpace(format!("{}: the agent's disk is full", into.index.display()))
        }
        _ => SourceError::Failed(format!("{}: {e}", into.index.display())),
    };
    let (large_tx, large_rx) = sync_channel::<File>(LARGE_FILES);
    let mut making = Making {
        archive,
        large: Some(large_tx),
        progress,
        index: IndexWriter::create(into.index).map_err(listing)?,
        held: into.held,
        root: into.tree.try_clone().map_err(failed)?,
        cursor: Cursor::new(into.tree),
        open: Vec::new(),
        path: TreePath::root(),
        at_work: None,
    };
    let (full_tx, full_rx) = sync_channel(BATCHES);
    let (empty_tx, empty_rx) = channel();
    (0..=BATCHES).try_for_each(|_| empty_tx.send(Batch::default())).map_err(|e| failed(io::Error::other(e)))?;
    let (made, read, written) = std::thread::scope(|threads| {
        let reading = std::thread::Builder::new()
            .name("untar".to_owned())
            .spawn_scoped(threads, move || archive.read(&survey.held, &empty_rx, &full_tx))?;
        let writing = std::thread::Builder::new()
            .name("to-disk".to_owned())
            .spawn_scoped(threads, move || large_rx.iter().try_for_each(|file| file.sync_data()))?;
        let made = making.batches(full_rx, empty_tx);
        making.large = None;
        let crashed = |_| Err(SourceError::Failed("the thread that reads the archive ended abnormally".to_owned()));
        let written = writing.join().unwrap_or_else(|_| Err(io::Error::other("a thread ended abnormally")));
        io::Result::Ok((made, reading.join().unwrap_or_else(crashed), written))
    })
    .map_err(failed)?;
    // When the making fails, the reading ends because nobody takes what it read.
    made?;
    let verified = read?;
    written.map_err(failed)?;
    let root = making.finish_directories()?;
    let Making { index, root: tree, .. } = making;
    index.finish().map_err(listing)?;
    rustix::fs::syncfs(tree).map_err(failed)?;
    Ok(Unpacked { restored: verified.restored, root })
}

fn failed(e: impl Into<io::Error>) -> SourceError {
    let e = e.into();
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SourceError::NoSpace(
            "no space left while unpacking: free some beside the root and start the restore again".to_owned(),
        ),
        _ => SourceError::Failed(format!("unpacking: {e}")),
    }
}

/// An error about one entry that is being made.
fn wrong(path: &TreePath, e: impl Into<io::Error>) -> SourceError {
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

fn applied(path: &TreePath, result: Result<(), String>) -> Result<(), SourceError> {
    result.map_err(|what| SourceError::Failed(format!("unpacking '{path}': {what}")))
}

/// The entry that is being made; `file` for a regular one.
struct AtWork {
    entry: Entry,
    role: Role,
    file: Option<File>,
    has_holes: bool,
}

/// The directory that is being filled, at the place of the entry made last.
struct Making<'a> {
    archive: &'a Archive<'a>,
    progress: &'a Progress,
    /// Takes files to the disk.
    large: Option<SyncSender<File>>,
    index: IndexWriter,
    held: OwnedFd,
    root: OwnedFd,
    cursor: Cursor,
    /// The attributes of the directories from the root to the current one: set when everything in them is made.
    open: Vec<Attributes>,
    path: TreePath,
    at_work: Option<AtWork>,
}

impl Making<'_> {
    /// Takes both ends along: whatever it ends with, the reading thread ends too.
    fn batches(&mut self, full: Receiver<Batch>, empty: Sender<Batch>) -> Result<(), SourceError> {
        for mut batch in full {
            for act in batch.acts.drain(..) {
                if self.archive.stop.is_cancelled() {
                    return Err(SourceError::Cancelled);
                }
                match act {
                    Act::Make(entry, role) => self.begin(entry, role)?,
                    Act::Data(range) => {
                        self.progress.add(range.len() as u64, 0);
                        self.write(&batch.bytes[range])?;
                    }
                    Act::Zeros(zeros) => {
                        self.progress.add(zeros, 0);
                        self.skip(zeros)?;
                    }
                    Act::Done(digest) => self.done(digest)?,
                }
            }
            // The reading thread has ended when it takes none back.
            let _ = empty.send(batch);
        }
        Ok(())
    }

    fn begin(&mut self, entry: Entry, role: Role) -> Result<(), SourceError> {
        self.progress.set_subject(entry.path.display());
        let file = match role {
            Role::Held(number) => Some(create(&self.held, number.to_string().as_bytes(), &entry)?),
            Role::Restored | Role::Way | Role::NameOf(_) => self.make(&entry, role)?,
        };
        self.at_work = Some(AtWork { entry, role, file, has_holes: false });
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SourceError> {
        match &mut self.at_work {
            Some(AtWork { entry, file: Some(file), .. }) => file.write_all(bytes).map_err(|e| wrong(&entry.path, e)),
            _ => Ok(()),
        }
    }

    fn skip(&mut self, zeros: u64) -> Result<(), SourceError> {
        let Some(AtWork { entry, file: Some(file), has_holes, .. }) = &mut self.at_work else { return Ok(()) };
        *has_holes = true;
        let by = i64::try_from(zeros).unwrap_or(i64::MAX);
        file.seek_relative(by).map_err(|e| wrong(&entry.path, e))
    }

    fn done(&mut self, content: Sha256Digest) -> Result<(), SourceError> {
        let Some(AtWork { entry, role, file, has_holes }) = self.at_work.take() else { return Ok(()) };
        let path = &entry.path;
        let mut identity = None;
        if let (Some(file), EntryKind::File { size }) = (file, &entry.kind) {
            if has_holes {
                file.set_len(*size).map_err(|e| wrong(path, e))?;
            }
            applied(path, Target::Fd(file.as_fd()).apply(&entry.attributes, false))?;
            identity = Some(Identity::of(&rustix::fs::fstat(&file).map_err(|e| wrong(path, e))?));
            if let (Some(large), true) = (&self.large, *size >= LARGE) {
                // When the thread is gone it says why at the end.
                let _ = large.send(file);
            }
        }
        if matches!(role, Role::Restored | Role::NameOf(_)) {
            self.index.add(&Record { entry, content, identity }).map_err(failed)?;
            self.progress.add(0, 1);
        }
        Ok(())
    }

    /// Makes an entry; a regular file is handed back to be written, and its attributes set.
    fn make(&mut self, entry: &Entry, role: Role) -> Result<Option<File>, SourceError> {
        let Some(parent) = entry.path.parent() else {
            self.open.push(entry.attributes.clone());
            return Ok(None);
        };
        // The checker has made sure that the parent is the current directory or one above it.
        while self.path != parent {
            self.close_directory()?;
        }
        let bytes = entry.path.file_name();
        let (at, name, wrong) = (self.cursor.dir(), os::name(bytes), |e| wrong(&entry.path, e));
        match &entry.kind {
            EntryKind::Directory => {
                rustix::fs::mkdirat(at, name, Mode::RWXU).map_err(|e| wrong(e.into()))?;
                let dir = os::open_dir(at, bytes).map_err(|e| wrong(e.into()))?;
                self.cursor.enter(dir).map_err(wrong)?;
                self.open.push(entry.attributes.clone());
                self.path = entry.path.clone();
            }
            EntryKind::File { .. } => {
                if let Role::NameOf(number) = role {
                    self.link(&self.held, number.to_string().as_bytes(), &entry.path)?;
                } else {
                    return create(at, bytes, entry).map(Some);
                }
            }
            EntryKind::HardLink { target } => {
                // Found without following any symbolic link.
                let root = self.root.try_clone().map_err(wrong)?;
                let parent = Cursor::descend(root, &target.parent().unwrap_or_default()).map_err(wrong)?;
                self.link(parent.dir(), target.file_name(), &entry.path)?;
            }
            EntryKind::Symlink { target } => {
                rustix::fs::symlinkat(os::name(target), at, name).map_err(|e| wrong(e.into()))?;
                applied(&entry.path, Target::Name(at, bytes).apply(&entry.attributes, true))?;
            }
            EntryKind::Fifo => {
                rustix::fs::mkfifoat(at, name, Mode::RUSR | Mode::WUSR).map_err(|e| wrong(e.into()))?;
                applied(&entry.path, Target::Name(at, bytes).apply(&entry.attributes, false))?;
            }
        }
        Ok(None)
    }

    /// A further name for a regular file that was made before.
    fn link(&self, at: impl rustix::fd::AsFd, file: &[u8], path: &TreePath) -> Result<(), SourceError> {
        let (at, name) = (at.as_fd(), os::name(file));
        let stat = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| wrong(path, e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(SourceError::Invalid(format!("'{path}' is a hard link to what is no file")));
        }
        let here = os::name(path.file_name());
        rustix::fs::linkat(at, name, self.cursor.dir(), here, AtFlags::empty()).map_err(|e| wrong(path, e))
    }

    fn close_directory(&mut self) -> Result<(), SourceError> {
        let attributes = self.open.pop().unwrap_or_default();
        let left = self.cursor.leave().map_err(|e| wrong(&self.path, e))?;
        applied(&self.path, Target::Fd(left.as_fd()).apply(&attributes, false))?;
        self.path = self.path.parent().unwrap_or_default();
        Ok(())
    }

    /// Sets the attributes of the directories that are still open, and returns those of the root.
    fn finish_directories(&mut self) -> Result<Attributes, SourceError> {
        while !self.cursor.is_top() {
            self.close_directory()?;
        }
        let root = self.open.pop().unwrap_or_default();
        applied(&self.path, Target::Fd(self.cursor.dir()).apply(&root, false))?;
        Ok(root)
    }
}

fn create(at: impl rustix::fd::AsFd, name: &[u8], entry: &Entry) -> Result<File, SourceError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(at, os::name(name), flags, Mode::RUSR | Mode::WUSR);
    file.map(File::from).map_err(|e| wrong(&entry.path, e))
}
