//! The verbs of a restore into a server that keeps running: the keys that the selection covers are written down, taken
//! away, and put in anew from the staged file.
//!
//! What is written down is on the disk before the first key is taken away, and stays until commit: from then on every
//! verb can be cut off anywhere and either goes on, by beginning to take away and put in again, or leads back.

use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use prexor_format::{
    laws::valkey::{Correction, Options, Role, State, corrections, lost, removes, role, words},
    rdb::{Kind, Payload, RdbError, RdbSummary, Reader, Summary, adds},
};
use tokio_util::sync::CancellationToken;

use super::{
    SourceError, blocking,
    capture::{Tee, sum_up},
    keys::{BULK_MAX, Keys, file_failed, whole_key},
    laws::{self, Live},
    prepare,
    reread::{Reread, put_back},
    restore::{CORRECTIONS, LIVE, Restore, differences},
    versions,
};
use crate::restore_unit::RestoreUnit;

/// Note: what the staged file says to the restore laws; with it everything is prepared.
const BACKUP: &str = "valkey-backup";
/// Note: the keys that make room are written down.
const KEPT: &str = "valkey-kept";
/// Note: all keys are put in.
const LOADED: &str = "valkey-loaded";
/// Note: the old keys are being let go of.
const COMMITTING: &str = "valkey-committing";

impl Restore {
    pub(super) async fn prepare_live(self) -> Result<(), SourceError> {
        if self.note::<State>(BACKUP)?.is_some() {
            return Ok(());
        }
        let connection = self.running().await?;
        let info = connection.info().await?;
        if info.text("cluster_enabled") == "1" {
            return Err(SourceError::Invalid(format!(
                "Valkey at {} is a node of a cluster, whose keys are spread over all nodes: that cannot be restored",
                connection.address()
            )));
        }
        self.keep_live(&connection).await?;
        let highest = versions::highest(info.server_name(), info.server_version());
        let server = format!("{} {}", info.server_name(), info.server_version());
        let longest = connection.setting("proto-max-bulk-len").await?.and_then(|text| text.parse().ok());
        let longest = longest.unwrap_or(BULK_MAX);
        let unit = self.unit.clone();
        let (state, needed) = blocking(move || {
            let staged = unit.staged(prepare::described(&unit)?.0);
            let file = File::open(&staged).map_err(|e| file_failed("reading", &staged, &e))?;
            let (mut state, mut needed) = (State::default(), 0);
            prepare::verify(&unit, |entry| {
                if !unit.selection.covers_key(&whole_key(entry, &file, &staged)?) {
                    return Ok(());
                }
                if entry.kind == Kind::Module {
                    return Err(SourceError::Invalid(format!(
                        "{} is a module's data, which only that module can load: leave it out with --keys, or restore by \
                         exchanging the server's files",
                        entry.key.escape_ascii()
                    )));
                }
                let apart = entry.code == 0 || adds(entry.code, entry.kind).is_some();
                if Payload::len(entry.serialised_len) > longest && !apart {
                    return Err(SourceError::Invalid(format!(
                        "{} has {} bytes, the server takes {longest} at once (proto-max-bulk-len), and a value of this type cannot \
                         be put in by parts: raise that for the restore, leave it out with --keys, or restore by exchanging the \
                         server's files",
                        entry.key.escape_ascii(),
                        entry.serialised_len
                    )));
                }
                // Unpacking a value needs a reader of its own, with its buffer: only for what the laws read.
                let read = matches!(role(entry.key), Some(Role::Counter | Role::Lease));
                let value = if read { entry.string() } else { None };
                state.add(entry.db, entry.key, value.as_deref(), entry.expires_at_ms);
                needed = needed.max(Payload::version_needed(entry.code));
                Ok(())
            })?;
            Ok((state, needed))
        })
        .await?;
        if highest.is_some_and(|highest| u32::from(needed) > highest) {
            return Err(SourceError::Invalid(format!(
                "the backup has keys in an encoding of RDB version {needed}, {server} loads up to version {}: restore into a \
                 server like the one that was backed up, or newer",
                highest.unwrap_or_default()
            )));
        }
        self.keep_note(BACKUP, &state)
    }

