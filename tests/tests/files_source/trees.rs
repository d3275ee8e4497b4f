//! Trees with everything that a file system offers, and a listing of a tree that shares no code with what is tested.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::{Read as _, Seek as _, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt, chown, lchown, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_OMIT};
use sha2::{Digest as _, Sha256};

/// Path and description of every entry, `logs` at the top left out.
pub(crate) type Listing = BTreeMap<PathBuf, String>;

/// Lists a tree: kind, mode, owner, time, target, extended attributes, content, and which names are one file.
pub(crate) fn list(root: &Path) -> Listing {
    let (mut out, mut names) = (Listing::new(), BTreeMap::<(u64, u64), PathBuf>::new());
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let relative = path.strip_prefix(root).unwrap().to_owned();
        if relative == Path::new("logs") {
            continue;
        }
        let m = fs::symlink_metadata(&path).unwrap();
        let mut line = format!("{:o} {}:{} {}.{:09}", m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec());
        let mut xattrs: Vec<_> = xattr::list(&path).map(Iterator::collect).unwrap_or_default();
        xattrs.sort();
        for name in xattrs {
            line += &format!(" {}={:?}", name.display(), xattr::get(&path, &name).unwrap());
        }
        if m.is_symlink() {
            line += &format!(" -> {:?}", fs::read_link(&path).unwrap());
        } else if m.is_file() {
            let mut hasher = Sha256::new();
            let (mut file, mut buf) = (File::open(&path).unwrap(), vec![0; 1 << 16]);
            loop {
                match file.read(&mut buf).unwrap() {
                    0 => break,
                    n => hasher.update(&buf[..n]),
                }
            }
            line += &format!(" {} {}", m.len(), hex::encode(hasher.finalize()));
        } else if m.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        if m.nlink() > 1 && !m.is_dir() {
            let first = names.entry((m.dev(), m.ino())).or_insert_with(|| relative.clone());
            *first = relative.clone().min(first.clone());
        }
        out.insert(relative, line);
    }
    // Names of one file are named by the first of them.
    for path in out.keys().cloned().collect::<Vec<_>>() {
        let m = fs::symlink_metadata(root.join(&path)).unwrap();
        if let Some(first) = names.get(&(m.dev(), m.ino())) {
            *out.get_mut(&path).unwrap() += &format!(" links {} first {}", m.nlink(), first.display());
        }
    }
    out
}

/// What differs, for people.
pub(crate) fn differences(a: &Listing, b: &Listing) -> Vec<String> {
    let mut out = Vec::new();
    for (path, line) in a {
        match b.get(path) {
            Some(other) if other == line => {}
            Some(other) => out.push(format!("{}:\n  {line}\n  {other}", path.display())),
            None => out.push(format!("{} is missing", path.display())),
        }
    }
    out.extend(b.keys().filter(|p| !a.contains_key(*p)).map(|p| format!("{} is new", p.display())));
    out
}

/// Sets the time of modification of anything, symbolic links included.
pub(crate) fn touch(path: &Path, seconds: i64, nanos: i64) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A controller's root with a `controller.yml` and logs.
pub(crate) fn plain(root: &Path, uuid: &str) {
    for dir in ["config/security", "data/modules", "data/certs", "templates/lobby", "logs"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("config/controller.yml"), format!("uuid: {uuid}\ncluster: {{ id: c-1 }}\n")).unwrap();
    fs::write(root.join("data/modules/stats.jar"), pseudo_random(40_000, 7)).unwrap();
    fs::write(root.join("templates/lobby/server.properties"), "motd=hello\n").unwrap();
    fs::write(root.join("logs/controller.log"), "old log\n").unwrap();
}

