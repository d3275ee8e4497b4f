//! Which backups have lost so much that nobody should rely on them before a person has looked.

use std::collections::BTreeMap;

use prexor_format::{id::BackupId, text};

/// How much is in a backup. What a restore has saved, what was imported and what is damaged has no figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// The backup.
    pub id: BackupId,
    /// Of MongoDB, where it holds that.
    pub documents: Option<u64>,
    /// Of Valkey, where it holds that.
    pub keys: Option<u64>,
    /// Whether somebody has said that what it has lost was meant to go.
    pub accepted: bool,
}

/// The last good figure of a kind, and whose it is.
type Before<'f> = Option<(u64, &'f BackupId)>;

/// The suspect ones of all backups, in the order of their creation, and why.
///
/// Each is measured against the last one that is not suspect itself: otherwise the second backup of an empty database
/// would be as good as ever.
pub fn suspects(all: &[Figures]) -> BTreeMap<BackupId, String> {
    let (mut documents, mut keys): (Before<'_>, Before<'_>) = (None, None);
    let mut found = BTreeMap::new();
    for one in all {
        let lost: Vec<String> = [(one.documents, documents, "document"), (one.keys, keys, "key")]
            .into_iter()
            .filter_map(|(now, before, thing)| loss(now?, before?, thing))
            .collect();
        if lost.is_empty() || one.accepted {
            documents = one.documents.map(|n| (n, &one.id)).or(documents);
            keys = one.keys.map(|n| (n, &one.id)).or(keys);
        } else {
            found.insert(one.id.clone(), lost.join(", "));
        }
    }
    found
}

fn loss(now: u64, (before, whose): (u64, &BackupId), thing: &str) -> Option<String> {
    // More than half: what is left is less than the other half.
    (now < before - now.min(before))
        .then(|| format!("{}, {} in {whose}", text::things(now, thing), text::count(before)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(number: usize, documents: Option<u64>, keys: Option<u64>, accepted: bool) -> Figures {
        Figures { id: format!("bk-2026-05-10-{:03}", number + 1).parse().unwrap(), documents, keys, accepted }
    }

    fn numbers(found: &BTreeMap<BackupId, String>) -> Vec<u32> {
        found.keys().map(BackupId::number).collect()
    }

    #[test]
    fn more_than_half_is_too_much() {
        let docs = |all: &[u64]| {
            let all: Vec<_> = all.iter().enumerate().map(|(n, d)| of(n, Some(*d), None, false)).collect();
            numbers(&suspects(&all))
        };
        assert!(docs(&[100, 50, 25, 13]).is_empty(), "half is not more than half");
        assert_eq!(docs(&[100, 49, 49, 0, 50, 24]), [2, 3, 4, 6]);
        assert_eq!(docs(&[0, 0, 1, 0]), [4]);
        assert!(docs(&[u64::MAX, u64::MAX]).is_empty());
        let mixed = [of(0, Some(1200), Some(10), false), of(1, None, Some(4), false), of(2, Some(12), Some(9), false)];
        let found = suspects(&mixed);
        assert_eq!(found[&mixed[1].id], "4 keys, 10 in bk-2026-05-10-001");
        assert_eq!(found[&mixed[2].id], "12 documents, 1,200 in bk-2026-05-10-001");
    }

    #[test]
    fn what_was_accepted_is_the_measure_of_the_next() {
        let all = [of(0, Some(100), None, false), of(1, Some(10), None, true), of(2, Some(10), None, false)];
        assert!(suspects(&all).is_empty());
        let again = [all.to_vec(), vec![of(3, Some(4), None, false)]].concat();
        assert_eq!(numbers(&suspects(&again)), [4]);
    }

    proptest! {
        #[test]
        fn a_good_one_has_half_of_the_good_one_before(
            all in proptest::collection::vec((proptest::option::of(0..40_u64), proptest::option::of(0..40_u64), any::<bool>()), 0..20)
        ) {
            let all: Vec<_> = all.into_iter().enumerate().map(|(n, (d, k, a))| of(n, d, k, a)).collect();
            let found = suspects(&all);
            let (mut documents, mut keys) = (0, 0);
            for one in &all {
                let enough = one.documents.is_none_or(|n| 2 * n >= documents) && one.keys.is_none_or(|n| 2 * n >= keys);
                prop_assert_eq!(found.contains_key(&one.id), !enough && !one.accepted);
                if !found.contains_key(&one.id) {
                    documents = one.documents.unwrap_or(documents);
                    keys = one.keys.unwrap_or(keys);
                }
            }
        }
    }
}
