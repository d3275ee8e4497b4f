//! The packed encodings of small collections: listpack, ziplist, zipmap and intset. All are walked forwards, element
//! by element.

use super::{error::RdbError, input::Source};

/// One element. The bytes of [`Element::Bytes`] are the next of the source, and must be taken before going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    Int(i64),
    Bytes(u64),
}

/// A walk over packed elements.
pub(super) trait Packed {
    /// The next element; `None` after the end mark, and never asked again then.
    fn next<S: Source>(&mut self, source: &mut S) -> Result<Option<Element>, RdbError>;
}

/// `listpack.c`: total bytes (4), number of elements (2; 65535: unknown), elements, 0xff. Each element is followed by
/// its own length, to be read backwards.
pub(super) struct Listpack {
    declared: u16,
    seen: u64,
    /// Length of the element handed out last, without what follows it; 0 before the first.
    last: u64,
}

const LISTPACK: &str = "a listpack";
const LISTPACK_END: u8 = 0xff;

impl Listpack {
    /// Reads the header; `len` is the listpack's length as the file declares it.
    pub(super) fn open<S: Source>(source: &mut S, len: u64) -> Result<Self, RdbError> {
        let total = u32::from_le_bytes(source.array(LISTPACK)?);
        if u64::from(total) != len {
            return source.damaged("a listpack of the length of its string", format!("{total} instead of {len} bytes"));
        }
        Ok(Self { declared: u16::from_le_bytes(source.array(LISTPACK)?), seen: 0, last: 0 })
    }

    fn back_length<S: Source>(&self, source: &mut S) -> Result<(), RdbError> {
        let n = match self.last {
            0..=127 => 1,
            128..=16_382 => 2,
            16_383..=2_097_150 => 3,
            2_097_151..=268_435_454 => 4,
            _ => 5,
        };
        let bytes = source.peek(n, LISTPACK)?;
        let told = bytes[..n].iter().fold(0, |len, b| len << 7 | u64::from(b & 127));
        if told != self.last {
            return source.damaged("the length of a listpack's element", format!("{told} instead of {}", self.last));
        }
        source.consume(n);
        Ok(())
    }
}

impl Packed for Listpack {
    fn next<S: Source>(&mut self, source: &mut S) -> Result<Option<Element>, RdbError> {
        if self.last > 0 {
            self.back_length(source)?;
        }
        let first = source.peek(1, LISTPACK)?[0];
        let (head, element) = match first {
            0x00..=0x7f => (1, Element::Int(first.into())),
            0x80..=0xbf => (1, Element::Bytes(u64::from(first & 0x3f))),
            0xc0..=0xdf => {
                let b = source.peek(2, LISTPACK)?;
                let n = i64::from(b[0] & 0x1f) << 8 | i64::from(b[1]);
                (2, Element::Int(if n >= 1 << 12 { n - (1 << 13) } else { n }))
            }
            0xe0..=0xef => {
                let b = source.peek(2, LISTPACK)?;
                (2, Element::Bytes(u64::from(b[0] & 0x0f) << 8 | u64::from(b[1])))
            }
            0xf0 => (5, Element::Bytes(little_endian(&source.peek(5, LISTPACK)?[1..5]) as u32 as u64)),
            0xf1 => (3, Element::Int(little_endian(&source.peek(3, LISTPACK)?[1..3]))),
            0xf2 => (4, Element::Int(little_endian(&source.peek(4, LISTPACK)?[1..4]))),
            0xf3 => (5, Element::Int(little_endian(&source.peek(5, LISTPACK)?[1..5]))),
            0xf4 => (9, Element::Int(little_endian(&source.peek(9, LISTPACK)?[1..9]))),
            LISTPACK_END => {
                if self.declared != u16::MAX && u64::from(self.declared) != self.seen {
                    return source.damaged("as many elements as the listpack declares", "another number");
                }
                source.consume(1);
                return Ok(None);
            }
            other => return source.damaged("an element of a listpack", format!("0x{other:02x}")),
        };
        source.consume(head);
        self.seen += 1;
        self.last = head as u64 + if let Element::Bytes(n) = element { n } else { 0 };
        Ok(Some(element))
    }
}

/// `ziplist.c`: total bytes (4), offset of the last element (4), number of elements (2; 65535: unknown), elements,
/// 0xff. Each element begins with the length of the one before it.
pub(super) struct Ziplist {
    declared: u16,
    seen: u64,
    last: u64,
}

const ZIPLIST: &str = "a ziplist";

impl Ziplist {
    /// Reads the header; `len` is the ziplist's length as the file declares it.
    pub(super) fn open<S: Source>(source: &mut S, len: u64) -> Result<Self, RdbError> {
        let total = u32::from_le_bytes(source.array(ZIPLIST)?);
        if u64::from(total) != len {
            return source.damaged("a ziplist of the length of its string", format!("{total} instead of {len} bytes"));
        }
        let _last_element: [u8; 4] = source.array(ZIPLIST)?;
        Ok(Self { declared: u16::from_le_bytes(source.array(ZIPLIST)?), seen: 0, last: 0 })
    }
}

