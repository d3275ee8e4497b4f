//! Laws L1, L4, L5 and L6: what of Valkey must not go back in time.
//!
//! A pure function of what was live, what the backup brings and what was asked for. The coordinator shows its outcome in
//! a plan; the agent computes it again from the live keys as they are right before they make room, and carries it out.
//! It knows no server and no file: somebody else collects a [`State`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::GAP;
use crate::{
    rdb::{PLATFORM, family},
    text::things,
};

mod back;
mod words;
pub use back::{corrections_back, restored};
pub use words::{lost, words};

/// How much of counters, leases and revocations is kept in mind at once, in bytes by [`weight`]: those of some hundred
/// thousand. There is one counter for each thing that is led by one controller, and revocations expire with what they revoke.
pub const KEPT_MAX: u64 = 64 << 20;

/// How much of fencing numbers a manifest lists, in bytes by [`weight`].
pub const LISTED_MAX: u64 = 4 << 20;

/// What a key costs beside its own bytes, in any of the maps here.
const PLACE: u64 = 96;

/// Where a leaseholder's fencing numbers come from.
const COUNTERS: &str = "prexor:v1:lease-token:";

/// Who holds a lease: `<controllerId>|<number>`.
const LEASES: &str = "prexor:v1:lease:";

/// Who owns what, and who is there: true only of the past (law L4).
const OWNERSHIP: [&str; 6] =
    [LEASES, "prexor:v1:nodeowner:", "prexor:v1:node:", "prexor:v1:instance:", "prexor:v1:player:", "prexor:v1:sse:"];

/// Short-lived credentials and lockouts (law L5).
const LOGINS: [&str; 4] =
    ["prexor:v1:login:fail:", "prexor:v1:login:lock:", "prexor:v1:pwreset:", "prexor:v1:plugintoken:"];

/// Access that was taken away (law L6).
const REVOCATIONS: [&str; 2] = ["prexor:v1:jwt:revoked:", "prexor:v1:nodecert:revoked:"];

/// Patterns, as `SCAN` knows them, that no module's keys match and each key with a [`Role`] does: modules' keys may be very
/// many, and are nothing to the laws.
pub const PATTERNS: [&str; 2] = ["prexor:v1:[ijlns]*", "prexor:v1:p??[egy]*"];

/// A key in a logical database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Place {
    /// The logical database.
    pub db: u64,
    /// The key.
    pub key: Vec<u8>,
}

/// A [`Place`] in text that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a database's number, a colon and a key")]
pub struct BadPlace(String);

/// What a key means to the laws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The last fencing number that was issued for a resource.
    Counter,
    /// A lease: ownership with a fencing number in it.
    Lease,
    /// Ownership or presence.
    Ownership,
    /// A short-lived credential or a lockout.
    Login,
    /// A revocation.
    Revocation,
}

/// Numbers that were issued for one resource, as far as its keys tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issued {
    /// The counter's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<i64>,
    /// The number in the lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<i64>,
}

/// Fencing numbers, by the place of the counter, whether that is there or only a lease is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fencing(pub BTreeMap<Place, Issued>);

/// What the laws need to know of a set of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// All keys.
    pub keys: u64,
    /// Fencing numbers.
    pub issued: Fencing,
    /// Revocations and when they end, in milliseconds since the epoch; `None` for never.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub revocations: BTreeMap<Place, Option<i64>>,
    /// Keys of each family that has a [`Role`].
    pub families: BTreeMap<String, u64>,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Short-lived credentials and lockouts come back with the rest.
    pub keep_logins: bool,
}

/// One thing that is not as in the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Correction {
    /// L1: a fencing counter goes on above all numbers that were ever issued.
    Counter {
        /// The counter.
        place: Place,
        /// What the backup knows of.
        backup: Option<i64>,
        /// What was live.
        live: Option<i64>,
        /// Its new value.
        to: i64,
    },
    /// L4 and L5: the family is left out.
    Remove {
        /// The prefix of its keys.
        family: String,
        /// Keys that the backup has of it.
        keys: u64,
        /// `L4` or `L5`.
        law: String,
    },
    /// L6: a revocation that is in force stays in force.
    Revocation {
        /// The key.
        place: Place,
        /// When it ends; `None` for never.
        expires_at_ms: Option<i64>,
    },
}

