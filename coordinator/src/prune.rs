//! Removes the backups that have had their time; see [`crate::retention`] for which these are.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use prexor_format::{id::BackupId, manifest::CHECKSUMS_FILE};
use prexor_proto::{
    backup::{Backup, BackupState, JobKind, JobState, PruneBackupsRequest, PruneBackupsResponse, PrunedBackup},
    convert::kind_from_wire,
    reason::Reason,
};

use crate::{
    backups,
    catalog::IndexedBackup,
    context::Context,
    error::Error,
    retention::{self, Candidate, Counts, Leftover, Policy, Standing, Upgrade, Verdict},
};

/// How long one call goes on removing, about: whoever called waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Judges all backups, and removes those that go unless it is a dry run. Oldest first, so that one that is cut short
/// leaves what is wanted most. An answer that says `more` has left some for the next call.
///
/// # Errors
/// When the store or the catalog cannot be used; what was removed until then is gone.
pub async fn prune(ctx: &Context, asked: PruneBackupsRequest) -> Result<PruneBackupsResponse, Error> {
    let dry_run = asked.dry_run;
    let mut all = backups::all(ctx).await?;
    all.reverse();
    if let Some(job) = restore_under_way(ctx).await?.filter(|_| !dry_run) {
        return Err(Error::new(
            Reason::Busy,
            format!("{job} is a restore that has not ended, and nothing is pruned meanwhile: prune again when it has"),
        ));
    }
    let leftovers = leftovers(ctx).await?;
    let without_manifest: HashSet<&BackupId> = leftovers.iter().map(|one| &one.id).collect();
    all.retain(|one| !without_manifest.contains(&one.id));
    let candidates = candidates(ctx, &all).await?;
    if !dry_run {
        note_upgrades(ctx, &candidates).await?;
    }
    let now = Timestamp::now();
    let mut verdicts = retention::judge(&candidates, &policy(ctx, asked), now);
    let begun = Instant::now();
    let mut answer = PruneBackupsResponse::default();
    for one in leftovers {
        let mut verdict = retention::leftovers(&one, now);
        if verdict.goes && !dry_run {
            verdict = remove(ctx, &one.id, verdict).await?;
        }
        let backup = Backup { id: one.id.to_string(), ..Backup::default() };
        answer.leftovers.push(told(backup, verdict));
    }
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

/// Notes of the backups from before an upgrade that it has proved itself, as soon as a backup of the newer version is
/// verified: that one may have had its time before the others have.
///
/// # Errors
/// When the store or the catalog cannot be used.
pub async fn watch_upgrades(ctx: &Context) -> Result<(), Error> {
    let all = backups::all(ctx).await?;
    note_upgrades(ctx, &candidates(ctx, &all).await?).await
}

async fn note_upgrades(ctx: &Context, candidates: &[Candidate]) -> Result<(), Error> {
    for (id, (at, version)) in retention::superseded(candidates) {
        tracing::info!(backup = %id, version, "a backup of a newer version than this one was verified");
        backups::superseded(ctx, &id, at, version).await?;
    }
    Ok(())
}

fn policy(ctx: &Context, asked: PruneBackupsRequest) -> Policy {
    let counts = Counts {
        last: asked.keep_last,
        hourly: asked.keep_hourly,
        daily: asked.keep_daily,
        weekly: asked.keep_weekly,
        monthly: asked.keep_monthly,
        yearly: asked.keep_yearly,
    };
    let cadence = ctx.config.retention.cadence;
    Policy { cadence, days: Some(asked.keep_days).filter(|days| *days > 0), counts }
}

async fn candidates(ctx: &Context, all: &[IndexedBackup]) -> Result<Vec<Candidate>, Error> {
    let active = ctx.catalog.active_jobs().await?;
    let users: HashMap<&str, &str> =
        active.iter().map(|row| (row.job.backup_id.as_str(), row.job.id.as_str())).collect();
    let open: HashSet<&str> = active.iter().map(|row| row.job.id.as_str()).collect();
    let candidate = |IndexedBackup { id, order, backup, marks, .. }: &IndexedBackup| {
        let kinds = backup.scope.iter().filter_map(|kind| kind_from_wire(*kind).ok()).map(|kind| kind.to_string());
        // A node may be called as a kind is.
        let nodes = backup.nodes.iter().map(|node| format!("node {node}"));
        // A restore needs what it saved, an undo restores it: that is a restore like others.
        let job = users.get(backup.id.as_str()).or_else(|| open.get(backup.safety_of.as_str()));
        Candidate {
            id: id.clone(),
            created: *order,
            holds: kinds.chain(nodes).collect(),
            standing: standing(backup),
            safety: !backup.safety_of.is_empty(),
            job: job.map(|job| (*job).to_owned()),
            pinned: marks.pin.as_ref().map(backups::pin_in_words),
            copies_missing: None,
            class: ctx.config.retention.class_of(backup),
            upgrade: Upgrade {
                version: Some(backup.controller_version.clone()).filter(|v| !v.is_empty()),
                verified_at: marks.verified.first_at,
                superseded_at: marks.superseded_at,
            },
        }
    };
    Ok(all.iter().map(candidate).collect())
}

fn standing(backup: &Backup) -> Standing {
    if backup.state() != BackupState::Complete || !backup.verify_problem.is_empty() {
        return Standing::Damaged;
    }
    if backup.suspect.is_empty() { Standing::Good } else { Standing::Suspect }
}

/// Directories of the store without a manifest.
async fn leftovers(ctx: &Context) -> Result<Vec<Leftover>, Error> {
    // In this order: what is completed in between has a manifest by then.
    let doomed = ctx.catalog.doomed_backups().await?;
    let active: HashSet<String> = ctx.catalog.active_jobs().await?.into_iter().map(|row| row.job.id).collect();
    let mut found = Vec::new();
    for survey in ctx.store.survey().await?.into_iter().filter(|s| s.stamp.is_none()) {
        let job = doomed.iter().find(|d| d.id == survey.id).and_then(|d| d.job.clone());
        let files = ctx.store.files(&survey.id).await?;
        found.push(Leftover {
            id: survey.id,
            doomed: job.is_some(),
            job: job.filter(|job| active.contains(job)),
            has_checksums: files.iter().any(|f| f.path == CHECKSUMS_FILE),
        });
    }
    Ok(found)
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
