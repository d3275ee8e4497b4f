//! Files with holes, as GNU tar keeps them in a pax archive ("PAX Format, Version 1.0" in "Storing Sparse Files" of its
//! manual): the pax records name the file and its size, and its data begins with a map of where the data belongs.

use super::header::BLOCK;

/// The most pieces of data that a file may be kept in: readers keep the map in memory. What lies behind the last one
/// is kept with its zeros.
pub const MAX_EXTENTS: usize = 1 << 16;

/// The largest size of a file that the kernel knows.
const MAX_OFFSET: u64 = i64::MAX as u64;

/// A piece of a file that is no hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Where the data of a file is; the rest of it is zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparseMap {
    extents: Vec<Extent>,
    size: u64,
}

impl SparseMap {
    /// Checks that the extents of a file of `size` bytes come in order, do not overlap and end within it, and that all
    /// but the last are whole blocks of 512 bytes: GNU tar pads each to that, other readers none.
    ///
    /// # Errors
    /// Says in words what is wrong with them.
    pub fn new(extents: Vec<Extent>, size: u64) -> Result<Self, String> {
        if extents.len() > MAX_EXTENTS {
            return Err("a sparse file in too many pieces".to_owned());
        }
        if size > MAX_OFFSET {
            return Err("a sparse file larger than any file can be".to_owned());
        }
        let (mut end, mut whole) = (0, true);
        let mut kept = Vec::with_capacity(extents.len());
        for e in extents {
            let Some(next) = e.offset.checked_add(e.len).filter(|n| *n <= size) else {
                return Err("a sparse file with data behind its end".to_owned());
            };
            if e.offset < end {
                return Err("a sparse file whose pieces overlap".to_owned());
            }
            if e.len > 0 {
                if !whole {
                    return Err("a sparse file with a piece that is cut in the middle of a block".to_owned());
                }
                whole = e.len % BLOCK as u64 == 0;
                end = next;
                kept.push(e);
            }
        }
        Ok(Self { extents: kept, size })
    }

    /// A file without holes.
    pub(super) fn dense(size: u64) -> Self {
        Self { extents: vec![Extent { offset: 0, len: size }], size }
    }

    /// Where there is data.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The file's bytes, holes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes that are no holes.
    pub fn data(&self) -> u64 {
        self.extents.iter().map(|e| e.len).sum()
    }

    /// As it stands before the data: the number of pieces, offset and length of each, every number on a line, padded
    /// to whole blocks. As in GNU tar's own, a last piece of no bytes stands for the end of the file.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = format!("{}\n", self.extents.len() + 1).into_bytes();
        for e in self.extents.iter().chain([&Extent { offset: self.size, len: 0 }]) {
            out.extend_from_slice(format!("{}\n{}\n", e.offset, e.len).as_bytes());
        }
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        out
    }

    /// The file from its begin to its end.
    pub(super) fn pieces(self) -> Pieces {
        Pieces { extents: self.extents.into_iter(), at: 0, size: self.size, next: None }
    }
}

/// A file piece by piece, holes and data in turn.
#[derive(Debug)]
pub(super) struct Pieces {
    extents: std::vec::IntoIter<Extent>,
    at: u64,
    size: u64,
    next: Option<Extent>,
}

/// What comes next in a file: this many bytes, never none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    Hole(u64),
    Data(u64),
}

impl Pieces {
    /// `None` at the end of the file.
    pub(super) fn ahead(&mut self) -> Option<Ahead> {
        while self.next.is_none_or(|e| self.at >= e.offset + e.len) {
            match self.extents.next() {
                Some(e) => self.next = Some(e),
                None => return (self.at < self.size).then(|| Ahead::Hole(self.size - self.at)),
            }
        }
        self.next.map(|e| match self.at {
            at if at < e.offset => Ahead::Hole(e.offset - at),
            at => Ahead::Data(e.offset + e.len - at),
        })
    }

    /// Goes on by bytes that were ahead.
    pub(super) fn advance(&mut self, bytes: u64) {
        self.at += bytes;
    }
}

/// Takes a map apart that comes block by block.
#[derive(Debug, Default)]
pub(super) struct MapParser {
    numbers: Vec<u64>,
    digits: Option<u64>,
}

