//! The exchange of two trees as a journal of renames: each can be told by inode numbers to be done or not, so after a
//! crash anywhere the journal is carried through, forwards or backwards.
//!
//! Knows where the two trees lie and what is carried from one to the other; nothing of archives.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io,
    os::{
        fd::AsFd as _,
        unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use prexor_format::tree::{Attributes, Pattern, TreePath};
use rustix::{
    fs::{FileType, Mode, RenameFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{
    os::{self, Cursor, Target},
    policy,
};

/// A path in a journal; any bytes.
type Recorded = OsString;

/// Where a restore job works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    root: Recorded,
    shelter: Recorded,
    /// Whether the entries of the root are exchanged one by one, because the root itself cannot be renamed.
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
    /// Finds out how the tree at `root` can be exchanged. Makes the directories above a root that is not there.
    pub(super) fn find(root: &Path, job_id: &str, excluded: &[Pattern]) -> Result<Self, NoPlace> {
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
            let stays = TreePath::root().join(below).is_ok_and(|top| excluded.iter().any(|p| p.matches(&top)));
            if !below.is_empty() && !stays {
                return Err(NoPlace::Impossible(format!(
                    "{} is a mount point within {shown}, a tree with it cannot be exchanged: unmount it, or leave the \
                     files out of the restore and unpack the archive by hand",
                    mount.display()
                )));
            }
            one_by_one = true;
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

    /// The new tree before the exchange, the old one after it.
    pub(super) fn aside(&self) -> PathBuf {
        self.shelter().join("tree")
    }
}

/// What lies at `live` and at `aside` changes places. Inode numbers say which is which: a rename keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Move {
    live: Recorded,
    aside: Recorded,
    /// At `live` before.
    old: Option<u64>,
    /// At `aside` before, at `live` after.
    new: Option<u64>,
}

fn inode(path: impl AsRef<Path>) -> io::Result<Option<u64>> {
    Ok(os::lstat_path(path.as_ref())?.map(|s| s.st_ino))
}

impl Move {
    fn plan(live: PathBuf, aside: PathBuf) -> io::Result<Self> {
        let (old, new) = (inode(&live)?, inode(&aside)?);
        Ok(Self { live: live.into(), aside: aside.into(), old, new })
    }

    /// Whether it was made; fails when neither what was there before nor what should be there after is.
    fn is_made(&self) -> io::Result<bool> {
        match inode(&self.live)? {
            found if found == self.new => Ok(true),
            found if found == self.old => Ok(false),
            _ => Err(io::Error::other(format!(
                "{} was replaced by someone else during the restore",
                Path::new(&self.live).display()
            ))),
        }
    }

    fn make(&self) -> io::Result<()> {
        if self.is_made()? { Ok(()) } else { self.rename(self.old.is_some(), self.new.is_some()) }
    }

    fn undo(&self) -> io::Result<()> {
        if self.is_made()? { self.rename(self.new.is_some(), self.old.is_some()) } else { Ok(()) }
    }

    fn rename(&self, at_live: bool, at_aside: bool) -> io::Result<()> {
        let (live, aside) = (Path::new(&self.live), Path::new(&self.aside));
        let (from, to, flags) = match (at_live, at_aside) {
            (true, true) => (aside, live, RenameFlags::EXCHANGE),
            (false, true) => (aside, live, RenameFlags::NOREPLACE),
            (true, false) => (live, aside, RenameFlags::NOREPLACE),
            (false, false) => return Ok(()),
        };
        let parts = |p: &Path| -> io::Result<_> {
            let (Some(parent), Some(name)) = (p.parent(), p.file_name()) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            Ok((os::open_dir_path(parent)?, name.to_owned()))
        };
        let ((from_dir, from_name), (to_dir, to_name)) = (parts(from)?, parts(to)?);
        rustix::fs::renameat_with(&from_dir, &from_name, &to_dir, &to_name, flags).map_err(|e| {
            let e = io::Error::from(e);
            io::Error::new(e.kind(), format!("{} and {} cannot change places: {e}", from.display(), to.display()))
        })?;
        rustix::fs::fsync(&from_dir)?;
        rustix::fs::fsync(&to_dir)?;
        Ok(())
    }
}

/// Everything that a swap does, in its order. `exchanges` bring the new tree to life; only when all of them are made,
/// `carries` move what the artifact leaves out from the old tree into the new one; then directories whose entries
/// changed get their attributes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    exchanges: Vec<Move>,
    carries: Vec<Move>,
    after_swap: Vec<(Recorded, Attributes)>,
    after_revert: Vec<(Recorded, Attributes)>,
}

impl Journal {
    /// Looks at both trees and writes down what is to be done. `carried` are the paths of [`carried_paths`], and the
    /// directories above them are in the new tree already ([`plan_parents`]); `new_root` are the attributes of the
    /// new tree's root.
    pub(super) fn plan(place: &Place, carried: &[TreePath], new_root: &Attributes) -> io::Result<Self> {
        let (root, aside) = (place.root().to_owned(), place.aside());
        let below = |base: &Path, path: &TreePath| base.join(os::name(path.as_bytes()));
        let (mut after_swap, mut after_revert) = (BTreeMap::new(), BTreeMap::new());
        let mut exchanges = Vec::new();
        if place.one_by_one {
            let mut tops = BTreeSet::new();
            for base in [&root, &aside] {
                let dir = os::open_dir_path(base)?;
                tops.extend(os::names(&dir)?.into_iter().filter_map(|n| TreePath::root().join(&n).ok()));
            }
            for top in tops.iter().filter(|t| !policy::is_shelter(t) && !carried.contains(t)) {
                exchanges.push(Move::plan(below(&root, top), below(&aside, top))?);
            }
            after_swap.insert(root.clone().into_os_string(), new_root.clone());
            after_revert.insert(root.clone().into_os_string(), os::dir_attributes(&root)?);
        } else {
            exchanges.push(Move::plan(root.clone(), aside.clone())?);
        }
        let mut carries = Vec::new();
        for path in carried {
            if place.one_by_one && path.parent().is_some_and(|p| p.is_root()) {
                continue;
            }
            // Planned for after the exchange, when the old tree is the one aside.
            let (old, new) = (inode(below(&aside, path))?, inode(below(&root, path))?);
            carries.push(Move { live: below(&root, path).into(), aside: below(&aside, path).into(), old, new });
            let parent = path.parent().unwrap_or_default();
            let live = below(&root, &parent);
            after_revert.entry(live.clone().into_os_string()).or_insert(os::dir_attributes(&live)?);
            if !(place.one_by_one && parent.is_root()) {
                after_swap.entry(live.into_os_string()).or_insert(os::dir_attributes(&below(&aside, &parent))?);
            }
        }
        Ok(Self {
            exchanges,
            carries,
            after_swap: after_swap.into_iter().collect(),
            after_revert: after_revert.into_iter().collect(),
        })
    }

    /// Whether the new tree is live as a whole.
    pub(super) fn is_exchanged(&self) -> io::Result<bool> {
        for m in &self.exchanges {
            if !m.is_made()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Carries everything through.
    pub(super) fn forward(&self) -> io::Result<()> {
        self.exchanges.iter().try_for_each(Move::make)?;
        self.carries.iter().try_for_each(Move::make)?;
        set_attributes(&self.after_swap)
    }

    /// Takes everything back.
    pub(super) fn backward(&self) -> io::Result<()> {
        // Carries are made after the last exchange and undone before the first: with one exchange open there are none.
        if self.is_exchanged()? {
            self.carries.iter().rev().try_for_each(Move::undo)?;
        }
        self.exchanges.iter().rev().try_for_each(Move::undo)?;
        set_attributes(&self.after_revert)
    }
}

fn set_attributes(of: &[(Recorded, Attributes)]) -> io::Result<()> {
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
