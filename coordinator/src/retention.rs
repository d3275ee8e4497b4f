//! Which backups have had their time. A pure function: it removes nothing, and knows no store and no clock.
//!
//! Whatever is asked for, these stay: the newest good backup of everything that it holds (there must be something to
//! restore, however long nobody made a backup), one that a job needs, and one that is damaged, because nobody knows what
//! is in it. What a restore has saved of the state before it counts as no backup: it goes by its age, and stands in for no
//! other.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use prexor_format::id::BackupId;

/// What is known of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: BackupId,
    /// When it was begun.
    pub created: Timestamp,
    /// What it holds: kinds of artifacts, and the nodes they are from.
    pub holds: BTreeSet<String>,
    /// Whether its manifest can be read.
    pub good: bool,
    /// Whether a restore made it of what it replaced.
    pub safety: bool,
    /// The job that needs it, if one does.
    pub job: Option<String>,
}

/// What is to happen to a backup, and why, as people read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it goes.
    pub goes: bool,
    /// `older than 14 days`
    pub reason: String,
}

/// Judges every backup, where those stay that are not older than `days` days of 24 hours.
pub fn keep_days(candidates: &[Candidate], days: u32, now: Timestamp) -> BTreeMap<BackupId, Verdict> {
    let young = SignedDuration::from_hours(i64::from(days) * 24);
    let judge = |one: &Candidate| {
        let stays = |reason: String| Verdict { goes: false, reason };
        if now.duration_since(one.created) <= young {
            return stays(format!("not older than {}", in_days(days)));
        }
        if !one.good {
            return stays("damaged, what is in it is not known: `prexorctl backup delete` it".to_owned());
        }
        if let Some(job) = &one.job {
            return stays(format!("{job} uses it"));
        }
        // Ids are in the order of creation where times are equal.
        let newer = |other: &&Candidate| (other.created, &other.id) > (one.created, &one.id);
        let covers = |other: &&Candidate| other.good && !other.safety && other.holds.is_superset(&one.holds);
        match candidates.iter().filter(newer).find(covers) {
            found if found.is_some() || one.safety => {
                Verdict { goes: true, reason: format!("older than {}", in_days(days)) }
            }
            _ => stays("the newest good one of what it holds".to_owned()),
        }
    };
    candidates.iter().map(|one| (one.id.clone(), judge(one))).collect()
}

fn in_days(days: u32) -> String {
    if days == 1 { "1 day".to_owned() } else { format!("{days} days") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 24 * 3600;
    const NOW: i64 = 1_000 * DAY;

    /// `age` in days.
    fn candidate(number: u16, age: i64, holds: &[&str]) -> Candidate {
        Candidate {
            id: format!("bk-2026-05-10-{number:03}").parse().unwrap(),
            created: Timestamp::from_second(NOW - age * DAY).unwrap(),
            holds: holds.iter().map(|h| (*h).to_owned()).collect(),
            good: true,
            safety: false,
            job: None,
        }
    }

    fn judged(candidates: &[Candidate], days: u32) -> Vec<(bool, String)> {
        let all = keep_days(candidates, days, Timestamp::from_second(NOW).unwrap());
        candidates.iter().map(|c| (all[&c.id].goes, all[&c.id].reason.clone())).collect()
    }

    #[test]
    fn what_is_old_goes_when_something_newer_holds_as_much() {
        let all = ["mongo", "valkey", "h1"];
        let damaged = Candidate { good: false, ..candidate(6, 30, &all) };
        let used = Candidate { job: Some("job-1".to_owned()), ..candidate(7, 31, &all) };
        let candidates = [
            candidate(1, 1, &all),
            candidate(2, 14, &all),
            candidate(3, 15, &all),
            candidate(4, 20, &["mongo"]),
            candidate(5, 20, &["mongo", "h2"]),
            damaged,
            used,
        ];
        let judged = judged(&candidates, 14);
        assert_eq!(
            judged.iter().map(|(goes, _)| *goes).collect::<Vec<_>>(),
            [false, false, true, true, false, false, false]
        );
        let reasons: Vec<_> = judged.iter().map(|(_, reason)| reason.as_str()).collect();
        assert_eq!(
            reasons[..5],
            [
                "not older than 14 days",
                "not older than 14 days",
                "older than 14 days",
                "older than 14 days",
                "the newest good one of what it holds",
            ]
        );
        assert!(reasons[5].starts_with("damaged"));
        assert_eq!(reasons[6], "job-1 uses it");
    }

    #[test]
    fn the_last_ones_stay_however_old_they_are() {
        let saved = |number, age| Candidate { safety: true, ..candidate(number, age, &["mongo", "valkey"]) };
        let candidates = [
            candidate(1, 400, &["mongo"]),
            candidate(2, 300, &["mongo"]),
            candidate(3, 900, &["valkey"]),
            saved(4, 2),
            saved(5, 1),
        ];
        let judged = judged(&candidates, 1);
        assert_eq!(judged.iter().map(|(goes, _)| *goes).collect::<Vec<_>>(), [true, false, false, true, false]);
    }

    fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let one = (0..40_i64, proptest::collection::btree_set("[abc]", 0..4), any::<(bool, bool)>(), 0..5_u8);
        proptest::collection::vec(one, 0..30).prop_map(|all| {
            let candidates = all.into_iter().enumerate().map(|(n, (age, holds, (good, safety), job))| Candidate {
                holds,
                good,
                safety,
                job: (job == 0).then(|| "job".to_owned()),
                ..candidate(n as u16 + 1, age, &[])
            });
            candidates.collect()
        })
    }

    proptest! {
        #[test]
        fn nothing_is_lost_that_no_newer_good_backup_holds(candidates in any_candidates(), days in 1..30_u32) {
            let verdicts = keep_days(&candidates, days, Timestamp::from_second(NOW).unwrap());
            prop_assert_eq!(verdicts.len(), candidates.len());
            let stays = |c: &&Candidate| !verdicts[&c.id].goes;
            for gone in candidates.iter().filter(|c| verdicts[&c.id].goes) {
                prop_assert!(gone.good && gone.job.is_none());
                prop_assert!(NOW - gone.created.as_second() > i64::from(days) * DAY);
                // Not only one that may go as well: one that stays.
                let kept = gone.safety || candidates.iter().filter(stays).any(|c| {
                    c.good && !c.safety && c.holds.is_superset(&gone.holds) && (c.created, &c.id) > (gone.created, &gone.id)
                });
                prop_assert!(kept);
            }
        }

        #[test]
        fn removing_what_goes_makes_nothing_else_go(candidates in any_candidates(), days in 1..30_u32) {
            let now = Timestamp::from_second(NOW).unwrap();
            let verdicts = keep_days(&candidates, days, now);
            let left: Vec<_> = candidates.into_iter().filter(|c| !verdicts[&c.id].goes).collect();
            prop_assert!(keep_days(&left, days, now).values().all(|v| !v.goes));
        }
    }
}
