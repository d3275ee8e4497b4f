//! The exchange of two trees, or of parts of them, as a journal of renames: each can be told by inode numbers to be done
//! or not, so after a crash anywhere the journal is carried through, forwards or backwards.
//!
//! Knows where the two trees lie and what is carried from one to the other; nothing of archives.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use prexor_format::tree::{Attributes, TreePath};
use rustix::fs::{FileType, RenameFlags};
use serde::{Deserialize, Serialize};

use super::{
    os,
    part::Part,
    place::{Place, Recorded, set_attributes},
    policy,
};

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
    /// Looks at both trees and writes down what is to be done. `carried` are the paths of
    /// [`carried_paths`](super::carry::carried_paths), and the directories above them are in the new tree already
    /// ([`plan_parents`](super::carry::plan_parents)); `new_root` are the attributes of the new tree's root.
    pub(super) fn plan(place: &Place, part: &Part, carried: &[TreePath], new_root: &Attributes) -> io::Result<Self> {
        let (root, aside) = (place.root().to_owned(), place.aside());
        let (mut after_swap, mut after_revert) = (BTreeMap::new(), BTreeMap::new());
        let mut exchanges = Vec::new();
        match swapped_paths(place, part)? {
            Some(paths) => {
                for path in paths {
                    exchanges.push(Move::plan(below(&root, &path), below(&aside, &path))?);
                    if let Some(parent) = path.parent() {
                        let parent = below(&root, &parent);
                        let attributes = os::dir_attributes(&parent)?;
                        after_swap.insert(parent.clone().into_os_string(), attributes.clone());
                        after_revert.insert(parent.into_os_string(), attributes);
                    }
                }
            }
            None if place.one_by_one => {
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
            }
            None => exchanges.push(Move::plan(root.clone(), aside.clone())?),
        }
        let mut carries = Vec::new();
        for path in carried {
            if part.paths().is_none() && place.one_by_one && path.parent().is_some_and(|p| p.is_root()) {
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

fn below(base: &Path, path: &TreePath) -> PathBuf {
    if path.is_root() { base.to_owned() } else { base.join(os::name(path.as_bytes())) }
}

/// What is exchanged for a part: its paths, or where directories above one are not live, the topmost of those. `None`
/// for everything.
///
/// # Errors
/// When something else than a directory is live above one: no symbolic link is ever followed.
pub(super) fn swapped_paths(place: &Place, part: &Part) -> io::Result<Option<BTreeSet<TreePath>>> {
    let Some(paths) = part.paths() else { return Ok(None) };
    let mut out = BTreeSet::new();
    for path in paths {
        let mut at = TreePath::root();
        for name in path.components() {
            match os::lstat_path(&below(place.root(), &at))?.map(|s| FileType::from_raw_mode(s.st_mode)) {
                None => break,
                Some(FileType::Directory) => at = at.join(name).map_err(io::Error::other)?,
                Some(_) => {
                    return Err(io::Error::other(format!(
                        "'{at}' is a directory in the backup and is none here, it is not followed to '{path}': select \
                         '{at}' to have it replaced, or move it away"
                    )));
                }
            }
        }
        out.insert(at);
    }
    Ok(Some(out))
}
