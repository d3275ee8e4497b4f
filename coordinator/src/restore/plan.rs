//! The restore plan: a pure function of the manifest, what the agents found, and what was asked for.
//!
//! No clock, no I/O, no runtime. What is executed is this very plan, recognised by its digest.

use std::collections::BTreeMap;

use prexor_format::{
    artifact::ArtifactKind,
    digest::Sha256Digest,
    id::{BackupId, NodeName},
    manifest::{Artifact, Contents, Controller, Manifest},
    platform::Records,
    selection::Selection,
};
use prexor_proto::facts;
use serde::Serialize;

mod consequences;
mod hosts;
mod laws;
mod prediction;
pub(super) mod raft;
mod words;

pub use consequences::Consequence;
pub use hosts::Hosts;
pub use prediction::{Past, Prediction};

/// What an agent found on its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node.
    pub name: NodeName,
    /// Its host's own name; empty when it does not answer.
    pub hostname: String,
    /// Why it does not answer; everything below is empty then.
    pub unreachable: Option<String>,
    /// What it could capture, and restore onto.
    pub sources: Vec<SourceFacts>,
    /// The controller's service there.
    pub controller_service: ServiceFacts,
    /// What its manager calls it; empty where it has no name.
    pub controller_unit: String,
    /// The same of Valkey's.
    pub valkey_unit: String,
    /// Why its agent cannot stop the controller and keep it from starting; `None` when it can.
    pub cannot_hold: Option<String>,
    /// A job that has ended and left the controller held.
    pub held_for: Option<String>,
    /// Seconds by which its clock is ahead of the coordinator's.
    pub clock_ahead: i64,
    /// The controller that is configured there now.
    pub controller: Option<Controller>,
    /// Free bytes where the agent stages artifacts.
    pub staging_free_bytes: u64,
}

/// One source of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFacts {
    /// Its kind.
    pub kind: ArtifactKind,
    /// What it is, for people.
    pub target: String,
    /// Why it is out of order.
    pub problem: Option<String>,
    /// By the names of `prexor_proto::facts`.
    pub facts: BTreeMap<String, String>,
}

/// Whether the controller runs on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceFacts {
    /// There is no such service.
    Absent,
    /// It runs.
    Active {
        /// As below.
        start_command: String,
    },
    /// It is stopped; a person starts it with this command.
    Inactive {
        /// `systemctl start prexorcloud-controller`
        start_command: String,
    },
    /// Its state could not be found out.
    Unknown(String),
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The kinds to restore; empty for everything in the backup, or the kinds of which a part is selected.
    pub scope: Vec<ArtifactKind>,
    /// Which part of them.
    pub selection: Selection,
    /// Whether where the controllers have their CA and certificates is selected beside it; what that means is known once
    /// the manifest is read.
    pub certificates: bool,
    /// Whether servers and controllers may have other versions than the backup's (law L19).
    pub accept_versions: bool,
    /// When the live state is saved.
    pub safety: Safety,
    /// What happens when it fails half way.
    pub on_failure: OnFailure,
    /// Which hosts it is about.
    pub hosts: Hosts,
}

/// What happens when a restore fails that has changed live data already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Everything is taken back.
    #[default]
    RollBack,
    /// It pauses, with all controllers held.
    Hold,
}

/// What is known beside the manifest and the hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// PrexorCloud's records in the backup.
    pub records: Records,
    /// What earlier restores and backups took here.
    pub past: Vec<Past>,
}

/// When the live state is saved as a backup of its own, so that the restore can be undone (law L24).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Safety {
    /// Once the controllers are stopped.
    #[default]
    AfterStop,
    /// While they run.
    BeforeStop,
    /// Never.
    None,
}

