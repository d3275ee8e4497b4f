//! Plans over constructed facts.

use prexor_format::{
    digest::{ContentHasher, Order},
    laws::{self, valkey::Fencing},
    manifest::{
        Collection, CollectionType, Consistency, FilesContents, Host, KeyFamily, ModuleType, MongoContents, StoredFile,
        ValkeyContents,
    },
};
use prexor_proto::facts;

use super::*;

mod consequences;
mod hosts;
mod raft;
mod valkey;

/// With nothing known beside.
fn plan(manifest: &Manifest, nodes: &[NodeFacts], options: &Options) -> Plan {
    super::plan(manifest, nodes, options, &Known::default())
}

fn controller(uuid: &str, cluster_id: &str) -> Controller {
    Controller {
        uuid: Some(uuid.into()),
        cluster_id: Some(cluster_id.into()),
        version: None,
        root: "/etc/prexorcloud".into(),
    }
}

fn artifact(kind: ArtifactKind, path: &str, contents: Contents) -> Artifact {
    let id = if kind == ArtifactKind::Filesystem { "filesystem-h1".to_owned() } else { kind.to_string() };
    Artifact {
        id,
        kind,
        node: "h1".parse().unwrap(),
        path: path.into(),
        format: "x".into(),
        started_at: "2026-05-10T08:00:00Z".parse().unwrap(),
        completed_at: "2026-05-10T08:00:02Z".parse().unwrap(),
        size_bytes: 1000,
        files: vec![StoredFile { path: path.into(), size_bytes: 1000, sha256: Sha256Digest::of(b"") }],
        contents,
        warnings: vec![],
    }
}

pub(in crate::restore) fn manifest() -> Manifest {
    let content = ContentHasher::new(Order::Multiset).finish();
    let collection = Collection {
        database: "prexorcloud".into(),
        name: "audit_log".into(),
        kind: CollectionType::Collection,
        documents: 142_884,
        bson_bytes: 3 << 20,
        indexes: 2,
        data_path: Some("mongo/prexorcloud/audit_log.bson.gz".into()),
        metadata_path: "mongo/prexorcloud/audit_log.metadata.json.gz".into(),
        content: Some(content),
        definition: Sha256Digest::of(b""),
    };
    let mongo = MongoContents {
        server_version: "6.0.5".into(),
        feature_compatibility_version: Some("6.0".into()),
        replica_set: Some("rs0".into()),
        databases: vec!["prexorcloud".into()],
        consistency: Consistency::Fuzzy,
        collections: vec![collection],
        accounts: Vec::new(),
    };
    let valkey = ValkeyContents {
        server_version: "8.0.1".into(),
        server_name: "valkey".into(),
        rdb_version: 11,
        way: "bgsave-file".into(),
        consistency: Default::default(),
        role: None,
        append_only: true,
        keys: 7,
        expiring_keys: 1,
        families: vec![],
        used_memory: Some(2 << 20),
        fencing: None,
        modules: Vec::new(),
    };
    let files = FilesContents {
        root: "/etc/prexorcloud".into(),
        controller: Some(controller("u1", "c1")),
        entries: 3,
        files: 2,
        bytes: 2048,
        excluded: vec!["logs".into()],
        notes: vec![],
        platform_ca: vec![],
        jwt_secret_mark: None,
        content,
    };
    let artifacts = vec![
        artifact(ArtifactKind::Mongo, "mongo/prelude.json.gz", Contents::Mongo(mongo)),
        artifact(ArtifactKind::Valkey, "valkey/dump.rdb", Contents::Valkey(valkey)),
        artifact(ArtifactKind::Filesystem, "filesystem/h1/etc-prexorcloud.tar.gz", Contents::Filesystem(files)),
    ];
    Manifest {
        format_version: 1,
        id: "bk-2026-05-10-001".parse().unwrap(),
        cluster: "prexorcloud".into(),
        description: None,
        safety_of: None,
        class: None,
        scope: ArtifactKind::ALL.to_vec(),
        started_at: "2026-05-10T08:00:00Z".parse().unwrap(),
        completed_at: "2026-05-10T08:00:02Z".parse().unwrap(),
        product_version: "0.1.0".into(),
        hosts: vec![Host {
            node: "h1".parse().unwrap(),
            hostname: "h1".into(),
            agent_version: "0.1.0".into(),
            controller: Some(controller("u1", "c1")),
        }],
        size_bytes: 3000,
        artifacts,
        warnings: vec![],
    }
}

