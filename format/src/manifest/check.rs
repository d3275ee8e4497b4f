//! Reading a manifest strictly: schema first, then what a schema cannot say.

use super::{FORMAT_VERSION, Manifest};

/// The published JSON Schema of the manifest.
pub const SCHEMA: &str = include_str!("../../manifest.schema.json");

/// Why bytes are no manifest of a usable backup.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or JSON of another shape.
    #[error("the manifest cannot be read: {0}")]
    Malformed(String),
    /// Written by a newer version of this product.
    #[error(
        "the manifest has format version {0}, this version reads up to {FORMAT_VERSION}: update prexor-coordinator"
    )]
    TooNew(u64),
    /// Of the right shape, but contradicting itself.
    #[error("the manifest contradicts itself: {0}")]
    Inconsistent(String),
}
