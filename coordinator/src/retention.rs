//! Which backups have had their time. A pure function: it removes nothing, and knows no store and no clock.
//!
//! A backup of a class goes by the class's time, one without by what is asked for; counts keep some of both for longer.
//! Whatever is asked for, these stay: one that is pinned, one that a job needs, one whose copies are not complete, one that
//! is damaged, because nobody knows what is in it, and the newest good one of everything that it holds (there must be
//! something to restore, however long nobody made a backup). A suspect one is no good one, and the newest of those stays
//! too, because it may be the only one with what is new. What a restore has saved of the state before it counts as no
//! backup: it goes by its age, and stands in for no other.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use prexor_format::{class::Class, id::BackupId, text};

mod counts;
mod leftovers;
mod suspect;
#[cfg(test)]
mod tests;
mod upgrade;

pub use counts::Counts;
pub use leftovers::{Leftover, leftovers};
pub use suspect::{Figures, suspects};
pub use upgrade::{Upgrade, compare as compare_versions, superseded};

/// How far a backup can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// As far as anybody knows.
    Good,
    /// It has lost more than half of what the one before held, and nobody has said that it was meant to go.
    Suspect,
    /// Its manifest cannot be read, or a verify found something.
    Damaged,
}

/// What is known of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: BackupId,
    /// When it was begun.
    pub created: Timestamp,
    /// What it holds: kinds of artifacts, and the nodes they are from.
    pub holds: BTreeSet<String>,
    /// How far it can be relied on.
    pub standing: Standing,
    /// Whether a restore made it of what it replaced.
    pub safety: bool,
    /// The job that needs it, if one does.
    pub job: Option<String>,
    /// Who has pinned it, and why, if anybody has.
    pub pinned: Option<String>,
    /// The stores that are to have a copy of it and have none that is complete, in words; `None`: there is none such.
    pub copies_missing: Option<String>,
    /// How long it is to be kept.
    pub class: Option<Class>,
    /// How it stands to an upgrade.
    pub upgrade: Upgrade,
}

impl Candidate {
    /// Whether there is something to restore in it that can be relied on.
    fn is_good(&self) -> bool {
        self.standing == Standing::Good && !self.safety
    }

    /// In the order of creation; ids are in it where times are equal.
    fn place(&self) -> (Timestamp, &BackupId) {
        (self.created, &self.id)
    }
}

/// What stays how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Of each class.
    pub cadence: Cadence,
    /// What is not older than so many days of 24 hours, of backups without a class.
    pub days: Option<u32>,
    /// So many of each.
    pub counts: Counts,
}

/// How long each class is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cadence {
    /// Of [`Class::Hourly`].
    pub hourly: SignedDuration,
    /// Of [`Class::Daily`].
    pub daily: SignedDuration,
    /// Of [`Class::Weekly`].
    pub weekly: SignedDuration,
    /// Of [`Class::PreUpgrade`], from when a backup of a newer version was verified.
    pub pre_upgrade: SignedDuration,
}

impl Default for Cadence {
    /// The guide's table.
    fn default() -> Self {
        let days = |n: i64| SignedDuration::from_hours(24 * n);
        Self { hourly: days(1), daily: days(14), weekly: days(90), pre_upgrade: days(14) }
    }
}

/// What is to happen to a backup, and why, as people read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it goes.
    pub goes: bool,
    /// `older than 14 days`
    pub reason: String,
}

/// What the rules alone say of a backup.
enum Rule {
    /// It stays.
    Stays(String),
    /// Its time is over.
    Over(String),
    /// Nothing is said of it.
    Silent,
}

