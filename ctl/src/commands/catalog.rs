//! `prexorctl catalog`.

use prexor_proto::backup::RebuildCatalogRequest;
use serde::Serialize;

use crate::{client::Client, exit::Exit, failure::Failure, printer::Printer, text};

/// What `catalog rebuild --json` prints.
#[derive(Serialize)]
struct Document {
    /// That there are, damaged ones included.
    backups: u64,
    /// A line for each that cannot be read.
    problems: Vec<String>,
}

/// Reads what there is from the store again.
///
/// # Errors
/// When the coordinator cannot be asked, or its store cannot be read. Damaged backups are an answer, not an error.
pub async fn rebuild(printer: &Printer) -> Result<Exit, Failure> {
    let client = Client::connect().await?;
    let request = RebuildCatalogRequest {};
    let found = client.call_once(request, |s, r| async move { s.admin().rebuild_catalog(r).await }).await?;
    printer.line(&format!("the catalog was read from the store again: {}", text::things(found.backups, "backup")));
    for problem in &found.problems {
        printer.warning(problem);
    }
    printer.document(&Document { backups: found.backups, problems: found.problems });
    Ok(Exit::Ok)
}
