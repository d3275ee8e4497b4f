//! Writes a tree as a POSIX pax tar that plain `tar -x` unpacks: names begin with `./`, as `tar -C root .` writes them.

use std::io::{self, Write};

use super::{
    entry::{Entry, EntryKind, Tally, Totals},
    header::{BLOCK, Header, MAX_EXTENDED, MAX_ID, MAX_SIZE, NAME_FIELD, encode_xattr_name, format_time, push_record},
    path::TreePath,
};
use crate::digest::Hasher;

/// See the module's text. Entries must come in the order of their paths, the root first.
#[derive(Debug)]
pub struct TreeWriter<W: Write> {
    inner: W,
    tally: Tally,
    open: Option<OpenFile>,
}

#[derive(Debug)]
struct OpenFile {
    entry: Entry,
    left: u64,
    hasher: Hasher,
}

impl<W: Write> TreeWriter<W> {
    /// Writes to `inner`, which should be buffered.
    pub fn new(inner: W) -> Self {
        Self { inner, tally: Tally::default(), open: None }
    }

    /// Begins an entry. A regular file's bytes follow by [`TreeWriter::data`], exactly as many as announced.
    ///
    /// # Errors
    /// Those of the inner writer; `InvalidInput` when the file before is not complete, or when the names and
    /// extended attributes take more than [`MAX_EXTENDED`] bytes.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.close()?;
        let (header, extended) = blocks(entry);
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
        match entry.kind {
            EntryKind::File { size } => {
                self.open = Some(OpenFile { entry: entry.clone(), left: size, hasher: Hasher::default() });
            }
            _ => self.tally.add(entry, None),
        }
        Ok(())
    }

    /// The next bytes of the file begun last.
    ///
    /// # Errors
    /// Those of the inner writer; `InvalidInput` for bytes beyond the announced size.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let open = self.open.as_mut().filter(|o| o.left >= bytes.len() as u64);
        let open = open.ok_or_else(|| invalid("more bytes than the file was announced with"))?;
        open.left -= bytes.len() as u64;
        open.hasher.update(bytes);
        self.inner.write_all(bytes)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = (size % BLOCK as u64) as usize;
        if over > 0 { self.inner.write_all(&[0; BLOCK][over..]) } else { Ok(()) }
    }

    fn close(&mut self) -> io::Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        if open.left > 0 {
            return Err(invalid(format!("{}: {} of the announced bytes are missing", open.entry.path, open.left)));
        }
        self.tally.add(&open.entry, Some(&open.hasher.finish()));
        match open.entry.kind {
            EntryKind::File { size } => self.pad(size),
            _ => Ok(()),
        }
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
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message.into())
}

fn spelled(path: &TreePath, directory: bool) -> Vec<u8> {
    let end: &[u8] = if directory && !path.is_root() { b"/" } else { b"" };
    [b"./", path.as_bytes(), end].concat()
}

/// The header of an entry, and the pax records that go before it (empty when the header says it all).
fn blocks(entry: &Entry) -> (Header, Vec<u8>) {
    let a = &entry.attributes;
    let (kind, size, link) = match &entry.kind {
        EntryKind::File { size } => (b'0', *size, Vec::new()),
        EntryKind::HardLink { target } => (b'1', 0, spelled(target, false)),
        EntryKind::Symlink { target } => (b'2', 0, target.clone()),
        EntryKind::Directory => (b'5', 0, Vec::new()),
        EntryKind::Fifo => (b'6', 0, Vec::new()),
    };
    let name = spelled(&entry.path, kind == b'5');
    let mut extended = Vec::new();
    let fits = |name: &[u8]| name.len() <= NAME_FIELD && name.is_ascii();
    if !fits(&name) {
        push_record(&mut extended, b"path", &name);
    }
    if !fits(&link) {
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
    if a.mtime.nanos != 0 || !(0..=MAX_SIZE as i64).contains(&a.mtime.seconds) {
        push_record(&mut extended, b"mtime", format_time(a.mtime).as_bytes());
    }
    if kind != b'1' {
        for x in &a.xattrs {
            push_record(&mut extended, &encode_xattr_name(&x.name), &x.value);
        }
    }
    let header = Header { name, mode: a.mode, uid: a.uid, gid: a.gid, size, seconds: a.mtime.seconds, kind, link };
    (header, extended)
}
