//! Backups that were made before an upgrade: when it has proved itself, and which of two versions is the newer one.

use std::{cmp::Ordering, collections::BTreeMap};

use jiff::{SignedDuration, Timestamp};
use prexor_format::{class::Class, id::BackupId};

use super::{Candidate, Rule, in_words};

/// How a backup stands to an upgrade.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upgrade {
    /// The version of PrexorCloud that it is of; `None` where nobody knows.
    pub version: Option<String>,
    /// When it was verified as a whole for the first time.
    pub verified_at: Option<Timestamp>,
    /// When a backup of a newer version had been verified, where that was noted: that backup may have had its time long
    /// before this one has.
    pub superseded_at: Option<Timestamp>,
}

/// Backups from before an upgrade of which it was not noted yet that a backup of a newer version was verified: since when
/// one was, and its version.
pub fn superseded(candidates: &[Candidate]) -> BTreeMap<BackupId, (Timestamp, String)> {
    let verified = Verified::of(candidates);
    let before_upgrade = |c: &&Candidate| c.class == Some(Class::PreUpgrade) && !c.safety;
    let waiting = candidates.iter().filter(before_upgrade).filter(|c| c.upgrade.superseded_at.is_none());
    waiting.filter_map(|one| Some((one.id.clone(), verified.newer_than(one)?))).collect()
}

/// The good backups that were verified, by their version: each in the order of creation, with the first time at which it
/// or one after it was verified.
pub(super) struct Verified<'c>(BTreeMap<&'c str, Vec<(Place<'c>, Timestamp)>>);

type Place<'c> = (Timestamp, &'c BackupId);

impl<'c> Verified<'c> {
    pub(super) fn of(candidates: &'c [Candidate]) -> Self {
        let mut by_version: BTreeMap<&str, Vec<(Place<'_>, Timestamp)>> = BTreeMap::new();
        for one in candidates.iter().filter(|c| c.is_good()) {
            if let (Some(version), Some(at)) = (one.upgrade.version.as_deref(), one.upgrade.verified_at) {
                by_version.entry(version).or_default().push((one.place(), at));
            }
        }
        for all in by_version.values_mut() {
            all.sort();
            let mut first = None;
            for (_, at) in all.iter_mut().rev() {
                *at = first.map_or(*at, |first: Timestamp| first.min(*at));
                first = Some(*at);
            }
        }
        Self(by_version)
    }

    /// When the first good backup of a newer version was verified that was made after this one, and that version.
    fn newer_than(&self, one: &Candidate) -> Option<(Timestamp, String)> {
        let own = one.upgrade.version.as_deref()?;
        let newer = self.0.iter().filter(|(version, _)| compare(version, own) == Ordering::Greater);
        let first = newer.filter_map(|(version, all)| {
            let after = all.partition_point(|(place, _)| *place <= one.place());
            Some((all.get(after)?.1, (*version).to_owned()))
        });
        first.min()
    }
}

pub(super) fn rule(one: &Candidate, verified: &Verified<'_>, keep: SignedDuration, now: Timestamp) -> Rule {
    let found = || verified.newer_than(one).map(|(at, _)| at);
    let (since, span) = (one.upgrade.superseded_at.or_else(found), in_words(keep));
    match since {
        Some(since) if now.duration_since(since) > keep => {
            Rule::Over(format!("pre-upgrade, a backup of a newer version was verified more than {span} ago"))
        }
        Some(_) => {
            Rule::Stays(format!("pre-upgrade, a backup of a newer version was verified not more than {span} ago"))
        }
        None if one.upgrade.version.is_none() => Rule::Stays(
            "pre-upgrade, of an unknown version (controller.version_command in agent.yml): `prexorctl backup delete` it \
             when the upgrade is done"
                .to_owned(),
        ),
        None => Rule::Stays(format!("pre-upgrade, until {span} after a backup of a newer version was verified")),
    }
}

/// Which of two versions is the newer one: numbers count as numbers, and `1.1.0-rc1` comes before `1.1.0`.
pub fn compare(a: &str, b: &str) -> Ordering {
    let parts = |v: &str| -> (Vec<u64>, Option<String>) {
        // What was built of a version says nothing about its age.
        let v = v.trim().trim_start_matches(['v', 'V']);
        let v = v.split('+').next().unwrap_or_default();
        let (numbers, rest) = v.split_once('-').map_or((v, None), |(numbers, rest)| (numbers, Some(rest.to_owned())));
        let mut numbers: Vec<u64> = numbers.split('.').map(|n| n.parse().unwrap_or(0)).collect();
        while numbers.last() == Some(&0) {
            numbers.pop();
        }
        (numbers, rest)
    };
    let ((a, a_rest), (b, b_rest)) = (parts(a), parts(b));
    a.cmp(&b).then_with(|| match (a_rest, b_rest) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) => pieces(&a).cmp(&pieces(&b)),
    })
}

/// What follows the numbers: `rc.10` comes after `rc.9`, and numbers before words.
fn pieces(rest: &str) -> Vec<(u64, String)> {
    let mut out = Vec::new();
    for piece in rest.split(['.', '-']) {
        let digits = piece.len() - piece.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let (word, number) = piece.split_at(piece.len() - digits);
        if !word.is_empty() {
            out.push((u64::MAX, word.to_owned()));
        }
        out.extend(number.parse().ok().map(|n| (n, String::new())));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let rising = ["0.9", "1.0.0-rc1", "1.0.0-rc.2", "1.0.0-rc10", "1.0", "1.0.1", "v1.2", "1.10.0", "2"];
        for (i, a) in rising.iter().enumerate() {
            for (j, b) in rising.iter().enumerate() {
                // rc1 and rc.2 are the same word with another number.
                assert_eq!(compare(a, b), i.cmp(&j), "{a} {b}");
            }
        }
        assert_eq!(compare("1.0.0+7", "1.0"), Ordering::Equal);
        assert_eq!(compare("", "x"), Ordering::Equal, "what is no version is none that is newer");
    }
}
