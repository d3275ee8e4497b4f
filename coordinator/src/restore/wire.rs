//! Plans as the client API shows them.

use prexor_proto::{
    backup as wire,
    convert::{duration_to_wire, kind_to_wire, selection_to_wire},
};

use prexor_format::{id::NodeName, selection::Selection};

use super::plan::{Consequence, Hosts, OnFailure, Plan, Prediction, Replacement, Safety, Step, Unit, Verb};

/// The plan on the wire, digest included.
pub fn plan(plan: &Plan) -> wire::Plan {
    wire::Plan {
        backup_id: plan.backup_id.to_string(),
        digest: plan.digest().0.to_vec(),
        replacements: plan.replacements.iter().map(replacement).collect(),
        steps: plan.steps.iter().map(step).collect(),
        notes: plan.notes.clone(),
        refusals: plan
            .refusals
            .iter()
            .map(|r| wire::Refusal { law: r.law.clone(), message: r.message.clone() })
            .collect(),
        after: plan.after.clone(),
        accept_versions: plan.accept_versions,
        safety: safety_to_wire(plan.safety).into(),
        only_hosts: plan.hosts.only.iter().map(ToString::to_string).collect(),
        without_hosts: plan.hosts.without.iter().map(ToString::to_string).collect(),
        on_failure: match plan.on_failure {
            OnFailure::RollBack => wire::OnFailure::RollBack,
            OnFailure::Hold => wire::OnFailure::Hold,
        }
        .into(),
        corrections: plan.corrections.clone(),
        units: plan.units.iter().map(unit).collect(),
        rejoin: plan.rejoin.clone(),
        consequences: plan.consequences.iter().map(consequence).collect(),
        prediction: Some(prediction(&plan.prediction)),
        selection: (plan.selection != Selection::default()).then(|| selection_to_wire(&plan.selection)),
    }
}

/// Which hosts a restore is about, as it was asked for.
///
/// # Errors
/// What is wrong with a name.
pub fn hosts_from_wire(only: &[String], without: &[String]) -> Result<Hosts, String> {
    let names = |names: &[String]| {
        let mut names: Vec<NodeName> =
            names.iter().map(|n| n.parse().map_err(|e| format!("{n}: {e}"))).collect::<Result<_, String>>()?;
        names.sort();
        names.dedup();
        Ok::<_, String>(names)
    };
    Ok(Hosts { only: names(only)?, without: names(without)? })
}

/// When the live state is saved, as it was asked for.
pub fn safety_from_wire(safety: wire::Safety) -> Safety {
    match safety {
        wire::Safety::Unspecified | wire::Safety::AfterStop => Safety::AfterStop,
        wire::Safety::BeforeStop => Safety::BeforeStop,
        wire::Safety::None => Safety::None,
    }
}

/// What happens when a restore fails half way, as it was asked for.
pub fn on_failure_from_wire(on_failure: wire::OnFailure) -> OnFailure {
    match on_failure {
        wire::OnFailure::Unspecified | wire::OnFailure::RollBack => OnFailure::RollBack,
        wire::OnFailure::Hold => OnFailure::Hold,
    }
}

fn safety_to_wire(safety: Safety) -> wire::Safety {
    match safety {
        Safety::AfterStop => wire::Safety::AfterStop,
        Safety::BeforeStop => wire::Safety::BeforeStop,
        Safety::None => wire::Safety::None,
    }
}

/// One step on the wire.
fn step(step: &Step) -> wire::Step {
    let verb = match step.verb {
        Verb::Preflight => wire::StepVerb::Preflight,
        Verb::Stage => wire::StepVerb::Stage,
        Verb::Prepare => wire::StepVerb::Prepare,
        Verb::Swap => wire::StepVerb::Swap,
        Verb::Hold => wire::StepVerb::Hold,
        Verb::Silence => wire::StepVerb::Silence,
        Verb::Safety => wire::StepVerb::Safety,
        Verb::Check => wire::StepVerb::Check,
        Verb::Start => wire::StepVerb::Start,
        Verb::Release => wire::StepVerb::Release,
        Verb::Commit => wire::StepVerb::Commit,
    };
    wire::Step {
        number: step.number,
        verb: verb.into(),
        node: step.node.as_ref().map(ToString::to_string).unwrap_or_default(),
        artifact_id: step.artifact_id.clone().unwrap_or_default(),
        title: step.title.clone(),
        destructive: step.verb.is_destructive(),
    }
}

fn replacement(r: &Replacement) -> wire::Replacement {
    wire::Replacement {
        kind: kind_to_wire(r.kind).into(),
        node: r.node.to_string(),
        target: r.target.clone(),
        current: r.current.clone(),
        incoming: r.incoming.clone(),
        size_bytes: r.size_bytes,
        parts: r.parts.clone(),
        artifact_id: r.artifact_id.clone(),
    }
}

fn unit(unit: &Unit) -> wire::Unit {
    wire::Unit { node: unit.node.to_string(), name: unit.name.clone(), runs: unit.runs }
}

fn consequence(c: &Consequence) -> wire::Consequence {
    wire::Consequence { what: c.what.to_owned(), names: c.names.clone(), text: c.text.clone() }
}

fn prediction(p: &Prediction) -> wire::Prediction {
    let because = p.because.clone();
    wire::Prediction { total: p.total.map(duration_to_wire), stopped: p.stopped.map(duration_to_wire), because }
}

/// What a step does, out of a report; `None` where a newer version wrote it.
pub(super) fn verb_from_wire(verb: wire::StepVerb) -> Option<Verb> {
    Some(match verb {
        wire::StepVerb::Preflight => Verb::Preflight,
        wire::StepVerb::Stage => Verb::Stage,
        wire::StepVerb::Prepare => Verb::Prepare,
        wire::StepVerb::Swap => Verb::Swap,
        wire::StepVerb::Hold => Verb::Hold,
        wire::StepVerb::Silence => Verb::Silence,
        wire::StepVerb::Safety => Verb::Safety,
        wire::StepVerb::Check => Verb::Check,
        wire::StepVerb::Start => Verb::Start,
        wire::StepVerb::Release => Verb::Release,
        wire::StepVerb::Commit => Verb::Commit,
        wire::StepVerb::Unspecified => return None,
    })
}
