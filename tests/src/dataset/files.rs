//! The tree of a controller, in both layouts, with links, odd names, modes and times.

use std::{
    ffi::OsStr,
    fs::{self, File, Permissions},
    io::{Seek, SeekFrom, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, lchown, symlink},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::{Numbers, Size};

/// The controller that the data is of.
pub const CONTROLLER_UUID: &str = "6f1c2d8e-3b7a-4c55-9a0e-2f4d1b6c7a90";
/// Its cluster.
pub(super) const CLUSTER_ID: &str = "c-9f8e7d6c";

/// Where PrexorCloud keeps its keys: it depends on the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `data/certs`, as in the guide.
    Guide,
    /// `config/security`, as later versions do.
    Later,
}

/// What `controller.yml` says.
#[derive(Debug, Clone)]
pub struct Site {
    /// Where the keys are.
    pub layout: Layout,
    /// `database.uri`
    pub mongo_uri: String,
    /// `database.database`
    pub database: String,
    /// `redis.uri`; without one the profile is MongoDB alone.
    pub valkey_uri: Option<String>,
}

/// Writes the tree. As root, most of it belongs to another user.
///
/// # Errors
/// When it cannot be written.
pub fn files(root: &Path, site: &Site, size: Size) -> Result<()> {
    let mut tree = Tree { root, numbers: Numbers::new(0xf11e) };
    tree.config(site)?;
    tree.modules(size)?;
    tree.templates(size)?;
    tree.oddities()?;
    tree.write("logs/controller.log", 0o640, b"INFO state.store=available\n")?;
    tree.own_and_age()
}

/// Writes `config/controller.yml`, from which an agent learns where everything is.
///
/// # Errors
/// When it cannot be written.
pub fn write_controller_yml(root: &Path, site: &Site) -> Result<()> {
    let redis = site.valkey_uri.as_ref().map_or(String::new(), |uri| format!("redis:\n  uri: \"{uri}\"\n"));
    let text = format!(
        "# Written by the installer.\nuuid: {CONTROLLER_UUID}\nhttp:\n  port: 8080\ndatabase:\n  uri: \"{}\"\n  \
         database: {}\n{redis}cluster:\n  id: {CLUSTER_ID}\nsecurity:\n  jwtSecret: {}\nmodules:\n  directory: \
         data/modules\n  dataDirectory: data/modules\n",
        site.mongo_uri,
        site.database,
        Numbers::new(0x7017).hex::<32>()
    );
    let path = root.join("config/controller.yml");
    fs::create_dir_all(root.join("config"))?;
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o640))?)
}

/// Removes the tree but not the runtime logs; leaves things that no backup knows, and no `controller.yml`.
///
/// # Errors
/// When it cannot be changed.
pub fn destroy_files(root: &Path) -> Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_name() != "logs" {
            if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
        }
    }
    fs::create_dir_all(root.join("config"))?;
    fs::write(root.join("config/logback.xml"), "<other/>\n")?;
    fs::write(root.join("born-after-the-backup"), "x")?;
    fs::set_permissions(root, Permissions::from_mode(0o777))?;
    fs::create_dir_all(root.join("logs"))?;
    Ok(fs::write(root.join("logs/after.log"), "written after the backup\n")?)
}

struct Tree<'a> {
    root: &'a Path,
    numbers: Numbers,
}

