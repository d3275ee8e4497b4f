//! LZF (Marc Lehmann's LibLZF, `lzf_d.c`), unpacked as a stream: references reach back 8 KiB at most, so that much is
//! kept, however long the string.

use std::io::Read;

use super::{
    error::RdbError,
    input::{Input, PEEK_MAX, Source},
};

/// How far a reference reaches back: 13 bits.
const HISTORY: usize = 1 << 13;
/// Unpacked ahead, unless less is left.
const AHEAD: usize = 16 << 10;
/// When the buffer has grown to this, what is taken and out of reach is dropped.
const BUFFER_MAX: usize = 64 << 10;
/// The longest instruction: a literal run of 32 bytes with its control byte.
const INSTRUCTION_MAX: usize = 33;

/// What a compressed string unpacks to.
pub(super) struct Lzf<'a, R> {
    input: &'a mut Input<R>,
    /// Compressed bytes not yet read.
    packed: u64,
    /// Unpacked bytes not yet produced.
    missing: u64,
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a, R: Read> Lzf<'a, R> {
    /// Reads `packed` bytes that unpack to `len`; `out` is lent as a buffer.
    pub(super) fn new(input: &'a mut Input<R>, packed: u64, len: u64, out: &'a mut Vec<u8>) -> Self {
        out.clear();
        Self { input, packed, missing: len, out, start: 0 }
    }

    /// Bytes that can still be taken.
    pub(super) fn left(&self) -> u64 {
        self.missing + (self.out.len() - self.start) as u64
    }

    /// Ends the string: all of it must have been taken, and all compressed bytes used.
    pub(super) fn finish(self) -> Result<(), RdbError> {
        match self.packed {
            0 => Ok(()),
            n => self.damaged("the end of a compressed string", format!("{n} more compressed bytes")),
        }
    }

    fn unpack(&mut self, n: usize) -> Result<(), RdbError> {
        while self.out.len() - self.start < n {
            if self.missing == 0 || self.packed == 0 {
                return self.damaged("more bytes in a compressed string", "its end");
            }
            if self.out.len() > BUFFER_MAX {
                let gone = self.start.min(self.out.len() - HISTORY);
                self.out.drain(..gone);
                self.start -= gone;
            }
            self.batch()?;
        }
        Ok(())
    }

    /// Unpacks what the file's buffer holds, up to [`AHEAD`].
    fn batch(&mut self) -> Result<(), RdbError> {
        const { assert!(INSTRUCTION_MAX <= PEEK_MAX) };
        let at = self.input.offset();
        let damaged =
            |i: usize, expected, found: String| Err(RdbError::Damaged { offset: at + i as u64, expected, found });
        let min = self.packed.min(INSTRUCTION_MAX as u64);
        let bytes = self.input.window(min as usize, self.packed, "a compressed string")?;
        let whole = bytes.len() as u64 == self.packed;
        let limit = self.out.len() + AHEAD;
        let mut i = 0;
        while self.out.len() < limit && i < bytes.len() && (whole || bytes.len() - i >= INSTRUCTION_MAX) {
            let control = bytes[i] as usize;
            let produced = if control < 32 {
                let Some(run) = bytes.get(i + 1..i + 2 + control) else {
                    return damaged(i, "a literal run", "the end of the compressed bytes".into());
                };
                self.out.extend_from_slice(run);
                i += 2 + control;
                control + 1
            } else {
                let (mut len, mut next) = (control >> 5, i + 1);
                if len == 7 {
                    len += *bytes.get(next).unwrap_or(&0) as usize;
                    next += 1;
                }
                let Some(low) = bytes.get(next) else {
                    return damaged(i, "a reference", "the end of the compressed bytes".into());
                };
                let (back, len) = (((control & 0x1f) << 8 | *low as usize) + 1, len + 2);
                let Some(from) = self.out.len().checked_sub(back) else {
                    return damaged(i, "a reference to bytes before it", format!("one {back} bytes back"));
                };
                copy_within(self.out, from, len);
                i = next + 1;
                len
            };
            match self.missing.checked_sub(produced as u64) {
                Some(missing) => self.missing = missing,
                None => return damaged(i, "the end of a compressed string", "more bytes than it declares".into()),
            }
        }
        self.packed -= i as u64;
        self.input.consume(i);
        Ok(())
    }
}

/// Appends `len` bytes from `from` on, which may run into what is being appended (a repeated pattern).
fn copy_within(out: &mut Vec<u8>, from: usize, mut len: usize) {
    while len > 0 {
        let n = len.min(out.len() - from);
        out.extend_from_within(from..from + n);
        len -= n;
    }
}

impl<R: Read> Source for Lzf<'_, R> {
    #[inline]
    fn peek(&mut self, n: usize, _what: &'static str) -> Result<&[u8], RdbError> {
        if self.out.len() - self.start < n {
            self.unpack(n)?;
        }
        Ok(&self.out[self.start..self.start + n])
    }

    fn chunk(&mut self, max: u64, _what: &'static str) -> Result<&[u8], RdbError> {
        if self.out.len() == self.start {
            self.unpack(1)?;
        }
        let n = (self.out.len() - self.start).min(usize::try_from(max).unwrap_or(usize::MAX));
        Ok(&self.out[self.start..self.start + n])
    }

    #[inline]
    fn consume(&mut self, n: usize) {
        self.start += n;
    }

    fn offset(&self) -> u64 {
        self.input.offset()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(packed: &[u8], len: u64) -> Result<Vec<u8>, RdbError> {
        let (mut input, mut out, mut all) = (Input::new(packed), Vec::new(), Vec::new());
        let mut lzf = Lzf::new(&mut input, packed.len() as u64, len, &mut out);
        lzf.pieces(len, "a test", |p| all.extend_from_slice(p))?;
        lzf.finish()?;
        Ok(all)
    }

    #[test]
    fn literals_and_references() {
        assert_eq!(unpack(&[2, b'a', b'b', b'c'], 3).unwrap(), b"abc");
        assert_eq!(unpack(&[0, b'a', 0x20, 0], 4).unwrap(), b"aaaa"); // 3 bytes, 1 back
        assert_eq!(unpack(&[1, b'a', b'b', 0xe0, 10, 1], 21).unwrap(), b"ababababababababababa"); // 19 bytes, 2 back
    }

    #[test]
    fn long_runs_in_little_memory() {
        let mut packed = vec![0, b'x'];
        (0..100_000).for_each(|_| packed.extend_from_slice(&[0xe0, 0xff, 0]));
        let len = 1 + 100_000 * 264;
        let (mut input, mut out, mut seen) = (Input::new(&packed[..]), Vec::new(), 0);
        let mut lzf = Lzf::new(&mut input, packed.len() as u64, len, &mut out);
        lzf.pieces(len, "a test", |p| seen += p.len() as u64).unwrap();
        lzf.finish().unwrap();
        assert_eq!(seen, len);
        assert!(out.capacity() <= 4 * BUFFER_MAX, "{}", out.capacity());
    }

    #[test]
    fn damage_is_an_error() {
        for (packed, len) in [
            (&[2, b'a'][..], 3),      // cut in a literal
            (&[0, b'a', 0x20], 4),    // cut in a reference
            (&[0, b'a', 0x20, 1], 4), // before the start
            (&[0, b'a', 0x20, 0], 3), // too much
            (&[0, b'a', 0x20, 0], 5), // too little
            (&[0, b'a', 0, b'b'], 1), // unused input
            (&[], 1),                 // nothing
        ] {
            assert!(unpack(packed, len).is_err(), "{packed:?}");
        }
    }
}
