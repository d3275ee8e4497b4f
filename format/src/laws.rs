//! Restore laws as pure functions: what must not go back in time when the rest of a backup does.

pub mod valkey;