fn node() -> NodeFacts {
    let source = |kind, pairs: &[(&str, &str)]| SourceFacts {
        kind,
        target: format!("live {kind}"),
        problem: None,
        facts: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    };
    NodeFacts {
        name: "h1".parse().unwrap(),
        hostname: "h1".into(),
        unreachable: None,
        sources: vec![
            source(
                ArtifactKind::Mongo,
                &[
                    (facts::SERVER_VERSION, "6.0.5"),
                    (facts::FEATURE_COMPATIBILITY_VERSION, "6.0"),
                    (facts::COLLECTIONS, "12"),
                    (facts::DOCUMENTS, "1"),
                ],
            ),
            source(ArtifactKind::Valkey, &[(facts::SERVER_NAME, "valkey"), (facts::SERVER_VERSION, "8.0.1")]),
            source(ArtifactKind::Filesystem, &[]),
        ],
        controller_service: ServiceFacts::Inactive { start_command: "systemctl start prexorcloud-controller".into() },
        controller_unit: String::new(),
        valkey_unit: String::new(),
        cannot_hold: None,
        held_for: None,
        clock_ahead: 0,
        controller: Some(controller("u1", "c1")),
        staging_free_bytes: 1 << 30,
    }
}

fn active() -> ServiceFacts {
    ServiceFacts::Active { start_command: "systemctl start prexorcloud-controller".into() }
}

fn everything() -> Options {
    let (safety, on_failure) = (Safety::AfterStop, OnFailure::RollBack);
    let (selection, hosts) = (Selection::default(), Hosts::default());
    Options { scope: vec![], selection, certificates: false, accept_versions: false, safety, on_failure, hosts }
}

fn laws(plan: &Plan) -> Vec<&str> {
    plan.refusals.iter().map(|r| r.law.as_str()).collect()
}

fn refused(manifest: &Manifest, options: &Options, change: impl Fn(&mut NodeFacts)) -> Plan {
    let mut node = node();
    change(&mut node);
    plan(manifest, &[node], options)
}

#[test]
fn a_plan_swaps_nothing_before_everything_is_prepared() {
    let p = plan(&manifest(), &[node()], &everything());
    assert_eq!(p.refusals, vec![]);
    let verbs: Vec<Verb> = p.steps.iter().map(|s| s.verb).collect();
    let first_swap = verbs.iter().position(|v| *v == Verb::Swap).unwrap();
    let last_prepare = verbs.iter().rposition(|v| *v == Verb::Prepare).unwrap();
    assert!(last_prepare < first_swap, "{verbs:?}");
    let titles: Vec<&str> = p.steps.iter().filter(|s| s.verb == Verb::Swap).map(|s| s.title.as_str()).collect();
    assert_eq!(titles, ["drop+restore mongo", "replace valkey RDB", "untar /etc/prexorcloud/"]);
    assert_eq!(p.after, "Run `systemctl start prexorcloud-controller` to bring the cluster back.");
    assert_eq!(p.replacements[0].current, "12 collections, 1 document");
    assert_eq!(p.replacements[0].incoming, "1 collection, 142,884 documents, 3.0 MiB");
}

#[test]
fn equal_facts_give_an_equal_digest_and_decisions_change_it() {
    let digest = |nodes: &[NodeFacts], options: &Options| plan(&manifest(), nodes, options).digest();
    let same = digest(&[node()], &everything());
    let mut busier = node();
    busier.sources[0].facts.insert(facts::DOCUMENTS.into(), "2".into());
    assert_eq!(digest(&[busier], &everything()), same, "what moves by itself does not count");
    let mut running = node();
    running.controller_service = active();
    assert_ne!(digest(&[running], &everything()), same);
    assert_ne!(digest(&[node()], &only(&[ArtifactKind::Mongo])), same);
}

