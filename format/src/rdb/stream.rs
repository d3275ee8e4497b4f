//! Streams, in the three layouts that servers wrote (`t_stream.c`).
//!
//! A stream's value in the digest is, in this order: each entry that is not deleted as the byte 1, its id (milliseconds
//! and sequence), the number of its fields, and fields and values with their lengths; the byte 0; the length; the last
//! id; the highest deleted id; the number of entries ever added; the number of groups; each group as its name, its last
//! id, its pending entries (number; each with id, delivery time and count) and its consumers (number; each with name,
//! time seen, time active, and the number and ids of its pending entries). What an older layout lacks is what a server
//! makes up when it loads one: nothing deleted, as many added as there are, active when seen. A group's count of entries
//! read is left out: servers estimate it anew, each version in its own way.

use super::{
    collect::{Walk, put_sized},
    digest::Item,
    error::RdbError,
    input::Source,
    packed::{Element, Listpack, Packed},
    text::Values,
};

/// Most bytes that the field names which a block of a stream shares may have, with eight for each.
pub const STREAM_NAMES_MAX: usize = 64 << 20;

/// The field names that the entries of a block share. Reused.
#[derive(Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Names {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn add<S: Source>(&mut self, name: Element, source: &mut S) -> Result<(), RdbError> {
        let len = match name {
            Element::Int(_) => 20,
            Element::Bytes(len) => len,
        };
        let held = (self.bytes.len() + 8 * self.ends.len()) as u64;
        if held.saturating_add(len) > STREAM_NAMES_MAX as u64 {
            return Err(RdbError::Unsupported(format!(
                "the stream at byte {} has entries whose field names exceed {STREAM_NAMES_MAX} bytes",
                source.offset()
            )));
        }
        match name {
            Element::Int(n) => self.bytes.extend_from_slice(super::digest::decimal(n, &mut [0; 20])),
            Element::Bytes(len) => source.pieces(len, "a field name", |piece| self.bytes.extend_from_slice(piece))?,
        }
        self.ends.push(self.bytes.len());
        Ok(())
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.ends.iter().scan(0, |start, end| Some(&self.bytes[std::mem::replace(start, *end)..*end]))
    }
}

/// Takes a stream in the layout of `version` (1 to 3); tells its number of entries.
pub(super) fn read(v: &mut Values<'_>, version: u8, item: &mut Item) -> Result<u64, RdbError> {
    const STREAM: &str = "a stream";
    const GROUP: &str = "a consumer group of a stream";
    const CONSUMER: &str = "a consumer of a stream";
    let blocks = v.length(STREAM)?;
    for _ in 0..blocks {
        let (mut id, mut filled) = ([0; 16], 0);
        let len = v.string("the id of a stream's block", |piece| {
            let n = piece.len().min(16 - filled);
            id[filled..filled + n].copy_from_slice(&piece[..n]);
            filled += n;
        })?;
        if len != 16 {
            return v.input.damaged("the id of a stream's block", format!("{len} bytes"));
        }
        v.packed("a stream's block", Block { id: u128::from_be_bytes(id), item })?;
    }
    item.put(&[0]);
    let length = v.length(STREAM)?;
    item.put_u64(length);
    put_lengths(v, 2, STREAM, item)?; // last id
    if version >= 2 {
        v.length(STREAM)?; // first id: follows from the entries
        v.length(STREAM)?;
        put_lengths(v, 3, STREAM, item)?; // highest deleted id, entries added
    } else {
        for n in [0, 0, length] {
            item.put_u64(n);
        }
    }
    let groups = put_count(v, GROUP, item)?;
    for _ in 0..groups {
        v.string_into(GROUP, item)?;
        put_lengths(v, 2, GROUP, item)?;
        if version >= 2 {
            v.length(GROUP)?; // entries read
        }
        let pending = put_count(v, GROUP, item)?;
        for _ in 0..pending {
            item.put(&v.input.array::<24>(GROUP)?); // id and delivery time
            put_lengths(v, 1, GROUP, item)?;
        }
        let consumers = put_count(v, CONSUMER, item)?;
        for _ in 0..consumers {
            v.string_into(CONSUMER, item)?;
            let seen: [u8; 8] = v.input.array(CONSUMER)?;
            item.put(&seen);
            item.put(&if version >= 3 { v.input.array(CONSUMER)? } else { seen });
            let pending = put_count(v, CONSUMER, item)?;
            for _ in 0..pending {
                item.put(&v.input.array::<16>(CONSUMER)?);
            }
        }
    }
    Ok(length)
}

