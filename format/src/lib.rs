//! What a backup is made of: identifiers, the manifest, digests and the readers and writers of the artifact formats.
//!
//! Pure: no async runtime, no RPC, no SQL, no clock and no randomness. Everything that reads or writes a backup
//! (capture, verify, drill, restore) uses these same readers and writers (law L23).

pub mod artifact;
pub mod bson;
pub mod class;
pub mod digest;
pub mod glob;
pub mod gzip;
pub mod id;
pub mod laws;
pub mod manifest;
pub mod marks;
pub mod mongodump;
pub mod platform;
pub mod rdb;
pub mod selection;
pub mod text;
pub mod tree;
