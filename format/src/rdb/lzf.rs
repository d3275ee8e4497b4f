//! LZF (Marc Lehmann's LibLZF, `lzf_d.c`), unpacked as a stream: references reach back 8 KiB at most, so that much is
//! kept, however long the string.

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
/// The longest literal run and the longest reference, and the steps in which they are copied: whole ones, since what
/// lies behind the end is written over anyway.
const LITERAL_MAX: usize = 32;
const REFERENCE_MAX: usize = 264;
const STEP: usize = 16;
/// All that is ever unpacked at a time.
const BUFFER: usize = BUFFER_MAX + AHEAD + REFERENCE_MAX + LITERAL_MAX;

/// What a compressed string unpacks to.
pub(super) struct Lzf<'a, 'i> {
    input: &'a mut Input<'i>,
    /// Compressed bytes not yet read.
    packed: u64,
    /// Unpacked bytes not yet produced.
    missing: u64,
    /// What is not yet taken lies from `start` to `end`, what references reach back to before it.
    out: &'a mut Vec<u8>,
    start: usize,
    end: usize,
}

impl<'a, 'i> Lzf<'a, 'i> {
    /// Reads `packed` bytes that unpack to `len`; `out` is lent as a buffer.
    pub(super) fn new(input: &'a mut Input<'i>, packed: u64, len: u64, out: &'a mut Vec<u8>) -> Self {
        out.resize(BUFFER, 0);
        Self { input, packed, missing: len, out, start: 0, end: 0 }
    }

    /// Bytes that can still be taken.
    pub(super) fn left(&self) -> u64 {
        self.missing + (self.end - self.start) as u64
    }

    /// Ends the string: all of it must have been taken, and all compressed bytes used.
    pub(super) fn finish(self) -> Result<(), RdbError> {
        match self.packed {
            0 => Ok(()),
            n => self.damaged("the end of a compressed string", format!("{n} more compressed bytes")),
        }
    }

    fn unpack(&mut self, n: usize) -> Result<(), RdbError> {
        while self.end - self.start < n {
            if self.missing == 0 || self.packed == 0 {
                return self.damaged("more bytes in a compressed string", "its end");
            }
            if self.end > BUFFER_MAX {
                let gone = self.start.min(self.end - HISTORY);
                self.out.copy_within(gone..self.end, 0);
                self.start -= gone;
                self.end -= gone;
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
        let out = &mut self.out[..];
        let (mut end, limit) = (self.end, self.end + AHEAD);
        let mut i = 0;
        while end < limit && i < bytes.len() && (whole || bytes.len() - i >= INSTRUCTION_MAX) {
            let control = bytes[i] as usize;
            let produced = if control < 32 {
                let len = control + 1;
                if let Some(run) = bytes.get(i + 1..i + 1 + LITERAL_MAX) {
                    out[end..end + LITERAL_MAX].copy_from_slice(run);
                } else if let Some(run) = bytes.get(i + 1..i + 1 + len) {
                    out[end..end + len].copy_from_slice(run);
                } else {
                    return damaged(i, "a literal run", "the end of the compressed bytes".into());
                }
                i += 1 + len;
                len
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
                let Some(from) = end.checked_sub(back) else {
                    return damaged(i, "a reference to bytes before it", format!("one {back} bytes back"));
                };
                repeat(out, from, end, len);
                i = next + 1;
                len
            };
            match self.missing.checked_sub(produced as u64) {
                Some(missing) => {
                    self.missing = missing;
                    end += produced;
                }
                None => return damaged(i, "the end of a compressed string", "more bytes than it declares".into()),
            }
        }
        self.end = end;
        self.packed -= i as u64;
        self.input.consume(i);
        Ok(())
    }
}

/// Writes `len` bytes at `to`, those from `from` on, which may run into what is being written (a repeated pattern).
fn repeat(out: &mut [u8], from: usize, to: usize, len: usize) {
    let mut done = 0;
    if to - from >= STEP {
        while done < len {
            out.copy_within(from + done..from + done + STEP, to + done);
            done += STEP;
        }
    } else {
        while done < len {
            let n = (len - done).min(to + done - from);
            out.copy_within(from..from + n, to + done);
            done += n;
        }
    }
}

impl Source for Lzf<'_, '_> {
    #[inline]
    fn peek(&mut self, n: usize, _what: &'static str) -> Result<&[u8], RdbError> {
        if self.end - self.start < n {
            self.unpack(n)?;
        }
        Ok(&self.out[self.start..self.start + n])
    }

    fn chunk(&mut self, max: u64, _what: &'static str) -> Result<&[u8], RdbError> {
        if self.end == self.start {
            self.unpack(1)?;
        }
        let n = (self.end - self.start).min(usize::try_from(max).unwrap_or(usize::MAX));
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
        assert_eq!(out.len(), BUFFER);
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
