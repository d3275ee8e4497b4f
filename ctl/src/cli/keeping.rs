//! What can be typed about how long backups stay, and how it is known which there are.

use clap::{Args, Subcommand};
use prexor_proto::backup::PruneBackupsRequest;

/// `backup prune`.
#[derive(Debug, Args)]
#[command(
    after_help = "Backups of a class go by its time (hourly 24 h, daily 14 days, weekly 90 days, pre-upgrade until 14 days \
    after a backup of a newer version was verified; see coordinator.yml), the others by --keep-days. The counts keep some \
    of both for longer; they count good backups that hold the same, and times are UTC.\n\nWhatever is asked for, these stay: \
    the newest good backup of everything that it holds, and one that is pinned, damaged, used by a job, or not copied \
    completely. What failed captures have left is removed too."
)]
pub struct PruneArgs {
    /// Keep what is not older than so many days
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_days: Option<u32>,
    /// Keep the newest N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_last: Option<u32>,
    /// Keep the newest of each of N hours that have one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_hourly: Option<u32>,
    /// Keep the newest of each of N days
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_daily: Option<u32>,
    /// Keep the newest of each of N weeks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_weekly: Option<u32>,
    /// Keep the newest of each of N months
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_monthly: Option<u32>,
    /// Keep the newest of each of N years
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_yearly: Option<u32>,
    /// Remove nothing: show what would be, and why
    #[arg(long)]
    pub dry_run: bool,
}

/// What can be done with the coordinator's catalog.
#[derive(Debug, Subcommand)]
pub enum CatalogVerb {
    /// Forget what the catalog says of backups, and read it from the store
    Rebuild,
}

/// `10%` or `10`.
pub(super) fn parse_percent(s: &str) -> Result<u32, String> {
    let percent = s.strip_suffix('%').unwrap_or(s).parse().ok();
    percent.filter(|p| (1..=100).contains(p)).ok_or_else(|| "use a number between 1% and 100%".to_owned())
}

impl PruneArgs {
    /// As it is asked of the coordinator.
    pub fn request(&self) -> PruneBackupsRequest {
        PruneBackupsRequest {
            keep_days: self.keep_days.unwrap_or(0),
            dry_run: self.dry_run,
            keep_last: self.keep_last.unwrap_or(0),
            keep_hourly: self.keep_hourly.unwrap_or(0),
            keep_daily: self.keep_daily.unwrap_or(0),
            keep_weekly: self.keep_weekly.unwrap_or(0),
            keep_monthly: self.keep_monthly.unwrap_or(0),
            keep_yearly: self.keep_yearly.unwrap_or(0),
        }
    }
}
