//! Valkey: capture against BGSAVE and one read of the file, end to end; the agent's other ways of capturing against
//! `valkey-cli --rdb`, without coordinator, since that program has none either, and by the replication stream end to end
//! too; the reader of the file against the server's own checker; and a restore into a server that keeps running against a
//! server that loads the same file when it starts.

use std::{collections::BTreeMap, fs::File, io, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use prexor_agent::{
    services::{self, Manager, ServicesConfig},
    source::valkey::{CaptureWay, ValkeyConfig, ValkeySource},
};
use prexor_format::rdb;

use super::{
    Bench, data,
    floors::{bgsave, output, persistence},
    report::Row,
};
use crate::{
    capture::to_directory,
    dataset::many_valkey,
    resp::Resp,
    servers::{Valkey, binaries},
};

const SCOPE: &str = "valkey";
const BGSAVE: &str = "BGSAVE and a read";
const CLI: &str = "valkey-cli --rdb";
const REPLICATION: &str = "capture (replication)";
const SCAN: &str = "capture (scan)";
const CHECKER: &str = "valkey-check-rdb";
const READER: &str = "RDB reader";
/// The same once more, beside the capture that it is compared with.
const CLI_AGAIN: &str = "valkey-cli --rdb, again";
const WHOLE_REPLICATION: &str = "capture (replication, end to end)";
const LOAD: &str = "the server's load";
const LIVE: &str = "restore (live)";
const LIVE_EMPTY: &str = "restore (live, into nothing)";
/// The server that loads the file has no append-only files either.
const LIVE_APPENDING: &str = "restore (live, into nothing, appendonly yes)";
const PUT_IN: &str = "its keys put in";

pub(super) async fn measure(bench: &mut Bench<'_>, keys: u32, seed: u64) -> Result<()> {
    bench.say(&format!("generating {keys} keys"));
    data::valkey(&mut connect(bench).await?, keys, seed).await?;
    let server = bench.cluster.valkey.as_ref().context("the benchmark's cluster has Valkey")?;
    let (rdb, uri) = (server.data_dir().join("dump.rdb"), server.uri());
    let dir = tempfile::tempdir()?;
    for turn in 0..bench.repeat {
        let mut resp = quiet(bench).await?;
        let path = rdb.clone();
        let floor = async move {
            bgsave(&mut resp).await?;
            tokio::task::spawn_blocking(move || Ok(io::copy(&mut File::open(path)?, &mut io::sink())?)).await?
        };
        let bytes: u64 = bench.floor(SCOPE, BGSAVE, floor).await?;
        if turn == 0 {
            bench.report.note(format!("valkey: {keys} keys, RDB of {} MiB", bytes >> 20));
        }
        read(bench, &rdb).await?;
        let id = bench.capture(SCOPE).await?;
        bench.floor(SCOPE, CLI, output(cli(bench, dir.path())?)).await?;
        for (name, way) in [(REPLICATION, CaptureWay::Replication), (SCAN, CaptureWay::Scan)] {
            let to = dir.path().join(name);
            bench.floor(SCOPE, name, alone(&uri, way, &to)).await?;
            std::fs::remove_dir_all(to)?;
        }
        bench.restore(SCOPE, "restore", &id).await?;
        bench.delete(&id);
    }
    bench.report.ratio(SCOPE, "capture", BGSAVE, Some(1.3));
    bench.report.ratio(SCOPE, REPLICATION, CLI, Some(1.1));
    bench.report.ratio(SCOPE, SCAN, CLI, None);
    bench.report.ratio(SCOPE, READER, CHECKER, Some(1.0));
    Ok(())
}

/// With an agent that sees nothing of the server but its port: restores into nothing, and over as many live keys.
pub(super) async fn measure_live(bench: &mut Bench<'_>, keys: u32) -> Result<()> {
    let dir = tempfile::tempdir()?;
    // A restore leaves out what controllers make anew: all keys here are a module's, so that all of them come back.
    let mut resp = quiet(bench).await?;
    resp.call(&["FLUSHALL"]).await?;
    many_valkey(&mut resp, keys).await?;
    resp.call(&["CONFIG", "SET", "appendonly", "no"]).await?;
    bench.cluster.forget_valkey_service().await;
    bench.cluster.reconfigure_agent(|text| format!("{text}\nvalkey:\n  capture: replication\n")).await;
    for _ in 0..bench.repeat {
        quiet(bench).await?;
        bench.floor(SCOPE, CLI_AGAIN, output(cli(bench, dir.path())?)).await?;
        let id = bench.capture_as(SCOPE, WHOLE_REPLICATION).await?;
        let file = bench.cluster.backup_dir(&id).join("valkey/dump.rdb");
        // Before and after, and the mean of both: a machine that others use as well is not the same for long.
        let before = load(&file).await?;
        connect(bench).await?.call(&["FLUSHALL"]).await?;
        let steps = bench.restore(SCOPE, LIVE_EMPTY, &id).await?;
        let seconds = (before + load(&file).await?) / 2.0;
        bench.report.add(Row { scope: SCOPE, name: LOAD, seconds, usage: BTreeMap::new() });
        bench.restore(SCOPE, LIVE, &id).await?;
        let Some(&seconds) = steps.get("swap") else { bail!("a restore has a swap: {steps:?}") };
        bench.report.add(Row { scope: SCOPE, name: PUT_IN, seconds, usage: BTreeMap::new() });
        let mut resp = connect(bench).await?;
        resp.call(&["FLUSHALL"]).await?;
        resp.call(&["CONFIG", "SET", "appendonly", "yes"]).await?;
        quiet(bench).await?;
        bench.restore(SCOPE, LIVE_APPENDING, &id).await?;
        resp.call(&["CONFIG", "SET", "appendonly", "no"]).await?;
        bench.delete(&id);
    }
    bench.report.ratio(SCOPE, WHOLE_REPLICATION, CLI_AGAIN, None);
    bench.report.ratio(SCOPE, PUT_IN, LOAD, None);
    bench.report.ratio(SCOPE, LIVE_EMPTY, LOAD, Some(3.0));
    bench.report.ratio(SCOPE, LIVE_APPENDING, LOAD, None);
    bench.report.ratio(SCOPE, LIVE, LOAD, None);
    Ok(())
}

/// The stock way of getting what a replica gets.
fn cli(bench: &Bench<'_>, dir: &Path) -> Result<Command> {
    let server = bench.cluster.valkey.as_ref().context("the benchmark's cluster has Valkey")?;
    Ok(server.cli_command(&["--rdb", &dir.join("cli.rdb").display().to_string()]))
}

/// How many seconds a server takes that is started with this file, by its own log.
async fn load(file: &Path) -> Result<f64> {
    let server = Valkey::builder().setting("save \"\"").rdb(file).start().await;
    loading_took(&server.log()).context("a server tells how long it took to load its file")
}

/// Seconds, by the server's own log.
fn loading_took(log: &str) -> Option<f64> {
    log.lines().find_map(|line| line.split_once("DB loaded from disk: ")?.1.split(' ').next()?.parse().ok())
}

/// Walks the file that the server saved: as it does itself to check one, and as verify does, which also takes digests.
async fn read(bench: &mut Bench<'_>, file: &Path) -> Result<()> {
    let mut checker = Command::new(&binaries().valkey_check_rdb);
    checker.arg(file);
    bench.floor(SCOPE, CHECKER, output(checker)).await?;
    let path = file.to_owned();
    let reader = async { tokio::task::spawn_blocking(move || Ok(rdb::summarise(File::open(path)?)?)).await? };
    bench.timed(SCOPE, READER, reader).await?;
    Ok(())
}

/// The agent's part of a capture, into a directory.
async fn alone(uri: &str, capture: CaptureWay, to: &Path) -> Result<()> {
    let services = services::from_config(&ServicesConfig { manager: Manager::Hooks, ..ServicesConfig::default() })?;
    let config = ValkeyConfig { uri: uri.into(), capture, ..ValkeyConfig::default() };
    to_directory(&ValkeySource::new(config, services), &"h1".parse()?, to).await?;
    Ok(())
}

async fn connect(bench: &Bench<'_>) -> Result<Resp> {
    bench.cluster.resp().await.context("the benchmark's cluster has Valkey")
}

/// A connection to a server that saves nothing of its own accord, neither now nor later. A restart forgets that.
async fn quiet(bench: &Bench<'_>) -> Result<Resp> {
    let mut resp = connect(bench).await?;
    resp.call(&["CONFIG", "SET", "save", ""]).await?;
    resp.call(&["CONFIG", "SET", "auto-aof-rewrite-percentage", "0"]).await?;
    resp.call(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]).await?;
    for busy in ["loading", "rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled"] {
        while persistence(&mut resp, busy).await? != "0" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(resp)
}
