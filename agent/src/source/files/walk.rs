//! Walks a live tree in the order of a tar's entries, and survives whatever happens to it meanwhile.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io,
    path::{Path, PathBuf},
};

use prexor_format::tree::{Entry, EntryKind, TreePath};
use rustix::{
    fd::AsFd as _,
    fs::{AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{
    os::{self, Cursor, FileId, Target, Xattrs},
    policy::Rules,
};

/// A path with more bytes than this is passed by: no program could have made it on purpose.
const MAX_PATH: usize = 64 << 10;

/// What a walk comes to.
#[derive(Debug)]
pub(super) enum Found {
    /// An entry; `file` is open for a regular one.
    Entry { entry: Entry, file: Option<File> },
    /// Something that could not be, or is not, taken.
    Note { path: TreePath, note: String },
}

/// See the module's text. Memory grows with the depth, with the largest directory and with the files that have
/// several names.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    root: PathBuf,
    rules: &'a Rules,
    /// Whether only names and what a stat says are wanted: no file is opened, no extended attribute read.
    glance: bool,
    cursor: Option<Cursor>,
    path: TreePath,
    /// The names still to visit, last first, of every directory from the root to the current one.
    names: Vec<Vec<Vec<u8>>>,
    first_names: HashMap<FileId, TreePath>,
    ready: VecDeque<Found>,
}

impl<'a> Walk<'a> {
    /// Walks the directory `root`, whose path has no symbolic link in it.
    ///
    /// # Errors
    /// When the root cannot be opened and listed.
    pub(super) fn new(root: &Path, rules: &'a Rules) -> io::Result<Self> {
        Self::begin(root, rules, false)
    }

    /// As [`Walk::new`], for counting: entries come without extended attributes, and no file is opened.
    ///
    /// # Errors
    /// When the root cannot be opened and listed.
    pub(super) fn glance(root: &Path, rules: &'a Rules) -> io::Result<Self> {
        Self::begin(root, rules, true)
    }

    fn begin(root: &Path, rules: &'a Rules, glance: bool) -> io::Result<Self> {
        let dir = os::open_dir_path(root)?;
        let mut walk = Self {
            root: root.to_owned(),
            rules,
            glance,
            path: TreePath::root(),
            names: vec![reversed(os::names(&dir)?)],
            first_names: HashMap::new(),
            ready: VecDeque::new(),
            cursor: None,
        };
        let stat = rustix::fs::fstat(&dir)?;
        let xattrs = walk.xattrs(Target::Fd(dir.as_fd()));
        walk.emit(TreePath::root(), EntryKind::Directory, &stat, xattrs, None);
        walk.cursor = Some(Cursor::new(dir));
        Ok(walk)
    }

    fn note(&mut self, path: TreePath, note: impl Into<String>) {
        self.ready.push_back(Found::Note { path, note: note.into() });
    }

    fn xattrs(&self, of: Target<'_>) -> Xattrs {
        if self.glance { Xattrs::default() } else { of.xattrs() }
    }

    fn emit(&mut self, path: TreePath, kind: EntryKind, stat: &Stat, xattrs: Xattrs, file: Option<File>) {
        let (xattrs, problem) = xattrs;
        if let Some(problem) = problem {
            self.note(path.clone(), problem);
        }
        let entry = Entry { path, kind, attributes: os::attributes(stat, xattrs) };
        self.ready.push_back(Found::Entry { entry, file });
    }

    /// Leaves the current directory; `false` at the top.
    fn up(&mut self) -> bool {
        self.names.pop();
        let Some(cursor) = self.cursor.as_mut().filter(|c| !c.is_top()) else { return false };
        let Some(parent) = self.path.parent() else { return false };
        if cursor.leave().is_err() {
            // It was moved while we were in it: find the way from the root again.
            match os::open_dir_path(&self.root).and_then(|root| Cursor::descend(root, &parent)) {
                Ok(found) => *cursor = found,
                Err(_) => {
                    self.note(parent, "moved away while it was read");
                    self.path = self.path.parent().unwrap_or_default();
                    return self.up();
                }
            }
        }
        self.path = parent;
        true
    }

    fn visit(&mut self, name: &[u8]) {
        // Names that the kernel hands out are plain components.
        let Ok(path) = self.path.join(name) else { return };
        if self.rules.leaves_out(&path) {
            return;
        }
        if path.as_bytes().len() > MAX_PATH {
            return self.note(path, "skipped: its path is too long");
        }
        // Taken out so that it can be borrowed beside `self`; put back below.
        let Some(mut cursor) = self.cursor.take() else { return };
        if let Err(e) = self.visit_in(&mut cursor, name, path.clone()) {
            let note = match e {
                Errno::NOENT => "vanished before it was read".to_owned(),
                Errno::LOOP | Errno::NOTDIR => "became something else before it was read".to_owned(),
                e => format!("skipped: {}", io::Error::from(e)),
            };
            self.note(path, note);
        }
        self.cursor = Some(cursor);
    }

    fn visit_in(&mut self, cursor: &mut Cursor, name: &[u8], path: TreePath) -> Result<(), Errno> {
        let at = cursor.dir();
        let named = Target::Name(at, name);
        let stat = rustix::fs::statat(at, os::name(name), AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let dir = os::open_dir(at, name)?;
                let names = os::names(&dir)?;
                let stat = rustix::fs::fstat(&dir)?;
                let xattrs = self.xattrs(Target::Fd(dir.as_fd()));
                self.emit(path.clone(), EntryKind::Directory, &stat, xattrs, None);
                cursor.enter(dir).map_err(|_| Errno::NOENT)?;
                self.path = path;
                self.names.push(reversed(names));
            }
            FileType::RegularFile => {
                if let Some(first) = self.first_names.get(&os::file_id(&stat)) {
                    let kind = EntryKind::HardLink { target: first.clone() };
                    let entry = Entry { path, kind, attributes: os::attributes(&stat, Vec::new()) };
                    self.ready.push_back(Found::Entry { entry, file: None });
                    return Ok(());
                }
                if self.glance {
                    if stat.st_nlink > 1 {
                        self.first_names.insert(os::file_id(&stat), path.clone());
                    }
                    let size = u64::try_from(stat.st_size).unwrap_or(0);
                    self.emit(path, EntryKind::File { size }, &stat, Xattrs::default(), None);
                    return Ok(());
                }
                // Should it have become a named pipe meanwhile, opening must not wait for a writer.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                let file = rustix::fs::openat(at, os::name(name), flags, Mode::empty())?;
                let stat = rustix::fs::fstat(&file)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(Errno::LOOP);
                }
                if stat.st_nlink > 1 {
                    self.first_names.insert(os::file_id(&stat), path.clone());
                }
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let file = File::from(file);
                let xattrs = Target::Fd(file.as_fd()).xattrs();
                self.emit(path, EntryKind::File { size }, &stat, xattrs, Some(file));
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(at, os::name(name), Vec::new())?.into_bytes();
                self.emit(path, EntryKind::Symlink { target }, &stat, self.xattrs(named), None);
            }
            FileType::Fifo => self.emit(path, EntryKind::Fifo, &stat, self.xattrs(named), None),
            FileType::Socket => self.note(path, "socket skipped"),
            FileType::CharacterDevice | FileType::BlockDevice => self.note(path, "device skipped"),
            FileType::Unknown => self.note(path, "skipped: of unknown type"),
        }
        Ok(())
    }
}

fn reversed(mut names: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    names.reverse();
    names
}

impl Iterator for Walk<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            if let Some(found) = self.ready.pop_front() {
                return Some(found);
            }
            match self.names.last_mut()?.pop() {
                Some(name) => self.visit(&name),
                None if self.up() => {}
                None => return self.ready.pop_front(),
            }
        }
    }
}