/// Judges every backup.
pub fn judge(candidates: &[Candidate], policy: &Policy, now: Timestamp) -> BTreeMap<BackupId, Verdict> {
    let counted = counts::kept(candidates, &policy.counts);
    let (covers, verified) = (Covers::of(candidates), upgrade::Verified::of(candidates));
    let verdict = |one: &Candidate| {
        let stays = |reason: String| Verdict { goes: false, reason };
        if let Some(pin) = &one.pinned {
            return stays(format!("pinned {pin}"));
        }
        let over = match by_time(one, &verified, policy, now) {
            Rule::Stays(reason) => return stays(reason),
            Rule::Over(reason) => Some(reason),
            Rule::Silent => None,
        };
        if let Some(reason) = counted.get(&one.id) {
            return stays(reason.clone());
        }
        let Some(over) = over else {
            return stays("no rule is about it".to_owned());
        };
        if one.standing == Standing::Damaged {
            return stays("damaged, what is in it is not known: `prexorctl backup delete` it".to_owned());
        }
        if let Some(job) = &one.job {
            return stays(format!("{job} uses it"));
        }
        if let Some(missing) = &one.copies_missing {
            return stays(format!("its copies are not complete: {missing}"));
        }
        if one.safety || covers.has_newer(one) {
            return Verdict { goes: true, reason: over };
        }
        stays(match one.standing {
            Standing::Suspect => "suspect, and the newest of what it holds".to_owned(),
            _ => "the newest good one of what it holds".to_owned(),
        })
    };
    candidates.iter().map(|one| (one.id.clone(), verdict(one))).collect()
}

fn by_time(one: &Candidate, verified: &upgrade::Verified<'_>, policy: &Policy, now: Timestamp) -> Rule {
    let within = |limit: SignedDuration, prefix: &str| {
        let (limit, young) = (in_words(limit), now.duration_since(one.created) <= limit);
        if young {
            Rule::Stays(format!("{prefix}not older than {limit}"))
        } else {
            Rule::Over(format!("{prefix}older than {limit}"))
        }
    };
    let cadence = &policy.cadence;
    match one.class.filter(|_| !one.safety) {
        Some(Class::Hourly) => within(cadence.hourly, "hourly, "),
        Some(Class::Daily) => within(cadence.daily, "daily, "),
        Some(Class::Weekly) => within(cadence.weekly, "weekly, "),
        Some(Class::PreUpgrade) => upgrade::rule(one, verified, cadence.pre_upgrade, now),
        None => match policy.days {
            Some(days) => within(SignedDuration::from_hours(24 * i64::from(days)), ""),
            None if !policy.counts.is_empty() && !one.safety => Rule::Over("no rule keeps it".to_owned()),
            None => Rule::Silent,
        },
    }
}

/// `14 days`, `1 day`, `36 h`.
fn in_words(span: SignedDuration) -> String {
    match (span.as_secs(), span.as_secs() / 86400) {
        (s, days) if s == days * 86400 => text::things(days.unsigned_abs(), "day"),
        _ => text::duration(span),
    }
}

/// Of everything that backups hold: the newest backup that holds as much.
struct Covers<'c> {
    good: BTreeMap<&'c BTreeSet<String>, (Timestamp, &'c BackupId)>,
    any: BTreeMap<&'c BTreeSet<String>, (Timestamp, &'c BackupId)>,
}

impl<'c> Covers<'c> {
    fn of(candidates: &'c [Candidate]) -> Self {
        let newest = |counts: &dyn Fn(&Candidate) -> bool| {
            let mut own: BTreeMap<&BTreeSet<String>, (Timestamp, &BackupId)> = BTreeMap::new();
            for one in candidates.iter().filter(|c| counts(c)) {
                let newest = own.entry(&one.holds).or_insert(one.place());
                *newest = one.place().max(*newest);
            }
            // There are few different sets, however many backups there are.
            let sets: BTreeSet<&BTreeSet<String>> = candidates.iter().map(|c| &c.holds).collect();
            let covering = |set: &&'c BTreeSet<String>| {
                own.iter().filter(|(other, _)| other.is_superset(set)).map(|(_, place)| *place).max()
            };
            sets.into_iter().filter_map(|set| Some((set, covering(&set)?))).collect()
        };
        Self { good: newest(&Candidate::is_good), any: newest(&|c| c.standing != Standing::Damaged && !c.safety) }
    }

    /// Whether a newer one stands in for it.
    fn has_newer(&self, one: &Candidate) -> bool {
        let by = if one.standing == Standing::Suspect { &self.any } else { &self.good };
        by.get(&one.holds).is_some_and(|newest| *newest > one.place())
    }
}