/// What a key means to the laws; `None` for most.
pub fn role(key: &[u8]) -> Option<Role> {
    // Which module it belongs to takes longer to find out than that it belongs to one.
    if key.starts_with(PLATFORM.as_bytes()) { None } else { role_of(family(key)) }
}

/// Whether keys with this role are left out of every restore (laws L4 and L5).
pub fn never_restored(role: Role, options: Options) -> bool {
    match role {
        Role::Lease | Role::Ownership => true,
        Role::Login => !options.keep_logins,
        Role::Counter | Role::Revocation => false,
    }
}

fn role_of(family: &str) -> Option<Role> {
    Some(match family {
        COUNTERS => Role::Counter,
        LEASES => Role::Lease,
        f if OWNERSHIP.contains(&f) => Role::Ownership,
        f if LOGINS.contains(&f) => Role::Login,
        f if REVOCATIONS.contains(&f) => Role::Revocation,
        _ => return None,
    })
}

/// Whether the keys of a family are true only of the moment, or end by themselves before long: how many of them there are
/// says nothing about how much of a server's data is there.
pub fn is_of_the_moment(family: &str) -> bool {
    let role = role_of(family).is_some_and(|role| role != Role::Counter);
    role || ["prexor:v1:ratelimit:", "prexor:v1:cooldown:"].contains(&family)
}

/// Bytes that it takes to keep this key in mind; 0 for one that is only counted.
pub fn weight(key: &[u8]) -> u64 {
    match role(key) {
        Some(Role::Counter | Role::Lease | Role::Revocation) => PLACE + key.len() as u64,
        _ => 0,
    }
}

impl Fencing {
    /// Takes note of a key that is a counter or a lease; others are nothing to it.
    pub fn add(&mut self, db: u64, key: &[u8], value: Option<&[u8]>) {
        let number = |text: &[u8]| str::from_utf8(text).ok()?.parse::<i64>().ok();
        match role(key) {
            Some(Role::Counter) => {
                let issued = self.0.entry(Place { db, key: key.to_owned() }).or_default();
                issued.counter = issued.counter.max(value.and_then(number));
            }
            Some(Role::Lease) => {
                let after_bar = |v: &[u8]| number(&v[v.iter().rposition(|b| *b == b'|')? + 1..]);
                let issued = self.0.entry(counter_of(db, key)).or_default();
                issued.lease = issued.lease.max(value.and_then(after_bar));
            }
            _ => {}
        }
    }

    /// The highest number that this resource's keys know of.
    fn highest(&self, place: &Place) -> Option<i64> {
        self.0.get(place).and_then(|i| i.counter.max(i.lease))
    }
}

impl State {
    /// Takes note of a key. `value` is that of a string, where it is short.
    pub fn add(&mut self, db: u64, key: &[u8], value: Option<&[u8]>, expires_at_ms: Option<i64>) {
        self.keys += 1;
        let Some(role) = role(key) else { return };
        let name = family(key);
        match self.families.get_mut(name) {
            Some(keys) => *keys += 1,
            None => drop(self.families.insert(name.to_owned(), 1)),
        }
        match role {
            Role::Counter | Role::Lease => self.issued.add(db, key, value),
            Role::Revocation => later(&mut self.revocations, Place { db, key: key.to_owned() }, expires_at_ms),
            Role::Ownership | Role::Login => {}
        }
    }

    /// Takes in what was seen of the same keys at another time: nothing that either knew is forgotten.
    pub fn merge(&mut self, other: &Self) {
        self.keys = self.keys.max(other.keys);
        for (place, seen) in &other.issued.0 {
            let issued = self.issued.0.entry(place.clone()).or_default();
            issued.counter = issued.counter.max(seen.counter);
            issued.lease = issued.lease.max(seen.lease);
        }
        for (place, expires) in &other.revocations {
            later(&mut self.revocations, place.clone(), *expires);
        }
        for (family, keys) in &other.families {
            let known = self.families.entry(family.clone()).or_default();
            *known = (*known).max(*keys);
        }
    }

