//! Compares a tree on disk with what an archive holds: by the content digest, and entry by entry when that differs.

use std::{
    cmp::Ordering,
    fs::File,
    io::{self, BufReader, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use prexor_format::{
    digest::Sha256Digest,
    gzip,
    tree::{Entry, Extent, FileHasher, Piece, Step, Tally, Totals, TreeReader},
};
use tokio_util::sync::CancellationToken;

use super::{
    holes,
    policy::{self, Rules},
    walk::{Found, Walk},
};
use crate::source::SourceError;

/// Differences that are named; the rest is counted.
const MAX_NAMED: usize = 20;

/// What is compared with what.
pub(super) struct Comparison<'a> {
    /// The tree on disk.
    pub(super) tree: &'a Path,
    /// What of it does not count.
    pub(super) rules: &'a Rules,
    /// What it should add up to.
    pub(super) expected: &'a Totals,
    /// The tar.gz with the single entries; only read when there are differences to name.
    pub(super) archive: &'a Path,
    /// Ends the comparison.
    pub(super) stop: &'a CancellationToken,
}

/// An entry with the digest of a regular file's bytes.
type Item = (Entry, Sha256Digest);

impl Comparison<'_> {
    /// How the tree differs, in words; empty when it does not. Blocking.
    pub(super) fn differences(&self) -> Result<Vec<String>, SourceError> {
        let mut tally = Tally::default();
        for item in self.on_disk()? {
            let (entry, content) = item?;
            tally.add(&entry, Some(&content));
        }
        if tally.totals() == *self.expected {
            return Ok(Vec::new());
        }
        let mut named = self.name_differences()?;
        if named.is_empty() {
            named.push("the content digests differ".to_owned());
        }
        Ok(named)
    }

    fn failed(&self, what: &Path, e: impl std::fmt::Display) -> SourceError {
        SourceError::Failed(format!("comparing the trees: {}: {e}", what.display()))
    }

    fn on_disk(&self) -> Result<impl Iterator<Item = Result<Item, SourceError>>, SourceError> {
        let walk = Walk::new(self.tree, self.rules).map_err(|e| self.failed(self.tree, e))?;
        Ok(walk.filter_map(|found| match found {
            // What a walk cannot take is missing among the entries.
            Found::Note { .. } => None,
            Found::Entry { entry, file } => Some(self.digest(file).map(|content| (entry, content))),
        }))
    }

    fn digest(&self, file: Option<File>) -> Result<Sha256Digest, SourceError> {
        let mut hasher = FileHasher::default();
        if let Some(mut file) = file {
            self.hash(&mut file, &mut hasher).map_err(|e| match e.kind() {
                io::ErrorKind::BrokenPipe => SourceError::Cancelled,
                _ => self.failed(self.tree, e),
            })?;
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

    fn in_archive(&self) -> Result<impl Iterator<Item = Result<Item, SourceError>>, SourceError> {
        let file = File::open(self.archive).map_err(|e| self.failed(self.archive, e))?;
        let mut tar = TreeReader::new(BufReader::new(gzip::reader(BufReader::new(file))));
        let mut buf = vec![0; 64 << 10];
        let mut next = move || loop {
            let entry = match tar.next_entry()? {
                None => return Ok(None),
                Some(Step::Entry(entry)) if policy::is_restored(&entry.path) => entry,
                Some(_) => continue,
            };
            let mut hasher = FileHasher::default();
            loop {
                match tar.read_piece(&mut buf)? {
                    Piece::Data(n) => hasher.update(&buf[..n]),
                    Piece::Hole(zeros) => hasher.update_zeros(zeros),
                    Piece::End => return Ok(Some((entry, hasher.finish()))),
                }
            }
        };
        Ok(std::iter::from_fn(move || {
            next().map_err(|e: prexor_format::tree::TreeError| self.failed(self.archive, e)).transpose()
        }))
    }

    /// Both come in the order of their paths, so this takes no memory.
    fn name_differences(&self) -> Result<Vec<String>, SourceError> {
        let (mut disk, mut archive) = (self.on_disk()?, self.in_archive()?);
        let (mut here, mut there) = (disk.next().transpose()?, archive.next().transpose()?);
        let (mut named, mut more) = (Vec::new(), 0u64);
        loop {
            if self.stop.is_cancelled() {
                return Err(SourceError::Cancelled);
            }
            let order = match (&here, &there) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.path.cmp(&b.path),
            };
            let difference = match (order, &here, &there) {
                (Ordering::Less, Some((a, _)), _) => Some(format!("'{}' is not in the backup", a.path)),
                (Ordering::Greater, _, Some((b, _))) => Some(format!("'{}' is missing", b.path)),
                (_, Some(a), Some(b)) => changes(a, b),
                _ => None,
            };
            match difference {
                Some(difference) if named.len() < MAX_NAMED => named.push(difference),
                Some(_) => more += 1,
                None => {}
            }
            if order.is_le() {
                here = disk.next().transpose()?;
            }
            if order.is_ge() {
                there = archive.next().transpose()?;
            }
        }
        if more > 0 {
            named.push(format!("{more} more"));
        }
        Ok(named)
    }
}

/// Which properties of an entry differ.
fn changes((here, content): &Item, (there, expected): &Item) -> Option<String> {
    use prexor_format::tree::EntryKind;
    let mut what = Vec::new();
    if here.kind != there.kind {
        what.push("kind, size or target");
    } else if content != expected {
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
