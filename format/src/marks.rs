//! Marks: what becomes known of a backup after it was made, such as that it is pinned, or when it was verified.
//!
//! Each is a small file beside the manifest, below `marks/`, so that a catalog that was lost knows it again. Its first line
//! is a JSON object, the statement; its second, where it is signed, another one: the signature over the bytes of the first
//! line without its end. A statement names the backup and the digest of its manifest, so one that was copied from another
//! backup, or that is about a manifest which was replaced, says nothing.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{digest::Sha256Digest, id::BackupId};

/// The version of the statements' layout that this code writes, and the highest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The largest file of a mark, in bytes.
pub const MAX_MARK: usize = 64 << 10;

/// What a mark is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// That it must not be removed.
    Pin,
    /// That what it has lost against the one before was meant to go.
    Accept,
    /// What verifies have found.
    Verify,
    /// That a backup of a newer version was verified.
    Upgrade,
}

impl Mark {
    /// Every mark.
    pub const ALL: [Self; 4] = [Self::Pin, Self::Accept, Self::Verify, Self::Upgrade];

    /// Its file, relative to the backup's directory.
    pub fn path(self) -> &'static str {
        match self {
            Self::Pin => "marks/pin.json",
            Self::Accept => "marks/accept.json",
            Self::Verify => "marks/verify.json",
            Self::Upgrade => "marks/upgrade.json",
        }
    }

    /// Whether a path is that of a mark.
    pub fn is_path(path: &str) -> bool {
        Self::ALL.iter().any(|mark| mark.path() == path)
    }
}

/// One statement about a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// The backup.
    pub backup: BackupId,
    /// SHA-256 of its manifest's bytes as stored.
    pub manifest_sha256: Sha256Digest,
    /// When it was said.
    pub at: Timestamp,
    /// Who said it: an identity.
    pub by: String,
    /// What.
    #[serde(flatten)]
    pub says: Says,
}

/// What a statement says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mark", rename_all = "lowercase")]
pub enum Says {
    /// [`Mark::Pin`]
    Pin {
        /// Why, for those who read the list later.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// [`Mark::Accept`]
    Accept,
    /// [`Mark::Verify`]
    Verify(Verified),
    /// [`Mark::Upgrade`]
    Upgrade {
        /// The newer version.
        version: String,
    },
}

impl Says {
    /// What it is about.
    pub fn mark(&self) -> Mark {
        match self {
            Self::Pin { .. } => Mark::Pin,
            Self::Accept => Mark::Accept,
            Self::Verify(_) => Mark::Verify,
            Self::Upgrade { .. } => Mark::Upgrade,
        }
    }
}

/// How much a verify has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// Some of the files.
    Sample,
    /// Every file.
    Full,
    /// Every file, and what they say against each other.
    Deep,
}

impl Depth {
    /// Every depth, the least first.
    pub const ALL: [Self; 3] = [Self::Sample, Self::Full, Self::Deep];

    /// The name that users read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::Full => "full",
            Self::Deep => "deep",
        }
    }
}

/// What verifies have found so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// When one has read all of it for the first time and found nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_at: Option<Timestamp>,
    /// When the last one that has read all of it found nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Timestamp>,
    /// How much that one has read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<Depth>,
    /// What the newest one found; none where it found nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Verified {
    /// What is known after one more verify. A sample that finds nothing proves nothing of the rest: neither that it is
    /// good, nor that what was found before is gone.
    #[must_use]
    pub fn and(&self, at: Timestamp, depth: Depth, found: Option<String>) -> Self {
        match found {
            Some(problem) => Self { problem: Some(problem), ..self.clone() },
            None if depth == Depth::Sample => self.clone(),
            None => Self { first_at: self.first_at.or(Some(at)), last_at: Some(at), depth: Some(depth), problem: None },
        }
    }
}

/// That somebody wants a backup to stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Since when.
    pub at: Timestamp,
    /// Who: an identity.
    pub by: String,
    /// Why; may be empty.
    pub reason: String,
}