fn put_lengths(v: &mut Values<'_>, n: u8, what: &'static str, item: &mut Item) -> Result<(), RdbError> {
    for _ in 0..n {
        item.put_u64(v.length(what)?);
    }
    Ok(())
}

fn put_count(v: &mut Values<'_>, what: &'static str, item: &mut Item) -> Result<u64, RdbError> {
    let n = v.length(what)?;
    item.put_u64(n);
    Ok(n)
}

/// A listpack of entries: number of live and of deleted ones, number of shared names, names, 0; then for each entry its
/// flags, its id relative to the block's, if it does not share the names their number and each name before its value,
/// and the number of elements to go back over.
struct Block<'a> {
    id: u128,
    item: &'a mut Item,
}

const ENTRY: &str = "an entry of a stream";
const DELETED: i64 = 1;
const SAME_FIELDS: i64 = 2;

impl Walk for Block<'_> {
    type Out = ();

    fn walk<S: Source>(self, source: &mut S, len: u64, skipped: &mut Item, names: &mut Names) -> Result<(), RdbError> {
        let mut lp = Listpack::open(source, len)?;
        let (live, deleted) = (count(&mut lp, source)?, count(&mut lp, source)?);
        names.clear();
        for _ in 0..count(&mut lp, source)? {
            let name = some(&mut lp, source)?;
            names.add(name, source)?;
        }
        number(&mut lp, source)?;
        let (ms, seq) = ((self.id >> 64) as u64, self.id as u64);
        for _ in 0..live.saturating_add(deleted) {
            let flags = number(&mut lp, source)?;
            let id = (number(&mut lp, source)?, number(&mut lp, source)?);
            // A deleted entry is walked over like any other, into an item that is thrown away.
            let item = if flags & DELETED != 0 { &mut *skipped } else { &mut *self.item };
            item.put(&[1]);
            item.put_u64(ms.wrapping_add(id.0 as u64));
            item.put_u64(seq.wrapping_add(id.1 as u64));
            if flags & SAME_FIELDS != 0 {
                item.put_u64(names.ends.len() as u64);
                for name in names.iter() {
                    item.put_u64(name.len() as u64);
                    item.put(name);
                    put_sized(some(&mut lp, source)?, source, item)?;
                }
            } else {
                let fields = count(&mut lp, source)?;
                item.put_u64(fields);
                for _ in 0..fields {
                    put_sized(some(&mut lp, source)?, source, item)?;
                    put_sized(some(&mut lp, source)?, source, item)?;
                }
            }
            number(&mut lp, source)?;
            skipped.clear();
        }
        match lp.next(source)? {
            None => Ok(()),
            Some(_) => source.damaged("the end of a stream's block", "another element"),
        }
    }
}

fn some<S: Source>(lp: &mut Listpack, source: &mut S) -> Result<Element, RdbError> {
    match lp.next(source)? {
        Some(element) => Ok(element),
        None => source.damaged(ENTRY, "the end of the listpack"),
    }
}

fn number<S: Source>(lp: &mut Listpack, source: &mut S) -> Result<i64, RdbError> {
    match some(lp, source)? {
        Element::Int(n) => Ok(n),
        Element::Bytes(_) => source.damaged("a number in a stream's entry", "a string"),
    }
}

fn count<S: Source>(lp: &mut Listpack, source: &mut S) -> Result<u64, RdbError> {
    let n = number(lp, source)?;
    u64::try_from(n).or_else(|_| source.damaged("a count in a stream's entry", n.to_string()))
}
