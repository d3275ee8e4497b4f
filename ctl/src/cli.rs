//! What can be typed, and what it means. Nothing is done here.

use std::{ffi::OsString, fmt, path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;
use prexor_format::{artifact::ArtifactKind, class::Class, id::BackupId};

use crate::exit;

mod access;
mod keeping;
mod times;

pub use keeping::{CatalogVerb, PruneArgs};

pub use access::{CaVerb, ContextVerb, LoginArgs, NodeVerb, OperatorVerb, SetupArgs, TokenRole, TokenVerb};

/// Backs up and restores PrexorCloud clusters.
#[derive(Debug, Parser)]
#[command(name = "prexorctl", version, after_help = exit::help(), max_term_width = 80, subcommand_required = true)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    /// Print JSON for programs, errors included
    #[arg(long, global = true, display_order = 100)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create, list, show, verify, import and delete backups
    #[command(subcommand)]
    Backup(BackupVerb),
    /// Replace live data with that of a backup
    Restore(RestoreArgs),
    /// List, show, watch and cancel what the coordinator works on
    #[command(subcommand)]
    Job(JobVerb),
    /// Show what is out of order, and what there is
    Status,
    /// Make, list and revoke enrolment tokens
    #[command(subcommand)]
    Token(TokenVerb),
    /// Enrol this host as an agent, or let it rejoin
    Setup(SetupArgs),
    /// Enrol yourself as an operator on this machine
    Login(LoginArgs),
    /// List contexts and choose the one to use
    #[command(subcommand)]
    Context(ContextVerb),
    /// Revoke the certificates of a host
    #[command(subcommand)]
    Node(NodeVerb),
    /// Revoke the certificates of an operator
    #[command(subcommand)]
    Operator(OperatorVerb),
    /// Show and replace the backup CA
    #[command(subcommand)]
    Ca(CaVerb),
    /// Read what there is from the store again
    #[command(subcommand)]
    Catalog(CatalogVerb),
    /// Show who did what, newest first
    Audit {
        /// How many entries at most; 0 for all
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Print the completion script of a shell
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Print the version
    Version,
    /// What is handed to PrexorCloud's own CLI.
    #[command(external_subcommand)]
    Platform(Vec<OsString>),
}

/// What can be done with backups.
#[derive(Debug, Subcommand)]
pub enum BackupVerb {
    /// Make a backup; the live data is only read
    Create {
        /// Why, for those who read the list later
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        description: String,
        /// What to capture [default: everything there is]
        #[arg(long, value_delimiter = ',', value_name = "mongo,valkey,filesystem")]
        scope: Vec<ArtifactKind>,
        /// How hard the MongoDB dump is compressed [default: as the agent is
        /// configured]
        #[arg(long, value_enum)]
        compression: Option<Compression>,
        /// How long it is kept: hourly, daily, weekly or pre-upgrade [default:
        /// by the rules in coordinator.yml, else by what prune is given]
        #[arg(long)]
        class: Option<Class>,
        /// Do not wait for the end: print the job
        #[arg(long)]
        detach: bool,
        /// Fail at once when another job is in the way, rather than queue
        #[arg(long)]
        no_queue: bool,
    },
    /// List the backups, newest first
    List {
        /// More columns
        #[arg(long)]
        wide: bool,
    },
    /// Show what a backup holds; with --json its manifest
    Show {
        /// The backup, or `latest`
        #[arg(value_name = "ID|latest")]
        id: Target,
    },
    /// Read all of a backup and check it; nothing is restored
    Verify {
        /// The backup, or `latest`
        #[arg(value_name = "ID|latest")]
        id: Target,
        /// Also compare what the artifacts say with each other: modules with
        /// their jars
        #[arg(long)]
        deep: bool,
        /// Read only files with this part of the bytes, other ones each time:
        /// 10%
        #[arg(long, value_name = "PERCENT", value_parser = keeping::parse_percent, conflicts_with = "deep")]
        sample: Option<u32>,
        /// Say more of what was found, such as the number of keys of each family
        #[arg(long)]
        details: bool,
    },
    /// Read all of a mongodump directory on this host and check it; no server
    /// is asked
    VerifyDump {
        /// What mongodump was given as --out
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Take a mongodump directory on this host in as a backup, which can then be
    /// restored
    Import {
        /// What mongodump was given as --out
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Why, for those who read the list later
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        description: String,
    },
    /// Delete a backup for good
    Delete {
        /// The backup
        id: BackupId,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Remove the backups that have had their time
    Prune(PruneArgs),
    /// Keep a backup until it is unpinned, whatever the rules say
    Pin {
        /// The backup, or `latest`
        #[arg(value_name = "ID|latest")]
        id: Target,
        /// Why, for those who read the list later
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Let a pinned backup go like others
    Unpin {
        /// The backup
        id: BackupId,
    },
    /// Say of a suspect backup that what it has lost was meant to go
    Accept {
        /// The backup
        id: BackupId,
    },
}

/// `restore`.
#[derive(Debug, Args)]
#[command(after_help = "Without --datastores and --filesystem everything in the backup is restored.\n\
    Controllers must be stopped first. A dry run that finds reasons to refuse exits with 3.")]
pub struct RestoreArgs {
    /// The backup, or `latest`
    #[arg(value_name = "ID|latest", required_unless_present = "undo")]
    pub target: Option<Target>,
    /// Bring back the state before this restore, from what it saved
    #[arg(long, value_name = "JOB", conflicts_with_all = ["target", "before"])]
    pub undo: Option<String>,
    /// When to save what is replaced, as a backup that --undo restores
    #[arg(long, value_name = "WHEN", default_value = "after-stop")]
    pub safety: Safety,
    /// With `latest`: the newest one that was completed before this time (UTC)
    #[arg(long, value_name = "TIME", value_parser = times::parse_time)]
    pub before: Option<Timestamp>,
    /// Show what would be replaced; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Restore MongoDB and Valkey
    #[arg(long)]
    pub datastores: bool,
    /// Restore the controllers' files
    #[arg(long)]
    pub filesystem: bool,
    /// Bring Valkey's login lockouts, password resets and plugin tokens back too
    #[arg(long)]
    pub keep_logins: bool,
    /// Restore MongoDB's users and roles too, but for the agent's own account
    #[arg(long)]
    pub users_and_roles: bool,
    /// Restore although a server or a controller has another version than the backup's (law L19)
    #[arg(long)]
    pub accept_versions: bool,
    /// Only the files of this host, and stop no other controller
    #[arg(long = "only-host", value_name = "NAME", conflicts_with_all = ["datastores", "users_and_roles", "keep_logins"])]
    pub only_hosts: Vec<String>,
    /// Without this host, which is gone: nothing is asked of it
    #[arg(long = "without-host", value_name = "NAME")]
    pub without_hosts: Vec<String>,
    /// What happens when it fails after live data has changed
    #[arg(long, value_name = "WHAT", default_value = "roll-back")]
    pub on_failure: OnFailure,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Which part of the backup; with one of these, nothing else is restored.
    #[command(flatten)]
    pub part: PartArgs,
}

/// A part of a backup.
#[derive(Debug, Args)]
#[command(next_help_heading = "A part of the backup (nothing else is restored then)")]
#[group(id = "part", multiple = true, conflicts_with_all = ["datastores", "filesystem"])]
pub struct PartArgs {
    /// This file or directory of the controller's root: config/controller.yml
    #[arg(long, value_name = "PATH")]
    pub paths: Vec<String>,
    /// The controllers' CA and certificates: data/certs/ or config/security/
    #[arg(long)]
    pub certs: bool,
    /// Collections that match: `users`, `mod_chat_*`, `prexorcloud.users`
    #[arg(long = "ns", visible_alias = "ns-include", value_name = "PATTERN")]
    pub namespaces: Vec<String>,
    /// But not collections that match
    #[arg(long, value_name = "PATTERN")]
    pub ns_exclude: Vec<String>,
    /// Restore collections that match under another name, see --ns-to
    #[arg(long, value_name = "PATTERN", requires = "ns_to")]
    pub ns_from: Vec<String>,
    /// The other name, with as many `*` as --ns-from
    #[arg(long, value_name = "PATTERN", requires = "ns_from")]
    pub ns_to: Vec<String>,
    /// Valkey keys that match, as in SCAN MATCH: `prexor:v1:platform:chat:*`
    #[arg(long, value_name = "PATTERN")]
    pub keys: Vec<String>,
}

/// What becomes of a restore that fails half way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnFailure {
    /// Everything is taken back and the controllers are started.
    RollBack,
    /// It pauses with the controllers held; `job resume` goes on, `job cancel` takes it back.
    Hold,
}

/// When a restore saves what it replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Safety {
    /// Once the controllers are stopped: nothing is lost, and they stay stopped for longer.
    AfterStop,
    /// While they run: what they write from then on is lost.
    BeforeStop,
    /// Never: the restore cannot be undone.
    None,
}

/// How hard to compress; all are gzip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// Half the time of `balanced`, a quarter more in size.
    Fast,
    /// The size of `gzip -6`.
    Balanced,
    /// The smallest, in two to three times the time of `balanced`.
    Small,
}

/// Which backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The newest complete one.
    Latest,
    /// This one.
    Id(BackupId),
}

