//! Reads documents that lie one after the other, as in the `.bson` files of mongodump.

use std::io::{self, Read};

use super::{BsonError, MAX_DOCUMENT_SIZE, Walked, walk};

/// Why the next document could not be read. Offsets count (uncompressed) bytes from the stream's beginning.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream ended within a document.
    #[error("the data end within the document that begins at byte {offset}")]
    Truncated {
        /// Of the document's first byte.
        offset: u64,
    },
    /// A length that no document has.
    #[error("the document that begins at byte {offset} claims a length of {length}")]
    Length {
        /// Of the document's first byte.
        offset: u64,
        /// As it stands there.
        length: i32,
    },
    /// See [`BsonError`].
    #[error("the document that begins at byte {offset} is damaged: {error}")]
    Damaged {
        /// Of the document's first byte.
        offset: u64,
        /// What is wrong.
        error: BsonError,
    },
    /// The stream itself failed (a damaged gzip member, for one).
    #[error("after byte {offset}: {error}")]
    Io {
        /// Of the document that was to be read.
        offset: u64,
        /// What happened.
        error: io::Error,
    },
}

/// Bytes that a document's length may claim before there is anything of it.
const BELIEVED: usize = 64 << 10;

/// Reads documents from `R`, which should be buffered; memory is bounded by [`MAX_DOCUMENT_SIZE`].
#[derive(Debug)]
pub struct DocumentReader<R> {
    inner: R,
    buffer: Vec<u8>,
    offset: u64,
}

impl<R: Read> DocumentReader<R> {
    /// Reads from `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, buffer: Vec::new(), offset: 0 }
    }

    /// Bytes of the documents read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The document that was read last, to be kept without a copy of up to 16 MiB. Empty when it was taken already.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// The next document, walked to its leaves, or `None` at the end.
    ///
    /// # Errors
    /// See [`ReadError`]; nothing can be read after one.
    pub fn read(&mut self) -> Result<Option<(&[u8], Walked)>, ReadError> {
        let offset = self.offset;
        let io = |error| ReadError::Io { offset, error };
        self.buffer.clear();
        match self.inner.by_ref().take(4).read_to_end(&mut self.buffer).map_err(io)? {
            0 => return Ok(None),
            4 => {}
            _ => return Err(ReadError::Truncated { offset }),
        }
        let length = i32::from_le_bytes([self.buffer[0], self.buffer[1], self.buffer[2], self.buffer[3]]);
        let size = usize::try_from(length)
            .ok()
            .filter(|l| (5..=MAX_DOCUMENT_SIZE).contains(l))
            .ok_or(ReadError::Length { offset, length })?;
        // Room for all of it, without the copies of a growing buffer, only once there is more than a damaged length.
        for upto in [size.min(BELIEVED), size] {
            self.buffer.reserve_exact(upto - self.buffer.len());
            let wanted = (upto - self.buffer.len()) as u64;
            self.inner.by_ref().take(wanted).read_to_end(&mut self.buffer).map_err(io)?;
            if self.buffer.len() < upto {
                return Err(ReadError::Truncated { offset });
            }
        }
        let walked = walk(&self.buffer).map_err(|error| ReadError::Damaged { offset, error })?;
        self.offset += size as u64;
        Ok(Some((&self.buffer, walked)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bson::DocBuilder;

    fn three() -> Vec<u8> {
        (0..3)
            .flat_map(|i| {
                let mut b = DocBuilder::new();
                b.int32("_id", i).string("s", &"x".repeat(i as usize));
                b.finish()
            })
            .collect()
    }

    fn count(bytes: &[u8]) -> Result<u64, ReadError> {
        let mut reader = DocumentReader::new(bytes);
        let mut n = 0;
        while reader.read()?.is_some() {
            n += 1;
        }
        assert_eq!(reader.offset(), bytes.len() as u64);
        Ok(n)
    }

    #[test]
    fn documents_come_one_by_one_and_errors_name_the_offset() {
        let all = three();
        assert_eq!(count(&all).unwrap(), 3);
        assert_eq!(count(b"").unwrap(), 0);
        let first = all[0] as u64;
        match count(&all[..first as usize + 6]) {
            Err(ReadError::Truncated { offset }) => assert_eq!(offset, first),
            other => panic!("{other:?}"),
        }
        let mut bad = all.clone();
        bad[first as usize..][..4].copy_from_slice(&i32::MAX.to_le_bytes());
        match count(&bad) {
            Err(ReadError::Length { offset, length: i32::MAX }) => assert_eq!(offset, first),
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut reader = DocumentReader::new(&bytes[..]);
            while let Ok(Some(_)) = reader.read() {}
        }
    }
}