#[test]
fn a_controller_that_cannot_be_held_or_might_run_is_refused() {
    let m = manifest();
    let running = |n: &mut NodeFacts| {
        n.controller_service = active();
        n.cannot_hold = Some("it is not root".into());
    };
    let plan_of_running = refused(&m, &everything(), running);
    assert_eq!(laws(&plan_of_running), ["L14"]);
    assert!(plan_of_running.refusals[0].message.contains("stop it first (sudo systemctl stop prexorcloud-controller)"));
    let left_held = refused(&m, &everything(), |n| n.held_for = Some("job-1".into()));
    assert_eq!(left_held.refusals, []);
    assert!(left_held.notes.iter().any(|n| n.contains("still held for job-1")), "{:?}", left_held.notes);
    let unknown = ServiceFacts::Unknown("systemctl is missing".into());
    assert_eq!(laws(&refused(&m, &everything(), |n| n.controller_service = unknown.clone())), ["L14"]);
    let mut silent = node();
    silent.name = "h2".parse().unwrap();
    silent.unreachable = Some("connection refused".into());
    silent.sources.clear();
    assert_eq!(laws(&plan(&m, &[node(), silent], &everything())), ["L14"]);
}

fn verbs_on(plan: &Plan) -> Vec<(Verb, &str)> {
    let steps = plan.steps.iter().filter(|s| s.artifact_id.is_none() && s.verb != Verb::Preflight);
    steps.map(|s| (s.verb, s.node.as_ref().map_or("", |n| n.as_str()))).collect()
}

#[test]
fn all_controllers_are_held_and_those_that_ran_are_started() {
    let mut nodes = ["h1", "h2", "h3", "h4"].map(|name| NodeFacts { name: name.parse().unwrap(), ..node() });
    nodes[0].controller_service = active();
    nodes[2].controller_service = active();
    nodes[3].controller_service = ServiceFacts::Absent;
    let p = plan(&manifest(), &nodes, &everything());
    assert_eq!(p.refusals, []);
    let expected = [
        (Verb::Hold, "h1"),
        (Verb::Hold, "h2"),
        (Verb::Hold, "h3"),
        (Verb::Silence, ""),
        (Verb::Safety, ""),
        (Verb::Start, "h1"),
        (Verb::Start, "h3"),
        (Verb::Release, "h2"),
    ];
    assert_eq!(verbs_on(&p), expected);
    let at = |verb| p.steps.iter().position(|s| s.verb == verb).unwrap();
    let last = |verb| p.steps.iter().rposition(|s| s.verb == verb).unwrap();
    assert!(last(Verb::Prepare) < at(Verb::Hold), "controllers run while everything is prepared");
    assert!(last(Verb::Safety) < at(Verb::Swap) && last(Verb::Check) < at(Verb::Start));
    assert!(last(Verb::Release) < at(Verb::Commit), "until then there is a way back");
    let again = "The controllers on h1, h3 run again. Run `systemctl start prexorcloud-controller` on h2 to bring the rest \
                 of the cluster back.";
    assert_eq!(p.after, again);
    assert!(p.notes.iter().any(|n| n.contains("the controllers on h1, h3 run until")), "{:?}", p.notes);
    // Who cannot be held and is stopped anyway is left to the operator, as it always was.
    nodes.iter_mut().for_each(|n| n.cannot_hold = Some("it is not root".into()));
    nodes[0].controller_service = ServiceFacts::Absent;
    nodes[2].controller_service = ServiceFacts::Absent;
    let p = plan(&manifest(), &nodes, &everything());
    assert_eq!((p.refusals.as_slice(), verbs_on(&p)), (&[][..], vec![(Verb::Safety, "")]));
}

