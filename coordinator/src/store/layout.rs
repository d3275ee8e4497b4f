//! The one place that knows where in the store a file of a backup lies: `<id>/<path>`.

use object_store::path::Path;
use prexor_format::{id::BackupId, manifest::is_plain_path};
use prexor_proto::reason::Reason;
use uuid::Uuid;

use crate::error::Error;

/// The longest name of one component, the limit of the file systems we write to.
const MAX_COMPONENT: usize = 255;

/// Refuses every path that does not name a file below a backup's directory (see [`is_plain_path`]), that no file system
/// takes, or that ends in `#<digits>` as the store's temporary files do.
///
/// # Errors
/// `DAMAGED`: whoever sent it is broken.
pub fn check_path(path: &str) -> Result<(), Error> {
    let temporary = path.rsplit_once('#').is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    if is_plain_path(path) && path.split('/').all(|c| c.len() <= MAX_COMPONENT) && !temporary {
        return Ok(());
    }
    Err(Error::new(Reason::Damaged, format!("'{}' is not a path within a backup", path.escape_default())))
}

/// The key of a file. (`Path::from` would escape what is escaped already: `a%2Fb` would become `a%252Fb`.)
pub(super) fn key(id: &BackupId, path: &str) -> Result<Path, Error> {
    check_path(path)?;
    Path::parse(format!("{id}/{path}"))
        .map_err(|e| Error::new(Reason::Damaged, format!("'{path}' cannot be the name of a stored file: {e}")))
}

/// Under which key a file is written until it is whole, where its own name is so long that the store's temporary
/// suffix does not fit (the metadata of a collection with a long name).
pub(super) fn provisional_key(id: &BackupId, path: &str) -> Option<Path> {
    let name = path.rsplit('/').next().unwrap_or(path);
    (name.len() > MAX_COMPONENT - 8).then(|| Path::from_iter([id.to_string(), Uuid::new_v4().simple().to_string()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_pass() {
        for good in ["mongo/prexorcloud/a%2Fb.bson.gz", "valkey/dump.rdb", "a b+c", "ä", "a#1b", "a#", "manifest.json"]
        {
            assert!(check_path(good).is_ok(), "{good}");
        }
        let (long, deep) = ("x".repeat(256), "a/".repeat(600) + "b");
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "a//b",
            "a/",
            "./a",
            "a/./b",
            "..",
            "../a",
            "a/../b",
            "a/..",
            "a\\b",
            "a\nb",
            "a\0b",
            "mongo/x.bson#1",
            &long,
            &deep,
        ] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn keys_keep_the_names_of_dumps() {
        let id = "bk-2026-05-10-001".parse().unwrap();
        assert_eq!(key(&id, "mongo/db/a%2Fb.bson.gz").unwrap().as_ref(), "bk-2026-05-10-001/mongo/db/a%2Fb.bson.gz");
    }
}
