//! What the kinds of jobs have in common: how each is written down, what it must have to itself, and where its work is.

use std::sync::Arc;

use prexor_format::{artifact::ArtifactKind, class::Class, gzip::Level, id::BackupId};
use prexor_proto::{
    backup::{CreateBackupRequest, JobKind, Plan, StepVerb, VerifyBackupRequest},
    convert::{
        class_from_wire, class_to_wire, compression_from_wire, compression_to_wire, depth_to_wire, kind_from_wire,
        scope_from_wire,
    },
};
use prost::Message as _;

use super::{JobHandle, Outcome, Reading, backup, verify};
use crate::{
    context::Context,
    error::Error,
    restore,
    scope::{Claim, Scope},
};

/// A job's kind, with all that it needs to know.
#[derive(Debug, Clone)]
pub enum Task {
    /// Capture, see `backup`.
    Backup {
        /// What the operator said.
        description: Option<String>,
        /// What to capture; empty: everything that the nodes have.
        scope: Vec<ArtifactKind>,
        /// How hard dumps are compressed, where it is not as the agent is configured.
        compression: Option<Level>,
        /// How long it is to be kept, where that was said.
        class: Option<Class>,
    },
    /// Read a backup and compare it with its manifest, see `verify`.
    Verify(BackupId, Reading),
    /// Execute this plan, see [`restore`].
    Restore(Box<Plan>),
}

impl Task {
    pub(super) fn kind(&self) -> JobKind {
        match self {
            Self::Backup { .. } => JobKind::Backup,
            Self::Verify(..) => JobKind::Verify,
            Self::Restore(_) => JobKind::Restore,
        }
    }

    pub(super) fn backup_id(&self) -> Option<BackupId> {
        match self {
            Self::Backup { .. } => None,
            Self::Verify(id, _) => Some(id.clone()),
            Self::Restore(plan) => plan.backup_id.parse().ok(),
        }
    }

    /// What it has to itself: each kind of artifact that a backup reads, whatever a restore replaces. A database is the
    /// same one from every node; files are each node's own.
    pub(super) fn scope(&self) -> Scope {
        match self {
            Self::Backup { scope, .. } if scope.is_empty() => Scope::everywhere(ArtifactKind::ALL),
            Self::Backup { scope, .. } => Scope::everywhere(scope.iter().copied()),
            Self::Verify(..) => Scope::default(),
            Self::Restore(plan) => restored(plan).unwrap_or_else(|| Scope::everywhere(ArtifactKind::ALL)),
        }
    }

    /// For the catalog: a message of the client API.
    pub(super) fn spec(&self) -> Vec<u8> {
        match self {
            Self::Backup { description, scope, compression, class } => CreateBackupRequest {
                class: class_to_wire(*class).into(),
                request_id: String::new(),
                no_queue: false,
                compression: compression_to_wire(*compression) as i32,
                description: description.clone().unwrap_or_default(),
                scope: scope.iter().map(|k| prexor_proto::convert::kind_to_wire(*k) as i32).collect(),
            }
            .encode_to_vec(),
            Self::Verify(id, reading) => VerifyBackupRequest {
                request_id: String::new(),
                backup_id: id.to_string(),
                depth: depth_to_wire(Some(reading.depth())).into(),
                sample_percent: reading.percent(),
            }
            .encode_to_vec(),
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
                    compression: compression_from_wire(request.compression).map_err(|e| unreadable(&e))?,
                    class: class_from_wire(request.class).map_err(|e| unreadable(&e))?,
                    description: Some(request.description).filter(|d| !d.is_empty()),
                }
            }
            JobKind::Verify => {
                let request = VerifyBackupRequest::decode(spec).map_err(|e| unreadable(&e))?;
                let reading = Reading::asked(&request).map_err(|e| unreadable(&e))?;
                Self::Verify(request.backup_id.parse().map_err(|e| unreadable(&e))?, reading)
            }
            JobKind::Restore => Self::Restore(Box::new(Plan::decode(spec).map_err(|e| unreadable(&e))?)),
            JobKind::Unspecified => return Err(unreadable(&"it has no kind")),
        })
    }

    pub(super) async fn run(self, ctx: &Arc<Context>, job: &JobHandle) -> Outcome {
        match self {
            Self::Backup { description, scope, compression, class } => {
                let order = backup::Order { description, scope, compression, class, safety_of: None };
                backup::run(ctx, job, order).await.into()
            }
            Self::Verify(id, reading) => verify::run(ctx, job, &id, reading).await,
            Self::Restore(plan) => restore::run(ctx, job, &plan).await.into(),
        }
    }
}

/// What a plan replaces, or everything where it stops controllers: two jobs cannot both hold one, and a backup would be of
/// a cluster in between. `None` when the plan says something that this version does not know.
fn restored(plan: &Plan) -> Option<Scope> {
    if plan.steps.iter().any(|step| step.verb() == StepVerb::Hold) {
        return Some(Scope::everywhere(ArtifactKind::ALL));
    }
    let mut claims = Vec::new();
    for replacement in &plan.replacements {
        let kind = kind_from_wire(replacement.kind).ok()?;
        let node = match kind {
            ArtifactKind::Filesystem => Some(replacement.node.parse().ok()?),
            ArtifactKind::Mongo | ArtifactKind::Valkey => None,
        };
        let claim = Claim { kind, node };
        if !claims.contains(&claim) {
            claims.push(claim);
        }
    }
    Some(Scope(claims))
}

#[cfg(test)]
mod tests {
    use prexor_proto::{
        backup::{Replacement, Step},
        convert::kind_to_wire,
    };

    use super::*;

    #[test]
    fn a_restore_has_to_itself_what_it_replaces() {
        let replacement = |kind, node: &str| Replacement {
            kind: kind_to_wire(kind) as i32,
            node: node.to_owned(),
            ..Replacement::default()
        };
        let restore = |replacements| Task::Restore(Box::new(Plan { replacements, ..Plan::default() })).scope();
        let backup = |scope| Task::Backup { description: None, scope, compression: None, class: None }.scope();
        let files = restore(vec![replacement(ArtifactKind::Filesystem, "h1")]);
        assert!(!files.overlaps(&restore(vec![replacement(ArtifactKind::Filesystem, "h2")])));
        assert!(files.overlaps(&backup(vec![ArtifactKind::Filesystem])));
        assert!(!files.overlaps(&backup(vec![ArtifactKind::Mongo])));
        assert!(files.overlaps(&backup(vec![])), "of everything");
        let database = restore(vec![replacement(ArtifactKind::Mongo, "h1")]);
        assert!(database.overlaps(&restore(vec![replacement(ArtifactKind::Mongo, "h2")])), "it is the same one");
        assert!(!files.overlaps(&Task::Verify("bk-2026-05-10-001".parse().unwrap(), Reading::Full).scope()));
        let step = Step { verb: StepVerb::Hold as i32, ..Step::default() };
        let holding = Task::Restore(Box::new(Plan { steps: vec![step], ..Plan::default() })).scope();
        assert!(holding.overlaps(&files) && holding.overlaps(&backup(vec![ArtifactKind::Valkey])));
        let unknown = Replacement { kind: 99, ..Replacement::default() };
        assert!(restore(vec![unknown]).overlaps(&backup(vec![ArtifactKind::Valkey])));
    }
}
