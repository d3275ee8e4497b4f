//! `prexorctl backup verify`.

use prexor_proto::backup::{Check, VerifyBackupRequest, VerifyDepth, VerifyReport, job_result};
use serde::Serialize;

use crate::{
    cli::Target,
    client::{self, Client},
    commands::outcome,
    exit::Exit,
    failure::Failure,
    hints::Hint,
    printer::Printer,
    view::VerifyView,
};

/// What `backup verify --json` prints.
#[derive(Serialize)]
struct Document<'a> {
    backup_id: &'a str,
    job_id: &'a str,
    #[serde(flatten)]
    report: VerifyView,
}

/// The request to read all of a backup, to compare besides, or to read so many percent of it.
pub fn request(id: &Target, deep: bool, sample: Option<u32>) -> VerifyBackupRequest {
    let depth = match (deep, sample) {
        (true, _) => VerifyDepth::Deep,
        (false, Some(_)) => VerifyDepth::Sample,
        (false, None) => VerifyDepth::Full,
    };
    VerifyBackupRequest {
        request_id: client::request_id(),
        backup_id: id.to_string(),
        depth: depth.into(),
        sample_percent: sample.unwrap_or(0),
    }
}

/// Checks a backup and prints what was found.
///
/// # Errors
/// When it is damaged, or could not be checked.
pub async fn run(printer: &Printer, request: VerifyBackupRequest, details: bool) -> Result<Exit, Failure> {
    let client = Client::connect().await?;
    let asked = client.call(request, |s, r| async move { s.backups().verify_backup(r).await }).await;
    let job = asked.map_err(outcome::about_backup)?;
    let Some(job) = outcome::wait(&client, printer, &job, None).await? else { return Ok(Exit::Detached) };
    if let job_result::Result::Verify(report) = outcome::result(&job)? {
        printer.document(&Document { backup_id: &job.backup_id, job_id: &job.id, report: report.into() });
        if details {
            printer.lines(notes(report));
        }
    }
    outcome::print(printer, &job)
}

/// A line per check, problems indented below it.
pub fn lines(report: &VerifyReport) -> Vec<String> {
    let mut lines = Vec::new();
    for check in &report.checks {
        let verdict = if check.ok { "OK" } else { "FAILED" };
        lines.push(match check.detail.as_str() {
            "" => format!("{} {verdict}", check.name),
            detail => format!("{} {verdict} ({detail})", check.name),
        });
        lines.extend(check.problems.iter().map(|p| format!("  {p}")));
    }
    lines
}

/// What was found beyond that, a line each.
fn notes(report: &VerifyReport) -> Vec<String> {
    let of = |c: &Check| c.notes.iter().map(|note| format!("{}: {note}", c.name)).collect::<Vec<_>>();
    report.checks.iter().flat_map(of).collect()
}

/// Success only when all is well.
///
/// # Errors
/// When it is not.
pub fn verdict(backup_id: &str, report: &VerifyReport) -> Result<(), Failure> {
    if report.ok {
        return Ok(());
    }
    let only_modules = report.checks.iter().all(|c| c.ok || c.name == "module jars");
    if only_modules {
        return Err(Failure::damaged(format!("{backup_id} is not damaged, but jars of modules are not in it")));
    }
    Err(Failure::damaged(format!("{backup_id} is damaged: do not rely on it")).hint(Hint::ListBackups))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, detail: &str, problems: &[&str]) -> Check {
        Check {
            name: name.into(),
            ok: problems.is_empty(),
            detail: detail.into(),
            problems: problems.iter().map(|p| (*p).to_owned()).collect(),
            notes: vec![],
        }
    }

    #[test]
    fn a_good_backup_reads_as_in_the_guide() {
        let report = VerifyReport {
            ok: true,
            checks: vec![
                check("checksums", "", &[]),
                check("manifest schema", "", &[]),
                check("mongo dump bson", "12 collections, 142,884 docs", &[]),
                check("valkey rdb", "preamble version 11", &[]),
                check("filesystem tar", "", &[]),
            ],
        };
        assert_eq!(
            lines(&report),
            [
                "checksums OK",
                "manifest schema OK",
                "mongo dump bson OK (12 collections, 142,884 docs)",
                "valkey rdb OK (preamble version 11)",
                "filesystem tar OK",
            ]
        );
        assert!(verdict("bk-2026-05-10-001", &report).is_ok());
    }

    #[test]
    fn details_name_their_check() {
        let note = "prexor:v1:lease: 3 keys".to_owned();
        let found = Check { notes: vec![note], ..check("valkey rdb", "preamble version 11", &[]) };
        let report = VerifyReport { ok: true, checks: vec![found] };
        assert_eq!(lines(&report), ["valkey rdb OK (preamble version 11)"]);
        assert_eq!(notes(&report), ["valkey rdb: prexor:v1:lease: 3 keys"]);
    }

    #[test]
    fn damage_names_its_files_and_fails() {
        let checks = vec![
            check(
                "checksums",
                "",
                &["valkey/dump.rdb: SHA-256 is not that of the manifest", "mongo/a.bson.gz: missing"],
            ),
            check("filesystem tar", "", &[]),
        ];
        let report = VerifyReport { ok: false, checks };
        assert_eq!(
            lines(&report),
            [
                "checksums FAILED",
                "  valkey/dump.rdb: SHA-256 is not that of the manifest",
                "  mongo/a.bson.gz: missing",
                "filesystem tar OK",
            ]
        );
        assert_eq!(verdict("bk-2026-05-10-001", &report).unwrap_err().exit, Exit::Failed);
    }
}
