//! Serialised values taken apart into what the commands of their type take: for collections that are too long for one
//! `RESTORE`.

use std::io::Read;

use super::{
    collect::{Packing, Walk, short_score},
    digest::{Item, decimal},
    error::RdbError,
    input::Source,
    packed::{Element, Intset, Listpack, Packed, Ziplist, Zipmap},
    reader::Kind,
    stream,
    text::Values,
};

/// The longest element that is handed over: one is held whole.
pub const ELEMENT_MAX: u64 = 64 << 20;

/// Takes a list, set, sorted set or hash apart. `take` is given the elements of lists and sets; of sorted sets score and
/// member in turns, as `ZADD` has them; of hashes field and value in turns.
///
/// # Errors
/// When `serialised` is no value of this type or cannot be read; [`RdbError::Unsupported`] for other types, for hashes
/// whose fields expire, and for an element of more than [`ELEMENT_MAX`] bytes.
pub fn unpack<R: Read>(code: u8, serialised: R, take: impl FnMut(&[u8])) -> Result<(), RdbError> {
    let mut v = Values::new(serialised);
    let out = &mut Out { take, held: Vec::new(), member: Vec::new() };
    match code {
        1 | 2 => (0..v.length(COLLECTION)?).try_for_each(|_| out.string(&mut v)),
        4 => (0..v.length(COLLECTION)?).try_for_each(|_| {
            out.string(&mut v)?;
            out.string(&mut v)
        }),
        3 | 5 => (0..v.length(COLLECTION)?).try_for_each(|_| {
            out.hold_string(&mut v)?;
            let score = if code == 3 { v.old_score()? } else { f64::from_le_bytes(v.input.array("a score")?) };
            out.scored(score);
            Ok(())
        }),
        14 => (0..v.length(COLLECTION)?).try_for_each(|_| out.packed(&mut v, Packing::Ziplist, false)),
        18 => (0..v.length(COLLECTION)?).try_for_each(|_| match v.length(COLLECTION)? {
            1 => out.string(&mut v),
            2 => out.packed(&mut v, Packing::Listpack, false),
            other => v.input.damaged("a node of a quicklist", format!("container {other}")),
        }),
        9 => out.packed(&mut v, Packing::Zipmap, false),
        10 | 13 => out.packed(&mut v, Packing::Ziplist, false),
        12 => out.packed(&mut v, Packing::Ziplist, true),
        11 => out.packed(&mut v, Packing::Intset, false),
        16 | 20 => out.packed(&mut v, Packing::Listpack, false),
        17 => out.packed(&mut v, Packing::Listpack, true),
        other => Err(RdbError::Unsupported(format!("a value of type {other} cannot be taken apart"))),
    }
}

/// The command that adds what [`unpack`] hands over, and in groups of how many; `None` for what it does not take apart.
pub fn adds(code: u8, kind: Kind) -> Option<(&'static str, usize)> {
    match kind {
        Kind::List => Some(("RPUSH", 1)),
        Kind::Set => Some(("SADD", 1)),
        Kind::SortedSet => Some(("ZADD", 2)),
        Kind::Hash if code < 22 => Some(("HSET", 2)),
        Kind::Hash | Kind::String | Kind::Stream | Kind::Module => None,
    }
}

const COLLECTION: &str = "a collection";
const ELEMENT: &str = "an element";

struct Out<F> {
    take: F,
    held: Vec<u8>,
    /// A member whose score comes next.
    member: Vec<u8>,
}

impl<F: FnMut(&[u8])> Out<F> {
    fn string(&mut self, v: &mut Values<'_>) -> Result<(), RdbError> {
        self.hold_string(v)?;
        (self.take)(&self.held);
        Ok(())
    }

    fn hold_string(&mut self, v: &mut Values<'_>) -> Result<(), RdbError> {
        self.held.clear();
        let held = &mut self.held;
        // What is too long is passed over, not held.
        let len = v.string(ELEMENT, |piece| {
            let room = (ELEMENT_MAX as usize).saturating_sub(held.len());
            held.extend_from_slice(&piece[..piece.len().min(room)]);
        })?;
        fits(len)
    }

    /// Hands over what is held as a member, behind its score.
    fn scored(&mut self, score: f64) {
        (self.take)(format!("{score:e}").as_bytes());
        (self.take)(&self.held);
    }

    fn packed(&mut self, v: &mut Values<'_>, packing: Packing, scores: bool) -> Result<(), RdbError> {
        v.packed(COLLECTION, Unpack { packing, scores, out: self })
    }