    pub(super) async fn swap_live(self) -> Result<(), SourceError> {
        let Some(backup) = self.note::<State>(BACKUP)? else {
            return Err(SourceError::Invalid("Valkey's restore is not prepared".into()));
        };
        self.settings_back().await?;
        let connection = self.running().await?;
        if self.note::<bool>(KEPT)?.is_none() {
            self.keep_live(&connection).await?;
            self.write_down(self.kept()).await?;
            self.keep_note(KEPT, &true)?;
        }
        let live = self.note::<Live>(LIVE)?.unwrap_or_default();
        let corrections = match self.note::<Vec<Correction>>(CORRECTIONS)? {
            Some(corrections) => corrections,
            None => {
                let options = Options { keep_logins: self.unit.selection.logins };
                let covered = live.state.clone().only(|key| self.unit.selection.covers_key(key));
                let corrections = corrections(Some(&covered), &backup, options);
                let told = [words(&corrections), lost(Some(&live.state))].concat();
                self.unit.tell(&told).map_err(super::restore::notes_failed)?;
                self.keep_note(CORRECTIONS, &corrections)?;
                corrections
            }
        };
        if self.note::<bool>(LOADED)?.is_none() {
            let (unit, address) = (self.unit.clone(), self.source.address()?);
            let without = corrections.clone();
            blocking(move || {
                let staged = unit.staged(prepare::described(&unit)?.0);
                unit.progress.set_subject("the keys that make room");
                Keys::connect(&address, &unit.selection, &unit.progress)?.remove()?;
                unit.progress.set_subject("keys");
                let mut keys = Keys::connect(&address, &unit.selection, &unit.progress)?;
                keys.put_in(&staged, now_ms(), |entry| !removes(&without, entry.key))
            })
            .await?;
        }
        laws::apply(&connection, &corrections, &live, |key| self.unit.selection.covers_key(key)).await?;
        self.keep_note(LOADED, &true)
    }

    pub(super) async fn revert_live(self) -> Result<(), SourceError> {
        if self.note::<bool>(COMMITTING)?.is_some() {
            return Err(SourceError::Invalid("Valkey's restore is committed, its old keys are gone".into()));
        }
        if self.note::<bool>(KEPT)?.is_none() {
            return Ok(());
        }
        self.settings_back().await?;
        let (unit, address, kept) = (self.unit.clone(), self.source.address()?, self.kept());
        blocking(move || {
            Keys::connect(&address, &unit.selection, &unit.progress)?.remove()?;
            Keys::connect(&address, &unit.selection, &unit.progress)?.put_in(&kept, now_ms(), |_| true)
        })
        .await
    }

    pub(super) async fn commit_live(self) -> Result<(), SourceError> {
        if self.note::<bool>(LOADED)?.is_none() {
            return Err(SourceError::Failed("Valkey's keys were not replaced, there is nothing to commit".into()));
        }
        self.settings_back().await?;
        self.keep_note(COMMITTING, &true)?;
        match fs::remove_file(self.kept()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(file_failed("removing", &self.kept(), &e)),
            _ => Ok(()),
        }
    }

