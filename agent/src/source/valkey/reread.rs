//! The covered keys of a running server, to be read once more: what a replica gets, where that is quicker, or key by key.
//!
//! For the seconds that a snapshot takes the server is asked to begin it at once, not to touch its disk for it and, where
//! nobody keeps the bytes, not to compress them, which is what costs most. The settings that say so are written down
//! before they are changed and put back afterwards, whatever comes of it; after a crash by the next verb of the restore.
//! An account that may not change them is no hindrance. It does not know what is done with the keys.

use std::io::Read;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    SourceError,
    address::Address,
    client::Info,
    raw::Raw,
    replication,
    restore::notes_failed,
    scan::{self, Wanted},
};
use crate::restore_unit::RestoreUnit;

/// Keys from which on a snapshot is quicker than one answer for each.
const MANY: u64 = 10_000;

/// Seconds that may pass before a snapshot begins (`repl-diskless-sync-delay`, 5 by default): the time in which hundreds of
/// thousands of keys are read one by one.
const DELAY_MAX: u64 = 1;

/// Note: settings that are another's for a while ([`Lent`]).
const LENT: &str = "valkey-settings";

/// Settings of a server, changed for a while.
#[derive(Debug, Serialize, Deserialize)]
struct Lent {
    /// Of the process that they belong to: another one has read its configuration anew.
    run_id: String,
    settings: Vec<Setting>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Setting {
    name: String,
    before: String,
    meanwhile: String,
}

/// What is to be read.
pub(super) struct Reread<'a> {
    pub(super) address: &'a Address,
    pub(super) info: &'a Info,
    pub(super) unit: &'a RestoreUnit,
    /// Whether the bytes are kept, so that their number counts as well.
    pub(super) kept: bool,
}

impl Reread<'_> {
    /// Has `work` read the keys as an RDB file. It begins anew, key by key, where a snapshot breaks off.
    pub(super) fn by<T>(
        &self,
        mut work: impl FnMut(Box<dyn Read>) -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        if self.unit.selection.keys.is_empty() && self.info.keys() >= MANY {
            put_back(self.unit, self.address)?;
            let outcome = self.snapshot(&mut work);
            put_back(self.unit, self.address)?;
            match outcome {
                Ok(Some(out)) => return Ok(out),
                Ok(None) => {}
                Err(e @ SourceError::NoSpace(_)) => return Err(e),
                Err(error) => tracing::info!(%error, "no snapshot of Valkey, its keys are read one by one"),
            }
        }
        let wanted = Wanted { selection: self.unit.selection.clone(), at_rest: true };
        match scan::open(self.address, self.info, wanted, &CancellationToken::new())? {
            Ok((scan, _)) => work(Box::new(scan)),
            Err(said) => Err(self.address.refusal("SCAN, DUMP or FUNCTION DUMP", &said)),
        }
    }

    /// `None` where the server gives no snapshot, or not soon.
    fn snapshot<T>(
        &self,
        work: &mut impl FnMut(Box<dyn Read>) -> Result<T, SourceError>,
    ) -> Result<Option<T>, SourceError> {
        let mut raw = Raw::connect(self.address)?;
        self.lend(&mut raw)?;
        let at_once = raw.setting("repl-diskless-sync-delay")?.and_then(|text| text.parse().ok());
        if raw.setting("repl-diskless-sync")?.as_deref() != Some("yes")
            || at_once.is_none_or(|delay: u64| delay > DELAY_MAX)
        {
            return Ok(None);
        }
        match replication::open(self.address, &CancellationToken::new())? {
            Ok(snapshot) => work(Box::new(snapshot)).map(Some),
            Err(why) => {
                tracing::info!(why, "Valkey gives no snapshot");
                Ok(None)
            }
        }
    }

    /// Changes the settings that a snapshot is slow by, as far as the server lets us.
    fn lend(&self, raw: &mut Raw) -> Result<(), SourceError> {
        let compression = (!self.kept).then_some(("rdbcompression", "no"));
        let wanted = [("repl-diskless-sync", "yes"), ("repl-diskless-sync-delay", "0")].into_iter().chain(compression);
        let mut settings = Vec::new();
        for (name, meanwhile) in wanted {
            if let Some(before) = raw.setting(name)?.filter(|before| before != meanwhile) {
                settings.push(Setting { name: name.to_owned(), before, meanwhile: meanwhile.to_owned() });
            }
        }
        if settings.is_empty() {
            return Ok(());
        }
        let lent = Lent { run_id: self.info.text("run_id").to_owned(), settings };
        self.unit.save_note(LENT, &lent).map_err(notes_failed)?;
        for Setting { name, meanwhile, .. } in &lent.settings {
            raw.set(name, meanwhile)?;
        }
        Ok(())
    }
}

/// Gives settings that are still changed their values back.
pub(super) fn put_back(unit: &RestoreUnit, address: &Address) -> Result<(), SourceError> {
    let lent: Option<Lent> = unit.load_note::<Option<Lent>>(LENT).map_err(notes_failed)?.flatten();
    let Some(lent) = lent else { return Ok(()) };
    let outcome = Raw::connect(address).and_then(|mut raw| {
        if raw.info("run_id")? == lent.run_id {
            for Setting { name, before, meanwhile } in &lent.settings {
                // Somebody else's change meanwhile stays.
                if raw.setting(name)?.as_ref() == Some(meanwhile) {
                    raw.set(name, before)?;
                }
            }
        }
        Ok(())
    });
    match outcome {
        Ok(()) => unit.save_note(LENT, &None::<Lent>).map_err(notes_failed),
        // The next verb comes back to it; a server that is started again has its own settings.
        Err(error) => {
            tracing::warn!(%error, "settings of Valkey are not put back yet");
            Ok(())
        }
    }
}
