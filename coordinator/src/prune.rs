//! Removes the backups that have had their time; see [`crate::retention`] for which these are.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use prexor_format::id::BackupId;
use prexor_proto::{
    backup::{Backup, BackupState, JobKind, JobState, PruneBackupsResponse, PrunedBackup},
    convert::kind_from_wire,
    reason::Reason,
};

use crate::{
    backups,
    catalog::IndexedBackup,
    context::Context,
    error::Error,
    retention::{self, Candidate, Verdict},
};

/// How long one call goes on removing, about: whoever called waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Backups read from the index at once.
const PAGE: u32 = 500;

/// Judges all backups, and removes those that go unless it is a `dry_run`. Oldest first, so that one that is cut short
/// leaves what is wanted most. An answer that says `more` has left some for the next call.
///
/// # Errors
/// When the store or the catalog cannot be used; what was removed until then is gone.
pub async fn prune(ctx: &Context, days: u32, dry_run: bool) -> Result<PruneBackupsResponse, Error> {
    let mut all = every_backup(ctx).await?;
    all.reverse();
    if let Some(job) = restore_under_way(ctx).await?.filter(|_| !dry_run) {
        return Err(Error::new(
            Reason::Busy,
            format!("{job} is a restore that has not ended, and nothing is pruned meanwhile: prune again when it has"),
        ));
    }
    let jobs: HashMap<String, String> =
        ctx.catalog.active_jobs().await?.into_iter().map(|row| (row.job.backup_id, row.job.id)).collect();
    let candidates: Vec<_> = all.iter().map(|b| candidate(b, &jobs)).collect();
    let mut verdicts = retention::keep_days(&candidates, days, Timestamp::now());
    let begun = Instant::now();
    let mut answer = PruneBackupsResponse::default();
    for IndexedBackup { id, backup, .. } in all {
        let Some(mut verdict) = verdicts.remove(&id) else { continue };
        if verdict.goes && !dry_run {
            if begun.elapsed() > PATIENCE {
                answer.more = true;
                break;
            }
            verdict = remove(ctx, &id, verdict).await?;
        }
        answer.backups.push(told(backup, verdict));
    }
    Ok(answer)
}

/// A restore that runs or is paused: until it has ended nobody knows what it may still need.
async fn restore_under_way(ctx: &Context) -> Result<Option<String>, Error> {
    let open = ctx.catalog.active_jobs().await?.into_iter();
    let mut restores = open.filter(|row| row.job.kind() == JobKind::Restore && row.job.state() != JobState::Queued);
    Ok(restores.next().map(|row| row.job.id))
}

/// Newest first.
async fn every_backup(ctx: &Context) -> Result<Vec<IndexedBackup>, Error> {
    let mut all = backups::list(ctx, None, PAGE).await?;
    let mut last = all.len();
    while last == PAGE as usize
        && let Some(end) = all.last().map(|b| (b.order.as_millisecond(), b.id.to_string()))
    {
        let page = backups::list(ctx, Some((end.0, &end.1)), PAGE).await?;
        last = page.len();
        all.extend(page);
    }
    Ok(all)
}

fn candidate(indexed: &IndexedBackup, jobs: &HashMap<String, String>) -> Candidate {
    let IndexedBackup { id, order, backup, .. } = indexed;
    let kinds = backup.scope.iter().filter_map(|kind| kind_from_wire(*kind).ok()).map(|kind| kind.to_string());
    // A node may be called as a kind is.
    let nodes = backup.nodes.iter().map(|node| format!("node {node}"));
    Candidate {
        id: id.clone(),
        created: *order,
        holds: kinds.chain(nodes).collect(),
        good: backup.state() == BackupState::Complete,
        safety: !backup.safety_of.is_empty(),
        job: jobs.get(&id.to_string()).cloned().or_else(|| {
            let saves = jobs.values().find(|job| **job == backup.safety_of);
            saves.cloned()
        }),
    }
}

/// What became of one that goes.
async fn remove(ctx: &Context, id: &BackupId, verdict: Verdict) -> Result<Verdict, Error> {
    if let Some(job) = restore_under_way(ctx).await? {
        return Ok(Verdict { goes: false, reason: format!("{job} restores meanwhile") });
    }
    match backups::delete(ctx, id).await {
        Ok(()) => {
            tracing::info!(backup = %id, reason = verdict.reason, "a backup has had its time and is removed");
            Ok(verdict)
        }
        // Somebody else was quicker.
        Err(e) if e.reason == Reason::NotFound => Ok(verdict),
        Err(e) if e.reason == Reason::Busy => Ok(Verdict { goes: false, reason: e.message }),
        Err(e) => Err(e),
    }
}

fn told(backup: Backup, verdict: Verdict) -> PrunedBackup {
    let Backup { id, created_at, size_bytes, .. } = backup;
    PrunedBackup { backup_id: id, created_at, size_bytes, removed: verdict.goes, reason: verdict.reason }
}
