//! What the kinds of jobs have in common: how each is written down, what it must have to itself, and where its work is.

use std::sync::Arc;

use prexor_format::{artifact::ArtifactKind, id::BackupId};
use prexor_proto::{
    backup::{CreateBackupRequest, JobKind, JobResult, Plan, VerifyBackupRequest, job_result},
    convert::scope_from_wire,
};
use prost::Message as _;

use super::{JobHandle, Outcome, backup, verify};
use crate::{context::Context, error::Error, restore};

/// A job's kind, with all that it needs to know.
#[derive(Debug, Clone)]
pub enum Task {
    /// Capture, see `backup`.
    Backup {
        /// What the operator said.
        description: Option<String>,
        /// What to capture; empty: everything that the nodes have.
        scope: Vec<ArtifactKind>,
    },
    /// Read a backup and compare it with its manifest, see `verify`.
    Verify(BackupId),
    /// Execute this plan, see [`restore`].
    Restore(Box<Plan>),
}

impl Task {
    pub(super) fn kind(&self) -> JobKind {
        match self {
            Self::Backup { .. } => JobKind::Backup,
            Self::Verify(_) => JobKind::Verify,
            Self::Restore(_) => JobKind::Restore,
        }
    }

    pub(super) fn backup_id(&self) -> Option<BackupId> {
        match self {
            Self::Backup { .. } => None,
            Self::Verify(id) => Some(id.clone()),
            Self::Restore(plan) => plan.backup_id.parse().ok(),
        }
    }

    /// What no other job may hold at the same time: each kind of artifact for backups of it, all for a restore.
    pub(super) fn leases(&self) -> Vec<&'static str> {
        let all = || ArtifactKind::ALL.iter().map(|k| k.as_str()).collect();
        match self {
            Self::Backup { scope, .. } if !scope.is_empty() => scope.iter().map(|k| k.as_str()).collect(),
            Self::Backup { .. } | Self::Restore(_) => all(),
            Self::Verify(_) => Vec::new(),
        }
    }

    /// For the catalog: a message of the client API.
    pub(super) fn spec(&self) -> Vec<u8> {
        match self {
            Self::Backup { description, scope } => CreateBackupRequest {
                request_id: String::new(),
                description: description.clone().unwrap_or_default(),
                scope: scope.iter().map(|k| prexor_proto::convert::kind_to_wire(*k) as i32).collect(),
            }
            .encode_to_vec(),
            Self::Verify(id) => {
                VerifyBackupRequest { request_id: String::new(), backup_id: id.to_string() }.encode_to_vec()
            }
            Self::Restore(plan) => plan.encode_to_vec(),
        }
    }

    /// Whether this restores by the plan with this digest.
    pub fn is_plan_with(&self, digest: &[u8]) -> bool {
        matches!(self, Self::Restore(plan) if plan.digest == digest)
    }

    /// Out of the catalog.
    ///
    /// # Errors
    /// When a newer version wrote it.
    pub fn read(kind: JobKind, spec: &[u8]) -> Result<Self, Error> {
        let unreadable = |e: &dyn std::fmt::Display| Error::internal(format!("a recorded job cannot be read: {e}"));
        Ok(match kind {
            JobKind::Backup => {
                let request = CreateBackupRequest::decode(spec).map_err(|e| unreadable(&e))?;
                Self::Backup {
                    scope: scope_from_wire(&request.scope).map_err(|e| unreadable(&e))?,
                    description: Some(request.description).filter(|d| !d.is_empty()),
                }
            }
            JobKind::Verify => {
                let request = VerifyBackupRequest::decode(spec).map_err(|e| unreadable(&e))?;
                Self::Verify(request.backup_id.parse().map_err(|e| unreadable(&e))?)
            }
            JobKind::Restore => Self::Restore(Box::new(Plan::decode(spec).map_err(|e| unreadable(&e))?)),
            JobKind::Unspecified => return Err(unreadable(&"it has no kind")),
        })
    }

    pub(super) async fn run(self, ctx: &Arc<Context>, job: &JobHandle) -> Outcome {
        match self {
            Self::Backup { description, scope } => backup::run(ctx, job, description, &scope).await.into(),
            Self::Verify(id) => verify::run(ctx, job, &id).await,
            Self::Restore(plan) => {
                let report = restore::run(ctx, job, &plan).await;
                report.map(|r| JobResult { result: Some(job_result::Result::Restore(r)) }).into()
            }
        }
    }
}
