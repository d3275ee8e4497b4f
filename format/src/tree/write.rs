//! Writes a tree as a POSIX pax tar that plain `tar -x` unpacks: names begin with `./`, as `tar -C root .` writes them.

use std::{
    collections::HashMap,
    io::{self, Write},
};

use super::{
    acl,
    content::FileHasher,
    entry::{Entry, EntryKind, Tally, Totals},
    header::{
        BLOCK, Header, MAX_EXTENDED, MAX_ID, MAX_OWNER, MAX_SIZE, NAME_FIELD, encode_xattr_name, format_time,
        push_record,
    },
    path::TreePath,
    sparse::{Ahead, Pieces, SparseMap},
};

/// The names that stand in a tar beside the numbers of owners and groups. A restore of ours goes by the numbers.
#[derive(Debug, Clone, Default)]
pub struct Owners {
    /// By uid.
    pub users: HashMap<u32, Vec<u8>>,
    /// By gid.
    pub groups: HashMap<u32, Vec<u8>>,
}

/// See the module's text. Entries must come in the order of their paths, the root first.
#[derive(Debug)]
pub struct TreeWriter<W: Write> {
    inner: W,
    owners: Owners,
    tally: Tally,
    open: Option<OpenFile>,
}

#[derive(Debug)]
struct OpenFile {
    entry: Entry,
    pieces: Pieces,
    /// Bytes of data that follow the header, for the padding.
    data: u64,
    hasher: FileHasher,
}

impl<W: Write> TreeWriter<W> {
    /// Writes to `inner`, which should be buffered.
    pub fn new(inner: W) -> Self {
        Self::with_owners(inner, Owners::default())
    }

    /// [`TreeWriter::new`], with the names of owners and groups.
    pub fn with_owners(inner: W, owners: Owners) -> Self {
        Self { inner, owners, tally: Tally::default(), open: None }
    }

