//! The kinds of artifact that a backup can hold.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// One of the three tiers that are captured and restored separately.
///
/// The lower-case names (`mongo`, `valkey`, `filesystem`) are what users type after `--scope`, what `backup list`
/// shows and what the manifest holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactKind {
    /// A MongoDB dump directory in mongodump's layout.
    Mongo,
    /// A Valkey (or Redis) RDB file.
    Valkey,
    /// A gzip-compressed tar of a controller's root directory.
    Filesystem,
}

impl ArtifactKind {
    /// Every kind, in the order in which users read them.
    pub const ALL: [Self; 3] = [Self::Mongo, Self::Valkey, Self::Filesystem];

    /// The name that users type and read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mongo => "mongo",
            Self::Valkey => "valkey",
            Self::Filesystem => "filesystem",
        }
    }
}

impl fmt::Display for ArtifactKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A scope word that is none of `mongo`, `valkey`, `filesystem`.
#[derive(Debug, thiserror::Error)]
#[error("unknown scope '{0}': use mongo, valkey, filesystem, or several of them separated by commas")]
pub struct UnknownKind(String);

impl FromStr for ArtifactKind {
    type Err = UnknownKind;

    fn from_str(s: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|k| k.as_str() == s).ok_or_else(|| UnknownKind(s.to_owned()))
    }
}
