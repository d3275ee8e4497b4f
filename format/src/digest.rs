//! Digests of stored bytes and of contents.
//!
//! A *file digest* is the SHA-256 of the bytes as stored, what `sha256sum` prints. A *content digest* is taken from
//! what the bytes mean (documents, keys, files), so it is equal before a backup and after a restore although
//! compression, file names or internal encodings differ.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest (FIPS 180-4), written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

impl Sha256Digest {
    /// The digest of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self(Sha256::digest(data).into())
    }

    /// Parses 64 hexadecimal digits.
    pub fn from_hex(s: &str) -> Option<Self> {
        let mut out = [0; 32];
        hex::decode_to_slice(s, &mut out).ok()?;
        Some(Self(out))
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = String::deserialize(d)?;
        Self::from_hex(&s).ok_or_else(|| serde::de::Error::custom(format!("'{s}' is not a SHA-256 digest in hex")))
    }
}

/// A running SHA-256.
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Adds bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The digest of everything added.
    pub fn finish(self) -> Sha256Digest {
        Sha256Digest(self.0.finalize().into())
    }
}

/// What a content digest was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// The SHA-256 of all items one after the other: order counts (capped collections).
    Sequence,
    /// The sum modulo 2^256 of each item's SHA-256, as little-endian numbers: order does not count, multiplicity does.
    Multiset,
}

/// The digest of a number of items (documents, keys, files), in order or as a multiset.
///
/// It finds accidents, it is no defence against someone who can choose the items: manifests are what is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContentDigest {
    /// Whether order counts.
    pub order: Order,
    /// The digest.
    pub sha256: Sha256Digest,
}

impl ContentDigest {
    /// That of the same items but for one of them; only multisets have one.
    ///
    /// # Panics
    /// If this is of a sequence.
    pub fn without(&self, item: &Sha256Digest) -> Self {
        match self.order {
            Order::Multiset => {
                // a - b is a + (2^256 - 1 - b) + 1.
                let mut sum = words(&self.sha256);
                add_256(&mut sum, &words(item).map(|word| !word));
                add_256(&mut sum, &[1, 0, 0, 0]);
                ContentHasher::Multiset(sum).finish()
            }
            Order::Sequence => unreachable!("nothing can be taken out of the content digest of a sequence"),
        }
    }
}

/// Takes the [`ContentDigest`] of items that are handed over one by one.
#[derive(Debug, Clone)]
pub enum ContentHasher {
    /// See [`Order::Sequence`].
    Sequence(Hasher),
    /// See [`Order::Multiset`].
    Multiset([u64; 4]),
}

impl ContentHasher {
    /// An empty hasher.
    pub fn new(order: Order) -> Self {
        match order {
            Order::Sequence => Self::Sequence(Hasher::default()),
            Order::Multiset => Self::Multiset([0; 4]),
        }
    }

    /// Adds one item.
    pub fn add(&mut self, item: &[u8]) {
        match self {
            Self::Sequence(h) => h.update(item),
            Self::Multiset(sum) => add_256(sum, &words(&Sha256Digest::of(item))),
        }
    }

    /// Adds one item whose digest was taken elsewhere, piece by piece; only multisets can take it.
    ///
    /// # Panics
    /// If this is a sequence: it is taken over the items' bytes.
    pub fn add_digest(&mut self, item: &Sha256Digest) {
        match self {
            Self::Multiset(sum) => add_256(sum, &words(item)),
            Self::Sequence(_) => unreachable!("content digests of sequences are taken over bytes"),
        }
    }

    /// Adds everything that `other` was given; only multisets can be merged.
    ///
    /// # Panics
    /// If either is a sequence: there is no order between two of them.
    pub fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::Multiset(sum), Self::Multiset(more)) => add_256(sum, more),
            _ => unreachable!("content digests of sequences are never merged"),
        }
    }

    /// The digest of everything added.
    pub fn finish(self) -> ContentDigest {
        match self {
            Self::Sequence(h) => ContentDigest { order: Order::Sequence, sha256: h.finish() },
            Self::Multiset(sum) => {
                let mut out = [0; 32];
                for (chunk, word) in out.chunks_exact_mut(8).zip(sum) {
                    chunk.copy_from_slice(&word.to_le_bytes());
                }
                ContentDigest { order: Order::Multiset, sha256: Sha256Digest(out) }
            }
        }
    }
}

fn words(d: &Sha256Digest) -> [u64; 4] {
    let mut out = [0; 4];
    for (word, chunk) in out.iter_mut().zip(d.0.chunks_exact(8)) {
        *word = u64::from_le_bytes(chunk.try_into().expect("chunks_exact(8) yields 8 bytes"));
    }
    out
}

fn add_256(sum: &mut [u64; 4], more: &[u64; 4]) {
    let mut carry = false;
    for (a, b) in sum.iter_mut().zip(more) {
        let (x, c1) = a.overflowing_add(*b);
        let (x, c2) = x.overflowing_add(u64::from(carry));
        *a = x;
        carry = c1 || c2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(order: Order, items: &[&[u8]]) -> ContentDigest {
        let mut h = ContentHasher::new(order);
        items.iter().for_each(|i| h.add(i));
        h.finish()
    }

    #[test]
    fn a_multiset_knows_multiplicity_but_not_order() {
        use Order::*;
        assert_eq!(digest(Multiset, &[b"a", b"b"]), digest(Multiset, &[b"b", b"a"]));
        assert_ne!(digest(Multiset, &[b"a", b"a", b"b"]), digest(Multiset, &[b"a", b"b"]));
        assert_ne!(digest(Multiset, &[b"a", b"a"]), digest(Multiset, &[]));
        assert_ne!(digest(Sequence, &[b"a", b"b"]), digest(Sequence, &[b"b", b"a"]));
    }

    #[test]
    fn what_is_taken_out_of_a_multiset_was_never_there() {
        use Order::*;
        for items in [&[b"a", b"b", b"c"][..], &[b"a", b"a", b"b"], &[b"b"]] {
            for n in 0..items.len() {
                let items: Vec<&[u8]> = items.iter().map(|i| &i[..]).collect();
                let rest: Vec<&[u8]> =
                    items.iter().enumerate().filter(|(i, _)| *i != n).map(|(_, item)| *item).collect();
                let without = digest(Multiset, &items).without(&Sha256Digest::of(items[n]));
                assert_eq!(without, digest(Multiset, &rest));
            }
        }
    }

    #[test]
    fn merged_multisets_equal_one() {
        let mut left = ContentHasher::new(Order::Multiset);
        let mut right = left.clone();
        let mut all = left.clone();
        for i in 0..1000u32 {
            let item = i.to_le_bytes();
            if i % 3 == 0 {
                left.add(&item)
            } else {
                right.add(&item)
            }
            all.add(&item);
        }
        left.merge(&right);
        assert_eq!(left.finish(), all.finish());
    }
}
