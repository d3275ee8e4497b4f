//! So many of each: the newest, and the newest of each hour, day, week, month and year (grandfather, father, son).

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Timestamp, Zoned, tz::TimeZone};
use prexor_format::id::BackupId;

use super::Candidate;

/// How many stay, of backups that hold the same; 0 where it is not asked for. Times are UTC, weeks are ISO 8601's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// The newest.
    pub last: u32,
    /// The newest of each hour that has one.
    pub hourly: u32,
    /// The newest of each day that has one.
    pub daily: u32,
    /// The newest of each week that has one.
    pub weekly: u32,
    /// The newest of each month that has one.
    pub monthly: u32,
    /// The newest of each year that has one.
    pub yearly: u32,
}

/// Which hour, day, week, month or year a time is in.
type Bucket = fn(&Zoned) -> String;

impl Counts {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// How many, of what, and which of these a time is in.
    fn rules(&self) -> [(u32, &'static str, Bucket); 5] {
        [
            (self.hourly, "the newest of the hour", |t| t.strftime("%Y-%m-%dT%H").to_string()),
            (self.daily, "the newest of the day", |t| t.date().to_string()),
            (self.weekly, "the newest of the week", |t| t.strftime("%G-W%V").to_string()),
            (self.monthly, "the newest of the month", |t| t.strftime("%Y-%m").to_string()),
            (self.yearly, "the newest of the year", |t| t.strftime("%Y").to_string()),
        ]
    }
}

/// Which stay, and why. Only good ones count: otherwise failures would take the places.
pub(super) fn kept(candidates: &[Candidate], counts: &Counts) -> BTreeMap<BackupId, String> {
    let mut kept = BTreeMap::new();
    if counts.is_empty() {
        return kept;
    }
    let mut groups: BTreeMap<&BTreeSet<String>, Vec<&Candidate>> = BTreeMap::new();
    for one in candidates.iter().filter(|c| c.is_good()) {
        groups.entry(&one.holds).or_default().push(one);
    }
    for group in groups.values_mut() {
        group.sort_by(|a, b| b.place().cmp(&a.place()));
        for (n, one) in group.iter().take(counts.last as usize).enumerate() {
            kept.insert(one.id.clone(), format!("number {} of the {} newest", n + 1, counts.last));
        }
        for (many, of, bucket) in counts.rules() {
            let mut seen = BTreeSet::new();
            for one in group.iter() {
                if seen.len() == many as usize {
                    break;
                }
                let bucket = bucket(&in_utc(one.created));
                if seen.insert(bucket.clone()) {
                    kept.entry(one.id.clone()).or_insert_with(|| format!("{of} {bucket}"));
                }
            }
        }
    }
    kept
}

fn in_utc(t: Timestamp) -> Zoned {
    t.to_zoned(TimeZone::UTC)
}
