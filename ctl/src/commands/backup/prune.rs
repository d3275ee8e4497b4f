//! `prexorctl backup prune`.

use prexor_proto::backup::{PruneBackupsRequest, PrunedBackup};
use serde::Serialize;

use crate::{client::Client, exit::Exit, failure::Failure, printer::Printer, text};

/// What `backup prune --json` prints.
#[derive(Serialize)]
struct Document {
    dry_run: bool,
    removed: Vec<One>,
    kept: Vec<One>,
    /// Of what was removed.
    size_bytes: u64,
    /// What captures that never ended have left: what of it was removed, and what not.
    leftovers_removed: Vec<One>,
    leftovers_kept: Vec<One>,
}

#[derive(Serialize)]
struct One {
    id: String,
    reason: String,
}

/// Removes the backups that have had their time, or shows which these are.
///
/// # Errors
/// When the coordinator cannot be asked, or fails to remove one; what was removed until then is gone.
pub async fn run(printer: &Printer, request: PruneBackupsRequest) -> Result<Exit, Failure> {
    let client = Client::connect().await?;
    let dry_run = request.dry_run;
    let (mut removed, mut leftovers_removed) = (Vec::new(), Vec::new());
    let (kept, leftovers_kept) = loop {
        let answer = client.call_once(request, |s, r| async move { s.backups().prune_backups(r).await }).await?;
        let (went, stay): (Vec<_>, Vec<_>) = answer.backups.into_iter().partition(|b| b.removed);
        removed.extend(went);
        let (went, left): (Vec<_>, Vec<_>) = answer.leftovers.into_iter().partition(|b| b.removed);
        leftovers_removed.extend(went);
        if !answer.more {
            break (stay, left);
        }
    };
    printer.lines(lines(&removed, &kept, dry_run));
    printer.lines(leftover_lines(&leftovers_removed, &leftovers_kept, dry_run));
    let ones = |all: &[PrunedBackup]| {
        all.iter().map(|b| One { id: b.backup_id.clone(), reason: b.reason.clone() }).collect::<Vec<_>>()
    };
    printer.document(&Document {
        dry_run,
        removed: ones(&removed),
        kept: ones(&kept),
        size_bytes: size(&removed),
        leftovers_removed: ones(&leftovers_removed),
        leftovers_kept: ones(&leftovers_kept),
    });
    Ok(Exit::Ok)
}

fn size(removed: &[PrunedBackup]) -> u64 {
    removed.iter().map(|b| b.size_bytes).sum()
}

/// A dry run shows all backups with their reasons, otherwise only what went is of interest.
fn lines(removed: &[PrunedBackup], kept: &[PrunedBackup], dry_run: bool) -> Vec<String> {
    let row = |b: &PrunedBackup| {
        let what = match (b.removed, dry_run) {
            (true, true) => "remove",
            (true, false) => "removed",
            (false, _) => "keep",
        };
        let (created, size) = (text::wire_time(b.created_at.as_ref()), text::bytes(b.size_bytes));
        [b.backup_id.clone(), created, size, what.to_owned(), b.reason.clone()].to_vec()
    };
    let shown: Vec<_> = removed.iter().chain(kept.iter().filter(|_| dry_run)).map(row).collect();
    let mut out = Vec::new();
    if !shown.is_empty() {
        out = text::table(&["ID", "CREATED", "SIZE", "WHAT", "WHY"], shown);
    }
    let (verb, size) = (if dry_run { "would be removed" } else { "removed" }, text::bytes(size(removed)));
    out.push(format!("{} {verb} ({size}), {} kept", text::things(removed.len() as u64, "backup"), kept.len()));
    out
}

/// A line each: there are few.
fn leftover_lines(removed: &[PrunedBackup], kept: &[PrunedBackup], dry_run: bool) -> Vec<String> {
    let verb = if dry_run { "would be removed" } else { "removed" };
    let went = removed.iter().map(|b| format!("{} {verb}: {}", b.backup_id, b.reason));
    went.chain(kept.iter().map(|b| format!("{} stays: {}", b.backup_id, b.reason))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(id: &str, removed: bool, reason: &str) -> PrunedBackup {
        PrunedBackup {
            backup_id: id.into(),
            created_at: Some(prost_types::Timestamp { seconds: 1_778_400_000, nanos: 7 }),
            size_bytes: 142 << 20,
            removed,
            reason: reason.into(),
        }
    }

    #[test]
    fn a_dry_run_gives_a_reason_for_every_backup_and_a_run_shows_what_went() {
        let old = [judged("bk-2026-05-10-001", true, "older than 14 days")];
        let young = [judged("bk-2026-05-10-002", false, "not older than 14 days")];
        assert_eq!(
            lines(&old, &young, true),
            [
                "ID                 CREATED               SIZE     WHAT    WHY",
                "bk-2026-05-10-001  2026-05-10T08:00:00Z  142 MiB  remove  older than 14 days",
                "bk-2026-05-10-002  2026-05-10T08:00:00Z  142 MiB  keep    not older than 14 days",
                "1 backup would be removed (142 MiB), 1 kept",
            ]
        );
        let ran = lines(&old, &young, false);
        assert_eq!(ran.len(), 3);
        assert_eq!(ran[2], "1 backup removed (142 MiB), 1 kept");
        assert_eq!(lines(&[], &young, false), ["0 backups removed (0 B), 1 kept"]);
        assert_eq!(
            leftover_lines(&[judged("bk-1", true, "a")], &[judged("bk-2", false, "b")], true),
            ["bk-1 would be removed: a", "bk-2 stays: b"]
        );
    }
}