/// What can be done with jobs.
#[derive(Debug, Subcommand)]
pub enum JobVerb {
    /// List jobs, newest first
    List {
        /// How many at most; 0 for all
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show a job
    Show {
        /// The job
        id: String,
    },
    /// Watch a job to its end; with --json one event per line
    Watch {
        /// The job
        id: String,
    },
    /// Let a restore go on that is paused, and watch it
    Resume {
        /// The job
        id: String,
        /// Go on without this host, which does not come back; its controller stays held
        #[arg(long = "without-host", value_name = "NAME")]
        without_hosts: Vec<String>,
    },
    /// Cancel a job; what it has begun is taken back
    Cancel {
        /// The job
        id: String,
    },
}

/// Shells that there are completions for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

impl FromStr for Target {
    type Err = prexor_format::id::InvalidBackupId;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s == "latest" { Ok(Self::Latest) } else { s.parse().map(Self::Id) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Id(id) => id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_consistent_and_fits_80_columns() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        command.build();
        let mut todo = vec![command];
        while let Some(mut command) = todo.pop() {
            let help = command.render_long_help().to_string();
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
            }
            todo.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn the_guide_is_typed_as_it_stands() {
        for line in [
            "prexorctl backup create --description pre-1.0.1-upgrade",
            "prexorctl backup list",
            "prexorctl backup list --json",
            "prexorctl backup verify bk-2026-05-10-001",
            "prexorctl backup verify latest",
            "prexorctl backup verify latest --deep",
            "prexorctl backup verify latest --sample 10%",
            "prexorctl backup show latest --json",
            "prexorctl backup create --no-queue",
            "prexorctl backup create --class pre-upgrade",
            "prexorctl backup prune",
            "prexorctl backup prune --keep-days 14",
            "prexorctl backup prune --keep-last 3 --keep-monthly 12 --dry-run",
            "prexorctl backup pin latest --reason audit",
            "prexorctl backup unpin bk-2026-05-10-001",
            "prexorctl backup accept bk-2026-05-10-001",
            "prexorctl backup verify-dump /srv/dump --json",
            "prexorctl backup import --description old /srv/dump",
            "prexorctl backup create --compression small",
            "prexorctl restore latest --users-and-roles",
            "prexorctl restore bk-2026-05-10-001 --dry-run",
            "prexorctl restore bk-2026-05-10-001 --datastores --filesystem",
            "prexorctl restore latest --before 2026-05-10",
            "prexorctl token create --description rejoin --ttl 1h",
            "prexorctl backup create --scope mongo,valkey --scope filesystem --detach --json",
            "prexorctl status --json",
            "prexorctl --json job list --limit 0",
            "prexorctl catalog rebuild",
            "prexorctl setup --rejoin",
            "prexorctl node revoke h1 --yes",
            "prexorctl completion zsh",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (line, word) in [
            ("prexorctl backup show ../etc", "bk-2026-05-10-001"),
            ("prexorctl backup show bk-2026-05-10-001/..", "backup list"),
            ("prexorctl backup delete latest", "not a backup id"),
            ("prexorctl backup create --scope redis", "filesystem"),
            ("prexorctl backup create --class often", "pre-upgrade"),
            ("prexorctl backup prune --keep-last 0", "0 is not in 1.."),
            ("prexorctl backup unpin latest", "not a backup id"),
            ("prexorctl backup verify latest --sample 0%", "between 1% and 100%"),
            ("prexorctl backup verify latest --sample 10% --deep", "cannot be used with"),
            ("prexorctl backup create --scope ", "filesystem"),
            ("prexorctl restore latest --before yesterday", "2026-05-10"),
            ("prexorctl token create --ttl 0h", "30m"),
            ("prexorctl token create --ttl=-1h", "30m"),
            ("prexorctl token create --node ../x", "not a node name"),
            ("prexorctl restore", "ID|latest"),
            ("prexorctl completion tcsh", "bash"),
            ("prexorctl setup --rejoin --force", "cannot be used with"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn other_verbs_are_taken_whole() {
        let cli = parse("prexorctl group list --json --since x").unwrap();
        assert!(matches!(&cli.verb, Verb::Platform(argv) if argv.len() == 5), "{cli:?}");
        assert!(!cli.json);
    }
}