#[test]
fn the_live_state_is_saved_when_it_was_asked_for() {
    let mut node = node();
    node.controller_service = active();
    let planned = |safety| plan(&manifest(), &[node.clone()], &Options { safety, ..everything() });
    let verbs = |plan: &Plan| verbs_on(plan).iter().map(|(verb, _)| *verb).collect::<Vec<_>>();
    assert_eq!(verbs(&planned(Safety::AfterStop)), [Verb::Hold, Verb::Silence, Verb::Safety, Verb::Start]);
    assert_eq!(verbs(&planned(Safety::BeforeStop)), [Verb::Safety, Verb::Hold, Verb::Silence, Verb::Start]);
    assert_eq!(verbs(&planned(Safety::None)), [Verb::Hold, Verb::Silence, Verb::Start]);
    let told = |safety, what: &str| planned(safety).notes.iter().any(|n| n.contains(what));
    assert!(told(Safety::AfterStop, "they stay stopped for as long as that takes"));
    assert!(told(Safety::BeforeStop, "what they write from then on is lost"));
    assert!(told(Safety::None, "cannot be undone"));
    assert_ne!(planned(Safety::None).digest(), planned(Safety::AfterStop).digest());
}

#[test]
fn a_clock_that_is_off_is_refused() {
    for (ahead, refusals) in [(600, 1), (-600, 1), (5, 0)] {
        let p = refused(&manifest(), &everything(), |n| n.clock_ahead = ahead);
        assert_eq!(p.refusals.len(), refusals, "{:?}", p.refusals);
    }
}

#[test]
fn files_go_back_to_their_own_controller_only() {
    let m = manifest();
    assert_eq!(laws(&refused(&m, &everything(), |n| n.controller = Some(controller("u2", "c1")))), ["L3"]);
    let other = refused(&m, &everything(), |n| n.name = "h2".parse().unwrap());
    assert_eq!(laws(&other), ["L3"], "the databases may be restored through any agent that reaches them");
    let gone = refused(&m, &everything(), |n| n.controller = None);
    assert_eq!(gone.refusals, vec![], "a root that is lost is what a restore is for");
}

#[test]
fn a_part_is_refused_when_it_would_not_fit_the_rest() {
    let change = |n: &mut NodeFacts| n.controller = Some(controller("u1", "c2"));
    let m = manifest();
    let datastores = only(&[ArtifactKind::Mongo, ArtifactKind::Valkey]);
    assert_eq!(laws(&refused(&m, &datastores, change)), ["L11"]);
    assert_eq!(laws(&refused(&m, &only(&[ArtifactKind::Filesystem]), change)), ["L11"]);
    assert_eq!(refused(&m, &everything(), change).refusals, vec![]);
}

#[test]
fn older_servers_and_full_disks_are_refused() {
    let m = manifest();
    let set = |kind: usize, fact: &'static str, value: &'static str| {
        move |n: &mut NodeFacts| drop(n.sources[kind].facts.insert(fact.into(), value.into()))
    };
    assert_eq!(laws(&refused(&m, &everything(), set(0, facts::SERVER_VERSION, "5.0.9"))), ["L19", "L17"]);
    assert_eq!(laws(&refused(&m, &everything(), set(0, facts::ROOM_BYTES, "1000000"))), [""]);
    assert_eq!(laws(&refused(&m, &everything(), set(0, facts::ROOM_BYTES, "4000000"))), [] as [&str; 0]);
    let lacking = refused(&m, &everything(), set(0, facts::MISSING_PRIVILEGES, "insert on prexorcloud.*"));
    assert!(lacking.refusals[0].message.contains("insert on prexorcloud.*"), "{:?}", lacking.refusals);
    let accepting = Options { accept_versions: true, ..everything() };
    let accepted = refused(&m, &accepting, set(0, facts::FEATURE_COMPATIBILITY_VERSION, "5.0"));
    assert_eq!(accepted.refusals, []);
    assert!(accepted.notes[0].contains("is 5.0 here and was 6.0"), "{:?}", accepted.notes);
    assert_ne!(accepted.digest(), plan(&m, &[node()], &everything()).digest());
    assert_eq!(laws(&refused(&m, &everything(), set(0, facts::FEATURE_COMPATIBILITY_VERSION, "5.0"))), ["L19"]);
    assert_eq!(laws(&refused(&m, &everything(), set(1, facts::SERVER_NAME, "redis"))), [] as [&str; 0]);
    let redis7 = |n: &mut NodeFacts| {
        set(1, facts::SERVER_NAME, "redis")(n);
        set(1, facts::SERVER_VERSION, "7.0.15")(n);
    };
    assert_eq!(laws(&refused(&m, &everything(), redis7)), ["L19"]);
    assert_eq!(laws(&refused(&m, &everything(), |n| n.staging_free_bytes = 2999)), [""]);
    let down = refused(&m, &everything(), |n| n.sources[0].problem = Some("connection refused".into()));
    assert!(down.refusals[0].message.contains("h1: connection refused"), "{:?}", down.refusals);
}

