//! The laws as properties: over random pairs of live and backup keys, and over what a restore makes of them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Keys with string values and expiries, as a server has them.
type Keys = BTreeMap<Place, (Vec<u8>, Option<i64>)>;

fn state(keys: &Keys) -> State {
    let mut state = State::default();
    keys.iter().for_each(|(place, (value, expires))| state.add(place.db, &place.key, Some(value), *expires));
    state
}

/// What a restore leaves: the backup's keys with the corrections carried out, live values where those bring keys back.
fn restored(live: &Keys, backup: &Keys, corrections: &[Correction]) -> Keys {
    let mut keys = backup.clone();
    keys.retain(|place, _| !removes(corrections, &place.key));
    for correction in corrections {
        match correction {
            Correction::Counter { place, to, .. } => drop(keys.insert(place.clone(), (to.to_string().into(), None))),
            Correction::Revocation { place, expires_at_ms } => {
                let value = live[place].0.clone();
                keys.insert(place.clone(), (value, *expires_at_ms));
            }
            Correction::Remove { .. } => {}
        }
    }
    keys
}

/// Every number that was ever issued for the resource, as far as any key says.
fn issued(keys: &Keys, db: u64, resource: &str) -> Vec<i64> {
    let get = |prefix: &str| {
        let place = Place { db, key: format!("{prefix}{resource}").into() };
        Some(String::from_utf8_lossy(&keys.get(&place)?.0).into_owned())
    };
    let counter = get("prexor:v1:lease-token:").and_then(|v| v.parse().ok());
    let lease = get("prexor:v1:lease:").and_then(|v| v.rsplit_once('|')?.1.parse().ok());
    counter.into_iter().chain(lease).collect()
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![0..1_000i64, any::<i64>(), Just(i64::MAX), Just(-1)]
}

fn keys() -> impl Strategy<Value = Keys> {
    let expiry = proptest::option::of(1..10_000i64);
    let resource = "[abc]";
    let one = prop_oneof![
        3 => (resource, number()).prop_map(|(r, n)| (format!("prexor:v1:lease-token:{r}"), n.to_string())),
        3 => (resource, number()).prop_map(|(r, n)| (format!("prexor:v1:lease:{r}"), format!("some|one|{n}"))),
        1 => (resource, ".*").prop_map(|(r, v)| (format!("prexor:v1:lease-token:{r}"), v)),
        1 => (resource, ".*").prop_map(|(r, v)| (format!("prexor:v1:lease:{r}"), v)),
        3 => "[0-3]".prop_map(|t| (format!("prexor:v1:jwt:revoked:{t}"), "1".to_owned())),
        1 => "[0-3]".prop_map(|t| (format!("prexor:v1:nodecert:revoked:{t}"), "node".to_owned())),
        3 => ("(nodeowner|node|instance|player|sse|login:fail|login:lock|pwreset|plugintoken):[a-c]", ".*")
            .prop_map(|(k, v)| (format!("prexor:v1:{k}"), v)),
        1 => (".*", ".*").prop_map(|(k, v)| (format!("prexor:v1:platform:shop:{k}"), v)),
    ];
    let one = (0..2u64, one, expiry)
        .prop_map(|(db, (key, value), expiry)| (Place { db, key: key.into() }, (value.into_bytes(), expiry)));
    proptest::collection::btree_map(any::<u16>(), one, 0..24).prop_map(|m| m.into_values().collect())
}

