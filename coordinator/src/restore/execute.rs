//! Executes a plan: each step is journaled before it begins and after it has ended.
//!
//! Until the first commit every failure or cancellation ends with everything as it was and the controllers running that ran;
//! from then on it ends with everything restored. After a crash of the coordinator what was checked whole goes on, and
//! everything else is taken back. A controller is not let go of while what it would find is in between.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};

use jiff::{SignedDuration, Timestamp};
use prexor_format::{
    id::{BackupId, NodeName},
    manifest::{Artifact, Manifest},
    selection::Selection,
};
use prexor_proto::{
    backup::{OnFailure, Plan, Replacement, RestoreReport, Step, StepState, StepVerb},
    convert::selection_from_wire,
    reason::Reason,
};

use super::{plan::Options, plan_restore, read_manifest, refuse};
use crate::{
    agents::{self, AgentClient},
    catalog::StepRecord,
    context::Context,
    error::Error,
    jobs::JobHandle,
};

mod back;
mod controllers;
mod journal;
mod report;
mod safety;
mod silence;

use back::Must;
use journal::Journal;

struct Execution<'a> {
    ctx: &'a Arc<Context>,
    job: &'a JobHandle,
    plan: &'a Plan,
    id: BackupId,
    /// How long each step took that has ended in this run, by number.
    durations: Mutex<BTreeMap<u32, SignedDuration>>,
}

impl<'a> Execution<'a> {
    fn new(ctx: &'a Arc<Context>, job: &'a JobHandle, plan: &'a Plan) -> Result<Self, Error> {
        let id = plan.backup_id.parse().map_err(|e| Error::invalid(format!("{e}")))?;
        Ok(Self { ctx, job, plan, id, durations: Mutex::default() })
    }
}

/// How a restore ended that has not succeeded.
#[derive(Debug)]
pub enum Ended {
    /// Everything is as it was before.
    Failed(Error),
    /// It stands in between, with the controllers held, and a person decides how it goes on.
    Paused(Error),
}

/// Where a restore goes that was paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// On from where it stopped, which is back when it was on its way back.
    On,
    /// Back.
    Back,
}

/// Takes the plan's steps.
///
/// # Errors
/// The first failure, after everything was taken back.
pub async fn run(ctx: &Arc<Context>, job: &JobHandle, plan: &Plan) -> Result<RestoreReport, Ended> {
    let execution = Execution::new(ctx, job, plan).map_err(Ended::Failed)?;
    execution.forwards(|_| true).await
}

/// Ends a restore that was running when the coordinator died: goes on where everything was checked already, takes
/// everything back otherwise, or pauses where that was asked for.
///
/// # Errors
/// `INTERRUPTED`, when everything was taken back.
pub async fn recover(ctx: &Arc<Context>, job: &JobHandle, plan: &Plan) -> Result<RestoreReport, Ended> {
    let execution = Execution::new(ctx, job, plan).map_err(Ended::Failed)?;
    let journal = execution.journal().await.map_err(Ended::Paused)?;
    if journal.has_begun(StepVerb::Commit) {
        job.message("the coordinator ended after everything was checked: finishing the commit").await;
        return execution.commit().await;
    }
    if !journal.is_taken_back() && journal.is_done(StepVerb::Check) {
        job.message("the coordinator ended after everything was checked: going on").await;
        return execution.forwards(|step| matches!(step.verb(), StepVerb::Start | StepVerb::Release)).await;
    }
    let interrupted = Error::new(Reason::Interrupted, "the coordinator ended while the restore ran");
    Err(execution.after(interrupted).await)
}

/// Goes on with a restore that was paused.
///
/// # Errors
/// The next failure, or `CANCELLED` when everything was taken back as it was asked for.
pub async fn resume(ctx: &Arc<Context>, job: &JobHandle, plan: &Plan, way: Way) -> Result<RestoreReport, Ended> {
    let execution = Execution::new(ctx, job, plan).map_err(Ended::Failed)?;
    let journal = execution.journal().await.map_err(Ended::Paused)?;
    if journal.has_begun(StepVerb::Commit) {
        return execution.commit().await;
    }
    if way == Way::Back {
        return Err(execution.take_back(Error::cancelled()).await);
    }
    if journal.is_taken_back() {
        return Err(execution.take_back(Error::new(Reason::Interrupted, "the restore had failed")).await);
    }
    // What is staged, compared and saved stays so; whatever has to do with live data and controllers is looked at again.
    let mut once = vec![StepVerb::Preflight, StepVerb::Stage, StepVerb::Prepare, StepVerb::Safety];
    // A controller that was started was right to write.
    if journal.has_begun(StepVerb::Start) || journal.has_begun(StepVerb::Release) {
        once.push(StepVerb::Check);
    }
    execution.forwards(|step| !(once.contains(&step.verb()) && journal.is_step_done(step))).await
}

