//! The verbs of a restore into a server that keeps running: the keys that the selection covers are written down, taken
//! away, and put in anew from the staged file.
//!
//! What is written down is on the disk before the first key is taken away, and stays until commit: from then on every
//! verb can be cut off anywhere and either goes on, by beginning to take away and put in again, or leads back.

use std::{
    fs::{self, File},
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use prexor_format::{
    laws::valkey::{Correction, Options, State, corrections, lost, removes, words},
    rdb::{Kind, Payload, Reader, Summary, adds},
};

use super::{
    SourceError, blocking,
    keys::{BULK_MAX, Keys, file_failed, whole_key},
    laws::{self, Live},
    prepare,
    restore::{CORRECTIONS, LIVE, Restore, differences},
    versions,
};

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
            prepare::verify(&unit)?;
            let staged = unit.staged(prepare::described(&unit)?.0);
            let failed = |e: &dyn std::fmt::Display| {
                SourceError::Invalid(format!("the staged {} cannot be read: {e}", staged.display()))
            };
            let open = || File::open(&staged).map_err(|e| failed(&e));
            let (mut reader, file) = (Reader::new(open()?).map_err(|e| failed(&e))?, open()?);
            let (mut state, mut needed) = (State::default(), 0);
            while let Some(entry) = reader.next_entry().map_err(|e| failed(&e))? {
                if !unit.selection.covers_key(&whole_key(&entry, &file, &staged)?) {
                    continue;
                }
                if entry.kind == Kind::Module {
                    return Err(SourceError::Invalid(format!(
                        "{} is a module's data, which only that module can load: leave it out with --keys, or restore by \
                         exchanging the server's files",
                        entry.key.escape_ascii()
                    )));
                }
                if Payload::len(entry.serialised_len) > longest && entry.code != 0 && adds(entry.code, entry.kind).is_none() {
                    return Err(SourceError::Invalid(format!(
                        "{} has {} bytes, the server takes {longest} at once (proto-max-bulk-len), and a value of this type cannot \
                         be put in by parts: raise that for the restore, leave it out with --keys, or restore by exchanging the \
                         server's files",
                        entry.key.escape_ascii(),
                        entry.serialised_len
                    )));
                }
                state.add(entry.db, entry.key, entry.string().as_deref(), entry.expires_at_ms);
                needed = needed.max(Payload::version_needed(entry.code));
            }
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
        let (unit, address, kept) = (self.unit.clone(), self.source.address()?, self.kept());
        blocking(move || {
            Keys::connect(&address, &unit.selection, &unit.progress)?.remove()?;
            Keys::connect(&address, &unit.selection, &unit.progress)?.put_in(&kept, now_ms(), |_| true)
        })
        .await
    }

    pub(super) fn commit_live(self) -> Result<(), SourceError> {
        if self.note::<bool>(LOADED)?.is_none() {
            return Err(SourceError::Failed("Valkey's keys were not replaced, there is nothing to commit".into()));
        }
        self.keep_note(COMMITTING, &true)?;
        match fs::remove_file(self.kept()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(file_failed("removing", &self.kept(), &e)),
            _ => Ok(()),
        }
    }

    /// Writes the server's keys down once more and compares that file with the staged one, after the corrections.
    pub(super) async fn check_live(self) -> Result<Vec<String>, SourceError> {
        let connection = self.source.connect().await?;
        let corrections = self.note::<Vec<Correction>>(CORRECTIONS)?.unwrap_or_default();
        let found = self.unit.dir().join("found.rdb");
        self.write_down(found.clone()).await?;
        // All that expires before this may be gone or not, on both sides.
        let now = now_ms();
        let mut told = laws::differences(&connection, &corrections, now).await?;
        let unit = self.unit.clone();
        let compared = blocking(move || {
            let read = |path: &PathBuf, summary: Summary| {
                let failed = |e: &dyn std::fmt::Display| {
                    SourceError::Failed(format!("{} cannot be compared: {e}", path.display()))
                };
                let mut summary = summary.alive(now);
                let open = || File::open(path).map_err(|e| failed(&e));
                let (mut reader, file) = (Reader::new(open()?).map_err(|e| failed(&e))?, open()?);
                while let Some(entry) = reader.next_entry().map_err(|e| failed(&e))? {
                    if unit.selection.covers_key(&whole_key(&entry, &file, path)?) {
                        summary.add(&entry);
                    }
                }
                Ok::<_, SourceError>(summary.finish(&reader))
            };
            let staged = unit.staged(prepare::described(&unit)?.0);
            let expected = read(&staged, Summary::new().without(&corrections))?;
            let single: Vec<_> = corrections.into_iter().filter(|c| c.place().is_some()).collect();
            let mut is = read(&found, Summary::new().without(&single))?;
            if !unit.selection.keys.is_empty() {
                is.functions = expected.functions; // they are not part of it
            }
            fs::remove_file(&found).map_err(|e| file_failed("removing", &found, &e))?;
            Ok(differences(&expected, &is))
        });
        told.extend(compared.await?);
        Ok(told)
    }

    /// Writes the covered keys down, with the version that the server itself writes.
    async fn write_down(&self, to: PathBuf) -> Result<(), SourceError> {
        let info = self.source.connect().await?.info().await?;
        let version = versions::highest(info.server_name(), info.server_version());
        let (unit, address) = (self.unit.clone(), self.source.address()?);
        blocking(move || {
            unit.progress.set_subject("the keys as they are");
            Keys::connect(&address, &unit.selection, &unit.progress)?.write_down(&to, version)
        })
        .await
    }

    /// Where the old keys are written down.
    fn kept(&self) -> PathBuf {
        self.unit.dir().join("kept.rdb")
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as i64)
}