/// [`plain`], and everything that is rare: what a restore could lose.
pub(crate) fn rich(root: &Path, uuid: &str) {
    plain(root, uuid);
    fs::create_dir(root.join("odd")).unwrap();
    let odd = |name: &[u8]| root.join("odd").join(OsStr::from_bytes(name));
    let write = |name: &[u8], content: &[u8]| {
        fs::write(odd(name), content).unwrap();
        odd(name)
    };
    for size in [0, 1, 511, 512, 513, 300_000, 3 << 20] {
        write(format!("size-{size}").as_bytes(), &pseudo_random(size, size as u64));
    }
    write(b"not utf-8 \xff\xfe", b"x");
    write("ümlaut und 空白".as_bytes(), b"x");
    write(b"new\nline and \\ and \"", b"x");
    write(&[b'n'; 255], b"x");
    write(&[0xc3; 255], b"x");
    fs::create_dir(odd(&[b'd'; 255])).unwrap();
    fs::write(odd(&[b'd'; 255]).join("f".repeat(255)), "x").unwrap();
    fs::create_dir(odd(b"empty directory")).unwrap();
    let mut deep = odd(b"deep");
    for _ in 0..300 {
        deep.push("deeper");
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "x").unwrap();

    let setuid = write(b"setuid", b"x");
    chown(&setuid, Some(1234), Some(5678)).unwrap();
    fs::set_permissions(&setuid, PermissionsExt::from_mode(0o6755)).unwrap();
    let closed = write(b"closed", b"secret");
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o000)).unwrap();
    fs::create_dir(odd(b"closed directory")).unwrap();
    fs::write(odd(b"closed directory/file"), "x").unwrap();
    fs::set_permissions(odd(b"closed directory"), PermissionsExt::from_mode(0o000)).unwrap();
    fs::set_permissions(odd(b"empty directory"), PermissionsExt::from_mode(0o1777)).unwrap();
    chown(write(b"large ids", b"x"), Some(3_000_000_000), Some(4_000_000_000)).unwrap();

    symlink("size-1", odd(b"link")).unwrap();
    symlink("/nowhere/at/all", odd(b"dangling")).unwrap();
    symlink("/etc", odd(b"link out")).unwrap();
    symlink("t".repeat(1000), odd(b"long link")).unwrap();
    symlink(OsStr::from_bytes(b"\xff"), odd(b"link not utf-8")).unwrap();
    lchown(odd(b"dangling"), Some(77), Some(78)).unwrap();
    xattr::set(odd(b"dangling"), "trusted.note", b"on a link").unwrap();
    fs::hard_link(odd(b"size-513"), root.join("data/first name of size-513")).unwrap();
    fs::hard_link(odd(b"size-513"), odd(b"deep/hard")).unwrap();
    fs::hard_link(odd(&[b'n'; 255]), odd(b"zz link to a long name")).unwrap();

    xattr::set(odd(b"size-1"), "user.origin", b"line\nbreak = and \xff\0").unwrap();
    xattr::set(odd(b"size-1"), "user.with=sign", b"").unwrap();
    xattr::set(odd(b"size-0"), "user.large", &pseudo_random(3000, 3)).unwrap();
    xattr::set(odd(b"empty directory"), "user.on a directory", b"1").unwrap();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr::set(odd(b"size-512"), "security.capability", &capability).unwrap();
    xattr::set(odd(b"size-511"), "system.posix_acl_access", &acl()).unwrap();
    xattr::set(odd(b"empty directory"), "system.posix_acl_default", &acl()).unwrap();

    rustix::fs::mknodat(CWD, odd(b"pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    drop(UnixListener::bind(odd(b"socket")).unwrap());

    for (name, seconds, nanos) in
        [(&b"size-0"[..], 1, 1), (b"size-1", -1, 999_999_999), (b"link", 1_000_000_000, 123_456_789), (b"pipe", 0, 0)]
    {
        touch(&odd(name), seconds, nanos);
    }
    touch(&root.join("odd"), 1_234_567_890, 987_654_321);
    touch(root, 1_234_567_891, 0);
}

/// user::rw-, user:1000:r--, group::r--, mask::r--, other::--- in the kernel's encoding (linux/posix_acl_xattr.h).
fn acl() -> Vec<u8> {
    let mut out = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(1u16, 6u16, u32::MAX), (2, 4, 1000), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
    {
        out.extend(tag.to_le_bytes());
        out.extend(permissions.to_le_bytes());
        out.extend(id.to_le_bytes());
    }
    out
}

/// Bytes that do not compress, always the same for a seed.
pub(crate) fn pseudo_random(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// Does one thing after the other to a tree until `stop` says so: grows, shrinks, replaces, removes, renames.
pub(crate) fn unrest(root: &Path, stop: impl Fn() -> bool) {
    let dir = root.join("restless");
    fs::create_dir_all(&dir).unwrap();
    let begin = SystemTime::now();
    for step in 0u64.. {
        if stop() || begin.elapsed().unwrap_or_default() > Duration::from_secs(60) {
            break;
        }
        let file = dir.join(format!("f{}", step % 17));
        let other = dir.join(format!("d{}", step % 5));
        // Whatever is in the way of one step was left by another.
        let _ = match step % 7 {
            0 => fs::write(&file, pseudo_random(200_000, step)),
            1 => fs::OpenOptions::new().append(true).open(&file).and_then(|mut f| f.write_all(&[b'+'; 70_000])),
            2 => fs::OpenOptions::new().write(true).open(&file).and_then(|f| f.set_len(1000)),
            3 => fs::remove_file(&file),
            4 => fs::create_dir(&other).and_then(|()| fs::write(other.join("inner"), "x")),
            5 => fs::rename(&other, root.join(format!("moved{}", step % 3))),
            _ => fs::remove_dir_all(root.join(format!("moved{}", step % 3))).and_then(|()| symlink("/etc", &file)),
        };
        if step % 50 == 0 {
            let mut f = File::create(dir.join("rewound")).unwrap();
            f.write_all(b"again").unwrap();
            f.rewind().unwrap();
        }
    }
}
