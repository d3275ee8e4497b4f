//! What a restore does to those who use the cluster.

use prexor_format::{manifest::CaFingerprint, platform::Records};

use super::*;

fn ca(path: &str, of: &[u8]) -> CaFingerprint {
    CaFingerprint { path: path.into(), sha256: Sha256Digest::of(of) }
}

/// A manifest with a CA, a secret and PrexorCloud's collections.
fn with_platform() -> Manifest {
    let mut m = manifest();
    if let Contents::Filesystem(files) = &mut m.artifacts[2].contents {
        files.platform_ca = vec![ca("data/certs/ca.pem", b"then"), ca("data/certs/ca.p12", b"one writing")];
        files.jwt_secret_mark = Some("0a0a".into());
    }
    if let Contents::Mongo(dump) = &mut m.artifacts[0].contents {
        for name in prexor_format::platform::COLLECTIONS {
            let collection = Collection { name: name.into(), data_path: None, ..dump.collections[0].clone() };
            dump.collections.push(collection);
        }
    }
    m
}

fn records(daemons: &[&str], users: &[(&str, &str)], instances: &[(&str, &str)]) -> Records {
    let pairs = |all: &[(&str, &str)]| Some(all.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect());
    Records {
        daemons: Some(daemons.iter().map(|d| (*d).into()).collect()),
        users: pairs(users),
        instances: pairs(instances),
        revocations: Some(0),
    }
}

fn told(m: &Manifest, live: &[(usize, &str, String)], backup: &Records, options: &Options) -> Plan {
    let mut node = node();
    for (source, fact, value) in live {
        node.sources[*source].facts.insert((*fact).into(), value.clone());
    }
    super::super::plan(m, &[node], options, &Known { records: backup.clone(), past: vec![] })
}

fn named<'a>(plan: &'a Plan, what: &str) -> Vec<&'a str> {
    let all = plan.consequences.iter().filter(|c| c.what == what);
    all.flat_map(|c| c.names.iter().map(String::as_str)).collect()
}

#[test]
fn daemons_are_named_when_their_ca_changes_and_only_then() {
    let (m, then) = (with_platform(), records(&["node-1", "node-2"], &[], &[]));
    let live = serde_json::to_string(&records(&["node-2", "node-3"], &[], &[])).unwrap();
    let cas = |all: &[CaFingerprint]| serde_json::to_string(all).unwrap();
    let planned = |cas: Option<String>, options: &Options| {
        let mut facts = vec![(0, facts::RECORDS, live.clone())];
        facts.extend(cas.map(|cas| (2, facts::PLATFORM_CA, cas)));
        told(&m, &facts, &then, options)
    };
    let other = planned(Some(cas(&[ca("data/certs/ca.pem", b"now")])), &everything());
    assert_eq!(other.rejoin, ["node-1", "node-2", "node-3"]);
    assert_eq!(named(&other, "rejoin"), ["node-1", "node-2", "node-3"]);
    let text = &other.consequences[0].text;
    assert!(text.contains("`prexorctl token create --description rejoin --ttl 1h`"), "{text}");
    assert!(text.contains("`prexorctl setup --rejoin`"), "{text}");
    // The same CA, though its PKCS#12 file was written anew.
    let same = [ca("data/certs/ca.pem", b"then"), ca("data/certs/ca.p12", b"another writing")];
    let same = planned(Some(cas(&same)), &everything());
    assert!(same.rejoin.is_empty() && named(&same, "rejoin").is_empty(), "{:?}", same.consequences);
    assert_ne!(same.digest(), other.digest(), "who must rejoin is agreed to");
    // A CA that cannot be read any more is not taken for another one.
    let unknown = planned(None, &everything());
    assert_eq!((unknown.rejoin.len(), named(&unknown, "may-rejoin").len()), (0, 3));
    // Without the CA's file nothing changes for daemons.
    let mut config = everything();
    config.selection.paths = vec!["config".into()];
    assert_eq!(planned(Some(cas(&[ca("data/certs/ca.pem", b"now")])), &config).consequences, []);
}

#[test]
fn logins_that_are_lost_changed_or_come_back_are_named() {
    let m = with_platform();
    let then = records(&[], &[("ada", "1111"), ("ben", "2222"), ("cleo", "3333")], &[]);
    let now = records(&[], &[("ada", "1111"), ("ben", "9999"), ("dora", "4444")], &[]);
    let live = [
        (0, facts::RECORDS, serde_json::to_string(&now).unwrap()),
        (2, facts::JWT_SECRET, "0b0b".to_owned()),
        (2, facts::PLATFORM_CA, serde_json::to_string(&[ca("data/certs/ca.pem", b"then")]).unwrap()),
    ];
    let plan = told(&m, &live, &then, &everything());
    for (what, names) in [("account-lost", "dora"), ("account-changed", "ben"), ("account-back", "cleo")] {
        assert_eq!(named(&plan, what), [names], "{:?}", plan.consequences);
    }
    assert!(plan.consequences.iter().any(|c| c.what == "sessions" && c.text.contains("must log in again")));
    let same = told(&m, &live[..1], &then, &only(&[ArtifactKind::Mongo]));
    assert!(same.consequences.iter().all(|c| c.what != "sessions"), "the files stay");
    assert_eq!(told(&m, &live[..1], &now, &only(&[ArtifactKind::Valkey])).consequences, []);
    let unread = told(&m, &live, &Records { users: None, ..then }, &everything());
    assert!(unread.consequences.iter().any(|c| c.text.contains("could not be read")), "{:?}", unread.consequences);
}

#[test]
fn instances_that_the_backup_does_not_know_are_named_with_their_daemon() {
    let m = with_platform();
    let then = records(&[], &[], &[("lobby-1", "node-1")]);
    let now = records(&[], &[], &[("lobby-1", "node-1"), ("lobby-2", "node-2"), ("proxy-1", "")]);
    let live = [(0, facts::RECORDS, serde_json::to_string(&now).unwrap())];
    let plan = told(&m, &live, &then, &everything());
    assert_eq!(named(&plan, "instance-ends"), ["lobby-2", "proxy-1"]);
    let text = plan.consequences.iter().find(|c| c.what == "instance-ends").map(|c| c.text.as_str());
    assert!(text.is_some_and(|t| t.ends_with("the daemons end: lobby-2 on node-2, proxy-1")), "{text:?}");
    assert_eq!(plan.digest(), told(&m, &[], &then, &everything()).digest(), "instances come and go");
}

#[test]
fn the_plan_names_units_and_what_they_do() {
    let mut node = node();
    node.controller_service = active();
    node.controller_unit = "prexorcloud-controller.service".into();
    node.valkey_unit = "valkey-server.service".into();
    node.sources[1].facts.insert(facts::RESTORE_WAY.into(), "files".into());
    let p = plan(&manifest(), &[node], &everything());
    let unit = Unit { node: "h1".parse().unwrap(), name: "prexorcloud-controller.service".into(), runs: true };
    assert_eq!(p.units, [unit]);
    let title = |verb| p.steps.iter().find(|s| s.verb == verb).map(|s| s.title.as_str());
    assert_eq!(title(Verb::Hold), Some("stop the controller (prexorcloud-controller.service) and keep it so"));
    assert_eq!(
        title(Verb::Start),
        Some("start the controller (prexorcloud-controller.service) and wait until it is ready")
    );
    assert!(p.notes.iter().any(|n| n.starts_with("Valkey on h1 (valkey-server.service) is stopped")), "{:?}", p.notes);
    assert!(p.prediction.total.is_none() && p.prediction.because.starts_with("not known"), "{:?}", p.prediction);
}
