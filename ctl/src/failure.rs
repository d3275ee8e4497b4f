//! Why a command ended without success: one type for what is printed, what it exits with and what helps.

use prexor_proto::{backup, reason::Reason, status};
use serde::Serialize;

use crate::{exit::Exit, hints::Hint};

/// A command that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the process exits with.
    pub exit: Exit,
    /// A stable word for programs: one of [`Reason`], or one of this program's own (`USAGE`, `UNREACHABLE`, `LOCAL`,
    /// `NOT_CONFIRMED`, `UNKNOWN_VERB`).
    pub reason: String,
    /// What happened, to what.
    pub message: String,
    /// What to do next.
    pub hint: Option<Hint>,
}

/// The form of a failure under `--json`, on standard error: `{"error": {...}}`.
#[derive(Serialize)]
struct FailureView<'a> {
    reason: &'a str,
    message: &'a str,
    hint: Option<String>,
    exit_code: u8,
}

impl Failure {
    fn with(exit: Exit, reason: &str, message: impl Into<String>) -> Self {
        Self { exit, reason: reason.to_owned(), message: message.into(), hint: None }
    }

    /// What was typed cannot be meant.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::with(Exit::Usage, "USAGE", message)
    }

    /// Something on this machine is wrong.
    pub fn local(message: impl Into<String>) -> Self {
        Self::with(Exit::Failed, "LOCAL", message)
    }

    /// It may not be done, or not now.
    pub fn refused(reason: Reason, message: impl Into<String>) -> Self {
        Self::with(Exit::Refused, reason.as_str(), message)
    }

    /// A person was asked and did not say yes.
    pub fn not_confirmed() -> Self {
        Self::with(Exit::Refused, "NOT_CONFIRMED", "not confirmed: nothing was changed")
    }

    /// A person pressed Ctrl-C before anything was done.
    pub fn interrupted() -> Self {
        Self::with(Exit::Detached, "INTERRUPTED", "interrupted: nothing was changed")
    }

    /// The coordinator does not answer.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self { hint: Some(Hint::CoordinatorDown), ..Self::with(Exit::Unreachable, "UNREACHABLE", message) }
    }

    /// Nothing on this machine has this name.
    pub fn not_there(message: impl Into<String>) -> Self {
        Self::with(Exit::NotFound, Reason::NotFound.as_str(), message)
    }

    /// A backup is not as it was written.
    pub fn damaged(message: impl Into<String>) -> Self {
        Self::with(Exit::Failed, Reason::Damaged.as_str(), message)
    }

    /// No verb of ours.
    pub fn unknown_verb(message: impl Into<String>) -> Self {
        Self::with(Exit::UnknownVerb, "UNKNOWN_VERB", message)
    }

    /// The peer broke the contract.
    pub fn contract(error: impl std::fmt::Display) -> Self {
        Self::with(Exit::Failed, Reason::Internal.as_str(), error.to_string())
    }

    /// The coordinator answered a call with an error.
    pub fn of_status(status: &tonic::Status) -> Self {
        let reason = status::reason(status);
        Self { hint: Hint::of(reason), ..Self::with(Exit::of(reason), reason.as_str(), status.message()) }
    }

    /// A job failed.
    pub fn of_job(failure: &backup::Failure) -> Self {
        let reason = Reason::from_word(&failure.reason).unwrap_or(Reason::Internal);
        let message = match failure.node.as_str() {
            "" => failure.message.clone(),
            node if failure.message.contains(node) => failure.message.clone(),
            node => format!("{node}: {}", failure.message),
        };
        Self { hint: Hint::of(reason), ..Self::with(Exit::of(reason), &failure.reason, message) }
    }

    /// The same with this hint.
    pub fn hint(self, hint: Hint) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// The same with this hint for things that are not there.
    pub fn hint_if_not_found(self, hint: Hint) -> Self {
        if self.exit == Exit::NotFound { self.hint(hint) } else { self }
    }

    /// The hint's text, unless the message says it already.
    fn hint_text(&self) -> Option<String> {
        let hint = self.hint.as_ref()?;
        let said = hint.command().is_some_and(|command| self.message.contains(&command));
        (!said).then(|| hint.to_string())
    }

    /// The lines for people: `error: ...`, `hint: ...`.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("error: {}", self.message)];
        lines.extend(self.hint_text().map(|hint| format!("hint: {hint}")));
        lines
    }

    /// The JSON for programs.
    pub fn json(&self) -> serde_json::Value {
        let (reason, message, exit_code) = (self.reason.as_str(), self.message.as_str(), self.exit.code());
        serde_json::json!({"error": FailureView { reason, message, hint: self.hint_text(), exit_code }})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_next_command_once() {
        let status = status::status(Reason::Busy, "job-0123456789ab is making a backup of mongo");
        let failure = Failure::of_status(&status);
        assert_eq!(failure.exit, Exit::Refused);
        assert_eq!(
            failure.lines(),
            [
                "error: job-0123456789ab is making a backup of mongo",
                "hint: `prexorctl job list` shows what is running; try again when it has ended"
            ]
        );
        let status = status::status(Reason::Busy, "busy: see `prexorctl job list`");
        assert_eq!(Failure::of_status(&status).lines(), ["error: busy: see `prexorctl job list`"]);
    }

    #[test]
    fn failures_of_jobs_name_the_node() {
        let failure = backup::Failure { reason: "SOURCE_DENIED".into(), message: "no".into(), node: "h1".into() };
        let failure = Failure::of_job(&failure);
        assert_eq!((failure.message.as_str(), failure.exit), ("h1: no", Exit::Failed));
        let json = failure.json();
        assert_eq!(json["error"]["reason"], "SOURCE_DENIED");
        assert_eq!(json["error"]["exit_code"], 1);
    }
}