/// What a restore will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The backup.
    pub backup_id: BackupId,
    /// Which part of it.
    pub selection: Selection,
    /// Whether other versions were accepted; which, is among the notes.
    pub accept_versions: bool,
    /// When the live state is saved.
    pub safety: Safety,
    /// What happens when it fails half way.
    pub on_failure: OnFailure,
    /// Which hosts it is about.
    pub hosts: Hosts,
    /// What is exchanged for what.
    pub replacements: Vec<Replacement>,
    /// What is done, in this order.
    pub steps: Vec<Step>,
    /// What an operator should know beforehand.
    pub notes: Vec<String>,
    /// What will not be as in the backup, as it looks now (laws L1, L4, L5, L6). Not part of the digest: live keys move,
    /// and what is done is computed from them as they are then.
    #[serde(skip)]
    pub corrections: Vec<String>,
    /// The services that are stopped and held.
    pub units: Vec<Unit>,
    /// PrexorCloud's daemons that must rejoin (law L10).
    pub rejoin: Vec<String>,
    /// What it does to those who use the cluster. Not part of the digest: accounts and instances come and go.
    #[serde(skip)]
    pub consequences: Vec<Consequence>,
    /// How long it will take. Not part of the digest: it is learnt with every restore.
    #[serde(skip)]
    pub prediction: Prediction,
    /// Why it must not be done; empty when it may.
    pub refusals: Vec<Refusal>,
    /// What is left to do for a person afterwards.
    pub after: String,
}

/// One artifact in the place of live data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replacement {
    /// Its kind.
    pub kind: ArtifactKind,
    /// The artifact's id in the manifest.
    pub artifact_id: String,
    /// The node that restores it.
    pub node: NodeName,
    /// What is there.
    pub target: String,
    /// How much is there now. Not part of the digest: it may move while nobody acts.
    #[serde(skip)]
    pub current: String,
    /// What comes in its place.
    pub incoming: String,
    /// Stored bytes that travel to the node.
    pub size_bytes: u64,
    /// What of the artifact is restored, for people; empty for all of it.
    pub parts: Vec<String>,
}

/// The service of a controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unit {
    /// On which node.
    pub node: NodeName,
    /// What its manager calls it; empty where commands move it.
    pub name: String,
    /// Whether it runs, and is started again.
    pub runs: bool,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// From 1.
    pub number: u32,
    /// What is done.
    pub verb: Verb,
    /// By which agent; `None`: by the coordinator.
    pub node: Option<NodeName>,
    /// To which artifact.
    pub artifact_id: Option<String>,
    /// For people.
    pub title: String,
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the verbs of the agent's API")]
pub enum Verb {
    Preflight,
    Stage,
    Prepare,
    Hold,
    Silence,
    Safety,
    Swap,
    Check,
    Start,
    Release,
    Commit,
}

/// A reason not to restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The restore law behind it, such as `L14`; empty when none is.
    pub law: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Verb {
    /// Whether live data changes. It can be reverted until the commit.
    pub fn is_destructive(self) -> bool {
        matches!(self, Self::Swap | Self::Commit)
    }
}

impl Plan {
    /// Names exactly this plan: equal decisions give an equal digest.
    pub fn digest(&self) -> Sha256Digest {
        let json = serde_json::to_vec(self).expect("a plan has only string keys and no floating point numbers");
        Sha256Digest::of(&json)
    }
}

