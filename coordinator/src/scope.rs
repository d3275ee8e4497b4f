//! What a job has to itself while it runs: kinds of artifacts, each on one node or on all of them. Pure.

use prexor_format::{artifact::ArtifactKind, id::NodeName};

/// One kind of artifact, on one node or on every node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The kind.
    pub kind: ArtifactKind,
    /// `None`: wherever there is one.
    pub node: Option<NodeName>,
}

/// Everything that a job has to itself; nothing for jobs that only read the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope(pub Vec<Claim>);

impl Scope {
    /// These kinds, on every node.
    pub fn everywhere(kinds: impl IntoIterator<Item = ArtifactKind>) -> Self {
        Self(kinds.into_iter().map(|kind| Claim { kind, node: None }).collect())
    }

    /// Whether two jobs with these scopes must not run at the same time.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|a| other.0.iter().any(|b| a.clashes_with(b)))
    }

    /// The kinds in words: `mongo, valkey`.
    pub fn words(&self) -> String {
        let kinds = ArtifactKind::ALL.into_iter().filter(|k| self.0.iter().any(|c| c.kind == *k));
        kinds.map(ArtifactKind::as_str).collect::<Vec<_>>().join(", ")
    }
}

impl Claim {
    fn clashes_with(&self, other: &Self) -> bool {
        let apart = matches!((&self.node, &other.node), (Some(a), Some(b)) if a != b);
        self.kind == other.kind && !apart
    }
}

#[cfg(test)]
mod tests {
    use ArtifactKind::{Filesystem, Mongo, Valkey};

    use super::*;

    fn on(kind: ArtifactKind, node: &str) -> Scope {
        Scope(vec![Claim { kind, node: Some(node.parse().unwrap()) }])
    }

    #[test]
    fn one_kind_on_two_nodes_is_two_things() {
        assert!(!on(Filesystem, "h1").overlaps(&on(Filesystem, "h2")));
        assert!(on(Filesystem, "h1").overlaps(&on(Filesystem, "h1")));
        assert!(on(Filesystem, "h1").overlaps(&Scope::everywhere([Mongo, Filesystem])));
        assert!(Scope::everywhere([Filesystem]).overlaps(&on(Filesystem, "h2")));
        assert!(!Scope::everywhere([Mongo]).overlaps(&Scope::everywhere([Valkey, Filesystem])));
        assert!(!Scope::default().overlaps(&Scope::everywhere(ArtifactKind::ALL)), "who only reads is beside all");
        assert_eq!(Scope::everywhere([Valkey, Mongo]).words(), "mongo, valkey");
    }
}
