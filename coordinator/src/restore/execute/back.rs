//! The way back: every unit is reverted and every controller let go of, and hosts that are away are waited for.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use prexor_format::id::NodeName;
use prexor_proto::{
    backup::{Step, StepState, StepVerb},
    reason::Reason,
};
use tokio_util::sync::CancellationToken;

use super::{Ended, Execution, all_of, place};
use crate::{agents, catalog::StepRecord, error::Error};

/// How long to wait before an agent is asked again that could not do what it must.
const RETRY_EVERY: Duration = Duration::from_secs(2);

/// How often a person is told that a host is still being waited for.
const REMIND_EVERY: Duration = Duration::from_secs(60);

impl Execution<'_> {
    /// Takes every unit back that may have been begun, the last one first, lets the controllers go, and says in the error
    /// what came of it. Where something could not be taken back the controllers stay held: what they would find is in
    /// between.
    pub(super) async fn take_back(&self, failed: Error) -> Ended {
        tracing::warn!(job = self.job.id(), error = %failed, "restore failed, taking it back");
        let back = async {
            self.mark().await?;
            self.hold_again().await?;
            self.revert_units().await
        };
        if let Err(e) = back.await {
            let saved = self.saved().await;
            let saved = saved.map(|b| format!("; the state before it is saved as {}", b.id)).unwrap_or_default();
            let how = format!("it could not be taken back: {}{saved}{}", e.message, self.who_stays_held());
            return Ended::Paused(self.paused(failed, &how));
        }
        self.nothing_to_undo().await;
        let outcome = match self.let_go().await {
            Ok(None) => "everything is as it was before".to_owned(),
            Ok(Some(running)) => {
                format!("everything is as it was before, and the controllers on {running} run again")
            }
            Err(e) => {
                let how = format!("everything is as it was before, but for the controllers: {}", e.message);
                return Ended::Paused(self.paused(failed, &how));
            }
        };
        let left_out = match self.plan.without_hosts.as_slice() {
            [] => String::new(),
            hosts => format!("; {} was left out: look there before its controller is started", hosts.join(", ")),
        };
        Ended::Failed(Error { message: format!("{}; {outcome}{left_out}", failed.message), ..failed })
    }

    /// From here on there is no other way than back, whoever takes the restore up.
    async fn mark(&self) -> Result<(), Error> {
        let Some(first) = self.plan.steps.first() else { return Ok(()) };
        let (job_id, number, at) = (self.job.id(), first.number, Timestamp::now());
        let record = StepRecord { job_id, number, state: StepState::Reverted, detail: "", at };
        self.ctx.catalog.record_step(&record).await
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
            let meanwhile = format!("{artifact_id}: it is not taken back yet");
            let revert = Must::Verb(agents::Verb::Revert, artifact_id);
            match self.insist(&node, revert, &meanwhile, &patience).await {
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
    pub(super) fn patience(&self) -> CancellationToken {
        if self.job.cancel().is_cancelled() { self.job.give_up().clone() } else { self.job.cancel().clone() }
    }

    /// Repeats something on a host until it works or fails for a reason that does not pass by itself: an agent that dies and
    /// comes back is waited for.
    pub(super) async fn insist(
        &self,
        node: &NodeName,
        must: Must<'_>,
        meanwhile: &str,
        patience: &CancellationToken,
    ) -> Result<(), Error> {
        let (mut reminded, since) = (None::<Instant>, Instant::now());
        loop {
            let error = match self.attempt(node, must).await {
                Ok(()) => return Ok(()),
                Err(e) if !must.may_work_later(e.reason) => return Err(e.on(node.as_str())),
                Err(e) => e,
            };
            if since.elapsed() >= self.ctx.config.agents.away {
                let message = format!(
                    "{}; it was waited for {} s (agents.away)",
                    error.message,
                    self.ctx.config.agents.away.as_secs()
                );
                return Err(Error { message, ..error }.on(node.as_str()));
            }
            if reminded.is_none_or(|at| at.elapsed() >= REMIND_EVERY) {
                reminded = Some(Instant::now());
                self.job.warning(format!("waiting for {node} ({}): {meanwhile}", error.message)).await;
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY_EVERY) => {}
                () = patience.cancelled() => return Err(error.on(node.as_str())),
            }
        }
    }

    async fn attempt(&self, node: &NodeName, must: Must<'_>) -> Result<(), Error> {
        match must {
            Must::Verb(verb, artifact_id) => {
                let agent = self.agent(node).await?;
                agent.verb(verb, self.job.fence(), artifact_id, |p| self.job.progress(p)).await.map(drop)
            }
            Must::Hold => self.hold(node).await,
            Must::Release => self.release(node).await,
            Must::Start => self.release_and_start(node).await,
        }
    }
}

/// What is repeated on a host until it has happened.
#[derive(Debug, Clone, Copy)]
pub(super) enum Must<'a> {
    /// A verb on a unit.
    Verb(agents::Verb, &'a str),
    /// The controller is stopped and held.
    Hold,
    /// It is released.
    Release,
    /// It is released and started.
    Start,
}

impl Must<'_> {
    /// Whether the same call may work later: when a host is back; and for units when a disk has room again, a privilege is
    /// granted. What a service's manager refuses is for a person to look at.
    fn may_work_later(self, reason: Reason) -> bool {
        use Reason::{AgentUnavailable, NoSpace, SourceDenied, SourceFailed, SourceUnavailable};
        match self {
            Self::Verb(..) => {
                matches!(reason, AgentUnavailable | SourceUnavailable | SourceFailed | SourceDenied | NoSpace)
            }
            Self::Hold | Self::Release | Self::Start => reason == AgentUnavailable,
        }
    }
}