#[test]
fn the_patterns_are_those_of_keys_with_a_role() {
    let matched =
        |key: &str| PATTERNS.iter().filter(|pattern| crate::glob::matches(pattern.as_bytes(), key.as_bytes())).count();
    for family in OWNERSHIP.into_iter().chain(LOGINS).chain(REVOCATIONS).chain([COUNTERS]) {
        let key = format!("{family}x");
        assert!(role(key.as_bytes()).is_some());
        assert_eq!(matched(&key), 1, "{key}");
    }
    assert_eq!(matched("prexor:v1:platform:stats:x"), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_must_not_go_back_goes_back(live in keys(), backup in keys(), keep_logins in any::<bool>(), gone in any::<bool>()) {
        let live_state = state(&live);
        let corrections = corrections((!gone).then_some(&live_state), &state(&backup), Options { keep_logins });
        let live = if gone { Keys::new() } else { live };
        let after = restored(&live, &backup, &corrections);

        // L1: what the next leaseholder gets is higher than any number ever issued.
        for db in 0..2 {
            for resource in ["a", "b", "c"] {
                let before = issued(&live, db, resource).into_iter().chain(issued(&backup, db, resource)).max();
                let Some(before) = before else { continue };
                let counter = issued(&after, db, resource).into_iter().max();
                prop_assert!(counter.is_some_and(|c| c > before || c == i64::MAX), "{resource}: {before} then {counter:?}");
            }
        }
        for place in after.keys() {
            let key = String::from_utf8_lossy(&place.key);
            // L4
            for gone in ["lease:", "nodeowner:", "node:", "instance:", "player:", "sse:"] {
                let family = format!("prexor:v1:{gone}");
                prop_assert!(!key.starts_with(&family), "{key} survived");
            }
            // L5
            let login = ["login:fail:", "login:lock:", "pwreset:", "plugintoken:"];
            prop_assert!(keep_logins || !login.iter().any(|l| key.starts_with(&format!("prexor:v1:{l}"))), "{key}");
        }
        // L6: every revocation of either side is in force, for as long as it was by either.
        for keys in [&live, &backup] {
            for (place, (_, expires)) in keys.iter().filter(|(p, _)| role(&p.key) == Some(Role::Revocation)) {
                let now = after.get(place).map(|(_, e)| e.unwrap_or(i64::MAX));
                prop_assert!(now.is_some_and(|now| now >= expires.unwrap_or(i64::MAX)), "{place}: {expires:?} {now:?}");
            }
        }
        // All else is the backup's.
        for (place, was) in &backup {
            if role(&place.key).is_none() || keep_logins && role(&place.key) == Some(Role::Login) {
                prop_assert_eq!(after.get(place), Some(was));
            }
        }
        for place in after.keys() {
            prop_assert!(backup.contains_key(place) || role(&place.key).is_some(), "{} came from nowhere", place);
        }
    }

    #[test]
    fn a_place_is_its_text(db in any::<u64>(), key in proptest::collection::vec(any::<u8>(), 0..40)) {
        let place = Place { db, key };
        prop_assert_eq!(place.to_string().parse::<Place>().unwrap(), place.clone());
        let json = serde_json::to_string(&BTreeMap::from([(place.clone(), 1)])).unwrap();
        prop_assert_eq!(serde_json::from_str::<BTreeMap<Place, u8>>(&json).unwrap(), BTreeMap::from([(place, 1)]));
    }

    #[test]
    fn what_was_seen_twice_is_seen_once(a in keys(), b in keys()) {
        let (a, b) = (state(&a), state(&b));
        let mut both = a.clone();
        both.merge(&b);
        for (seen, place) in [&a, &b].into_iter().flat_map(|s| s.issued.0.iter().map(move |(p, i)| (i, p))) {
            prop_assert!(both.issued.0[place].counter >= seen.counter && both.issued.0[place].lease >= seen.lease);
        }
        let mut again = both.clone();
        again.merge(&a);
        prop_assert_eq!(again, both);
    }
}

fn place(key: &str) -> Place {
    Place { db: 0, key: key.into() }
}

fn keys_of(list: &[(&str, &str, Option<i64>)]) -> Keys {
    list.iter().map(|(k, v, e)| (place(k), (v.as_bytes().to_vec(), *e))).collect()
}

#[test]
fn corrections_are_told() {
    let live = keys_of(&[
        ("prexor:v1:lease-token:leader", "57", None),
        ("prexor:v1:lease:leader", "uuid|58", Some(9)),
        ("prexor:v1:jwt:revoked:new", "1", Some(9)),
        ("prexor:v1:jwt:revoked:both", "1", Some(9)),
    ]);
    let backup = keys_of(&[
        ("prexor:v1:lease-token:leader", "41", None),
        ("prexor:v1:lease:gc", "uuid|3", Some(9)),
        ("prexor:v1:jwt:revoked:both", "1", Some(9)),
        ("prexor:v1:login:lock:björn", "1", Some(9)),
        ("anything", "1", None),
    ]);
    let told = words(&corrections(Some(&state(&live)), &state(&backup), Options::default()));
    let expected = [
        "prexor:v1:lease-token:gc goes on at 1000003 (in the backup 3, live none; law L1)",
        "prexor:v1:lease-token:leader goes on at 1000058 (in the backup 41, live 58; law L1)",
        "prexor:v1:lease:* is left out: 1 key (says who owned or was what then; law L4)",
        "prexor:v1:login:lock:* is left out: 1 key (short-lived, long over; law L5)",
        "prexor:v1:jwt:revoked:*: 1 revocation made since the backup stay in force (law L6)",
    ];
    assert_eq!(told, expected);
    let kept = corrections(Some(&state(&live)), &state(&backup), Options { keep_logins: true });
    assert!(!removes(&kept, "prexor:v1:login:lock:björn".as_bytes()));
    assert_eq!(lost(Some(&state(&live))), Vec::<String>::new());
    for gone in [None, Some(State::default())] {
        let told = lost(gone.as_ref()).join("\n");
        assert!(told.contains("security.jwtSecret") && told.contains("nodecert:revoked"), "{told}");
    }
}

#[test]
fn a_number_that_cannot_grow_any_more_stays_the_highest() {
    let live = keys_of(&[("prexor:v1:lease-token:x", &i64::MAX.to_string(), None)]);
    let found = corrections(Some(&state(&live)), &State::default(), Options::default());
    assert!(matches!(found[..], [Correction::Counter { to: i64::MAX, .. }]), "{found:?}");
}

#[test]
fn a_selection_keeps_the_laws_to_its_own_keys() {
    let keys = keys_of(&[
        ("prexor:v1:lease-token:leader", "57", None),
        ("prexor:v1:jwt:revoked:new", "1", None),
        ("prexor:v1:jwt:revoked:other", "1", None),
    ]);
    let only = state(&keys).only(|key| key.ends_with(b":new"));
    assert_eq!((only.issued.0.len(), only.revocations.len()), (0, 1));
}
