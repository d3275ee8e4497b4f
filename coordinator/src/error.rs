//! The one error of the coordinator: a reason for programs, a message for people, and the node it happened on.
//!
//! It knows nothing of gRPC status codes (`grpc` maps them) nor of SQL and object stores (their modules map theirs).

use prexor_proto::{backup::Failure, reason::Reason};

/// Why something could not be done. The message says what happened, to what, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The stable word.
    pub reason: Reason,
    /// For people. No secrets.
    pub message: String,
    /// The node it happened on; `None` for the coordinator itself.
    pub node: Option<String>,
}

impl Error {
    /// An error on the coordinator.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), node: None }
    }

    /// The same error, on this node.
    #[must_use]
    pub fn on(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    /// Somebody cancelled it.
    pub fn cancelled() -> Self {
        Self::new(Reason::Cancelled, "cancelled")
    }

    /// A request that is wrong in itself.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Reason::InvalidRequest, message)
    }

    /// Something that does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Reason::NotFound, message)
    }

    /// A defect of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Reason::Internal, message)
    }

    /// The wire form.
    pub fn to_failure(&self) -> Failure {
        Failure {
            reason: self.reason.as_str().to_owned(),
            message: self.message.clone(),
            node: self.node.clone().unwrap_or_default(),
        }
    }
}
