//! Corrections for people to read: in a plan, and among a job's events.

use std::collections::BTreeMap;

use super::{Correction, REVOCATIONS, State, family, things};

/// Counters that are named one by one.
const NAMED: usize = 40;

/// One line for each counter and family, and one for each family of revocations.
pub fn words(corrections: &[Correction]) -> Vec<String> {
    let mut out = Vec::new();
    let mut counters = 0;
    let mut revocations: BTreeMap<&str, u64> = BTreeMap::new();
    for correction in corrections {
        match correction {
            Correction::Counter { place, backup, live, to } => {
                counters += 1;
                if counters <= NAMED {
                    let known = |n: &Option<i64>| n.map_or_else(|| "none".to_owned(), |n| n.to_string());
                    out.push(format!(
                        "{} goes on at {to} (in the backup {}, live {}; law L1)",
                        named(place.db, &place.key),
                        known(backup),
                        known(live)
                    ));
                }
            }
            Correction::Remove { family, keys, law } => {
                let what = if law == "L4" { "says who owned or was what then" } else { "short-lived, long over" };
                out.push(format!("{family}* is left out: {} ({what}; law {law})", things(*keys, "key")));
            }
            Correction::Revocation { place, .. } => *revocations.entry(family(&place.key)).or_default() += 1,
        }
    }
    if counters > NAMED {
        out.push(format!("{} more fencing counters go on above all their numbers (law L1)", counters - NAMED));
    }
    out.extend(revocations.into_iter().map(|(family, n)| {
        format!("{family}*: {} made since the backup stay in force (law L6)", things(n, "revocation"))
    }));
    out
}

/// What nothing can correct any more, because the live keys are gone; empty where they are there.
pub fn lost(live: Option<&State>) -> Vec<String> {
    if live.is_some_and(|live| live.keys > 0) {
        return Vec::new();
    }
    let families = REVOCATIONS.map(|f| format!("{f}*")).join(" and ");
    vec![format!(
        "the live keys are lost, and with them the revocations made since the backup ({families}): rotate security.jwtSecret in \
         controller.yml, so that every session ends, and revoke the certificates of removed daemons again (law L6); fencing \
         counters can only go on above the backup's numbers (law L1)"
    )]
}

fn named(db: u64, key: &[u8]) -> String {
    let key = key.escape_ascii();
    if db == 0 { key.to_string() } else { format!("{key} in database {db}") }
}
