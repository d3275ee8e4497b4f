//! Proofs that data is the same before a backup and after its restore: by content, not by counts.
//!
//! A snapshot holds, per thing (collection, key, file), its aspects as text; two snapshots are compared aspect by aspect.
//! The readers here are independent of the product's.

mod files;
mod mongo;
mod valkey;

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use mongodb::Client;
use serde::{Deserialize, Serialize};

pub use self::{
    files::files,
    mongo::mongo,
    valkey::{corrected, valkey},
};
use crate::resp::Resp;

/// Aspects by name: `options`, `mode`, `value`.
pub type Aspects = BTreeMap<String, String>;
/// Things by name, each with its aspects.
pub type Things = BTreeMap<String, Aspects>;

/// A state of all three kinds of data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// By collection.
    pub mongo: Things,
    /// By database number and key.
    pub valkey: Things,
    /// By path below the root.
    pub files: Things,
}

impl Snapshot {
    /// Reads one database, every key (where there is a Valkey), and a tree without the top-level entries named by
    /// `excluded`.
    ///
    /// # Errors
    /// When something cannot be read.
    pub async fn take(
        client: &Client,
        database: &str,
        resp: Option<&mut Resp>,
        root: &Path,
        excluded: &[&str],
    ) -> Result<Self> {
        Ok(Self {
            mongo: mongo(client, database).await?,
            valkey: match resp {
                Some(resp) => valkey(resp).await?,
                None => Things::new(),
            },
            files: files(root, excluded)?,
        })
    }

    /// What a restore of this over `live` leaves: the same, but for what the restore laws correct.
    pub fn restored_over(&self, live: &Self) -> Self {
        let mut restored = Self { valkey: corrected(&self.valkey, &live.valkey), ..self.clone() };
        // Where the backup knows nothing of them they stay (laws L2 and L6).
        for name in ["cluster_leadership", "node_cert_revocations"] {
            if let (None, Some(aspects)) = (self.mongo.get(name), live.mongo.get(name)) {
                restored.mongo.insert(name.to_owned(), aspects.clone());
            }
        }
        restored
    }

    /// What differs in `after`, in words, one line each. Empty when all is equal.
    pub fn differences(&self, after: &Self) -> Vec<String> {
        let mut found = differences("mongo", &self.mongo, &after.mongo);
        found.extend(differences("valkey", &self.valkey, &after.valkey));
        found.extend(differences("files", &self.files, &after.files));
        found
    }

    /// How much was read: `27 collections with 5,210 documents, 61 keys, 412 files`.
    pub fn summary(&self) -> String {
        let documents: u64 = self.mongo.values().filter_map(|a| a.get("count")?.parse::<u64>().ok()).sum();
        format!(
            "{} collections with {documents} documents, {} keys, {} files",
            self.mongo.len(),
            self.valkey.len(),
            self.files.len()
        )
    }
}

/// What differs between two sets of things of one kind, in words, one line each.
pub fn differences(kind: &str, before: &Things, after: &Things) -> Vec<String> {
    let mut found = Vec::new();
    for (name, old) in before {
        let Some(new) = after.get(name) else {
            found.push(format!("{kind} {name}: missing"));
            continue;
        };
        for aspect in old.keys().chain(new.keys().filter(|k| !old.contains_key(*k))) {
            let (was, is) = (old.get(aspect), new.get(aspect));
            if was != is {
                let show = |v: Option<&String>| v.map_or_else(|| "nothing".to_owned(), Clone::clone);
                found.push(format!("{kind} {name}: {aspect} was {}, is {}", show(was), show(is)));
            }
        }
    }
    found.extend(after.keys().filter(|name| !before.contains_key(*name)).map(|name| format!("{kind} {name}: new")));
    found
}

/// A value as people can read it when it is short, else its length and digest.
fn show(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    if bytes.len() <= 120 {
        bytes.escape_ascii().to_string()
    } else {
        format!("{} bytes, sha256 {}", bytes.len(), hex::encode(Sha256::digest(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn things(list: &[(&str, &str, &str)]) -> Things {
        let mut things = Things::new();
        for (name, aspect, value) in list {
            things.entry((*name).into()).or_default().insert((*aspect).into(), (*value).into());
        }
        things
    }

    #[test]
    fn every_way_to_differ_is_told() {
        let before = things(&[("a", "x", "1"), ("b", "x", "1"), ("b", "y", "2"), ("c", "x", "1")]);
        let after = things(&[("a", "x", "1"), ("b", "x", "2"), ("b", "z", "3"), ("d", "x", "1")]);
        assert_eq!(
            differences("k", &before, &after),
            ["k b: x was 1, is 2", "k b: y was 2, is nothing", "k b: z was nothing, is 3", "k c: missing", "k d: new"]
        );
        assert!(differences("k", &before, &before).is_empty());
    }
}
