//! Who captures what: pure, from what the agents say of themselves.

use prexor_format::{artifact::ArtifactKind, id::NodeName};
use prexor_proto::{
    backup::{Node, Source},
    convert::kind_from_wire,
    facts,
    reason::Reason,
};

use crate::error::Error;

/// One artifact to be captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) kind: ArtifactKind,
    pub(super) node: NodeName,
}

/// Everything to be captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) captures: Vec<Choice>,
    /// What will be missing, and why.
    pub(super) warnings: Vec<String>,
    /// Size of the live data, as far as it is known.
    pub(super) live_bytes: u64,
}

/// One capable node for MongoDB and one for Valkey, the first by name, for Valkey the one that it runs on before others; every
/// node that has files.
///
/// Fails when a kind that is asked for has no capable node. With an empty scope everything is asked for that any node
/// says it has; then every node must answer, for nobody knows what a silent one has.
///
/// With `whatever_there_is` a kind that cannot be captured becomes a warning, as long as any can be.
pub(super) fn select(nodes: &[Node], scope: &[ArtifactKind], whatever_there_is: bool) -> Result<Selection, Error> {
    if nodes.iter().all(|n| !n.reachable) {
        let problems: Vec<String> = nodes.iter().map(|n| n.problem.clone()).collect();
        return Err(Error::new(Reason::AgentUnavailable, format!("no agent can be reached: {}", problems.join("; "))));
    }
    if scope.is_empty()
        && let Some(silent) = nodes.iter().find(|n| !n.reachable)
    {
        let what = "it is unknown what would be missing from the backup; bring its agent back, or say with --scope what to \
                    back up without it";
        let message = format!("{} does not answer ({}): {what}", silent.name, silent.problem);
        return Err(Error::new(Reason::AgentUnavailable, message).on(&silent.name));
    }
    let has = |kind: &ArtifactKind| nodes.iter().any(|n| source(n, *kind).is_some());
    let asked: Vec<ArtifactKind> =
        ArtifactKind::ALL.into_iter().filter(|k| if scope.is_empty() { has(k) } else { scope.contains(k) }).collect();
    if asked.is_empty() {
        return Err(Error::new(
            Reason::SourceUnavailable,
            "no node has anything to back up: `prexor-agent inspect` on each host tells why",
        ));
    }
    let mut selection = Selection { captures: Vec::new(), warnings: Vec::new(), live_bytes: 0 };
    let mut first = None;
    for kind in asked {
        match selection.choose(nodes, kind) {
            Err(e) if whatever_there_is => {
                selection.warnings.push(e.message.clone());
                first.get_or_insert(e);
            }
            chosen => chosen?,
        }
    }
    if let Some(e) = first.filter(|_| selection.captures.is_empty()) {
        return Err(e);
    }
    for node in nodes.iter().filter(|n| !n.reachable) {
        selection.warnings.push(format!("{} is not part of this backup: {}", node.name, node.problem));
    }
    Ok(selection)
}

impl Selection {
    fn choose(&mut self, nodes: &[Node], kind: ArtifactKind) -> Result<(), Error> {
        let sources: Vec<(&Node, &Source)> = nodes.iter().filter_map(|n| Some((n, source(n, kind)?))).collect();
        let (mut capable, broken): (Vec<_>, Vec<_>) = sources.into_iter().partition(|(_, s)| s.problem.is_empty());
        capable.sort_by_key(|(_, source)| !sees_files(source));
        if capable.is_empty() {
            return Err(nobody(nodes, kind, &broken));
        }
        let wanted = if kind == ArtifactKind::Filesystem { capable.len() } else { 1 };
        for (node, source) in capable.into_iter().take(wanted) {
            let name = node.name.parse().map_err(|e| Error::internal(format!("{e}")))?;
            let bytes = source.facts.get(facts::BYTES).and_then(|b| b.parse::<u64>().ok());
            self.live_bytes = self.live_bytes.saturating_add(bytes.unwrap_or(0));
            self.captures.push(Choice { kind, node: name });
        }
        if kind == ArtifactKind::Filesystem {
            self.warnings.extend(
                broken
                    .iter()
                    .map(|(n, s)| format!("the files of {} are not part of this backup: {}", n.name, s.problem)),
            );
        }
        Ok(())
    }
}

fn source(node: &Node, kind: ArtifactKind) -> Option<&Source> {
    node.sources.iter().find(|s| node.reachable && kind_from_wire(s.kind) == Ok(kind))
}

/// Whether a server's own files are within the agent's reach: its captures and restores are then quicker than any other's.
fn sees_files(source: &Source) -> bool {
    source.facts.get(facts::RESTORE_WAY).is_some_and(|way| way == "files")
}

