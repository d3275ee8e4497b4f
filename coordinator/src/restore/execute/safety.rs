//! The backup of what a restore replaces, by which it can be undone (law L24).

use std::collections::BTreeSet;

use prexor_format::artifact::ArtifactKind;
use prexor_proto::{backup::Backup, convert::kind_from_wire, reason::Reason};

use super::Execution;
use crate::{backups, error::Error, jobs};

impl Execution<'_> {
    /// What is replaced.
    pub(super) fn kinds(&self) -> Result<Vec<ArtifactKind>, Error> {
        let kinds = self.plan.replacements.iter().map(|r| kind_from_wire(r.kind));
        let kinds = kinds.collect::<Result<BTreeSet<_>, _>>().map_err(|e| Error::internal(e.to_string()))?;
        Ok(kinds.into_iter().collect())
    }

    /// L24: the way back that is there when everything is committed.
    pub(super) async fn save_live(&self) -> Result<(), Error> {
        let saved = jobs::safety(self.ctx, self.job, self.kinds()?, &self.id).await.map_err(|e| {
            let message = format!(
                "the live state cannot be saved, which --safety none would do without (and without a way to undo the restore): {}",
                e.message
            );
            if e.reason == Reason::Cancelled { e } else { Error { message, ..e } }
        })?;
        if let Some(backup) = saved {
            self.job.message(format!("the state before this restore is saved as {}", backup.id)).await;
        }
        Ok(())
    }

    /// What this restore has saved of the state before it.
    pub(super) async fn saved(&self) -> Option<Backup> {
        let saved = backups::safety_of(self.ctx, self.job.id()).await;
        saved
            .inspect_err(|e| tracing::error!(job = self.job.id(), "its safety backup cannot be looked up: {e}"))
            .ok()?
    }

    /// What was saved is live again.
    pub(super) async fn nothing_to_undo(&self) {
        let Some(saved) = self.saved().await else { return };
        match saved.id.parse() {
            Ok(id) => backups::discard(self.ctx, &id).await,
            Err(e) => tracing::error!(job = self.job.id(), "its safety backup cannot be removed: {e}"),
        }
    }
}
