//! Finds documents with the same `_id`, of which a server takes only the first.
//!
//! Memory is bounded: of each `_id` a hash of 64 bits is kept, of [`AT_ONCE`] documents at a time; a larger collection is
//! read several times. What looks alike by its hash is compared by its bytes before it is called a duplicate.
//! Integers count as equal whatever their type, as in an index; numbers within documents and Decimal128 do not.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::Read,
};

use crate::bson::{DocumentReader, Elements, ReadError, kind};

/// Documents whose hashes are held at once: 32 MiB of them.
const AT_ONCE: u64 = 4 << 20;

/// Duplicates that are followed up and told of; one is bad enough.
const TOLD: usize = 16;

/// What is remembered of the `_id`s of one collection, or of a part of them.
#[derive(Debug)]
pub(super) struct Ids {
    hashes: Vec<u64>,
    part: u64,
    parts: u64,
}

impl Ids {
    /// The first part; `documents` is how many there should be.
    pub(super) fn first(documents: u64) -> Self {
        Self::first_of(documents.div_ceil(AT_ONCE).max(1))
    }

    fn first_of(parts: u64) -> Self {
        Self { hashes: Vec::new(), part: 0, parts }
    }

    /// Adds a document.
    pub(super) fn add(&mut self, document: &[u8]) {
        let Some(hash) = key(document).map(|k| hash(&k)) else { return };
        // More documents than there should be are found elsewhere.
        if hash % self.parts == self.part && (self.hashes.len() as u64) < 2 * AT_ONCE {
            self.hashes.push(hash);
        }
    }

    fn next(self) -> Option<Self> {
        let Self { mut hashes, part, parts } = self;
        hashes.clear();
        (part + 1 < parts).then_some(Self { hashes, part: part + 1, parts })
    }

    /// Hashes that came twice.
    fn twice(&mut self) -> BTreeSet<u64> {
        self.hashes.sort_unstable();
        self.hashes.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).take(TOLD).collect()
    }
}

/// The `_id`s that more than one document has, as hexadecimal digits: [`TOLD`] at most. `seen` has seen the collection
/// once; `open` begins to read it again.
///
/// # Errors
/// When it cannot be read again.
pub(super) fn duplicates<R: Read>(
    mut seen: Ids,
    mut open: impl FnMut() -> Result<R, String>,
) -> Result<Vec<String>, String> {
    let mut suspects = BTreeSet::new();
    loop {
        suspects.extend(seen.twice());
        let Some(mut next) = seen.next().filter(|_| suspects.len() < TOLD) else { break };
        each(open()?, |document| next.add(document)).map_err(|e| e.to_string())?;
        seen = next;
    }
    if suspects.is_empty() {
        return Ok(Vec::new());
    }
    let mut found: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    each(open()?, |document| {
        if let Some(key) = key(document).filter(|k| suspects.contains(&hash(k))) {
            *found.entry(key).or_default() += 1;
        }
    })
    .map_err(|e| e.to_string())?;
    Ok(found.into_iter().filter(|(_, n)| *n > 1).map(|(key, _)| shown(&key)).collect())
}

fn each(reader: impl Read, mut see: impl FnMut(&[u8])) -> Result<(), ReadError> {
    let mut documents = DocumentReader::new(reader);
    while let Some((document, _)) = documents.read()? {
        see(document);
    }
    Ok(())
}

/// Type and value of a document's `_id`, the same for values that an index takes for the same.
fn key(document: &[u8]) -> Option<Vec<u8>> {
    let id = Elements::find(document, "_id")?;
    Some(match (id.as_integer(), id.kind) {
        (Some(n), _) => [&[kind::INT64][..], &n.to_le_bytes()].concat(),
        (None, kind::SYMBOL) => [&[kind::STRING], id.value].concat(),
        (None, other) => [&[other], id.value].concat(),
    })
}

fn hash(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// An `_id`'s bytes, without its type, and not more of them than one can read.
fn shown(key: &[u8]) -> String {
    let value = &key[1..];
    if value.len() > 32 { format!("{}…", hex::encode(&value[..32])) } else { hex::encode(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bson::DocBuilder;

    fn find(documents: &[Vec<u8>], parts: u64) -> Vec<String> {
        let bytes = documents.concat();
        let mut ids = Ids::first_of(parts);
        documents.iter().for_each(|d| ids.add(d));
        duplicates(ids, || Ok(&bytes[..])).unwrap()
    }

    fn with_id(put: impl for<'b> FnOnce(&'b mut DocBuilder) -> &'b mut DocBuilder) -> Vec<u8> {
        let mut b = DocBuilder::new();
        put(&mut b);
        b.finish()
    }

    #[test]
    fn a_duplicate_is_found_in_whatever_part_it_is() {
        let mut all: Vec<Vec<u8>> = (0..500).map(|n| with_id(|b| b.int32("_id", n))).collect();
        for parts in [1, 7] {
            assert_eq!(find(&all, parts), Vec::<String>::new());
        }
        all.push(with_id(|b| b.int64("_id", 77)));
        all.push(with_id(|b| b.string("_id", "77")));
        for parts in [1, 7] {
            assert_eq!(find(&all, parts), ["4d00000000000000"]);
        }
    }

    #[test]
    fn values_are_alike_as_they_are_to_an_index() {
        let double = |d: f64| with_id(|b| b.raw(kind::DOUBLE, b"_id", &d.to_le_bytes()));
        assert_eq!(find(&[double(-0.0), double(0.0)], 1).len(), 1);
        assert_eq!(find(&[double(0.5), double(0.25)], 1).len(), 0);
        let text = |k| with_id(|b| b.raw(k, b"_id", b"\x02\0\0\0x\0"));
        assert_eq!(find(&[text(kind::STRING), text(kind::SYMBOL)], 1).len(), 1);
        assert_eq!(find(&[text(kind::STRING), text(kind::CODE)], 1).len(), 0);
        // Without an `_id` there is nothing to compare.
        assert_eq!(find(&[with_id(|b| b), with_id(|b| b)], 1).len(), 0);
    }
}
