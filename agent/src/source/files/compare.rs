//! Compares a tree on disk with the index of what was unpacked, entry by entry, and with the sum of an archive's content.
//!
//! Attributes, names and links are looked at each time. The bytes of a file are read and hashed unless it is, by its
//! [`Identity`], the very file whose bytes were hashed on their way to the disk, unchanged since: reading it once more
//! would show what the kernel has in memory, not what a disk has made of it.

use std::{
    cmp::Ordering,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use prexor_format::{
    digest::Sha256Digest,
    tree::{Entry, EntryKind, Extent, FileHasher, Tally, Totals},
};
use tokio_util::sync::CancellationToken;

use super::{
    holes,
    index::{Identity, IndexReader, Record},
    policy::Rules,
    walk::{Found, Walk},
};
use crate::source::SourceError;

/// Differences that are named; the rest is counted.
const MAX_NAMED: usize = 20;

/// What is compared with what.
pub(super) struct Comparison<'a> {
    /// The tree on disk.
    pub(super) tree: &'a Path,
    /// What of it counts.
    pub(super) rules: &'a Rules,
    /// What it should add up to.
    pub(super) expected: &'a Totals,
    /// The list of what was unpacked.
    pub(super) index: &'a Path,
    /// Ends the comparison.
    pub(super) stop: &'a CancellationToken,
}

impl Comparison<'_> {
    /// How the tree differs, in words; empty when it does not. Blocking; takes no memory that grows with the tree, as
    /// both sides come in the order of their paths.
    pub(super) fn differences(&self) -> Result<Vec<String>, SourceError> {
        let mut index = IndexReader::open(self.index).map_err(|e| self.failed(self.index, e))?;
        let mut next = || index.next().map_err(|e| self.failed(self.index, e));
        let mut walk = Walk::new(self.tree, self.rules).map_err(|e| self.failed(self.tree, e))?;
        // What a walk cannot take is missing among the entries.
        let mut walk = || {
            walk.find_map(|found| match found {
                Found::Entry { entry, file } if self.rules.part.includes(&entry.path) => Some((entry, file)),
                Found::Entry { .. } | Found::Note { .. } => None,
            })
        };
        let (mut tally, mut named) = (Tally::default(), Named::default());
        let (mut here, mut there) = (walk(), next()?);
        loop {
            let order = match (&here, &there) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((entry, _)), Some(record)) => entry.path.cmp(&record.entry.path),
            };
            match (order, here.take_if(|_| order.is_le()), there.take_if(|_| order.is_ge())) {
                (_, Some((entry, file)), Some(record)) => {
                    let content = self.content(&entry, file, &record)?;
                    named.add(changes(&entry, &content, &record));
                    tally.add(&entry, Some(&content));
                }
                (_, Some((entry, _)), None) => named.add(Some(format!("'{}' is not in the backup", entry.path))),
                (_, None, Some(record)) => named.add(Some(format!("'{}' is missing", record.entry.path))),
                (_, None, None) => {}
            }
            if order.is_le() {
                here = walk();
            }
            if order.is_ge() {
                there = next()?;
            }
        }
        if named.list.is_empty() && tally.totals() != *self.expected {
            named.add(Some("the content digests differ".to_owned()));
        }
        Ok(named.finish())
    }

    fn failed(&self, what: &Path, e: impl std::fmt::Display) -> SourceError {
        SourceError::Failed(format!("comparing the trees: {}: {e}", what.display()))
    }

    /// The digest of the bytes of a regular file.
    fn content(&self, entry: &Entry, file: Option<File>, record: &Record) -> Result<Sha256Digest, SourceError> {
        let wrong = |e: io::Error| match e.kind() {
            io::ErrorKind::BrokenPipe => SourceError::Cancelled,
            _ => self.failed(self.tree, format_args!("'{}': {e}", entry.path)),
        };
        let mut hasher = FileHasher::default();
        if self.stop.is_cancelled() {
            return Err(SourceError::Cancelled);
        }
        if let Some(mut file) = file {
            let stat = rustix::fs::fstat(&file).map_err(|e| wrong(e.into()))?;
            if record.identity == Some(Identity::of(&stat)) && record.entry.kind == entry.kind {
                return Ok(record.content);
            }
            self.hash(&mut file, &mut hasher).map_err(wrong)?;
        }
        Ok(hasher.finish())
    }

    /// Everything in the file, holes without reading them; `BrokenPipe` when stopped.
    fn hash(&self, file: &mut File, hasher: &mut FileHasher) -> io::Result<()> {
        let size = file.metadata()?.len();
        let map = holes::map(file, size);
        let all = [Extent { offset: 0, len: u64::MAX }];
        let (mut at, mut buf) = (0, vec![0; 64 << 10]);
        for extent in map.as_ref().map_or(&all[..], |m| m.extents()) {
            hasher.update_zeros(extent.offset - at);
            file.seek(SeekFrom::Start(extent.offset))?;
            let mut data = (&mut *file).take(extent.len);
            loop {
                if self.stop.is_cancelled() {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                match data.read(&mut buf) {
                    Ok(0) => break,
                    Ok(n) => hasher.update(&buf[..n]),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            at = extent.offset.saturating_add(extent.len);
        }
        hasher.update_zeros(size.saturating_sub(at));
        Ok(())
    }
}

/// The first differences, and how many more there are.
#[derive(Default)]
struct Named {
    list: Vec<String>,
    more: u64,
}

impl Named {
    fn add(&mut self, difference: Option<String>) {
        match difference {
            Some(difference) if self.list.len() < MAX_NAMED => self.list.push(difference),
            Some(_) => self.more += 1,
            None => {}
        }
    }

    fn finish(mut self) -> Vec<String> {
        if self.more > 0 {
            self.list.push(format!("{} more", self.more));
        }
        self.list
    }
}

/// Which properties of an entry differ.
fn changes(
    here: &Entry,
    content: &Sha256Digest,
    Record { entry: there, content: expected, .. }: &Record,
) -> Option<String> {
    let mut what = Vec::new();
    if here.kind != there.kind {
        what.push("kind, size or target");
    } else if matches!(there.kind, EntryKind::File { .. }) && content != expected {
        what.push("content");
    }
    // The attributes of a hard link are those of its target.
    if !matches!(there.kind, EntryKind::HardLink { .. }) {
        let (a, b) = (&here.attributes, &there.attributes);
        for (name, differs) in [
            ("mode", a.mode != b.mode),
            ("owner", (a.uid, a.gid) != (b.uid, b.gid)),
            ("modification time", a.mtime != b.mtime),
            ("extended attributes", a.xattrs != b.xattrs),
        ] {
            if differs {
                what.push(name);
            }
        }
    }
    (!what.is_empty()).then(|| format!("'{}' differs in {}", here.path, what.join(", ")))
}
