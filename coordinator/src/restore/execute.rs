//! Executes a plan: each step is journaled before it begins and after it has ended.
//!
//! Until the first commit every failure, cancellation or crash ends with everything as it was; from then on it ends with
//! everything restored.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use prexor_format::{
    id::{BackupId, NodeName},
    manifest::{Artifact, Manifest},
    selection::Selection,
};
use prexor_proto::{
    backup::{Plan, Replacement, RestoreReport, Step, StepResult, StepState, StepVerb},
    convert::{duration_to_wire, kind_from_wire, selection_from_wire},
    reason::Reason,
};

use tokio_util::sync::CancellationToken;

use super::{plan::Options, plan_restore, read_manifest, refuse};
use crate::{
    agents::{self, AgentClient},
    catalog::StepRecord,
    context::Context,
    error::Error,
    jobs::JobHandle,
};

/// How long to wait before an agent is asked again that could not take a unit back or commit it.
const RETRY_EVERY: Duration = Duration::from_secs(2);

/// How often a person is told that a host is still being waited for.
const REMIND_EVERY: Duration = Duration::from_secs(60);

struct Execution<'a> {
    ctx: &'a Context,
    job: &'a JobHandle,
    plan: &'a Plan,
    id: BackupId,
}

impl<'a> Execution<'a> {
    fn new(ctx: &'a Context, job: &'a JobHandle, plan: &'a Plan) -> Result<Self, Error> {
        let id = plan.backup_id.parse().map_err(|e| Error::invalid(format!("{e}")))?;
        Ok(Self { ctx, job, plan, id })
    }
}

/// Takes the plan's steps.
///
/// # Errors
/// The first failure, after everything was taken back.
pub async fn run(ctx: &Context, job: &JobHandle, plan: &Plan) -> Result<RestoreReport, Error> {
    let execution = Execution::new(ctx, job, plan)?;
    let failed = match execution.up_to_commit().await {
        Ok(mut durations) => return execution.commit(&mut durations).await,
        Err(failed) => failed,
    };
    Err(execution.take_back(failed).await)
}

/// Ends a restore that was running when the coordinator died: finishes its commits when one had begun, takes everything
/// back otherwise.
///
/// # Errors
/// `INTERRUPTED`, when everything was taken back.
pub async fn recover(ctx: &Context, job: &JobHandle, plan: &Plan) -> Result<RestoreReport, Error> {
    let execution = Execution::new(ctx, job, plan)?;
    let journal = ctx.catalog.steps(job.id()).await?;
    let begun: BTreeSet<u32> = journal.iter().map(|s| s.number).collect();
    if plan.steps.iter().any(|s| s.verb() == StepVerb::Commit && begun.contains(&s.number)) {
        job.message("the coordinator ended after everything was checked: finishing the commit").await;
        return execution.commit(&mut Vec::new()).await;
    }
    let interrupted = Error::new(Reason::Interrupted, "the coordinator ended while the restore ran");
    Err(execution.take_back(interrupted).await)
}

