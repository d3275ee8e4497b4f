//! The seam between the agent's RPCs and what it can back up: one trait, implemented by MongoDB, Valkey and files.
//!
//! A source knows its data and nothing of RPCs, jobs or the coordinator.

pub mod files;
pub mod mongo;
pub mod valkey;

use std::collections::BTreeMap;

use async_trait::async_trait;
use prexor_format::{artifact::ArtifactKind, manifest::Contents};
use tokio_util::sync::CancellationToken;

use crate::{arriving::Arriving, restore_unit::RestoreUnit, sink::ArtifactSink};

/// Something that can be captured and restored as one artifact.
///
/// `prepare`, `swap`, `revert` and `commit` may be called again after a crash in the middle of them, and then finish
/// what was begun; calling one whose effect is already there does nothing. They find their way by what they left in
/// the unit ([`RestoreUnit::save_note`]) and by looking at the live data, never by memory. Before `swap` nothing that
/// users see changes; after `swap` and until `commit`, `revert` leads back.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// What it captures.
    fn kind(&self) -> ArtifactKind;

    /// Looks at the live data. What is wrong is told in [`Inspection::problem`], it never fails.
    async fn inspect(&self) -> Inspection;

    /// What the restore laws need to know of the live data, for planning, by the names of `prexor_proto::facts`; empty
    /// where that cannot be told, or not soon.
    async fn inspect_laws(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Streams the live data into `sink`, straight from the source: no temporary copy, constant memory.
    ///
    /// Ends soon after `cancel` fires, and leaves nothing behind then. All files of the sink are finished on success.
    async fn capture(&self, sink: ArtifactSink, cancel: CancellationToken) -> Result<Captured, SourceError>;

    /// Brings the staged artifact ([`RestoreUnit::staged`]) beside the live data, as near to live as possible, and
    /// compares it with the manifest's counts and content digests.
    async fn prepare(&self, unit: &RestoreUnit) -> Result<(), SourceError>;

    /// Whether it would rather read the unit's only file while it arrives ([`Source::prepare_arriving`]) than have it
    /// staged: no second copy on this host's disk, and no time to write and read it.
    async fn takes_arriving(&self, _unit: &RestoreUnit) -> bool {
        false
    }

    /// [`Source::prepare`] of a file while it arrives; a later `prepare` finds its work done. `file` ends only when it is
    /// what the manifest says, and fails when it is cut short: then nothing may be left that `revert` does not remove.
    async fn prepare_arriving(&self, unit: &RestoreUnit, _file: Arriving) -> Result<(), SourceError> {
        Err(SourceError::Failed(format!("{} is restored from staged files alone", unit.artifact.id)))
    }

    /// Exchanges live and prepared data; keeps the old aside.
    async fn swap(&self, unit: &RestoreUnit) -> Result<(), SourceError>;

    /// Undoes `prepare` and `swap`, whole or half done: the old data is live again and nothing of the new is left.
    async fn revert(&self, unit: &RestoreUnit) -> Result<(), SourceError>;

    /// Lets go of the old data.
    async fn commit(&self, unit: &RestoreUnit) -> Result<(), SourceError>;

    /// Compares the live data with the artifact's entry in the manifest, after `swap`. Returns the differences, in
    /// words; empty when equal.
    async fn check(&self, unit: &RestoreUnit) -> Result<Vec<String>, SourceError>;
}

/// What [`Source::inspect`] found. Facts are for planning and for people; their names are in `prexor_proto::facts`.
#[derive(Debug, Clone, Default)]
pub struct Inspection {
    /// What it is, for people: `database prexorcloud on 127.0.0.1:27017`. No secrets.
    pub target: String,
    /// Why a capture would fail now, and what to do about it; `None` when it would work.
    pub problem: Option<String>,
    /// Versions, sizes and settings.
    pub facts: BTreeMap<String, String>,
}

/// What a capture yields beside its files.
#[derive(Debug, Clone)]
pub struct Captured {
    /// The contents for the manifest; paths are relative to the backup's directory.
    pub contents: Contents,
    /// Where the artifact is within the backup: `mongo`, `valkey/dump.rdb`, `filesystem/<node>/etc-prexorcloud.tar.gz`.
    pub path: String,
    /// Name of the format: `mongodump-directory+gzip`, `rdb`, `tar+gzip`.
    pub format: &'static str,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// Why a source could not do what it was asked for. Messages say what happened, to what, and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The server or directory is not there, or went away.
    #[error("{0}")]
    Unavailable(String),
    /// Credentials were refused, or privileges are missing.
    #[error("{0}")]
    Denied(String),
    /// What was staged cannot be restored: damaged, too new, or not this host's.
    #[error("{0}")]
    Invalid(String),
    /// Not enough disk or memory on this host.
    #[error("{0}")]
    NoSpace(String),
    /// Cancelled, or the receiver of the stream went away.
    #[error("cancelled")]
    Cancelled,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}
