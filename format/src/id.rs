//! Identifiers with one spelling each, checked when they enter.

use std::{fmt, str::FromStr};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

/// The identifier of a backup: `bk-YYYY-MM-DD-NNN`, the UTC day and a number that is unique within it.
///
/// It is also the name of the backup's directory in a store, so nothing else is ever accepted: no `/`, no `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackupId {
    day: Date,
    number: u32,
}

/// A string that is no backup id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a backup id: ids look like bk-2026-05-10-001, `prexorctl backup list` shows them")]
pub struct InvalidBackupId(pub String);

impl BackupId {
    /// The id with this UTC day and number (from 1).
    pub fn new(day: Date, number: u32) -> Self {
        Self { day, number }
    }

    /// The UTC day.
    pub fn day(&self) -> Date {
        self.day
    }

    /// The number within the day, from 1.
    pub fn number(&self) -> u32 {
        self.number
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bk-{}-{:03}", self.day, self.number)
    }
}

impl FromStr for BackupId {
    type Err = InvalidBackupId;

    fn from_str(s: &str) -> Result<Self, InvalidBackupId> {
        let parsed = || {
            let (day, number) = s.strip_prefix("bk-")?.split_at_checked(10)?;
            let number = number.strip_prefix('-')?;
            let digits = number.bytes().all(|b| b.is_ascii_digit()) && (3..=9).contains(&number.len());
            let id = Self { day: day.parse().ok()?, number: digits.then(|| number.parse().ok())?? };
            (id.number > 0 && id.to_string() == s).then_some(id)
        };
        parsed().ok_or_else(|| InvalidBackupId(s.to_owned()))
    }
}

impl Serialize for BackupId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BackupId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The name of a host in this backup system: 1 to 63 of `a-z A-Z 0-9 . _ -`, starting with a letter or digit.
///
/// It names directories in stores and stands in certificates.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct NodeName(String);

/// A string that is no node name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a node name: use 1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit")]
pub struct InvalidNodeName(pub String);

impl NodeName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeName {
    type Err = InvalidNodeName;

    fn from_str(s: &str) -> Result<Self, InvalidNodeName> {
        let ok = (1..=63).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && s.as_bytes()[0].is_ascii_alphanumeric();
        if ok { Ok(Self(s.to_owned())) } else { Err(InvalidNodeName(s.to_owned())) }
    }
}

impl<'de> Deserialize<'de> for NodeName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backup_ids_have_one_spelling() {
        for good in ["bk-2026-05-10-001", "bk-2026-05-10-999", "bk-2026-05-10-1000"] {
            assert_eq!(good.parse::<BackupId>().map(|id| id.to_string()).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "bk-",
            "bk-2026-05-10",
            "bk-2026-05-10-000",
            "bk-2026-05-10-01",
            "bk-2026-05-10-0001",
            "bk-2026-02-30-001",
            "bk-2026-05-10-001/..",
            "../bk-2026-05-10-001",
            "bk-2026-05-10-+01",
            "latest",
        ] {
            assert!(bad.parse::<BackupId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn node_names_are_safe_as_directories() {
        for good in ["h1", "controller-1.example", "A_b"] {
            assert!(good.parse::<NodeName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-x", "a/b", "a b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
    }
}
