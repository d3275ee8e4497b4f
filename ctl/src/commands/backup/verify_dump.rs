//! `prexorctl backup verify-dump`: the deep check of a dump that lies on this host, without coordinator or server.

use std::path::{Path, PathBuf};

use prexor_format::{
    mongodump::{Problem, verify_dump},
    text::{bytes, things},
};
use serde::Serialize;

use super::dump::Dump;
use crate::{exit::Exit, failure::Failure, printer::Printer};

/// What `backup verify-dump --json` prints.
#[derive(Debug, Serialize)]
struct Document {
    ok: bool,
    databases: Vec<String>,
    collections: u64,
    documents: u64,
    bytes: u64,
    notes: Vec<String>,
    problems: Vec<String>,
}

/// Checks a dump and prints what was found.
///
/// # Errors
/// When it is damaged, or there is none.
pub async fn run(printer: &Printer, dir: PathBuf) -> Result<Exit, Failure> {
    let shown = dir.display().to_string();
    let checked = tokio::task::spawn_blocking(move || check(&dir)).await;
    let document = checked.map_err(|e| Failure::local(e.to_string()))??;
    printer.lines(lines(&document));
    printer.document(&document);
    match document.ok {
        true => Ok(Exit::Ok),
        false => Err(Failure::damaged(format!("{shown} is damaged: do not rely on it"))),
    }
}

fn check(dir: &Path) -> Result<Document, Failure> {
    let dump = Dump::read(dir)?;
    // Once more, as a backup is checked: what a single pass does not see, such as documents with the same _id.
    let report = verify_dump(&dump.survey.contents, |path| dump.open_in_backup(path));
    Ok(Document {
        ok: report.problems.is_empty(),
        databases: dump.survey.contents.databases.clone(),
        collections: report.collections,
        documents: report.documents,
        bytes: report.bytes,
        notes: dump.survey.notes.clone(),
        problems: report.problems.iter().map(|Problem { path, what }| format!("{path}: {what}")).collect(),
    })
}

fn lines(d: &Document) -> Vec<String> {
    let verdict = match d.ok {
        true => format!(
            "mongo dump bson OK ({} of {}, {}, {})",
            things(d.collections, "collection"),
            d.databases.join(", "),
            things(d.documents, "document"),
            bytes(d.bytes)
        ),
        false => "mongo dump bson FAILED".to_owned(),
    };
    let indented = |lines: &[String]| lines.iter().map(|l| format!("  {l}")).collect::<Vec<_>>();
    [vec![verdict], indented(&d.problems), indented(&d.notes)].concat()
}
