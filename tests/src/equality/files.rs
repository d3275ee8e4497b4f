//! A tree as paths with type, mode, owner, times, content and links.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::{Aspects, Things};

/// Reads every file below `root`, and the root itself as `.`, without the top-level entries named by `excluded`.
///
/// # Errors
/// When something cannot be read.
pub fn files(root: &Path, excluded: &[&str]) -> Result<Things> {
    let mut tree = Tree { root, things: Things::new(), links: BTreeMap::new() };
    tree.visit(root, excluded)?;
    // Hard links are told by the first of their names.
    for names in tree.links.into_values().filter(|names| names.len() > 1) {
        for name in &names {
            if let Some(aspects) = tree.things.get_mut(name) {
                aspects.insert("hard links".into(), names.join(" = "));
            }
        }
    }
    Ok(tree.things)
}

struct Tree<'a> {
    root: &'a Path,
    things: Things,
    links: BTreeMap<(u64, u64), Vec<String>>,
}

impl Tree<'_> {
    fn visit(&mut self, path: &Path, excluded: &[&str]) -> Result<()> {
        let meta = fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
        let below = path.strip_prefix(self.root).unwrap_or(path);
        let name = if below.as_os_str().is_empty() {
            ".".to_owned()
        } else {
            below.as_os_str().as_bytes().escape_ascii().to_string()
        };
        if meta.is_file() && meta.nlink() > 1 {
            self.links.entry((meta.dev(), meta.ino())).or_default().push(name.clone());
        }
        self.things.insert(name, aspects(path, &meta).with_context(|| path.display().to_string())?);
        if meta.is_dir() {
            let mut children: Vec<PathBuf> =
                fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
            children.sort();
            for child in children {
                if !child.file_name().is_some_and(|name| excluded.iter().any(|e| name == *e)) {
                    self.visit(&child, &[])?;
                }
            }
        }
        Ok(())
    }
}

fn aspects(path: &Path, meta: &Metadata) -> Result<Aspects> {
    let kind = meta.file_type();
    let mut aspects = Aspects::from([
        ("mode".into(), format!("{:04o}", meta.mode() & 0o7777)),
        ("owner".into(), format!("{}:{}", meta.uid(), meta.gid())),
        ("mtime".into(), format!("{}.{:09}", meta.mtime(), meta.mtime_nsec())),
    ]);
    let name = if kind.is_dir() {
        "directory"
    } else if kind.is_symlink() {
        aspects.insert("target".into(), fs::read_link(path)?.as_os_str().as_bytes().escape_ascii().to_string());
        "symbolic link"
    } else if kind.is_file() {
        let mut hash = Hashing(Sha256::new());
        io::copy(&mut File::open(path)?, &mut hash)?;
        aspects.insert("content".into(), format!("{} bytes, sha256 {}", meta.len(), hex::encode(hash.0.finalize())));
        "file"
    } else if kind.is_fifo() {
        "fifo"
    } else if kind.is_socket() {
        "socket"
    } else {
        "device"
    };
    aspects.insert("type".into(), name.into());
    for attribute in xattr::list(path)? {
        let attribute = attribute.to_string_lossy().into_owned();
        // Labels of the machine's own policy (`security.*`) are not part of a tree.
        if (attribute.starts_with("user.") || attribute.starts_with("system.posix_acl"))
            && let Some(value) = xattr::get(path, &attribute)?
        {
            aspects.insert(format!("attribute {attribute}"), value.escape_ascii().to_string());
        }
    }
    Ok(aspects)
}

/// A hash that can be copied into.
struct Hashing(Sha256);

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::equality::differences;

    #[test]
    fn modes_times_links_and_content_count() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("logs")).unwrap();
        fs::write(at("a"), "1").unwrap();
        fs::hard_link(at("a"), at("b")).unwrap();
        symlink("a", at("c")).unwrap();
        let before = files(dir.path(), &["logs"]).unwrap();
        assert_eq!(before.len(), 4);
        assert_eq!(before["b"]["hard links"], "a = b");
        fs::write(at("logs/x"), "left out").unwrap();
        assert!(differences("files", &before, &files(dir.path(), &["logs"]).unwrap()).is_empty());
        fs::remove_file(at("b")).unwrap();
        fs::copy(at("a"), at("b")).unwrap();
        fs::set_permissions(at("a"), fs::Permissions::from_mode(0o600)).unwrap();
        let found = differences("files", &before, &files(dir.path(), &["logs"]).unwrap()).join("\n");
        for part in
            ["files .: mtime", "files a: hard links was a = b, is nothing", "files a: mode was", "files b: mtime"]
        {
            assert!(found.contains(part), "{part} is not in\n{found}");
        }
    }
}
