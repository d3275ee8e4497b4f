//! Laws L2, L6 and L7: what of PrexorCloud's records in MongoDB must not go back in time.
//!
//! A pure function of what was live and what the backup brings. It knows no server; somebody else collects a [`State`]
//! and carries the [`Corrections`] out.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::GAP;
use crate::text::things;

/// Who leads the cluster, and the epoch that daemons remember the highest of (law L2).
pub const LEADERSHIP: &str = "cluster_leadership";
/// Certificates of nodes that are no longer good (law L6).
pub const REVOCATIONS: &str = "node_cert_revocations";
/// Tokens that are good for joining the cluster once (law L7).
pub const JOIN_TOKENS: &str = "cluster_join_tokens";
/// The field of any record that says in which epoch its owner led.
pub const STAMP: &str = "ownerEpoch";
/// The field of a record of [`LEADERSHIP`] with the epoch.
pub const EPOCH: &str = "epoch";
/// The field of a record of [`LEADERSHIP`] that says who leads.
pub const HOLDER: &str = "holder";
/// The field of a record of [`JOIN_TOKENS`] that is a time once the token was used.
pub const REDEEMED: &str = "redeemedAt";

/// What the laws need to know of a database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// The highest epoch of [`LEADERSHIP`].
    pub epoch: Option<i64>,
    /// The highest [`STAMP`] of any record.
    pub stamp: Option<i64>,
    /// `_id`s of [`REVOCATIONS`], as BSON.
    pub revocations: BTreeSet<Vec<u8>>,
    /// `_id`s of those of [`JOIN_TOKENS`] that could still be used, as BSON.
    pub open_tokens: BTreeSet<Vec<u8>>,
}

/// What is not as in the backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Corrections {
    /// L2: the epoch goes on at this number, and nobody holds it.
    pub epoch: Option<i64>,
    /// L6: these revocations of now, by `_id`, stay in force; where the backup has one too, it is as it was now.
    pub revocations: BTreeSet<Vec<u8>>,
    /// L7: these join tokens of the backup are left out.
    pub tokens: BTreeSet<Vec<u8>>,
}

/// What follows from the laws.
#[must_use]
pub fn corrections(live: &State, backup: &State) -> Corrections {
    let known = [live.epoch, live.stamp, backup.epoch, backup.stamp];
    // Where nobody ever led there is nothing to go on from.
    let led = backup.epoch.is_some() || live.epoch.is_some();
    let highest = known.into_iter().flatten().max().filter(|_| led);
    Corrections {
        epoch: highest.map(|highest| highest.max(0).saturating_add(GAP)),
        revocations: live.revocations.clone(),
        tokens: backup.open_tokens.clone(),
    }
}

/// The same for people, a line each.
#[must_use]
pub fn words(corrections: &Corrections, live: &State, backup: &State) -> Vec<String> {
    let number = |n: Option<i64>| n.map_or_else(|| "none".to_owned(), |n| n.to_string());
    let mut out = Vec::new();
    if let Some(to) = corrections.epoch {
        out.push(format!(
            "{LEADERSHIP}.{EPOCH} goes on at {to} (in the backup {}, live {}, highest {STAMP} {}), and nobody holds it (law L2)",
            number(backup.epoch),
            number(live.epoch),
            number(live.stamp.max(backup.stamp))
        ));
    }
    let more = corrections.revocations.difference(&backup.revocations).count() as u64;
    if more > 0 {
        out.push(format!("{REVOCATIONS}: {} made since the backup stay in force (law L6)", things(more, "revocation")));
    }
    let open = corrections.tokens.len() as u64;
    if open > 0 {
        out.push(format!(
            "{JOIN_TOKENS}: {} of the backup that nobody had used then are left out (law L7)",
            things(open, "token")
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state() -> impl Strategy<Value = State> {
        let number = || proptest::option::of(prop_oneof![-5_i64..100, Just(i64::MAX - 1)]);
        let ids = || proptest::collection::btree_set(proptest::collection::vec(any::<u8>(), 1..3), 0..6);
        (number(), number(), ids(), ids()).prop_map(|(epoch, stamp, revocations, open_tokens)| State {
            epoch,
            stamp,
            revocations,
            open_tokens,
        })
    }

    proptest! {
        #[test]
        fn nothing_is_given_back(live in state(), backup in state()) {
            let done = corrections(&live, &backup);
            if let Some(epoch) = done.epoch {
                for known in [live.epoch, live.stamp, backup.epoch, backup.stamp].into_iter().flatten() {
                    prop_assert!(epoch > known || known >= i64::MAX - GAP);
                }
            } else {
                prop_assert!(live.epoch.is_none() && backup.epoch.is_none());
            }
            prop_assert!(live.revocations.is_subset(&done.revocations));
            prop_assert_eq!(&done.tokens, &backup.open_tokens);
        }
    }

    #[test]
    fn people_are_told_the_numbers() {
        let id = |n: u8| BTreeSet::from([vec![n]]);
        let live = State { epoch: Some(57), stamp: Some(60), revocations: id(1), open_tokens: id(9) };
        let backup = State { epoch: Some(41), stamp: None, revocations: id(2), open_tokens: id(3) };
        let told = words(&corrections(&live, &backup), &live, &backup).join("\n");
        for part in ["goes on at 1000060 (in the backup 41, live 57, highest ownerEpoch 60)", "1 revocation", "1 token"]
        {
            assert!(told.contains(part), "{told}");
        }
        let same = words(&corrections(&State::default(), &State::default()), &State::default(), &State::default());
        assert_eq!(same, [] as [String; 0]);
    }
}
