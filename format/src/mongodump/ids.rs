//! Finds documents with the same `_id`, of which a server takes only the first.
//!
//! Memory is bounded: of each `_id` a hash of 64 bits is kept, of [`AT_ONCE`] documents at a time; a larger collection is
//! read several times. What looks alike by its hash is compared by its bytes before it is called a duplicate.
//! Values count as equal that an index takes for equal: numbers whatever their type, at any depth, and symbols and strings.
//! Only a double with a fraction is not compared with a Decimal128.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::Read,
};

use crate::bson::{DocumentReader, Element, Elements, ReadError, kind};

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
    let mut key = Vec::new();
    normal(&Elements::find(document, "_id")?, &mut key);
    Some(key)
}

/// Adds a value in its normal form: a type, and what tells it from others of the type. Documents are as deep as the
/// reader has let pass.
fn normal(e: &Element, out: &mut Vec<u8>) {
    let decimal = Decimal::of(e);
    if let Some(n) = e.as_integer().or_else(|| decimal.and_then(Decimal::as_integer)) {
        out.push(kind::INT64);
        out.extend(n.to_le_bytes());
    } else if let Some(Decimal { negative, coefficient, exponent }) = decimal {
        out.extend([kind::DECIMAL128, negative.into()]);
        out.extend(coefficient.to_le_bytes());
        out.extend(exponent.to_le_bytes());
    } else if let Some(inner) = e.as_document() {
        out.push(e.kind);
        for inner in Elements::of(inner).into_iter().flatten().map_while(Result::ok) {
            // With a mark in front of it no name is taken for the end.
            out.push(1);
            if e.kind == kind::DOCUMENT {
                out.extend(inner.name);
                out.push(0);
            }
            normal(&inner, out);
        }
        out.push(0);
    } else {
        out.push(if e.kind == kind::SYMBOL { kind::STRING } else { e.kind });
        out.extend(e.value);
    }
}

/// A finite Decimal128 without zeros at its end (IEEE 754-2008, binary integer decimal).
#[derive(Debug, Clone, Copy)]
struct Decimal {
    negative: bool,
    coefficient: u128,
    exponent: i32,
}

impl Decimal {
    fn of(e: &Element) -> Option<Self> {
        (e.kind == kind::DECIMAL128).then_some(())?;
        let bits = u128::from_le_bytes(e.value.try_into().ok()?);
        // Infinities, NaNs, and coefficients that no server writes.
        if bits >> 125 & 0b11 == 0b11 {
            return None;
        }
        let mut exponent = i32::try_from(bits >> 113 & 0x3fff).ok()? - 6176;
        let mut coefficient = bits & ((1 << 113) - 1);
        if coefficient == 0 {
            exponent = 0;
        }
        while coefficient != 0 && coefficient % 10 == 0 {
            coefficient /= 10;
            exponent += 1;
        }
        Some(Self { negative: bits >> 127 == 1, coefficient, exponent })
    }

    fn as_integer(self) -> Option<i64> {
        let scale = 10_i64.checked_pow(u32::try_from(self.exponent).ok()?)?;
        let n = i64::try_from(self.coefficient).ok()?.checked_mul(scale)?;
        Some(if self.negative { -n } else { n })
    }
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
        // Within documents and arrays, and whatever the type: as a server compares them.
        let nested = |put: &dyn Fn(&mut DocBuilder)| {
            let mut inner = DocBuilder::new();
            put(&mut inner);
            let inner = inner.finish();
            with_id(|b| b.document("_id", &inner))
        };
        let (int, long) = (nested(&|b| _ = b.int32("n", 7)), nested(&|b| _ = b.int64("n", 7)));
        assert_eq!(find(&[int.clone(), long], 1).len(), 1);
        let other = [nested(&|b| _ = b.int32("m", 7)), nested(&|b| _ = b.int32("n", 8)), nested(&|_| ())];
        assert_eq!(find(&[&[int], &other[..]].concat(), 1).len(), 0);
        let decimal = |negative: u128, coefficient: u128, exponent: i32| {
            let bits = negative << 127 | u128::try_from(exponent + 6176).unwrap() << 113 | coefficient;
            with_id(|b| b.raw(kind::DECIMAL128, b"_id", &bits.to_le_bytes()))
        };
        for (alike, count) in [
            (vec![decimal(0, 70, -1), decimal(0, 7, 0), with_id(|b| b.int32("_id", 7))], 1),
            (vec![decimal(0, 5, -1), decimal(0, 50, -2)], 1),
            (vec![decimal(1, 0, 3), double(0.0)], 1),
            (vec![decimal(1, 7, 2), with_id(|b| b.int64("_id", -700))], 1),
            (vec![decimal(0, 5, -1), decimal(1, 5, -1), decimal(0, 5, 0), decimal(0, 1, 40)], 0),
        ] {
            assert_eq!(find(&alike, 1).len(), count, "{alike:?}");
        }
        // Without an `_id` there is nothing to compare.
        assert_eq!(find(&[with_id(|b| b), with_id(|b| b)], 1).len(), 0);
    }
}