    /// Reads the server's keys once more and compares them with those of the staged file, after the corrections.
    pub(super) async fn check_live(self) -> Result<Vec<String>, SourceError> {
        self.settings_back().await?;
        let connection = self.source.connect().await?;
        let info = connection.info().await?;
        let corrections = self.note::<Vec<Correction>>(CORRECTIONS)?.unwrap_or_default();
        // All that expires before this may be gone or not, on both sides.
        let now = now_ms();
        let mut told = laws::differences(&connection, &corrections, now).await?;
        let (unit, address) = (self.unit.clone(), self.source.address()?);
        let compared = blocking(move || {
            unit.progress.set_subject("the keys as they are");
            let single: Vec<_> = corrections.iter().filter(|c| c.place().is_some()).cloned().collect();
            let reread = Reread { address: &address, info: &info, unit: &unit, kept: false };
            let sum =
                |live| sum_up(live, Summary::alive_at(now).without(&single), &unit.progress).map_err(of_the_server);
            let found = || reread.by(sum);
            let (found, expected) = std::thread::scope(|scope| {
                let expected = scope.spawn(|| expected(&unit, Summary::alive_at(now).without(&corrections)));
                (found(), expected.join())
            });
            let (found, mut expected) = (found?, expected.unwrap_or_else(|e| std::panic::resume_unwind(e))?);
            if !unit.selection.keys.is_empty() {
                expected.functions = found.functions; // they are not part of it
            }
            Ok(differences(&expected, &found))
        });
        told.extend(compared.await?);
        Ok(told)
    }

    /// Writes the covered keys down, in a file that is on the disk then.
    async fn write_down(&self, to: PathBuf) -> Result<(), SourceError> {
        let info = self.source.connect().await?.info().await?;
        let (unit, address) = (self.unit.clone(), self.source.address()?);
        blocking(move || {
            unit.progress.set_subject("the keys that make room, written down");
            let failed = |e: std::io::Error| file_failed("writing", &to, &e);
            let never = CancellationToken::new();
            Reread { address: &address, info: &info, unit: &unit, kept: true }.by(|live| {
                let mut file = File::create(&to).map_err(failed)?;
                let mut out = Kept { file: &mut file, failed: None };
                // Read on its way: what is kept is known to be sound.
                let tee = Tee { from: live, out: &mut out, progress: &unit.progress, cancel: &never };
                let read = sum_up(tee, Summary::new(), &unit.progress);
                if let Some(e) = out.failed {
                    return Err(failed(e));
                }
                read.map_err(of_the_server)?;
                file.sync_all().map_err(failed)
            })
        })
        .await
    }

    /// What a verb that was cut off has left changed.
    async fn settings_back(&self) -> Result<(), SourceError> {
        let (unit, address) = (self.unit.clone(), self.source.address()?);
        blocking(move || put_back(&unit, &address)).await
    }

    /// Where the old keys are written down.
    fn kept(&self) -> PathBuf {
        self.unit.dir().join("kept.rdb")
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as i64)
}

/// The covered keys of the staged file, added up.
fn expected(unit: &RestoreUnit, mut summary: Summary) -> Result<RdbSummary, SourceError> {
    let staged = unit.staged(prepare::described(unit)?.0);
    let failed =
        |e: &dyn std::fmt::Display| SourceError::Failed(format!("{} cannot be compared: {e}", staged.display()));
    let open = || File::open(&staged).map_err(|e| failed(&e));
    let (mut reader, file) = (Reader::new(open()?).map_err(|e| failed(&e))?, open()?);
    while let Some(entry) = reader.next_entry().map_err(|e| failed(&e))? {
        if unit.selection.covers_key(&whole_key(&entry, &file, &staged)?) {
            summary.add(&entry);
        }
    }
    Ok(summary.finish(&reader))
}

/// What reading from a server failed with.
fn of_the_server(e: RdbError) -> SourceError {
    match e {
        RdbError::Io { source, .. } => {
            source.downcast().unwrap_or_else(|e| SourceError::Failed(format!("Valkey's keys cannot be read: {e}")))
        }
        e => SourceError::Failed(format!("Valkey's keys cannot be read: {e}")),
    }
}

/// A file that keeps its own error apart from those of what is read meanwhile.
struct Kept<'a> {
    file: &'a mut File,
    failed: Option<std::io::Error>,
}

impl Write for Kept<'_> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.file.write(buf).inspect_err(|e| {
            self.failed = Some(e.raw_os_error().map_or_else(|| e.kind().into(), std::io::Error::from_raw_os_error));
        })
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
