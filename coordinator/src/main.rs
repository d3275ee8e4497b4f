//! `prexor-coordinator`: parse, load, check, open, recover, serve until told to stop.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use jiff::Timestamp;
use prexor_coordinator::{
    Context,
    agents::Agents,
    catalog::Catalog,
    config::{self, Config},
    error::Error,
    grpc,
    jobs::{self, Jobs},
    startup,
    store::Store,
    tls::Tls,
};
use prexor_daemon::{exit, logging, memory, process, shutdown};
use prexor_proto::reason::Reason;
use prexor_transport::serve;
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
    match run(config) {
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
    let authority = startup::authority(&config)?;
    let tls = Tls::open(&config, &authority)?;
    let store = Store::open(&config.store.path).await?;
    startup::first_operator(&config, &catalog, &authority).await?;
    let ctx = Arc::new(Context {
        agents: Agents::new(tls.credential(), config.agents),
        jobs: Jobs::new(catalog.clone()),
        config,
        epoch,
        catalog,
        store,
        authority,
    });

    let api = serve::listener(ctx.config.listen.api).await?;
    let enrolment = serve::listener(ctx.config.listen.enrolment).await?;
    jobs::recover(&ctx).await?;
    let mut servers = JoinSet::new();
    servers.spawn(grpc::serve_api(ctx.clone(), api, tls.api(), stop.clone()));
    servers.spawn(grpc::serve_enrolment(ctx.clone(), enrolment, tls.enrolment(), stop.clone()));
    tokio::spawn(tls.keep_fresh(ctx.clone(), stop.clone()));
    tokio::spawn(ctx.agents.clone().watch_over(ctx.catalog.clone(), stop.clone()));
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

#[expect(clippy::print_stderr, reason = "what keeps a daemon from starting is told to whoever starts it")]
fn complain(message: &str, code: u8) -> ExitCode {
    eprintln!("prexor-coordinator: {message}");
    ExitCode::from(code)
}
