//! Names within a tree: relative, without `.`, `..` and empty components, so that joining one to a directory never
//! leads out of it.

use std::{borrow::Cow, cmp::Ordering, fmt};

/// The path of an entry relative to the root of its tree. The root itself is the empty path. Any bytes but NUL.
///
/// Paths compare component by component, which is the order of a walk that visits a directory before its sorted
/// children.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TreePath(Vec<u8>);

/// Why a name from an archive is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// It begins with `/`.
    #[error("an absolute name")]
    Absolute,
    /// It has a component `..`.
    #[error("a name with '..'")]
    Parent,
    /// It has an empty component or `.` beyond a leading `./`.
    #[error("a name that is spelled in an unusual way")]
    Unusual,
    /// It has a NUL byte.
    #[error("a name with a NUL byte")]
    Nul,
}

impl TreePath {
    /// The root of the tree.
    pub fn root() -> Self {
        Self::default()
    }

    /// Takes a name as tars spell it: an optional leading `./`, and an optional trailing `/`.
    ///
    /// # Errors
    /// When the name could lead out of the tree, or is spelled in a second way.
    pub fn parse(name: &[u8]) -> Result<Self, BadName> {
        if name.first() == Some(&b'/') {
            return Err(BadName::Absolute);
        }
        if name.contains(&0) {
            return Err(BadName::Nul);
        }
        if name.split(|b| *b == b'/').any(|c| c == b"..") {
            return Err(BadName::Parent);
        }
        let rest = if name == b"." { b"" } else { name.strip_prefix(b"./").unwrap_or(name) };
        let rest = rest.strip_suffix(b"/").filter(|plain| !plain.is_empty()).unwrap_or(rest);
        if !rest.is_empty() && rest.split(|b| *b == b'/').any(|c| c.is_empty() || c == b".") || name.is_empty() {
            return Err(BadName::Unusual);
        }
        Ok(Self(rest.to_vec()))
    }

    /// The entry called `name` in this directory.
    ///
    /// # Errors
    /// When `name` is not one plain component.
    pub fn join(&self, name: &[u8]) -> Result<Self, BadName> {
        match name {
            b"" | b"." => return Err(BadName::Unusual),
            b".." => return Err(BadName::Parent),
            _ if name.contains(&b'/') => return Err(BadName::Unusual),
            _ if name.contains(&0) => return Err(BadName::Nul),
            _ => {}
        }
        let mut path = self.0.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Ok(Self(path))
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, `/` between components.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components, none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty())
    }

    /// The directory it is in; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let cut = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        (!self.is_root()).then(|| Self(self.0[..cut].to_vec()))
    }

    /// The last component; empty for the root.
    pub fn file_name(&self) -> &[u8] {
        self.0.rsplit(|b| *b == b'/').next().unwrap_or_default()
    }

    /// Whether this is `other` or something below it.
    pub fn is_within(&self, other: &Self) -> bool {
        other.is_root()
            || self.0.strip_prefix(other.0.as_slice()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }

    /// As people read it: `.` for the root, bytes that are no UTF-8 replaced.
    pub fn display(&self) -> Cow<'_, str> {
        if self.is_root() { Cow::Borrowed(".") } else { String::from_utf8_lossy(&self.0) }
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.display())
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        // No component holds a NUL, so '/' as 0 ends a component before every longer one.
        let key = |b: &u8| if *b == b'/' { 0 } else { *b };
        self.0.iter().map(key).cmp(other.0.iter().map(key))
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> TreePath {
        TreePath::parse(name.as_bytes()).unwrap()
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for (bad, why) in [
            ("/etc/passwd", BadName::Absolute),
            ("..", BadName::Parent),
            ("a/../../b", BadName::Parent),
            ("./..", BadName::Parent),
            ("", BadName::Unusual),
            ("a//b", BadName::Unusual),
            ("a/./b", BadName::Unusual),
            (".//", BadName::Unusual),
            ("a\0b", BadName::Nul),
        ] {
            assert_eq!(TreePath::parse(bad.as_bytes()), Err(why), "{bad:?}");
        }
        for (good, plain) in [(".", ""), ("./", ""), ("./a/", "a"), ("a/b", "a/b"), ("./..a/b..", "..a/b..")] {
            assert_eq!(TreePath::parse(good.as_bytes()).unwrap().as_bytes(), plain.as_bytes(), "{good:?}");
        }
    }

    #[test]
    fn paths_sort_as_a_walk_visits_them() {
        let walk = ["./", "a", "a/b", "a/b/c", "a/c", "a!", "a!/x", "a-", "a0", "b"].map(path);
        let mut sorted = walk.to_vec();
        sorted.reverse();
        sorted.sort();
        assert_eq!(sorted, walk);
    }

    #[test]
    fn families() {
        assert_eq!(path("a/b").parent(), Some(path("a")));
        assert_eq!(path("a").parent(), Some(TreePath::root()));
        assert_eq!(TreePath::root().parent(), None);
        assert_eq!(path("a/b").file_name(), b"b");
        assert!(path("a/b").is_within(&path("a")) && path("a").is_within(&path("a")));
        assert!(!path("ab").is_within(&path("a")) && path("x").is_within(&TreePath::root()));
        assert_eq!(path("a/b/c").components().count(), 3);
        assert_eq!(TreePath::root().components().count(), 0);
    }
}
