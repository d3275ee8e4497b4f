//! `prexor-coordinator`: parse, load, check, open, recover, serve until told to stop.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use jiff::Timestamp;
use prexor_coordinator::{
    Context,
    agents::Agents,
    audit,
    ca::Ca,
    catalog::Catalog,
    config::{self, Config},
    enrolment::Tries,
    error::Error,
    grpc,
    jobs::{self, Jobs},
    revocations, startup,
    store::Store,
    tls::Tls,
    verification,
};
use prexor_daemon::{exit, logging, memory, process, shutdown};
use prexor_proto::reason::Reason;
use prexor_transport::{access::Seen, revoked::Revoked, serve};
use tokio::task::JoinSet;

/// Gives large buffers back soon after they are free ([`memory::sparing`]), where glibc's keeps up to 64 MiB of them in
/// each thread's arena.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long running jobs get to end cleanly, below what a service manager waits.
const GRACE: Duration = Duration::from_secs(60);

/// How long open calls get after that.
const DRAIN: Duration = Duration::from_secs(5);

/// Plans, drives and stores backups and restores of a PrexorCloud cluster.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the configuration and exit; touches nothing.
    CheckConfig,
    /// Issue a certificate to an operator, as root on this host: the way back when none is left. The coordinator may run
    /// or not.
    IssueOperator {
        /// The operator's name.
        #[arg(long, value_name = "NAME", default_value = startup::ROOT)]
        name: String,
        /// The context file to write it to [default: the configuration's `operator_config`].
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    process::private_files();
    if let Err(e) = process::no_dumps(true).and_then(|()| process::many_files()) {
        return complain(&format!("the limits of the process cannot be set: {e}"), 1);
    }
    memory::sparing();
    let config = match Config::load(&cli.config) {
        Ok(config) => config,
        Err(e) => return complain(&e.to_string(), exit::CONFIG),
    };
    if matches!(cli.command, Some(Command::CheckConfig)) {
        return ExitCode::SUCCESS;
    }
    if let Err(e) = logging::init(config.log.format, &config.log.filter) {
        return complain(&e.to_string(), exit::CONFIG);
    }
    let done = match cli.command {
        Some(Command::IssueOperator { name, output }) => issue_operator(&config, &name, output),
        _ => run(config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let ours = e.downcast_ref::<Error>();
            // What is on this host does not go with the configuration: a restart will not help.
            let wrong = ours.is_some_and(|e| e.reason == Reason::InvalidRequest);
            complain(&format!("{e:#}"), if wrong { exit::CONFIG } else { 1 })
        }
    }
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    let stop = shutdown::token().context("signals cannot be handled")?;
    let _lock = startup::take_state_dir(&config.state_dir)?;
    let catalog = Catalog::open(&config.catalog_path()).await?;
    let epoch = catalog.begin_epoch(Timestamp::now()).await?;
    let (ca, revoked) = (Ca::open(&config)?, Revoked::default());
    revocations::load(&catalog, &revoked).await?;
    let tls = Tls::open(&config, &ca, &catalog, revoked.clone()).await?;
    let store = Store::open(&config.store.path).await?;
    startup::first_operator(&config, &catalog, &ca).await?;
    let ctx = Arc::new(Context {
        agents: Agents::new(tls.credential(), config.agents, revoked.clone()),
        jobs: Jobs::new(catalog.clone()),
        config,
        epoch,
        catalog,
        store,
        ca,
        revoked,
        tries: Tries::default(),
    });

    let api = serve::listener(ctx.config.listen.api).await?;
    let enrolment = serve::listener(ctx.config.listen.enrolment).await?;
    jobs::recover(&ctx).await?;
    let mut servers = JoinSet::new();
    servers.spawn(grpc::serve_api(ctx.clone(), api, tls.api(), stop.clone()));
    servers.spawn(grpc::serve_enrolment(ctx.clone(), enrolment, tls.enrolment(), stop.clone()));
    tokio::spawn(tls.keep_fresh(ctx.clone(), stop.clone()));
    tokio::spawn(ctx.agents.clone().watch_over(ctx.clone(), stop.clone()));
    tokio::spawn(verification::keep_verifying(ctx.clone(), stop.clone()));
    tracing::info!(api = %ctx.config.listen.api, enrolment = %ctx.config.listen.enrolment, epoch, "coordinator ready");
    process::ready().context("the service manager cannot be told that the coordinator is ready")?;

    // A server that ends by itself takes the others along.
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        Some(ended) = servers.join_next() => ended.context("a server hit a defect")?.context("a server ended"),
    };
    stop.cancel();
    ctx.jobs.shut_down(GRACE).await;
    if tokio::time::timeout(DRAIN, servers.join_all()).await.is_err() {
        tracing::warn!("some calls were still open");
    }
    ctx.catalog.close().await;
    ended
}

#[tokio::main]
async fn issue_operator(config: &Config, name: &str, output: Option<PathBuf>) -> anyhow::Result<()> {
    let file = std::path::absolute(output.unwrap_or_else(|| config.operator_config.clone()))?;
    let catalog = Catalog::open(&config.catalog_path()).await?;
    let ca = Ca::existing(config)?;
    let not_after = startup::write_context(config, &catalog, &ca, name, &file, startup::CONTEXT).await?;
    let subject = format!("operator {name}");
    let seen = Seen { who: None, from: None, action: "issue-operator".to_owned(), subject, outcome: Ok(()) };
    audit::record(&catalog, seen).await;
    catalog.close().await;
    let said = format!("operator {name} until {not_after}: PREXORCTL_CONFIG={}\n", file.display());
    std::io::Write::write_all(&mut std::io::stdout(), said.as_bytes())?;
    Ok(())
}

#[expect(clippy::print_stderr, reason = "what keeps a daemon from starting is told to whoever starts it")]
fn complain(message: &str, code: u8) -> ExitCode {
    eprintln!("prexor-coordinator: {message}");
    ExitCode::from(code)
}
