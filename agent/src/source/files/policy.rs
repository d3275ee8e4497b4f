//! What of a controller's root is captured and what of an artifact is put back: the one place for laws L7 (as far as files go), L8 and L9.

use prexor_format::tree::{Pattern, TreePath};

use super::part::Part;

/// Runtime logs are never captured.
const LOGS: &str = "logs";

/// Files that act when a controller boots (law L8), and the join tokens that a controller has given out, which a restore
/// would make good once more (law L7): never captured and never restored, wherever they lie.
const MARKERS: [&[u8]; 3] = [b".cluster-left", b"pending-join-token", b"join-tokens.json"];

/// What a walk leaves out.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    patterns: Vec<Pattern>,
    /// Directories that a restore had to make for what it carried over; they are not of the artifact.
    pub(super) made: Vec<TreePath>,
    /// What is looked at besides the way to it.
    pub(super) part: Part,
}

impl Rules {
    /// These patterns, as a manifest records them.
    pub(super) fn new(patterns: Vec<Pattern>) -> Self {
        Self { patterns, made: Vec::new(), part: Part::default() }
    }

    /// The logs, and what a configuration names besides.
    pub(super) fn with_logs(more: Vec<Pattern>) -> Self {
        let mut patterns: Vec<Pattern> = LOGS.parse().into_iter().collect();
        patterns.extend(more.into_iter().filter(|p| p.to_string() != LOGS));
        Self::new(patterns)
    }

    pub(super) fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Whether a pattern names it: left out of captures, carried over by restores.
    pub(super) fn is_excluded(&self, path: &TreePath) -> bool {
        self.patterns.iter().any(|p| p.matches(path))
    }

    /// Whether a walk passes by it and what is below it.
    pub(super) fn leaves_out(&self, path: &TreePath) -> bool {
        is_marker(path.file_name())
            || is_shelter(path)
            || self.is_excluded(path)
            || self.made.contains(path)
            || !(self.part.includes(path) || self.part.leads_through(path))
    }
}

/// Laws L7 and L8.
pub(super) fn is_marker(name: &[u8]) -> bool {
    MARKERS.contains(&name)
}

/// Whether an entry of an artifact is put back.
///
/// Law L8 is kept here for artifacts that hold a marker all the same. Whether `data/raft` comes back (law L9) hangs on the other
/// hosts, and is decided by the plan: a selection says what is kept.
pub(super) fn is_restored(path: &TreePath) -> bool {
    !path.components().any(is_marker)
}

/// The name of the directory in which a restore job keeps the new tree, and after the exchange the old one.
pub(super) fn shelter_name(job_id: &str) -> String {
    format!(".prexor-{job_id}-new")
}

/// Where the root is a mount point that directory lies in the root, and is not part of the tree.
pub(super) fn is_shelter(path: &TreePath) -> bool {
    let name = path.file_name();
    path.components().count() == 1 && name.starts_with(b".prexor-") && name.ends_with(b"-new")
}
