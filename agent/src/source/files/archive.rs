//! Reads an archive, staged or on its way in, on a thread of its own, checks everything that can be checked before anything is made of it,
//! and hands over what is to be made. Writes nothing.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::{self, BufReader, Read},
    ops::Range,
    path::Path,
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, SyncSender},
    },
};

use prexor_format::{
    digest::{Hasher, Sha256Digest},
    gzip,
    manifest::{FilesContents, StoredFile},
    tree::{
        Checker, Entry, EntryKind, FileHasher, Finding, Piece, Step, Tally, Totals, TreeError, TreePath, TreeReader,
    },
};
use tokio_util::sync::CancellationToken;

use super::{part::Part, policy};
use crate::{arriving::Arriving, source::SourceError};

const CHUNK: usize = 256 << 10;

/// Bytes of files in a batch.
const BATCH: usize = 1 << 20;

/// What is to be done in a batch.
const ACTS: usize = 1 << 10;

/// Files outside a part that links within it lead to.
const MAX_HELD: usize = 1 << 16;

/// What an entry is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It is put back.
    Restored,
    /// A directory above what is put back.
    Way,
    /// A file outside the part, kept under this number for the links within it.
    Held(usize),
    /// It is put back and becomes another name of a held file.
    NameOf(usize),
}

/// A step of the making.
#[derive(Debug)]
pub(super) enum Act {
    /// Begins an entry.
    Make(Entry, Role),
    /// Bytes of the batch, the next of the file.
    Data(Range<usize>),
    /// Zeros that need not be written.
    Zeros(u64),
    /// The entry is complete; the digest is that of a regular file's bytes.
    Done(Sha256Digest),
}

/// Some steps and the bytes for them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) acts: Vec<Act>,
    pub(super) bytes: Vec<u8>,
    used: usize,
}

/// What the archive held, once it was read to its end and found to be what the manifest says.
#[derive(Debug)]
pub(super) struct Verified {
    /// Of what is put back.
    pub(super) restored: Totals,
}

/// An archive and what it should hold.
#[derive(Clone, Copy)]
pub(super) struct Archive<'a> {
    pub(super) from: From<'a>,
    pub(super) stored: &'a StoredFile,
    pub(super) contents: &'a FilesContents,
    pub(super) part: &'a Part,
    pub(super) stop: &'a CancellationToken,
}

/// Where the bytes of an archive are.
#[derive(Clone, Copy)]
pub(super) enum From<'a> {
    /// In a file, which can be read more than once.
    Staged(&'a Path),
    /// On their way in, for one reading; compared with the manifest's digest by who receives them.
    Arriving(&'a Mutex<Option<Arriving>>),
}

/// What a first look at an archive tells of a part.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// In the part.
    pub(super) entries: u64,
    /// In the part's files, holes left out.
    pub(super) bytes: u64,
    /// Files outside the part that hard links within it lead to.
    pub(super) held: BTreeSet<TreePath>,
    /// Paths of the part that the archive has not.
    pub(super) missing: Vec<TreePath>,
}

