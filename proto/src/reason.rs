//! The reasons that errors carry in `google.rpc.ErrorInfo`: stable words for programs, one list for all services.

use std::fmt;

use tonic::Code;

/// The domain of every [`Reason`].
pub const DOMAIN: &str = "backup.prexorcloud";

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $code:ident;)*) => {
        /// Why a call or a job failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// The gRPC code that goes with it.
            pub fn code(self) -> Code {
                match self { $(Self::$name => Code::$code,)* }
            }
        }
    };
}

reasons! {
    /// The request itself is wrong; repeating it does not help.
    InvalidRequest = "INVALID_REQUEST", InvalidArgument;
    /// No backup, job, node or artifact has this name.
    NotFound = "NOT_FOUND", NotFound;
    /// The caller's identity may not do this.
    NotAllowed = "NOT_ALLOWED", PermissionDenied;
    /// The token is unknown, spent or expired.
    TokenRefused = "TOKEN_REFUSED", Unauthenticated;
    /// Another job holds what this one needs.
    Busy = "BUSY", FailedPrecondition;
    /// The plan cannot be applied: it lists refusals.
    RestoreRefused = "RESTORE_REFUSED", FailedPrecondition;
    /// The facts behind a plan have changed since it was shown.
    PlanChanged = "PLAN_CHANGED", FailedPrecondition;
    /// A caller with an older epoch than the agent has seen.
    Fenced = "FENCED", FailedPrecondition;
    /// An agent does not answer, or its answer broke off.
    AgentUnavailable = "AGENT_UNAVAILABLE", Unavailable;
    /// MongoDB, Valkey or the file tree on the agent's host is not there.
    SourceUnavailable = "SOURCE_UNAVAILABLE", Unavailable;
    /// MongoDB or Valkey refused the agent's credentials.
    SourceDenied = "SOURCE_DENIED", FailedPrecondition;
    /// MongoDB, Valkey or the file tree failed in the middle of the work.
    SourceFailed = "SOURCE_FAILED", Aborted;
    /// What is stored or staged is damaged, or does not fit the target.
    Damaged = "DAMAGED", DataLoss;
    /// A disk is full.
    NoSpace = "NO_SPACE", ResourceExhausted;
    /// The store cannot be read or written.
    StoreUnavailable = "STORE_UNAVAILABLE", Unavailable;
    /// Somebody cancelled it.
    Cancelled = "CANCELLED", Cancelled;
    /// The coordinator ended while the job ran.
    Interrupted = "INTERRUPTED", Aborted;
    /// A defect of ours.
    Internal = "INTERNAL", Internal;
}

impl Reason {
    /// The reason with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|r| r.as_str() == word)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
