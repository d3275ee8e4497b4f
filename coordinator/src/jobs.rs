//! The life of jobs: submitted once per request, queued while others are in the way, run in the background, watched
//! without gaps, cancelled, ended, and taken up again or failed after the coordinator itself was interrupted. What each
//! kind does is in its own module.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;
use jiff::Timestamp;
use prexor_proto::{
    backup::{Job, JobEvent, JobKind, JobResult, JobState, RestoreReport, job_result},
    reason::Reason,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    catalog::{Catalog, NewJob, Submitted},
    context::Context,
    error::Error,
    restore::Ended,
};

mod backup;
mod handle;
mod paused;
mod queue;
mod recover;
mod task;
mod verify;

pub use backup::safety;
pub use handle::JobHandle;
pub use queue::say_what_they_wait_for;
pub use recover::recover;
pub use task::Task;
pub use verify::Reading;

/// How often the figures of running jobs become events.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// How long to wait before the end of a job is recorded again, when the catalog's disk is full or busy.
const RECORD_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Events that are read from the catalog at once for a watcher.
const EVENTS_AT_ONCE: u32 = 256;

/// How a job ended: a result, an error, or both (a verify that found damage).
#[derive(Debug, Default)]
pub struct Outcome {
    /// What it found or made.
    pub result: Option<JobResult>,
    /// Why it failed.
    pub error: Option<Error>,
    /// Whether it has not ended, and waits for a person: `error` says why.
    pub is_paused: bool,
}

impl From<Result<JobResult, Error>> for Outcome {
    fn from(result: Result<JobResult, Error>) -> Self {
        match result {
            Ok(result) => Self { result: Some(result), error: None, is_paused: false },
            Err(error) => Self { result: None, error: Some(error), is_paused: false },
        }
    }
}

impl From<Result<RestoreReport, Ended>> for Outcome {
    fn from(result: Result<RestoreReport, Ended>) -> Self {
        match result {
            Ok(report) => Ok(JobResult { result: Some(job_result::Result::Restore(report)) }).into(),
            Err(Ended::Failed(error)) => Err(error).into(),
            Err(Ended::Paused(error)) => Self { result: None, error: Some(error), is_paused: true },
        }
    }
}

/// Whether a job may wait for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// For as long as it takes, in a queue of bounded length.
    InQueue,
    /// No: it is refused.
    No,
}

/// The jobs that have not ended.
#[derive(Debug)]
pub struct Jobs {
    catalog: Catalog,
    /// Those that run, and those that wait.
    open: Mutex<HashMap<String, JobHandle>>,
    tasks: TaskTracker,
    stopping: CancellationToken,
    submissions: tokio::sync::Mutex<()>,
}

impl Jobs {
    /// Nothing is under way yet.
    pub fn new(catalog: Catalog) -> Self {
        Self {
            catalog,
            open: Mutex::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            submissions: tokio::sync::Mutex::default(),
        }
    }

    /// Begins a job or lets it wait for its turn, or returns the one that this request id has made before. `request_id`
    /// may be empty: then every call is a request of its own.
    ///
    /// # Errors
    /// `BUSY` when another job is in the way and this one may not wait, or too many do; `INVALID_REQUEST` when the id was
    /// used for something else.
    pub async fn submit(
        &self,
        ctx: &Arc<Context>,
        task: Task,
        wait: Wait,
        request_id: &str,
        requested_by: &str,
    ) -> Result<Job, Error> {
        // In a task of its own: a caller that goes away between the commit and the start would leave a job that keeps
        // its scope to itself and that nobody runs.
        let (ctx, request_id, requested_by) = (ctx.clone(), request_id.to_owned(), requested_by.to_owned());
        let submission = async move { ctx.jobs.submit_whole(&ctx, task, wait, &request_id, &requested_by).await };
        let submitted = tokio::spawn(submission).await;
        submitted.map_err(|e| Error::internal(format!("the job could not be begun: {e}")))?
    }

