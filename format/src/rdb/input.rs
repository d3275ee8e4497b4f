//! Bytes of the file, looked at before they are taken: a buffer, the running checksum and the offset for messages.

use std::io::{self, Read};

use super::{crc64, error::RdbError};

/// Bytes held of the file.
const BUFFER: usize = 256 << 10;

/// The most that [`Source::peek`] can be asked for.
pub(super) const PEEK_MAX: usize = 64;

/// Bytes of a serialised value that are kept as they are in the file ([`super::Entry::serialised`]).
pub const SERIALISED_KEPT: usize = 64 << 10;

/// A run of bytes that is read forwards: the file, one value in it, or what a compressed value unpacks to.
pub(super) trait Source {
    /// The next `n` bytes, at most [`PEEK_MAX`], without taking them. `what` names them should they be missing.
    fn peek(&mut self, n: usize, what: &'static str) -> Result<&[u8], RdbError>;

    /// One byte or more of the next `max`, without taking them; `max` is not 0.
    fn chunk(&mut self, max: u64, what: &'static str) -> Result<&[u8], RdbError>;

    /// Takes bytes that `peek` or `chunk` showed.
    fn consume(&mut self, n: usize);

    /// Where it stands in the file.
    fn offset(&self) -> u64;

    /// An error at this place.
    fn damaged<T>(&self, expected: &'static str, found: impl Into<String>) -> Result<T, RdbError> {
        Err(RdbError::Damaged { offset: self.offset(), expected, found: found.into() })
    }

    /// Takes the next `N` bytes.
    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], RdbError> {
        let mut out = [0; N];
        out.copy_from_slice(&self.peek(N, what)?[..N]);
        self.consume(N);
        Ok(out)
    }

    /// Takes the next byte.
    fn byte(&mut self, what: &'static str) -> Result<u8, RdbError> {
        let b = self.peek(1, what)?[0];
        self.consume(1);
        Ok(b)
    }

    /// Takes the next `len` bytes and hands them over piece by piece.
    fn pieces(&mut self, mut len: u64, what: &'static str, mut take: impl FnMut(&[u8])) -> Result<(), RdbError> {
        while len > 0 {
            let piece = self.chunk(len, what)?;
            take(piece);
            let n = piece.len();
            self.consume(n);
            len -= n as u64;
        }
        Ok(())
    }
}

/// The whole file. What reads it is not a type parameter, so that this crate's optimised code is what everybody runs.
pub(super) struct Input<'i> {
    inner: Box<dyn Read + 'i>,
    buffer: Box<[u8]>,
    /// What is taken, and of that, what the checksum has seen.
    start: usize,
    summed: usize,
    /// From where on what is taken is kept, until it is more than [`SERIALISED_KEPT`] bytes.
    mark: Option<usize>,
    end: usize,
    /// Offset of `buffer[0]` in the file.
    base: u64,
    crc: u64,
}

impl<'i> Input<'i> {
    pub(super) fn new(inner: impl Read + 'i) -> Self {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Self { inner: Box::new(inner), buffer, start: 0, summed: 0, mark: None, end: 0, base: 0, crc: 0 }
    }

    /// From here on, what is taken is kept.
    pub(super) fn mark(&mut self) {
        self.mark = Some(self.start);
    }

    /// What was taken since [`Input::mark`]; `None` when it is more than [`SERIALISED_KEPT`] bytes.
    pub(super) fn marked(&self) -> Option<&[u8]> {
        let bytes = &self.buffer[self.mark?..self.start];
        (bytes.len() <= SERIALISED_KEPT).then_some(bytes)
    }

    /// The checksum of everything taken.
    pub(super) fn crc(&mut self) -> u64 {
        self.crc = crc64::update(self.crc, &self.buffer[self.summed..self.start]);
        self.summed = self.start;
        self.crc
    }

