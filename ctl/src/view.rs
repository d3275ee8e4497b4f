//! The shapes of what `--json` prints: stable names, every field always there, `null` where there is nothing to say.
//! Times are RFC 3339 in UTC, sizes bytes, enumerations lower-case words.

use jiff::Timestamp;
use prexor_proto::{backup as wire, convert};
use serde::Serialize;

use crate::text;

mod restore;

pub use restore::{PlanView, RestoreView, StepView};

/// A backup: an element of `backup list`, the result of `backup create`.
#[derive(Debug, Serialize)]
pub struct BackupView {
    /// `bk-2026-05-10-001`.
    pub id: String,
    /// `complete` or `damaged`.
    pub state: &'static str,
    /// When its job started.
    pub created_at: Option<Timestamp>,
    /// When its last artifact was stored.
    pub completed_at: Option<Timestamp>,
    /// As stored.
    pub size_bytes: u64,
    /// `mongo`, `valkey`, `filesystem`.
    pub scope: Vec<&'static str>,
    /// The directory in the store.
    pub path: String,
    /// What the operator said at creation.
    pub description: Option<String>,
    /// What an operator should know.
    pub warnings: Vec<String>,
    /// The nodes whose data it holds.
    pub nodes: Vec<String>,
    /// What is wrong with a damaged one.
    pub problem: Option<String>,
    /// When it last passed a verify.
    pub verified_at: Option<Timestamp>,
    /// The restore job that saved here what it replaced.
    pub safety_of: Option<String>,
    /// `hourly`, `daily`, `weekly` or `pre-upgrade`.
    pub class: Option<&'static str>,
    /// Since when nobody may remove it.
    pub pinned_at: Option<Timestamp>,
    /// Who said so.
    pub pinned_by: Option<String>,
    /// Why.
    pub pin_reason: Option<String>,
    /// What it has lost against the one before; it counts as no good one then.
    pub suspect: Option<String>,
    /// Of MongoDB; of what was saved by a restore or imported it is not said.
    pub documents: Option<u64>,
    /// Of Valkey, without those that are true only of the moment; likewise.
    pub keys: Option<u64>,
    /// How much the verify at `verified_at` has read: `full` or `deep`.
    pub verified_depth: Option<&'static str>,
    /// What the newest verify found; it counts as no good one then.
    pub verify_problem: Option<String>,
}

/// A job: an element of `job list`, `job show`, `job cancel`, and `backup create --detach`.
#[derive(Debug, Serialize)]
pub struct JobView {
    /// `job-0123456789ab`.
    pub id: String,
    /// `backup`, `verify` or `restore`.
    pub kind: &'static str,
    /// `queued`, `running`, `succeeded`, `failed` or `cancelled`.
    pub state: &'static str,
    /// The backup that it makes or reads.
    pub backup_id: Option<String>,
    /// The operator's identity.
    pub requested_by: String,
    /// When it was asked for.
    pub created_at: Option<Timestamp>,
    /// When it began to run.
    pub started_at: Option<Timestamp>,
    /// Whom it waits for.
    pub waits_for: Option<String>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Why it failed.
    pub failure: Option<FailureView>,
    /// What came of it.
    pub result: Option<ResultView>,
}

/// Why a job failed.
#[derive(Debug, Serialize)]
pub struct FailureView {
    /// A stable word.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Where.
    pub node: Option<String>,
}

/// What came of a job.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ResultView {
    /// A new backup.
    Backup(Box<BackupView>),
    /// What a verify found.
    Verify(VerifyView),
    /// What a restore did.
    Restore(RestoreView),
}

/// What a verify found; `backup verify` prints it with the backup's id.
#[derive(Debug, Serialize)]
pub struct VerifyView {
    /// Whether all checks passed.
    pub ok: bool,
    /// Each check in order.
    pub checks: Vec<CheckView>,
}

/// One check.
#[derive(Debug, Serialize)]
pub struct CheckView {
    /// `checksums`, `manifest schema`, ...
    pub name: String,
    /// Whether it passed.
    pub ok: bool,
    /// Numbers.
    pub detail: Option<String>,
    /// What is wrong, each naming its file.
    pub problems: Vec<String>,
    /// What was found, in more words than the detail.
    pub notes: Vec<String>,
}

/// The text, unless it is empty.
pub fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The time, if it is there and is one.
pub fn at(t: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    t.and_then(|t| convert::time_from_wire(t).ok())
}

/// The last word of a protobuf enumeration's name, in lower case: `JOB_STATE_RUNNING` is `running`.
pub fn word(name: &'static str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

/// The word for a state of a backup.
pub fn backup_state(state: wire::BackupState) -> &'static str {
    match state {
        wire::BackupState::Complete => "complete",
        wire::BackupState::Damaged => "damaged",
        wire::BackupState::Unspecified => "unknown",
    }
}

