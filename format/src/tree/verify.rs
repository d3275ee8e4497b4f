//! How the entries of a tar must fit together, and the walk over a whole tar that proves it.
//!
//! Entries come in the order of their paths and each in a directory that came before, so nothing comes twice, nothing
//! goes through a symbolic link, and checking takes no memory that grows with the tar (but [`MAX_LINK_TARGETS`]).

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::Read,
};

use super::{
    content::FileHasher,
    entry::{Entry, EntryKind, Tally, Totals},
    path::TreePath,
    read::{Finding, Piece, Step, TreeError, TreeReader},
};
use crate::{digest::ContentDigest, manifest::FilesContents};

/// Regular files whose names are remembered, as 8 bytes each, to know whether a hard link leads to one. In a larger
/// tree links to the files beyond are only found missing when they are unpacked.
pub const MAX_LINK_TARGETS: usize = 1 << 20;

/// Findings and module names that are kept; the rest is only counted.
pub const MAX_LISTED: usize = 1000;

/// Checks each entry against those before it.
#[derive(Debug, Default)]
pub struct Checker {
    last: Option<TreePath>,
    directory: TreePath,
    files: HashSet<u64>,
}

impl Checker {
    /// Takes the next entry; says what is wrong with it, if something is.
    pub fn check(&mut self, entry: &Entry) -> Option<Finding> {
        let problem = self.problem(entry)?;
        Some(Finding { name: entry.path.display().into_owned(), problem })
    }

    fn problem(&mut self, entry: &Entry) -> Option<String> {
        let path = &entry.path;
        let first = self.last.is_none();
        if first != path.is_root() {
            return Some(if first { "comes before the root" } else { "the root comes twice" }.to_owned());
        }
        if self.last.as_ref().is_some_and(|last| path <= last) {
            return Some("comes twice, or not in its place".to_owned());
        }
        if path.is_root() && entry.kind != EntryKind::Directory {
            return Some("the root is no directory".to_owned());
        }
        if let Some(parent) = path.parent() {
            if !self.directory.is_within(&parent) {
                return Some("is in something that is no directory of this tar".to_owned());
            }
            self.directory = parent;
        }
        self.last = Some(path.clone());
        match &entry.kind {
            EntryKind::Directory => self.directory = path.clone(),
            EntryKind::File { .. } if self.files.len() < MAX_LINK_TARGETS => {
                self.files.insert(short_hash(path));
            }
            EntryKind::HardLink { target } => {
                let known = self.files.contains(&short_hash(target)) || self.files.len() >= MAX_LINK_TARGETS;
                if target >= path || !known {
                    return Some(format!("a hard link to '{target}', which is no file that came before"));
                }
            }
            EntryKind::File { .. } | EntryKind::Symlink { .. } | EntryKind::Fifo => {}
        }
        None
    }
}

/// A collision only lets a bad hard link pass here; it is then refused when it is unpacked.
fn short_hash(path: &TreePath) -> u64 {
    let mut h = DefaultHasher::new();
    path.hash(&mut h);
    h.finish()
}

/// What a walk over a tar found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarSummary {
    /// All entries, the root included.
    pub entries: u64,
    /// Regular files, further links to the same file excepted.
    pub files: u64,
    /// Sum of their sizes.
    pub bytes: u64,
    /// As in [`FilesContents::content`].
    pub content: ContentDigest,
    /// What must not be in such a tar; the first thousand.
    pub findings: Vec<Finding>,
    /// File names of jars that lie in a directory called `modules`, or in `artifacts` below it; the first thousand (law L20).
    pub modules: Vec<String>,
}

impl TarSummary {
    /// How the tar differs from what the manifest says, in words; empty when it does not.
    pub fn differences(&self, manifest: &FilesContents) -> Vec<String> {
        let mut out: Vec<String> = self.findings.iter().map(Finding::to_string).collect();
        for (what, found, expected) in [
            ("entries", self.entries, manifest.entries),
            ("files", self.files, manifest.files),
            ("bytes of files", self.bytes, manifest.bytes),
        ] {
            if found != expected {
                out.push(format!("{found} {what}, the manifest says {expected}"));
            }
        }
        if self.content != manifest.content {
            out.push("the content digest differs from the manifest's".to_owned());
        }
        out
    }
}