    async fn submit_whole(
        &self,
        ctx: &Arc<Context>,
        task: Task,
        wait: Wait,
        request_id: &str,
        requested_by: &str,
    ) -> Result<Job, Error> {
        if self.stopping.is_cancelled() {
            return Err(Error::new(Reason::Interrupted, "the coordinator is stopping: try again when it is back"));
        }
        let _gate = self.hold_submissions().await;
        let id = new_id();
        let new = NewJob {
            request_id: if request_id.is_empty() { id.clone() } else { request_id.to_owned() },
            id,
            kind: task.kind(),
            spec: task.spec(),
            backup_id: task.backup_id(),
            requested_by: requested_by.to_owned(),
            scope: task.scope(),
            created_at: Timestamp::now(),
        };
        let room = if wait == Wait::InQueue { ctx.config.jobs.max_queued } else { 0 };
        match self.catalog.submit_job(&new, room).await? {
            Submitted::Known(known) => return Ok(known.job),
            Submitted::Running => {
                tracing::info!(job = new.id, kind = task.kind().as_str_name(), requested_by, "a job begins");
                self.start(ctx, &new.id, new.kind, |ctx, job| async move { task.run(&ctx, &job).await });
            }
            Submitted::Queued(waits_for) => {
                tracing::info!(job = new.id, kind = task.kind().as_str_name(), requested_by, waits_for, "a job waits");
                self.enqueue(ctx, &new.id).says_it_waits(waits_for).await;
            }
        }
        Ok(self.catalog.job(&new.id).await?.job)
    }

    /// While this is held no job begins: for those who must know that nobody uses a backup.
    pub async fn hold_submissions(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.submissions.lock().await
    }

    /// Runs a recorded job in the background.
    fn start<W, F>(&self, ctx: &Arc<Context>, id: &str, kind: JobKind, work: W)
    where
        W: FnOnce(Arc<Context>, JobHandle) -> F,
        F: Future<Output = Outcome> + Send + 'static,
    {
        let job = self.enqueue(ctx, id);
        job.begin();
        let (ctx, work) = (ctx.clone(), work(ctx.clone(), job.clone()));
        self.tasks.spawn(async move {
            let outcome = run_to_end(&job, work).await;
            ctx.jobs.finish(&job, kind, outcome).await;
            ctx.jobs.advance(&ctx).await;
        });
    }

    async fn finish(&self, job: &JobHandle, kind: JobKind, outcome: Outcome) {
        let stopping = self.stopping.is_cancelled();
        if stopping && kind == JobKind::Restore && outcome.error.is_some() {
            // Whether everything could be taken back is not ours to know: the next start makes sure of it.
            tracing::warn!(job = job.id(), "a restore is left to the next start");
            self.lock().remove(job.id());
            job.changed();
            return;
        }
        let error = outcome.error.map(|e| match e.reason {
            Reason::Cancelled if stopping && !job.is_cancelled_by_somebody() => interrupted(),
            Reason::AgentUnavailable => job.with_last_progress(e),
            _ => e,
        });
        let state = match error.as_ref().map(|e| e.reason) {
            _ if outcome.is_paused => JobState::Paused,
            None => JobState::Succeeded,
            Some(Reason::Cancelled) => JobState::Cancelled,
            Some(_) => JobState::Failed,
        };
        match &error {
            None => tracing::info!(job = job.id(), "a job has succeeded"),
            Some(e) if outcome.is_paused => tracing::error!(job = job.id(), reason = %e.reason, "a job is paused: {e}"),
            Some(e) => tracing::warn!(job = job.id(), reason = %e.reason, node = e.node, "a job has ended: {e}"),
        }
        let failure = error.map(|e| e.to_failure());
        let ended_at = Timestamp::now();
        let record = || async {
            match (state, &failure) {
                (JobState::Paused, Some(failure)) => self.catalog.pause_job(job.id(), failure.clone(), ended_at).await,
                _ => {
                    let (failure, result) = (failure.clone(), outcome.result.clone());
                    self.catalog.finish_job(job.id(), state, failure, result, ended_at).await
                }
            }
        };
        while let Err(e) = record().await {
            tracing::error!(job = job.id(), "the end of a job could not be recorded: {e}");
            tokio::select! {
                () = tokio::time::sleep(RECORD_AGAIN_AFTER) => {}
                // It stays open in the catalog and is failed as interrupted at the next start.
                () = self.stopping.cancelled() => break,
            }
        }
        self.lock().remove(job.id());
        job.changed();
    }