/// Names every node that might have had this kind, with what keeps it from capturing.
fn nobody(nodes: &[Node], kind: ArtifactKind, broken: &[(&Node, &Source)]) -> Error {
    let unreachable = nodes.iter().filter(|n| !n.reachable).map(|n| (&n.name, &n.problem));
    let why: Vec<(&String, &String)> = broken.iter().map(|(n, s)| (&n.name, &s.problem)).chain(unreachable).collect();
    let text: Vec<String> = why.iter().map(|(node, problem)| format!("{node}: {problem}")).collect();
    let error = if text.is_empty() {
        Error::new(
            Reason::SourceUnavailable,
            format!("no enrolled node has {kind}: enable it in an agent.yml, or leave it out of --scope"),
        )
    } else {
        Error::new(Reason::SourceUnavailable, format!("{kind} cannot be captured: {}", text.join("; ")))
    };
    match why.as_slice() {
        [(node, _)] => error.on(node),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use ArtifactKind::{Filesystem, Mongo, Valkey};
    use prexor_proto::convert::kind_to_wire;

    use super::*;

    fn node(name: &str, sources: &[(ArtifactKind, &str)]) -> Node {
        let source = |(kind, problem): &(ArtifactKind, &str)| Source {
            kind: kind_to_wire(*kind) as i32,
            problem: (*problem).to_owned(),
            facts: [(facts::BYTES.to_owned(), "100".to_owned())].into(),
            ..Source::default()
        };
        Node {
            name: name.to_owned(),
            reachable: true,
            sources: sources.iter().map(source).collect(),
            ..Node::default()
        }
    }

    fn gone(name: &str) -> Node {
        let problem = format!("the agent on {name} cannot be reached");
        Node { name: name.to_owned(), problem, sources: node("x", &[(Filesystem, "")]).sources, ..Node::default() }
    }

    fn chosen(nodes: &[Node], scope: &[ArtifactKind]) -> Vec<String> {
        select(nodes, scope, false).unwrap().captures.iter().map(|c| format!("{} {}", c.kind, c.node)).collect()
    }

    #[test]
    fn databases_once_and_files_everywhere() {
        let nodes = [
            node("h1", &[(Mongo, "down"), (Filesystem, "")]),
            node("h2", &[(Mongo, ""), (Valkey, ""), (Filesystem, "")]),
            node("h3", &[(Mongo, ""), (Valkey, "")]),
        ];
        assert_eq!(chosen(&nodes, &[]), ["mongo h2", "valkey h2", "filesystem h1", "filesystem h2"]);
        assert_eq!(chosen(&nodes, &[Valkey]), ["valkey h2"]);
        assert_eq!(select(&nodes, &[], false).unwrap().live_bytes, 400);
    }

    #[test]
    fn a_server_is_captured_where_it_runs() {
        let mut nodes = [node("h1", &[(Mongo, ""), (Valkey, "")]), node("h2", &[(Mongo, ""), (Valkey, "")])];
        for (node, way) in nodes.iter_mut().zip(["live", "files"]) {
            node.sources[1].facts.insert(facts::RESTORE_WAY.to_owned(), way.to_owned());
        }
        assert_eq!(chosen(&nodes, &[]), ["mongo h1", "valkey h2"]);
        nodes[1].reachable = false;
        assert_eq!(chosen(&nodes, &[Valkey]), ["valkey h1"]);
    }

    #[test]
    fn a_kind_without_a_capable_node_is_refused_with_every_reason() {
        let nodes = [node("h1", &[(Mongo, "connection refused"), (Filesystem, "")]), gone("h2")];
        let e = select(&nodes, &[Mongo], false).unwrap_err();
        assert!(e.message.contains("mongo cannot be captured: h1: connection refused; h2: the agent on h2"), "{e}");
        let e = select(&nodes[..1], &[Mongo], false).unwrap_err();
        assert_eq!((e.reason, e.node.as_deref()), (Reason::SourceUnavailable, Some("h1")));
        let e = select(&nodes[..1], &[Valkey], false).unwrap_err();
        assert!(e.message.contains("no enrolled node has valkey"), "{e}");
        assert!(select(&[node("h1", &[])], &[], false).is_err());
        assert_eq!(select(&[gone("h1")], &[], false).unwrap_err().reason, Reason::AgentUnavailable);
    }

    #[test]
    fn everything_is_not_what_happens_to_answer() {
        let nodes = [node("h1", &[(Filesystem, "")]), gone("h2")];
        let e = select(&nodes, &[], false).unwrap_err();
        assert_eq!((e.reason, e.node.as_deref()), (Reason::AgentUnavailable, Some("h2")), "{e}");
        assert_eq!(chosen(&nodes, &[Filesystem]), ["filesystem h1"]);
    }

    #[test]
    fn what_will_be_missing_is_said() {
        let nodes = [node("h1", &[(Filesystem, "")]), node("h2", &[(Filesystem, "no root")]), gone("h3")];
        let selection = select(&nodes, &[Filesystem], false).unwrap();
        assert_eq!(selection.captures.len(), 1);
        assert_eq!(selection.warnings.len(), 2);
        assert!(selection.warnings[0].contains("h2 are not part of this backup: no root"), "{:?}", selection.warnings);
    }

    #[test]
    fn before_a_restore_whatever_there_is_will_do() {
        let nodes = [node("h1", &[(Mongo, "connection refused"), (Filesystem, "")]), gone("h2")];
        let selection = select(&nodes, &[Mongo, Filesystem], true).unwrap();
        assert_eq!(selection.captures, [Choice { kind: Filesystem, node: "h1".parse().unwrap() }]);
        assert!(selection.warnings[0].contains("mongo cannot be captured"), "{:?}", selection.warnings);
        let nothing = select(&nodes, &[Mongo], true).unwrap_err();
        assert_eq!(nothing.reason, Reason::SourceUnavailable);
    }
}