    /// Reads on until `n` bytes (at most half the buffer) are there or the file ends; tells how many there are.
    fn fill(&mut self, n: usize) -> Result<usize, RdbError> {
        while self.end - self.start < n {
            self.mark = self.mark.filter(|mark| self.start - mark <= SERIALISED_KEPT);
            let kept = self.mark.unwrap_or(self.start);
            if self.buffer.len() - self.start < n || kept == self.end {
                self.crc();
                self.buffer.copy_within(kept..self.end, 0);
                self.base += kept as u64;
                self.end -= kept;
                self.start -= kept;
                self.summed = self.start;
                self.mark = self.mark.map(|_| 0);
            }
            match self.inner.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(RdbError::Io { offset: self.base + self.end as u64, source }),
            }
        }
        Ok(self.end - self.start)
    }

    /// Whether nothing is left.
    pub(super) fn at_end(&mut self) -> Result<bool, RdbError> {
        Ok(self.fill(1)? == 0)
    }

    /// `min` bytes at least (at most [`PEEK_MAX`]) and `max` at most, as many as are at hand.
    pub(super) fn window(&mut self, min: usize, max: u64, what: &'static str) -> Result<&[u8], RdbError> {
        if self.end - self.start < min && self.fill(min)? < min {
            return Err(RdbError::Truncated { offset: self.base + self.end as u64, within: what });
        }
        let end = self.start + (self.end - self.start).min(usize::try_from(max).unwrap_or(usize::MAX));
        Ok(&self.buffer[self.start..end])
    }
}

impl Source for Input<'_> {
    #[inline]
    fn peek(&mut self, n: usize, what: &'static str) -> Result<&[u8], RdbError> {
        debug_assert!(n <= PEEK_MAX);
        self.window(n, n as u64, what)
    }

    #[inline]
    fn chunk(&mut self, max: u64, what: &'static str) -> Result<&[u8], RdbError> {
        self.window(1, max, what)
    }

    #[inline]
    fn consume(&mut self, n: usize) {
        self.start += n;
    }

    fn offset(&self) -> u64 {
        self.base + self.start as u64
    }
}

/// The next `left` bytes of the file.
pub(super) struct Limited<'a, 'i> {
    pub(super) input: &'a mut Input<'i>,
    pub(super) left: u64,
}

impl Source for Limited<'_, '_> {
    #[inline]
    fn peek(&mut self, n: usize, what: &'static str) -> Result<&[u8], RdbError> {
        if self.left < n as u64 {
            return self.damaged(what, "the end of the value");
        }
        self.input.peek(n, what)
    }

    #[inline]
    fn chunk(&mut self, max: u64, what: &'static str) -> Result<&[u8], RdbError> {
        if self.left < max {
            return self.damaged(what, "the end of the value");
        }
        self.input.chunk(max, what)
    }

    #[inline]
    fn consume(&mut self, n: usize) {
        self.left -= n as u64;
        self.input.consume(n);
    }

    fn offset(&self) -> u64 {
        self.input.offset()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out one to seven bytes at a time.
    struct Dribble<'a>(&'a [u8]);

    impl Read for Dribble<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = (self.0.len() % 7 + 1).min(self.0.len()).min(buf.len());
            buf[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn bytes_and_checksum_survive_every_refill() {
        let data: Vec<u8> = (0..3 * BUFFER as u32 / 2).map(|i| (i ^ i >> 8) as u8).collect();
        let mut input = Input::new(Dribble(&data));
        let mut seen = Vec::new();
        while !input.at_end().unwrap() {
            let n = (seen.len() % PEEK_MAX + 1).min(data.len() - seen.len());
            seen.extend_from_slice(input.peek(n, "a test").unwrap());
            input.consume(n);
        }
        assert!(seen == data);
        assert_eq!(input.offset(), data.len() as u64);
        assert_eq!(input.crc(), crc64::update(0, &data));
    }

    #[test]
    fn what_is_marked_survives_refills_until_it_is_too_much() {
        let data: Vec<u8> = (0..6 * BUFFER as u32).map(|i| (i ^ i >> 8) as u8).collect();
        let mut input = Input::new(Dribble(&data));
        let take = |input: &mut Input<'_>, mut n: usize| {
            while n > 0 {
                let now = n.min(PEEK_MAX);
                input.peek(now, "a test").unwrap();
                input.consume(now);
                n -= now;
            }
        };
        for len in [0, 1, 1000, SERIALISED_KEPT, SERIALISED_KEPT + 1, 3 * SERIALISED_KEPT, SERIALISED_KEPT, 7] {
            let at = input.offset() as usize;
            input.mark();
            take(&mut input, len);
            let expected = (len <= SERIALISED_KEPT).then_some(&data[at..at + len]);
            assert!(input.marked() == expected, "{len} bytes at {at}");
            take(&mut input, 3 * BUFFER / 8);
        }
        let end = input.offset() as usize;
        assert_eq!(input.crc(), crc64::update(0, &data[..end]));
    }
}