    /// Every event of a job after this number, past ones first, until the job has ended. Dropping the stream ends it.
    ///
    /// # Errors
    /// `NOT_FOUND` when there is no such job.
    pub async fn watch(&self, id: &str, after: u64) -> Result<ReceiverStream<Result<JobEvent, Error>>, Error> {
        self.catalog.job(id).await?;
        let (tx, rx) = mpsc::channel(16);
        let (catalog, id) = (self.catalog.clone(), id.to_owned());
        let mut changes = self.lock().get(&id).map(JobHandle::changes);
        tokio::spawn(async move {
            let mut seq = after;
            loop {
                // What is marked as seen before the catalog is read cannot be missed after it.
                let live = changes.as_mut().map(watch::Receiver::borrow_and_update).is_some();
                if let Err(()) = forward(&catalog, &id, &mut seq, &tx).await {
                    return;
                }
                let Some(next) = changes.as_mut().filter(|_| live) else { return };
                tokio::select! {
                    () = tx.closed() => return,
                    changed = next.changed() => if changed.is_err() { changes = None },
                }
            }
        });
        Ok(ReceiverStream::new(rx))
    }

    /// Ends everything that is under way and waits for it, but not longer than this. Jobs that do not make it are
    /// taken up at the next start.
    pub async fn shut_down(&self, grace: Duration) {
        self.stopping.cancel();
        self.tasks.close();
        // Those that wait do so again after the next start. Their watchers are let go.
        self.lock().retain(|_, job| job.has_begun());
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!(jobs = self.lock().len(), "some jobs did not end in time");
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, JobHandle>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a job is told that was under way when the coordinator stopped.
fn interrupted() -> Error {
    Error::new(Reason::Interrupted, "the coordinator stopped while the job ran: start it again")
}

/// `job-` and 12 hexadecimal digits.
fn new_id() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("job-{}", &random[..12])
}

/// Runs the work while its figures become events now and then. A panic is a failure like others.
async fn run_to_end(job: &JobHandle, work: impl Future<Output = Outcome>) -> Outcome {
    let done = CancellationToken::new();
    // Beside the work, which must not wait for the catalog's disk.
    let reporting = tokio::spawn(report_progress(job.clone(), done.clone()));
    let outcome = AssertUnwindSafe(work).catch_unwind().await;
    done.cancel();
    if let Err(e) = reporting.await {
        tracing::error!(job = job.id(), "the figures of a job are no longer reported: {e}");
    }
    outcome.unwrap_or_else(|_| Err(Error::internal("the job hit a defect: see the log")).into())
}

async fn report_progress(job: JobHandle, done: CancellationToken) {
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while done.run_until_cancelled(tick.tick()).await.is_some() {
        job.flush_progress().await;
    }
    job.flush_progress().await;
}

/// Sends everything after `seq`; `Err` when the watcher has gone or the catalog cannot be read.
async fn forward(
    catalog: &Catalog,
    id: &str,
    seq: &mut u64,
    tx: &mpsc::Sender<Result<JobEvent, Error>>,
) -> Result<(), ()> {
    loop {
        match catalog.events(id, *seq, EVENTS_AT_ONCE).await {
            Ok(events) if events.is_empty() => return Ok(()),
            Ok(events) => {
                for event in events {
                    *seq = event.seq;
                    tx.send(Ok(event)).await.map_err(drop)?;
                }
            }
            Err(e) => {
                let _ = tx.send(Err(e)).await;
                return Err(());
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
