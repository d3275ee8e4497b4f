//! Types of data that modules bring, by what a file says of them: a number in which a name of nine characters and a version
//! are packed (`moduleTypeEncodeId` in `module.c`).

use std::collections::BTreeMap;

use crate::manifest::ModuleType;

/// The types that are told apart; a server has a handful.
const TYPES_MAX: usize = 256;

const CHARACTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Keys by type.
#[derive(Debug, Default)]
pub(super) struct Modules(BTreeMap<u64, u64>);

impl Modules {
    pub(super) fn add(&mut self, id: u64, keys: u64) {
        if self.0.len() < TYPES_MAX || self.0.contains_key(&id) {
            *self.0.entry(id).or_default() += keys;
        }
    }

    /// By name, in its order; versions of a type are one.
    pub(super) fn told(&self) -> Vec<ModuleType> {
        let mut by_name: BTreeMap<String, u64> = BTreeMap::new();
        for (id, keys) in &self.0 {
            *by_name.entry(name(*id)).or_default() += keys;
        }
        by_name.into_iter().map(|(name, keys)| ModuleType { name, keys }).collect()
    }
}

/// Nine characters of six bits, above ten bits of a version.
fn name(id: u64) -> String {
    (0..9).rev().map(|n| char::from(CHARACTERS[(id >> (10 + 6 * n) & 63) as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str, version: u64) -> u64 {
        let place = |b: u8| CHARACTERS.iter().position(|c| *c == b).unwrap() as u64;
        name.bytes().fold(0, |id, b| id << 6 | place(b)) << 10 | version
    }

    #[test]
    fn types_are_told_by_name() {
        assert_eq!(name(id("ReJSON-RL", 3)), "ReJSON-RL");
        let mut modules = Modules::default();
        modules.add(id("graphdata", 1), 0);
        modules.add(id("ReJSON-RL", 2), 1);
        modules.add(id("ReJSON-RL", 3), 4);
        let told = |name: &str, keys| ModuleType { name: name.into(), keys };
        assert_eq!(modules.told(), [told("ReJSON-RL", 5), told("graphdata", 0)]);
        (0..10_000).for_each(|n| modules.add(n << 10, 1));
        assert_eq!(modules.told().len(), TYPES_MAX - 1);
    }
}
