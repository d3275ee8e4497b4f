//! The staged file, verified and laid beside the live one, in all the places where the server will look for it.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    path::Path,
    thread::{self, JoinHandle},
};

use prexor_format::{
    digest::Hasher,
    manifest::{Contents, StoredFile, ValkeyContents},
    rdb::{Entry, Kind, RdbError, RdbSummary, Reader, Summary},
};
use tokio_util::sync::CancellationToken;

use super::{
    SourceError,
    capture::{Tee, sum_up},
    keys::{file_failed, whole_key},
    place::{Place, sync},
    site::{Aof, Site},
    versions,
};
use crate::{arriving::Arriving, restore_unit::RestoreUnit, sink::Progress};

/// Bytes of a file that arrives after which they are brought to the disk.
const SYNC_EVERY: u64 = 32 << 20;

/// What must stay free on the server's disk.
const RESERVE: u64 = 16 << 20;

/// What the artifact's entry in the manifest says: its one file and its contents.
pub(super) fn described(unit: &RestoreUnit) -> Result<(&StoredFile, &ValkeyContents), SourceError> {
    match (&unit.artifact.files[..], &unit.artifact.contents) {
        ([file], Contents::Valkey(contents)) => Ok((file, contents)),
        _ => Err(SourceError::Invalid(format!("artifact {} of the backup is no RDB file", unit.artifact.id))),
    }
}

/// Lays everything into `incoming`.
pub(super) fn lay_beside(site: &Site, unit: &RestoreUnit) -> Result<(), SourceError> {
    let place = Place::new(site, unit);
    let (stored, contents) = described(unit)?;
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
    let (file, found) = verified(unit, File::create_new(to).map_err(failed)?, &failed, sum)?;
    as_described(unit, &found)?;
    file.sync_all().map_err(failed)
}

/// Compares the staged file's bytes and its figures with the manifest, and shows each key; what `each` refuses counts when the
/// file is sound. Its keys' digests are not taken: its own says that they are those of the manifest.
pub(super) fn verify(
    unit: &RestoreUnit,
    mut each: impl FnMut(&Entry<'_>) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let mut outcome = Ok(());
    let shown = |entry: &Entry<'_>| {
        if outcome.is_ok() {
            outcome = each(entry);
        }
    };
    let walk = |file: &mut dyn Read| Figures::of(file, &unit.progress, shown);
    let (_, found) = verified(unit, io::sink(), &|e| SourceError::Failed(e.to_string()), walk)?;
    found.as_described(unit)?;
    outcome
}

/// Has `read` read the staged file, passes it on to `out` and compares its bytes.
fn verified<W: Write, T>(
    unit: &RestoreUnit,
    out: W,
    failed: &dyn Fn(io::Error) -> SourceError,
    read: impl FnOnce(&mut dyn Read) -> Result<T, RdbError>,
) -> Result<(W, T), SourceError> {
    let (stored, _) = described(unit)?;
    let staged = unit.staged(stored);
    let file = File::open(&staged)
        .map_err(|e| SourceError::Failed(format!("the staged {} cannot be read: {e}", staged.display())))?;
    unit.progress.set_subject(&stored.path);
    unit.progress.set_total_bytes(stored.size_bytes);
    let mut hashing = Hashing { file: out, hasher: Hasher::default(), size: 0 };
    let found = passed_on(stored, file, &mut hashing, &unit.progress, failed, read)?;
    if (hashing.size, hashing.hasher.clone().finish()) != (stored.size_bytes, stored.sha256) {
        return Err(damaged(stored, "its SHA-256 differs from the manifest's"));
    }
    Ok((hashing.file, found))
}

/// As [`verify`], of the file while it arrives; lays it where it is staged. Whoever takes it in compares its bytes. `each`
/// is also given all of the key.
pub(super) fn verify_arriving(
    unit: &RestoreUnit,
    arriving: Arriving,
    mut each: impl FnMut(&Entry<'_>, &[u8]) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let stored = described(unit)?.0;
    let (staged, part) = (unit.staged(stored), unit.dir().join("incoming"));
    let failed = |e: io::Error| file_failed("writing", &part, &e);
    let open = File::options().read(true).write(true).create(true).truncate(true).open(&part);
    let file = open.map_err(failed)?;
    let mut outcome = Ok(());
    let shown = |entry: &Entry<'_>| {
        if outcome.is_ok() {
            // What was read was written before.
            outcome = whole_key(entry, &file, &part).and_then(|key| each(entry, &key));
        }
    };
    // What arrives is told by the one who takes it in.
    let quiet = Progress::default();
    let mut early = Early { file: &file, waiting: 0, syncing: None };
    let walk = |file: &mut dyn Read| Figures::of(file, &quiet, shown);
    passed_on(stored, arriving, &mut early, &quiet, &failed, walk)?.as_described(unit)?;
    outcome?;
    let mut lay = || {
        early.synced()?;
        file.sync_all()?;
        fs::create_dir_all(staged.parent().unwrap_or(unit.dir()))?;
        fs::rename(&part, &staged)
    };
    lay().map_err(failed)
}