    /// Begins an entry. A regular file's bytes follow by [`TreeWriter::data`], exactly as many as announced.
    ///
    /// # Errors
    /// Those of the inner writer; `InvalidInput` when the file before is not complete, or when the names and
    /// extended attributes take more than [`MAX_EXTENDED`] bytes.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        let map = match entry.kind {
            EntryKind::File { size } => SparseMap::dense(size),
            _ => SparseMap::dense(0),
        };
        self.begin(entry, map, false)
    }

    /// Begins a regular file with holes. The bytes of its extents follow by [`TreeWriter::data`], one after the other.
    ///
    /// # Errors
    /// Those of [`TreeWriter::entry`]; `InvalidInput` when the map is not one of this file.
    pub fn sparse(&mut self, entry: &Entry, map: SparseMap) -> io::Result<()> {
        if entry.kind != (EntryKind::File { size: map.size() }) {
            return Err(invalid(format!("{}: the map is not that of this file", entry.path)));
        }
        self.begin(entry, map, true)
    }

    fn begin(&mut self, entry: &Entry, map: SparseMap, sparse: bool) -> io::Result<()> {
        self.close()?;
        let encoded = if sparse { map.encode() } else { Vec::new() };
        let data = map.data();
        let (header, extended) = self.blocks(entry, encoded.len() as u64 + data, sparse);
        if extended.len() > MAX_EXTENDED {
            return Err(invalid(format!("{}: its name and extended attributes are too long for a tar", entry.path)));
        }
        if !extended.is_empty() {
            let before = Header {
                name: b"./PaxHeaders/entry".to_vec(),
                mode: 0o600,
                size: extended.len() as u64,
                kind: b'x',
                ..Header::default()
            };
            self.inner.write_all(&before.encode())?;
            self.inner.write_all(&extended)?;
            self.pad(extended.len() as u64)?;
        }
        self.inner.write_all(&header.encode())?;
        self.inner.write_all(&encoded)?;
        match entry.kind {
            EntryKind::File { .. } => {
                let (entry, pieces) = (entry.clone(), map.pieces());
                self.open = Some(OpenFile { entry, pieces, data, hasher: FileHasher::default() });
            }
            _ => self.tally.add(entry, None),
        }
        Ok(())
    }

    /// The next bytes of the file begun last.
    ///
    /// # Errors
    /// Those of the inner writer; `InvalidInput` for bytes beyond the announced size.
    pub fn data(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let beyond = || invalid("more bytes than the file was announced with");
        let open = self.open.as_mut().ok_or_else(beyond)?;
        while !bytes.is_empty() {
            let left = open.skip_hole().ok_or_else(beyond)?;
            let (now, later) = bytes.split_at(usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len()));
            open.pieces.advance(now.len() as u64);
            open.hasher.update(now);
            self.inner.write_all(now)?;
            bytes = later;
        }
        Ok(())
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = (size % BLOCK as u64) as usize;
        if over > 0 { self.inner.write_all(&[0; BLOCK][over..]) } else { Ok(()) }
    }

    fn close(&mut self) -> io::Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if let Some(left) = open.skip_hole() {
            return Err(invalid(format!("{}: at least {left} of the announced bytes are missing", open.entry.path)));
        }
        self.tally.add(&open.entry, Some(&open.hasher.finish()));
        self.pad(open.data)
    }

    /// Ends the tar and hands back the inner writer and what was written.
    ///
    /// # Errors
    /// Those of the inner writer; `InvalidInput` when the last file is not complete.
    pub fn finish(mut self) -> io::Result<(W, Totals)> {
        self.close()?;
        self.inner.write_all(&[0; 2 * BLOCK])?;
        self.inner.flush()?;
        Ok((self.inner, self.tally.totals()))
    }

    /// The header of an entry with `size` bytes behind it, and the pax records that go before it (empty when the header
    /// says it all).
    fn blocks(&self, entry: &Entry, size: u64, sparse: bool) -> (Header, Vec<u8>) {
        let a = &entry.attributes;
        let (kind, link) = match &entry.kind {
            EntryKind::File { .. } => (b'0', Vec::new()),
            EntryKind::HardLink { target } => (b'1', spelled(target, false)),
            EntryKind::Symlink { target } => (b'2', target.clone()),
            EntryKind::Directory => (b'5', Vec::new()),
            EntryKind::Fifo => (b'6', Vec::new()),
        };
        let mut name = spelled(&entry.path, kind == b'5');
        let mut extended = Vec::new();
        let fits = |name: &[u8], field: usize| name.len() <= field && name.is_ascii();
        if sparse {
            push_record(&mut extended, b"GNU.sparse.major", b"1");
            push_record(&mut extended, b"GNU.sparse.minor", b"0");
            push_record(&mut extended, b"GNU.sparse.name", &name);
            if let EntryKind::File { size } = entry.kind {
                push_record(&mut extended, b"GNU.sparse.realsize", size.to_string().as_bytes());
            }
            // Where programs that know nothing of sparse files put the map and the data.
            let parent = spelled(&entry.path.parent().unwrap_or_default(), true);
            name = [parent.as_slice(), b"GNUSparseFile.0/", entry.path.file_name()].concat();
        } else if !fits(&name, NAME_FIELD) {
            push_record(&mut extended, b"path", &name);
        }
        if !fits(&link, NAME_FIELD) {
            push_record(&mut extended, b"linkpath", &link);
        }
        if size > MAX_SIZE {
            push_record(&mut extended, b"size", size.to_string().as_bytes());
        }
        for (keyword, id) in [(b"uid", a.uid), (b"gid", a.gid)] {
            if id > MAX_ID {
                push_record(&mut extended, keyword, id.to_string().as_bytes());
            }
        }
        let name_of = |names: &HashMap<u32, Vec<u8>>, id| names.get(&id).cloned().unwrap_or_default();
        let (user, group) = (name_of(&self.owners.users, a.uid), name_of(&self.owners.groups, a.gid));
        for (keyword, name) in [(b"uname", &user), (b"gname", &group)] {
            if !fits(name, MAX_OWNER) {
                push_record(&mut extended, keyword, name);
            }
        }
        if a.mtime.nanos != 0 || !(0..=MAX_SIZE as i64).contains(&a.mtime.seconds) {
            push_record(&mut extended, b"mtime", format_time(a.mtime).as_bytes());
        }
        if kind != b'1' {
            for x in &a.xattrs {
                push_record(&mut extended, &encode_xattr_name(&x.name), &x.value);
                if let (Some(keyword), Some(text)) = (acl::keyword(&x.name), acl::text(&x.value)) {
                    push_record(&mut extended, keyword, &text);
                }
            }
        }
        let (mode, uid, gid, seconds) = (a.mode, a.uid, a.gid, a.mtime.seconds);
        (Header { name, mode, uid, gid, size, seconds, kind, link, user, group }, extended)
    }
}

impl OpenFile {
    /// Passes by a hole; the bytes of data that follow, or `None` at the end of the file.
    fn skip_hole(&mut self) -> Option<u64> {
        loop {
            match self.pieces.ahead()? {
                Ahead::Data(left) => return Some(left),
                Ahead::Hole(len) => {
                    self.hasher.update_zeros(len);
                    self.pieces.advance(len);
                }
            }
        }
    }
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message.into())
}

fn spelled(path: &TreePath, directory: bool) -> Vec<u8> {
    let end: &[u8] = if directory && !path.is_root() { b"/" } else { b"" };
    [b"./", path.as_bytes(), end].concat()
}