impl MapParser {
    /// Takes a block; `true` when the map ends in it.
    ///
    /// # Errors
    /// Says in words what is wrong with the map.
    pub(super) fn block(&mut self, block: &[u8]) -> Result<bool, String> {
        let bad = || "a sparse file whose map is damaged".to_owned();
        for b in block {
            match b {
                b'0'..=b'9' => {
                    let shifted = self.digits.unwrap_or(0).checked_mul(10);
                    let n = shifted.and_then(|n| n.checked_add(u64::from(b - b'0'))).ok_or_else(bad)?;
                    self.digits = Some(n);
                }
                b'\n' => {
                    let n = self.digits.take().ok_or_else(bad)?;
                    // One more than pieces of data: the end of the file.
                    if self.numbers.is_empty() && n > MAX_EXTENTS as u64 + 1 {
                        return Err("a sparse file in too many pieces".to_owned());
                    }
                    self.numbers.push(n);
                    if self.numbers.len() as u64 == 1 + 2 * self.numbers[0] {
                        return Ok(true);
                    }
                }
                _ => return Err(bad()),
            }
        }
        Ok(false)
    }

    /// The map of a file of `size` bytes.
    pub(super) fn finish(self, size: u64) -> Result<SparseMap, String> {
        let pairs = self.numbers.get(1..).unwrap_or_default().chunks_exact(2);
        let extents = pairs.map(|p| Extent { offset: p[0], len: p[1] }).filter(|e| e.len > 0 || e.offset > size);
        SparseMap::new(extents.collect(), size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(u64, u64)], size: u64) -> Result<SparseMap, String> {
        SparseMap::new(pairs.iter().map(|p| Extent { offset: p.0, len: p.1 }).collect(), size)
    }

    fn parsed(text: &[u8], size: u64) -> Result<SparseMap, String> {
        let mut parser = MapParser::default();
        for block in text.chunks(BLOCK) {
            if parser.block(block)? {
                return parser.finish(size);
            }
        }
        Err("goes on".to_owned())
    }

    #[test]
    fn maps_survive_and_cover_the_file() {
        let many: Vec<_> = (0..MAX_EXTENTS as u64).map(|n| (n * 4096, 512)).collect();
        for (pairs, size) in [
            (&[][..], 0),
            (&[], 8 << 30),
            (&[(0, 512)], 512),
            (&[(0, 1024), (4096, 7)], 4103),
            (&[(512, 512), (1024, 512), (8 << 30, 1)], 9 << 30),
            (&many, 1 << 40),
        ] {
            let map = map(pairs, size).unwrap();
            assert_eq!(parsed(&map.encode(), size).unwrap(), map);
            let (mut pieces, mut seen, mut data) = (map.clone().pieces(), 0, 0);
            while let Some(ahead) = pieces.ahead() {
                let (Ahead::Data(n) | Ahead::Hole(n)) = ahead;
                data += if ahead == Ahead::Data(n) { n } else { 0 };
                seen += n;
                pieces.advance(n);
            }
            assert_eq!((seen, data), (map.size(), map.data()));
        }
    }

    #[test]
    fn hostile_maps_are_refused() {
        for (pairs, size, problem) in [
            (&[(0, 513)][..], 512, "behind its end"),
            (&[(u64::MAX, 2)], 512, "behind its end"),
            (&[(513, 0)], 512, "behind its end"),
            (&[(0, 1024), (512, 512)], 4096, "overlap"),
            (&[(1024, 512), (0, 512)], 4096, "overlap"),
            (&[(0, 1), (512, 512)], 4096, "in the middle of a block"),
            (&[], u64::MAX, "larger than any"),
        ] {
            assert!(map(pairs, size).unwrap_err().contains(problem), "{pairs:?}");
        }
        assert!(map(&vec![(0, 0); MAX_EXTENTS + 1], 1).unwrap_err().contains("too many"));
        for (text, problem) in [
            (&b"99999999\n"[..], "too many"),
            (b"1\n0\n9999999999999999999999\n", "damaged"),
            (b"1\n\n", "damaged"),
            (b"1\n-1\n", "damaged"),
            (b"1\n9\n0\n", "behind its end"),
            (b"2\n0\n1\n", "goes on"),
            (&[0; BLOCK], "damaged"),
        ] {
            assert!(parsed(text, 5).unwrap_err().contains(problem), "{text:?}");
        }
    }
}
