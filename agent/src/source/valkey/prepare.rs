//! The staged file, verified and laid beside the live one, in all the places where the server will look for it.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    path::Path,
};

use prexor_format::rdb::Summary;

use super::{
    SourceError,
    capture::sum_up,
    place::{Place, sync},
    site::{Aof, Site},
    verify, versions,
};
use crate::restore_unit::RestoreUnit;

/// What must stay free on the server's disk.
const RESERVE: u64 = 16 << 20;

/// Lays everything into `incoming`.
pub(super) fn lay_beside(site: &Site, unit: &RestoreUnit) -> Result<(), SourceError> {
    let place = Place::new(site, unit);
    let (stored, contents) = verify::described(unit)?;
    versions::loadable(contents.rdb_version, &site.server_name, &site.server_version)?;
    let copies = if site.append_only { 2 } else { 1 };
    let needed = stored.size_bytes.saturating_mul(copies).saturating_add(RESERVE);
    if let Some(free) = site.free_bytes().filter(|free| *free < needed) {
        return Err(SourceError::NoSpace(format!(
            "the restore needs {needed} bytes in {}, {free} are free: make room there",
            site.dir.display()
        )));
    }
    place.discard()?; // of an attempt that was cut off
    let make_dirs = || {
        DirBuilder::new().mode(0o700).create(place.work())?;
        DirBuilder::new().mode(0o700).create(place.work().join("incoming"))
    };
    make_dirs().map_err(|e| place.failed("making", place.work(), &e))?;

    let rdb = place.incoming(&site.rdb);
    verified_copy(unit, &rdb, &place)?;
    let owner = Owner::of(&site.rdb_path(), &site.dir, 0o640).map_err(|e| place.failed("looking at", &site.dir, &e))?;
    owner.give(&rdb).map_err(|e| place.failed("setting the owner of", &rdb, &e))?;
    if site.append_only {
        let live = site.dir.join(site.aof_name());
        let aof = place.incoming(site.aof_name());
        let lay = || match &site.aof {
            Aof::File(_) => copy(&rdb, &aof, &owner),
            Aof::Directory { prefix, .. } => {
                fs::create_dir(&aof)?;
                let base = format!("{prefix}.1.base.rdb");
                copy(&rdb, &aof.join(&base), &owner)?;
                let manifest = aof.join(format!("{prefix}.manifest"));
                let mut file = File::create_new(&manifest)?;
                writeln!(file, "file {} seq 1 type b", quoted(&base))?;
                file.sync_all()?;
                owner.give(&manifest)?;
                Owner::of(&live, &site.dir, 0o755)?.give(&aof)?;
                sync(&aof)
            }
        };
        lay().map_err(|e| place.failed("writing", &aof, &e))?;
    }
    sync(&place.work().join("incoming"))
        .and_then(|()| sync(place.work()))
        .and_then(|()| sync(&site.dir))
        .map_err(|e| place.failed("writing", place.work(), &e))
}

/// Copies the staged file to `to`, while comparing its bytes and its contents with the manifest.
fn verified_copy(unit: &RestoreUnit, to: &Path, place: &Place<'_>) -> Result<(), SourceError> {
    let failed = |e: io::Error| place.failed("writing", to, &e);
    let sum = |file: &mut dyn Read| sum_up(file, Summary::new(), &unit.progress);
    let (file, found) = verify::bytes(unit, File::create_new(to).map_err(failed)?, &failed, sum)?;
    verify::contents(unit, &found)?;
    file.sync_all().map_err(failed)
}

/// Owner and mode for what the server must be able to read and replace.
struct Owner {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Owner {
    /// Those of `live`; where there is none, the directory's owner and `mode`.
    fn of(live: &Path, dir: &Path, mode: u32) -> io::Result<Self> {
        match fs::metadata(live) {
            Ok(m) => Ok(Self { uid: m.uid(), gid: m.gid(), mode: m.mode() & 0o7777 }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let m = fs::metadata(dir)?;
                Ok(Self { uid: m.uid(), gid: m.gid(), mode })
            }
            Err(e) => Err(e),
        }
    }

    fn give(&self, path: &Path) -> io::Result<()> {
        let now = fs::metadata(path)?;
        if (now.uid(), now.gid()) != (self.uid, self.gid) {
            chown(path, Some(self.uid), Some(self.gid))?;
        }
        fs::set_permissions(path, Permissions::from_mode(self.mode))
    }
}

/// A copy of its own, no link: the server appends to one of the two, and people may overwrite the other in place.
fn copy(from: &Path, to: &Path, owner: &Owner) -> io::Result<()> {
    fs::copy(from, to)?;
    sync(to)?;
    owner.give(to)
}

/// A file's name as the manifest of the append-only files takes it: quoted where it has more than plain characters.
fn quoted(name: &str) -> String {
    if name.bytes().all(|b| b.is_ascii_graphic() && !b"\"'\\".contains(&b)) {
        return name.to_owned();
    }
    let escape = |b: u8| match b {
        b'"' | b'\\' => format!("\\{}", b as char),
        b' '..=b'~' => (b as char).to_string(),
        b => format!("\\x{b:02x}"),
    };
    format!("\"{}\"", name.bytes().map(escape).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_they_must_be() {
        assert_eq!(quoted("appendonly.aof.1.base.rdb"), "appendonly.aof.1.base.rdb");
        assert_eq!(quoted("my \"file\".1.base.rdb"), "\"my \\\"file\\\".1.base.rdb\"");
        assert_eq!(quoted("é"), "\"\\xc3\\xa9\"");
    }
}
