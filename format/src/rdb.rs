//! RDB files, as Redis and Valkey write them: a streaming reader that checks everything and holds nothing.
//!
//! [`Reader`] walks a file and yields one [`Entry`] for each key, with a digest of what the key *means*: the same
//! whether a list lies there as a ziplist, a quicklist or element by element, compressed or not. [`Summary`] adds
//! entries up by family of keys, as the manifest holds them.
//!
//! An entry also yields its serialised value as it is, for `RESTORE` ([`Payload`]) and for files of our own ([`Writer`]).
//!
//! Memory stays below a few hundred kilobytes whatever the file says: values are hashed as they pass, compressed ones
//! through a window of a few kilobytes. The one thing that must be held are the field names of a stream's block, at
//! most [`STREAM_NAMES_MAX`] bytes. No input makes the reader panic or loop: every step consumes bytes.
//!
//! Read are `REDIS0001` to `REDIS0012` (Redis 7.4; Valkey 8 writes 11) and `VALKEY080` (Valkey 9.0), by the layouts of
//! `rdb.c`, `listpack.c`, `ziplist.c`, `zipmap.c`, `intset.c` and `t_stream.c` of Redis and Valkey. It does not know
//! where a file comes from, nor how one is restored.

mod collect;
mod crc64;
mod digest;
mod error;
mod family;
mod foreseen;
mod input;
mod lzf;
mod module;
mod packed;
mod payload;
mod reader;
mod stream;
mod summary;
#[cfg(test)]
mod tests;
mod text;
mod unpack;
mod value;
mod write;

pub use error::RdbError;
pub(crate) use family::PLATFORM;
pub use family::family;
pub use foreseen::Foreseen;
pub use input::SERIALISED_KEPT;
pub use payload::{BadPayload, Parsed, Payload};
pub use reader::{Checksum, Entry, Functions, KEY_KEPT, Kind, Library, Reader, Record, unpack_string};
pub use stream::STREAM_NAMES_MAX;
pub use summary::{MODULES_MAX, RdbSummary, Summary, summarise, survey};
pub use unpack::{ELEMENT_MAX, adds, unpack};
pub use write::{Facts, Writer};