/// Has what was written brought to the disk while more is written.
struct Early<'a> {
    file: &'a File,
    /// Bytes that nobody brings to the disk yet.
    waiting: u64,
    syncing: Option<JoinHandle<io::Result<()>>>,
}

impl Early<'_> {
    /// What came of the last early sync: the kernel tells of a failed write only once.
    fn synced(&mut self) -> io::Result<()> {
        let ended = self.syncing.take().map(JoinHandle::join);
        ended.unwrap_or(Ok(Ok(()))).unwrap_or_else(|_| Err(io::Error::other("a sync broke down")))
    }
}

impl Write for Early<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buf)?;
        self.waiting += n as u64;
        if self.waiting >= SYNC_EVERY && self.syncing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.synced()?;
            let file = self.file.try_clone()?;
            self.waiting = 0;
            self.syncing = Some(thread::spawn(move || file.sync_data()));
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has a file read through while it is written to `out`.
fn passed_on<T>(
    stored: &StoredFile,
    from: impl Read,
    out: &mut impl Write,
    progress: &Progress,
    failed: &dyn Fn(io::Error) -> SourceError,
    read: impl FnOnce(&mut dyn Read) -> Result<T, RdbError>,
) -> Result<T, SourceError> {
    let mut out = Apart { out, failed: None };
    let never = CancellationToken::new();
    let found = read(&mut Tee { from, out: &mut out, progress, cancel: &never });
    match out.failed.take() {
        Some(e) => Err(failed(e)),
        None => found.map_err(|e| damaged(stored, &e.to_string())),
    }
}

/// How many keys a file has, of which version it is.
struct Figures {
    version: u32,
    keys: u64,
    expiring_keys: u64,
}

impl Figures {
    /// Reads a file through, and shows its keys.
    fn of(from: &mut dyn Read, progress: &Progress, mut each: impl FnMut(&Entry<'_>)) -> Result<Self, RdbError> {
        let mut reader = Reader::new(from)?.without_digests();
        let mut figures = Self { version: reader.version(), keys: 0, expiring_keys: 0 };
        while let Some(entry) = reader.next_entry()? {
            each(&entry);
            // Servers drop collections without elements when they load a file.
            if entry.elements > 0 || entry.kind == Kind::Stream {
                figures.keys += 1;
                figures.expiring_keys += u64::from(entry.expires_at_ms.is_some());
                progress.add(0, 1);
            }
        }
        Ok(figures)
    }

    /// Compares them with what the manifest says.
    fn as_described(&self, unit: &RestoreUnit) -> Result<(), SourceError> {
        let (stored, contents) = described(unit)?;
        let figures = (self.version, self.keys, self.expiring_keys);
        let expected = (contents.rdb_version, contents.keys, contents.expiring_keys);
        if figures != expected {
            let what = format!("(version, keys, expiring keys) are {figures:?}, the manifest says {expected:?}");
            return Err(damaged(stored, &what));
        }
        Ok(())
    }
}

/// Compares all that was read with what the manifest says.
pub(super) fn as_described(unit: &RestoreUnit, found: &RdbSummary) -> Result<(), SourceError> {
    let (stored, contents) = described(unit)?;
    let &RdbSummary { version, keys, expiring_keys, .. } = found;
    Figures { version, keys, expiring_keys }.as_described(unit)?;
    if found.families != contents.families {
        return Err(damaged(stored, "the digests of its keys differ from the manifest's"));
    }
    Ok(())
}

fn damaged(stored: &StoredFile, what: &str) -> SourceError {
    SourceError::Invalid(format!("the staged {} is not what was backed up: {what}", stored.path))
}

/// A writer that keeps its own error apart: the reader that drives it would report it as one of reading.
pub(super) struct Apart<'a, W> {
    pub(super) out: &'a mut W,
    pub(super) failed: Option<io::Error>,
}

impl<W: Write> Write for Apart<'_, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.out.write(buf).inspect_err(|e| {
            self.failed = Some(e.raw_os_error().map_or_else(|| e.kind().into(), io::Error::from_raw_os_error));
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes and hashes.
struct Hashing<W> {
    file: W,
    hasher: Hasher,
    size: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buf)?;
        self.hasher.update(&buf[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
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
