//! `prexorctl audit`.

use jiff::Timestamp;
use prexor_proto::backup::{AuditEntry, ListAuditRequest};
use serde::Serialize;

use crate::{client::Client, exit::Exit, failure::Failure, printer::Printer, text, view};

/// An element of `audit --json`.
#[derive(Serialize)]
struct EntryView<'a> {
    number: u64,
    at: Option<Timestamp>,
    who: Option<&'a str>,
    from: Option<&'a str>,
    action: &'a str,
    subject: Option<&'a str>,
    result: &'a str,
    detail: Option<&'a str>,
}

/// Prints entries of the audit log, newest first; all with a limit of 0.
///
/// # Errors
/// When the coordinator cannot be asked.
pub async fn run(printer: &Printer, limit: u32) -> Result<Exit, Failure> {
    let client = Client::connect().await?;
    let limit = if limit == 0 { usize::MAX } else { limit as usize };
    let mut entries: Vec<AuditEntry> = Vec::new();
    let mut request = ListAuditRequest::default();
    while entries.len() < limit {
        let page = client.call(request.clone(), |s, r| async move { s.admin().list_audit(r).await }).await?;
        entries.extend(page.entries);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    entries.truncate(limit);
    printer.document(&entries.iter().map(entry_view).collect::<Vec<_>>());
    printer.lines(lines(&entries));
    Ok(Exit::Ok)
}

fn entry_view(e: &AuditEntry) -> EntryView<'_> {
    let said = |s: &'_ str| !s.is_empty() && s != "-";
    EntryView {
        number: e.number,
        at: view::at(e.at.as_ref()),
        who: Some(e.who.as_str()).filter(|s| said(s)),
        from: Some(e.from.as_str()).filter(|s| said(s)),
        action: &e.action,
        subject: Some(e.subject.as_str()).filter(|s| said(s)),
        result: &e.result,
        detail: Some(e.detail.as_str()).filter(|s| said(s)),
    }
}

fn lines(entries: &[AuditEntry]) -> Vec<String> {
    text::table(
        &["AT", "WHO", "FROM", "ACTION", "SUBJECT", "RESULT"],
        entries.iter().map(|e| {
            let subject = if e.subject.is_empty() { "-" } else { &e.subject };
            let result = if e.detail.is_empty() { e.result.clone() } else { format!("{}: {}", e.result, e.detail) };
            // Of whom and what, the beginnings are the same everywhere.
            let who = e.who.splitn(4, '/').nth(3).unwrap_or(&e.who);
            let action = e.action.rsplit('/').next().unwrap_or(&e.action);
            vec![
                text::wire_time(e.at.as_ref()),
                who.to_owned(),
                e.from.clone(),
                action.to_owned(),
                subject.to_owned(),
                result,
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_say_who_did_what_and_what_came_of_it() {
        let done = AuditEntry {
            number: 2,
            at: Some(prost_types::Timestamp { seconds: 1_778_400_000, nanos: 0 }),
            who: "prexor://c/operator/anna".into(),
            from: "10.0.0.1:4711".into(),
            action: "BackupService/DeleteBackup".into(),
            subject: "bk-2026-05-10-001".into(),
            result: "OK".into(),
            detail: String::new(),
        };
        let refused = AuditEntry {
            who: "-".into(),
            action: "enrol".into(),
            subject: String::new(),
            result: "TOKEN_REFUSED".into(),
            detail: "expired".into(),
            ..done.clone()
        };
        assert_eq!(
            lines(&[done, refused]),
            [
                "AT                    WHO            FROM           ACTION        SUBJECT            RESULT",
                "2026-05-10T08:00:00Z  operator/anna  10.0.0.1:4711  DeleteBackup  bk-2026-05-10-001  OK",
                "2026-05-10T08:00:00Z  -              10.0.0.1:4711  enrol         -                  TOKEN_REFUSED: expired",
            ]
        );
    }
}