    fn each<P: Packed, S: Source>(&mut self, mut packed: P, scores: bool, source: &mut S) -> Result<(), RdbError> {
        while let Some(element) = packed.next(source)? {
            self.held.clear();
            match element {
                Element::Int(n) => self.held.extend_from_slice(decimal(n, &mut [0; 20])),
                Element::Bytes(len) => {
                    fits(len)?;
                    source.pieces(len, ELEMENT, |piece| self.held.extend_from_slice(piece))?;
                }
            }
            if !scores {
                (self.take)(&self.held);
                continue;
            }
            std::mem::swap(&mut self.held, &mut self.member);
            let score = match packed.next(source)? {
                Some(Element::Int(n)) => n as f64,
                Some(Element::Bytes(len)) => short_score(len, source)?,
                None => return source.damaged("a score", "the end of the packed value"),
            };
            std::mem::swap(&mut self.held, &mut self.member);
            self.scored(score);
        }
        Ok(())
    }
}

fn fits(len: u64) -> Result<(), RdbError> {
    if len <= ELEMENT_MAX {
        return Ok(());
    }
    Err(RdbError::Unsupported(format!("it has an element of {len} bytes, at most {ELEMENT_MAX} are held at once")))
}

struct Unpack<'a, F> {
    packing: Packing,
    scores: bool,
    out: &'a mut Out<F>,
}

impl<F: FnMut(&[u8])> Walk for Unpack<'_, F> {
    type Out = ();

    fn walk<S: Source>(self, source: &mut S, len: u64, _: &mut Item, _: &mut stream::Names) -> Result<(), RdbError> {
        match self.packing {
            Packing::Listpack => self.out.each(Listpack::open(source, len)?, self.scores, source),
            Packing::Ziplist => self.out.each(Ziplist::open(source, len)?, self.scores, source),
            Packing::Zipmap => self.out.each(Zipmap::open(source)?, self.scores, source),
            Packing::Intset => self.out.each(Intset::open(source, len)?, self.scores, source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(code: u8, serialised: &[u8]) -> Result<Vec<String>, RdbError> {
        let mut out = Vec::new();
        unpack(code, serialised, |piece| out.push(String::from_utf8_lossy(piece).into_owned())).map(|()| out)
    }

    #[test]
    fn collections_come_apart_in_the_order_of_their_commands() {
        assert_eq!(unpacked(1, b"\x02\x01a\xc0\x07").unwrap(), ["a", "7"]);
        assert_eq!(unpacked(4, b"\x01\x01f\x02vv").unwrap(), ["f", "vv"]);
        let scored = [&b"\x02\x01m"[..], &2.5f64.to_le_bytes(), b"\x01n", &f64::NEG_INFINITY.to_le_bytes()].concat();
        assert_eq!(unpacked(5, &scored).unwrap(), ["2.5e0", "m", "-inf", "n"]);
        assert_eq!(unpacked(3, b"\x01\x01m\x030.5").unwrap(), ["5e-1", "m"]);
        // A listpack of `m` and 3.
        assert_eq!(unpacked(17, b"\x0c\x0c\0\0\0\x02\0\x81m\x02\x03\x01\xff").unwrap(), ["3e0", "m"]);
        assert_eq!(
            unpacked(18, b"\x02\x01\x01x\x02\x0c\x0c\0\0\0\x02\0\x81m\x02\x03\x01\xff").unwrap(),
            ["x", "m", "3"]
        );
        assert_eq!(unpacked(11, b"\x0c\x02\0\0\0\x02\0\0\0\x05\0\xff\xff").unwrap(), ["5", "-1"]);
    }

    #[test]
    fn what_is_damaged_or_cannot_be_taken_apart_is_an_error() {
        for code in [0, 7, 15, 19, 21, 22, 24, 99] {
            assert!(matches!(unpacked(code, b"\x01\x01a"), Err(RdbError::Unsupported(_))), "{code}");
        }
        assert!(matches!(unpacked(1, b"\x02\x01a"), Err(RdbError::Truncated { .. })));
        assert!(matches!(unpacked(18, b"\x01\x03\x01a"), Err(RdbError::Damaged { .. })));
        assert!(matches!(unpacked(17, b"\x0a\x0a\0\0\0\x01\0\x81m\x02\xff"), Err(RdbError::Damaged { .. })));
        for code in 0..26 {
            let kind = super::super::value::kind_of(code, super::super::value::Dialect::Redis);
            let apart = !matches!(unpacked(code, b"\x00"), Err(RdbError::Unsupported(_)));
            assert_eq!(kind.and_then(|kind| adds(code, kind)).is_some(), apart, "{code}");
        }
    }
}
