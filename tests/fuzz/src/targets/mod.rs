//! What the fuzzers check of the readers, beyond that they neither panic nor run on: `bin` hands in what libFuzzer makes
//! up, and the suite `fuzz_corpus` what is kept of it, through these same functions.
//!
//! A target panics where a property does not hold.

use std::io::{self, Read};

pub mod bson;
pub mod rdb;
pub mod tar;

/// Hands out few bytes at a time, each time another number of them.
pub struct Dribble<'a> {
    bytes: &'a [u8],
    state: u32,
}

impl<'a> Dribble<'a> {
    /// How the bytes are cut depends on them alone.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, state: bytes.iter().fold(1, |sum, b| sum.wrapping_mul(31).wrapping_add((*b).into())) }
    }
}

impl Read for Dribble<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.state = self.state.wrapping_mul(0x9E37_79B1).wrapping_add(0x7F4A_7C15);
        let most = [1, 7, 64, 513, 4096][(self.state >> 16) as usize % 5];
        let (now, later) = self.bytes.split_at(most.min(self.bytes.len()).min(buf.len()));
        buf[..now.len()].copy_from_slice(now);
        self.bytes = later;
        Ok(now.len())
    }
}
