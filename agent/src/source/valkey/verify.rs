//! The staged file, compared with the manifest: from where it lies or while it arrives, for its keys or for the bytes alone.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    thread::{self, JoinHandle},
};

use prexor_format::{
    digest::Hasher,
    manifest::{Contents, StoredFile, ValkeyContents},
    rdb::{Entry, Kind, RdbError, RdbSummary, Reader},
};
use tokio_util::sync::CancellationToken;

use super::{
    SourceError,
    capture::Tee,
    keys::{file_failed, whole_key},
};
use crate::{arriving::Arriving, restore_unit::RestoreUnit, sink::Progress};

/// Bytes of a file that arrives after which they are brought to the disk.
const SYNC_EVERY: u64 = 32 << 20;

/// What the artifact's entry in the manifest says: its one file and its contents.
pub(super) fn described(unit: &RestoreUnit) -> Result<(&StoredFile, &ValkeyContents), SourceError> {
    match (&unit.artifact.files[..], &unit.artifact.contents) {
        ([file], Contents::Valkey(contents)) => Ok((file, contents)),
        _ => Err(SourceError::Invalid(format!("artifact {} of the backup is no RDB file", unit.artifact.id))),
    }
}

/// Compares the staged file's bytes and its figures with the manifest, and shows each key; what `each` refuses counts when the
/// file is sound. Its keys' digests are not taken: its own says that they are those of the manifest.
pub(super) fn staged(
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
    let (_, found) = bytes(unit, io::sink(), &|e| SourceError::Failed(e.to_string()), walk)?;
    found.as_described(unit)?;
    outcome
}

/// Has `read` read the staged file, passes it on to `out` and compares its bytes.
pub(super) fn bytes<W: Write, T>(
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

/// As [`staged`], of the file while it arrives; lays it where it is staged. Whoever takes it in compares its bytes. `each`
/// is also given all of the key.
pub(super) fn arriving(
    unit: &RestoreUnit,
    file: Arriving,
    mut each: impl FnMut(&Entry<'_>, &[u8]) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let stored = described(unit)?.0;
    let (staged, part) = (unit.staged(stored), unit.dir().join("incoming"));
    let failed = |e: io::Error| file_failed("writing", &part, &e);
    let open = File::options().read(true).write(true).create(true).truncate(true).open(&part);
    let part_file = open.map_err(failed)?;
    let mut outcome = Ok(());
    let shown = |entry: &Entry<'_>| {
        if outcome.is_ok() {
            // What was read was written before.
            outcome = whole_key(entry, &part_file, &part).and_then(|key| each(entry, &key));
        }
    };
    // What arrives is told by the one who takes it in.
    let quiet = Progress::default();
    let mut early = Early { file: &part_file, waiting: 0, syncing: None };
    let walk = |file: &mut dyn Read| Figures::of(file, &quiet, shown);
    passed_on(stored, file, &mut early, &quiet, &failed, walk)?.as_described(unit)?;
    outcome?;
    let mut lay = || {
        early.synced()?;
        part_file.sync_all()?;
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
pub(super) fn contents(unit: &RestoreUnit, found: &RdbSummary) -> Result<(), SourceError> {
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
