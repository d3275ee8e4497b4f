//! Which part of a tree a restore puts back: all of it, or some paths with what is below them.

use prexor_format::tree::TreePath;

use super::policy;
use crate::source::SourceError;

/// Some paths, none within another, in order, or everything; without what stays as it is live.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Part {
    paths: Option<Vec<TreePath>>,
    kept: Vec<TreePath>,
}

impl Part {
    /// These paths of a selection, relative to the root, everything when there are none; but not what is kept.
    ///
    /// # Errors
    /// When a path is none, or is never restored.
    pub(super) fn of(paths: &[String], kept: &[String]) -> Result<Self, SourceError> {
        let parse = |path: &String| {
            TreePath::parse(path.as_bytes())
                .map_err(|e| SourceError::Invalid(format!("'{path}' cannot be selected: it is {e}")))
        };
        let mut parsed = Vec::new();
        for path in paths {
            let path = parse(path)?;
            if !policy::is_restored(&path) {
                let what = format!("'{path}' acts when a controller boots and is never restored (law L8)");
                return Err(SourceError::Invalid(what));
            }
            parsed.push(path);
        }
        parsed.sort();
        // In their order a directory comes before what is below it.
        let mut chosen: Vec<TreePath> = Vec::new();
        for path in parsed {
            if chosen.last().is_none_or(|above| !path.is_within(above)) {
                chosen.push(path);
            }
        }
        let paths = (!chosen.is_empty() && !chosen[0].is_root()).then_some(chosen);
        Ok(Self { paths, kept: kept.iter().map(parse).collect::<Result<_, _>>()? })
    }

    /// The paths, or `None` for everything.
    pub(super) fn paths(&self) -> Option<&[TreePath]> {
        self.paths.as_deref()
    }

    /// What stays as it is live.
    pub(super) fn kept(&self) -> &[TreePath] {
        &self.kept
    }

    /// Whether this is put back.
    pub(super) fn includes(&self, path: &TreePath) -> bool {
        self.covers(path) && !self.kept.iter().any(|kept| path.is_within(kept))
    }

    /// Whether this is in the part: put back, or kept.
    pub(super) fn covers(&self, path: &TreePath) -> bool {
        self.paths.as_ref().is_none_or(|paths| paths.iter().any(|p| path.is_within(p)))
    }

    /// Whether this is a directory above something that is put back, and not put back itself.
    pub(super) fn leads_through(&self, path: &TreePath) -> bool {
        self.paths.as_ref().is_some_and(|paths| paths.iter().any(|p| p != path && p.is_within(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(paths: &[&str]) -> Part {
        Part::of(&paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>(), &[]).unwrap()
    }

    #[test]
    fn directories_stand_for_what_is_below_them() {
        let tree = |p: &str| TreePath::parse(p.as_bytes()).unwrap();
        let some = part(&["data/modules/x", "config/controller.yml", "data/modules", "data-2"]);
        assert_eq!(some.paths().unwrap(), ["config/controller.yml", "data/modules", "data-2"].map(tree));
        for (path, includes, leads) in [
            (".", false, true),
            ("config", false, true),
            ("config/controller.yml", true, false),
            ("config/controller.yml.bak", false, false),
            ("data", false, true),
            ("data/modules/x/y", true, false),
            ("data/modules-2", false, false),
            ("data-2", true, false),
        ] {
            assert_eq!((some.includes(&tree(path)), some.leads_through(&tree(path))), (includes, leads), "{path}");
        }
        for all in [part(&[]), part(&[".", "config"])] {
            assert!(all.paths().is_none() && all.includes(&tree(".")) && !all.leads_through(&tree(".")));
        }
        assert!(Part::of(&["../x".to_owned()], &[]).is_err());
        assert!(Part::of(&["data/pending-join-token".to_owned()], &[]).unwrap_err().to_string().contains("L8"));
    }

    #[test]
    fn what_is_kept_is_covered_and_not_put_back() {
        let tree = |p: &str| TreePath::parse(p.as_bytes()).unwrap();
        for paths in [vec![], vec!["data".to_owned()]] {
            let part = Part::of(&paths, &["data/raft".to_owned()]).unwrap();
            for (path, includes) in
                [("data", true), ("data/raft", false), ("data/raft/log/1", false), ("data/raft-2", true)]
            {
                assert_eq!((part.includes(&tree(path)), part.covers(&tree(path))), (includes, true), "{path}");
            }
        }
    }
}
