//! `prexorctl backup show`.

use prexor_format::manifest::{Artifact, Contents, Manifest};
use prexor_proto::backup::{Backup, BackupState, GetBackupRequest, GetBackupResponse, Pin};
use serde_json::Value;

use crate::{
    cli::Target,
    client::Client,
    commands::outcome,
    exit::Exit,
    failure::Failure,
    hints::Hint,
    printer::Printer,
    text,
    view::{self, BackupView},
};

/// What is known of a backup that its manifest does not say.
const BEYOND_MANIFEST: [&str; 11] = [
    "path",
    "state",
    "problem",
    "verified_at",
    "verified_depth",
    "verify_problem",
    "class",
    "pinned_at",
    "pinned_by",
    "pin_reason",
    "suspect",
];

/// Prints what is known of a backup.
///
/// # Errors
/// When there is none of this id, or it is damaged.
pub async fn run(printer: &Printer, id: &Target) -> Result<Exit, Failure> {
    let client = Client::connect().await?;
    let request = GetBackupRequest { backup_id: id.to_string() };
    let found = client.call(request, |s, r| async move { s.backups().get_backup(r).await }).await;
    let GetBackupResponse { backup, manifest_json } = found.map_err(outcome::about_backup)?;
    let backup = backup.ok_or_else(|| Failure::contract("the coordinator sent no backup"))?;
    printer.document(&document(&backup, &manifest_json)?);
    printer.lines(lines(&backup, serde_json::from_str(&manifest_json).ok().as_ref()));
    if backup.state() == BackupState::Damaged {
        return Err(Failure::damaged(format!("{} is damaged: {}", backup.id, backup.problem)).hint(Hint::ListBackups));
    }
    Ok(Exit::Ok)
}

/// The manifest with `path`, `state` and what else is known; of a damaged backup what `backup list` shows.
fn document(backup: &Backup, manifest_json: &str) -> Result<Value, Failure> {
    let known = serde_json::to_value(BackupView::from(backup)).map_err(Failure::contract)?;
    match serde_json::from_str(manifest_json) {
        Ok(Value::Object(mut manifest)) => {
            for name in BEYOND_MANIFEST {
                manifest.insert(name.to_owned(), known[name].clone());
            }
            Ok(Value::Object(manifest))
        }
        _ => Ok(known),
    }
}

fn lines(backup: &Backup, manifest: Option<&Manifest>) -> Vec<String> {
    let mut fields = vec![
        ("id", backup.id.clone()),
        ("created", text::wire_time(backup.created_at.as_ref())),
        ("completed", text::wire_time(backup.completed_at.as_ref())),
        ("size", text::bytes(backup.size_bytes)),
        ("scope", text::scope(&backup.scope, ",")),
        ("path", backup.path.clone()),
        ("nodes", backup.nodes.join(", ")),
        ("description", backup.description.clone()),
        ("verified", verified(backup)),
        ("class", text::class(backup.class).unwrap_or_default().to_owned()),
        ("pinned", backup.pin.as_ref().map(pinned).unwrap_or_default()),
        ("suspect", backup.suspect.clone()),
        ("damaged", backup.verify_problem.clone()),
    ];
    fields.extend(manifest.map(|m| ("written by", format!("version {}", m.product_version))));
    let mut lines: Vec<_> = fields
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{:<13}{value}", format!("{name}:")))
        .collect();
    if let Some(manifest) = manifest {
        lines.push(String::new());
        lines.extend(text::table(&["ARTIFACT", "NODE", "SIZE", "CONTENTS"], manifest.artifacts.iter().map(row)));
    }
    lines.extend(backup.warnings.iter().map(|w| format!("warning: {w}")));
    lines
}

fn verified(backup: &Backup) -> String {
    let depth = view::depth(backup.verified_depth()).map(|depth| format!(" ({depth})")).unwrap_or_default();
    text::wire_time(backup.verified_at.as_ref()) + &depth
}

fn pinned(pin: &Pin) -> String {
    let by = pin.by.rsplit('/').next().unwrap_or_default();
    let words = [text::wire_time(pin.at.as_ref()), format!("by {by}"), pin.reason.clone()];
    words.into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
}

fn row(artifact: &Artifact) -> Vec<String> {
    let contents = match &artifact.contents {
        Contents::Mongo(m) => format!(
            "{} collections, {} docs (server {})",
            text::count(m.collections.len() as u64),
            text::count(m.collections.iter().map(|c| c.documents).sum()),
            m.server_version
        ),
        Contents::Valkey(v) => {
            format!(
                "{} keys, RDB version {} ({} {})",
                text::count(v.keys),
                v.rdb_version,
                v.server_name,
                v.server_version
            )
        }
        Contents::Filesystem(f) => {
            format!("{} files, {} of {}", text::count(f.files), text::bytes(f.bytes), f.root)
        }
    };
    vec![artifact.id.clone(), artifact.node.to_string(), text::bytes(artifact.size_bytes), contents]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup() -> Backup {
        Backup {
            id: "bk-2026-05-10-001".into(),
            state: BackupState::Complete.into(),
            size_bytes: 142 << 20,
            scope: vec![1],
            path: "/b/bk-2026-05-10-001/".into(),
            warnings: vec!["socket skipped".into()],
            ..Backup::default()
        }
    }

    #[test]
    fn json_is_the_manifest_and_where_it_lies() {
        let json = document(&backup(), r#"{"format_version": 1, "anything": [1]}"#).unwrap();
        assert_eq!(json["format_version"], 1);
        assert_eq!(json["anything"][0], 1);
        assert_eq!((&json["path"], &json["state"]), (&"/b/bk-2026-05-10-001/".into(), &"complete".into()));
        let damaged = Backup { state: BackupState::Damaged.into(), problem: "cut off".into(), ..backup() };
        let json = document(&damaged, "").unwrap();
        assert_eq!((&json["state"], &json["problem"]), (&"damaged".into(), &"cut off".into()));
    }

    #[test]
    fn people_see_what_is_known() {
        let lines = lines(&backup(), None);
        assert_eq!(lines[0], "id:          bk-2026-05-10-001");
        assert!(lines.contains(&"size:        142 MiB".to_owned()), "{lines:?}");
        assert_eq!(lines.last().map(String::as_str), Some("warning: socket skipped"));
        assert!(!lines.iter().any(|l| l.starts_with("description")));
    }
}
