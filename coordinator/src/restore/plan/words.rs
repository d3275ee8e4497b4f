//! What people read in a plan.

use prexor_format::{
    artifact::ArtifactKind,
    manifest::{Artifact, Contents},
    selection::Selection,
    text::{bytes, duration, things},
};
use prexor_proto::facts;

use super::{NodeFacts, OnFailure, Prediction, Safety, ServiceFacts, SourceFacts, Step, Verb, root_of, source};

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
        (Verb::Preflight | Verb::Hold | Verb::Silence | Verb::Safety | Verb::Start | Verb::Release, _) => {
            of_all(verb).to_owned()
        }
    }
}

/// The title of a step that has no artifact.
pub(super) fn of_all(verb: Verb) -> &'static str {
    match verb {
        Verb::Preflight => "look at every host again",
        Verb::Hold => "stop the controller and keep it so",
        Verb::Safety => "save what is replaced as a backup of its own",
        Verb::Silence => "make sure that no controller is left that writes",
        Verb::Start => "start the controller and wait until it is ready",
        Verb::Release => "let the controller be started again",
        Verb::Stage | Verb::Prepare | Verb::Swap | Verb::Check | Verb::Commit => "",
    }
}

/// The title of a step that moves the service of a controller.
pub(super) fn of_unit(verb: Verb, unit: &str) -> String {
    match (verb, unit) {
        (_, "") => of_all(verb).to_owned(),
        (Verb::Hold, unit) => format!("stop the controller ({unit}) and keep it so"),
        (Verb::Start, unit) => format!("start the controller ({unit}) and wait until it is ready"),
        (Verb::Release, unit) => format!("let the controller ({unit}) be started again"),
        (verb, _) => of_all(verb).to_owned(),
    }
}

/// What becomes of the controllers meanwhile.
pub(super) fn stop(nodes: &[NodeFacts]) -> Vec<String> {
    let names = |which: fn(&NodeFacts) -> bool| {
        let names: Vec<&str> = nodes.iter().filter(|n| n.is_held() && which(n)).map(|n| n.name.as_str()).collect();
        names.join(", ")
    };
    let (running, stopped) = (names(NodeFacts::runs), names(|n| !n.runs()));
    let mut out = Vec::new();
    if !running.is_empty() {
        out.push(format!(
            "the controllers on {running} run until everything is prepared; then they are stopped, held, and started again \
             when the restored data was checked: what they write after the backup is lost. Daemons are left alone"
        ));
    }
    if !stopped.is_empty() {
        out.push(format!(
            "the controllers on {stopped} are stopped; nobody can start them before the restore has ended"
        ));
    }
    out
}

/// What saving the live state costs, and what going without it.
pub(super) fn safety(
    safety: Safety,
    placed: &[(&Artifact, &NodeFacts)],
    nodes: &[NodeFacts],
    prediction: &Prediction,
    steps: &[Step],
) -> Vec<String> {
    if placed.is_empty() {
        return Vec::new();
    }
    let stops = nodes.iter().any(|n| n.is_held() && n.runs());
    let what = match (safety, stops) {
        (Safety::AfterStop, true) => {
            "once the controllers are stopped, what is replaced is saved as a backup of its own, and they stay stopped for as \
             long as that takes{TIME}; --safety before-stop saves it earlier and loses what they write in between. `prexorctl \
             restore --undo JOB` brings it back"
        }
        (Safety::AfterStop | Safety::BeforeStop, false) => {
            "what is replaced is saved first as a backup of its own{TIME}; `prexorctl restore --undo JOB` brings it back"
        }
        (Safety::BeforeStop, true) => {
            "what is replaced is saved as a backup of its own while the controllers still run{TIME}: what they write from then \
             on is lost, and not even in that backup. `prexorctl restore --undo JOB` brings the saved state back"
        }
        (Safety::None, _) => {
            "nothing is saved first (--safety none): once it has succeeded, this restore cannot be undone, and what is live now \
             is lost"
        }
    };
    let took = steps.iter().find(|s| s.verb == Verb::Safety).and_then(|s| prediction.of_step(s.number));
    let time = took.map(|d| format!(" (about {}, by what it took before)", duration(d))).unwrap_or_default();
    vec![what.replace("{TIME}", &time)]
}

/// What becomes of a restore that fails half way, where that is not what everybody expects.
pub(super) fn on_failure(on_failure: OnFailure) -> Option<String> {
    (on_failure == OnFailure::Hold).then(|| {
        "when it fails after live data has changed it pauses, with the controllers held (--on-failure hold): `prexorctl job \
         resume JOB` then goes on, `prexorctl job cancel JOB` takes it back"
            .to_owned()
    })
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
    let unit = Some(&node.valkey_unit).filter(|unit| !unit.is_empty());
    let unit = unit.map(|unit| format!(" ({unit})")).unwrap_or_default();
    let mut out =
        vec![format!("Valkey on {}{unit} is stopped, its files are exchanged, and it is started again", node.name)];
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

/// The guide's last line, with the command that starts the controller where it was stopped; and where it runs again.
pub(super) fn after(nodes: &[NodeFacts]) -> String {
    let running: Vec<&str> = nodes.iter().filter(|n| n.runs()).map(|n| n.name.as_str()).collect();
    let stopped = nodes.iter().filter_map(|n| match &n.controller_service {
        ServiceFacts::Inactive { start_command } => Some((n.name.as_str(), start_command.as_str())),
        _ => None,
    });
    let stopped: Vec<(&str, &str)> = stopped.collect();
    let again = format!("The controllers on {} run again.", running.join(", "));
    if stopped.is_empty() && !running.is_empty() {
        return again;
    }
    let command = stopped.iter().map(|(_, command)| *command).find(|command| !command.is_empty());
    let command = command.unwrap_or("systemctl start prexorcloud-controller");
    if running.is_empty() {
        return format!("Run `{command}` to bring the cluster back.");
    }
    let on: Vec<&str> = stopped.iter().map(|(name, _)| *name).collect();
    format!("{again} Run `{command}` on {} to bring the rest of the cluster back.", on.join(", "))
}
