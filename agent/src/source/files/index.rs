//! What was unpacked, entry by entry in the order of the paths, kept in a file beside the unit's notes: what a check
//! compares the live tree with, and how it knows a file again whose bytes were hashed while they were written.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write as _},
    path::Path,
};

use prexor_format::{
    digest::Sha256Digest,
    tree::{Attributes, Entry, EntryKind, Mtime, TreePath, Xattr},
};
use rustix::fs::Stat;

use super::os;

/// No record is longer: a path, a target and extended attributes.
const MAX_RECORD: u32 = 4 << 20;

/// By which a file is known again. Whatever changes its bytes or attributes also sets the time of its last change, which
/// no call can set back; exchanging the directory it is in leaves it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    inode: u64,
    changed: Mtime,
}

impl Identity {
    pub(super) fn of(stat: &Stat) -> Self {
        Self { inode: stat.st_ino, changed: os::ctime(stat) }
    }
}

/// An entry as it was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) entry: Entry,
    /// Of a regular file's bytes, as [`prexor_format::tree::FileHasher`] takes it.
    pub(super) content: Sha256Digest,
    /// Of a regular file, when its last byte was written and its attributes were set.
    pub(super) identity: Option<Identity>,
}

/// Writes an index.
pub(super) struct IndexWriter {
    file: BufWriter<File>,
    record: Vec<u8>,
}

impl IndexWriter {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: BufWriter::new(File::create(path)?), record: Vec::new() })
    }

    pub(super) fn add(&mut self, record: &Record) -> io::Result<()> {
        self.record.clear();
        encode(record, &mut self.record);
        let len = u32::try_from(self.record.len()).ok().filter(|len| *len <= MAX_RECORD);
        let len = len.ok_or_else(|| io::Error::other("an entry with more than 4 MiB of names and attributes"))?;
        self.file.write_all(&len.to_le_bytes())?;
        self.file.write_all(&self.record)
    }

    /// Brings everything to the disk.
    pub(super) fn finish(self) -> io::Result<()> {
        self.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }
}

/// Reads an index from its begin to its end.
pub(super) struct IndexReader(BufReader<File>);

impl IndexReader {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(BufReader::new(File::open(path)?)))
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        let mut len = [0; 4];
        match self.0.read(&mut len)? {
            0 => return Ok(None),
            n => self.0.read_exact(&mut len[n..])?,
        }
        let len = u32::from_le_bytes(len);
        if len > MAX_RECORD {
            return Err(damaged());
        }
        let mut record = vec![0; len as usize];
        self.0.read_exact(&mut record)?;
        decode(&record).ok_or_else(damaged).map(Some)
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the list of what was unpacked is damaged: start the restore again")
}

fn encode(Record { entry, content, identity }: &Record, out: &mut Vec<u8>) {
    let bytes = |out: &mut Vec<u8>, bytes: &[u8]| {
        // What does not fit is longer than any record may be.
        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    bytes(out, entry.path.as_bytes());
    let (kind, size, target): (u8, u64, &[u8]) = match &entry.kind {
        EntryKind::Directory => (b'd', 0, b""),
        EntryKind::File { size } => (b'f', *size, b""),
        EntryKind::Symlink { target } => (b'l', 0, target),
        EntryKind::HardLink { target } => (b'h', 0, target.as_bytes()),
        EntryKind::Fifo => (b'p', 0, b""),
    };
    out.push(kind);
    out.extend_from_slice(&size.to_le_bytes());
    bytes(out, target);
    let a = &entry.attributes;
    for number in [a.mode, a.uid, a.gid, a.mtime.nanos] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&a.mtime.seconds.to_le_bytes());
    out.extend_from_slice(&content.0);
    out.push(u8::from(identity.is_some()));
    if let Some(Identity { inode, changed }) = identity {
        out.extend_from_slice(&inode.to_le_bytes());
        out.extend_from_slice(&changed.seconds.to_le_bytes());
        out.extend_from_slice(&changed.nanos.to_le_bytes());
    }
    for x in &a.xattrs {
        bytes(out, &x.name);
        bytes(out, &x.value);
    }
}

