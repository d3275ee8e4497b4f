//! What a key's digest is taken over, independent of how the file encodes it.
//!
//! A key's item is: logical database (8 bytes), kind (1), expiry in milliseconds (8, all bits set for none), length of
//! the key (8), the key, and its value; numbers are little-endian. Values: a string is its bytes. A list is every
//! element as length (8) and bytes. Sets, hashes and sorted sets are the number of elements (8) and the sum modulo
//! 2^256 of the elements' SHA-256, so that order does not count; an element is a member; or a field and a value, each
//! with its length before it, and the field's expiry if it has one; or a member with its length and the score's bits
//! (IEEE 754; -0 counts as 0). Streams are described in `stream.rs`. A module's value is its type id (8) and each of
//! its parts as a byte for the sort and the part.

use crate::digest::{ContentHasher, Hasher, Order, Sha256Digest};

/// Below this an item is gathered and hashed at once, which is much cheaper for the usual few dozen bytes.
const GATHERED: usize = 4 << 10;

/// One thing that is hashed, put together from pieces. Reused, so that it allocates once.
#[derive(Default)]
pub(super) struct Item {
    gathered: Vec<u8>,
    hasher: Option<Hasher>,
    /// Nothing is put in: nobody wants the digest.
    off: bool,
}

impl Item {
    /// One that stays empty.
    pub(super) fn off() -> Self {
        Self { off: true, ..Self::default() }
    }

    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        if self.off {
            return;
        }
        if self.gathered.len() + bytes.len() <= GATHERED {
            self.gathered.extend_from_slice(bytes);
        } else {
            let hasher = self.hasher.get_or_insert_default();
            hasher.update(&self.gathered);
            hasher.update(bytes);
            self.gathered.clear();
        }
    }

    #[inline]
    pub(super) fn put_u64(&mut self, n: u64) {
        self.put(&n.to_le_bytes());
    }

    /// As [`Item::take`]; `None` of one that stays empty.
    pub(super) fn take_if_on(&mut self) -> Option<Sha256Digest> {
        (!self.off).then(|| self.take())
    }

    /// The digest of everything put in; leaves the item empty.
    pub(super) fn take(&mut self) -> Sha256Digest {
        let digest = match self.hasher.take() {
            None => Sha256Digest::of(&self.gathered),
            Some(mut hasher) => {
                hasher.update(&self.gathered);
                hasher.finish()
            }
        };
        self.gathered.clear();
        digest
    }

    /// Forgets what was put in.
    pub(super) fn clear(&mut self) {
        self.gathered.clear();
        self.hasher = None;
    }
}

/// Elements whose order does not count.
pub(super) struct Bag {
    count: u64,
    sum: ContentHasher,
}

impl Bag {
    pub(super) fn new() -> Self {
        Self { count: 0, sum: ContentHasher::new(Order::Multiset) }
    }

    /// Adds what `element` holds and empties it.
    pub(super) fn add(&mut self, element: &mut Item) {
        self.count += 1;
        if let Some(digest) = element.take_if_on() {
            self.sum.add_digest(&digest);
        }
    }

    /// Puts count and sum into `item`; tells the count.
    pub(super) fn put_into(self, item: &mut Item) -> u64 {
        item.put_u64(self.count);
        if !item.off {
            item.put(&self.sum.finish().sha256.0);
        }
        self.count
    }
}

/// The decimal digits of `n`, as Redis prints integers.
pub(super) fn decimal(n: i64, buffer: &mut [u8; 20]) -> &[u8] {
    let (mut left, mut at) = (n.unsigned_abs(), buffer.len());
    loop {
        at -= 1;
        buffer[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if n < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    &buffer[at..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_print_as_redis_prints_them() {
        for n in [0, 7, -7, 10, 12345, i64::MAX, i64::MIN] {
            assert_eq!(decimal(n, &mut [0; 20]), n.to_string().as_bytes());
        }
    }

    #[test]
    fn pieces_do_not_matter() {
        let data: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        for cut in [0, 1, GATHERED - 1, GATHERED, GATHERED + 1, 9_999] {
            let mut item = Item::default();
            item.put(&data[..cut]);
            item.put(&data[cut..]);
            assert_eq!(item.take(), Sha256Digest::of(&data));
            assert_eq!(item.take(), Sha256Digest::of(b""));
        }
    }
}
