//! Law L9.

use super::*;

/// Three members, each with its files.
fn three() -> (Manifest, Vec<NodeFacts>) {
    let mut m = manifest();
    let files = m.artifacts[2].clone();
    let mut nodes = vec![node()];
    for name in ["h2", "h3"] {
        let node = name.parse().unwrap();
        m.artifacts.push(Artifact { id: format!("filesystem-{name}"), node, ..files.clone() });
        m.hosts.push(Host { node: name.parse().unwrap(), hostname: name.into(), ..m.hosts[0].clone() });
        nodes.push(NodeFacts { name: name.parse().unwrap(), hostname: name.into(), ..nodes[0].clone() });
    }
    (m, nodes)
}

#[test]
fn a_members_log_comes_back_for_all_or_for_none() {
    let (m, nodes) = three();
    let says = |plan: &Plan, what: &str| plan.notes.iter().any(|n| n.contains(what));
    let all = plan(&m, &nodes, &everything());
    assert_eq!((all.refusals.as_slice(), all.selection.keep.len()), (&[][..], 0));
    assert!(
        says(&all, "data/raft comes back on all members from this one backup (h1, h2, h3; law L9)"),
        "{:?}",
        all.notes
    );

    let hosts = |only: &[&str], without: &[&str]| {
        let names = |all: &[&str]| all.iter().map(|n| n.parse().unwrap()).collect();
        Options { hosts: Hosts { only: names(only), without: names(without) }, ..everything() }
    };
    for options in [hosts(&["h2"], &[]), hosts(&[], &["h3"])] {
        let some = plan(&m, &nodes, &options);
        assert_eq!(
            (some.refusals.as_slice(), some.selection.keep.as_slice()),
            (&[][..], &["data/raft".to_owned()][..])
        );
        assert!(says(&some, "data/raft stays as it is now on"), "{:?}", some.notes);
    }
    // A member that the backup does not know would be of another age.
    let mut more = nodes.clone();
    more.push(NodeFacts { name: "h4".parse().unwrap(), ..nodes[0].clone() });
    assert_eq!(plan(&m, &more, &everything()).selection.keep, ["data/raft"]);
    // Nothing is said where nothing of it is restored, or where there is one member.
    let mut config = hosts(&["h2"], &[]);
    config.selection.paths = vec!["config".into()];
    let config = plan(&m, &nodes, &config);
    assert!(config.selection.keep.is_empty() && !says(&config, "data/raft"), "{:?}", config.notes);
    let single = plan(&manifest(), &[node()], &everything());
    assert!(single.selection.keep.is_empty() && !says(&single, "data/raft"), "{:?}", single.notes);
}

#[test]
fn a_log_that_is_asked_for_alone_is_refused_unless_all_members_get_theirs() {
    let (m, nodes) = three();
    let paths = |path: &str, only: &[&str]| {
        let only = only.iter().map(|n| n.parse().unwrap()).collect();
        let mut options = Options { hosts: Hosts { only, without: vec![] }, ..everything() };
        options.selection.paths = vec![path.to_owned()];
        plan(&m, &nodes, &options)
    };
    assert_eq!(laws(&paths("data/raft", &["h2"])), ["L9"]);
    assert_eq!(laws(&paths("data/raft/log", &[])), ["L9"]);
    assert_eq!(laws(&paths("data/raft", &[])), [] as [&str; 0]);
    assert_eq!(paths("data", &["h2"]).selection.keep, ["data/raft"]);
}