fn decode(mut rest: &[u8]) -> Option<Record> {
    let rest = &mut rest;
    let path = TreePath::parse(match bytes(rest)? {
        b"" => b".",
        path => path,
    });
    let [kind] = array(rest)?;
    let (size, target) = (u64::from_le_bytes(array(rest)?), bytes(rest)?.to_vec());
    let kind = match kind {
        b'd' => EntryKind::Directory,
        b'f' => EntryKind::File { size },
        b'l' => EntryKind::Symlink { target },
        b'h' => EntryKind::HardLink { target: TreePath::parse(&target).ok()? },
        b'p' => EntryKind::Fifo,
        _ => return None,
    };
    let mut number = || Some(u32::from_le_bytes(array(rest)?));
    let (mode, uid, gid, nanos) = (number()?, number()?, number()?, number()?);
    let mtime = Mtime { seconds: i64::from_le_bytes(array(rest)?), nanos };
    let content = Sha256Digest(array(rest)?);
    let identity = match array(rest)? {
        [0] => None,
        _ => Some(Identity {
            inode: u64::from_le_bytes(array(rest)?),
            changed: Mtime { seconds: i64::from_le_bytes(array(rest)?), nanos: u32::from_le_bytes(array(rest)?) },
        }),
    };
    let mut xattrs = Vec::new();
    while !rest.is_empty() {
        xattrs.push(Xattr { name: bytes(rest)?.to_vec(), value: bytes(rest)?.to_vec() });
    }
    let attributes = Attributes { mode, uid, gid, mtime, xattrs };
    Some(Record { entry: Entry { path: path.ok()?, kind, attributes }, content, identity })
}

fn array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

fn bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = u32::from_le_bytes(array(rest)?);
    let (head, tail) = rest.split_at_checked(len as usize)?;
    *rest = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        let attributes = Attributes {
            mode: 0o6755,
            uid: u32::MAX,
            gid: 7,
            mtime: Mtime { seconds: -1, nanos: 999_999_999 },
            xattrs: vec![
                Xattr { name: b"user.a".to_vec(), value: Vec::new() },
                Xattr { name: b"user.b".to_vec(), value: vec![0xff; 70_000] },
            ],
        };
        let record = |path: &[u8], kind, identity| Record {
            entry: Entry { path: TreePath::parse(path).unwrap(), kind, attributes: attributes.clone() },
            content: Sha256Digest::of(path),
            identity,
        };
        let identity = Some(Identity { inode: u64::MAX, changed: Mtime { seconds: -5, nanos: 1 } });
        vec![
            record(b".", EntryKind::Directory, None),
            record(b"a/\xff", EntryKind::File { size: u64::MAX }, identity),
            record(b"b", EntryKind::HardLink { target: TreePath::parse(b"a/\xff").unwrap() }, None),
            record(b"c", EntryKind::Symlink { target: b"../\xfe".to_vec() }, None),
            record(b"d", EntryKind::Fifo, None),
        ]
    }

    #[test]
    fn what_is_written_is_read_and_a_cut_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let mut writer = IndexWriter::create(&path).unwrap();
        records().iter().for_each(|r| writer.add(r).unwrap());
        writer.finish().unwrap();
        let mut reader = IndexReader::open(&path).unwrap();
        for expected in records() {
            assert_eq!(reader.next().unwrap(), Some(expected));
        }
        assert_eq!(reader.next().unwrap(), None);

        let whole = std::fs::read(&path).unwrap();
        let ends: Vec<usize> = records()
            .iter()
            .scan(0, |at, r| {
                let mut bytes = Vec::new();
                encode(r, &mut bytes);
                *at += 4 + bytes.len();
                Some(*at)
            })
            .collect();
        for len in (1..whole.len()).step_by(97).filter(|len| !ends.contains(len)) {
            std::fs::write(&path, &whole[..len]).unwrap();
            let mut reader = IndexReader::open(&path).unwrap();
            let read: io::Result<Vec<_>> = std::iter::from_fn(|| reader.next().transpose()).collect();
            assert!(read.is_err(), "{len}");
        }
        std::fs::write(&path, [0xff; 64]).unwrap();
        assert!(IndexReader::open(&path).unwrap().next().is_err());
    }
}
