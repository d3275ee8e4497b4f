//! Reads a tar entry by entry, in bounded memory, trusting nothing: what could lead out of the tree or is no part of
//! the format that `write` produces is refused by name, and what cannot be read at all ends the reading.

use std::io::{self, Read};

use super::{
    entry::{Attributes, Entry, EntryKind, Mtime, Xattr},
    header::{BLOCK, Header, MAX_EXTENDED, decode_xattr_name, parse_time, records},
    path::TreePath,
    sparse::{Ahead, MapParser, Pieces, SparseMap},
};

/// The most zeros behind the end of a tar: no program pads to more.
const MAX_END: usize = 1 << 20;

/// Why a tar cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The bytes are no tar, or the tar ends too early.
    #[error("{0}")]
    Malformed(String),
    /// The bytes cannot be had: a damaged gzip stream, a broken disk, a cancelled reader.
    #[error("reading the tar: {0}")]
    Io(#[from] io::Error),
}

/// Something that a tar of a tree does not hold, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The name as it stands in the tar, bytes that are no UTF-8 replaced.
    pub name: String,
    /// What is wrong with it.
    pub problem: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {}", self.name, self.problem)
    }
}

/// What [`TreeReader::next_entry`] came to.
#[derive(Debug)]
pub enum Step {
    /// An entry that is sound by itself; see `verify` for how entries must fit together.
    Entry(Entry),
    /// An entry that must not be unpacked.
    Refused(Finding),
}

/// What [`TreeReader::read_piece`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Bytes read into the buffer, at least one.
    Data(usize),
    /// This many zeros that are not in the tar, at least one; any number, whatever a hostile tar says.
    Hole(u64),
    /// The end of the file.
    End,
}

/// See the module's text.
#[derive(Debug)]
pub struct TreeReader<R: Read> {
    inner: R,
    pieces: Pieces,
    /// Bytes of the entry that are still in the tar.
    left: u64,
    padding: usize,
    ended: bool,
}

impl<R: Read> TreeReader<R> {
    /// Reads from `inner`, which should be buffered.
    pub fn new(inner: R) -> Self {
        Self { inner, pieces: SparseMap::dense(0).pieces(), left: 0, padding: 0, ended: false }
    }

    /// The next entry, skipping what was not read of the one before; `None` at the end of the tar.
    ///
    /// # Errors
    /// When the tar cannot be read on.
    pub fn next_entry(&mut self) -> Result<Option<Step>, TreeError> {
        self.skip_data()?;
        if self.ended {
            return Ok(None);
        }
        let mut extended = Extended::default();
        let mut has_extended = false;
        loop {
            let block = self.block()?;
            if block == [0; BLOCK] {
                if has_extended || self.block()? != [0; BLOCK] {
                    return Err(malformed("the end of the tar is damaged"));
                }
                self.ended = true;
                return self.expect_nothing_more().map(|()| None);
            }
            let header = Header::decode(&block).map_err(TreeError::Malformed)?;
            if header.kind == b'x' && !has_extended {
                extended = Extended::parse(&self.extended_header(header.size)?)?;
                has_extended = true;
                continue;
            }
            let size = extended.size.unwrap_or(header.size);
            self.expect_data(size);
            let map = match &extended.sparse {
                None => Ok(SparseMap::dense(size)),
                // Only a regular file is looked for in its data.
                Some(_) if header.kind != b'0' => Err("holes where only a regular file has any".to_owned()),
                Some(sparse) => self.sparse_map(sparse)?,
            };
            return Ok(Some(step(header, extended, map).map_or_else(Step::Refused, |(entry, map)| {
                self.pieces = map.pieces();
                Step::Entry(entry)
            })));
        }
    }

