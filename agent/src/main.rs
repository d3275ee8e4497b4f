//! `prexor-agent`: parse, load, check, serve until told to stop.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use prexor_agent::{
    config::{self, AgentConfig},
    host::Host,
    report::Report,
    server,
    services::Role,
};
use prexor_daemon::{exit, logging, memory, process, shutdown};

/// Gives large buffers back soon after they are free ([`memory::sparing`]), where glibc's keeps up to 64 MiB of them in
/// each thread's arena.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Captures and restores what PrexorCloud keeps on this host, when the backup coordinator says so.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Log as JSON, one object per line.
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what there is to capture on this host and whether it could be captured now; changes nothing.
    Inspect {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// End a restore's hold of the controller on this host, whatever becomes of the restore; starts nothing.
    Release {
        /// That it is ended here and by hand; the restore itself ends its holds when it is done or taken back.
        #[arg(long, required = true)]
        local: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    process::private_files();
    // Not sealed: capturing files goes through /proc/self, also where the agent is not root.
    if let Err(e) = process::no_dumps(false).and_then(|()| process::many_files()) {
        complain(&format!("the limits of the process cannot be set: {e}"));
        return ExitCode::FAILURE;
    }
    memory::sparing();
    run(cli)
}

#[tokio::main]
async fn run(cli: Cli) -> ExitCode {
    let config = match load(&cli.config) {
        Ok(config) => config,
        Err(message) => {
            complain(&message);
            return ExitCode::from(exit::CONFIG);
        }
    };
    let done = match cli.command {
        None => serve(config, cli.log_json).await.map(|()| ExitCode::SUCCESS),
        Some(Command::Inspect { json }) => inspect(config, json).await,
        Some(Command::Release { local: _ }) => release(config).await,
    };
    done.unwrap_or_else(|e| {
        complain(&format!("{e:#}"));
        ExitCode::FAILURE
    })
}

fn load(path: &std::path::Path) -> Result<AgentConfig, String> {
    let config: AgentConfig = prexor_daemon::config::load(path).map_err(|e| e.to_string())?;
    config.validate().map_err(|e| format!("{}: {e}", path.display()))?;
    let mode = std::fs::metadata(path).map_or(0, |m| std::os::unix::fs::PermissionsExt::mode(&m.permissions()));
    if mode & 0o077 != 0 && (config.mongo.uri.is_some() || config.valkey.uri.is_some()) {
        complain(&format!(
            "{} holds a connection string and others can read it (mode {:03o}): chmod 600 it",
            path.display(),
            mode & 0o777
        ));
    }
    Ok(config)
}

async fn serve(config: AgentConfig, log_json: bool) -> anyhow::Result<()> {
    logging::init(if log_json { logging::Format::Json } else { logging::Format::Text }, "info")?;
    let stop = shutdown::token().context("signals cannot be handled")?;
    let listen = config.listen;
    let keeper = server::keeper(&config)?;
    let host = Arc::new(Host::open(config)?);
    server::serve(host, keeper, listen, stop).await
}

async fn inspect(config: AgentConfig, json: bool) -> anyhow::Result<ExitCode> {
    let report = Report::of(&Host::open(config)?).await;
    let text = if json { serde_json::to_string_pretty(&report)? + "\n" } else { report.text() };
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())?;
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn release(config: AgentConfig) -> anyhow::Result<ExitCode> {
    let host = Host::open(config)?;
    let unfinished = host.restores().unfinished();
    let held = host.holds().release(host.services(), None).await.map_err(|e| anyhow::anyhow!("{e}"))?;
    let start = host.services().start_command(Role::Controller);
    let mut lines = vec![match held {
        Some(hold) => format!("the controller was held for {} and is no more: `{start}` starts it", hold.job_id),
        None => "no hold of the controller is in force".to_owned(),
    }];
    lines.extend(
        unfinished.iter().map(|line| format!("but {line}; a controller that starts now finds data in between")),
    );
    std::io::Write::write_all(&mut std::io::stdout(), (lines.join("\n") + "\n").as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stderr, reason = "what goes wrong before logging starts is told here")]
fn complain(message: &str) {
    eprintln!("prexor-agent: {message}");
}
