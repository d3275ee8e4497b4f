//! `prexorctl ca`: the backup CA. (PrexorCloud's own platform CA is another one; it is among the files of a backup.)

use jiff::Timestamp;
use prexor_proto::backup::{Ca, RotateCaRequest, ShowCaRequest};
use serde::Serialize;

use crate::{client::Client, exit::Exit, failure::Failure, hints::Hint, printer::Printer, prompt, text, view};

/// What `ca show --json` and `ca rotate --json` print.
#[derive(Serialize)]
struct CaView<'a> {
    roots: Vec<RootView<'a>>,
    /// `agent/h1`.
    waiting: &'a [String],
}

#[derive(Serialize)]
struct RootView<'a> {
    sha256: &'a str,
    not_after: Option<Timestamp>,
}

/// Prints the roots, and whom a rotation waits for.
///
/// # Errors
/// When the coordinator cannot be asked.
pub async fn show(printer: &Printer) -> Result<Exit, Failure> {
    let client = Client::connect().await?;
    print(printer, &client.call(ShowCaRequest {}, |s, r| async move { s.admin().show_ca(r).await }).await?);
    Ok(Exit::Ok)
}

/// Begins a rotation, or finishes the one that is under way.
///
/// # Errors
/// When it is not confirmed, or the coordinator refuses.
pub async fn rotate(printer: &Printer, finish: bool, yes: bool) -> Result<Exit, Failure> {
    let client = Client::connect().await?;
    if finish && !yes {
        let ca = client.call(ShowCaRequest {}, |s, r| async move { s.admin().show_ca(r).await }).await?;
        if !ca.waiting.is_empty() {
            if !prompt::can_ask(printer) {
                return Err(Failure::not_confirmed().hint(Hint::Yes));
            }
            prompt::confirm(printer, &format!("Shut {} out?", ca.waiting.join(", "))).await?;
        }
    }
    // Asked twice, the second one would be refused and hide that the first was not.
    let ca = client.call_once(RotateCaRequest { finish }, |s, r| async move { s.admin().rotate_ca(r).await }).await?;
    print(printer, &ca);
    if !finish {
        // This operator moves at once.
        client.call(ShowCaRequest {}, |s, r| async move { s.admin().show_ca(r).await }).await?;
        printer.note("tokens that were made before are good until the rotation ends");
    }
    Ok(Exit::Ok)
}

fn print(printer: &Printer, ca: &Ca) {
    let root = |r| RootView { sha256: r, not_after: None };
    let roots = ca.roots.iter().map(|r| RootView { not_after: view::at(r.not_after.as_ref()), ..root(&r.sha256) });
    printer.document(&CaView { roots: roots.collect(), waiting: &ca.waiting });
    printer.lines(lines(ca));
}

fn lines(ca: &Ca) -> Vec<String> {
    let names = ["root", "next root"];
    let mut lines: Vec<String> = names
        .iter()
        .zip(&ca.roots)
        .map(|(name, r)| format!("{name}: SHA-256 {}, until {}", r.sha256, text::wire_time(r.not_after.as_ref())))
        .collect();
    if ca.roots.len() > 1 {
        let waiting = if ca.waiting.is_empty() { "nobody".to_owned() } else { ca.waiting.join(", ") };
        lines.push(format!("waiting for {waiting}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use prexor_proto::backup::Root;

    use super::*;

    #[test]
    fn a_rotation_says_whom_it_waits_for() {
        let until = Some(prost_types::Timestamp { seconds: 1_778_400_000, nanos: 0 });
        let root = |sha256: &str| Root { sha256: sha256.into(), not_after: until };
        let quiet = Ca { roots: vec![root("aa")], waiting: vec![] };
        assert_eq!(lines(&quiet), ["root: SHA-256 aa, until 2026-05-10T08:00:00Z"]);
        let rotating = Ca { roots: vec![root("aa"), root("bb")], waiting: vec!["agent/h1".into()] };
        assert_eq!(
            lines(&rotating)[1..],
            ["next root: SHA-256 bb, until 2026-05-10T08:00:00Z", "waiting for agent/h1"]
        );
    }
}
