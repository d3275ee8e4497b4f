//! `prexorctl context`: which clusters this user knows, and which of them is meant.

use std::path::PathBuf;

use prexor_transport::context::Contexts;
use serde::Serialize;

use crate::{client, exit::Exit, failure::Failure, hints::Hint, printer::Printer, text};

/// An element of `context list --json`.
#[derive(Serialize)]
struct ContextView<'a> {
    name: &'a str,
    current: bool,
    cluster: &'a str,
    endpoints: &'a [String],
    credential: &'a PathBuf,
}

/// Prints the contexts of the file in use.
///
/// # Errors
/// When there is no such file, or it cannot be read.
pub fn list(printer: &Printer) -> Result<Exit, Failure> {
    let (path, contexts) = client::contexts()?;
    let views: Vec<_> = contexts
        .contexts
        .iter()
        .map(|(name, c)| ContextView {
            name,
            current: *name == contexts.current,
            cluster: &c.cluster,
            endpoints: &c.endpoints,
            credential: &c.credential,
        })
        .collect();
    printer.document(&views);
    printer.lines(text::table(
        &["", "NAME", "CLUSTER", "ENDPOINTS"],
        views.iter().map(|v| {
            let mark = if v.current { "*" } else { "" };
            vec![mark.to_owned(), v.name.to_owned(), v.cluster.to_owned(), v.endpoints.join(",")]
        }),
    ));
    printer.note(&format!("in {}", path.display()));
    Ok(Exit::Ok)
}

/// Uses another context from now on.
///
/// # Errors
/// When there is none of this name, or the file cannot be written.
pub fn switch(printer: &Printer, name: &str) -> Result<Exit, Failure> {
    let (path, contexts) = client::contexts()?;
    if !contexts.contexts.contains_key(name) {
        let message = format!("there is no context '{name}' in {}", path.display());
        return Err(Failure::not_there(message).hint(Hint::ListContexts));
    }
    Contexts { current: name.to_owned(), ..contexts }.save(&path)?;
    printer.line(&format!("{name} is used from now on"));
    printer.document(&serde_json::json!({"current": name}));
    Ok(Exit::Ok)
}
