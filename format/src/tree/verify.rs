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
    entry::{Entry, EntryKind, Tally, Totals},
    path::TreePath,
    read::{Finding, Step, TreeError, TreeReader},
};
use crate::{
    digest::{ContentDigest, Hasher},
    manifest::FilesContents,
};

/// Regular files whose names are remembered, as 8 bytes each, to know whether a hard link leads to one. In a larger
/// tree links to the files beyond are only found missing when they are unpacked.
pub const MAX_LINK_TARGETS: usize = 1 << 20;

/// Findings and module names that are kept; the rest is only counted.
const MAX_LISTED: usize = 1000;

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
    /// File names of jars that lie directly in a directory called `modules`; the first thousand (law L20).
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
        let in_modules = entry.path.parent().is_some_and(|p| p.file_name() == b"modules");
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
        let mut hasher = Hasher::default();
        loop {
            match tar.read_data(&mut buf)? {
                0 => break,
                n => hasher.update(&buf[..n]),
            }
        }
        tally.add(&entry, Some(&hasher.finish()));
    }
    Ok(listing.summary(tally.totals()))
}
