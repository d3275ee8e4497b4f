//! Verifies backups by itself, one after the other: the oldest that nobody has verified, then the one whose verify is the
//! longest ago.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use prexor_format::id::BackupId;
use prexor_proto::backup::{BackupState, JobKind};
use tokio_util::sync::CancellationToken;

use crate::{
    backups,
    catalog::IndexedBackup,
    context::Context,
    error::Error,
    jobs::{Reading, Task, Wait},
};

/// How often it is looked whether the next one is due.
const LOOK: Duration = Duration::from_secs(60);

/// In the catalog: when the last one was begun.
const LAST: &str = "scheduled-verify";

/// As whom it is asked for.
const WHO: &str = "coordinator";

/// The next to be verified, of all backups, newest first: none where all were verified since this time. What is known to be
/// damaged does not become better.
fn next(all: &[IndexedBackup], not_since: Timestamp) -> Option<BackupId> {
    let sound = |b: &&IndexedBackup| b.backup.state() == BackupState::Complete && b.marks.verified.problem.is_none();
    let verified = |b: &IndexedBackup| b.marks.verified.last_at;
    let oldest_unverified = all.iter().rev().filter(sound).find(|b| verified(b).is_none());
    let longest_ago = || {
        let due = all.iter().filter(sound).filter(|b| verified(b).is_some_and(|at| at < not_since));
        due.min_by_key(|b| verified(b))
    };
    oldest_unverified.or_else(longest_ago).map(|b| b.id.clone())
}

/// Begins verifies as they become due, until `stop` fires. Never the first one at once: a coordinator that is started again
/// and again has better things to do.
pub async fn keep_verifying(ctx: Arc<Context>, stop: CancellationToken) {
    let Some(every) = ctx.config.verify.every else { return };
    let mut tick = tokio::time::interval(LOOK.min(every));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if let Err(e) = verify_if_due(&ctx, every, Timestamp::now()).await {
            tracing::warn!("no backup is verified by itself for now: {e}");
        }
    }
}

async fn verify_if_due(ctx: &Arc<Context>, every: Duration, now: Timestamp) -> Result<(), Error> {
    let Some(last) = ctx.catalog.moment(LAST).await? else {
        return ctx.catalog.set_moment(LAST, now).await;
    };
    // A clock that was set back does not keep it from going on.
    let since = now.duration_since(last);
    if !since.is_negative() && since.unsigned_abs() < every {
        return Ok(());
    }
    let under_way = ctx.catalog.active_jobs().await?.iter().any(|row| row.job.kind() == JobKind::Verify);
    if under_way {
        return Ok(());
    }
    let again_after = SignedDuration::try_from(ctx.config.verify.again_after).unwrap_or(SignedDuration::MAX);
    let not_since = now.checked_sub(again_after).unwrap_or(Timestamp::MIN);
    if let Some(id) = next(&backups::all(ctx).await?, not_since) {
        let task = Task::Verify(id, Reading::Deep);
        ctx.jobs.submit(ctx, task, Wait::No, "", WHO).await?;
    }
    ctx.catalog.set_moment(LAST, now).await
}

#[cfg(test)]
mod tests {
    use prexor_format::marks::{Depth, Marks, Verified};
    use prexor_proto::backup::Backup;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn backup(number: u32, verified: Option<i64>, problem: Option<&str>) -> IndexedBackup {
        let id: BackupId = format!("bk-2026-05-10-{number:03}").parse().unwrap();
        let last_at = verified.map(at);
        let verified =
            Verified { first_at: last_at, last_at, depth: Some(Depth::Full), problem: problem.map(str::to_owned) };
        IndexedBackup {
            backup: Backup { id: id.to_string(), state: BackupState::Complete.into(), ..Backup::default() },
            id,
            stamp: "s".to_owned(),
            order: at(number.into()),
            marks: Marks { verified, ..Marks::default() },
        }
    }

    #[test]
    fn the_oldest_unverified_comes_first_then_the_longest_ago() {
        let number = |all: &[IndexedBackup], not_since| next(all, at(not_since)).map(|id| id.number());
        let damaged = IndexedBackup {
            backup: Backup { state: BackupState::Damaged.into(), ..Backup::default() },
            ..backup(1, None, None)
        };
        // Newest first.
        let all = [
            backup(6, None, None),
            backup(5, Some(30), None),
            backup(4, None, None),
            backup(3, Some(20), None),
            backup(2, None, Some("damaged")),
            damaged,
        ];
        assert_eq!(number(&all, 100), Some(4));
        let verified = [all[1].clone(), all[3].clone(), all[4].clone(), all[5].clone()];
        assert_eq!(number(&verified, 100), Some(3));
        assert_eq!(number(&verified, 25), Some(3));
        assert_eq!(number(&verified, 20), None);
        assert_eq!(number(&[], 100), None);
    }

    #[tokio::test]
    async fn one_is_begun_when_it_is_due_and_not_again_before() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = crate::jobs::tests::start(dir.path()).await;
        let (hour, now) = (Duration::from_secs(3600), Timestamp::now());
        let begun = async || ctx.catalog.jobs(None, 10).await.unwrap().len();
        verify_if_due(&ctx, hour, now).await.unwrap();
        // Something to verify, as far as the index knows; the store has it too, damaged.
        std::fs::create_dir(dir.path().join("store/bk-2026-05-10-001")).unwrap();
        verify_if_due(&ctx, hour, now + hour - Duration::from_secs(1)).await.unwrap();
        verify_if_due(&ctx, hour, now + hour).await.unwrap();
        assert_eq!(begun().await, 0, "what is damaged is not verified");
        assert_eq!(ctx.catalog.moment(LAST).await.unwrap().unwrap().as_second(), (now + hour).as_second());
        let earlier = now - 10 * hour;
        verify_if_due(&ctx, hour, earlier).await.unwrap();
        assert_eq!(ctx.catalog.moment(LAST).await.unwrap().unwrap().as_second(), earlier.as_second());
    }
}
