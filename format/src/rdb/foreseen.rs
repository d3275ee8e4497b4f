//! What a server will have of a file, told while the file is read: before it is known what the restore laws will change, and
//! without reading it again once that is.
//!
//! Most of it is known by then: what has expired is gone, and whole families never come back. What is left are single keys
//! that may get another value; they are kept apart, in bounded number.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{family::family, reader::Entry};
use crate::{
    digest::{ContentHasher, Order, Sha256Digest},
    laws::valkey::{Correction, KEPT_MAX, Options, Place, Role, never_restored, role, weight},
    manifest::KeyFamily,
};

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Foreseen {
    /// Families of the keys that come back.
    families: Vec<KeyFamily>,
    /// When the first of these expires, in milliseconds since the epoch: from then on all this is of the past.
    first_expiry_ms: Option<i64>,
    /// Of the keys in the families, those that may get another value.
    single: BTreeMap<Place, Sha256Digest>,
}

impl Foreseen {
    /// The families as they are after these corrections, without the keys that are corrected one by one; `None` when one of
    /// the keys has expired by `now_ms`.
    pub fn after(self, corrections: &[Correction], now_ms: i64) -> Option<Vec<KeyFamily>> {
        if self.first_expiry_ms.is_some_and(|at| at <= now_ms) {
            return None;
        }
        let mut families = self.families;
        for place in corrections.iter().filter_map(Correction::place) {
            let Some(digest) = self.single.get(place) else { continue };
            let family = families.iter_mut().find(|f| f.name == family(&place.key))?;
            family.keys = family.keys.checked_sub(1)?;
            family.content = family.content.without(digest);
        }
        families.retain(|f| f.keys > 0);
        Some(families)
    }
}

/// What becomes a [`Foreseen`].
#[derive(Debug)]
pub(super) struct Foresight {
    at_ms: i64,
    options: Options,
    /// Keys that do not come back.
    gone: BTreeMap<String, (u64, ContentHasher)>,
    first_expiry_ms: Option<i64>,
    single: BTreeMap<Place, Sha256Digest>,
    /// What those weigh.
    single_bytes: u64,
}

impl Foresight {
    pub(super) fn new(at_ms: i64, options: Options) -> Self {
        Self { at_ms, options, gone: BTreeMap::new(), first_expiry_ms: None, single: BTreeMap::new(), single_bytes: 0 }
    }

    pub(super) fn add(&mut self, entry: &Entry<'_>, digest: &Sha256Digest) {
        let role = role(entry.key);
        let expired = entry.expires_at_ms.is_some_and(|at| at <= self.at_ms);
        if expired || role.is_some_and(|role| never_restored(role, self.options)) {
            let name = family(entry.key);
            let (keys, content) = match self.gone.get_mut(name) {
                Some(family) => family,
                None => self.gone.entry(name.to_owned()).or_insert((0, ContentHasher::new(Order::Multiset))),
            };
            *keys += 1;
            content.add_digest(digest);
            return;
        }
        if let Some(at) = entry.expires_at_ms {
            self.first_expiry_ms = Some(self.first_expiry_ms.map_or(at, |first| first.min(at)));
        }
        if matches!(role, Some(Role::Counter | Role::Revocation)) && entry.key_len == entry.key.len() as u64 {
            self.single_bytes += weight(entry.key);
            if self.single_bytes <= KEPT_MAX {
                self.single.insert(Place { db: entry.db, key: entry.key.to_owned() }, *digest);
            }
        }
    }

