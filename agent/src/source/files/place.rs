//! Where a restore works: how the live tree can be exchanged, and the directory beside or in it for the other tree.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::AsFd as _,
        unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use prexor_format::tree::{Attributes, Pattern, TreePath};
use serde::{Deserialize, Serialize};

use super::{
    os::{self, Target},
    part::Part,
    policy,
};

/// A path in a journal; any bytes.
pub(super) type Recorded = OsString;

/// Where a restore job works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    root: Recorded,
    shelter: Recorded,
    /// Whether the root itself cannot be renamed: the shelter lies in it, and its entries are exchanged one by one.
    pub(super) one_by_one: bool,
}

/// Why there is no place for a restore.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoPlace {
    #[error("{0}")]
    Impossible(String),
    #[error("the place of the new tree cannot be found: {0}")]
    Io(#[from] io::Error),
}

impl Place {
    /// Finds out how the tree at `root`, or a part of it, can be exchanged. Makes the directories above a root that is
    /// not there.
    pub(super) fn find(root: &Path, job_id: &str, excluded: &[Pattern], part: &Part) -> Result<Self, NoPlace> {
        let shown = root.display();
        let exists = match std::fs::symlink_metadata(root) {
            Ok(_) => true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(e.into()),
        };
        let real = if exists {
            let real = root.canonicalize()?;
            if !real.is_dir() {
                return Err(NoPlace::Impossible(format!("{shown} is no directory: move it away and try again")));
            }
            real
        } else {
            let (Some(parent), Some(name)) = (root.parent(), root.file_name()) else {
                return Err(NoPlace::Impossible(format!("{shown} cannot be a root")));
            };
            make_open_to_all(parent)?;
            parent.canonicalize()?.join(name)
        };
        let Some(parent) = real.parent() else {
            return Err(NoPlace::Impossible(format!("{shown} cannot be a root")));
        };
        let mut one_by_one = false;
        for mount in os::mounts_within(&real)? {
            let below = mount.strip_prefix(&real).map(|p| p.as_os_str().as_bytes()).unwrap_or_default();
            let below =
                if below.is_empty() { TreePath::root() } else { TreePath::parse(below).map_err(io::Error::other)? };
            let in_the_way = match part.paths() {
                _ if below.is_root() => false,
                // What is excluded as a whole, directly in the root, stays where it is when entries are exchanged.
                None => !top(&below).is_some_and(|top| excluded.iter().any(|p| p.matches(&top))),
                Some(paths) => paths.iter().any(|p| below.is_within(p) || p.is_within(&below)),
            };
            if in_the_way {
                return Err(NoPlace::Impossible(format!(
                    "{} is a mount point within {shown}, a tree with it cannot be exchanged: unmount it, or leave the \
                     files out of the restore and unpack the archive by hand",
                    mount.display()
                )));
            }
            one_by_one |= below.is_root() || part.paths().is_none();
        }
        let shelter = if one_by_one { &real } else { parent }.join(policy::shelter_name(job_id));
        Ok(Self { root: real.into(), shelter: shelter.into(), one_by_one })
    }

    /// The live tree.
    pub(super) fn root(&self) -> &Path {
        Path::new(&self.root)
    }

    /// The directory, open to root alone, in which the other tree lies.
    pub(super) fn shelter(&self) -> &Path {
        Path::new(&self.shelter)
    }

    /// Makes or removes the shelter without leaving a trace in the time of a root that it lies in.
    pub(super) fn changing_shelter(&self, change: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let before = if self.one_by_one { Some(os::dir_attributes(self.root())?) } else { None };
        change(self.shelter())?;
        before.map_or(Ok(()), |attributes| set_attributes(&[(self.root.clone(), attributes)]))
    }

    /// Where files are kept while links to them are made.
    pub(super) fn held(&self) -> PathBuf {
        self.shelter().join("held")
    }

    /// The new tree before the exchange, the old one after it.
    pub(super) fn aside(&self) -> PathBuf {
        self.shelter().join("tree")
    }
}

/// The entry of the root that this is, or is below.
fn top(path: &TreePath) -> Option<TreePath> {
    TreePath::root().join(path.components().next()?).ok()
}

/// Gives directories these attributes, as far as they are there.
pub(super) fn set_attributes(of: &[(Recorded, Attributes)]) -> io::Result<()> {
    for (path, attributes) in of {
        match os::open_dir_path(Path::new(path)) {
            Ok(dir) => Target::Fd(dir.as_fd())
                .apply(attributes, false)
                .map_err(|what| io::Error::other(format!("{}: {what}", Path::new(path).display())))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Makes a directory and its parents so that others can pass through, as `/opt` and `/etc` are: the agent's own umask would
/// keep the controller's user out of its own tree.
fn make_open_to_all(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_open_to_all(parent)?;
    }
    std::fs::create_dir(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))
}
