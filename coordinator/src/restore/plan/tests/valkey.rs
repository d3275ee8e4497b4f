//! What a plan says of Valkey.

use super::*;

#[test]
fn what_the_laws_correct_is_in_the_plan() {
    let mut manifest = manifest();
    let family =
        |name: &str, keys| KeyFamily { name: name.into(), keys, content: ContentHasher::new(Order::Multiset).finish() };
    let Contents::Valkey(valkey) = &mut manifest.artifacts[1].contents else { unreachable!() };
    valkey.families = vec![family("prexor:v1:lease:", 2), family("prexor:v1:login:lock:", 1), family("", 4)];
    let fencing = valkey.fencing.insert(Fencing::default());
    fencing.add(0, b"prexor:v1:lease-token:leader", Some(b"41"));
    let mut live = laws::valkey::State::default();
    live.add(0, b"prexor:v1:lease-token:leader", Some(b"57"), None);
    live.add(0, b"prexor:v1:jwt:revoked:x", Some(b"1"), None);
    live.revocations.clear();
    let mut node = node();
    node.sources[1].facts.insert(facts::LAWS.into(), serde_json::to_string(&live).unwrap());

    let planned = |options: &Options, node: &NodeFacts| plan(&manifest, std::slice::from_ref(node), options);
    let first = planned(&everything(), &node);
    let told = first.corrections.join("\n");
    for part in [
        "lease-token:leader goes on at 1000057 (in the backup 41, live 57; law L1)",
        "prexor:v1:lease:* is left out: 2 keys",
        "prexor:v1:login:lock:* is left out: 1 key",
        "1 revocation of now stay in force",
    ] {
        assert!(told.contains(part), "{part} not in\n{told}");
    }
    let selection = Selection { logins: true, ..Selection::default() };
    let keep = planned(&Options { selection, ..everything() }, &node).corrections.join("\n");
    assert!(!keep.contains("login:lock") && keep.contains("prexor:v1:lease:*"), "{keep}");
    let selection = Selection { keys: vec!["prexor:v1:platform:*".into()], ..Selection::default() };
    let part = planned(&Options { selection, ..everything() }, &node).corrections.join("\n");
    assert!(!part.contains("lease-token:leader"), "it is not touched: {part}");

    // A counter that moves on does not make another plan of it.
    live.add(0, b"prexor:v1:lease-token:leader", Some(b"58"), None);
    node.sources[1].facts.insert(facts::LAWS.into(), serde_json::to_string(&live).unwrap());
    assert_eq!(planned(&everything(), &node).digest(), first.digest());

    // Nothing is left of the live keys, or nobody could look at them.
    let empty = serde_json::to_string(&laws::valkey::State::default()).unwrap();
    node.sources[1].facts.insert(facts::LAWS.into(), empty);
    let lost = planned(&everything(), &node).corrections.join("\n");
    assert!(lost.contains("rotate security.jwtSecret") && lost.contains("1000041"), "{lost}");
    node.sources[1].facts.remove(facts::LAWS);
    let unknown = planned(&everything(), &node).corrections.join("\n");
    assert!(unknown.contains("could not be looked at") && !unknown.contains("rotate"), "{unknown}");
}

#[test]
fn the_way_of_a_restore_of_valkey_is_in_the_plan() {
    let planned = |selection: Selection, change: &dyn Fn(&mut BTreeMap<String, String>)| {
        let mut node = node();
        change(&mut node.sources[1].facts);
        plan(&manifest(), &[node], &Options { scope: vec![ArtifactKind::Valkey], selection, ..everything() })
    };
    let title = |plan: &Plan| plan.steps.iter().find(|s| s.verb == Verb::Swap).unwrap().title.clone();
    let files = planned(Selection::default(), &|f| drop(f.insert(facts::RESTORE_WAY.into(), "files".into())));
    assert_eq!(title(&files), "replace valkey RDB");
    assert!(files.notes.iter().any(|n| n.contains("is stopped, its files are exchanged")), "{:?}", files.notes);
    let live = planned(Selection::default(), &|f| {
        f.insert(facts::RESTORE_WAY.into(), "live".into());
        f.insert(facts::RESTORE_WAY_BECAUSE.into(), "no service".into());
    });
    assert_eq!(title(&live), "replace valkey keys");
    assert!(live.notes.iter().any(|n| n.contains("keeps running") && n.contains("no service")), "{:?}", live.notes);
    let part = Selection { keys: vec!["prexor:v1:platform:chat:*".into()], ..Selection::default() };
    let part = planned(part, &|f| drop(f.insert(facts::RESTORE_WAY.into(), "files".into())));
    assert_eq!(title(&part), "replace valkey keys");
    assert!(part.notes.iter().any(|n| n.contains("only some keys are restored")), "{:?}", part.notes);
    assert_ne!(files.digest(), live.digest());

    let tight = planned(Selection::default(), &|f| drop(f.insert(facts::MAX_MEMORY.into(), "1048576".into())));
    assert!(tight.refusals.iter().any(|r| r.message.contains("maxmemory")), "{:?}", tight.refusals);
    for fits in ["0", "2097152"] {
        let plan = planned(Selection::default(), &|f| drop(f.insert(facts::MAX_MEMORY.into(), fits.into())));
        assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    }
}

#[test]
fn data_of_modules_is_refused_where_nobody_could_load_it() {
    let mut manifest = manifest();
    let valkey = manifest.artifacts.iter_mut().find_map(|a| match &mut a.contents {
        Contents::Valkey(valkey) => Some(valkey),
        _ => None,
    });
    valkey.unwrap().modules = vec![ModuleType { name: "ReJSON-RL".into(), keys: 2 }];
    let part = Selection { keys: vec!["prexor:v1:platform:chat:*".into()], ..Selection::default() };
    for (way, loaded, selection, refused) in [
        ("files", "0", Selection::default(), true),
        ("files", "1", Selection::default(), false),
        ("live", "1", Selection::default(), true),
        ("files", "0", part, false),
    ] {
        let mut node = node();
        for (name, value) in [(facts::RESTORE_WAY, way), (facts::MODULES, loaded)] {
            node.sources[1].facts.insert(name.into(), value.into());
        }
        let options = Options { scope: vec![ArtifactKind::Valkey], selection, ..everything() };
        let refusals = plan(&manifest, &[node], &options).refusals;
        assert_eq!(refusals.iter().any(|r| r.message.contains("2 keys of type ReJSON-RL")), refused, "{way} {loaded}");
        assert_eq!(refusals.is_empty(), !refused, "{refusals:?}");
    }
}
