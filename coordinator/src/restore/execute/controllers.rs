//! The controllers during a restore: stopped and held, released, started, waited for. That nobody else is left is `silence`'s to prove.
//!
//! Everything here may be repeated: an agent that finds its controller held, released or running already says so.

use std::{collections::BTreeSet, time::Duration};

use futures::{FutureExt as _, future::join_all};
use prexor_format::id::NodeName;
use prexor_proto::{
    agent::{ControlServiceResponse, Fence, ServiceVerb},
    backup::{ServiceRole, ServiceState, Step, StepState, StepVerb},
    reason::Reason,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Execution, Must, all_of, node_of};
use crate::{agents, error::Error};

/// How often a controller that was started is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(500);

impl Execution<'_> {
    pub(super) async fn control(&self, node: &NodeName, verb: ServiceVerb) -> Result<ControlServiceResponse, Error> {
        self.control_instead_of(node, verb, None).await
    }

    async fn control_instead_of(
        &self,
        node: &NodeName,
        verb: ServiceVerb,
        ended: Option<String>,
    ) -> Result<ControlServiceResponse, Error> {
        let (agent, fence) = (self.agent(node).await?, self.job.fence());
        let answer = agent.control_service(fence, verb, ServiceRole::Controller, ended).await;
        answer.map_err(|e| e.on(node.as_str()))
    }

    /// Stops the controller and keeps it so.
    pub(super) async fn hold(&self, node: &NodeName) -> Result<(), Error> {
        let ended = self.held_for_an_ended_job(node).await?;
        let answer = self.control_instead_of(node, ServiceVerb::Hold, ended).await?;
        self.is_held(node, &answer)
    }

    /// A job that has ended without this host, and left its controller held.
    async fn held_for_an_ended_job(&self, node: &NodeName) -> Result<Option<String>, Error> {
        let job = self.control(node, ServiceVerb::Look).await?.held_for;
        let open = self.ctx.catalog.active_jobs().await?;
        let has_ended = !job.is_empty() && open.iter().all(|row| row.job.id != job);
        Ok(has_ended.then_some(job))
    }

    /// A host that was away when its restore ended has files of then, perhaps half exchanged: they go back to what they were
    /// before anything new is put beside them.
    pub(super) async fn clear_what_was_left(&self) -> Result<(), Error> {
        for node in self.nodes_with(StepVerb::Hold)? {
            let Some(job_id) = self.held_for_an_ended_job(&node).await? else { continue };
            let fence = Fence { job_id: job_id.clone(), ..self.job.fence() };
            let agent = self.agent(&node).await?;
            for step in self.plan.steps.iter().filter(|s| s.verb() == StepVerb::Stage && s.node == node.as_str()) {
                match agent.verb(agents::Verb::Revert, fence.clone(), &step.artifact_id, |_| {}).await {
                    Ok(_) => {
                        let what = &step.artifact_id;
                        self.job.message(format!("{what} on {node}: what {job_id} left half done is taken back")).await;
                    }
                    Err(e) if e.reason == Reason::NotFound => {}
                    Err(e) => return Err(e.on(node.as_str())),
                }
            }
        }
        Ok(())
    }

    pub(super) fn is_held(&self, node: &NodeName, answer: &ControlServiceResponse) -> Result<(), Error> {
        let why = match (answer.state(), answer.held_for.as_str()) {
            (ServiceState::Inactive, job) if job == self.job.id() => return Ok(()),
            (ServiceState::Inactive, "") => "somebody has released it".to_owned(),
            (ServiceState::Inactive, other) => format!("it is held for {other}"),
            (_, _) => "it runs".to_owned(),
        };
        let message = format!("the controller on {node} is not held for this restore any more: {why} (law L14)");
        Err(Error::new(Reason::RestoreRefused, message).on(node.as_str()))
    }

    /// Ends the hold of a controller; starts nothing.
    pub(super) async fn release(&self, node: &NodeName) -> Result<(), Error> {
        self.control(node, ServiceVerb::Release).await.map(drop)
    }

    /// Ends the hold of a controller that ran and starts it.
    pub(super) async fn release_and_start(&self, node: &NodeName) -> Result<(), Error> {
        self.release(node).await?;
        self.control(node, ServiceVerb::Start).await.map(drop)
    }

    /// As [`Execution::release_and_start`], and waits until it is ready.
    pub(super) async fn start(&self, node: &NodeName) -> Result<(), Error> {
        self.release_and_start(node).await?;
        let limit = self.ctx.config.agents.ready;
        let deadline = Instant::now() + limit;
        loop {
            let answer = self.control(node, ServiceVerb::Look).await?;
            if answer.ready && answer.state() == ServiceState::Active {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let why = if answer.state() == ServiceState::Active {
                    answer.not_ready
                } else {
                    "its unit does not run".to_owned()
                };
                let last = self.control(node, ServiceVerb::Log).await.map(|a| a.last_lines).unwrap_or_default();
                let log = match last.trim() {
                    "" => "its log says more".to_owned(),
                    last => format!("the last lines of its log:\n{last}\n"),
                };
                let message = format!(
                    "the controller on {node} was started and is not ready after {} s: {why}; {log}",
                    limit.as_secs()
                );
                return Err(Error::new(Reason::SourceFailed, message).on(node.as_str()));
            }
            tokio::select! {
                () = tokio::time::sleep(ASK_EVERY) => {}
                () = self.job.cancel().cancelled() => return Err(Error::cancelled()),
            }
        }
    }

    /// Before anything is taken back: a controller that was let go of already must not see it happen.
    pub(super) async fn hold_again(&self) -> Result<(), Error> {
        let begun = self.begun().await?;
        let let_go = |s: &Step| matches!(s.verb(), StepVerb::Start | StepVerb::Release) && begun.contains(&s.number);
        if !self.plan.steps.iter().any(let_go) {
            return Ok(());
        }
        let (patience, nodes) = (self.patience(), self.nodes_with(StepVerb::Hold)?);
        let meanwhile = "its controller must be stopped before anything is taken back";
        let held: Vec<_> =
            nodes.iter().map(|node| self.insist(node, Must::Hold, meanwhile, &patience).boxed()).collect();
        all_of(join_all(held).await.into_iter().filter_map(Result::err)).map_or(Ok(()), Err)
    }

    /// After everything was taken back: ends the holds and starts the controllers that ran; returns where, if any did. One
    /// that cannot be started keeps the others from nothing.
    pub(super) async fn let_go(&self) -> Result<Option<String>, Error> {
        let begun = self.begun().await?;
        let ran = self.nodes_with(StepVerb::Start)?;
        let patience = self.patience();
        let mut ends = Vec::new();
        for step in self.plan.steps.iter().filter(|s| s.verb() == StepVerb::Hold && begun.contains(&s.number)) {
            let runs = ran.contains(&node_of(step)?);
            ends.push(self.let_one_go(step, runs, &patience).boxed());
        }
        let (mut running, mut failed) = (Vec::new(), Vec::new());
        for end in join_all(ends).await {
            match end {
                Ok(node) => running.extend(node),
                Err(e) => failed.push(e),
            }
        }
        match all_of(failed) {
            Some(e) => Err(e),
            None => Ok((!running.is_empty()).then(|| running.join(", "))),
        }
    }

    async fn let_one_go(&self, step: &Step, runs: bool, patience: &CancellationToken) -> Result<Option<String>, Error> {
        let node = node_of(step)?;
        let must = if runs { Must::Start } else { Must::Release };
        self.insist(&node, must, "its controller is still held", patience).await?;
        self.record(step, StepState::Reverted, "").await?;
        Ok(runs.then(|| node.to_string()))
    }

    /// For the message of a restore that could not be taken back.
    pub(super) fn who_stays_held(&self) -> String {
        let nodes: Vec<&str> =
            self.plan.steps.iter().filter(|s| s.verb() == StepVerb::Hold).map(|s| s.node.as_str()).collect();
        if nodes.is_empty() {
            return String::new();
        }
        format!(
            "; controllers that were stopped stay held (on {}): `prexor-agent release --local` there lets one go, which \
             then finds data in between",
            nodes.join(", ")
        )
    }

    pub(super) fn nodes_with(&self, verb: StepVerb) -> Result<Vec<NodeName>, Error> {
        self.plan.steps.iter().filter(|s| s.verb() == verb).map(node_of).collect()
    }

    async fn begun(&self) -> Result<BTreeSet<u32>, Error> {
        Ok(self.ctx.catalog.steps(self.job.id()).await?.iter().map(|s| s.number).collect())
    }
}
