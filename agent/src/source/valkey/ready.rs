//! What comes before a restore into a running server: the backup's file is read through, from where it was staged or while
//! it arrives, and refused while nothing has changed.

use std::fs::File;

use prexor_format::{
    laws::valkey::{Role, State, role},
    rdb::{Entry, Kind, Payload, adds},
    selection::Selection,
};

use super::{
    SourceError, blocking,
    client::Connection,
    keys::{BULK_MAX, file_failed, whole_key},
    laws,
    live::BACKUP,
    restore::Restore,
    verify, versions,
    way::Way,
};
use crate::{arriving::Arriving, restore_unit::RestoreUnit};

/// What the server takes.
struct Takes {
    /// The longest argument, in bytes.
    bulk_max: u64,
    /// The highest RDB version, where that is known.
    highest: Option<u32>,
    /// Name and version, for people.
    server: String,
}

/// The file's keys as they come by.
struct Look<'a> {
    selection: &'a Selection,
    takes: Takes,
    state: State,
    /// What that keeps in mind, in bytes.
    kept: u64,
    /// The RDB version that the covered keys need.
    needed: u16,
}

impl Restore {
    pub(super) async fn prepare_live(self) -> Result<(), SourceError> {
        if self.note::<State>(BACKUP)?.is_some() {
            return Ok(());
        }
        let takes = self.takes().await?;
        let unit = self.unit.clone();
        let state = blocking(move || {
            let staged = unit.staged(verify::described(&unit)?.0);
            let file = File::open(&staged).map_err(|e| file_failed("reading", &staged, &e))?;
            let mut look = Look::new(&unit, takes);
            let each = |entry: &Entry<'_>| look.at(entry, &whole_key(entry, &file, &staged)?);
            verify::staged(&unit, each)?;
            look.state()
        });
        self.keep_note(BACKUP, &state.await?)
    }

    /// Whether the file can be read through while it arrives: it is for a running server, and there is room for it.
    pub(super) async fn takes_arriving(self) -> Result<bool, SourceError> {
        let stored = verify::described(&self.unit)?.0;
        let disk = rustix::fs::statvfs(self.unit.dir()).map_err(|e| SourceError::Failed(e.to_string()))?;
        let roomy = stored.size_bytes <= disk.f_bavail * disk.f_frsize;
        Ok(roomy && self.note::<State>(BACKUP)?.is_none() && self.settled_way().await? == Way::Live)
    }

    pub(super) async fn prepare_arriving(self, file: Arriving) -> Result<(), SourceError> {
        let takes = self.takes().await?;
        let unit = self.unit.clone();
        let state = blocking(move || {
            let mut look = Look::new(&unit, takes);
            verify::arriving(&unit, file, |entry, key| look.at(entry, key))?;
            look.state()
        });
        self.keep_note(BACKUP, &state.await?)
    }

    async fn takes(&self) -> Result<Takes, SourceError> {
        let connection = self.running().await?;
        let info = connection.info().await?;
        if info.text("cluster_enabled") == "1" {
            return Err(SourceError::Invalid(format!(
                "Valkey at {} is a node of a cluster, whose keys are spread over all nodes: that cannot be restored",
                connection.address()
            )));
        }
        self.keep_live(&connection).await?;
        Ok(Takes {
            bulk_max: bulk_max(&connection).await?,
            highest: versions::highest(info.server_name(), info.server_version()),
            server: format!("{} {}", info.server_name(), info.server_version()),
        })
    }
}

async fn bulk_max(connection: &Connection) -> Result<u64, SourceError> {
    let told = connection.setting("proto-max-bulk-len").await?;
    Ok(told.and_then(|text| text.parse().ok()).unwrap_or(BULK_MAX))
}

impl<'a> Look<'a> {
    fn new(unit: &'a RestoreUnit, takes: Takes) -> Self {
        Self { selection: &unit.selection, takes, state: State::default(), kept: 0, needed: 0 }
    }

    /// Takes note of a key, or refuses it; `key` is all of it.
    fn at(&mut self, entry: &Entry<'_>, key: &[u8]) -> Result<(), SourceError> {
        if !self.selection.covers_key(key) {
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
        if Payload::len(entry.serialised_len) > self.takes.bulk_max && !apart {
            return Err(SourceError::Invalid(format!(
                "{} has {} bytes, the server takes {} at once (proto-max-bulk-len), and a value of this type cannot be put in \
                 by parts: raise that for the restore, leave it out with --keys, or restore by exchanging the server's files",
                entry.key.escape_ascii(),
                entry.serialised_len,
                self.takes.bulk_max
            )));
        }
        laws::keep(&mut self.kept, entry.key, "the backup")?;
        // Unpacking a value needs a reader of its own, with its buffer: only for what the laws read.
        let read = matches!(role(entry.key), Some(Role::Counter | Role::Lease));
        let value = if read { entry.string() } else { None };
        self.state.add(entry.db, entry.key, value.as_deref(), entry.expires_at_ms);
        self.needed = self.needed.max(Payload::version_needed(entry.code));
        Ok(())
    }

    /// What the file says to the laws, unless the server is too old for it.
    fn state(self) -> Result<State, SourceError> {
        match self.takes.highest {
            Some(highest) if u32::from(self.needed) > highest => Err(SourceError::Invalid(format!(
                "the backup has keys in an encoding of RDB version {}, {} loads up to version {highest}: restore into a server \
                 like the one that was backed up, or newer",
                self.needed, self.takes.server
            ))),
            _ => Ok(self.state),
        }
    }
}
