//! Many backups: what `backup list`, `backup prune --dry-run` and `status` take with so many of them, against none.
//!
//! Two clusters, asked in turns in one run. What is compared are 95th percentiles of whole commands, as people wait for them.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Bench, floors::output, report::Row};
use crate::cluster::Cluster;

const SCOPE: &str = "catalog";
/// How often each command is run on each cluster: the third slowest of 41 is the 95th percentile.
const RUNS: u32 = 41;
/// Backups of a day.
const PER_DAY: u32 = 24;

/// A command, and its names with and without backups.
const COMMANDS: [(&[&str], &str, &str); 4] = [
    (&["backup", "list"], "backup list, full", "backup list, empty"),
    (&["backup", "list", "--json"], "backup list --json, full", "backup list --json, empty"),
    (
        &["backup", "prune", "--keep-days", "14", "--keep-monthly", "12", "--dry-run"],
        "backup prune --dry-run, full",
        "backup prune --dry-run, empty",
    ),
    (&["status"], "status, full", "status, empty"),
];

pub(super) async fn measure(bench: &mut Bench<'_>, backups: u32) -> Result<()> {
    bench.say("starting a second cluster");
    let full = Cluster::empty().await;
    bench.say(&format!("writing {backups} backups"));
    let made = full.ctl(&["backup", "create", "--scope", "filesystem", "--json"]).ok().json();
    let model = made["id"].as_str().context("a backup has an id")?.to_owned();
    multiply(&full.store(), &model, backups)?;
    let begun = Instant::now();
    output(full.ctl_command(&["catalog", "rebuild"])).await?;
    let listed = full.backups().len();
    anyhow::ensure!(listed == backups as usize, "{listed} backups are listed, not {backups}");
    bench
        .report
        .note(format!("catalog: {listed} backups, read from the store in {:.1} s", begun.elapsed().as_secs_f64()));
    for turn in 0..RUNS {
        for (args, name_full, name_empty) in COMMANDS {
            // In turns, and each one first as often as the other.
            let mut both = [(&full, name_full), (&bench.cluster, name_empty)];
            both.rotate_left(turn as usize % 2);
            for (cluster, name) in both {
                let begun = Instant::now();
                output(cluster.ctl_command(args)).await.with_context(|| name.to_owned())?;
                let seconds = begun.elapsed().as_secs_f64();
                bench.report.add(Row { scope: SCOPE, name, seconds, usage: Default::default() });
            }
        }
    }
    for (_, full, empty) in COMMANDS {
        bench.report.p95(SCOPE, full, empty, Some(5.0));
    }
    Ok(())
}

/// Makes so many backups of one: the same manifest under other ids, of days before it, as if they had been made here. Their
/// artifacts are not copied: nothing that is measured reads them.
fn multiply(store: &Path, model: &str, backups: u32) -> Result<()> {
    let mut manifest: Value = serde_json::from_slice(&fs::read(store.join(model).join("manifest.json"))?)?;
    let newest = Timestamp::now();
    for number in 1..backups {
        let (days, of_day) = (number / PER_DAY + 1, number % PER_DAY);
        let at =
            newest - SignedDuration::from_hours(24 * i64::from(days)) + SignedDuration::from_mins(i64::from(of_day));
        let id = format!("bk-{}-{:03}", at.strftime("%Y-%m-%d"), of_day + 1);
        manifest["id"] = json!(id);
        manifest["started_at"] = json!(at.to_string());
        manifest["class"] = json!(["hourly", "daily", "weekly", "pre-upgrade"][number as usize % 4]);
        let directory = store.join(&id);
        fs::create_dir(&directory).with_context(|| id.clone())?;
        fs::write(directory.join("manifest.json"), serde_json::to_vec_pretty(&manifest)?)?;
    }
    Ok(())
}