impl Archive<'_> {
    fn damaged(&self, what: impl std::fmt::Display) -> SourceError {
        let name = &self.stored.path;
        SourceError::Invalid(format!("{name} cannot be restored: {what}; `prexorctl backup verify` checks the others"))
    }

    fn refused(&self, finding: &Finding) -> SourceError {
        self.damaged(format_args!("it holds {finding}"))
    }

    fn unreadable(&self, e: TreeError) -> SourceError {
        match e {
            TreeError::Malformed(what) => self.damaged(what),
            TreeError::Io(e) => self.damaged(format_args!("it cannot be decompressed: {e}")),
        }
    }

    fn open(&self) -> Result<Counting, SourceError> {
        let inner: Box<dyn Read + Send> = match self.from {
            From::Staged(path) => Box::new(File::open(path).map_err(|e| {
                SourceError::Failed(format!("{}: the staged archive cannot be read: {e}", path.display()))
            })?),
            From::Arriving(file) => match file.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(file) => Box::new(file),
                None => return Err(SourceError::Failed("an archive on its way in is read twice".to_owned())),
            },
        };
        let hasher = matches!(self.from, From::Staged(_)).then(Hasher::default);
        Ok(Counting { inner, hasher, size: 0 })
    }

    /// Looks for the part without checking anything.
    pub(super) fn survey(&self) -> Result<Survey, SourceError> {
        let mut tar = tar(self.open()?);
        let mut survey = Survey::default();
        let mut missing: BTreeSet<&TreePath> = self.part.paths().into_iter().flatten().collect();
        let mut buf = vec![0; CHUNK];
        while let Some(step) = tar.next_entry().map_err(|e| self.unreadable(e))? {
            let Step::Entry(entry) = step else { continue };
            if !self.part.includes(&entry.path) {
                continue;
            }
            missing.remove(&entry.path);
            survey.entries += 1;
            if let EntryKind::HardLink { target } = &entry.kind
                && !self.part.includes(target)
                && survey.held.insert(target.clone())
                && survey.held.len() > MAX_HELD
            {
                let what = "its hard links lead to too many files outside of it: select more, or everything";
                return Err(SourceError::Invalid(format!("this part cannot be restored by itself: {what}")));
            }
            loop {
                if self.stop.is_cancelled() {
                    return Err(SourceError::Cancelled);
                }
                match tar.read_piece(&mut buf).map_err(|e| self.unreadable(e))? {
                    Piece::Data(n) => survey.bytes += n as u64,
                    Piece::Hole(_) => {}
                    Piece::End => break,
                }
            }
        }
        survey.missing = missing.into_iter().cloned().collect();
        Ok(survey)
    }

    /// Reads everything and hands over what the part needs; `held` is what [`Archive::survey`] found. Takes empty
    /// batches from `empty` and gives them back filled; ends early when nobody takes them any more.
    pub(super) fn read(
        &self,
        held: &BTreeSet<TreePath>,
        empty: &Receiver<Batch>,
        full: &SyncSender<Batch>,
    ) -> Result<Verified, SourceError> {
        let held = held.iter().enumerate().map(|(n, path)| (path.clone(), Held { number: n, file: None, name: None }));
        let mut compressed = self.open()?;
        let mut reading = Reading {
            archive: self,
            out: Out { batch: Batch::default(), empty, full },
            held: held.collect(),
            checker: Checker::default(),
            all: Tally::default(),
            restored: Tally::default(),
        };
        reading.out.renew()?;
        reading.entries(tar(&mut compressed))?;
        // An archive on its way in is not over before its receiver says that it is whole.
        io::copy(&mut compressed, &mut io::sink()).map_err(|e| self.unreadable(TreeError::Io(e)))?;
        let (size, sha256) = (compressed.size, compressed.hasher.map(Hasher::finish));
        if size != self.stored.size_bytes || sha256.is_some_and(|digest| digest != self.stored.sha256) {
            return Err(self.damaged("its SHA-256 is not the manifest's"));
        }
        reading.finish()
    }
}

fn tar(compressed: impl Read) -> TreeReader<impl Read> {
    let archive = gzip::reader(BufReader::with_capacity(CHUNK, compressed));
    TreeReader::new(BufReader::with_capacity(CHUNK, archive))
}

/// Counts what is read through it, and hashes what nobody else does.
struct Counting {
    inner: Box<dyn Read + Send>,
    hasher: Option<Hasher>,
    size: u64,
}

impl Read for Counting {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buf[..n]);
        }
        self.size += n as u64;
        Ok(n)
    }
}

/// A file outside the part.
struct Held {
    number: usize,
    /// The file and the digest of its bytes, once it was read.
    file: Option<(Entry, Sha256Digest)>,
    /// Its first name within the part.
    name: Option<TreePath>,
}

struct Out<'a> {
    batch: Batch,
    empty: &'a Receiver<Batch>,
    full: &'a SyncSender<Batch>,
}

impl Out<'_> {
    /// Takes an empty batch.
    fn renew(&mut self) -> Result<(), SourceError> {
        self.batch = self.empty.recv().map_err(|_| SourceError::Cancelled)?;
        self.batch.acts.clear();
        self.batch.bytes.resize(BATCH, 0);
        self.batch.used = 0;
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), SourceError> {
        self.full.send(std::mem::take(&mut self.batch)).map_err(|_| SourceError::Cancelled)
    }

    fn push(&mut self, act: Act) -> Result<(), SourceError> {
        self.batch.acts.push(act);
        if self.batch.acts.len() < ACTS && self.batch.used < BATCH {
            return Ok(());
        }
        self.hand_over()?;
        self.renew()
    }

    /// Room for bytes, at least one.
    fn room(&mut self) -> &mut [u8] {
        &mut self.batch.bytes[self.batch.used..]
    }

    /// So many bytes were put into the room.
    fn filled(&mut self, n: usize) -> Result<(), SourceError> {
        let begin = self.batch.used;
        self.batch.used += n;
        self.push(Act::Data(begin..begin + n))
    }
}

struct Reading<'a> {
    archive: &'a Archive<'a>,
    out: Out<'a>,
    held: HashMap<TreePath, Held>,
    checker: Checker,
    all: Tally,
    restored: Tally,
}

