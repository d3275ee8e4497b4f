//! Jobs that wait for their turn: who they wait for, in words; whose turn it is; and cancelling one that waits. Which
//! jobs exclude each other is in the catalog, where it is decided in one transaction.

use std::sync::Arc;

use jiff::Timestamp;
use prexor_proto::backup::{Job, JobState};

use super::{JobHandle, Jobs, RECORD_AGAIN_AFTER, Task};
use crate::{
    catalog::{Catalog, JobRow, in_the_way, in_words},
    context::Context,
    error::Error,
    restore::Way,
};

/// Fills in what those of these jobs wait for that wait.
///
/// # Errors
/// When the catalog cannot be read.
pub async fn say_what_they_wait_for(catalog: &Catalog, jobs: &mut [Job], now: Timestamp) -> Result<(), Error> {
    if jobs.iter().all(|job| job.state() != JobState::Queued) {
        return Ok(());
    }
    let open = catalog.open_jobs().await?;
    for job in jobs.iter_mut().filter(|job| job.state() == JobState::Queued) {
        if let Some(n) = open.iter().position(|o| o.job.id == job.id) {
            job.waits_for = in_words(&in_the_way(&open[..n], &open[n].scope), now);
        }
    }
    Ok(())
}

impl Jobs {
    /// A handle for a job that waits, or that is about to run; the one that it has already, if any.
    pub(super) fn enqueue(&self, ctx: &Context, id: &str) -> JobHandle {
        let new = || JobHandle::new(id, self.stopping.child_token(), ctx);
        self.lock().entry(id.to_owned()).or_insert_with(new).clone()
    }

    /// Starts every job whose turn it is, and tells those that go on waiting for whom. To be called whenever a job has
    /// ended.
    pub(super) async fn advance(&self, ctx: &Arc<Context>) {
        while let Err(e) = self.try_to_advance(ctx).await {
            tracing::error!("the jobs that wait could not be looked at: {e}");
            tokio::select! {
                () = tokio::time::sleep(RECORD_AGAIN_AFTER) => {}
                () = self.stopping.cancelled() => return,
            }
        }
    }

    async fn try_to_advance(&self, ctx: &Arc<Context>) -> Result<(), Error> {
        let _gate = self.hold_submissions().await;
        // What waits when the coordinator stops goes on waiting until it is back.
        if self.stopping.is_cancelled() {
            return Ok(());
        }
        let begin = self.catalog.start_next(Timestamp::now()).await?;
        // Read before any of these runs, so that one which ends at once is still what the others wait for.
        let open = self.catalog.open_jobs().await?;
        for row in begin {
            self.start_queued(ctx, row);
        }
        for (n, next) in open.iter().enumerate().filter(|(_, open)| open.is_queued()) {
            let in_the_way = in_the_way(&open[..n], &next.scope);
            // Empty when what it waited for ended just now, whose own call of this function starts it.
            if !in_the_way.is_empty() {
                let waits_for = in_words(&in_the_way, Timestamp::now());
                self.enqueue(ctx, &next.job.id).says_it_waits(waits_for).await;
            }
        }
        Ok(())
    }

    fn start_queued(&self, ctx: &Arc<Context>, row: JobRow) {
        let (id, kind) = (row.job.id.clone(), row.job.kind());
        tracing::info!(job = id, kind = kind.as_str_name(), "a job that waited begins");
        self.start(ctx, &id, kind, |ctx, job| async move {
            match Task::read(kind, &row.spec) {
                Ok(task) => task.run(&ctx, &job).await,
                Err(e) => Err(e).into(),
            }
        });
    }

    /// Asks a job to stop, and returns it as it is now. One that waits ends at once, one that is paused goes back; one that
    /// has ended stays as it is.
    ///
    /// # Errors
    /// `NOT_FOUND` when there is no such job.
    pub async fn cancel(&self, ctx: &Arc<Context>, id: &str, requested_by: &str) -> Result<Job, Error> {
        let handle = self.lock().get(id).cloned();
        if let Some(job) = handle {
            let why = format!("cancelled by {requested_by}");
            if !job.has_begun() && self.cancel_queued(&job, &why).await? {
                self.advance(ctx).await;
            } else if job.cancel_by_somebody() {
                job.message(why).await;
            }
        } else {
            let row = self.catalog.job(id).await?;
            if row.job.state() == JobState::Paused {
                self.go_on(ctx, row, Way::Back, format!("cancelled by {requested_by}: it is taken back")).await?;
            }
        }
        Ok(self.catalog.job(id).await?.job)
    }

    /// Ends a job that waits; `false` when its turn has come meanwhile.
    async fn cancel_queued(&self, job: &JobHandle, why: &str) -> Result<bool, Error> {
        let _gate = self.hold_submissions().await;
        let cancelled = self.catalog.cancel_queued(job.id(), why, &Error::cancelled(), Timestamp::now()).await?;
        if cancelled {
            tracing::info!(job = job.id(), why, "a job that waited has ended");
            self.lock().remove(job.id());
            job.changed();
        }
        Ok(cancelled)
    }
}
