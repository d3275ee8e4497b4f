//! The benchmark: what the product takes, end to end, as ratios to the floors of the machine it runs on.
//!
//! Floors and product are timed in turns in one run, so that both meet the same noise; a ratio is the median over the
//! turns. Caches are warm. It fails when something fails, never because something was slow.

mod catalog;
mod data;
mod files;
mod floors;
mod meter;
mod mongo;
mod report;
mod valkey;

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context, Result};

pub use self::report::Report;
use self::{
    meter::{Meter, Processes},
    report::Row,
};
use crate::cluster::Cluster;

/// What to measure, on how much data.
#[derive(Debug, Clone)]
pub struct Options {
    /// MiB of files, or `None` to leave them out.
    pub files: Option<u32>,
    /// MiB of BSON, or `None`.
    pub mongo: Option<u32>,
    /// Keys in Valkey, or `None`.
    pub valkey: Option<u32>,
    /// Backups in the catalog, or `None`.
    pub catalog: Option<u32>,
    /// Of Valkey only restores into a server that keeps running.
    pub live_alone: bool,
    /// The same seed gives the same data, dates aside.
    pub seed: u64,
    /// Turns; ratios are medians over them.
    pub repeat: u32,
}

impl Default for Options {
    /// An installation of a size that people have, in some minutes.
    fn default() -> Self {
        Self {
            files: Some(450),
            mongo: Some(300),
            valkey: Some(300_000),
            catalog: Some(10_000),
            live_alone: false,
            seed: 1,
            repeat: 3,
        }
    }
}

/// Generates the data, measures, and says meanwhile what it does.
///
/// # Errors
/// When data cannot be written or a tool of a floor fails.
///
/// # Panics
/// When a server or a program of ours does not start or fails; its log is in the message.
pub async fn run(options: &Options, say: &dyn Fn(&str)) -> Result<Report> {
    say("starting servers, coordinator and agent");
    let bench = Bench { cluster: Cluster::empty().await, report: Report::new(options), repeat: options.repeat, say };
    let mut bench = bench;
    if let Some(backups) = options.catalog {
        catalog::measure(&mut bench, backups).await?;
    }
    if let Some(mib) = options.files {
        files::measure(&mut bench, mib, options.seed).await?;
    }
    if let Some(mib) = options.mongo {
        mongo::measure(&mut bench, mib, options.seed).await?;
    }
    if let Some(keys) = options.valkey {
        if !options.live_alone {
            valkey::measure(&mut bench, keys, options.seed).await?;
        }
        valkey::measure_live(&mut bench, keys).await?;
    }
    bench.report.finish();
    Ok(bench.report)
}

/// What the scopes' measurements share.
struct Bench<'a> {
    cluster: Cluster,
    report: Report,
    repeat: u32,
    say: &'a dyn Fn(&str),
}

impl Bench<'_> {
    fn say(&self, what: &str) {
        (self.say)(what);
    }

    /// Times a floor: work that the product is compared with.
    async fn floor<T>(
        &mut self,
        scope: &'static str,
        name: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.timed(scope, name, work).await
    }

    /// Times `prexorctl backup create --scope SCOPE` and returns the backup's id.
    async fn capture(&mut self, scope: &'static str) -> Result<String> {
        self.capture_as(scope, "capture").await
    }

    async fn capture_as(&mut self, scope: &'static str, name: &'static str) -> Result<String> {
        let command = self.cluster.ctl_command(&["backup", "create", "--scope", scope, "--json"]);
        let said = self.timed(scope, name, floors::output(command)).await?;
        let said: serde_json::Value = serde_json::from_slice(&said)?;
        Ok(said["id"].as_str().context("a backup has an id")?.to_owned())
    }

    /// Times `prexorctl restore ID --yes`, and returns the seconds of its steps by their verbs.
    async fn restore(&mut self, scope: &'static str, name: &'static str, id: &str) -> Result<BTreeMap<String, f64>> {
        let mut steps = BTreeMap::new();
        let command = self.cluster.ctl_command(&["restore", id, "--safety", "none", "--yes", "--json"]);
        let said: serde_json::Value = serde_json::from_slice(&self.timed(scope, name, floors::output(command)).await?)?;
        for step in said["steps"].as_array().into_iter().flatten() {
            if let (Some(verb), Some(seconds)) = (step["verb"].as_str(), step["seconds"].as_f64()) {
                self.report.step(scope, name, verb, seconds);
                steps.insert(verb.to_owned(), seconds);
            }
        }
        Ok(steps)
    }

    fn delete(&self, id: &str) {
        self.cluster.ctl(&["backup", "delete", id, "--yes"]).ok();
    }

    async fn timed<T>(
        &mut self,
        scope: &'static str,
        name: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        // What was written before must not be written back on the account of what is timed next.
        tokio::task::spawn_blocking(rustix::fs::sync).await?;
        let meter = Meter::start(Processes::of(&self.cluster));
        let begun = Instant::now();
        let done = work.await.with_context(|| format!("{scope}: {name}"))?;
        let seconds = begun.elapsed().as_secs_f64();
        let usage = meter.finish();
        self.say(&format!("{scope}: {name} {seconds:.2} s"));
        self.report.add(Row { scope, name, seconds, usage });
        Ok(done)
    }
}
