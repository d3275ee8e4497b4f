//! What a restore that has succeeded says of itself: how long it took, step by step and as a whole, which is the measured RTO.

use std::{collections::BTreeMap, sync::PoisonError};

use jiff::{SignedDuration, Timestamp};
use prexor_proto::{
    backup::{ArtifactKind, Plan, Replacement, RestoreReport, Step, StepResult, StepState, StepVerb},
    convert::duration_to_wire,
};

use super::Execution;
use crate::catalog::JournaledStep;

impl Execution<'_> {
    /// The report of this restore, all of whose steps are taken.
    pub(super) async fn report(&self) -> RestoreReport {
        let journal = self.ctx.catalog.steps(self.job.id()).await;
        let journal = journal.unwrap_or_else(|e| {
            tracing::error!(job = self.job.id(), "how long its steps took cannot be read: {e}");
            Vec::new()
        });
        let measured = self.durations.lock().unwrap_or_else(PoisonError::into_inner).clone();
        RestoreReport {
            after: self.plan.after.clone(),
            safety_backup: self.saved().await.map(|b| b.id).unwrap_or_default(),
            ..of(self.plan, &journal, &measured)
        }
    }
}

/// The times of a report. What this run of the coordinator has `measured` itself is better than the journal, by which a step
/// that was taken up again began when it first did.
fn of(plan: &Plan, journal: &[JournaledStep], measured: &BTreeMap<u32, SignedDuration>) -> RestoreReport {
    let written = |step: &Step| journal.iter().find(|j| j.number == step.number && j.state == StepState::Done);
    let lasted = |step: &Step| {
        let of_journal = || written(step).and_then(|j| Some(j.ended_at?.duration_since(j.started_at)));
        measured.get(&step.number).copied().or_else(of_journal)
    };
    let result = |step: &Step| {
        let replacement = replacement_of(plan, step);
        Some(StepResult {
            number: step.number,
            duration: Some(duration_to_wire(lasted(step)?)),
            verb: step.verb,
            node: step.node.clone(),
            title: step.title.clone(),
            kind: replacement.map_or(ArtifactKind::Unspecified as i32, |r| r.kind),
            size_bytes: replacement.map_or(0, |r| r.size_bytes),
        })
    };
    let with = |verb: StepVerb| plan.steps.iter().filter(move |s| s.verb() == verb).filter_map(written);
    let between = |from: Option<Timestamp>, to: Option<Timestamp>| Some(duration_to_wire(to?.duration_since(from?)));
    let begun = journal.iter().map(|j| j.started_at).min();
    let ended = journal.iter().filter_map(|j| j.ended_at).max();
    let held = with(StepVerb::Hold).map(|j| j.started_at).min();
    let ready = with(StepVerb::Start).filter_map(|j| j.ended_at).max();
    RestoreReport {
        steps: plan.steps.iter().filter_map(result).collect(),
        took: between(begun, ended),
        stopped: between(held, ready),
        ..RestoreReport::default()
    }
}

/// What is replaced by the artifact that a step is about.
fn replacement_of<'a>(plan: &'a Plan, step: &Step) -> Option<&'a Replacement> {
    let about = |r: &&Replacement| !step.artifact_id.is_empty() && r.artifact_id == step.artifact_id;
    plan.replacements.iter().find(about)
}

#[cfg(test)]
mod tests {
    use prexor_proto::convert::duration_from_wire;

    use super::*;

    fn step(number: u32, verb: StepVerb, artifact_id: &str) -> Step {
        Step { number, verb: verb as i32, artifact_id: artifact_id.to_owned(), ..Step::default() }
    }

    #[test]
    fn the_rto_is_from_the_first_step_to_the_last_and_the_stop_from_hold_to_ready() {
        let replacement = Replacement {
            kind: ArtifactKind::Mongo as i32,
            artifact_id: "mongo".to_owned(),
            size_bytes: 7,
            ..Replacement::default()
        };
        let plan = Plan {
            replacements: vec![replacement],
            steps: vec![
                step(1, StepVerb::Stage, "mongo"),
                step(2, StepVerb::Hold, ""),
                step(3, StepVerb::Swap, "mongo"),
                step(4, StepVerb::Start, ""),
                step(5, StepVerb::Commit, "mongo"),
            ],
            ..Plan::default()
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        let done = |number, from, to| JournaledStep {
            number,
            state: StepState::Done,
            started_at: at(from),
            ended_at: Some(at(to)),
            detail: String::new(),
        };
        // The swap was taken up again after a pause, and took two seconds then.
        let journal = [done(1, 0, 10), done(2, 10, 11), done(3, 11, 100), done(4, 100, 105), done(5, 105, 106)];
        let measured = BTreeMap::from([(3, SignedDuration::from_secs(2))]);
        let report = of(&plan, &journal, &measured);
        let seconds = |d| duration_from_wire(d).as_secs();
        let steps: Vec<_> = report.steps.iter().map(|s| seconds(s.duration.as_ref().unwrap())).collect();
        assert_eq!(steps, [10, 1, 2, 5, 1]);
        let [took, stopped] = [&report.took, &report.stopped].map(|d| seconds(d.as_ref().unwrap()));
        assert_eq!((took, stopped), (106, 95));
        let swap = &report.steps[2];
        assert_eq!((swap.kind(), swap.size_bytes, swap.verb()), (ArtifactKind::Mongo, 7, StepVerb::Swap));
        // Where none was stopped there is nothing to say.
        let files = Plan { steps: vec![step(1, StepVerb::Stage, "mongo")], ..plan };
        assert_eq!(of(&files, &journal[..1], &measured).stopped, None);
    }
}
