//! gzip (RFC 1952) as a series of members, each compressed on its own and concatenated: what `gzip`, `mongorestore`
//! and `tar -xzf` read as one stream.

use std::io::{self, BufRead, Read, Write};

use libdeflater::{CompressionLvl, Compressor};

/// Uncompressed bytes per member. 1 MiB keeps the ratio of one long stream within 1 %.
pub const MEMBER_SIZE: usize = 1 << 20;

/// Compresses into members of [`MEMBER_SIZE`] bytes. Call [`GzipWriter::finish`]: dropping it loses the last member.
pub struct GzipWriter<W: Write> {
    inner: W,
    compressor: Compressor,
    pending: Vec<u8>,
    out: Vec<u8>,
    empty: bool,
}

impl<W: Write> GzipWriter<W> {
    /// Writes to `inner` at the size that `gzip -6` reaches (libdeflate level 5, measured on BSON and text).
    pub fn new(inner: W) -> Self {
        let level = CompressionLvl::new(5).expect("5 is one of libdeflate's levels, 0 to 12");
        Self {
            inner,
            compressor: Compressor::new(level),
            pending: Vec::with_capacity(MEMBER_SIZE),
            out: Vec::new(),
            empty: true,
        }
    }

    fn member(&mut self) -> io::Result<()> {
        self.out.resize(self.compressor.gzip_compress_bound(self.pending.len()), 0);
        let n = self.compressor.gzip_compress(&self.pending, &mut self.out).map_err(io::Error::other)?;
        self.inner.write_all(&self.out[..n])?;
        self.pending.clear();
        self.empty = false;
        Ok(())
    }

    /// Writes what is left (an empty member if nothing was written at all) and hands back the inner writer.
    pub fn finish(mut self) -> io::Result<W> {
        if self.empty || !self.pending.is_empty() {
            self.member()?;
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
            self.member()?;
        }
        Ok(n)
    }

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

    #[test]
    fn members_read_back_as_one_stream() {
        for len in [0, 1, MEMBER_SIZE - 1, MEMBER_SIZE, MEMBER_SIZE + 1, 3 * MEMBER_SIZE + 17] {
            let data: Vec<u8> = (0..len).map(|i| (i / 7 % 251) as u8).collect();
            let mut w = GzipWriter::new(Vec::new());
            w.write_all(&data).unwrap();
            let packed = w.finish().unwrap();
            let mut back = Vec::new();
            reader(&packed[..]).read_to_end(&mut back).unwrap();
            assert!(back == data, "{len}");
        }
    }
}
