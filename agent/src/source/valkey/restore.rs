//! The verbs of a restore that exchanges the server's files.
//!
//! A server with `appendonly yes` loads its append-only files and ignores the RDB file (law L12). So besides `dump.rdb`
//! such a server gets an append-only directory whose base is the restored RDB file: it loads that at its start as it
//! would after a rewrite of its own, with no setting changed.
//!
//! The server is stopped before anything is moved, because its shutdown may write `dump.rdb` once more.

use std::{
    fs::File,
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prexor_format::{
    laws::valkey::{Correction, Options, State, corrections, corrections_back, lost, restored, words},
    manifest::KeyFamily,
    rdb::{Foreseen, Functions, RdbSummary, Summary},
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{
    SourceError, ValkeySource, blocking, capture,
    client::{Connection, Info},
    laws::{self, Live},
    place::Place,
    prepare,
    save::{self, Patience},
    site::Site,
    verify,
};
use crate::{
    restore_unit::RestoreUnit,
    services::{Role, ServiceError, ServiceState},
};

/// Note: where the data is; from then on there may be files of ours beside it.
const SITE: &str = "valkey-site";
/// Note: what was live, as the restore laws need it ([`Live`]); kept before anything makes room.
pub(super) const LIVE: &str = "valkey-live";
/// Note: the corrections by the restore laws, settled once the backup's keys were seen.
pub(super) const CORRECTIONS: &str = "valkey-corrections";
/// Note: what the restore has made live ([`State`]), which controllers that are started find.
pub(super) const RESTORED: &str = "valkey-restored";
/// Note: what was live when the way back began ([`Live`]).
const SINCE: &str = "valkey-since";
/// Note: the corrections of the old keys, settled once they were live again.
const BACK: &str = "valkey-corrections-back";
/// Note: everything lies beside the data, verified.
const PREPARED: &str = "valkey-prepared";
/// Note: the server is being stopped for the exchange.
const STOPPING: &str = "valkey-stopping";
/// Note: the files are exchanged.
const EXCHANGED: &str = "valkey-exchanged";

/// Note: the old data is being let go of.
const COMMITTING: &str = "valkey-committing";

/// How long a server may load without progress, or not answer at all after its start.
const LOAD_STALLED: Duration = Duration::from_secs(180);
/// How long its service may be down after its start before that counts as the end of it.
const DOWN: Duration = Duration::from_secs(5);

/// A verb at work.
pub(super) struct Restore {
    pub(super) source: ValkeySource,
    pub(super) unit: RestoreUnit,
}

impl Restore {
    pub(super) async fn prepare_files(self) -> Result<(), SourceError> {
        if self.note::<bool>(PREPARED)?.is_some() {
            return Ok(());
        }
        let connection = self.running().await?;
        let site = self.source.site(&connection).await?;
        site.accessible()?;
        let (_, contents) = verify::described(&self.unit)?;
        if !contents.modules.is_empty() && connection.modules().await? == Some(0) {
            return Err(SourceError::Invalid(format!(
                "the backup has data of modules ({}), and Valkey at {} has loaded none: it would not start with that. Load them, or \
                 restore the other keys with --keys",
                contents.modules_in_words(),
                connection.address()
            )));
        }
        self.keep_live(&connection).await?;
        self.keep_note(SITE, &site)?;
        let unit = self.unit.clone();
        blocking(move || prepare::lay_beside(&site, &unit)).await?;
        self.keep_note(PREPARED, &true)
    }

    pub(super) async fn swap_files(self) -> Result<(), SourceError> {
        let Some(site) = self.note::<Site>(SITE)?.filter(|_| matches!(self.note::<bool>(PREPARED), Ok(Some(true))))
        else {
            return Err(SourceError::Invalid("Valkey's restore is not prepared".into()));
        };
        if self.note::<bool>(EXCHANGED)?.is_none() {
            if self.note::<bool>(STOPPING)?.is_none() {
                match self.source.connect().await {
                    Ok(connection) => {
                        self.keep_live(&connection).await?;
                        self.save_live(&connection, &site).await?;
                    }
                    // A server that is down has nothing in memory.
                    Err(SourceError::Unavailable(why)) => {
                        tracing::warn!(why, "Valkey is down, its last dump is what a revert would bring back");
                    }
                    Err(e) => return Err(e),
                }
            }
            self.keep_note(STOPPING, &true)?;
            self.stop().await?;
            let (unit, at) = (self.unit.clone(), site.clone());
            blocking(move || Place::new(&at, &unit).exchange()).await?;
            self.keep_note(EXCHANGED, &true)?;
        }
        self.start().await?;
        let info = self.loaded().await?;
        let (_, contents) = verify::described(&self.unit)?;
        // Those that have expired by now may be gone already or not.
        let expected = contents.keys.saturating_sub(contents.expiring_keys)..=contents.keys;
        let corrected = self.note::<Vec<Correction>>(CORRECTIONS)?.is_some();
        if !corrected && !expected.contains(&info.keys()) {
            return Err(SourceError::Failed(format!(
                "Valkey has loaded {} keys, the backup has {} ({} of them may have expired): see its log",
                info.keys(),
                contents.keys,
                contents.expiring_keys
            )));
        }
        self.correct(&site).await
    }

    /// A connection to a server that can be restored: one that runs and is no replica.
    pub(super) async fn running(&self) -> Result<Connection, SourceError> {
        let connection = self.source.connect().await.map_err(|e| match e {
            SourceError::Unavailable(e) => SourceError::Unavailable(format!(
                "{e}; a restore asks the running server where its data belongs, so start it first, empty if need be"
            )),
            e => e,
        })?;
        let info = connection.info().await?;
        if info.loading() {
            return Err(connection.address().loading());
        }
        if info.text("role") != "master" {
            return Err(SourceError::Invalid(format!(
                "Valkey at {} is a replica of {}: what is restored there would be replaced by its primary's data; restore the primary",
                connection.address(),
                info.text("master_host")
            )));
        }
        Ok(connection)
    }

    /// Without append-only files a server may keep its keys in memory alone (`save ""`), and whether it saves when it is
    /// stopped is up to its settings and its service manager. What a revert brings back must be on the disk.
    async fn save_live(&self, connection: &Connection, site: &Site) -> Result<(), SourceError> {
        if site.append_only { Ok(()) } else { save::fresh(connection, site).await.map(drop) }
    }

    /// Keeps what the restore laws must know of the live keys. What an earlier look saw is not forgotten.
    pub(super) async fn keep_live(&self, connection: &Connection) -> Result<(), SourceError> {
        let mut live = laws::read(connection).await?;
        if let Some(earlier) = self.note::<Live>(LIVE)? {
            live.merge(earlier);
        }
        self.keep_note(LIVE, &live)
    }

    /// Carries out the restore laws on the loaded keys, and has the outcome on the disk.
    async fn correct(&self, site: &Site) -> Result<(), SourceError> {
        let connection = self.source.connect().await?;
        let live = self.note::<Live>(LIVE)?.unwrap_or_default();
        let corrections = match self.note::<Vec<Correction>>(CORRECTIONS)? {
            // Settled before a crash: some of them may be carried out already.
            Some(corrections) => corrections,
            None => {
                let backup = laws::read(&connection).await?.state;
                let options = Options { keep_logins: self.unit.selection.logins };
                let corrections = corrections(Some(&live.state), &backup, options);
                let told = [words(&corrections), lost(Some(&live.state))].concat();
                self.unit.tell(&told).map_err(notes_failed)?;
                self.keep_note(RESTORED, &restored(&backup, &corrections))?;
                self.keep_note(CORRECTIONS, &corrections)?;
                corrections
            }
        };
        laws::apply(&connection, &corrections, &live, |_| true).await?;
        self.save_live(&connection, site).await
    }

    /// Before the restored keys go: what controllers that were started have done to them that must not be forgotten.
    pub(super) async fn keep_since(&self) -> Result<(), SourceError> {
        // Without the first no controller can have run, with the second the old keys are back.
        if self.note::<State>(RESTORED)?.is_none() || self.note::<Vec<Correction>>(BACK)?.is_some() {
            return Ok(());
        }
        let mut since = match laws::read(&self.source.connect().await?).await {
            Err(SourceError::NoSpace(why)) => {
                tracing::warn!("what was issued since the restore is not looked at: {why}");
                return Ok(());
            }
            read => read?,
        };
        if let Some(earlier) = self.note::<Live>(SINCE)? {
            since.merge(earlier);
        }
        self.keep_note(SINCE, &since)
    }

    /// L1 and L6 on the way back, once the old keys are live again. Whether anything had to be changed.
    pub(super) async fn correct_back(&self) -> Result<bool, SourceError> {
        let (Some(restored), Some(since)) = (self.note::<State>(RESTORED)?, self.note::<Live>(SINCE)?) else {
            return Ok(false);
        };
        let connection = self.source.connect().await?;
        let corrections = match self.note::<Vec<Correction>>(BACK)? {
            Some(corrections) => corrections,
            None => {
                let old = laws::read(&connection).await?.state;
                let corrections = corrections_back(&since.state, &restored, &old);
                self.keep_note(BACK, &corrections)?;
                corrections
            }
        };
        words(&corrections).iter().for_each(|line| tracing::warn!("on the way back of Valkey: {line}"));
        laws::apply(&connection, &corrections, &since, |_| true).await?;
        Ok(!corrections.is_empty())
    }

    pub(super) async fn revert_files(self) -> Result<(), SourceError> {
        let Some(site) = self.note::<Site>(SITE)? else { return Ok(()) };
        if self.note::<bool>(COMMITTING)?.is_some() {
            return Err(SourceError::Invalid("Valkey's restore is committed, its old data is gone".into()));
        }
        if self.note::<bool>(STOPPING)?.is_some() {
            let (unit, at) = (self.unit.clone(), site.clone());
            let to_move = blocking(move || {
                let place = Place::new(&at, &unit);
                Ok(place.begun()? && !place.is_back()?)
            });
            if to_move.await? {
                self.keep_since_or_go_without().await?;
                self.stop().await?;
                let (unit, at) = (self.unit.clone(), site.clone());
                blocking(move || Place::new(&at, &unit).put_back()).await?;
            }
            self.start().await?;
            self.loaded().await?;
            if self.correct_back().await? {
                self.save_live(&self.source.connect().await?, &site).await?;
            }
        }
        let unit = self.unit;
        blocking(move || Place::new(&site, &unit).discard()).await
    }

    /// A server that is down is started to be asked. One that does not come up with the restored files kept no controller going
    /// for long either, and must not keep the old ones away.
    async fn keep_since_or_go_without(&self) -> Result<(), SourceError> {
        match self.keep_since().await {
            Err(SourceError::Unavailable(_)) => {}
            done => return done,
        }
        let up = async {
            self.start().await?;
            self.loaded().await
        };
        match up.await {
            Ok(_) => self.keep_since().await,
            Err(e) => {
                tracing::warn!("what was issued since the restore cannot be looked at, Valkey does not come up: {e}");
                Ok(())
            }
        }
    }

    pub(super) async fn commit_files(self) -> Result<(), SourceError> {
        let Some(site) = self.note::<Site>(SITE)?.filter(|_| matches!(self.note::<bool>(EXCHANGED), Ok(Some(true))))
        else {
            return Err(SourceError::Failed("Valkey's restore was not swapped in, there is nothing to commit".into()));
        };
        self.keep_note(COMMITTING, &true)?;
        let unit = self.unit;
        blocking(move || Place::new(&site, &unit).discard()).await
    }

    /// Has the server save and compares that file with the staged one, which `prepare` has compared with the manifest,
    /// after the corrections by the restore laws.
    ///
    /// Keys that expire before the save had ended are left out on both sides, whether the server has deleted them yet or
    /// not; all others must be there and equal, by family.
    pub(super) async fn check_files(self) -> Result<Vec<String>, SourceError> {
        let connection = self.source.connect().await?;
        let site = self.source.site(&connection).await?;
        let saved = save::fresh(&connection, &site).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as i64);
        let corrections = self.note::<Vec<Correction>>(CORRECTIONS)?.unwrap_or_default();
        let mut told = laws::differences(&connection, &corrections, now).await?;
        let unit = self.unit;
        let compared = blocking(move || {
            let staged = unit.staged(verify::described(&unit)?.0);
            let read = |file, name: String, summary: Summary| {
                let of_it = |e: &dyn std::fmt::Display| SourceError::Failed(format!("{name} cannot be compared: {e}"));
                let file: File = Result::map_err(file, |e: std::io::Error| of_it(&e))?;
                capture::sum_up(file, summary, &unit.progress).map_err(|e| of_it(&e))
            };
            let without = |c: &[Correction]| Summary::alive_at(now).without(c);
            let expected = read(File::open(&staged), staged.display().to_string(), without(&corrections))?;
            // The single keys that were corrected are compared by themselves; what was taken away must be gone.
            let single: Vec<_> = corrections.into_iter().filter(|c| c.place().is_some()).collect();
            let found = read(Ok(saved.file), site.rdb_path().display().to_string(), without(&single))?;
            Ok(differences(&expected.into(), &found.into()))
        });
        told.extend(compared.await?);
        Ok(told)
    }

    async fn service_state(&self) -> Result<ServiceState, SourceError> {
        self.source.services.state(Role::Valkey).await.map_err(service_failed)
    }

    /// Stops the service and makes sure that it was this server's.
    async fn stop(&self) -> Result<(), SourceError> {
        self.source.services.stop(Role::Valkey).await.map_err(service_failed)?;
        let address = self.source.address()?;
        if address.listens().await {
            return Err(SourceError::Failed(format!(
                "the service of Valkey was stopped, yet the server at {address} still answers: it is another's, or something starts it \
                 again; nothing was moved"
            )));
        }
        Ok(())
    }

    async fn start(&self) -> Result<(), SourceError> {
        self.source.services.start(Role::Valkey).await.map_err(service_failed)
    }

    /// Waits until the server has loaded its data.
    async fn loaded(&self) -> Result<Info, SourceError> {
        let mut patience = Patience::new(LOAD_STALLED);
        let mut pause = Duration::from_millis(20);
        let mut down_since = None;
        loop {
            let (bytes, problem) = match self.ask_loaded().await {
                Ok(info) if !info.loading() => return Ok(info),
                Ok(info) => {
                    down_since = None;
                    let bytes = info.number("loading_loaded_bytes").unwrap_or(0);
                    self.unit.progress.set_subject(format!("Valkey has loaded {bytes} bytes"));
                    (bytes, "it is loading, without progress".to_owned())
                }
                Err(e @ (SourceError::Unavailable(_) | SourceError::Cancelled)) => {
                    let down = self.service_state().await? == ServiceState::Inactive;
                    down_since = if down { down_since.or_else(|| Some(Instant::now())) } else { None };
                    (0, e.to_string())
                }
                Err(e) => return Err(e),
            };
            if down_since.is_some_and(|since| since.elapsed() > DOWN) || !patience.goes_on(bytes) {
                return Err(SourceError::Failed(format!(
                    "Valkey did not come up with its data ({problem}): its log says why"
                )));
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    async fn ask_loaded(&self) -> Result<Info, SourceError> {
        self.source.connect().await?.info().await
    }

    pub(super) fn note<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, SourceError> {
        self.unit.load_note(name).map_err(notes_failed)
    }

    pub(super) fn keep_note<T: serde::Serialize>(&self, name: &str, note: &T) -> Result<(), SourceError> {
        self.unit.save_note(name, note).map_err(notes_failed)
    }
}

pub(super) fn notes_failed(e: io::Error) -> SourceError {
    SourceError::Failed(format!("the restore's notes cannot be kept or read: {e}"))
}

fn service_failed(e: ServiceError) -> SourceError {
    SourceError::Failed(e.to_string())
}

/// What a server will have once a file was put in, told when that was read through.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Foresight {
    pub(super) foreseen: Foreseen,
    pub(super) functions: Functions,
}

/// What two sets of keys are compared by.
#[derive(Debug)]
pub(super) struct Sums {
    pub(super) families: Vec<KeyFamily>,
    pub(super) functions: Functions,
}

impl From<RdbSummary> for Sums {
    fn from(RdbSummary { families, functions, .. }: RdbSummary) -> Self {
        Self { families, functions }
    }
}

/// What is not equal, in words.
pub(super) fn differences(expected: &Sums, found: &Sums) -> Vec<String> {
    let mut out = Vec::new();
    let shown = |f: &KeyFamily| if f.name.is_empty() { "keys of no known family".to_owned() } else { f.name.clone() };
    for family in &expected.families {
        match found.families.iter().find(|f| f.name == family.name) {
            Some(f) if f == family => {}
            Some(f) if f.keys != family.keys => {
                out.push(format!("{}: {} keys instead of {}", shown(family), f.keys, family.keys));
            }
            Some(_) => out.push(format!("{}: {} keys, but not the same", shown(family), family.keys)),
            None => out.push(format!("{}: none instead of {} keys", shown(family), family.keys)),
        }
    }
    for family in found.families.iter().filter(|f| !expected.families.iter().any(|e| e.name == f.name)) {
        out.push(format!("{}: {} keys instead of none", shown(family), family.keys));
    }
    if expected.functions != found.functions {
        let (e, f) = (expected.functions.libraries, found.functions.libraries);
        out.push(format!("functions: {f} libraries, the backup has {e}, not the same"));
    }
    out
}
