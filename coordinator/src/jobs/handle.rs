//! What a running job holds in its hands: its name, its cancellation, and the ways to say what it does.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::Timestamp;
use prexor_format::id::BackupId;
use prexor_proto::{
    agent::Fence,
    backup::{Message, Progress, Step, StepEvent, StepState, job_event::Event},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{catalog::Catalog, context::Context, error::Error};

/// A running job. Cheap to clone.
///
/// What is said through it is for people: an event that cannot be recorded is logged, and the job goes on.
#[derive(Debug, Clone)]
pub struct JobHandle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: String,
    cancel: CancellationToken,
    give_up: CancellationToken,
    by_somebody: AtomicBool,
    catalog: Catalog,
    fence: Fence,
    progress: Mutex<BTreeMap<(String, String), Progress>>,
    changes: watch::Sender<()>,
}

impl JobHandle {
    pub(super) fn new(id: &str, cancel: CancellationToken, ctx: &Context) -> Self {
        Self(Arc::new(Inner {
            id: id.to_owned(),
            cancel,
            give_up: CancellationToken::new(),
            by_somebody: AtomicBool::new(false),
            catalog: ctx.catalog.clone(),
            fence: ctx.fence(id),
            progress: Mutex::default(),
            changes: watch::Sender::default(),
        }))
    }

    /// The job's id.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Fires when somebody cancels the job, and when the coordinator stops.
    pub fn cancel(&self) -> &CancellationToken {
        &self.0.cancel
    }

    /// Fires when somebody cancels the job once more: what it does about the first time shall not wait any longer.
    pub fn give_up(&self) -> &CancellationToken {
        &self.0.give_up
    }

    /// `Err` with `CANCELLED` once [`JobHandle::cancel`] has fired.
    ///
    /// # Errors
    /// As said.
    pub fn check_cancelled(&self) -> Result<(), Error> {
        if self.0.cancel.is_cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// What goes with everything that changes something on an agent.
    pub fn fence(&self) -> Fence {
        self.0.fence.clone()
    }

    /// Tells people something.
    pub async fn message(&self, text: impl Into<String>) {
        self.emit(Event::Message(Message { warning: false, text: text.into() })).await;
    }

    /// Tells people something that they should look at.
    pub async fn warning(&self, text: impl Into<String>) {
        self.emit(Event::Message(Message { warning: true, text: text.into() })).await;
    }

    /// Tells what has become of a step of a plan. (Its journal is the catalog's: `Catalog::record_step`.)
    pub async fn step(&self, step: &Step, state: StepState, detail: impl Into<String>) {
        let event = StepEvent { step: Some(step.clone()), state: state as i32, detail: detail.into() };
        self.emit(Event::Step(event)).await;
    }

    /// Replaces the figures of an artifact on a node. Call it as often as you like: twice a second the latest ones
    /// become an event, and once more when the job ends.
    pub fn progress(&self, progress: Progress) {
        let key = (progress.node.clone(), progress.artifact_id.clone());
        self.figures().insert(key, progress);
    }

    /// Says which backup the job works on, where that was not known from the beginning.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn set_backup(&self, id: &BackupId) -> Result<(), Error> {
        self.0.catalog.set_job_backup(&self.0.id, id).await
    }

    pub(super) async fn flush_progress(&self) {
        let latest = std::mem::take(&mut *self.figures());
        for progress in latest.into_values() {
            self.emit(Event::Progress(progress)).await;
        }
    }

    /// Cancels on behalf of a person; `false` when somebody has done so before.
    pub(super) fn cancel_by_somebody(&self) -> bool {
        let first = !self.0.by_somebody.swap(true, Ordering::SeqCst);
        if first {
            self.0.cancel.cancel();
        } else {
            self.0.give_up.cancel();
        }
        first
    }

    pub(super) fn is_cancelled_by_somebody(&self) -> bool {
        self.0.by_somebody.load(Ordering::SeqCst)
    }

    /// Fires after every event.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }

    pub(super) fn changed(&self) {
        self.0.changes.send_replace(());
    }

    async fn emit(&self, event: Event) {
        if let Err(e) = self.0.catalog.append_event(&self.0.id, Timestamp::now(), event).await {
            tracing::warn!(job = self.0.id, "an event could not be recorded: {e}");
        }
        self.changed();
    }

    fn figures(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), Progress>> {
        self.0.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
