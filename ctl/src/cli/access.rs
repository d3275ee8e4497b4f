//! What can be typed about who gets in.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use prexor_format::id::NodeName;

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Make a token, good for enrolling once; it is shown once
    Create {
        /// Why, for the audit trail
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        description: String,
        /// How long it is good: 30m, 1h, 2d
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = super::times::parse_ttl)]
        ttl: Duration,
        /// What it enrols
        #[arg(long, value_enum, default_value_t = TokenRole::Agent)]
        role: TokenRole,
        /// Good for this name only
        #[arg(long, value_name = "NAME")]
        node: Option<NodeName>,
    },
    /// List tokens, newest first; their secrets are nowhere
    List,
    /// Revoke a token that was not used yet
    Revoke {
        /// The token's id, see `token list`
        id: String,
    },
}

/// What a token enrols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TokenRole {
    /// A host.
    Agent,
    /// A person or script.
    Operator,
}

/// `setup`.
#[derive(Debug, Args)]
#[command(after_help = "The token is read from --token-file, from a prompt, or from standard input.")]
pub struct SetupArgs {
    /// The coordinator's enrolment address
    #[arg(long, value_name = "HOST:PORT")]
    pub coordinator: Option<String>,
    /// File that holds the token; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// This host's name in the backup system [default: its host name]
    #[arg(long, value_name = "NAME")]
    pub node: Option<NodeName>,
    /// Where the agent listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:9445")]
    pub listen: std::net::SocketAddr,
    /// Where the coordinator reaches the agent [default: host name and port]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// The agent's configuration, to be written
    #[arg(long, value_name = "FILE", default_value = "/etc/prexor-agent/agent.yml")]
    pub config: PathBuf,
    /// Where the agent keeps its credential and what it stages
    #[arg(long, value_name = "DIR", default_value = "/var/lib/prexor-agent")]
    pub state_dir: PathBuf,
    /// PrexorCloud's controller [default: found by the agent]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Replace an existing configuration and credential
    #[arg(long)]
    pub force: bool,
    /// Get this host a new key and certificate; its configuration and data stay
    #[arg(long, conflicts_with_all = ["force", "root"])]
    pub rejoin: bool,
}

/// `login`.
#[derive(Debug, Args)]
#[command(after_help = "The token is one of `prexorctl token create --role operator`. It is read from\n\
    --token-file, from a prompt, or from standard input.")]
pub struct LoginArgs {
    /// The coordinator's enrolment address
    #[arg(long, value_name = "HOST:PORT")]
    pub coordinator: Option<String>,
    /// File that holds the token; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Your name in the audit log [default: the name you are logged in with]
    #[arg(long, value_name = "NAME", env = "USER", hide_env = true)]
    pub name: Option<NodeName>,
    /// What to call the context [default: the cluster's name]
    #[arg(long, value_name = "NAME")]
    pub context: Option<NodeName>,
}

/// What can be done with contexts.
#[derive(Debug, Subcommand)]
pub enum ContextVerb {
    /// List the contexts of the file in use
    List,
    /// Use this context from now on
    Use {
        /// The context
        name: String,
    },
}

/// What can be done with nodes.
#[derive(Debug, Subcommand)]
pub enum NodeVerb {
    /// Shut a host out at once; it can rejoin with a new token
    Revoke {
        /// The node
        node: NodeName,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// What can be done with operators.
#[derive(Debug, Subcommand)]
pub enum OperatorVerb {
    /// Shut an operator out at once; a new token lets them in again
    Revoke {
        /// The operator
        name: NodeName,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// What can be done with the backup CA.
#[derive(Debug, Subcommand)]
pub enum CaVerb {
    /// Show the root that is trusted, and during a rotation both
    Show,
    /// Replace the root while everything goes on
    #[command(after_help = "Agents move by themselves, operators with the next command that they type. When\n\
        all have moved, the old root is trusted no more.")]
    Rotate {
        /// Finish the rotation; whoever has not moved is shut out
        #[arg(long)]
        finish: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}
