//! The digest of a regular file's bytes, for which holes cost nothing: a sparse file of any size is hashed as fast as
//! the data in it, and has the same digest as one whose zeros are all on the disk.

use crate::digest::{Hasher, Sha256Digest};

/// Bytes of a block whose zeros are counted and not hashed.
const BLOCK: usize = 64 << 10;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Takes the digest of a file's bytes, zeros in holes included.
///
/// It is the SHA-256 of the bytes, as `sha256sum` prints it, unless whole blocks of 64 KiB, beginning at multiples of
/// 64 KiB, are zeros. Then it is the SHA-256 over two digests: that of the bytes of all other blocks, and that of the
/// runs of zero blocks, each as number of its first block and number of blocks (u64 each, little-endian). The size
/// stands beside it in [`super::entry_digest_input`].
#[derive(Debug, Clone)]
pub struct FileHasher {
    data: Hasher,
    runs: Option<Hasher>,
    /// First block and number of blocks of the run that may go on.
    run: (u64, u64),
    block: u64,
    /// Bytes of the current block seen so far; while they are all zeros they are not yet hashed.
    at: usize,
    zeros: bool,
}

impl Default for FileHasher {
    fn default() -> Self {
        Self { data: Hasher::default(), runs: None, run: (0, 0), block: 0, at: 0, zeros: true }
    }
}

impl FileHasher {
    /// Adds bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(BLOCK - self.at));
            bytes = rest;
            if self.zeros && !is_zero(piece) {
                self.data.update(&ZEROS[..self.at]);
                self.zeros = false;
            }
            if !self.zeros {
                self.data.update(piece);
            }
            self.at += piece.len();
            if self.at == BLOCK {
                if self.zeros {
                    self.zero_blocks(1);
                } else {
                    self.block += 1;
                }
                (self.at, self.zeros) = (0, true);
            }
        }
    }

    /// Adds `count` zeros, in no time.
    pub fn update_zeros(&mut self, count: u64) {
        let block = BLOCK as u64;
        let head = if self.at > 0 { count.min((BLOCK - self.at) as u64) } else { 0 };
        self.update(&ZEROS[..head as usize]);
        let rest = count - head;
        if rest >= block {
            self.zero_blocks(rest / block);
        }
        self.update(&ZEROS[..(rest % block) as usize]);
    }

    fn zero_blocks(&mut self, count: u64) {
        if self.run.1 > 0 && self.run.0 + self.run.1 == self.block {
            self.run.1 += count;
        } else {
            self.end_run();
            self.run = (self.block, count);
        }
        self.block += count;
    }

    fn end_run(&mut self) {
        let (first, count) = std::mem::take(&mut self.run);
        if count > 0 {
            let runs = self.runs.get_or_insert_default();
            runs.update(&first.to_le_bytes());
            runs.update(&count.to_le_bytes());
        }
    }

    /// The digest of everything added.
    pub fn finish(mut self) -> Sha256Digest {
        if self.zeros {
            self.data.update(&ZEROS[..self.at]);
        }
        self.end_run();
        let data = self.data.finish();
        match self.runs {
            None => data,
            Some(runs) => Sha256Digest::of(&[data.0, runs.finish().0].concat()),
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(256).all(|c| c.iter().fold(0, |all, b| all | b) == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(bytes: &[u8]) -> Sha256Digest {
        let mut h = FileHasher::default();
        h.update(bytes);
        h.finish()
    }

    #[test]
    fn files_without_zero_blocks_have_their_sha256() {
        for bytes in [&b""[..], b"x", &[0; BLOCK - 1], &[7; 3 * BLOCK], &[&[1][..], &[0; 2 * BLOCK - 2], &[1]].concat()]
        {
            assert_eq!(digest(bytes), Sha256Digest::of(bytes));
        }
    }

    #[test]
    fn holes_of_any_size_take_no_time_and_count() {
        let of = |zeros| {
            let mut h = FileHasher::default();
            h.update(b"x");
            h.update_zeros(zeros);
            h.finish()
        };
        let all = [u64::MAX - 1, u64::MAX - 2, 8 << 30, (8 << 30) + BLOCK as u64, BLOCK as u64, 0].map(of);
        assert!(all.iter().enumerate().all(|(i, d)| !all[..i].contains(d)));
    }

    proptest! {
        #[test]
        fn zeros_are_the_same_however_they_come(
            pieces in prop::collection::vec((prop::bool::ANY, 0usize..3 * BLOCK), 0..8),
            step in 1usize..200_000,
        ) {
            let (mut bytes, mut sparse) = (Vec::new(), FileHasher::default());
            for (zeros, len) in pieces {
                if zeros {
                    sparse.update_zeros(len as u64);
                    bytes.resize(bytes.len() + len, 0);
                } else {
                    sparse.update(&vec![3; len]);
                    bytes.resize(bytes.len() + len, 3);
                }
            }
            let mut dense = FileHasher::default();
            bytes.chunks(step).for_each(|c| dense.update(c));
            let dense = dense.finish();
            prop_assert_eq!(sparse.finish(), dense);
            if let Some(at) = bytes.len().checked_sub(1) {
                bytes[at] ^= 1;
                prop_assert_ne!(digest(&bytes), dense);
            }
        }
    }
}
