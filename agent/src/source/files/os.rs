//! File system calls that never follow a symbolic link: opening below a directory, reading and setting attributes,
//! removing whole trees. Knows paths and descriptors, nothing of backups.

use std::{
    ffi::OsStr,
    fs, io,
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    path::{Component, Path},
};

use prexor_format::tree::{Attributes, Mtime, TreePath, Xattr};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, CWD, Dir, Gid, Mode, OFlags, RawMode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags},
    io::Errno,
};

/// Attributes that belong to a host or a mount and not to the tree.
const HOST_XATTRS: [&[u8]; 3] = [b"trusted.overlay.", b"security.evm", b"security.ima"];

/// The most bytes of names and values of one entry's extended attributes that are kept; a tar entry holds 1 MiB.
const MAX_XATTRS: usize = 512 << 10;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

/// Device and inode.
pub(super) type FileId = (u64, u64);

pub(super) fn file_id(stat: &Stat) -> FileId {
    (stat.st_dev, stat.st_ino)
}

pub(super) fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

/// Opens the directory `name` in `at`, which must not be a symbolic link.
pub(super) fn open_dir(at: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(at, self::name(name), DIRECTORY, Mode::empty())
}

/// Opens a directory by a path with no symbolic link in it.
pub(super) fn open_dir_path(path: &Path) -> io::Result<OwnedFd> {
    let mut dir = rustix::fs::openat(CWD, if path.is_absolute() { "/" } else { "." }, DIRECTORY, Mode::empty())?;
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => dir = rustix::fs::openat(&dir, name, DIRECTORY, Mode::empty())?,
            Component::ParentDir | Component::Prefix(_) => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    Ok(dir)
}

/// The stat of what is at a path, or `None` when nothing is. Nothing on the way may be a symbolic link.
pub(super) fn lstat_path(path: &Path) -> io::Result<Option<Stat>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let found =
        open_dir_path(parent).and_then(|dir| Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)).map(Some);
    match found {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other,
    }
}

