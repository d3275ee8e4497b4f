//! BSON (specification 1.1, bsonspec.org) as bytes: what it takes to check, read and write documents without giving
//! their values any other form. Knows nothing of MongoDB's servers or files.
//!
//! Documents are kept byte for byte, also where they are odd (duplicate keys, deprecated types, NaN payloads, invalid
//! UTF-8): whoever parses them into a map and back loses data (law L15).

mod build;
mod element;
mod stream;
mod walk;

pub(crate) use build::string_value;
pub use build::{DocBuilder, OpenArray};
pub use element::{Element, Elements, kind};
pub use stream::{DocumentReader, ReadError};
pub use walk::{Walked, walk};

/// The largest document that is taken: MongoDB's limit of 16 MiB for users plus the 16 KiB that a server allows itself.
pub const MAX_DOCUMENT_SIZE: usize = (16 << 20) + (16 << 10);

/// The deepest nesting that is taken: the ceiling of mongod's `maxBSONDepth` (its default is 200).
pub const MAX_DEPTH: usize = 250;

/// The empty document.
pub const EMPTY_DOCUMENT: &[u8] = &[5, 0, 0, 0, 0];

/// Bytes that are no BSON document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {offset} of the document")]
pub struct BsonError {
    /// From the document's first byte.
    pub offset: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// The little-endian length at `offset`, when it is not negative.
fn length_at(bytes: &[u8], offset: usize) -> Option<usize> {
    let four = bytes.get(offset..offset.checked_add(4)?)?;
    usize::try_from(i32::from_le_bytes(four.try_into().ok()?)).ok()
}