impl Execution<'_> {
    async fn up_to_commit(&self) -> Result<Vec<StepResult>, Error> {
        let manifest = read_manifest(self.ctx, &self.id).await?;
        let mut durations = Vec::new();
        for step in self.plan.steps.iter().filter(|s| s.verb() != StepVerb::Commit) {
            self.job.check_cancelled()?;
            self.take(step, &mut durations, self.carry_out(step, &manifest)).await?;
        }
        Ok(durations)
    }

    /// From here on there is no way back, so what fails is tried again until it works or somebody cancels the waiting.
    /// Whatever becomes of one artifact, the others are committed too.
    async fn commit(&self, durations: &mut Vec<StepResult>) -> Result<RestoreReport, Error> {
        let patience = self.patience();
        let mut failed = Vec::new();
        for step in self.plan.steps.iter().filter(|s| s.verb() == StepVerb::Commit) {
            let (node, artifact_id) = place(step)?;
            let meanwhile = "the old data is not removed yet";
            let work = self.insist(&node, agents::Verb::Commit, artifact_id, meanwhile, &patience);
            failed.extend(self.take(step, durations, work).await.err());
        }
        match all_of(failed) {
            None => Ok(RestoreReport { after: self.plan.after.clone(), steps: std::mem::take(durations) }),
            Some(e) => {
                let message = format!("everything is restored and checked, but old data is not removed: {}", e.message);
                Err(Error { message, ..e })
            }
        }
    }

    /// Journals a step before and after its work, and tells those who watch.
    async fn take(
        &self,
        step: &Step,
        durations: &mut Vec<StepResult>,
        work: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        self.record(step, StepState::Started, "").await?;
        let begun = Instant::now();
        let done = work.await;
        match &done {
            Ok(()) => self.record(step, StepState::Done, "").await?,
            Err(e) => self.record(step, StepState::Failed, &e.message).await?,
        }
        let duration = SignedDuration::try_from(begun.elapsed()).unwrap_or(SignedDuration::MAX);
        durations.push(StepResult { number: step.number, duration: Some(duration_to_wire(duration)) });
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
        let kinds = self.plan.replacements.iter().map(|r| kind_from_wire(r.kind));
        let scope = kinds.collect::<Result<_, _>>().map_err(|e| Error::internal(e.to_string()))?;
        let accept_versions = self.plan.accept_versions;
        let options = Options { scope, selection: self.selection(), accept_versions };
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
        Ok(())
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

    /// Takes every unit back that may have been begun, the last one first, and says in the error what came of it.
    async fn take_back(&self, failed: Error) -> Error {
        tracing::warn!(job = self.job.id(), error = %failed, "restore failed, taking it back");
        match self.revert_units().await {
            Ok(()) => {
                let message = format!("{}; everything is as it was before", failed.message);
                Error { message, ..failed }
            }
            Err(e) => {
                let message = format!("{}; it could not be taken back: {}", failed.message, e.message);
                Error { message, ..failed }
            }
        }
    }

    /// One unit that cannot be taken back does not keep the others from it.
    async fn revert_units(&self) -> Result<(), Error> {
        let patience = self.patience();
        let journal = self.ctx.catalog.steps(self.job.id()).await?;
        let begun: BTreeSet<u32> = journal.iter().map(|s| s.number).collect();
        let done = journal.iter().filter(|s| matches!(s.state, StepState::Done | StepState::Reverted));
        let staged: BTreeSet<u32> = done.map(|s| s.number).collect();
        let mut failed = Vec::new();
        for step in self.plan.steps.iter().filter(|s| s.verb() == StepVerb::Stage && begun.contains(&s.number)).rev() {
            let (node, artifact_id) = place(step)?;
            let meanwhile = "it is not taken back yet";
            match self.insist(&node, agents::Verb::Revert, artifact_id, meanwhile, &patience).await {
                Ok(()) => {}
                // The agent never got as far as making the unit: there is nothing to take back.
                Err(e) if e.reason == Reason::NotFound && !staged.contains(&step.number) => {}
                Err(e) => {
                    failed.push(e);
                    continue;
                }
            }
            let same = |s: &&Step| s.artifact_id == step.artifact_id && s.node == step.node;
            for shown in self.plan.steps.iter().filter(same).filter(|s| begun.contains(&s.number)) {
                if let Err(e) = self.record(shown, StepState::Reverted, "").await {
                    tracing::error!(job = self.job.id(), step = shown.number, "a step's end cannot be journaled: {e}");
                }
            }
        }
        all_of(failed).map_or(Ok(()), Err)
    }

    /// Ends the waiting for hosts: the next cancellation, be it the first or the second.
    fn patience(&self) -> CancellationToken {
        if self.job.cancel().is_cancelled() { self.job.give_up().clone() } else { self.job.cancel().clone() }
    }

    /// Repeats a verb until it works: an agent that dies and comes back is waited for.
    async fn insist(
        &self,
        node: &NodeName,
        verb: agents::Verb,
        artifact_id: &str,
        meanwhile: &str,
        patience: &CancellationToken,
    ) -> Result<(), Error> {
        let mut reminded: Option<Instant> = None;
        loop {
            let attempt = async {
                let agent = self.agent(node).await?;
                agent.verb(verb, self.job.fence(), artifact_id, |p| self.job.progress(p)).await
            };
            let error = match attempt.await {
                Ok(_) => return Ok(()),
                Err(e) if !may_pass(e.reason) => return Err(e.on(node.as_str())),
                Err(e) => e,
            };
            if reminded.is_none_or(|at| at.elapsed() >= REMIND_EVERY) {
                reminded = Some(Instant::now());
                let text = format!("waiting for {node} ({}): {artifact_id}: {meanwhile}", error.message);
                self.job.warning(text).await;
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY_EVERY) => {}
                () = patience.cancelled() => return Err(error.on(node.as_str())),
            }
        }
    }

    async fn agent(&self, node: &NodeName) -> Result<AgentClient, Error> {
        let record = self.ctx.catalog.node(node).await?;
        self.ctx.agents.connect(&record).await
    }
}

/// Several failures as one.
fn all_of(failed: Vec<Error>) -> Option<Error> {
    let messages: Vec<String> = failed.iter().map(|e| e.message.clone()).collect();
    failed.into_iter().next().map(|first| Error { message: messages.join("; "), ..first })
}

/// Whether the same call may work later: when a host is back, a disk has room again, a privilege is granted.
fn may_pass(reason: Reason) -> bool {
    use Reason::{AgentUnavailable, NoSpace, SourceDenied, SourceFailed, SourceUnavailable};
    matches!(reason, AgentUnavailable | SourceUnavailable | SourceFailed | SourceDenied | NoSpace)
}

fn place(step: &Step) -> Result<(NodeName, &str), Error> {
    let node = step.node.parse().map_err(|e| Error::internal(format!("step {}: {e}", step.number)))?;
    Ok((node, &step.artifact_id))
}