/// The names in a directory, sorted, without `.` and `..`.
pub(super) fn names(dir: impl AsFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for item in Dir::read_from(dir)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A place in a tree that goes down and up again with one descriptor, so that depth costs none.
#[derive(Debug)]
pub(super) struct Cursor {
    dir: OwnedFd,
    above: Vec<FileId>,
}

impl Cursor {
    /// At the top of a tree.
    pub(super) fn new(dir: OwnedFd) -> Self {
        Self { dir, above: Vec::new() }
    }

    /// At `path` below `root`.
    pub(super) fn descend(root: OwnedFd, path: &TreePath) -> io::Result<Self> {
        let mut cursor = Self::new(root);
        for name in path.components() {
            let dir = open_dir(&cursor.dir, name)?;
            cursor.enter(dir)?;
        }
        Ok(cursor)
    }

    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(super) fn is_top(&self) -> bool {
        self.above.is_empty()
    }

    /// Goes into a directory that was opened in the current one.
    pub(super) fn enter(&mut self, dir: OwnedFd) -> io::Result<()> {
        self.above.push(file_id(&rustix::fs::fstat(&self.dir)?));
        self.dir = dir;
        Ok(())
    }

    /// Goes up and hands back the directory left. Fails, and stays, when it was moved elsewhere meanwhile.
    pub(super) fn leave(&mut self) -> io::Result<OwnedFd> {
        let up = rustix::fs::openat(&self.dir, "..", DIRECTORY, Mode::empty())?;
        if self.above.last() != Some(&file_id(&rustix::fs::fstat(&up)?)) {
            return Err(io::Error::other("the directory was moved away"));
        }
        self.above.pop();
        Ok(std::mem::replace(&mut self.dir, up))
    }
}

/// Extended attributes, and in words which could not be had.
pub(super) type Xattrs = (Vec<Xattr>, Option<String>);

/// Something whose attributes are read or set.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target<'a> {
    /// Open.
    Fd(BorrowedFd<'a>),
    /// A name in a directory; not followed if it is a symbolic link.
    Name(BorrowedFd<'a>, &'a [u8]),
}

impl Target<'_> {
    /// There are no calls for attributes relative to a directory: the way leads through `/proc`.
    fn proc_path(&self) -> Vec<u8> {
        match self {
            Self::Fd(fd) => format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes(),
            Self::Name(dir, name) => [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat(),
        }
    }

    fn xattr_names(&self) -> rustix::io::Result<Vec<Vec<u8>>> {
        let list = sized(|buf| match self {
            Self::Fd(fd) => rustix::fs::flistxattr(fd, buf),
            Self::Name(..) => rustix::fs::llistxattr(name(&self.proc_path()), buf),
        })?;
        Ok(list.split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect())
    }

    fn xattr(&self, attribute: &[u8]) -> rustix::io::Result<Vec<u8>> {
        sized(|buf| match self {
            Self::Fd(fd) => rustix::fs::fgetxattr(fd, name(attribute), buf),
            Self::Name(..) => rustix::fs::lgetxattr(name(&self.proc_path()), name(attribute), buf),
        })
    }

    /// The extended attributes that belong to the tree.
    pub(super) fn xattrs(&self) -> Xattrs {
        let names = match self.xattr_names() {
            Ok(names) => names,
            Err(Errno::OPNOTSUPP) => return (Vec::new(), None),
            Err(e) => return (Vec::new(), Some(format!("extended attributes not captured: {}", io::Error::from(e)))),
        };
        let (mut out, mut size, mut problem) = (Vec::new(), 0, None);
        for name in names.into_iter().filter(|n| !HOST_XATTRS.iter().any(|h| n.starts_with(h))) {
            match self.xattr(&name) {
                Ok(value) if size + name.len() + value.len() <= MAX_XATTRS => {
                    size += name.len() + value.len();
                    out.push(Xattr { name, value });
                }
                Ok(_) => problem = Some("some extended attributes not captured: too large".to_owned()),
                Err(Errno::NODATA) => {}
                Err(e) => problem = Some(format!("some extended attributes not captured: {}", io::Error::from(e))),
            }
        }
        out.sort();
        (out, problem)
    }

    /// Sets owner, extended attributes, mode and time, in the order in which none undoes another: a change of owner
    /// clears setuid and capabilities.
    pub(super) fn apply(&self, a: &Attributes, is_symlink: bool) -> Result<(), String> {
        let said = |what: &str, e: Errno| format!("cannot set its {what}: {}", io::Error::from(e));
        let (uid, gid) = (Some(Uid::from_raw(a.uid)), Some(Gid::from_raw(a.gid)));
        match self {
            Self::Fd(fd) => rustix::fs::fchown(fd, uid, gid),
            Self::Name(dir, n) => rustix::fs::chownat(dir, name(n), uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        }
        .map_err(|e| said(&format!("owner {}:{}", a.uid, a.gid), e))?;
        self.set_xattrs(&a.xattrs)?;
        let mode = Mode::from_raw_mode(a.mode as RawMode);
        match self {
            Self::Fd(fd) => rustix::fs::fchmod(fd, mode),
            Self::Name(..) if is_symlink => Ok(()),
            Self::Name(dir, n) => rustix::fs::chmodat(dir, name(n), mode, AtFlags::empty()),
        }
        .map_err(|e| said(&format!("mode {:o}", a.mode), e))?;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: a.mtime.seconds, tv_nsec: a.mtime.nanos.into() },
        };
        match self {
            Self::Fd(fd) => rustix::fs::futimens(fd, &times),
            Self::Name(dir, n) => rustix::fs::utimensat(dir, name(n), &times, AtFlags::SYMLINK_NOFOLLOW),
        }
        .map_err(|e| said("time", e))
    }

    /// Brings the set of extended attributes to exactly this one; those of the host stay.
    fn set_xattrs(&self, wanted: &[Xattr]) -> Result<(), String> {
        let path = self.proc_path();
        let (present, _) = self.xattrs();
        let said = |x: &[u8], e: Errno| {
            format!("cannot set its attribute {}: {}", String::from_utf8_lossy(x), io::Error::from(e))
        };
        for x in present.iter().filter(|p| wanted.iter().all(|w| w.name != p.name)) {
            match self {
                Self::Fd(fd) => rustix::fs::fremovexattr(fd, name(&x.name)),
                Self::Name(..) => rustix::fs::lremovexattr(name(&path), name(&x.name)),
            }
            .map_err(|e| said(&x.name, e))?;
        }
        for x in wanted.iter().filter(|w| !present.contains(w)) {
            match self {
                Self::Fd(fd) => rustix::fs::fsetxattr(fd, name(&x.name), &x.value, XattrFlags::empty()),
                Self::Name(..) => rustix::fs::lsetxattr(name(&path), name(&x.name), &x.value, XattrFlags::empty()),
            }
            .map_err(|e| said(&x.name, e))?;
        }
        Ok(())
    }
}