    /// How many revocations there are, whether they are listed or only counted.
    pub fn revocations_in_force(&self) -> u64 {
        REVOCATIONS.iter().filter_map(|family| self.families.get(*family)).sum()
    }

    /// Only the keys that `covers` says yes to; leases count where they or their counters are covered.
    pub fn only(mut self, covers: impl Fn(&[u8]) -> bool) -> Self {
        self.issued.0.retain(|place, _| covers(&place.key));
        self.revocations.retain(|place, _| covers(&place.key));
        self
    }
}

fn later(revocations: &mut BTreeMap<Place, Option<i64>>, place: Place, expires: Option<i64>) {
    let known = revocations.entry(place).or_insert(expires);
    *known = latest(*known, expires);
}

/// The later of two ends; `None` is no end.
fn latest(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    Some(a?.max(b?))
}

fn counter_of(db: u64, lease: &[u8]) -> Place {
    Place { db, key: [COUNTERS.as_bytes(), lease.get(LEASES.len()..).unwrap_or_default()].concat() }
}

/// What must be changed in the backup's keys once they are live. `live` is `None` where nothing is left of the live data.
pub fn corrections(live: Option<&State>, backup: &State, options: Options) -> Vec<Correction> {
    let nothing = State::default();
    let live = live.unwrap_or(&nothing);
    let counters = live.issued.0.keys().chain(backup.issued.0.keys()).collect::<BTreeSet<_>>();
    let counters = counters.into_iter().filter_map(|place| {
        let (live, backup) = (live.issued.highest(place), backup.issued.highest(place));
        let to = live.max(backup)?.max(0).saturating_add(GAP);
        Some(Correction::Counter { place: place.clone(), backup, live, to })
    });
    let logins: &[&str] = if options.keep_logins { &[] } else { &LOGINS };
    let removed = OWNERSHIP.iter().map(|f| (f, "L4")).chain(logins.iter().map(|f| (f, "L5")));
    let removed = removed.filter_map(|(family, law)| {
        let keys = *backup.families.get(*family)?;
        Some(Correction::Remove { family: (*family).to_owned(), keys, law: law.to_owned() })
    });
    let revocations = live.revocations.iter().filter_map(|(place, live_end)| {
        let end = match backup.revocations.get(place) {
            Some(end) if latest(*end, *live_end) == *end => return None,
            _ => *live_end,
        };
        Some(Correction::Revocation { place: place.clone(), expires_at_ms: end })
    });
    counters.chain(removed).chain(revocations).collect()
}

impl Correction {
    /// The one key that it is about, where it is about one.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Counter { place, .. } | Self::Revocation { place, .. } => Some(place),
            Self::Remove { .. } => None,
        }
    }
}

/// Whether a list of corrections takes this key away.
pub fn removes(corrections: &[Correction], key: &[u8]) -> bool {
    let name = role(key).map(|_| family(key));
    name.is_some_and(|name| {
        corrections.iter().any(|c| matches!(c, Correction::Remove { family, .. } if family == name))
    })
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.db, self.key.escape_ascii())
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

impl TryFrom<String> for Place {
    type Error = BadPlace;

    fn try_from(text: String) -> Result<Self, BadPlace> {
        text.parse()
    }
}

impl FromStr for Place {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        let parse = || {
            let (db, escaped) = text.split_once(':')?;
            let (mut key, mut rest) = (Vec::new(), escaped.bytes());
            while let Some(byte) = rest.next() {
                key.push(match byte {
                    b'\\' => match rest.next()? {
                        b't' => b'\t',
                        b'r' => b'\r',
                        b'n' => b'\n',
                        b'x' => {
                            let mut nibble = || char::from(rest.next()?).to_digit(16);
                            (nibble()? * 16 + nibble()?) as u8
                        }
                        plain => plain,
                    },
                    plain => plain,
                });
            }
            Some(Place { db: db.parse().ok()?, key })
        };
        parse().ok_or_else(|| BadPlace(text.to_owned()))
    }
}

#[cfg(test)]
mod tests;
