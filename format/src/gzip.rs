//! gzip (RFC 1952) as a series of members, each compressed on its own and concatenated: what `gzip`, `mongorestore`
//! and `tar -xzf` read as one stream. Members are compressed on all cores and written in order.

use std::{
    collections::VecDeque,
    io::{self, BufRead, Read, Write},
    sync::mpsc::{Receiver, sync_channel},
};

mod pool;

pub use pool::{Packer, run, threads};
use serde::{Deserialize, Serialize};

/// Uncompressed bytes per member. 1 MiB keeps the ratio of one long stream within 1 %.
pub const MEMBER_SIZE: usize = 1 << 20;

/// How hard to compress. All of them are gzip, and differ in time and size alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// About half the time of `balanced`, a quarter more in size.
    Fast,
    /// The size of `gzip -6`.
    #[default]
    Balanced,
    /// The smallest that is worth its time: twice to three times that of `balanced`.
    Small,
}

/// A finished member, with the buffers to reuse.
struct Packed {
    input: Vec<u8>,
    out: Vec<u8>,
}

/// Compresses into members of [`MEMBER_SIZE`] bytes; what does not compress is stored.
///
/// Holds at most a few members per core, whatever is written. Call [`GzipWriter::finish`]: dropping the writer loses
/// what was not written yet.
pub struct GzipWriter<W: Write> {
    inner: W,
    level: Level,
    pending: Vec<u8>,
    in_flight: VecDeque<Receiver<io::Result<Packed>>>,
    spare: Vec<(Vec<u8>, Vec<u8>)>,
    empty: bool,
}

impl<W: Write> GzipWriter<W> {
    /// Writes to `inner`, at [`Level::Balanced`].
    pub fn new(inner: W) -> Self {
        Self::with_level(inner, Level::Balanced)
    }

    /// Writes to `inner`.
    pub fn with_level(inner: W, level: Level) -> Self {
        let (in_flight, spare) = (VecDeque::new(), Vec::new());
        Self { inner, level, pending: Vec::with_capacity(MEMBER_SIZE), in_flight, spare, empty: true }
    }

    /// Hands the pending bytes to the pool; waits for the oldest member when enough are under way.
    fn submit(&mut self) -> io::Result<()> {
        self.empty = false;
        while self.in_flight.len() > pool::threads() {
            self.collect()?;
        }
        let (fresh, mut out) = self.spare.pop().unwrap_or_default();
        let input = std::mem::replace(&mut self.pending, fresh);
        let level = self.level;
        // With room for the answer, so that sending never blocks a thread of the pool.
        let (done, packed) = sync_channel(1);
        self.in_flight.push_back(packed);
        pool::run(move |packer| {
            out.clear();
            let packed = packer.member(level, &input, &mut out).map(|()| Packed { input, out });
            // The writer may have given up.
            let _ = done.send(packed);
        })
    }

    /// Writes the oldest member.
    fn collect(&mut self) -> io::Result<()> {
        let Some(oldest) = self.in_flight.pop_front() else { return Ok(()) };
        let packed = oldest.recv().map_err(|_| io::Error::other("a compression thread ended early"))??;
        self.inner.write_all(&packed.out)?;
        let (mut input, out) = (packed.input, packed.out);
        input.clear();
        self.spare.push((input, out));
        Ok(())
    }

    /// Writes what is left (an empty member if nothing was written at all) and hands back the inner writer.
    ///
    /// # Errors
    /// Those of the inner writer.
    pub fn finish(mut self) -> io::Result<W> {
        if self.empty || !self.pending.is_empty() {
            self.submit()?;
        }
        while !self.in_flight.is_empty() {
            self.collect()?;
        }
        self.inner.flush()?;
        Ok(self.inner)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(MEMBER_SIZE - self.pending.len());
        self.pending.extend_from_slice(&buf[..n]);
        if self.pending.len() == MEMBER_SIZE {
            self.submit()?;
        }
        Ok(n)
    }

    /// Does nothing: a member ends when it is full, not when somebody is in a hurry.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads every member of `inner`, checking each one's CRC and length. A stream cut between two members is not an
/// error of gzip's: the digests and counts of the manifest find that.
pub fn reader<R: BufRead>(inner: R) -> impl Read {
    flate2::bufread::MultiGzDecoder::new(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(data: &[u8]) -> Vec<u8> {
        let mut w = GzipWriter::new(Vec::new());
        w.write_all(data).unwrap();
        w.finish().unwrap()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn members_read_back_as_one_stream() {
        for len in [0, 1, MEMBER_SIZE - 1, MEMBER_SIZE, MEMBER_SIZE + 1, 17 * MEMBER_SIZE + 17] {
            let data: Vec<u8> = (0..len).map(|i| (i / 7 % 251) as u8).collect();
            let mut back = Vec::new();
            reader(&pack(&data)[..]).read_to_end(&mut back).unwrap();
            assert!(back == data, "{len}");
        }
    }

    #[test]
    fn harder_levels_give_less_and_all_read_back() {
        let data: Vec<u8> =
            (0..3 * MEMBER_SIZE as u32).flat_map(|i| ((i % 4096) * (i / 511)).to_string().into_bytes()).collect();
        let sizes = [Level::Fast, Level::Balanced, Level::Small].map(|level| {
            let mut w = GzipWriter::with_level(Vec::new(), level);
            w.write_all(&data).unwrap();
            let packed = w.finish().unwrap();
            let mut back = Vec::new();
            reader(&packed[..]).read_to_end(&mut back).unwrap();
            assert!(back == data, "{level:?}");
            packed.len()
        });
        assert!(sizes.is_sorted_by(|a, b| a > b), "{sizes:?}");
    }

    #[test]
    fn what_does_not_compress_is_stored() {
        let data = noise(3 * MEMBER_SIZE);
        let packed = pack(&data);
        assert!(packed.len() > data.len() && packed.len() < data.len() + data.len() / 1000, "{}", packed.len());
        // A stored block's three header bits are 0 or 1 (RFC 1951, 3.2.4); the member's header has 10 bytes.
        assert!(packed[10] & 0b110 == 0);
        let mut back = Vec::new();
        reader(&packed[..]).read_to_end(&mut back).unwrap();
        assert!(back == data);
    }

    #[test]
    fn a_block_that_is_only_partly_noise_is_compressed() {
        let mut data = noise(MEMBER_SIZE);
        data[MEMBER_SIZE / 2..].fill(b' ');
        assert!(pack(&data).len() < MEMBER_SIZE * 6 / 10);
    }

    #[test]
    fn the_inner_writers_error_comes_back() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut w = GzipWriter::new(Full);
        let failed = (0..64).find_map(|_| w.write_all(&[7; MEMBER_SIZE]).err());
        assert_eq!(failed.map(|e| e.kind()), Some(io::ErrorKind::StorageFull));
    }
}
