//! The classes of backups: how long each is kept, by the guide's table of cadences.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How long a backup is to be kept. The names are what users type after `--class`, and what the manifest holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// For a day: of MongoDB, every hour.
    Hourly,
    /// For two weeks.
    Daily,
    /// For a quarter of a year.
    Weekly,
    /// Until the upgrade that follows has proved itself.
    PreUpgrade,
}

impl Class {
    /// Every class, in the order of the guide.
    pub const ALL: [Self; 4] = [Self::Hourly, Self::Daily, Self::Weekly, Self::PreUpgrade];

    /// The name that users type and read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::PreUpgrade => "pre-upgrade",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no class.
#[derive(Debug, thiserror::Error)]
#[error("unknown class '{0}': use hourly, daily, weekly or pre-upgrade")]
pub struct UnknownClass(String);

impl FromStr for Class {
    type Err = UnknownClass;

    fn from_str(s: &str) -> Result<Self, UnknownClass> {
        Self::ALL.into_iter().find(|c| c.as_str() == s).ok_or_else(|| UnknownClass(s.to_owned()))
    }
}
