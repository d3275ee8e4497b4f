//! Law L9: `data/raft` is one member's log of what all members agreed on. Logs of different ages corrupt a live quorum, so that it
//! comes back for all members from one backup, or for none.

use prexor_format::{
    artifact::ArtifactKind,
    manifest::{Artifact, Contents, Manifest},
    selection::Selection,
};

use super::{NodeFacts, Refusal, refusal};

/// Relative to a controller's root.
const LOG: &str = "data/raft";

/// What stays as it is on the hosts whose files are restored, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) paths: Vec<String>,
    pub(super) note: Option<String>,
    pub(super) refusal: Option<Refusal>,
}

fn below(path: &str) -> bool {
    path.strip_prefix(LOG).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether something of it is among these paths; none stand for everything.
fn touches(paths: &[String]) -> bool {
    let within =
        |path: &String| LOG == path || LOG.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with('/'));
    paths.is_empty() || paths.iter().any(|path| within(path) || below(path))
}

/// What a person has to do on a host of several that is given up while the others get theirs, if this selection brings it back.
pub(in crate::restore) fn given_up(selection: &Selection) -> Option<String> {
    let comes_back = touches(&selection.paths) && !selection.keep.iter().any(|path| path == LOG);
    comes_back.then(|| {
        format!(
            "If it has a {LOG}, remove that before its controller starts: it is of another age than those of the others, and a \
             member without one joins anew (law L9)."
        )
    })
}

/// What follows for these hosts; `nodes` are all that are enrolled, also those that the restore is not about.
pub(super) fn kept(
    manifest: &Manifest,
    placed: &[(&Artifact, &NodeFacts)],
    nodes: &[NodeFacts],
    selection: &Selection,
) -> Kept {
    let restored: Vec<&str> =
        placed.iter().filter(|(a, _)| a.kind == ArtifactKind::Filesystem).map(|(_, n)| n.name.as_str()).collect();
    if restored.is_empty() || !touches(&selection.paths) {
        return Kept::default();
    }
    let members_then = manifest.artifacts.iter().filter(|a| matches!(a.contents, Contents::Filesystem(_)));
    let members_then = members_then.map(|a| a.node.as_str());
    let members_now = nodes.iter().filter(|n| n.controller.is_some()).map(|n| n.name.as_str());
    let mut missing: Vec<&str> = members_then.chain(members_now).filter(|name| !restored.contains(name)).collect();
    missing.sort_unstable();
    missing.dedup();
    let part_of_it = selection.paths.iter().any(|path| below(path));
    if missing.is_empty() && !part_of_it {
        let all = format!("{LOG} comes back on all members from this one backup ({}; law L9)", restored.join(", "));
        return Kept { note: (restored.len() > 1).then_some(all), ..Kept::default() };
    }
    let asked = selection.paths.iter().find(|path| *path == LOG || below(path));
    if let Some(asked) = asked {
        let message = format!(
            "{asked} is one member's log, which comes back as a whole and for all members together ({} would be left as they are): \
             leave it out",
            if missing.is_empty() { "parts of it".to_owned() } else { missing.join(", ") }
        );
        return Kept { refusal: Some(refusal("L9", message)), ..Kept::default() };
    }
    let note = format!(
        "{LOG} stays as it is now on {}, since {} is not restored with it: logs of different ages would corrupt the quorum; a \
         member without one joins anew (law L9)",
        restored.join(", "),
        missing.join(", ")
    );
    Kept { paths: vec![LOG.to_owned()], note: Some(note), refusal: None }
}
