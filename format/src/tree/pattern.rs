//! Which paths of a tree are left out: a small language of patterns.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::path::TreePath;

/// A path relative to the root in which `*` stands for any bytes within one component: `logs`, `data/cache`,
/// `templates/*/tmp`, `*.log`. It names that path and everything below it, and matches at the root only: `*.log` is
/// `server.log` in the root, not `data/server.log`. No other character is special.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    components: Vec<String>,
}

/// A string that is no [`Pattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an exclude pattern: use a path relative to the root, such as 'logs' or 'templates/*/tmp'")]
pub struct InvalidPattern(pub String);

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(s: &str) -> Result<Self, InvalidPattern> {
        match TreePath::parse(s.as_bytes()) {
            Ok(path) if !path.is_root() => Ok(Self {
                text: path.display().into_owned(),
                components: path.components().map(|c| String::from_utf8_lossy(c).into_owned()).collect(),
            }),
            _ => Err(InvalidPattern(s.to_owned())),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Pattern {
    /// Whether it names this very path. A walk that does not descend into what matches leaves out everything below.
    pub fn matches(&self, path: &TreePath) -> bool {
        let mut names = path.components();
        self.components.iter().all(|c| names.next().is_some_and(|n| component_matches(c.as_bytes(), n)))
            && names.next().is_none()
    }

    /// Whether something below this directory can match.
    pub fn reaches_below(&self, directory: &TreePath) -> bool {
        let depth = directory.components().count();
        depth < self.components.len()
            && directory.components().zip(&self.components).all(|(n, c)| component_matches(c.as_bytes(), n))
    }
}

/// Greedy with one point to come back to, so linear in practice and never exponential.
fn component_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((at, matched)) = star {
            star = Some((at, matched + 1));
            (p, n) = (at + 1, matched + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(&TreePath::parse(path.as_bytes()).unwrap())
    }

    #[test]
    fn stars_stay_within_a_component() {
        for (pattern, path) in [
            ("logs", "logs"),
            ("./logs/", "logs"),
            ("*.log", "a.log"),
            ("*.log", ".log"),
            ("a*b*c", "aXbYbZc"),
            ("templates/*/tmp", "templates/lobby/tmp"),
            ("*", "anything"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("logs", "data/logs"),
            ("logs", "logs/x"),
            ("logs", "."),
            ("*.log", "data/a.log"),
            ("*.log", "a.logs"),
            ("a*b", "a/b"),
            ("a?", "ab"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn patterns_are_relative_and_name_something() {
        for bad in ["", "/", ".", "./", "/logs", "../x", "a//b", "a/../b"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_directories_on_the_way_are_reached() {
        let p: Pattern = "data/*/tmp".parse().unwrap();
        let reaches = |d: &str| p.reaches_below(&TreePath::parse(d.as_bytes()).unwrap());
        assert!(reaches(".") && reaches("data") && reaches("data/x"));
        assert!(!reaches("data/x/tmp") && !reaches("etc") && !reaches("data/x/y"));
    }
}