impl Reading<'_> {
    fn entries(&mut self, mut tar: TreeReader<impl Read>) -> Result<(), SourceError> {
        while let Some(step) = tar.next_entry().map_err(|e| self.archive.unreadable(e))? {
            let entry = match step {
                Step::Entry(entry) => entry,
                Step::Refused(finding) => return Err(self.archive.refused(&finding)),
            };
            if let Some(finding) = self.checker.check(&entry) {
                return Err(self.archive.refused(&finding));
            }
            self.refuse_more_than_announced(&entry)?;
            match self.role(&entry) {
                None => {
                    let digest = self.bytes(&mut tar, false)?;
                    self.all.add(&entry, Some(&digest));
                }
                Some(Role::NameOf(_)) => self.name_of_held(&entry)?,
                Some(role) => {
                    self.out.push(Act::Make(entry.clone(), role))?;
                    let digest = self.bytes(&mut tar, true)?;
                    self.out.push(Act::Done(digest))?;
                    self.all.add(&entry, Some(&digest));
                    match role {
                        Role::Restored => self.restored.add(&entry, Some(&digest)),
                        Role::Held(_) => {
                            if let Some(held) = self.held.get_mut(&entry.path) {
                                held.file = Some((entry, digest));
                            }
                        }
                        Role::Way | Role::NameOf(_) => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn role(&self, entry: &Entry) -> Option<Role> {
        let path = &entry.path;
        if !policy::is_restored(path) {
            return None;
        }
        if self.archive.part.includes(path) {
            return match &entry.kind {
                EntryKind::HardLink { target } => {
                    Some(self.held.get(target).map_or(Role::Restored, |h| Role::NameOf(h.number)))
                }
                _ => Some(Role::Restored),
            };
        }
        match &entry.kind {
            EntryKind::Directory if self.archive.part.leads_through(path) => Some(Role::Way),
            EntryKind::File { .. } => self.held.get(path).map(|h| Role::Held(h.number)),
            _ => None,
        }
    }

    /// A link to a file outside the part: the first becomes the file, the others links to that. What is live outside
    /// the part may be another file by now.
    fn name_of_held(&mut self, link: &Entry) -> Result<(), SourceError> {
        self.all.add(link, None);
        let EntryKind::HardLink { target } = &link.kind else { return Ok(()) };
        let held = self.held.get_mut(target).and_then(|h| Some((h.number, h.file.as_ref()?, &mut h.name)));
        let Some((number, (file, digest), name)) = held else {
            return Err(self.archive.damaged(format_args!("'{}' is a hard link to no file", link.path)));
        };
        let (entry, role) = match name {
            Some(first) => {
                (Entry { kind: EntryKind::HardLink { target: first.clone() }, ..link.clone() }, Role::Restored)
            }
            None => {
                *name = Some(link.path.clone());
                (Entry { path: link.path.clone(), ..file.clone() }, Role::NameOf(number))
            }
        };
        self.restored.add(&entry, Some(digest));
        self.out.push(Act::Make(entry, role))?;
        self.out.push(Act::Done(*digest))
    }

    /// The digest of the entry's bytes, which are handed over when they are wanted.
    fn bytes(&mut self, tar: &mut TreeReader<impl Read>, wanted: bool) -> Result<Sha256Digest, SourceError> {
        let mut hasher = FileHasher::default();
        loop {
            if self.archive.stop.is_cancelled() {
                return Err(SourceError::Cancelled);
            }
            let room = self.out.room();
            match tar.read_piece(room).map_err(|e| self.archive.unreadable(e))? {
                Piece::Data(n) => {
                    hasher.update(&room[..n]);
                    if wanted {
                        self.out.filled(n)?;
                    }
                }
                Piece::Hole(zeros) => {
                    hasher.update_zeros(zeros);
                    if wanted {
                        self.out.push(Act::Zeros(zeros))?;
                    }
                }
                Piece::End => return Ok(hasher.finish()),
            }
        }
    }

    /// So that an archive that unpacks to far more than the manifest says ends before it fills the disk.
    fn refuse_more_than_announced(&self, next: &Entry) -> Result<(), SourceError> {
        let (totals, most) = (self.all.totals(), self.archive.contents);
        let size = if let EntryKind::File { size } = next.kind { size } else { 0 };
        if totals.entries >= most.entries || totals.bytes.saturating_add(size) > most.bytes {
            return Err(self.archive.damaged("it holds more than the manifest says"));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Verified, SourceError> {
        let (found, expected) = (self.all.totals(), self.archive.contents);
        if (found.entries, found.bytes, found.content) != (expected.entries, expected.bytes, expected.content) {
            return Err(self.archive.damaged("its contents are not those of the manifest"));
        }
        self.out.hand_over()?;
        Ok(Verified { restored: self.restored.totals() })
    }
}