/// Computes the plan.
pub fn plan(manifest: &Manifest, nodes: &[NodeFacts], options: &Options, known: &Known) -> Plan {
    let (selection, hosts, enrolled) = (&options.selection, &options.hosts, nodes);
    let nodes: &[NodeFacts] = &nodes.iter().filter(|n| hosts.include(&n.name)).cloned().collect::<Vec<_>>();
    let scope = match options.scope.as_slice() {
        [] if selection.kinds().is_empty() => hosts.kinds(),
        [] => selection.kinds(),
        asked => asked.to_vec(),
    };
    let selected: Vec<&Artifact> =
        manifest.artifacts.iter().filter(|a| (scope.is_empty() || scope.contains(&a.kind)) && hosts.cover(a)).collect();
    let mut refusals = laws::of_the_cluster(nodes);
    refusals.extend(hosts.refusals(manifest, &scope));
    refusals.extend(laws::of_the_selection(selection, &scope, &selected));
    let missing: Vec<_> = scope.iter().filter(|k| manifest.artifacts.iter().all(|a| a.kind != **k)).collect();
    let missing: Vec<String> = missing.into_iter().map(|kind| format!("{} holds no {kind}", manifest.id)).collect();
    if selected.is_empty() {
        refusals.extend(missing.iter().map(|what| refusal("", what.clone())));
    }
    let mut placed = Vec::new();
    for artifact in &selected {
        match place(artifact, nodes) {
            Ok(node) => {
                refusals.extend(laws::of_the_artifact(artifact, node, selection));
                placed.push((*artifact, node));
            }
            Err(refused) => refusals.push(refused),
        }
    }
    let kept = raft::kept(manifest, &placed, enrolled, selection);
    let selection = &Selection { keep: kept.paths, ..selection.clone() };
    refusals.extend(kept.refusal);
    refusals.extend(Hosts::left_held(nodes, &placed));
    refusals.extend(laws::of_the_whole(manifest, &placed, selection));
    let overridden = |r: &Refusal| options.accept_versions && r.law == "L19";
    let (accepted, refusals): (Vec<_>, Vec<_>) = refusals.into_iter().partition(overridden);
    let accepted = accepted.into_iter().map(|r| format!("accepted with --accept-versions (law L19): {}", r.message));
    let replacements: Vec<_> = placed.iter().map(|(artifact, node)| replacement(artifact, node, selection)).collect();
    let steps = steps(&placed, nodes, options);
    let consequences = consequences::of(&placed, selection, &known.records);
    let prediction = prediction::of(&steps, &replacements, &known.past);
    Plan {
        backup_id: manifest.id.clone(),
        selection: selection.clone(),
        accept_versions: options.accept_versions,
        safety: options.safety,
        on_failure: options.on_failure,
        hosts: hosts.clone(),
        units: if placed.is_empty() { Vec::new() } else { units(nodes) },
        rejoin: consequences::who_must_rejoin(&consequences),
        notes: [
            accepted.collect(),
            laws::notes(manifest, &selected, options),
            hosts.notes(manifest, nodes),
            kept.note.into_iter().collect(),
            words::stop(nodes),
            words::safety(options.safety, &placed, nodes, &prediction, &steps),
            words::on_failure(options.on_failure).into_iter().collect(),
            placed.iter().flat_map(|(a, node)| words::way(a, node, selection)).collect(),
            missing,
        ]
        .concat(),
        corrections: placed.iter().flat_map(|(a, node)| laws::corrections(a, node, selection)).collect(),
        replacements,
        steps,
        consequences,
        prediction,
        refusals,
        after: words::after(nodes),
    }
}

/// The node that restores an artifact: the one that captured it, or for a database any other that reaches it.
fn place<'a>(artifact: &Artifact, nodes: &'a [NodeFacts]) -> Result<&'a NodeFacts, Refusal> {
    let own = nodes.iter().find(|n| n.name == artifact.node);
    if artifact.kind == ArtifactKind::Filesystem {
        let own = own.ok_or_else(|| {
            refusal(
                "L3",
                format!(
                    "{} belongs to {}, where no agent is enrolled: enrol one with `prexorctl setup --node {}`, or go \
                     without it (--without-host {})",
                    artifact.id, artifact.node, artifact.node, artifact.node
                ),
            )
        })?;
        // A root that is gone or damaged is what a restore is for: only the agent's silence stops it.
        return match source(own, artifact.kind) {
            Some(_) => Ok(own),
            None => Err(unusable(artifact, [own])),
        };
    }
    // What cannot be captured now may well be restored onto, where the agent says how.
    let fit = |s: &SourceFacts| s.problem.is_none() || s.facts.contains_key(facts::RESTORE_WAY);
    let usable = |n: &&NodeFacts| source(n, artifact.kind).is_some_and(fit);
    own.filter(usable)
        .or_else(|| nodes.iter().find(usable))
        .ok_or_else(|| unusable(artifact, nodes.iter().filter(|n| source(n, artifact.kind).is_some())))
}

fn source(node: &NodeFacts, kind: ArtifactKind) -> Option<&SourceFacts> {
    node.sources.iter().find(|s| s.kind == kind)
}

fn unusable<'a>(artifact: &Artifact, nodes: impl IntoIterator<Item = &'a NodeFacts>) -> Refusal {
    let why: Vec<String> = nodes
        .into_iter()
        .map(|n| {
            let problem = n.unreachable.as_deref().or_else(|| source(n, artifact.kind)?.problem.as_deref());
            format!("{}: {}", n.name, problem.unwrap_or("has nothing of this kind"))
        })
        .collect();
    let why = if why.is_empty() { "no enrolled agent cares for one".to_owned() } else { why.join("; ") };
    refusal("", format!("there is nothing to restore {} onto ({why})", artifact.id))
}

