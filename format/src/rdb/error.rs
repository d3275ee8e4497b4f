//! What can be wrong with an RDB file, and where.

use std::io;

/// Why a file is no RDB file that can be restored.
#[derive(Debug, thiserror::Error)]
pub enum RdbError {
    /// The file could not be read.
    #[error("reading failed at byte {offset}: {source}")]
    Io {
        /// Bytes read before.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The file ends too early.
    #[error("the file ends at byte {offset}, within {within}")]
    Truncated {
        /// Length of the file.
        offset: u64,
        /// What should have gone on.
        within: &'static str,
    },
    /// Something that no server writes.
    #[error("damaged at byte {offset}: expected {expected}, found {found}")]
    Damaged {
        /// Where in the file; for compressed values, where the reader stood in the compressed bytes.
        offset: u64,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// Not the format that this reader knows.
    #[error("{0}")]
    Unsupported(String),
    /// The bytes are not those that the server wrote.
    #[error(
        "checksum mismatch: the file says {stored:016x}, its bytes give {computed:016x}; it was damaged after it was written"
    )]
    Checksum {
        /// The last eight bytes of the file.
        stored: u64,
        /// CRC-64 of all others.
        computed: u64,
    },
}
