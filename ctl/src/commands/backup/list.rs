//! `prexorctl backup list`.

use prexor_proto::backup::{Backup, BackupState, ListBackupsRequest};

use crate::{client::Client, exit::Exit, failure::Failure, printer::Printer, text, view::BackupView};

/// Prints all backups, newest first.
///
/// # Errors
/// When the coordinator cannot be asked.
pub async fn run(printer: &Printer, wide: bool) -> Result<Exit, Failure> {
    let client = Client::connect().await?;
    let mut backups = Vec::new();
    // The server gives as many as fit into an answer.
    let mut request = ListBackupsRequest { page_size: u32::MAX, ..ListBackupsRequest::default() };
    loop {
        let page = client.call(request.clone(), |s, r| async move { s.backups().list_backups(r).await }).await?;
        backups.extend(page.backups);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    printer.document(&backups.iter().map(BackupView::from).collect::<Vec<_>>());
    printer.lines(lines(&backups, wide));
    for backup in &backups {
        if let Some((word, why)) = doubt(backup) {
            printer.warning(&format!("{} is {word}: {why}", backup.id));
        }
    }
    Ok(Exit::Ok)
}

/// Why nobody should rely on it.
fn doubt(backup: &Backup) -> Option<(&'static str, &str)> {
    let found = [("damaged", &backup.verify_problem), ("suspect", &backup.suspect)];
    match backup.state() {
        BackupState::Damaged => Some(("damaged", &backup.problem)),
        _ => found.into_iter().find(|(_, why)| !why.is_empty()).map(|(word, why)| (word, why.as_str())),
    }
}

/// The table. Backups that are damaged or suspect say so in the last of the guide's columns.
pub fn lines(backups: &[Backup], wide: bool) -> Vec<String> {
    let mut header = vec!["ID", "CREATED", "SIZE", "SCOPE"];
    if wide {
        header.extend(["VERIFIED", "CLASS", "PINNED", "NODES", "DESCRIPTION"]);
    }
    text::table(&header, backups.iter().map(|b| row(b, wide)))
}

fn row(backup: &Backup, wide: bool) -> Vec<String> {
    let damaged = backup.state() == BackupState::Damaged;
    let scope = match (doubt(backup), text::scope(&backup.scope, ",")) {
        (None, scope) => scope,
        (Some((word, _)), scope) if scope.is_empty() => format!("({word})"),
        (Some((word, _)), scope) => format!("{scope} ({word})"),
    };
    let size = if damaged && backup.size_bytes == 0 { "-".to_owned() } else { text::bytes(backup.size_bytes) };
    let mut row = vec![backup.id.clone(), text::wire_time(backup.created_at.as_ref()), size, scope];
    if wide {
        let or_dash = |s: String| if s.is_empty() { "-".to_owned() } else { s };
        row.push(text::wire_time(backup.verified_at.as_ref()));
        row.push(or_dash(text::class(backup.class).unwrap_or_default().to_owned()));
        row.push(text::wire_time(backup.pin.as_ref().and_then(|pin| pin.at.as_ref())));
        row.push(or_dash(backup.nodes.join(",")));
        row.push(or_dash(backup.description.clone()));
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(id: &str, seconds: i64, mib: u64) -> Backup {
        Backup {
            id: id.into(),
            state: BackupState::Complete.into(),
            created_at: Some(prost_types::Timestamp { seconds, nanos: 7 }),
            size_bytes: mib << 20,
            scope: vec![1, 2, 3],
            path: format!("/var/backups/prexorcloud/{id}/"),
            ..Backup::default()
        }
    }

    #[test]
    fn the_list_reads_as_in_the_guide() {
        let backups =
            [backup("bk-2026-05-10-001", 1_778_400_000, 142), backup("bk-2026-05-09-001", 1_778_313_600, 138)];
        assert_eq!(
            lines(&backups, false),
            [
                "ID                 CREATED               SIZE     SCOPE",
                "bk-2026-05-10-001  2026-05-10T08:00:00Z  142 MiB  mongo,valkey,filesystem",
                "bk-2026-05-09-001  2026-05-09T08:00:00Z  138 MiB  mongo,valkey,filesystem",
            ]
        );
        assert_eq!(lines(&[], false), ["ID  CREATED  SIZE  SCOPE"]);
    }

    #[test]
    fn damaged_ones_are_marked_and_wide_says_more() {
        let damaged =
            Backup { id: "bk-2026-05-11-001".into(), state: BackupState::Damaged.into(), ..Backup::default() };
        assert_eq!(lines(&[damaged], false)[1], "bk-2026-05-11-001  -        -     (damaged)");
        let told = Backup {
            description: "pre\nupgrade\u{1b}[2J".into(),
            nodes: vec!["h1".into(), "h2".into()],
            class: 4,
            ..backup("bk-2026-05-10-001", 1_778_400_000, 1)
        };
        let wide = lines(&[told], true);
        assert!(wide[0].ends_with("VERIFIED  CLASS        PINNED  NODES  DESCRIPTION"), "{wide:?}");
        assert!(wide[1].ends_with("-         pre-upgrade  -       h1,h2  pre upgrade\u{fffd}[2J"), "{wide:?}");
        let suspect = Backup { suspect: "1 key, 9 in bk-2026-05-09-001".into(), ..backup("bk-2026-05-10-001", 0, 1) };
        assert!(lines(&[suspect], false)[1].ends_with("  mongo,valkey,filesystem (suspect)"));
    }

    #[test]
    fn json_has_the_path_first_for_shell_scripts() {
        let json = serde_json::to_value([BackupView::from(&backup("bk-2026-05-10-001", 1_778_400_000, 142))]).unwrap();
        assert_eq!(json[0]["path"], "/var/backups/prexorcloud/bk-2026-05-10-001/");
        assert_eq!(json[0]["scope"], serde_json::json!(["mongo", "valkey", "filesystem"]));
        assert_eq!(json[0]["created_at"], "2026-05-10T08:00:00.000000007Z");
        let fields: Vec<_> = json[0].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            fields,
            [
                "id",
                "state",
                "created_at",
                "completed_at",
                "size_bytes",
                "scope",
                "path",
                "description",
                "warnings",
                "nodes",
                "problem",
                "verified_at",
                "safety_of",
                "class",
                "pinned_at",
                "pinned_by",
                "pin_reason",
                "suspect",
                "documents",
                "keys",
                "verified_depth",
                "verify_problem"
            ]
        );
    }
}