    /// Reads on in the regular file that [`TreeReader::next_entry`] came to.
    ///
    /// # Errors
    /// When the tar ends before the file does.
    pub fn read_piece(&mut self, buf: &mut [u8]) -> Result<Piece, TreeError> {
        let piece = match self.pieces.ahead() {
            None => Piece::End,
            Some(Ahead::Hole(len)) => Piece::Hole(len),
            Some(Ahead::Data(len)) => {
                let want = usize::try_from(len).unwrap_or(usize::MAX).min(buf.len());
                Piece::Data(self.read_raw(&mut buf[..want])?)
            }
        };
        match piece {
            Piece::Data(n) => self.pieces.advance(n as u64),
            Piece::Hole(len) => self.pieces.advance(len),
            Piece::End => {}
        }
        Ok(piece)
    }

    /// Bytes of the entry as they stand in the tar; 0 at their end.
    fn read_raw(&mut self, buf: &mut [u8]) -> Result<usize, TreeError> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let n = retry(|| self.inner.read(&mut buf[..want]))?;
        if n == 0 {
            return Err(cut());
        }
        self.left -= n as u64;
        Ok(n)
    }

    /// The map that the data of a sparse file begins with, or what is wrong with it.
    fn sparse_map(&mut self, sparse: &Sparse) -> Result<Result<SparseMap, String>, TreeError> {
        let Sparse { major: Some(1), minor: Some(0), name: Some(_), size: Some(size) } = *sparse else {
            return Ok(Err("a sparse file in a form that is not supported".to_owned()));
        };
        let mut parser = MapParser::default();
        loop {
            if self.left < BLOCK as u64 {
                return Ok(Err("a sparse file whose map is cut".to_owned()));
            }
            let block = self.block()?;
            self.left -= BLOCK as u64;
            match parser.block(&block) {
                Ok(false) => {}
                Ok(true) => break,
                Err(problem) => return Ok(Err(problem)),
            }
        }
        Ok(parser.finish(size).and_then(|map| match map.data() == self.left {
            true => Ok(map),
            false => Err("a sparse file whose map is not that of its data".to_owned()),
        }))
    }

    fn expect_data(&mut self, size: u64) {
        (self.left, self.pieces) = (size, SparseMap::dense(0).pieces());
        self.padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
    }

    fn skip_data(&mut self) -> Result<(), TreeError> {
        let mut buf = [0; 8 << 10];
        while self.read_raw(&mut buf)? > 0 {}
        self.inner.read_exact(&mut buf[..std::mem::take(&mut self.padding)]).map_err(cut_or)
    }

    fn block(&mut self) -> Result<[u8; BLOCK], TreeError> {
        let mut block = [0; BLOCK];
        self.inner.read_exact(&mut block).map_err(cut_or)?;
        Ok(block)
    }

    fn extended_header(&mut self, size: u64) -> Result<Vec<u8>, TreeError> {
        if size > MAX_EXTENDED as u64 {
            return Err(malformed("an extended header is larger than any name and attributes can be"));
        }
        let mut data = vec![0; size as usize];
        self.inner.read_exact(&mut data).map_err(cut_or)?;
        self.expect_data(size);
        self.left = 0;
        self.skip_data()?;
        Ok(data)
    }

    /// Some zeros may follow (tars are often padded to 10 KiB); reading them also has gzip check its last checksum.
    fn expect_nothing_more(&mut self) -> Result<(), TreeError> {
        let (mut buf, mut zeros) = ([0; 8 << 10], 0);
        loop {
            match retry(|| self.inner.read(&mut buf))? {
                0 => return Ok(()),
                n if zeros + n <= MAX_END && buf[..n].iter().all(|b| *b == 0) => zeros += n,
                _ => return Err(malformed("there are bytes after the end of the tar")),
            }
        }
    }
}

fn retry(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn malformed(message: &str) -> TreeError {
    TreeError::Malformed(message.to_owned())
}

fn cut() -> TreeError {
    malformed("the tar ends in the middle")
}

fn cut_or(e: io::Error) -> TreeError {
    if e.kind() == io::ErrorKind::UnexpectedEof { cut() } else { TreeError::Io(e) }
}

/// What pax records say in place of the header.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<Mtime>,
    xattrs: Vec<Xattr>,
    sparse: Option<Sparse>,
}

