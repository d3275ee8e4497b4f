//! Restores that are about some hosts only, or go without some.

use super::*;

/// Three hosts with files of their own; the databases were captured on the first.
fn three() -> (Manifest, Vec<NodeFacts>) {
    let mut manifest = manifest();
    let mut nodes = vec![NodeFacts { controller_service: active(), ..node() }];
    for name in ["h2", "h3"] {
        let mut files = manifest.artifacts[2].clone();
        (files.id, files.node) = (format!("filesystem-{name}"), name.parse().unwrap());
        manifest.artifacts.push(files);
        let (node, hostname) = (name.parse().unwrap(), name.to_owned());
        manifest.hosts.push(Host { node, hostname: hostname.clone(), ..manifest.hosts[0].clone() });
        nodes.push(NodeFacts { name: name.parse().unwrap(), hostname, ..nodes[0].clone() });
    }
    (manifest, nodes)
}

fn of(only: &[&str], without: &[&str]) -> Options {
    let names = |names: &[&str]| names.iter().map(|n| n.parse().unwrap()).collect();
    Options { hosts: Hosts { only: names(only), without: names(without) }, ..everything() }
}

fn artifacts(plan: &Plan) -> Vec<&str> {
    plan.replacements.iter().map(|r| r.artifact_id.as_str()).collect()
}

fn nodes_of(plan: &Plan, verb: Verb) -> Vec<&str> {
    plan.steps.iter().filter(|s| s.verb == verb).filter_map(|s| Some(s.node.as_ref()?.as_str())).collect()
}

#[test]
fn the_files_of_one_host_stop_that_controller_alone() {
    let (manifest, mut nodes) = three();
    nodes[0].unreachable = Some("connection refused".into());
    let p = plan(&manifest, &nodes, &of(&["h2"], &[]));
    assert_eq!(p.refusals, []);
    assert_eq!(artifacts(&p), ["filesystem-h2"]);
    assert_eq!((nodes_of(&p, Verb::Hold), nodes_of(&p, Verb::Start)), (vec!["h2"], vec!["h2"]));
    assert!(p.notes[0].starts_with("only the files of these hosts go back"), "{:?}", p.notes);
    assert_ne!(p.digest(), plan(&manifest, &nodes, &of(&["h3"], &[])).digest());
    let databases = Options { scope: vec![ArtifactKind::Mongo], ..of(&["h2"], &[]) };
    assert!(plan(&manifest, &nodes, &databases).refusals[0].message.contains("belong to the whole cluster"));
    let nobody = plan(&manifest, &nodes, &of(&["h7"], &[]));
    assert!(nobody.refusals[0].message.contains("holds no files of h7, only those of h1, h2, h3"), "{nobody:?}");
}

#[test]
fn a_host_that_is_gone_is_left_out_or_refuses_the_plan() {
    let (manifest, mut nodes) = three();
    nodes[1].unreachable = Some("no route".into());
    nodes[1].sources.clear();
    let p = plan(&manifest, &nodes, &everything());
    assert!(p.refusals.iter().any(|r| r.message.contains("--without-host h2")), "{:?}", p.refusals);
    let p = plan(&manifest, &nodes, &of(&[], &["h2"]));
    assert_eq!(p.refusals, []);
    assert_eq!(artifacts(&p), ["mongo", "valkey", "filesystem-h1", "filesystem-h3"]);
    assert_eq!(nodes_of(&p, Verb::Hold), ["h1", "h3"]);
    assert!(p.notes.iter().any(|n| n.contains("h2 is left out, its files are not restored")), "{:?}", p.notes);
    // The one that captured the databases: another restores them.
    nodes.swap_remove(1);
    let p = plan(&manifest, &nodes[1..], &of(&[], &["h1", "h2"]));
    assert_eq!((p.refusals.as_slice(), nodes_of(&p, Verb::Swap)), (&[][..], vec!["h3", "h3", "h3"]));
    assert!(plan(&manifest, &nodes, &of(&[], &["h7"])).refusals[0].message.contains("knows no host h7"));
}

#[test]
fn a_machine_in_the_place_of_another_is_told_of() {
    let (manifest, mut nodes) = three();
    let told = |nodes: &[NodeFacts]| {
        let notes = plan(&manifest, nodes, &everything()).notes;
        notes.into_iter().any(|n| n.contains("h3 is another machine now (new-3, then h3)"))
    };
    assert!(!told(&nodes));
    nodes[2].hostname = "new-3".into();
    nodes[2].controller = None;
    assert!(told(&nodes));
}

#[test]
fn a_hold_that_was_left_is_taken_over_with_the_files_or_refused() {
    let (manifest, mut nodes) = three();
    nodes[2].held_for = Some("job-1".into());
    nodes[2].controller_service = ServiceFacts::Inactive { start_command: String::new() };
    let p = plan(&manifest, &nodes, &of(&["h3"], &[]));
    assert_eq!((p.refusals.as_slice(), nodes_of(&p, Verb::Release)), (&[][..], vec!["h3"]));
    let datastores = Options { scope: vec![ArtifactKind::Mongo, ArtifactKind::Valkey], ..everything() };
    let p = plan(&manifest, &nodes, &datastores);
    assert_eq!(laws(&p), ["L14"]);
    assert!(p.refusals[0].message.contains("--only-host h3"), "{:?}", p.refusals);
}