/// What a walk adds up beside the totals.
#[derive(Debug, Default)]
pub(super) struct Listing {
    findings: Vec<Finding>,
    modules: Vec<String>,
}

impl Listing {
    fn find(&mut self, finding: Finding) {
        if self.findings.len() < MAX_LISTED {
            self.findings.push(finding);
        }
    }

    fn note_module(&mut self, entry: &Entry) {
        let parent =
            entry.path.parent().map(|p| if p.file_name() == b"artifacts" { p.parent().unwrap_or(p) } else { p });
        let in_modules = parent.is_some_and(|p| p.file_name() == b"modules");
        let name = entry.path.file_name();
        let is_file = matches!(entry.kind, EntryKind::File { .. } | EntryKind::HardLink { .. });
        if in_modules && is_file && name.ends_with(b".jar") && self.modules.len() < MAX_LISTED {
            self.modules.push(String::from_utf8_lossy(name).into_owned());
        }
    }

    fn summary(self, totals: Totals) -> TarSummary {
        let Totals { entries, files, bytes, content } = totals;
        TarSummary { entries, files, bytes, content, findings: self.findings, modules: self.modules }
    }
}

/// Walks a whole (uncompressed) tar. What is wrong with single entries is among the findings.
///
/// # Errors
/// When the tar cannot be read to its end; also when `reader` fails, which is how a caller cancels.
pub fn verify_tar<R: Read>(reader: R) -> Result<TarSummary, TreeError> {
    let mut tar = TreeReader::new(reader);
    let (mut checker, mut tally, mut listing) = (Checker::default(), Tally::default(), Listing::default());
    let mut buf = vec![0; 64 << 10];
    while let Some(step) = tar.next_entry()? {
        let entry = match step {
            Step::Entry(entry) => entry,
            Step::Refused(finding) => {
                listing.find(finding);
                continue;
            }
        };
        if let Some(finding) = checker.check(&entry) {
            listing.find(finding);
        }
        listing.note_module(&entry);
        let mut hasher = FileHasher::default();
        loop {
            match tar.read_piece(&mut buf)? {
                Piece::Data(n) => hasher.update(&buf[..n]),
                Piece::Hole(zeros) => hasher.update_zeros(zeros),
                Piece::End => break,
            }
        }
        tally.add(&entry, Some(&hasher.finish()));
    }
    Ok(listing.summary(tally.totals()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::{Attributes, Extent, Mtime, SparseMap, TreeWriter, Xattr};

    fn entry(path: &str, kind: EntryKind) -> Entry {
        let xattrs = vec![Xattr { name: b"user.a=b".to_vec(), value: b"line\nbreak\0".to_vec() }];
        let mtime = Mtime { seconds: -2, nanos: 1 };
        let attributes = Attributes { mode: 0o4755, uid: u32::MAX - 1, gid: 5, mtime, xattrs };
        Entry { path: TreePath::parse(path.as_bytes()).unwrap(), kind, attributes }
    }

    /// Entries of every kind with everything that needs pax records, and what their files hold.
    fn entries() -> Vec<(Entry, Vec<u8>)> {
        let long = "n".repeat(255);
        let file = |path: &str, size: usize| (entry(path, EntryKind::File { size: size as u64 }), vec![7; size]);
        let other = |path: &str, kind| (entry(path, kind), Vec::new());
        let target = TreePath::parse(long.as_bytes()).unwrap();
        let mut out = vec![
            other(".", EntryKind::Directory),
            other("d", EntryKind::Directory),
            file("d/512", 512),
            file("d/empty", 0),
            other("d/modules", EntryKind::Directory),
            file("d/modules/a.jar", 1000),
            other("d/pipe", EntryKind::Fifo),
            file(&long, 513),
            other("z", EntryKind::HardLink { target }),
            other("zz", EntryKind::Symlink { target: vec![b't'; 300] }),
        ];
        let mut odd = entry("zzz", EntryKind::File { size: 0 });
        odd.path = TreePath::parse(b"zzz\xff\xfe").unwrap();
        out.push((odd, Vec::new()));
        out
    }

    fn written(entries: &[(Entry, Vec<u8>)]) -> (Vec<u8>, Totals) {
        let mut w = TreeWriter::new(Vec::new());
        for (e, data) in entries {
            w.entry(e).unwrap();
            data.chunks(100).for_each(|c| w.data(c).unwrap());
        }
        w.finish().unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let entries = entries();
        let (tar, totals) = written(&entries);
        let mut reader = TreeReader::new(&tar[..]);
        for (expected, data) in &entries {
            let Some(Step::Entry(found)) = reader.next_entry().unwrap() else { panic!("{expected:?}") };
            let mut seen = expected.clone();
            if matches!(seen.kind, EntryKind::HardLink { .. }) {
                seen.attributes.xattrs.clear();
            }
            assert_eq!(found, seen);
            let (mut all, mut buf) = (Vec::new(), [0; 77]);
            while let Piece::Data(n) = reader.read_piece(&mut buf).unwrap() {
                all.extend_from_slice(&buf[..n]);
            }
            assert_eq!(&all, data);
        }
        assert!(reader.next_entry().unwrap().is_none());
        let summary = verify_tar(&tar[..]).unwrap();
        assert_eq!((summary.entries, summary.bytes, summary.content), (totals.entries, totals.bytes, totals.content));
        assert_eq!(summary.modules, ["a.jar"]);
        assert!(summary.findings.is_empty(), "{:?}", summary.findings);
    }

    /// A root and a file of 9 GiB with five pieces of data.
    fn sparse() -> (Entry, SparseMap, Vec<u8>, Totals) {
        let size = 9 << 30;
        let (root, file) = (entry(".", EntryKind::Directory), entry("s", EntryKind::File { size }));
        let extents = [(512, 512), (1024, 1024), (100_352, 512), (1 << 33, 512), (size - 7, 7)];
        let extents = extents.map(|(offset, len)| Extent { offset, len }).to_vec();
        let map = SparseMap::new(extents, size).unwrap();
        let mut w = TreeWriter::new(Vec::new());
        w.entry(&root).unwrap();
        w.sparse(&file, map.clone()).unwrap();
        assert_eq!(w.data(&vec![7; map.data() as usize + 1]).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
        let mut w = TreeWriter::new(Vec::new());
        w.entry(&root).unwrap();
        w.sparse(&file, map.clone()).unwrap();
        vec![7; map.data() as usize].chunks(100).for_each(|c| w.data(c).unwrap());
        let (tar, totals) = w.finish().unwrap();
        (file, map, tar, totals)
    }

    #[test]
    fn holes_are_read_as_they_were_written() {
        let (file, map, tar, totals) = sparse();
        assert!(tar.len() < 10_000);
        let mut reader = TreeReader::new(&tar[..]);
        reader.next_entry().unwrap();
        assert!(matches!(reader.next_entry().unwrap(), Some(Step::Entry(e)) if e == file));
        let (mut extents, mut at, mut buf) = (Vec::<Extent>::new(), 0, [0; 77]);
        loop {
            match reader.read_piece(&mut buf).unwrap() {
                Piece::End => break,
                Piece::Hole(n) => at += n,
                Piece::Data(n) => {
                    assert!(buf[..n].iter().all(|b| *b == 7));
                    match extents.last_mut().filter(|e| e.offset + e.len == at) {
                        Some(e) => e.len += n as u64,
                        None => extents.push(Extent { offset: at, len: n as u64 }),
                    }
                    at += n as u64;
                }
            }
        }
        // Neighbours came as one.
        assert_eq!(extents[0], Extent { offset: 512, len: 1536 });
        assert_eq!((extents.iter().map(|e| e.len).sum::<u64>(), at), (map.data(), map.size()));
        let summary = verify_tar(&tar[..]).unwrap();
        assert_eq!((summary.bytes, summary.content), (9 << 30, totals.content));
        assert!(summary.findings.is_empty(), "{:?}", summary.findings);
    }

    #[test]
    fn holes_do_not_change_the_content_digest() {
        let file = entry("s", EntryKind::File { size: 300_000 });
        let map = SparseMap::new(vec![Extent { offset: 100_352, len: 512 }], 300_000).unwrap();
        let (mut sparse, mut dense) = (TreeWriter::new(Vec::new()), TreeWriter::new(Vec::new()));
        for w in [&mut sparse, &mut dense] {
            w.entry(&entry(".", EntryKind::Directory)).unwrap();
        }
        sparse.sparse(&file, map).unwrap();
        sparse.data(&[7; 512]).unwrap();
        dense.entry(&file).unwrap();
        let mut bytes = vec![0; 300_000];
        bytes[100_352..100_864].fill(7);
        bytes.chunks(1000).for_each(|c| dense.data(c).unwrap());
        let ((sparse, a), (dense, b)) = (sparse.finish().unwrap(), dense.finish().unwrap());
        assert_eq!(a, b);
        assert_eq!(verify_tar(&sparse[..]).unwrap(), verify_tar(&dense[..]).unwrap());
    }

    #[test]
    fn sparse_files_in_other_forms_are_found() {
        let (_, _, tar, _) = sparse();
        let changed = |from: &[u8], to: &[u8]| {
            let at = tar.windows(from.len()).position(|w| w == from).unwrap();
            let mut tar = tar.clone();
            tar[at..at + from.len()].copy_from_slice(to);
            verify_tar(&tar[..])
        };
        for (from, to, problem) in [
            ("sparse.major=1", "sparse.major=0", "not supported"),
            ("sparse.minor=0", "sparse.minor=1", "not supported"),
            ("GNU.sparse.name", "GNU.sparse.nama", "not supported"),
            ("realsize=9663676416", "realsize=0000000001", "behind its end"),
            ("\n1024\n1024\n", "\n0024\n1024\n", "overlap"),
            ("\n1024\n1024\n", "\n1024\n0512\n", "not that of its data"),
            ("\n1024\n1024\n", "\n1024\n1023\n", "middle of a block"),
            ("6\n512\n512\n", "9\n512\n512\n", "damaged"),
            ("6\n512\n512\n", "6\n512-512\n", "damaged"),
        ] {
            let findings = changed(from.as_bytes(), to.as_bytes()).unwrap().findings;
            assert!(findings.iter().any(|f| f.problem.contains(problem)), "{to}: {findings:?}");
        }
    }

    #[test]
    fn entries_out_of_place_are_found() {
        let all = entries();
        for (order, problem) in [
            (&[0, 2][..], "no directory of this tar"),
            (&[0, 1, 2, 2], "comes twice"),
            (&[0, 3, 1], "no directory of this tar"),
            (&[0, 9, 7], "not in its place"),
            (&[0, 8], "no file that came before"),
            (&[1], "before the root"),
            (&[0, 0], "the root comes twice"),
        ] {
            let some: Vec<_> = order.iter().map(|i| all[*i].clone()).collect();
            let findings = verify_tar(&written(&some).0[..]).unwrap().findings;
            assert!(findings.iter().any(|f| f.problem.contains(problem)), "{order:?}: {findings:?}");
        }
    }

    #[test]
    fn every_cut_and_every_tail_is_found() {
        let (tar, _) = written(&entries());
        for len in (0..tar.len()).step_by(64) {
            assert!(matches!(verify_tar(&tar[..len]), Err(TreeError::Malformed(_))), "{len}");
        }
        assert!(verify_tar(&[&tar[..], &[0; 10_240]].concat()[..]).is_ok());
        assert!(verify_tar(&[&tar[..], b"x"].concat()[..]).is_err());
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in any::<prop::sample::Index>(), byte: u8, more in any::<prop::sample::Index>(), other: u8) {
            let (mut tar, _) = written(&entries());
            tar.splice(tar.len() - 1024.., sparse().2);
            let (a, b) = (at.index(tar.len()), more.index(tar.len()));
            tar[a] = byte;
            tar[b] = other;
            let _ = verify_tar(&tar[..]);
            // With the checksum put right, the damage gets further.
            let header = a / 512 * 512;
            let block = &mut tar[header..header + 512];
            block[148..156].fill(b' ');
            let sum: u64 = block.iter().map(|c| u64::from(*c)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            let _ = verify_tar(&tar[..]);
        }

        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..4096)) {
            let _ = verify_tar(&noise[..]);
        }
    }
}