    /// `families` are those of all keys. `None` when it would be too much.
    pub(super) fn finish(self, families: &[KeyFamily]) -> Option<Foreseen> {
        let left = |family: &KeyFamily| {
            let mut left = family.clone();
            if let Some((keys, content)) = self.gone.get(&family.name) {
                left.keys = left.keys.checked_sub(*keys)?;
                left.content = left.content.without(&content.clone().finish().sha256);
            }
            Some(left)
        };
        let mut families = families.iter().map(left).collect::<Option<Vec<_>>>()?;
        families.retain(|f| f.keys > 0);
        (self.single_bytes <= KEPT_MAX).then_some(Foreseen {
            families,
            first_expiry_ms: self.first_expiry_ms,
            single: self.single,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        laws::valkey::{State, corrections},
        rdb::{Facts, MODULES_MAX, RdbSummary, Reader, Summary, Writer},
    };

    const READ_AT: i64 = 1_000;

    /// Keys, each with its expiry, and each with another value.
    fn file(keys: &[(&str, Option<i64>)]) -> Vec<u8> {
        let mut file = Writer::new(Vec::new(), 11, &[]).unwrap();
        for (n, (key, expires_at_ms)) in keys.iter().enumerate() {
            let facts = Facts { expires_at_ms: *expires_at_ms, ..Facts::default() };
            file.key(0, key.as_bytes(), 0, &facts).unwrap();
            file.value(&[1, b'0' + n as u8 % 10]).unwrap();
        }
        file.finish().unwrap()
    }

    fn sum(file: &[u8], mut summary: Summary) -> RdbSummary {
        let mut reader = Reader::new(file).unwrap();
        while let Some(entry) = reader.next_entry().unwrap() {
            summary.add(&entry);
        }
        summary.finish(&reader)
    }

    #[test]
    fn what_is_foreseen_is_what_is_left_after_the_corrections() {
        let keys = [
            ("prexor:v1:lease-token:leader", None),
            ("prexor:v1:lease-token:gc", None),
            ("prexor:v1:lease:leader", Some(500)),
            ("prexor:v1:node:n1", Some(90_000)),
            ("prexor:v1:login:lock:a", Some(1_500)),
            ("prexor:v1:login:fail:a", Some(700)),
            ("prexor:v1:jwt:revoked:a", Some(9_000)),
            ("prexor:v1:jwt:revoked:b", Some(8_000)),
            ("prexor:v1:jwt:revoked:gone", Some(1_000)),
            ("prexor:v1:nodecert:revoked:a", None),
            ("prexor:v1:platform:shop:a", Some(7_000)),
            ("prexor:v1:platform:shop:b", Some(900)),
            ("prexor:v1:platform:gone:a", Some(1)),
            ("else", None),
        ];
        let (file, mut backup, mut live) = (file(&keys), State::default(), State::default());
        for (n, (key, expires)) in keys.iter().enumerate() {
            backup.add(0, key.as_bytes(), Some(&[b'0' + n as u8 % 10]), *expires);
        }
        live.add(0, b"prexor:v1:lease-token:scheduler", Some(b"7"), None);
        live.add(0, b"prexor:v1:jwt:revoked:b", None, Some(20_000));
        live.add(0, b"prexor:v1:jwt:revoked:gone", None, Some(20_000));
        live.add(0, b"prexor:v1:nodecert:revoked:a", None, None);
        for keep_logins in [false, true] {
            let options = Options { keep_logins };
            let corrections = corrections(Some(&live), &backup, options);
            assert!(corrections.len() > 5, "{corrections:?}");
            let plain = sum(&file, Summary::new());
            let told = sum(&file, Summary::new().foreseeing(READ_AT, options));
            let foreseen = told.foreseen.clone().unwrap();
            assert_eq!(RdbSummary { foreseen: None, ..told }, plain);
            // A note of it is as good.
            let note = serde_json::to_string(&foreseen).unwrap();
            let foreseen: Foreseen = serde_json::from_str(&note).unwrap();
            let first = if keep_logins { 1_500 } else { 7_000 };
            for now in [READ_AT, 1_200, first - 1] {
                let expected = sum(&file, Summary::alive_at(now).without(&corrections)).families;
                assert_eq!(foreseen.clone().after(&corrections, now), Some(expected), "at {now}");
            }
            assert_eq!(foreseen.after(&corrections, first), None, "something has expired");
        }
    }

    #[test]
    fn nothing_is_foreseen_of_more_modules_than_have_families() {
        let names: Vec<String> = (0..=MODULES_MAX).map(|n| format!("prexor:v1:platform:m{n}:x")).collect();
        let keys: Vec<_> = names.iter().map(|name| (name.as_str(), None)).collect();
        let foreseen = |keys| sum(&file(keys), Summary::new().foreseeing(READ_AT, Options::default())).foreseen;
        assert!(foreseen(&keys[1..]).is_some());
        assert_eq!(foreseen(&keys), None);
    }
}