impl Execution<'_> {
    /// Takes those of the steps that come before the first commit, then commits.
    async fn forwards(&self, which: impl Fn(&Step) -> bool) -> Result<RestoreReport, Ended> {
        match self.up_to_commit(which).await {
            Ok(()) => self.commit().await,
            Err(failed) => Err(self.after(failed).await),
        }
    }

    /// What comes of a failure: the way back, or a pause where one was asked for and live data has changed.
    async fn after(&self, failed: Error) -> Ended {
        let holds = self.plan.on_failure() == OnFailure::Hold && failed.reason != Reason::Cancelled;
        let journal = self.journal().await;
        let changed = |j: &Journal<'_>| j.has_begun(StepVerb::Swap) && !j.is_taken_back();
        if !(holds && journal.as_ref().is_ok_and(changed)) {
            return self.take_back(failed).await;
        }
        let held = self.hold_again().await.err().map(|e| format!("; but {}", e.message)).unwrap_or_default();
        Ended::Paused(self.paused(failed, &format!("the controllers stay stopped and held{held}")))
    }

    /// What people are told of a restore that pauses.
    fn paused(&self, failed: Error, how: &str) -> Error {
        let id = self.job.id();
        let message = format!(
            "{}; {how}. `prexorctl job resume {id}` goes on from here (without a host that does not come back: --without-host \
             NAME), `prexorctl job cancel {id}` takes everything back",
            failed.message
        );
        Error { message, ..failed }
    }

    async fn journal(&self) -> Result<Journal<'_>, Error> {
        Ok(Journal::of(self.plan, self.ctx.catalog.steps(self.job.id()).await?))
    }

    /// Takes those of the steps that come before the first commit. All controllers are stopped at once; of those that are
    /// started the first one goes ahead: what keeps it from getting ready would keep the others too.
    async fn up_to_commit(&self, which: impl Fn(&Step) -> bool) -> Result<(), Error> {
        let manifest = read_manifest(self.ctx, &self.id).await?;
        let steps = self.plan.steps.iter().filter(|s| s.verb() != StepVerb::Commit && which(s));
        for together in side_by_side(steps) {
            self.job.check_cancelled()?;
            let work: Vec<BoxFuture<'_, _>> =
                together.into_iter().map(|step| self.take(step, self.carry_out(step, &manifest)).boxed()).collect();
            all_of(join_all(work).await.into_iter().filter_map(Result::err)).map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// From here on there is no way back, so what fails is tried again until it works or somebody cancels the waiting.
    /// Whatever becomes of one artifact, the others are committed too.
    async fn commit(&self) -> Result<RestoreReport, Ended> {
        let patience = self.patience();
        let mut failed = Vec::new();
        for step in self.plan.steps.iter().filter(|s| s.verb() == StepVerb::Commit) {
            let (node, artifact_id) = place(step).map_err(Ended::Paused)?;
            let meanwhile = format!("{artifact_id}: the old data is not removed yet");
            let work = self.insist(&node, Must::Verb(agents::Verb::Commit, artifact_id), &meanwhile, &patience);
            failed.extend(self.take(step, work).await.err());
        }
        match all_of(failed) {
            None => Ok(self.report().await),
            Some(e) => {
                let id = self.job.id();
                let message = format!(
                    "everything is restored and checked, but old data is not removed: {}. `prexorctl job resume {id}` tries \
                     that again",
                    e.message
                );
                Err(Ended::Paused(Error { message, ..e }))
            }
        }
    }

    /// Journals a step before and after its work, and tells those who watch.
    async fn take(&self, step: &Step, work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
        self.record(step, StepState::Started, "").await?;
        let begun = Instant::now();
        let done = work.await;
        match &done {
            Ok(()) => self.record(step, StepState::Done, "").await?,
            Err(e) => self.record(step, StepState::Failed, &e.message).await?,
        }
        let duration = SignedDuration::try_from(begun.elapsed()).unwrap_or(SignedDuration::MAX);
        self.durations.lock().unwrap_or_else(PoisonError::into_inner).insert(step.number, duration);
        done
    }

    async fn record(&self, step: &Step, state: StepState, detail: &str) -> Result<(), Error> {
        let (job_id, number, at) = (self.job.id(), step.number, Timestamp::now());
        self.ctx.catalog.record_step(&StepRecord { job_id, number, state, detail, at }).await?;
        self.job.step(step, state, detail).await;
        Ok(())
    }

    async fn carry_out(&self, step: &Step, manifest: &Manifest) -> Result<(), Error> {
        let verb = match step.verb() {
            StepVerb::Preflight => return self.preflight().await,
            StepVerb::Stage => return self.stage(step, manifest).await,
            StepVerb::Hold => return self.hold(&node_of(step)?).await,
            StepVerb::Silence => return self.silence().await,
            StepVerb::Safety => return self.save_live().await,
            StepVerb::Start => return self.start(&node_of(step)?).await,
            StepVerb::Release => return self.release(&node_of(step)?).await,
            StepVerb::Prepare => agents::Verb::Prepare,
            StepVerb::Swap => agents::Verb::Swap,
            StepVerb::Check => agents::Verb::Check,
            StepVerb::Commit => agents::Verb::Commit,
            StepVerb::Unspecified => return Err(Error::internal(format!("step {} has no verb", step.number))),
        };
        let (node, artifact_id) = place(step)?;
        let agent = self.agent(&node).await?;
        let work = agent.verb(verb, self.job.fence(), artifact_id, |p| self.job.progress(p));
        let end = tokio::select! {
            end = work => end?,
            // The agent goes on with its verb; taking back waits for it.
            () = self.job.cancel().cancelled() => return Err(Error::cancelled()),
        };
        for correction in &end.corrections {
            self.job.message(format!("{artifact_id} on {node}: {correction}")).await;
        }
        if end.differences.is_empty() {
            return Ok(());
        }
        let differences = end.differences.join("; ");
        let message = format!("{artifact_id} on {node} is not what the manifest says: {differences}");
        Err(Error::new(Reason::Damaged, message).on(node.as_str()))
    }

    /// The plan was computed before it was the job's turn, which may be long ago: what it says must still hold now.
    async fn preflight(&self) -> Result<(), Error> {
        let options = Options {
            scope: self.kinds()?,
            selection: self.selection(),
            // They are among the paths by now.
            certificates: false,
            accept_versions: self.plan.accept_versions,
            on_failure: super::on_failure_from_wire(self.plan.on_failure()),
            safety: super::safety_from_wire(self.plan.safety()),
            hosts: super::hosts_from_wire(&self.plan.only_hosts, &self.plan.without_hosts).map_err(Error::internal)?,
        };
        let now = plan_restore(self.ctx, &self.id, &options).await?;
        refuse(&now)?;
        // How much lives there now may move while nobody acts; what is replaced, by what and how may not.
        let replaced = |plan: &Plan| -> Vec<Replacement> {
            plan.replacements.iter().map(|r| Replacement { current: String::new(), ..r.clone() }).collect()
        };
        let now = super::plan_to_wire(&now);
        if now.steps != self.plan.steps || replaced(&now) != replaced(self.plan) {
            return Err(Error::new(
                Reason::PlanChanged,
                "the hosts have changed since the plan was made: look at it again with --dry-run",
            ));
        }
        self.clear_what_was_left().await
    }

    fn selection(&self) -> Selection {
        selection_from_wire(self.plan.selection.as_ref())
    }

    async fn stage(&self, step: &Step, manifest: &Manifest) -> Result<(), Error> {
        let (node, artifact_id) = place(step)?;
        let artifact: &Artifact = manifest
            .artifacts
            .iter()
            .find(|a| a.id == artifact_id)
            .ok_or_else(|| Error::new(Reason::Damaged, format!("the manifest no longer lists {artifact_id}")))?;
        let agent = self.agent(&node).await?;
        let (store, id) = (&self.ctx.store, &self.id);
        let open = |path: String| async move { store.open_file(id, &path).await };
        let selection = self.selection();
        let work = agent.stage(self.job.fence(), artifact, &selection, open, |p| self.job.progress(p));
        tokio::select! {
            staged = work => staged.map(drop),
            () = self.job.cancel().cancelled() => Err(Error::cancelled()),
        }
    }

    async fn agent(&self, node: &NodeName) -> Result<AgentClient, Error> {
        let record = self.ctx.catalog.node(node).await?;
        self.ctx.agents.connect(&record).await
    }
}

/// The steps in their order, those together that are taken side by side: controllers are stopped so, and started once the
/// first one is ready.
fn side_by_side<'a>(steps: impl Iterator<Item = &'a Step>) -> Vec<Vec<&'a Step>> {
    let mut out: Vec<Vec<&Step>> = Vec::new();
    let mut starts = 0;
    for step in steps {
        let verb = step.verb();
        starts += u32::from(verb == StepVerb::Start);
        let joins = verb == StepVerb::Hold || (verb == StepVerb::Start && starts > 2);
        match out.last_mut().filter(|last| joins && last[0].verb() == verb) {
            Some(last) => last.push(step),
            None => out.push(vec![step]),
        }
    }
    out
}

/// Several failures as one.
fn all_of(failed: impl IntoIterator<Item = Error>) -> Option<Error> {
    failed.into_iter().reduce(|first, next| Error { message: format!("{}; {}", first.message, next.message), ..first })
}

fn place(step: &Step) -> Result<(NodeName, &str), Error> {
    Ok((node_of(step)?, &step.artifact_id))
}

fn node_of(step: &Step) -> Result<NodeName, Error> {
    step.node.parse().map_err(|e| Error::internal(format!("step {}: {e}", step.number)))
}