/// What GNU tar says of a sparse file; see `sparse`.
#[derive(Debug, Default)]
struct Sparse {
    major: Option<u32>,
    minor: Option<u32>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extended {
    fn parse(data: &[u8]) -> Result<Self, TreeError> {
        fn decimal<N: std::str::FromStr>(value: &[u8], what: &str) -> Result<Option<N>, TreeError> {
            let text = std::str::from_utf8(value).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
            let number = text.and_then(|t| t.parse().ok());
            number
                .map(Some)
                .ok_or_else(|| TreeError::Malformed(format!("the {what} of an extended header is no number")))
        }
        let mut out = Self::default();
        for record in records(data) {
            let (keyword, value) = record.ok_or_else(|| malformed("an extended header is damaged"))?;
            match keyword {
                b"path" => out.path = Some(value.to_vec()),
                b"linkpath" => out.link = Some(value.to_vec()),
                b"size" => out.size = decimal(value, "size")?,
                b"uid" => out.uid = decimal(value, "owner")?,
                b"gid" => out.gid = decimal(value, "group")?,
                b"mtime" => {
                    let time =
                        parse_time(value).ok_or_else(|| malformed("the time of an extended header is no time"))?;
                    out.mtime = Some(time);
                }
                _ => {
                    if let Some(keyword) = keyword.strip_prefix(b"GNU.sparse.") {
                        let sparse = out.sparse.get_or_insert_default();
                        match keyword {
                            b"major" => sparse.major = decimal(value, "version")?,
                            b"minor" => sparse.minor = decimal(value, "version")?,
                            b"realsize" => sparse.size = decimal(value, "real size")?,
                            b"name" => sparse.name = Some(value.to_vec()),
                            // Those of older versions; the version tells.
                            _ => {}
                        }
                    } else if let Some(name) = decode_xattr_name(keyword) {
                        out.xattrs.push(Xattr { name, value: value.to_vec() });
                    }
                }
            }
        }
        out.xattrs.sort();
        Ok(out)
    }
}

/// The entry and where its data is.
fn step(header: Header, extended: Extended, map: Result<SparseMap, String>) -> Result<(Entry, SparseMap), Finding> {
    // The name in the header of a sparse file is one for programs that know nothing of them.
    let name = extended.sparse.and_then(|s| s.name).or(extended.path).unwrap_or(header.name);
    let link = extended.link.unwrap_or(header.link);
    let entry = || {
        let path = TreePath::parse(&name).map_err(|e| e.to_string())?;
        let map = map?;
        if extended.xattrs.windows(2).any(|w| w[0].name == w[1].name) {
            return Err("an extended attribute comes twice".to_owned());
        }
        if extended.xattrs.iter().any(|x| x.name.is_empty() || x.name.contains(&0)) {
            return Err("an extended attribute without a proper name".to_owned());
        }
        let kind = match header.kind {
            b'0' | 0 | b'7' if !name.ends_with(b"/") => EntryKind::File { size: map.size() },
            b'1' => {
                let target = TreePath::parse(&link).map_err(|e| format!("a hard link to {e}"))?;
                EntryKind::HardLink { target }
            }
            b'2' if link.is_empty() || link.contains(&0) => return Err("a symbolic link without a target".to_owned()),
            b'2' => EntryKind::Symlink { target: link },
            b'3' | b'4' => return Err("a device".to_owned()),
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(format!("an entry of unknown type {:?}", char::from(other))),
        };
        if map.size() > 0 && !matches!(kind, EntryKind::File { .. }) {
            return Err("bytes where only a regular file has any".to_owned());
        }
        let attributes = Attributes {
            mode: header.mode & 0o7777,
            uid: extended.uid.unwrap_or(header.uid),
            gid: extended.gid.unwrap_or(header.gid),
            mtime: extended.mtime.unwrap_or(Mtime { seconds: header.seconds, nanos: 0 }),
            xattrs: extended.xattrs,
        };
        Ok((Entry { path, kind, attributes }, map))
    };
    entry().map_err(|problem| Finding { name: String::from_utf8_lossy(&name).into_owned(), problem })
}
