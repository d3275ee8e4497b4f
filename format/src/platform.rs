//! What a plan tells of PrexorCloud's own records: its daemons, accounts and instances, as they are live and in a backup.
//!
//! Only names, and marks by which a change is seen. No secret can be had from a mark: it has too few bits.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{bson::Elements, digest::Sha256Digest, laws::mongo::REVOCATIONS};

/// Daemons that have ever connected: `_id` is the daemon's name.
pub const DAEMONS: &str = "nodes";
/// Accounts: `_id` is the name, or `username` beside an `_id` that says nothing.
pub const USERS: &str = "users";
/// What instances are made of: `_id` is the instance's name, `nodeId` its daemon's.
pub const INSTANCES: &str = "instance_composition_plans";

/// The collections that [`Records`] are read from.
pub const COLLECTIONS: [&str; 4] = [DAEMONS, USERS, INSTANCES, REVOCATIONS];

/// Bytes of BSON of one of them that are read for a plan; of what is larger nothing is told.
pub const READ_MAX: u64 = 16 << 20;

/// `None` where a collection is not there, or was not read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Records {
    /// The names of [`DAEMONS`].
    pub daemons: Option<BTreeSet<String>>,
    /// The names of [`USERS`], with the [`mark`] of the password's hash.
    pub users: Option<BTreeMap<String, String>>,
    /// The names of [`INSTANCES`], with the daemon that runs each; empty where that is not said.
    pub instances: Option<BTreeMap<String, String>>,
    /// How many certificates of daemons are revoked.
    pub revocations: Option<u64>,
}

impl Records {
    /// A collection is there, and read from here on.
    pub fn begin(&mut self, collection: &str) {
        match collection {
            DAEMONS => self.daemons = Some(BTreeSet::new()),
            USERS => self.users = Some(BTreeMap::new()),
            INSTANCES => self.instances = Some(BTreeMap::new()),
            REVOCATIONS => self.revocations = Some(0),
            _ => {}
        }
    }

    /// It could not be read to its end: nothing is known of it.
    pub fn forget(&mut self, collection: &str) {
        match collection {
            DAEMONS => self.daemons = None,
            USERS => self.users = None,
            INSTANCES => self.instances = None,
            REVOCATIONS => self.revocations = None,
            _ => {}
        }
    }

    /// Takes note of a document of a collection that was begun. Those without a name are PrexorCloud's to complain of.
    pub fn add(&mut self, collection: &str, document: &[u8]) {
        if let (REVOCATIONS, Some(revocations)) = (collection, &mut self.revocations) {
            *revocations += 1;
            return;
        }
        let text = |field: &str| Elements::find(document, field).and_then(|e| e.as_str()).map(str::to_owned);
        let Some(name) = text("_id").or_else(|| text("username")) else { return };
        match (collection, &mut self.daemons, &mut self.users, &mut self.instances) {
            (DAEMONS, Some(daemons), _, _) => drop(daemons.insert(name)),
            (USERS, _, Some(users), _) => {
                let password = text("passwordHash").unwrap_or_default();
                users.insert(name, mark(password.as_bytes()));
            }
            (INSTANCES, _, _, Some(instances)) => {
                instances.insert(name, text("nodeId").unwrap_or_default());
            }
            _ => {}
        }
    }
}

/// Sixteen bits of a digest, in hex: two secrets that differ have the same mark once in 65,536 times, and of a secret it tells
/// whoever guesses too little to know that a guess is right.
#[must_use]
pub fn mark(secret: &[u8]) -> String {
    Sha256Digest::of(secret).0[..2].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bson::DocBuilder;

    fn document(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut doc = DocBuilder::new();
        for (name, value) in pairs {
            doc.string(name, value);
        }
        doc.finish()
    }

    #[test]
    fn names_and_marks_are_kept_and_nothing_else() {
        let mut records = Records::default();
        records.add(USERS, &document(&[("_id", "early")]));
        assert_eq!(records, Records::default(), "it was not begun");
        COLLECTIONS.iter().for_each(|c| records.begin(c));
        records.add(DAEMONS, &document(&[("_id", "node-1"), ("address", "10.0.0.1")]));
        records.add(USERS, &document(&[("_id", "ada"), ("passwordHash", "$2a$10$x")]));
        records.add(USERS, &document(&[("role", "nameless")]));
        records.add(USERS, &document(&[("username", "service-1")]));
        records.add(INSTANCES, &document(&[("_id", "lobby-1"), ("nodeId", "node-1")]));
        records.add(REVOCATIONS, &document(&[("_id", "serial:1")]));
        assert_eq!(records.daemons, Some(BTreeSet::from(["node-1".to_owned()])));
        assert_eq!(records.users.as_ref().unwrap()["ada"], mark(b"$2a$10$x"));
        assert_eq!(records.users.as_ref().unwrap().keys().collect::<Vec<_>>(), ["ada", "service-1"]);
        assert_eq!(records.instances.as_ref().unwrap()["lobby-1"], "node-1");
        assert_eq!(records.revocations, Some(1));
        let json = serde_json::to_string(&records).unwrap();
        assert!(!json.contains("$2a") && serde_json::from_str::<Records>(&json).unwrap() == records);
        records.forget(USERS);
        assert_eq!(records.users, None);
    }

    #[test]
    fn a_mark_has_too_few_bits_for_a_secret() {
        assert_eq!(mark(b"secret").len(), 4);
        assert_ne!(mark(b"secret"), mark(b"another"));
    }
}
