//! What people read in a plan.

use prexor_format::{
    artifact::ArtifactKind,
    manifest::{Artifact, Contents},
    selection::Selection,
    text::{bytes, things},
};
use prexor_proto::facts;

use super::{NodeFacts, ServiceFacts, SourceFacts, Verb, root_of, source};

/// A step's title. Those of the swaps are the guide's.
pub(super) fn title(verb: Verb, artifact: &Artifact, live: bool) -> String {
    let root = root_of(artifact).unwrap_or_default();
    match (verb, artifact.kind) {
        (Verb::Swap, ArtifactKind::Mongo) => "drop+restore mongo".to_owned(),
        (Verb::Swap, ArtifactKind::Valkey) if live => "replace valkey keys".to_owned(),
        (Verb::Swap, ArtifactKind::Valkey) => "replace valkey RDB".to_owned(),
        (Verb::Swap, ArtifactKind::Filesystem) => format!("untar {}/", root.trim_end_matches('/')),
        (Verb::Stage, _) => format!("send {} and compare its checksums", artifact.id),
        (Verb::Prepare, ArtifactKind::Mongo) => "load the dump beside the live collections and compare".to_owned(),
        (Verb::Prepare, ArtifactKind::Valkey) if live => "read the RDB through and compare".to_owned(),
        (Verb::Prepare, ArtifactKind::Valkey) => "put the RDB beside the live one and compare".to_owned(),
        (Verb::Prepare, ArtifactKind::Filesystem) => format!("unpack beside {root} and compare"),
        (Verb::Check, _) => format!("compare the live {} with the manifest", artifact.kind),
        (Verb::Commit, _) => format!("let go of the old {}", artifact.kind),
        (Verb::Preflight, _) => String::new(),
    }
}

/// What is to be known of the way that a restore of Valkey takes.
pub(super) fn way(artifact: &Artifact, node: &NodeFacts, selection: &Selection) -> Vec<String> {
    if artifact.kind != ArtifactKind::Valkey {
        return Vec::new();
    }
    let fact = |name: &str| source(node, artifact.kind).and_then(|s| s.facts.get(name)).map_or("", String::as_str);
    if super::live(artifact, node, selection) {
        let because = match fact(facts::RESTORE_WAY_BECAUSE) {
            _ if !selection.keys.is_empty() => "only some keys are restored",
            "" => "its files are out of reach",
            because => because,
        };
        return vec![format!(
            "Valkey on {} keeps running and its keys are replaced one by one ({because}); whoever reads it meanwhile sees some of them",
            node.name
        )];
    }
    let mut out = vec![format!("Valkey on {} is stopped, its files are exchanged, and it is started again", node.name)];
    if !fact(facts::REPLICAS).is_empty() {
        out.push(format!(
            "its replicas ({}) are not stopped: nobody puts one in its place meanwhile, as no Sentinel watches, and when it is back \
             they load all of its keys anew",
            fact(facts::REPLICAS)
        ));
    }
    out
}

/// How much is there now.
pub(super) fn current(source: &SourceFacts) -> String {
    if let Some(problem) = &source.problem {
        return problem.clone();
    }
    let number = |name: &str| source.facts.get(name).and_then(|v| v.parse::<u64>().ok());
    let mut parts = Vec::new();
    for (name, thing) in [(facts::COLLECTIONS, "collection"), (facts::DOCUMENTS, "document"), (facts::KEYS, "key")] {
        parts.extend(number(name).map(|n| things(n, thing)));
    }
    parts.extend(number(facts::ENTRIES).map(|n| if n == 1 { "1 entry".to_owned() } else { format!("{n} entries") }));
    parts.extend(number(facts::BYTES).map(bytes));
    parts.join(", ")
}

/// What an artifact brings.
pub(super) fn incoming(artifact: &Artifact, selection: &Selection) -> String {
    match &artifact.contents {
        Contents::Mongo(m) => {
            let chosen = || selection.namespaces.of(m);
            let documents = chosen().map(|c| c.documents).sum();
            let size = chosen().map(|c| c.bson_bytes).sum();
            let collections = things(chosen().count() as u64, "collection");
            let of =
                if selection.namespaces.is_empty() { String::new() } else { format!(" of {}", m.collections.len()) };
            format!("{collections}{of}, {}, {}", things(documents, "document"), bytes(size))
        }
        Contents::Filesystem(f) if !selection.paths.is_empty() => {
            format!("{} of {}", things(selection.paths.len() as u64, "path"), f.root)
        }
        Contents::Valkey(v) if !selection.keys.is_empty() => {
            format!("what matches, of {} (RDB version {})", things(v.keys, "key"), v.rdb_version)
        }
        Contents::Valkey(v) => format!("{}, RDB version {}", things(v.keys, "key"), v.rdb_version),
        Contents::Filesystem(f) => format!("{} in {}, {}", things(f.files, "file"), f.root, bytes(f.bytes)),
    }
}

/// The guide's last line, with the command that starts the controller where it was stopped.
pub(super) fn after(nodes: &[NodeFacts]) -> String {
    let command = nodes.iter().find_map(|n| match &n.controller_service {
        ServiceFacts::Inactive { start_command } if !start_command.is_empty() => Some(start_command.as_str()),
        _ => None,
    });
    let command = command.unwrap_or("systemctl start prexorcloud-controller");
    format!("Run `{command}` to bring the cluster back.")
}