#[test]
fn a_kind_that_the_backup_lacks_is_said_and_refused_when_nothing_is_left() {
    let mut m = manifest();
    m.artifacts.remove(1);
    let lacks = "bk-2026-05-10-001 holds no valkey";
    let alone = plan(&m, &[node()], &only(&[ArtifactKind::Valkey]));
    assert_eq!(alone.refusals[0].message, lacks);
    let datastores = plan(&m, &[node()], &only(&[ArtifactKind::Mongo, ArtifactKind::Valkey]));
    assert_eq!((datastores.refusals, datastores.notes.contains(&lacks.to_owned())), (vec![], true));
}

fn only(scope: &[ArtifactKind]) -> Options {
    Options { scope: scope.to_vec(), ..everything() }
}

#[test]
fn a_part_leaves_the_other_kinds_alone_and_says_what_it_takes() {
    let mut m = manifest();
    if let Contents::Mongo(dump) = &mut m.artifacts[0].contents {
        let users = Collection {
            name: "users".into(),
            data_path: None,
            metadata_path: "users".into(),
            ..dump.collections[0].clone()
        };
        dump.collections.push(users);
    }
    m.artifacts[0].files.push(StoredFile { path: "users".into(), size_bytes: 7, sha256: Sha256Digest::of(b"") });
    m.artifacts[0].files[0].path = "mongo/prexorcloud/audit_log.bson.gz".into();
    let part = |include: &str| {
        let mut selection = Selection::default();
        selection.namespaces.include = vec![include.into()];
        selection
    };
    let options = Options { selection: part("users"), ..everything() };
    let p = plan(&m, &[node()], &options);
    assert_eq!(p.refusals, []);
    assert_eq!(p.replacements.iter().map(|r| r.kind).collect::<Vec<_>>(), [ArtifactKind::Mongo]);
    assert_eq!(p.replacements[0].parts, ["prexorcloud.users"]);
    assert_eq!(p.replacements[0].size_bytes, 7, "the other collection's data does not travel");
    assert!(p.replacements[0].incoming.starts_with("1 collection of 2, "), "{}", p.replacements[0].incoming);
    assert_ne!(p.digest(), plan(&m, &[node()], &Options { selection: part("audit_log"), ..everything() }).digest());

    let nothing = plan(&m, &[node()], &Options { selection: part("mod_chat_*"), ..everything() });
    assert!(nothing.refusals[0].message.contains("no collection of mongo is selected"), "{:?}", nothing.refusals);
    let mut renamed = part("*");
    let to_one = |from: &str| prexor_format::selection::Rename { from: from.into(), to: "one".into() };
    renamed.namespaces.rename = vec![to_one("users"), to_one("audit_log")];
    let colliding = plan(&m, &[node()], &Options { selection: renamed, ..everything() });
    assert!(colliding.refusals[0].message.contains("both become prexorcloud.one"), "{:?}", colliding.refusals);
    if let Contents::Mongo(dump) = &mut m.artifacts[0].contents {
        let view = Collection { name: "online".into(), kind: CollectionType::View, ..dump.collections[1].clone() };
        dump.collections.push(view);
    }
    for (from, told) in [("users", true), ("*", false)] {
        let mut selection = part("*");
        if told {
            selection.namespaces.rename = vec![to_one(from)];
        }
        let p = plan(&m, &[node()], &Options { selection, ..everything() });
        let line = p.notes.iter().find(|c| c.contains("what views look at is not: online"));
        assert_eq!(line.is_some(), told, "{:?}", p.notes);
    }
    let both =
        Options { scope: vec![ArtifactKind::Mongo, ArtifactKind::Valkey], selection: part("users"), ..everything() };
    assert!(plan(&m, &[node()], &both).refusals[0].message.contains("leave valkey out"));
}
