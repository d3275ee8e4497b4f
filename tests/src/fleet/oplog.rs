//! What the replica set's own log says of controllers' writes and of a restore's renamings, in their order.

use std::collections::BTreeSet;

use futures::TryStreamExt as _;
use mongodb::{
    Client,
    bson::{Bson, Document, Timestamp, doc},
};

use super::{Fleet, LEADERSHIP, WRITES};
use crate::dataset::DATABASE;

/// A write of a controller, or a renaming by a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Logged {
    /// An insert, with the fencing numbers that it bears: the token of a lease, and of whoever leads the epoch.
    Write {
        /// Drawn from Valkey.
        token: Option<i64>,
        /// Drawn from MongoDB.
        epoch: Option<i64>,
    },
    /// Somebody took the leadership or kept it.
    Leads,
    /// A collection was put in another's place, or away.
    Rename,
}

/// Fencing numbers of either kind.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Numbers {
    /// Tokens of leases.
    pub tokens: BTreeSet<i64>,
    /// Epochs of leaders.
    pub epochs: BTreeSet<i64>,
}

impl Numbers {
    /// Those that these writes bear.
    pub fn of(logged: &[Logged]) -> Self {
        let mut numbers = Self::default();
        for entry in logged {
            if let Logged::Write { token, epoch } = entry {
                numbers.tokens.extend(token);
                numbers.epochs.extend(epoch);
            }
        }
        numbers
    }

    /// Whether all of these were given out before all of those.
    pub fn are_below(&self, others: &Self) -> bool {
        let below = |old: &BTreeSet<i64>, new: &BTreeSet<i64>| old.last() < new.first() || new.is_empty();
        below(&self.tokens, &others.tokens) && below(&self.epochs, &others.epochs)
    }
}

impl Fleet {
    /// Where the log ends now.
    pub fn end_of_oplog(&self) -> Timestamp {
        let uri = self.mongo_uri();
        self.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&uri).await.expect("MongoDB");
            let oplog = client.database("local").collection::<Document>("oplog.rs");
            let last = oplog.find_one(doc! {}).sort(doc! { "$natural": -1 }).await.expect("the oplog");
            last.expect("an entry").get_timestamp("ts").expect("its time")
        })
    }

    /// What came after this.
    pub fn oplog_since(&self, then: Timestamp) -> Vec<Logged> {
        let uri = self.mongo_uri();
        self.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&uri).await.expect("MongoDB");
            let oplog = client.database("local").collection::<Document>("oplog.rs");
            let writes = doc! { "ns": format!("{DATABASE}.{WRITES}"), "op": "i" };
            // An agent changes the record, too, but never says that it was renewed.
            let field = |part: &str| doc! { format!("o.diff.{part}.renewedAt"): { "$exists": true } };
            let leads = doc! { "ns": format!("{DATABASE}.{LEADERSHIP}"), "op": "u", "$or": [field("u"), field("i")] };
            let renames = doc! { "ns": format!("{DATABASE}.$cmd"), "o.renameCollection": { "$exists": true } };
            let found = oplog.find(doc! { "ts": { "$gt": then }, "$or": [writes, leads, renames] });
            let found: Vec<Document> = found.await.expect("the oplog").try_collect().await.expect("the oplog");
            found.iter().map(Logged::from).collect()
        })
    }

    /// Of all that ever happened.
    pub fn oplog(&self) -> Vec<Logged> {
        self.oplog_since(Timestamp { time: 0, increment: 0 })
    }
}

impl From<&Document> for Logged {
    fn from(entry: &Document) -> Self {
        let o = entry.get_document("o").expect("an operation");
        let number = |field: &str| o.get(field).and_then(Bson::as_i64);
        match entry.get_str("op") {
            Ok("i") => Self::Write { token: number("token"), epoch: number("ownerEpoch") },
            Ok("u") => Self::Leads,
            _ => Self::Rename,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_given_out_again_are_seen() {
        let write = |token, epoch| Logged::Write { token, epoch };
        let numbers = |logged: &[Logged]| Numbers::of(logged);
        let old = numbers(&[write(Some(3), None), Logged::Rename, write(Some(4), Some(41)), Logged::Leads]);
        assert!(old.are_below(&numbers(&[write(Some(5), Some(42))])));
        assert!(old.are_below(&numbers(&[write(None, Some(42))])) && old.are_below(&numbers(&[])));
        assert!(!old.are_below(&numbers(&[write(Some(5), Some(41))])));
        assert!(!old.are_below(&numbers(&[write(Some(4), Some(42))])));
    }
}
