//! What the catalog has written down of a restore's steps, as questions that whoever takes it up asks.

use prexor_proto::backup::{Plan, Step, StepState, StepVerb};

use crate::catalog::JournaledStep;

/// What is written down of a restore's steps.
pub(super) struct Journal<'a> {
    plan: &'a Plan,
    steps: Vec<JournaledStep>,
}

impl<'a> Journal<'a> {
    pub(super) fn of(plan: &'a Plan, steps: Vec<JournaledStep>) -> Self {
        Self { plan, steps }
    }

    fn state(&self, step: &Step) -> Option<StepState> {
        self.steps.iter().find(|s| s.number == step.number).map(|s| s.state)
    }

    fn with(&self, verb: StepVerb) -> impl Iterator<Item = &Step> {
        self.plan.steps.iter().filter(move |s| s.verb() == verb)
    }

    pub(super) fn has_begun(&self, verb: StepVerb) -> bool {
        self.with(verb).any(|s| self.state(s).is_some())
    }

    pub(super) fn is_done(&self, verb: StepVerb) -> bool {
        self.with(verb).all(|s| self.is_step_done(s))
    }

    pub(super) fn is_step_done(&self, step: &Step) -> bool {
        self.state(step) == Some(StepState::Done)
    }

    /// Whether taking back has begun.
    pub(super) fn is_taken_back(&self) -> bool {
        self.steps.iter().any(|s| s.state == StepState::Reverted)
    }
}