/// All that the marks of a backup say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// Whether it is pinned.
    pub pin: Option<Pin>,
    /// When it was accepted as it is.
    pub accepted_at: Option<Timestamp>,
    /// What verifies have found.
    pub verified: Verified,
    /// When a backup of a newer version had been verified.
    pub superseded_at: Option<Timestamp>,
}

impl Marks {
    /// Takes a statement in, in place of what was said about the same before.
    pub fn take(&mut self, statement: Statement) {
        let Statement { at, by, says, .. } = statement;
        match says {
            Says::Pin { reason } => self.pin = Some(Pin { at, by, reason }),
            Says::Accept => self.accepted_at = Some(at),
            Says::Verify(verified) => self.verified = verified,
            Says::Upgrade { .. } => self.superseded_at = Some(at),
        }
    }
}

/// A signature over a statement's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Which key: SHA-256 of the public key's 32 bytes, hex.
    pub key: String,
    /// The 64 bytes of an Ed25519 signature, hex.
    pub ed25519: String,
}

/// Why a file is no mark of a backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MarkError {
    /// No JSON of the right shape.
    #[error("it cannot be read: {0}")]
    Malformed(String),
    /// Written by a newer version of this product.
    #[error("it has format version {0}, this version reads up to {FORMAT_VERSION}: update prexor-coordinator")]
    TooNew(u64),
    /// Of another backup, or of another manifest.
    #[error("it is about {0}")]
    Elsewhere(String),
}

/// The bytes of a mark's file. `sign` is given the statement's line, without its end.
pub fn write(statement: &Statement, sign: impl FnOnce(&[u8]) -> Option<Signature>) -> Vec<u8> {
    let mut out = serde_json::to_vec(statement).expect("a statement has only string keys and no numbers but integers");
    let signature = sign(&out);
    out.push(b'\n');
    if let Some(signature) = signature {
        out.extend(serde_json::to_vec(&signature).expect("two strings"));
        out.push(b'\n');
    }
    out
}

