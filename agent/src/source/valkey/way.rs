//! Which of the two ways a restore takes: the server's files exchanged while it is down, or keys replaced while it runs.

use std::path::Path;

use prexor_format::selection::Selection;
use serde::{Deserialize, Serialize};

use super::{SourceError, ValkeySource, client::Connection, restore::Restore};
use crate::{
    restore_unit::RestoreUnit,
    services::{Role, ServiceState},
};

/// Note: the way that was chosen.
const WAY: &str = "valkey-way";

/// See the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    /// Stop, exchange files, start. For everything.
    Files,
    /// Key by key, into a server that runs.
    Live,
}

impl Way {
    /// As `prexor_proto::facts::RESTORE_WAY` has it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Live => "live",
        }
    }
}

impl ValkeySource {
    /// The way for all of a backup, and why not the files' where it is not.
    pub(super) async fn way(&self, connection: &Connection) -> Result<(Way, String), SourceError> {
        let live = |why: String| Ok((Way::Live, why));
        match self.services.state(Role::Valkey).await {
            Ok(ServiceState::Absent) => return live("the agent knows no service of Valkey to stop and start".into()),
            Ok(ServiceState::Active | ServiceState::Inactive) => {}
            Err(e) => return live(format!("the state of Valkey's service is not known: {e}")),
        }
        if watched(connection).await? {
            return live("a Sentinel would put a replica in the server's place while it is down".into());
        }
        match self.site(connection).await.and_then(|site| writable(&site.dir)) {
            Ok(()) => Ok((Way::Files, String::new())),
            Err(SourceError::Denied(_)) => live("the server's data directory is not within the agent's reach".into()),
            Err(e) => Err(e),
        }
    }
}

/// Whether Sentinels watch this server.
async fn watched(connection: &Connection) -> Result<bool, SourceError> {
    // An account that may not ask this is no reason to take a Sentinel for granted.
    let answer = connection.ask::<(String, u64)>("PUBSUB", &["NUMSUB", "__sentinel__:hello"]).await;
    match answer {
        Ok(Ok((_, subscribers))) => Ok(subscribers > 0),
        Ok(Err(_)) | Err(SourceError::Denied(_)) => Ok(false),
        Err(e) => Err(e),
    }
}

fn writable(dir: &Path) -> Result<(), SourceError> {
    let denied = |e: rustix::io::Errno| SourceError::Denied(format!("{}: {e}", dir.display()));
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).map_err(denied)
}

impl Restore {
    pub(super) async fn prepare(self) -> Result<(), SourceError> {
        match self.settled_way().await? {
            Way::Files => self.prepare_files().await,
            Way::Live => self.prepare_live().await,
        }
    }

    /// The way that was chosen, now or earlier.
    pub(super) async fn settled_way(&self) -> Result<Way, SourceError> {
        if let Some(way) = chosen(&self.unit)? {
            return Ok(way);
        }
        let way = self.choose(&self.unit.selection).await?;
        self.keep_note(WAY, &way)?;
        Ok(way)
    }

    async fn choose(&self, selection: &Selection) -> Result<Way, SourceError> {
        if !selection.keys.is_empty() {
            return Ok(Way::Live);
        }
        let connection = self.running().await?;
        Ok(self.source.way(&connection).await?.0)
    }

    pub(super) async fn swap(self) -> Result<(), SourceError> {
        match chosen(&self.unit)? {
            Some(Way::Files) => self.swap_files().await,
            Some(Way::Live) => self.swap_live().await,
            None => Err(SourceError::Invalid("Valkey's restore is not prepared".into())),
        }
    }

    pub(super) async fn revert(self) -> Result<(), SourceError> {
        match chosen(&self.unit)? {
            Some(Way::Files) => self.revert_files().await,
            Some(Way::Live) => self.revert_live().await,
            None => Ok(()),
        }
    }

    pub(super) async fn commit(self) -> Result<(), SourceError> {
        match chosen(&self.unit)? {
            Some(Way::Files) => self.commit_files().await,
            Some(Way::Live) => self.commit_live().await,
            None => Err(SourceError::Failed("Valkey's restore was not swapped in, there is nothing to commit".into())),
        }
    }

    pub(super) async fn check(self) -> Result<Vec<String>, SourceError> {
        match chosen(&self.unit)? {
            Some(Way::Live) => self.check_live().await,
            Some(Way::Files) | None => self.check_files().await,
        }
    }
}

fn chosen(unit: &RestoreUnit) -> Result<Option<Way>, SourceError> {
    unit.load_note(WAY).map_err(super::restore::notes_failed)
}
