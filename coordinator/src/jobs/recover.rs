//! After a start: what the coordinator was doing when it stopped is failed cleanly or taken up again, what captures and
//! deletes left half done is removed, and jobs that waited for their turn wait on or begin.

use std::sync::Arc;

use jiff::Timestamp;
use prexor_format::manifest::MANIFEST_FILE;
use prexor_proto::{
    backup::{JobKind, JobState},
    reason::Reason,
};

use super::{Task, interrupted};
use crate::{
    backups,
    catalog::{DoomedBackup, JobRow},
    context::Context,
    error::Error,
    restore,
};

/// To be called once, before anybody is served. Restores, and jobs that waited, go on in the background.
///
/// # Errors
/// When the catalog or the store cannot be used.
pub async fn recover(ctx: &Arc<Context>) -> Result<(), Error> {
    for row in ctx.catalog.active_jobs().await? {
        recover_job(ctx, row).await?;
    }
    for doomed in ctx.catalog.doomed_backups().await? {
        if let Err(e) = settle(ctx, &doomed).await {
            // It stays on the list, and is no reason not to serve what is whole.
            tracing::error!(backup = %doomed.id, "the leftovers of a capture or delete cannot be removed: {e}");
        }
    }
    if let Err(e) = sweep(ctx).await {
        tracing::error!("directories that were never used cannot be removed: {e}");
    }
    backups::refresh_index(ctx).await?;
    // Whoever was killed right before it did so.
    backups::measure(ctx).await?;
    // Only now: what begins makes directories of its own.
    ctx.jobs.advance(ctx).await;
    Ok(())
}

/// Removes directories that were reserved and never used: whoever was to fill them was killed before it said so.
async fn sweep(ctx: &Context) -> Result<(), Error> {
    for survey in ctx.store.survey().await? {
        if survey.stamp.is_none() && ctx.store.files(&survey.id).await?.is_empty() {
            ctx.store.remove(&survey.id).await?;
        }
    }
    Ok(())
}

async fn recover_job(ctx: &Arc<Context>, row: JobRow) -> Result<(), Error> {
    let id = row.job.id.clone();
    if matches!(row.job.state(), JobState::Queued | JobState::Paused) {
        return Ok(());
    }
    if let Task::Restore(plan) = Task::read(row.job.kind(), &row.spec)? {
        tracing::warn!(job = id, "taking up a restore that was interrupted");
        ctx.jobs.start(ctx, &id, JobKind::Restore, |ctx, job| async move {
            restore::recover(&ctx, &job, &plan).await.into()
        });
        return Ok(());
    }
    tracing::warn!(job = id, "a job was interrupted");
    let failure = Some(interrupted().to_failure());
    ctx.catalog.finish_job(&id, JobState::Failed, failure, None, Timestamp::now()).await
}

/// A capture whose manifest was written is complete after all, whatever came next (it is written whole or not at all);
/// everything else goes. Not being able to look is no reason to remove anything.
async fn settle(ctx: &Context, doomed: &DoomedBackup) -> Result<(), Error> {
    let id = &doomed.id;
    let written = match ctx.store.read(id, MANIFEST_FILE).await {
        Ok(_) => true,
        Err(e) if e.reason == Reason::NotFound => false,
        Err(e) => return Err(e),
    };
    if written && doomed.job.is_some() {
        return ctx.catalog.spare_backup(id).await;
    }
    tracing::warn!(backup = %id, "removing what an interrupted capture or delete has left");
    ctx.store.remove(id).await?;
    ctx.catalog.forget_backup(id).await
}