/// Reads a mark's file, which lies beside the manifest with this digest. Whether `trusted` is content with the line and
/// its signature is asked last.
///
/// # Errors
/// See [`MarkError`].
pub fn read(
    bytes: &[u8],
    mark: Mark,
    backup: &BackupId,
    manifest: &Sha256Digest,
    trusted: impl FnOnce(&[u8], Option<&Signature>) -> Result<(), String>,
) -> Result<Statement, MarkError> {
    let malformed = |e: &dyn std::fmt::Display| MarkError::Malformed(e.to_string());
    if bytes.len() > MAX_MARK {
        return Err(malformed(&format!("{} bytes are too many", bytes.len())));
    }
    let (line, rest) = bytes.split_at(bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len()));
    let value: serde_json::Value = serde_json::from_slice(line).map_err(|e| malformed(&e))?;
    match value.get("format_version").and_then(serde_json::Value::as_u64) {
        Some(v) if v > u64::from(FORMAT_VERSION) => return Err(MarkError::TooNew(v)),
        _ => {}
    }
    let statement: Statement = serde_json::from_value(value).map_err(|e| malformed(&e))?;
    let signature = match rest.trim_ascii() {
        [] => None,
        signature => Some(serde_json::from_slice::<Signature>(signature).map_err(|e| malformed(&e))?),
    };
    if statement.says.mark() != mark {
        return Err(MarkError::Elsewhere("something else than its name says".to_owned()));
    }
    if statement.backup != *backup {
        return Err(MarkError::Elsewhere(statement.backup.to_string()));
    }
    if statement.manifest_sha256 != *manifest {
        return Err(MarkError::Elsewhere("another manifest than the one beside it".to_owned()));
    }
    trusted(line, signature.as_ref()).map_err(MarkError::Malformed)?;
    Ok(statement)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn statement(says: Says) -> Statement {
        Statement {
            format_version: FORMAT_VERSION,
            backup: "bk-2026-05-10-001".parse().unwrap(),
            manifest_sha256: Sha256Digest::of(b"manifest"),
            at: "2026-05-11T08:00:00Z".parse().unwrap(),
            by: "prexor://c/operator/root".to_owned(),
            says,
        }
    }

    fn back(bytes: &[u8], mark: Mark) -> Result<Statement, MarkError> {
        let one = statement(Says::Accept);
        read(bytes, mark, &one.backup, &one.manifest_sha256, |_, _| Ok(()))
    }

    #[test]
    fn marks_come_back_signed_or_not() {
        let verified = Verified::default().and("2026-05-11T08:00:00Z".parse().unwrap(), Depth::Deep, None);
        for says in [
            Says::Pin { reason: "line\nbreak".to_owned() },
            Says::Accept,
            Says::Verify(verified),
            Says::Upgrade { version: "1.1.0".to_owned() },
        ] {
            let (mark, one) = (says.mark(), statement(says));
            assert_eq!(back(&write(&one, |_| None), mark).unwrap(), one);
            let signature = Signature { key: "k".to_owned(), ed25519: "s".to_owned() };
            let mut line = Vec::new();
            let signed = write(&one, |l| {
                line = l.to_vec();
                Some(signature.clone())
            });
            assert_eq!(signed.iter().filter(|b| **b == b'\n').count(), 2, "a statement is one line");
            let seen = |l: &[u8], s: Option<&Signature>| {
                assert_eq!((l, s), (&line[..], Some(&signature)));
                Err("forged".to_owned())
            };
            let refused = read(&signed, mark, &one.backup, &one.manifest_sha256, seen);
            assert_eq!(refused, Err(MarkError::Malformed("forged".to_owned())));
        }
    }

    #[test]
    fn what_is_about_something_else_says_nothing() {
        let one = statement(Says::Accept);
        let bytes = write(&one, |_| None);
        assert!(matches!(back(&bytes, Mark::Pin), Err(MarkError::Elsewhere(_))));
        let (other, id) = (Sha256Digest::of(b"x"), "bk-2026-05-10-002".parse().unwrap());
        let read = |id: &BackupId, digest: &Sha256Digest| read(&bytes, Mark::Accept, id, digest, |_, _| Ok(()));
        assert!(matches!(read(&id, &one.manifest_sha256), Err(MarkError::Elsewhere(e)) if e == "bk-2026-05-10-001"));
        assert!(matches!(read(&one.backup, &other), Err(MarkError::Elsewhere(_))));
        let newer = String::from_utf8(bytes).unwrap().replace("\"format_version\":1", "\"format_version\":2");
        assert_eq!(back(newer.as_bytes(), Mark::Accept), Err(MarkError::TooNew(2)));
    }

    #[test]
    fn a_sample_neither_proves_nor_excuses() {
        let at = |hour: i64| Timestamp::from_second(3600 * hour).unwrap();
        let none = Verified::default();
        assert_eq!(none.and(at(1), Depth::Sample, None), none);
        let good = none.and(at(2), Depth::Full, None).and(at(3), Depth::Deep, None);
        assert_eq!((good.first_at, good.last_at, good.depth), (Some(at(2)), Some(at(3)), Some(Depth::Deep)));
        let bad = good.and(at(4), Depth::Sample, Some("x".to_owned()));
        assert_eq!((bad.last_at, bad.problem.as_deref()), (Some(at(3)), Some("x")));
        assert_eq!(bad.and(at(5), Depth::Sample, None), bad);
        assert_eq!(bad.and(at(6), Depth::Full, None).problem, None);
    }

    proptest! {
        #[test]
        fn damage_is_an_error_and_never_a_panic(at in 0..400_usize, byte in any::<u8>(), cut in 0..400_usize) {
            let mut bytes = write(&statement(Says::Pin { reason: "r".to_owned() }), |_| {
                Some(Signature { key: "k".to_owned(), ed25519: "s".to_owned() })
            });
            if let Some(b) = bytes.get_mut(at) {
                *b = byte;
            }
            bytes.truncate(cut.max(1));
            let _ = back(&bytes, Mark::Pin);
        }
    }
}
