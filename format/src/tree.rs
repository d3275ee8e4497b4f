//! A directory tree as a tar: names, entries, the writer, and the reader that verify and restore share (law L23).
//!
//! Knows bytes and no file system: who walks or makes files is in the agent.

mod acl;
mod content;
mod entry;
mod header;
mod path;
mod pattern;
mod read;
mod sparse;
mod verify;
mod write;

pub use content::FileHasher;
pub use entry::{Attributes, Entry, EntryKind, Mtime, Tally, Totals, Xattr, entry_digest_input};
pub use header::MAX_EXTENDED;
pub use path::{BadName, TreePath};
pub use pattern::{InvalidPattern, Pattern};
pub use read::{Finding, Piece, Step, TreeError, TreeReader};
pub use sparse::{Extent, MAX_EXTENTS, SparseMap};
pub use verify::{Checker, MAX_LINK_TARGETS, MAX_LISTED, TarSummary, verify_tar};
pub use write::{Owners, TreeWriter};
