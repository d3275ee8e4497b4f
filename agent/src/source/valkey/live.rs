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
    laws::valkey::{Correction, Options, State, corrections, lost, removes, restored, words},
    rdb::{RdbError, RdbSummary, Reader, Summary},
};
use tokio_util::sync::CancellationToken;

use super::{
    SourceError, blocking,
    capture::{Tee, sum_up},
    keys::{Keys, file_failed, whole_key},
    laws::{self, Live},
    reread::{Reread, put_back},
    restore::{CORRECTIONS, Foresight, LIVE, RESTORED, Restore, Sums, differences},
    verify::{self, Apart},
};
use crate::restore_unit::RestoreUnit;

/// Note: what the staged file says to the restore laws; with it everything is prepared.
pub(super) const BACKUP: &str = "valkey-backup";
/// Note: the keys that make room are written down.
const KEPT: &str = "valkey-kept";
/// Note: what the server will have of the staged file ([`Foresight`]).
const FORESEEN: &str = "valkey-foreseen";
/// Note: all keys are put in.
const LOADED: &str = "valkey-loaded";
/// Note: the old keys are being let go of.
const COMMITTING: &str = "valkey-committing";

impl Restore {
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
                self.keep_note(RESTORED, &restored(&backup, &corrections))?;
                self.keep_note(CORRECTIONS, &corrections)?;
                corrections
            }
        };
        if self.note::<bool>(LOADED)?.is_none() {
            let (unit, address) = (self.unit.clone(), self.source.address()?);
            let without = corrections.clone();
            let found = blocking(move || {
                let staged = unit.staged(verify::described(&unit)?.0);
                unit.progress.set_subject("the keys that make room");
                Keys::connect(&address, &unit.selection, &unit.progress)?.remove()?;
                unit.progress.set_subject("keys");
                let now = now_ms();
                let options = Options { keep_logins: unit.selection.logins };
                let all = unit.selection.keys.is_empty().then(|| Summary::new().foreseeing(now, options));
                let mut keys = Keys::connect(&address, &unit.selection, &unit.progress)?;
                let found = keys.put_in(&staged, now, |entry| !removes(&without, entry.key), all)?;
                found.iter().try_for_each(|found| verify::contents(&unit, found))?;
                Ok(found)
            });
            if let Some(RdbSummary { foreseen: Some(foreseen), functions, .. }) = found.await? {
                self.keep_note(FORESEEN, &Foresight { foreseen, functions })?;
            }
        }
        // Families that are left out were not put in.
        let single: Vec<_> = corrections.into_iter().filter(|c| c.place().is_some()).collect();
        laws::apply(&connection, &single, &live, |_| true).await?;
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
        self.keep_since().await?;
        let (unit, address, kept) = (self.unit.clone(), self.source.address()?, self.kept());
        blocking(move || {
            Keys::connect(&address, &unit.selection, &unit.progress)?.remove()?;
            let mut keys = Keys::connect(&address, &unit.selection, &unit.progress)?;
            keys.put_in(&kept, now_ms(), |_| true, None).map(drop)
        })
        .await?;
        self.correct_back().await.map(drop)
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

    /// Reads the server's keys once more and compares them with those of the staged file, after the corrections. That was
    /// added up when they were put in, and is once more where some of its keys have expired since.
    pub(super) async fn check_live(self) -> Result<Vec<String>, SourceError> {
        self.settings_back().await?;
        let connection = self.source.connect().await?;
        let info = connection.info().await?;
        let corrections = self.note::<Vec<Correction>>(CORRECTIONS)?.unwrap_or_default();
        // All that expires before this may be gone or not, on both sides.
        let now = now_ms();
        let mut told = laws::differences(&connection, &corrections, now).await?;
        let foreseen = self.note::<Foresight>(FORESEEN)?.and_then(|Foresight { foreseen, functions }| {
            Some(Sums { families: foreseen.after(&corrections, now)?, functions })
        });
        let (unit, address) = (self.unit.clone(), self.source.address()?);
        let compared = blocking(move || {
            unit.progress.set_subject("the keys as they are");
            let single: Vec<_> = corrections.iter().filter(|c| c.place().is_some()).cloned().collect();
            let reread = Reread { address: &address, info: &info, unit: &unit, kept: false };
            let sum =
                |live| sum_up(live, Summary::alive_at(now).without(&single), &unit.progress).map_err(of_the_server);
            let found = || reread.by(sum);
            let (found, expected) = std::thread::scope(|scope| {
                let expected = scope.spawn(|| match foreseen {
                    Some(sums) => Ok(sums),
                    None => expected(&unit, Summary::alive_at(now).without(&corrections)).map(Sums::from),
                });
                (found(), expected.join())
            });
            let (found, mut expected) =
                (Sums::from(found?), expected.unwrap_or_else(|e| std::panic::resume_unwind(e))?);
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
                let mut out = Apart { out: &mut file, failed: None };
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

pub(super) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as i64)
}

/// The covered keys of the staged file, added up.
fn expected(unit: &RestoreUnit, mut summary: Summary) -> Result<RdbSummary, SourceError> {
    let staged = unit.staged(verify::described(unit)?.0);
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
