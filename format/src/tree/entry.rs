//! One entry of a tree: what it is and everything about it that a restore brings back.

use serde::{Deserialize, Serialize};

use super::path::TreePath;
use crate::digest::{ContentDigest, ContentHasher, Order, Sha256Digest};

/// A time of modification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Mtime {
    /// Seconds since the epoch; negative before it.
    pub seconds: i64,
    /// Nanoseconds after that second, below 10^9.
    pub nanos: u32,
}

/// An extended attribute. ACLs are `system.posix_acl_access` and `system.posix_acl_default` in the kernel's encoding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Xattr {
    /// With its namespace: `user.origin`.
    pub name: Vec<u8>,
    /// Any bytes.
    pub value: Vec<u8>,
}

/// Owner, mode and time of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attributes {
    /// Permissions with setuid, setgid and sticky: twelve bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last modification.
    pub mtime: Mtime,
    /// Sorted by name, each name once.
    pub xattrs: Vec<Xattr>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, any bytes; not looked at.
        target: Vec<u8>,
    },
    /// A further name of a regular file that came before.
    HardLink {
        /// The first name of that file in the order of the tree.
        target: TreePath,
    },
    /// A named pipe.
    Fifo,
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub path: TreePath,
    /// What it is.
    pub kind: EntryKind,
    /// Its attributes; those of a hard link are its target's and not looked at.
    pub attributes: Attributes,
}

/// The bytes that stand for an entry in a tree's content digest, `content` being the digest of a regular file's bytes, holes
/// included, as [`super::FileHasher`] takes it.
///
/// Lengths and numbers are little-endian: length of the path (u32), path, kind (`d f l h p`); for a hard link then the
/// length of the target (u32) and the target; for everything else mode, uid, gid (u32 each), seconds (i64) and
/// nanoseconds (u32) of the modification, the number of extended attributes (u32), each as length (u32) and bytes of
/// name and value; then size (u64) and digest of a file ([`super::FileHasher`]), or length (u32) and bytes of a symbolic link's target.
pub fn entry_digest_input(entry: &Entry, content: Option<&Sha256Digest>) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + entry.path.as_bytes().len());
    let field = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    field(&mut out, entry.path.as_bytes());
    if let EntryKind::HardLink { target } = &entry.kind {
        out.push(b'h');
        field(&mut out, target.as_bytes());
        return out;
    }
    out.push(match entry.kind {
        EntryKind::Directory => b'd',
        EntryKind::File { .. } => b'f',
        EntryKind::Symlink { .. } => b'l',
        EntryKind::HardLink { .. } => b'h',
        EntryKind::Fifo => b'p',
    });
    let a = &entry.attributes;
    for number in [a.mode, a.uid, a.gid] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&a.mtime.seconds.to_le_bytes());
    out.extend_from_slice(&a.mtime.nanos.to_le_bytes());
    out.extend_from_slice(&u32::try_from(a.xattrs.len()).unwrap_or(u32::MAX).to_le_bytes());
    for x in &a.xattrs {
        field(&mut out, &x.name);
        field(&mut out, &x.value);
    }
    match &entry.kind {
        EntryKind::File { size } => {
            out.extend_from_slice(&size.to_le_bytes());
            out.extend_from_slice(content.map_or(&[0; 32], |c| &c.0));
        }
        EntryKind::Symlink { target } => field(&mut out, target),
        EntryKind::Directory | EntryKind::HardLink { .. } | EntryKind::Fifo => {}
    }
    out
}

/// The figures of a tree, as the manifest records them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Everything, the root included.
    pub entries: u64,
    /// Regular files, each counted once.
    pub files: u64,
    /// Sum of their sizes.
    pub bytes: u64,
    /// Over [`entry_digest_input`] of each entry, as a multiset.
    pub content: ContentDigest,
}

/// Adds entries up to [`Totals`]. Every reader and writer of trees counts with this one.
#[derive(Debug, Clone)]
pub struct Tally {
    entries: u64,
    files: u64,
    bytes: u64,
    content: ContentHasher,
}

impl Default for Tally {
    fn default() -> Self {
        Self { entries: 0, files: 0, bytes: 0, content: ContentHasher::new(Order::Multiset) }
    }
}

impl Tally {
    /// Adds an entry; `content` is the digest of a regular file's bytes.
    pub fn add(&mut self, entry: &Entry, content: Option<&Sha256Digest>) {
        self.entries += 1;
        if let EntryKind::File { size } = entry.kind {
            self.files += 1;
            self.bytes = self.bytes.saturating_add(size);
        }
        self.content.add(&entry_digest_input(entry, content));
    }

    /// The sums.
    pub fn totals(&self) -> Totals {
        Totals { entries: self.entries, files: self.files, bytes: self.bytes, content: self.content.clone().finish() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_property_counts() {
        let base = Entry {
            path: TreePath::parse(b"a").unwrap(),
            kind: EntryKind::File { size: 1 },
            attributes: Attributes { mode: 0o644, ..Attributes::default() },
        };
        let content = Sha256Digest::of(b"x");
        let mut seen = vec![entry_digest_input(&base, Some(&content))];
        let mut differs = |change: &dyn Fn(&mut Entry), content: &Sha256Digest| {
            let mut e = base.clone();
            change(&mut e);
            let input = entry_digest_input(&e, Some(content));
            assert!(!seen.contains(&input), "{e:?}");
            seen.push(input);
        };
        differs(&|_| (), &Sha256Digest::of(b"y"));
        differs(&|e| e.path = TreePath::parse(b"b").unwrap(), &content);
        differs(&|e| e.kind = EntryKind::File { size: 2 }, &content);
        differs(&|e| e.kind = EntryKind::Fifo, &content);
        differs(&|e| e.kind = EntryKind::Directory, &content);
        differs(&|e| e.kind = EntryKind::Symlink { target: b"t".to_vec() }, &content);
        differs(&|e| e.kind = EntryKind::HardLink { target: TreePath::root() }, &content);
        differs(&|e| e.attributes.mode = 0o4644, &content);
        differs(&|e| e.attributes.uid = 7, &content);
        differs(&|e| e.attributes.gid = 7, &content);
        differs(&|e| e.attributes.mtime.seconds = -1, &content);
        differs(&|e| e.attributes.mtime.nanos = 1, &content);
        differs(&|e| e.attributes.xattrs = vec![Xattr { name: b"user.a".to_vec(), value: vec![] }], &content);
    }
}