/// Calls with a growing buffer: sizes may change between asking and reading.
fn sized(mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buf = vec![0; 4 << 10];
    loop {
        match call(&mut buf) {
            Ok(n) => {
                buf.truncate(n);
                return Ok(buf);
            }
            Err(Errno::RANGE) if buf.len() < 1 << 20 => buf.resize(buf.len() * 4, 0),
            Err(e) => return Err(e),
        }
    }
}

/// What a stat says about the attributes; extended ones are read apart.
pub(super) fn attributes(stat: &Stat, xattrs: Vec<Xattr>) -> Attributes {
    Attributes { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, mtime: mtime(stat), xattrs }
}

pub(super) fn mtime(stat: &Stat) -> Mtime {
    // The kernel keeps nanoseconds below 10^9, which fits.
    Mtime { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

/// The time of the last change of anything about it.
pub(super) fn ctime(stat: &Stat) -> Mtime {
    Mtime { seconds: stat.st_ctime, nanos: u32::try_from(stat.st_ctime_nsec).unwrap_or(0) }
}

/// The attributes of a directory at a path.
pub(super) fn dir_attributes(path: &Path) -> io::Result<Attributes> {
    let dir = open_dir_path(path)?;
    Ok(attributes(&rustix::fs::fstat(&dir)?, Target::Fd(dir.as_fd()).xattrs().0))
}

/// Removes what is at `path` with everything below it, odd modes and any depth included; fine if nothing is there.
/// Never follows a symbolic link. The caller knows that no mount is below.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(top)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = match open_dir_path(parent) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let mut cursor = Cursor::new(parent);
    let mut pending = vec![vec![top.as_bytes().to_vec()]];
    let mut inside: Vec<Vec<u8>> = Vec::new();
    while let Some(names) = pending.last_mut() {
        let Some(next) = names.pop() else {
            pending.pop();
            if let Some(emptied) = inside.pop() {
                cursor.leave()?;
                gone(rustix::fs::unlinkat(cursor.dir(), name(&emptied), AtFlags::REMOVEDIR))?;
            }
            continue;
        };
        match gone(rustix::fs::unlinkat(cursor.dir(), name(&next), AtFlags::empty())) {
            Ok(()) => {}
            Err(Errno::ISDIR) => {
                let dir = match open_dir(cursor.dir(), &next) {
                    Err(Errno::ACCESS) => {
                        rustix::fs::chmodat(cursor.dir(), name(&next), Mode::RWXU, AtFlags::empty())?;
                        open_dir(cursor.dir(), &next)?
                    }
                    other => other?,
                };
                // Only matters without the privilege to override modes, and only the owner may do it.
                let _ = rustix::fs::fchmod(&dir, Mode::RWXU);
                pending.push(self::names(&dir)?);
                cursor.enter(dir)?;
                inside.push(next);
            }
            Err(e) => return Err(e.into()),
        }
    }
    rustix::fs::fsync(cursor.dir())?;
    Ok(())
}

fn gone(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// The mount points at or below a path, as the kernel names them (proc(5), `mountinfo`).
pub(super) fn mounts_within(path: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let points = table.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4)).map(unescape);
    Ok(points.map(|p| Path::new(name(&p)).to_owned()).filter(|p| p.starts_with(path)).collect())
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code = octal.and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 8).ok());
        (_, rest) = match code {
            Some(byte) => (out.push(byte), &tail[3..]),
            None => (out.push(*first), tail),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_of_any_depth_and_mode_are_removed_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        std::os::unix::fs::symlink(&outside, top.join("link")).unwrap();
        let mut cursor = Cursor::new(open_dir_path(&top).unwrap());
        for _ in 0..3000 {
            rustix::fs::mkdirat(cursor.dir(), "deep", Mode::RWXU).unwrap();
            let next = open_dir(cursor.dir(), b"deep").unwrap();
            cursor.enter(next).unwrap();
        }
        fs::create_dir(top.join("closed")).unwrap();
        fs::write(top.join("closed/file"), "x").unwrap();
        rustix::fs::chmod(top.join("closed"), Mode::empty()).unwrap();
        remove_tree(&top).unwrap();
        assert!(!top.exists() && outside.join("kept").exists());
        remove_tree(&top).unwrap();
    }

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape(br"/srv/a\040b\134c"), br"/srv/a b\c");
        assert_eq!(unescape(br"/a\0"), br"/a\0");
        assert!(mounts_within(Path::new("/")).unwrap().contains(&Path::new("/").to_owned()));
    }
}
