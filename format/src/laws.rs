//! Restore laws as pure functions: what must not go back in time when the rest of a backup does.

pub mod mongo;
pub mod valkey;

/// How far above every known number a fencing counter or an epoch goes on (laws L1, L2): as many may have been issued that
/// nobody knows of, between the backup and the loss of the live data, say.
pub const GAP: i64 = 1_000_000;
