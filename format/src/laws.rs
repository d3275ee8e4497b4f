//! Restore laws as pure functions: what must not go back in time when the rest of a backup does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub mod modules;
pub mod mongo;
mod session;
pub mod valkey;

pub use session::Session;

/// How far above every known number a fencing counter or an epoch goes on (laws L1, L2): as many may have been issued that
/// nobody knows of, between the backup and the loss of the live data, say.
pub const GAP: i64 = 1_000_000;

/// Leases that somebody holds, by a name for people.
pub type Leases = BTreeMap<String, Lease>;

/// A lease. Whoever holds it and lives moves `mark` forward again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who holds it.
    pub holder: String,
    /// When it ends, or when it was last renewed, in milliseconds since the epoch by the server's clock.
    pub mark: i64,
    /// How long it takes until a living holder must have renewed it, in milliseconds.
    pub renewed_within: i64,
}