/// The word for how much a verify reads.
pub fn depth(depth: wire::VerifyDepth) -> Option<&'static str> {
    match depth {
        wire::VerifyDepth::Sample => Some("sample"),
        wire::VerifyDepth::Full => Some("full"),
        wire::VerifyDepth::Deep => Some("deep"),
        wire::VerifyDepth::Unspecified => None,
    }
}

/// The word for a kind of job.
pub fn job_kind(kind: wire::JobKind) -> &'static str {
    match kind {
        wire::JobKind::Backup => "backup",
        wire::JobKind::Verify => "verify",
        wire::JobKind::Restore => "restore",
        wire::JobKind::Unspecified => "unknown",
    }
}

/// The word for a state of a job.
pub fn job_state(state: wire::JobState) -> &'static str {
    match state {
        wire::JobState::Queued => "queued",
        wire::JobState::Running => "running",
        wire::JobState::Succeeded => "succeeded",
        wire::JobState::Failed => "failed",
        wire::JobState::Cancelled => "cancelled",
        wire::JobState::Paused => "paused",
        wire::JobState::Unspecified => "unknown",
    }
}

/// The word for the role of a service.
pub fn service_role(role: wire::ServiceRole) -> &'static str {
    match role {
        wire::ServiceRole::Controller => "controller",
        wire::ServiceRole::Valkey => "valkey",
        wire::ServiceRole::Unspecified => "unknown",
    }
}

/// The word for the state of a service.
pub fn service_state(state: wire::ServiceState) -> &'static str {
    match state {
        wire::ServiceState::Active => "active",
        wire::ServiceState::Inactive => "inactive",
        wire::ServiceState::Absent => "absent",
        wire::ServiceState::Unspecified => "unknown",
    }
}

impl From<&wire::Backup> for BackupView {
    fn from(b: &wire::Backup) -> Self {
        Self {
            id: b.id.clone(),
            state: backup_state(b.state()),
            created_at: at(b.created_at.as_ref()),
            completed_at: at(b.completed_at.as_ref()),
            size_bytes: b.size_bytes,
            scope: b.scope.iter().map(|k| text::kind_word(*k)).collect(),
            path: b.path.clone(),
            description: some(&b.description),
            warnings: b.warnings.clone(),
            nodes: b.nodes.clone(),
            problem: some(&b.problem),
            verified_at: at(b.verified_at.as_ref()),
            safety_of: some(&b.safety_of),
            class: text::class(b.class),
            pinned_at: b.pin.as_ref().and_then(|pin| at(pin.at.as_ref())),
            pinned_by: b.pin.as_ref().and_then(|pin| some(&pin.by)),
            pin_reason: b.pin.as_ref().and_then(|pin| some(&pin.reason)),
            suspect: some(&b.suspect),
            documents: b.documents,
            keys: b.keys,
            verified_depth: depth(b.verified_depth()),
            verify_problem: some(&b.verify_problem),
        }
    }
}

impl From<&wire::Job> for JobView {
    fn from(j: &wire::Job) -> Self {
        Self {
            id: j.id.clone(),
            kind: job_kind(j.kind()),
            state: job_state(j.state()),
            backup_id: some(&j.backup_id),
            requested_by: j.requested_by.clone(),
            created_at: at(j.created_at.as_ref()),
            started_at: at(j.started_at.as_ref()),
            waits_for: some(&j.waits_for),
            finished_at: at(j.finished_at.as_ref()),
            failure: j.failure.as_ref().map(FailureView::from),
            result: j.result.as_ref().and_then(|r| r.result.as_ref()).map(ResultView::from),
        }
    }
}

impl From<&wire::Failure> for FailureView {
    fn from(f: &wire::Failure) -> Self {
        Self { reason: f.reason.clone(), message: f.message.clone(), node: some(&f.node) }
    }
}

impl From<&wire::job_result::Result> for ResultView {
    fn from(r: &wire::job_result::Result) -> Self {
        match r {
            wire::job_result::Result::Backup(b) => Self::Backup(Box::new(b.into())),
            wire::job_result::Result::Verify(v) => Self::Verify(v.into()),
            wire::job_result::Result::Restore(r) => Self::Restore(r.into()),
        }
    }
}

impl From<&wire::VerifyReport> for VerifyView {
    fn from(v: &wire::VerifyReport) -> Self {
        let check = |c: &wire::Check| CheckView {
            name: c.name.clone(),
            ok: c.ok,
            detail: some(&c.detail),
            problems: c.problems.clone(),
            notes: c.notes.clone(),
        };
        Self { ok: v.ok, checks: v.checks.iter().map(check).collect() }
    }
}
