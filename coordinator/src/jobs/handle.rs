//! What a running job holds in its hands: its name, its cancellation, and the ways to say what it does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use jiff::Timestamp;
use prexor_format::{id::BackupId, text};
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
    begun: AtomicBool,
    /// Whom it was last said to wait for.
    behind: Mutex<String>,
    catalog: Catalog,
    fence: Fence,
    figures: Mutex<Figures>,
    changes: watch::Sender<()>,
}

/// The newest figures of each artifact on each node.
type Latest = BTreeMap<(String, String), (Progress, Instant)>;

#[derive(Debug, Default)]
struct Figures {
    latest: Latest,
    /// Those that no event tells yet.
    unsaid: BTreeSet<(String, String)>,
}

impl JobHandle {
    pub(super) fn new(id: &str, cancel: CancellationToken, ctx: &Context) -> Self {
        Self(Arc::new(Inner {
            id: id.to_owned(),
            cancel,
            give_up: CancellationToken::new(),
            by_somebody: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            behind: Mutex::default(),
            catalog: ctx.catalog.clone(),
            fence: ctx.fence(id),
            figures: Mutex::default(),
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
    /// become an event in place of the former one, and once more when the job ends.
    pub fn progress(&self, progress: Progress) {
        let key = (progress.node.clone(), progress.artifact_id.clone());
        let mut figures = self.figures();
        figures.unsaid.insert(key.clone());
        figures.latest.insert(key, (progress, Instant::now()));
    }

    /// The error of a node, with how far the job's artifacts there had come and since when nothing was heard of them.
    pub(super) fn with_last_progress(&self, error: Error) -> Error {
        let figures = self.figures();
        let of_node = figures.latest.values().filter(|(p, _)| Some(&p.node) == error.node.as_ref());
        let last: Vec<String> = of_node.map(|(p, at)| last_progress(p, at.elapsed().as_secs())).collect();
        if last.is_empty() {
            return error;
        }
        Error { message: format!("{}; last heard: {}", error.message, last.join("; ")), ..error }
    }

    /// Says which backup the job works on, where that was not known from the beginning.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn set_backup(&self, id: &BackupId) -> Result<(), Error> {
        self.0.catalog.set_job_backup(&self.0.id, id).await
    }

    pub(super) async fn flush_progress(&self) {
        let newest: Vec<Progress> = {
            let mut figures = self.figures();
            let unsaid = std::mem::take(&mut figures.unsaid);
            unsaid.iter().filter_map(|key| figures.latest.get(key)).map(|(p, _)| p.clone()).collect()
        };
        if newest.is_empty() {
            return;
        }
        if let Err(e) = self.0.catalog.append_progress(&self.0.id, Timestamp::now(), newest).await {
            tracing::warn!(job = self.0.id, "figures could not be recorded: {e}");
        }
        self.changed();
    }

    /// Tells people whom the job waits for, unless they know already.
    pub(super) async fn says_it_waits(&self, waits_for: String) {
        let id = waits_for.split_once(' ').map_or(waits_for.as_str(), |(id, _)| id).to_owned();
        let known = std::mem::replace(&mut *self.0.behind.lock().unwrap_or_else(PoisonError::into_inner), id.clone());
        if known != id {
            self.message(format!("queued behind {waits_for}")).await;
        }
    }

    /// It waits no longer.
    pub(super) fn begin(&self) {
        self.0.begun.store(true, Ordering::SeqCst);
    }

    pub(super) fn has_begun(&self) -> bool {
        self.0.begun.load(Ordering::SeqCst)
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

    fn figures(&self) -> std::sync::MutexGuard<'_, Figures> {
        self.0.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `mongo at 120 MiB of 450 MiB (prexorcloud.audit_log), 62 s ago`.
fn last_progress(p: &Progress, ago: u64) -> String {
    let artifact = if p.artifact_id.is_empty() { "it" } else { &p.artifact_id };
    let total = p.total_bytes.map(|t| format!(" of {}", text::bytes(t))).unwrap_or_default();
    let subject = if p.subject.is_empty() { String::new() } else { format!(" ({})", p.subject) };
    format!("{artifact} at {}{total}{subject}, {ago} s ago", text::bytes(p.done_bytes))
}
