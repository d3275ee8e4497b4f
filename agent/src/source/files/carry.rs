//! What a restore carries over: paths that are excluded from the artifact stay as they are live, in directories that
//! are made for them where the new tree has none.

use std::{collections::BTreeSet, io, os::fd::AsFd as _, path::Path};

use prexor_format::tree::{Attributes, Pattern, TreePath};
use rustix::{
    fs::{FileType, Mode},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{
    os::{self, Cursor, Target},
    place::Place,
    policy,
};

/// What the patterns match in the live tree, markers (law L8) aside; nothing when there is no live tree.
pub(super) fn carried_paths(root: &Path, patterns: &[Pattern]) -> io::Result<Vec<TreePath>> {
    let mut found = BTreeSet::new();
    let mut pending = vec![TreePath::root()];
    while let Some(directory) = pending.pop() {
        let dir = match os::open_dir_path(root).and_then(|r| Cursor::descend(r, &directory)) {
            Ok(cursor) => cursor,
            Err(e) if e.kind() == io::ErrorKind::NotFound && directory.is_root() => return Ok(Vec::new()),
            // Only directories are descended into.
            Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::NOTDIR | Errno::LOOP)) => continue,
            Err(e) => return Err(e),
        };
        for name in os::names(dir.dir())? {
            let Ok(path) = directory.join(&name) else { continue };
            if policy::is_marker(&name) || policy::is_shelter(&path) {
                continue;
            }
            if patterns.iter().any(|p| p.matches(&path)) {
                found.insert(path);
            } else if patterns.iter().any(|p| p.reaches_below(&path)) {
                pending.push(path);
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// A directory that the new tree has not, made for what is carried over, like the one in the live tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MadeDirectory {
    path: Vec<u8>,
    like: Attributes,
    /// Those of the directory above it, which making it changes.
    above: Attributes,
}

impl MadeDirectory {
    pub(super) fn path(&self) -> Option<TreePath> {
        TreePath::parse(&self.path).ok()
    }

    /// Makes it in the tree aside, unless it is there.
    pub(super) fn make(&self, place: &Place) -> io::Result<()> {
        let path = self.path().ok_or(io::ErrorKind::InvalidInput)?;
        let said = |what| io::Error::other(format!("'{path}': {what}"));
        let root = os::open_dir_path(&place.aside())?;
        let parent = Cursor::descend(root, &path.parent().unwrap_or_default())?;
        match rustix::fs::mkdirat(parent.dir(), os::name(path.file_name()), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let made = os::open_dir(parent.dir(), path.file_name())?;
        Target::Fd(made.as_fd()).apply(&self.like, false).map_err(said)?;
        Target::Fd(parent.dir()).apply(&self.above, false).map_err(said)
    }
}

/// Adds the directories above `carried` that the new tree has not to `made`; an error when something else is in their
/// place. To be called while the new tree is the one aside.
pub(super) fn plan_parents(place: &Place, carried: &[TreePath], made: &mut Vec<MadeDirectory>) -> io::Result<()> {
    let (live, aside) = (place.root(), place.aside());
    for path in carried {
        let mut above = TreePath::root();
        for name in path.parent().unwrap_or_default().components() {
            let parent = above.join(name).map_err(io::Error::other)?;
            let planned = |path: &TreePath| made.iter().find(|m| m.path == path.as_bytes());
            let found = os::lstat_path(&aside.join(os::name(parent.as_bytes())));
            match found {
                _ if planned(&parent).is_some() => {}
                Ok(Some(stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
                Ok(None) => {
                    let like = os::dir_attributes(&live.join(os::name(parent.as_bytes())))?;
                    let above = match planned(&above) {
                        Some(m) => m.like.clone(),
                        None => os::dir_attributes(&aside.join(os::name(above.as_bytes())))?,
                    };
                    made.push(MadeDirectory { path: parent.as_bytes().to_vec(), like, above });
                }
                Ok(Some(_)) | Err(_) => {
                    return Err(io::Error::other(format!(
                        "'{path}' is kept over a restore, but in the backup '{parent}' is no directory: move it away \
                         and start the restore again"
                    )));
                }
            }
            above = parent;
        }
    }
    Ok(())
}
