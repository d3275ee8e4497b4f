//! What captures that never ended have left in the store. It was never a backup, so no rule for backups is about it.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use prexor_format::id::BackupId;

use super::Verdict;

/// A directory without a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Its name.
    pub id: BackupId,
    /// Whether it is on our list of what must go.
    pub doomed: bool,
    /// The job that is at work in it, if one is.
    pub job: Option<String>,
    /// Whether it has a list of checksums: the last that is written before the manifest.
    pub has_checksums: bool,
}

/// How old something must be that is not on our list: no capture takes that long, not even another coordinator's.
const PATIENCE: SignedDuration = SignedDuration::from_hours(48);

/// What is to happen to one.
pub fn leftovers(one: &Leftover, now: Timestamp) -> Verdict {
    let verdict = |goes, reason: &str| Verdict { goes, reason: reason.to_owned() };
    if let Some(job) = &one.job {
        return Verdict { goes: false, reason: format!("{job} is at work in it") };
    }
    if one.doomed {
        return verdict(true, "what a failed capture or a delete has left");
    }
    if one.has_checksums {
        return verdict(
            false,
            "it has a list of checksums and no manifest, which somebody may have removed: `prexorctl backup delete` it",
        );
    }
    let begun = one.id.day().to_zoned(TimeZone::UTC).map_or(now, |day| day.timestamp());
    match now.duration_since(begun) > PATIENCE {
        true => verdict(true, "what a capture has left that never ended"),
        false => verdict(false, "a capture that has not ended may still be at work in it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_be_a_backup_goes() {
        let now = "2026-05-10T08:00:00Z".parse().unwrap();
        let of = |id: &str| Leftover { id: id.parse().unwrap(), doomed: false, job: None, has_checksums: false };
        let old = of("bk-2026-05-07-001");
        let used = Leftover { doomed: true, job: Some("job-1".to_owned()), ..old.clone() };
        let whole = Leftover { has_checksums: true, ..old.clone() };
        let ours = Leftover { doomed: true, ..of("bk-2026-05-10-001") };
        for (one, goes, says) in [
            (&old, true, "never ended"),
            (&of("bk-2026-05-09-001"), false, "still be at work"),
            (&of("bk-2026-05-11-001"), false, "still be at work"),
            (&used, false, "job-1"),
            (&whole, false, "checksums"),
            (&ours, true, "failed capture"),
        ] {
            let verdict = leftovers(one, now);
            assert!(verdict.goes == goes && verdict.reason.contains(says), "{one:?}: {verdict:?}");
        }
    }
}
