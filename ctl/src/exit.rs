//! The exit codes, in one table. Scripts depend on them: they never change their meaning.

use std::process::ExitCode;

use prexor_proto::reason::Reason;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $meaning:literal;)*) => {
        /// How a command ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Exit { $($(#[$doc])* $name,)* }

        impl Exit {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The number that the shell sees.
            pub fn code(self) -> u8 {
                match self { $(Self::$name => $code,)* }
            }

            /// What it means, for people.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }
        }
    };
}

codes! {
    /// It was done.
    Ok = 0, "done";
    /// It was tried and went wrong.
    Failed = 1, "failed, or damage was found";
    /// Nothing was tried.
    Usage = 2, "wrong usage";
    /// Nothing was changed.
    Refused = 3, "refused: not allowed, or not in the present state";
    /// Nothing has this name.
    NotFound = 4, "no such backup, job or node";
    /// Trying again may help.
    Unreachable = 5, "coordinator, agent, datastore or store out of reach";
    /// As of programs that the shell does not find.
    UnknownVerb = 127, "not a verb of ours, and no platform_cli is configured";
    /// As of programs that SIGINT ended.
    Detached = 130, "left with Ctrl-C; a job that was started goes on";
}

impl Exit {
    /// The code for a call or job that failed for this reason.
    pub fn of(reason: Reason) -> Self {
        match reason {
            Reason::InvalidRequest => Self::Usage,
            Reason::NotFound => Self::NotFound,
            Reason::NotAllowed
            | Reason::TokenRefused
            | Reason::Busy
            | Reason::RestoreRefused
            | Reason::PlanChanged
            | Reason::Fenced => Self::Refused,
            Reason::AgentUnavailable | Reason::SourceUnavailable | Reason::StoreUnavailable => Self::Unreachable,
            Reason::SourceDenied
            | Reason::SourceFailed
            | Reason::Damaged
            | Reason::NoSpace
            | Reason::Cancelled
            | Reason::Interrupted
            | Reason::Internal => Self::Failed,
        }
    }
}

/// The table as `--help` shows it.
pub fn help() -> String {
    let line = |exit: &Exit| format!("\n  {:>3}  {}", exit.code(), exit.meaning());
    format!("Exit codes:{}", Exit::ALL.iter().map(line).collect::<String>())
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_scripts_know() {
        let table: Vec<_> = Exit::ALL.iter().map(|e| (e.code(), *e)).collect();
        assert_eq!(
            table,
            [
                (0, Exit::Ok),
                (1, Exit::Failed),
                (2, Exit::Usage),
                (3, Exit::Refused),
                (4, Exit::NotFound),
                (5, Exit::Unreachable),
                (127, Exit::UnknownVerb),
                (130, Exit::Detached),
            ]
        );
        assert!(Reason::ALL.iter().all(|r| Exit::of(*r) != Exit::Ok));
        for exit in Exit::ALL {
            assert!(help().contains(exit.meaning()), "{}", exit.meaning());
        }
    }
}
