//! Which hosts a restore is about: all of them, the files of some, or all but those that are gone.

use prexor_format::{
    artifact::ArtifactKind,
    id::NodeName,
    manifest::{Artifact, Manifest},
};
use serde::Serialize;

use super::{NodeFacts, Refusal, refusal};

/// As asked for with `--only-host` and `--without-host`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Hosts {
    /// Only the files of these: the databases belong to the cluster and not to a host. Empty: everything.
    pub only: Vec<NodeName>,
    /// Hosts that are gone: nothing is asked of them, and what belongs to them alone stays away.
    pub without: Vec<NodeName>,
}

impl Hosts {
    /// Whether the restore is about this one.
    pub(super) fn include(&self, node: &NodeName) -> bool {
        (self.only.is_empty() || self.only.contains(node)) && !self.without.contains(node)
    }

    /// Whether this artifact is restored. A database that was captured on a host that is gone is restored through another.
    pub fn cover(&self, artifact: &Artifact) -> bool {
        match artifact.kind {
            ArtifactKind::Filesystem => self.include(&artifact.node),
            ArtifactKind::Mongo | ArtifactKind::Valkey => self.only.is_empty(),
        }
    }

    /// The kinds that are meant where nobody says which; empty for all.
    pub(super) fn kinds(&self) -> Vec<ArtifactKind> {
        if self.only.is_empty() { Vec::new() } else { vec![ArtifactKind::Filesystem] }
    }

    /// Names that mean nothing, and databases of a host.
    pub(super) fn refusals(&self, manifest: &Manifest, scope: &[ArtifactKind]) -> Vec<Refusal> {
        let has_files = |node: &NodeName| files(manifest).any(|a| a.node == *node);
        let mut out = Vec::new();
        if !self.only.is_empty() && scope.iter().any(|kind| *kind != ArtifactKind::Filesystem) {
            let message = "--only-host restores the files of that host, and databases belong to the whole cluster: leave one \
                           of both out";
            out.push(refusal("", message.to_owned()));
        }
        let unknown = self.only.iter().filter(|node| !has_files(node));
        out.extend(unknown.map(|node| {
            let those: Vec<&str> = files(manifest).map(|a| a.node.as_str()).collect();
            let those = if those.is_empty() { "nobody's".to_owned() } else { format!("those of {}", those.join(", ")) };
            refusal("", format!("{} holds no files of {node}, only {those}", manifest.id))
        }));
        let is_known = |node: &NodeName| manifest.hosts.iter().any(|h| h.node == *node);
        out.extend(self.without.iter().filter(|node| !is_known(node)).map(|node| {
            let names: Vec<&str> = manifest.hosts.iter().map(|h| h.node.as_str()).collect();
            let message =
                format!("{} knows no host {node} that could be left out, only {}", manifest.id, names.join(", "));
            refusal("", message)
        }));
        out
    }

    /// A host that was away when its restore ended has files of then: they come back with this restore, or a person decides.
    pub(super) fn left_held(nodes: &[NodeFacts], placed: &[(&Artifact, &NodeFacts)]) -> Vec<Refusal> {
        let gets_files =
            |node: &NodeFacts| placed.iter().any(|(a, n)| a.kind == ArtifactKind::Filesystem && n.name == node.name);
        let left = nodes.iter().filter(|n| !gets_files(n)).filter_map(|n| Some((&n.name, n.held_for.as_ref()?)));
        left.map(|(node, job)| {
            let message = format!(
                "the controller on {node} is still held for {job}, which ended without it, and its files are not restored \
                 now: restore them first (--only-host {node}), or end the hold with `prexor-agent release --local` as root \
                 on {node}"
            );
            refusal("L14", message)
        })
        .collect()
    }

    /// What leaving hosts out means.
    pub(super) fn notes(&self, manifest: &Manifest, nodes: &[NodeFacts]) -> Vec<String> {
        let mut out = Vec::new();
        for node in &self.without {
            let own = if files(manifest).any(|a| a.node == *node) { ", its files are not restored" } else { "" };
            out.push(format!(
                "{node} is left out{own}, and whether its controller is stopped is for you to make sure: it must not start \
                 before `prexorctl restore {} --only-host {node}` has brought its files back",
                manifest.id
            ));
        }
        out.extend(nodes.iter().filter_map(|n| another_machine(manifest, n)));
        out.extend(nodes.iter().filter_map(|n| {
            let job = n.held_for.as_ref()?;
            Some(format!(
                "the controller on {} is still held for {job}, which has ended: this restore takes the hold over, and what \
                 that job left there half done is taken back first",
                n.name
            ))
        }));
        out
    }
}

fn files(manifest: &Manifest) -> impl Iterator<Item = &Artifact> {
    manifest.artifacts.iter().filter(|a| a.kind == ArtifactKind::Filesystem)
}

/// L3: a machine that has taken the place of another gets its identity, which must then be nobody else's.
fn another_machine(manifest: &Manifest, node: &NodeFacts) -> Option<String> {
    let was = manifest.hosts.iter().find(|h| h.node == node.name && h.controller.is_some())?;
    (!node.hostname.is_empty() && was.hostname != node.hostname).then(|| {
        format!(
            "{} is another machine now ({}, then {}) and becomes that controller: the old one must never start again, two \
             controllers would have one uuid (law L3)",
            node.name, node.hostname, was.hostname
        )
    })
}
