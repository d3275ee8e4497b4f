//! The shapes of what `--json` prints: stable names, every field always there, `null` where there is nothing to say.
//! Times are RFC 3339 in UTC, sizes bytes, enumerations lower-case words.

use jiff::Timestamp;
use prexor_proto::{backup as wire, convert};
use serde::Serialize;

use crate::text;

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

/// What a restore did.
#[derive(Debug, Serialize)]
pub struct RestoreView {
    /// What is left to do for a person.
    pub after: Option<String>,
    /// With the state of before; `restore --undo` restores it.
    pub safety_backup: Option<String>,
    /// The steps by number.
    pub steps: Vec<StepTimeView>,
}

/// How long a step took.
#[derive(Debug, Serialize)]
pub struct StepTimeView {
    /// As in the plan.
    pub number: u32,
    /// In seconds.
    pub seconds: f64,
}

/// A plan: `restore --dry-run`.
#[derive(Debug, Serialize)]
pub struct PlanView {
    /// What would be restored.
    pub backup_id: String,
    /// SHA-256 over the rest, hex.
    pub digest: String,
    /// What would be replaced.
    pub replacements: Vec<ReplacementView>,
    /// In the order of their execution.
    pub steps: Vec<StepView>,
    /// What an operator should know beforehand.
    pub notes: Vec<String>,
    /// What will not be as in the backup, by the restore laws.
    pub corrections: Vec<String>,
    /// Why it cannot be applied; empty when it can.
    pub refusals: Vec<RefusalView>,
    /// What would be left to do for a person.
    pub after: Option<String>,
}

/// Something that a restore replaces.
#[derive(Debug, Serialize)]
pub struct ReplacementView {
    /// `mongo`, `valkey` or `filesystem`.
    pub kind: &'static str,
    /// Where.
    pub node: String,
    /// What is there now.
    pub target: String,
    /// Its size and age, in words.
    pub current: String,
    /// What comes in its place, in words.
    pub incoming: String,
    /// Bytes that travel to the node.
    pub size_bytes: u64,
    /// What of it is restored; empty for all.
    pub parts: Vec<String>,
}

/// A step of a plan.
#[derive(Debug, Serialize)]
pub struct StepView {
    /// From 1.
    pub number: u32,
    /// `preflight`, `stage`, `prepare`, `hold`, `silence`, `safety`, `swap`, `check`, `start`, `release` or `commit`.
    pub verb: String,
    /// Where.
    pub node: Option<String>,
    /// Of what.
    pub artifact_id: Option<String>,
    /// For people.
    pub title: String,
    /// Whether live data changes.
    pub destructive: bool,
}

/// Why a plan cannot be applied.
#[derive(Debug, Serialize)]
pub struct RefusalView {
    /// The law behind it: `L14`.
    pub law: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
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

impl From<&wire::RestoreReport> for RestoreView {
    fn from(r: &wire::RestoreReport) -> Self {
        let seconds =
            |s: &wire::StepResult| s.duration.as_ref().map_or(0.0, |d| convert::duration_from_wire(d).as_secs_f64());
        let steps = r.steps.iter().map(|s| StepTimeView { number: s.number, seconds: seconds(s) }).collect();
        Self { after: some(&r.after), safety_backup: some(&r.safety_backup), steps }
    }
}

impl From<&wire::Step> for StepView {
    fn from(s: &wire::Step) -> Self {
        Self {
            number: s.number,
            verb: word(s.verb().as_str_name(), "STEP_VERB_"),
            node: some(&s.node),
            artifact_id: some(&s.artifact_id),
            title: s.title.clone(),
            destructive: s.destructive,
        }
    }
}

impl From<&wire::Plan> for PlanView {
    fn from(p: &wire::Plan) -> Self {
        let replacement = |r: &wire::Replacement| ReplacementView {
            kind: text::kind_word(r.kind),
            node: r.node.clone(),
            target: r.target.clone(),
            current: r.current.clone(),
            incoming: r.incoming.clone(),
            size_bytes: r.size_bytes,
            parts: r.parts.clone(),
        };
        let refusal = |r: &wire::Refusal| RefusalView { law: some(&r.law), message: r.message.clone() };
        Self {
            backup_id: p.backup_id.clone(),
            digest: p.digest.iter().map(|b| format!("{b:02x}")).collect(),
            replacements: p.replacements.iter().map(replacement).collect(),
            steps: p.steps.iter().map(StepView::from).collect(),
            notes: p.notes.clone(),
            corrections: p.corrections.clone(),
            refusals: p.refusals.iter().map(refusal).collect(),
            after: some(&p.after),
        }
    }
}