impl Tree<'_> {
    fn write(&self, name: impl AsRef<Path>, mode: u32, content: &[u8]) -> Result<PathBuf> {
        let path = self.root.join(name);
        fs::create_dir_all(path.parent().unwrap_or(self.root))?;
        fs::write(&path, content).with_context(|| path.display().to_string())?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        Ok(path)
    }

    fn directory(&self, name: &str, mode: u32) -> Result<()> {
        let path = self.root.join(name);
        fs::create_dir_all(&path)?;
        Ok(fs::set_permissions(path, Permissions::from_mode(mode))?)
    }

    fn config(&mut self, site: &Site) -> Result<()> {
        let certs = match site.layout {
            Layout::Guide => "data/certs",
            Layout::Later => "config/security",
        };
        write_controller_yml(self.root, site)?;
        self.write("config/logback.xml", 0o644, b"<configuration/>\n")?;
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", self.numbers.hex::<300>());
        self.write(format!("{certs}/ca.pem"), 0o644, pem.as_bytes())?;
        let key: [u8; 1_200] = self.numbers.bytes();
        self.write(format!("{certs}/ca.p12"), 0o600, &key)?;
        let key: [u8; 1_300] = self.numbers.bytes();
        self.write(format!("{certs}/server.p12"), 0o400, &key)?;
        self.directory(certs, 0o700)
    }

    fn modules(&mut self, size: Size) -> Result<()> {
        for module in ["stats-1.4.0", "economy-0.9.2"] {
            // The signature of a zip, and content that does not compress.
            let mut jar = b"PK\x03\x04".to_vec();
            jar.resize(size.jar.max(4), 0);
            self.numbers.fill(&mut jar[4..]);
            self.write(format!("data/modules/{module}.jar"), 0o644, &jar)?;
        }
        self.write("data/modules/stats/state.json", 0o660, b"{\"rows\":[]}")?;
        // A database file of a module: mostly holes.
        let sparse = self.write("data/modules/stats/cache.db", 0o600, b"begin")?;
        let mut file = File::options().write(true).open(sparse)?;
        file.seek(SeekFrom::Start(8 << 20))?;
        file.write_all(b"middle")?;
        Ok(file.set_len(20 << 20)?)
    }

    fn templates(&mut self, size: Size) -> Result<()> {
        for n in 0..size.templates {
            let group = self.numbers.pick(&["lobby", "bedwars", "skywars"]);
            let words = self.numbers.below(200) + 1;
            let text = self.numbers.words(words);
            self.write(format!("templates/{group}/plugins/p{}/config-{n}.yml", n % 17), 0o644, text.as_bytes())?;
        }
        Ok(())
    }

    fn oddities(&mut self) -> Result<()> {
        let at = |name: &str| self.root.join(name);
        self.write("templates/base/server.properties", 0o644, b"motd=base\n")?;
        // One file under three names, in two directories.
        for name in ["templates/lobby/server.properties", "templates/server.properties"] {
            fs::create_dir_all(at("templates/lobby"))?;
            fs::hard_link(at("templates/base/server.properties"), at(name))?;
        }
        symlink("../base/server.properties", at("templates/lobby/linked.properties"))?;
        symlink("base", at("templates/current"))?;
        symlink("/nowhere/to/be/found", at("templates/dangling"))?;
        symlink("x".repeat(150), at("templates/long-target"))?;
        self.directory("data/empty", 0o755)?;
        self.directory("data/shared", 0o2775)?;
        self.directory("data/drop", 0o1777)?;
        self.write("data/empty.txt", 0o644, b"")?;
        self.write("data/closed", 0o000, b"nobody may read this\n")?;
        self.write("data/start.sh", 0o4755, b"#!/bin/sh\n")?;
        let long = format!("{}/{}/{}.txt", "d".repeat(120), "e".repeat(120), "f".repeat(200));
        self.write(Path::new("data/names").join(long), 0o644, b"deep\n")?;
        for name in [
            &b"-leading-dash"[..],
            b"new\nline",
            b"not utf-8 \xff\xfe",
            b" spaces ",
            b"back\\slash",
            "ünïcode 日本".as_bytes(),
        ] {
            self.write(Path::new("data/names").join(OsStr::from_bytes(name)), 0o644, b"name\n")?;
        }
        // Not every file system of a scratch machine has attributes.
        let attributed = self.write("data/attributed", 0o644, b"see attributes\n")?;
        let _ = xattr::set(attributed, "user.prexor.origin", b"module\0stats");
        Ok(())
    }

    /// Gives owners and times, from the leaves up, since writing changes those of directories.
    fn own_and_age(&mut self) -> Result<()> {
        let root = self.root.to_owned();
        self.settle(&root)
    }

    fn settle(&mut self, path: &Path) -> Result<()> {
        let meta = fs::symlink_metadata(path)?;
        if meta.is_dir() {
            let mut children: Vec<PathBuf> =
                fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
            children.sort();
            for child in children {
                self.settle(&child)?;
            }
        }
        if rustix::process::geteuid().is_root() {
            // 1500 is an id without a name on most machines, as it is where a backup is unpacked elsewhere.
            let root_only = path.file_name() == Some(OsStr::new("logback.xml"));
            let (uid, gid) = if root_only { (0, 0) } else { (1_500, 1_500 + self.numbers.below(2) as u32) };
            lchown(path, Some(uid), Some(gid))?;
            if !meta.is_symlink() {
                // A change of owner takes the set-id bits away.
                fs::set_permissions(path, Permissions::from_mode(meta.permissions().mode() & 0o7777))?;
            }
        }
        // From 1970 on, with nanoseconds.
        let seconds = (self.numbers.next() % 1_750_000_000) as i64;
        let mtime = Timespec { tv_sec: seconds, tv_nsec: (self.numbers.next() % 1_000_000_000) as _ };
        let times = Timestamps { last_access: mtime, last_modification: mtime };
        Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}
