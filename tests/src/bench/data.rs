//! Data of any size, like that of an installation. The same seed gives the same data, dates aside.

mod files;
mod mongo;
mod valkey;

pub(super) use self::{files::files, mongo::mongo, valkey::valkey};

/// How much was made.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Made {
    /// Files or documents.
    pub(super) count: u64,
    /// Bytes in them.
    pub(super) bytes: u64,
}

impl Made {
    fn add(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes += bytes as u64;
    }
}
