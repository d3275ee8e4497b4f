//! What to do next, as data: every hint that this program gives, and when.

use std::{fmt, path::PathBuf};

use prexor_proto::reason::Reason;

/// What a person could do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// To see which backups there are.
    ListBackups,
    /// To see which jobs there are.
    ListJobs,
    /// To see which contexts there are.
    ListContexts,
    /// To enrol for the first time.
    SetUp,
    /// To see what holds things up.
    WaitForJob,
    /// To see what is wrong.
    Status,
    /// To plan again.
    PlanAgain,
    /// To look at a plan.
    DryRun(String),
    /// To find the damage.
    Verify,
    /// To make another backup.
    CreateBackup,
    /// To make a token.
    CreateToken,
    /// To use another credential.
    OtherCredential,
    /// To start the coordinator.
    CoordinatorDown,
    /// To say yes beforehand.
    Yes,
    /// To get a context file.
    NoContext,
    /// To overwrite.
    Force,
    /// To watch a job again.
    WatchJob(String),
    /// To see what can be said.
    Help,
    /// A verb that is spelled like the one given.
    DidYouMean(String),
    /// To be able to use PrexorCloud's own verbs.
    PlatformCli(Option<PathBuf>),
    /// To read what the agent says.
    Inspect(PathBuf),
}

impl Hint {
    /// The hint for calls and jobs that fail for this reason.
    pub fn of(reason: Reason) -> Option<Self> {
        match reason {
            Reason::Busy => Some(Self::WaitForJob),
            Reason::NotAllowed => Some(Self::OtherCredential),
            Reason::TokenRefused => Some(Self::CreateToken),
            Reason::PlanChanged => Some(Self::PlanAgain),
            Reason::Damaged => Some(Self::Verify),
            Reason::AgentUnavailable
            | Reason::SourceUnavailable
            | Reason::SourceDenied
            | Reason::SourceFailed
            | Reason::StoreUnavailable
            | Reason::NoSpace
            | Reason::Fenced => Some(Self::Status),
            Reason::InvalidRequest
            | Reason::NotFound
            | Reason::RestoreRefused
            | Reason::Cancelled
            | Reason::Interrupted
            | Reason::Internal => None,
        }
    }

    /// The command that the hint names, if it names one.
    pub fn command(&self) -> Option<String> {
        let text = self.to_string();
        text.split('`').nth(1).map(str::to_owned)
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ListBackups => f.write_str("`prexorctl backup list` shows the backups that there are"),
            Self::ListContexts => f.write_str("`prexorctl context list` shows the contexts that there are"),
            Self::SetUp => f.write_str("`prexorctl setup` enrols a host for the first time"),
            Self::ListJobs => f.write_str("`prexorctl job list` shows the jobs that there are"),
            Self::WaitForJob => f.write_str("`prexorctl job list` shows what is running; try again when it has ended"),
            Self::Status => f.write_str("`prexorctl status` shows what is out of order"),
            Self::PlanAgain => f.write_str("run the command again: it shows the new plan before it asks"),
            Self::DryRun(id) => write!(f, "`prexorctl restore {id} --dry-run` shows what would be replaced"),
            Self::Verify => f.write_str("`prexorctl backup verify` names the damaged files of a backup"),
            Self::CreateBackup => f.write_str("`prexorctl backup create` makes the first one"),
            Self::CreateToken => f.write_str("`prexorctl token create` makes a new token; each is good for one use"),
            Self::OtherCredential => f.write_str(
                "use an operator's context: as root on the coordinator's host, or `prexorctl login` with a token; \
                     when no operator is left, `prexor-coordinator issue-operator` there as root",
            ),
            Self::CoordinatorDown => {
                f.write_str("on the coordinator's host, `systemctl status prexor-coordinator` shows whether it runs")
            }
            Self::Yes => f.write_str("add --yes to go ahead without being asked"),
            Self::NoContext => f.write_str(
                "the coordinator writes one at its first start: run this as root there, or set PREXORCTL_CONFIG",
            ),
            Self::Force => f.write_str("add --force to replace it"),
            Self::WatchJob(id) => write!(f, "`prexorctl job watch {id}` goes on watching"),
            Self::Help => f.write_str("`prexorctl --help` lists the commands"),
            Self::DidYouMean(verb) => write!(f, "did you mean `prexorctl {verb}`?"),
            Self::PlatformCli(Some(path)) => {
                write!(f, "for PrexorCloud's own commands set `platform_cli: [COMMAND]` in {}", path.display())
            }
            Self::PlatformCli(None) => {
                f.write_str("for PrexorCloud's own commands set `platform_cli: [COMMAND]` in the context file")
            }
            Self::Inspect(config) => {
                write!(f, "`prexor-agent inspect --config {}` shows what the agent finds", config.display())
            }
        }
    }
}