impl Packed for Ziplist {
    fn next<S: Source>(&mut self, source: &mut S) -> Result<Option<Element>, RdbError> {
        let before = source.peek(1, ZIPLIST)?[0];
        let (before, before_len) = match before {
            0xff => {
                if self.declared != u16::MAX && u64::from(self.declared) != self.seen {
                    return source.damaged("as many elements as the ziplist declares", "another number");
                }
                source.consume(1);
                return Ok(None);
            }
            0xfe => (little_endian(&source.peek(5, ZIPLIST)?[1..5]) as u32 as u64, 5),
            n => (n.into(), 1),
        };
        if before != self.last {
            return source.damaged("the length of the element before", format!("{before} instead of {}", self.last));
        }
        source.consume(before_len);
        let first = source.peek(1, ZIPLIST)?[0];
        let (head, element) = match first {
            0x00..=0x3f => (1, Element::Bytes(first.into())),
            0x40..=0x7f => {
                let b = source.peek(2, ZIPLIST)?;
                (2, Element::Bytes(u64::from(b[0] & 0x3f) << 8 | u64::from(b[1])))
            }
            0x80 => {
                let b = source.peek(5, ZIPLIST)?;
                (5, Element::Bytes(u32::from_be_bytes([b[1], b[2], b[3], b[4]]).into()))
            }
            0xc0 => (3, Element::Int(little_endian(&source.peek(3, ZIPLIST)?[1..3]))),
            0xd0 => (5, Element::Int(little_endian(&source.peek(5, ZIPLIST)?[1..5]))),
            0xe0 => (9, Element::Int(little_endian(&source.peek(9, ZIPLIST)?[1..9]))),
            0xf0 => (4, Element::Int(little_endian(&source.peek(4, ZIPLIST)?[1..4]))),
            0xfe => (2, Element::Int(little_endian(&source.peek(2, ZIPLIST)?[1..2]))),
            0xf1..=0xfd => (1, Element::Int(i64::from(first & 0x0f) - 1)),
            other => return source.damaged("an element of a ziplist", format!("0x{other:02x}")),
        };
        source.consume(head);
        self.seen += 1;
        self.last = (before_len + head) as u64 + if let Element::Bytes(n) = element { n } else { 0 };
        Ok(Some(element))
    }
}

/// `zipmap.c` (up to Redis 2.4): number of pairs (1; 254 and more: unknown), pairs, 0xff. A value is preceded by the
/// number of unused bytes after it.
#[derive(Default)]
pub(super) struct Zipmap {
    value_next: bool,
    unused: u8,
}

const ZIPMAP: &str = "a zipmap";

impl Zipmap {
    /// Reads the header.
    pub(super) fn open<S: Source>(source: &mut S) -> Result<Self, RdbError> {
        source.byte(ZIPMAP)?;
        Ok(Self::default())
    }
}

impl Packed for Zipmap {
    fn next<S: Source>(&mut self, source: &mut S) -> Result<Option<Element>, RdbError> {
        source.pieces(self.unused.into(), ZIPMAP, |_| ())?;
        self.unused = 0;
        let len = match source.peek(1, ZIPMAP)?[0] {
            0xff if !self.value_next => {
                source.consume(1);
                return Ok(None);
            }
            0xff => return source.damaged("a value in a zipmap", "its end"),
            0xfe => {
                let n = little_endian(&source.peek(5, ZIPMAP)?[1..5]) as u32;
                source.consume(5);
                n.into()
            }
            n => {
                source.consume(1);
                n.into()
            }
        };
        if self.value_next {
            self.unused = source.byte(ZIPMAP)?;
        }
        self.value_next = !self.value_next;
        Ok(Some(Element::Bytes(len)))
    }
}

/// `intset.c`: bytes for each number (4), how many (4), numbers.
pub(super) struct Intset {
    width: usize,
    left: u32,
}

const INTSET: &str = "an intset";

impl Intset {
    /// Reads the header; `len` is the intset's length as the file declares it.
    pub(super) fn open<S: Source>(source: &mut S, len: u64) -> Result<Self, RdbError> {
        let width = u32::from_le_bytes(source.array(INTSET)?);
        let left = u32::from_le_bytes(source.array(INTSET)?);
        if !matches!(width, 2 | 4 | 8) || 8 + u64::from(width) * u64::from(left) != len {
            return source.damaged("an intset of the length of its string", format!("{left} numbers of {width} bytes"));
        }
        Ok(Self { width: width as usize, left })
    }
}

impl Packed for Intset {
    fn next<S: Source>(&mut self, source: &mut S) -> Result<Option<Element>, RdbError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let n = little_endian(&source.peek(self.width, INTSET)?[..self.width]);
        source.consume(self.width);
        Ok(Some(Element::Int(n)))
    }
}

/// A signed little-endian number of one to eight bytes.
fn little_endian(bytes: &[u8]) -> i64 {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let unused = 64 - 8 * bytes.len() as u32;
    i64::from_le_bytes(wide) << unused >> unused
}
