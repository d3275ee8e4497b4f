//! A whole file in figures: keys and content digests by family.

use std::{collections::BTreeMap, io::Read};

use super::{
    error::RdbError,
    family::family,
    reader::{Checksum, Entry, Functions, Kind, Reader},
};
use crate::{
    digest::{ContentHasher, Order},
    manifest::KeyFamily,
};

/// What a file holds. Equal for files that would make equal servers, but for version and informational fields.
#[derive(Debug, Clone, PartialEq)]
pub struct RdbSummary {
    /// The RDB version of the header.
    pub version: u32,
    /// Informational fields of the file, in its order.
    pub aux: Vec<(String, String)>,
    /// Keys in all logical databases.
    pub keys: u64,
    /// Those with an expiry.
    pub expiring_keys: u64,
    /// One for each family that has keys, sorted by name.
    pub families: Vec<KeyFamily>,
    /// Libraries of functions.
    pub functions: Functions,
    /// Whether the checksum vouches for the file.
    pub checksum: Checksum,
    /// Length of the file.
    pub size_bytes: u64,
}

/// Adds entries up to an [`RdbSummary`].
#[derive(Debug, Default)]
pub struct Summary {
    alive_at_ms: Option<i64>,
    keys: u64,
    expiring_keys: u64,
    families: BTreeMap<String, (u64, ContentHasher)>,
}

impl Summary {
    /// Counts every key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves out keys that expire before or at this time, in milliseconds since the epoch: what a server that has not
    /// got round to deleting them and one that has agree on.
    pub fn alive_at(ms: i64) -> Self {
        Self { alive_at_ms: Some(ms), ..Self::default() }
    }

    /// Adds a key. Collections without elements do not count: a server does not load them.
    pub fn add(&mut self, entry: &Entry<'_>) {
        let empty = entry.elements == 0 && entry.kind != Kind::Stream;
        let expired = self.alive_at_ms.zip(entry.expires_at_ms).is_some_and(|(now, at)| at <= now);
        if empty || expired {
            return;
        }
        self.keys += 1;
        self.expiring_keys += u64::from(entry.expires_at_ms.is_some());
        let name = family(entry.key);
        let (keys, content) = match self.families.get_mut(name) {
            Some(family) => family,
            None => self.families.entry(name.to_owned()).or_insert_with(|| (0, ContentHasher::new(Order::Multiset))),
        };
        *keys += 1;
        content.add_digest(&entry.digest);
    }

    /// The sum, with what `reader` knows of the file that it has read to the end.
    pub fn finish<R: Read>(self, reader: &Reader<R>) -> RdbSummary {
        let family =
            |(name, (keys, content)): (_, (_, ContentHasher))| KeyFamily { name, keys, content: content.finish() };
        RdbSummary {
            version: reader.version(),
            aux: reader.aux().to_vec(),
            keys: self.keys,
            expiring_keys: self.expiring_keys,
            families: self.families.into_iter().map(family).collect(),
            functions: reader.functions(),
            checksum: reader.checksum().unwrap_or(Checksum::Absent),
            size_bytes: reader.position(),
        }
    }
}

/// Reads a file to its end and sums it up.
///
/// # Errors
/// When the file is damaged, or of a version that is not known here.
pub fn summarise<R: Read>(inner: R) -> Result<RdbSummary, RdbError> {
    let mut reader = Reader::new(inner)?;
    let mut summary = Summary::new();
    while let Some(entry) = reader.next_entry()? {
        summary.add(&entry);
    }
    Ok(summary.finish(&reader))
}