fn replacement(artifact: &Artifact, node: &NodeFacts, selection: &Selection) -> Replacement {
    let live = source(node, artifact.kind);
    Replacement {
        kind: artifact.kind,
        artifact_id: artifact.id.clone(),
        node: node.name.clone(),
        target: live.map(|s| s.target.clone()).unwrap_or_default(),
        current: live.map(words::current).unwrap_or_default(),
        incoming: words::incoming(artifact, selection),
        size_bytes: stored_bytes(artifact, selection),
        parts: selection.words(artifact),
    }
}

/// Stored bytes that a restore of this part needs.
fn stored_bytes(artifact: &Artifact, selection: &Selection) -> u64 {
    selection.files(artifact).iter().map(|f| f.size_bytes).sum()
}

/// Everything is staged and prepared, and so verified, on all hosts while the controllers still run. Then they are stopped
/// and held, all of them, and what they leave is saved; databases are swapped first, as the guide has it; and those that ran are started again, the first
/// one alone. What they find can be taken back until the commit, which comes last.
fn steps(placed: &[(&Artifact, &NodeFacts)], nodes: &[NodeFacts], options: &Options) -> Vec<Step> {
    let selection = &options.selection;
    let of_coordinator = |verb| (verb, None, None, words::of_all(verb).to_owned());
    let of_artifacts = |verb| {
        placed.iter().map(move |(artifact, node)| {
            let title = words::title(verb, artifact, live(artifact, node, selection));
            (verb, Some(node.name.clone()), Some(artifact.id.clone()), title)
        })
    };
    let held: Vec<&NodeFacts> = nodes.iter().filter(|n| n.is_held()).collect();
    let of_controllers = |verb, which: fn(&NodeFacts) -> bool| {
        let nodes = held.iter().filter(move |n| which(n));
        nodes.map(move |node| (verb, Some(node.name.clone()), None, words::of_unit(verb, &node.controller_unit)))
    };
    let mut steps = vec![of_coordinator(Verb::Preflight)];
    steps.extend(of_artifacts(Verb::Stage));
    steps.extend(of_artifacts(Verb::Prepare));
    let saved = |when| (options.safety == when && !placed.is_empty()).then(|| of_coordinator(Verb::Safety));
    steps.extend(saved(Safety::BeforeStop));
    if !held.is_empty() && !placed.is_empty() {
        steps.extend(of_controllers(Verb::Hold, |_| true));
        steps.push(of_coordinator(Verb::Silence));
    }
    steps.extend(saved(Safety::AfterStop));
    steps.extend(of_artifacts(Verb::Swap));
    steps.extend(of_artifacts(Verb::Check));
    if !placed.is_empty() {
        steps.extend(of_controllers(Verb::Start, NodeFacts::runs));
        steps.extend(of_controllers(Verb::Release, |n| !n.runs()));
    }
    steps.extend(of_artifacts(Verb::Commit));
    let numbered = steps.into_iter().zip(1..);
    numbered.map(|((verb, node, artifact_id, title), number)| Step { number, verb, node, artifact_id, title }).collect()
}

/// The services that are stopped and held.
fn units(nodes: &[NodeFacts]) -> Vec<Unit> {
    let unit = |n: &NodeFacts| Unit { node: n.name.clone(), name: n.controller_unit.clone(), runs: n.runs() };
    nodes.iter().filter(|n| n.is_held()).map(unit).collect()
}

impl NodeFacts {
    /// Whether its controller runs.
    fn runs(&self) -> bool {
        matches!(self.controller_service, ServiceFacts::Active { .. })
    }

    /// Whether its controller is held during the restore.
    fn is_held(&self) -> bool {
        let there = matches!(self.controller_service, ServiceFacts::Active { .. } | ServiceFacts::Inactive { .. });
        there && self.cannot_hold.is_none()
    }
}

/// Whether Valkey's keys are replaced while it runs.
fn live(artifact: &Artifact, node: &NodeFacts, selection: &Selection) -> bool {
    let way = || source(node, artifact.kind)?.facts.get(facts::RESTORE_WAY);
    artifact.kind == ArtifactKind::Valkey && (!selection.keys.is_empty() || way().is_some_and(|way| way == "live"))
}

fn refusal(law: &str, message: String) -> Refusal {
    Refusal { law: law.to_owned(), message }
}

/// The root directory that a files artifact came from.
fn root_of(artifact: &Artifact) -> Option<&str> {
    match &artifact.contents {
        Contents::Filesystem(files) => Some(&files.root),
        Contents::Mongo(_) | Contents::Valkey(_) => None,
    }
}

#[cfg(test)]
pub(in crate::restore) mod tests;
