//! `prexorctl backup delete`.

use prexor_format::id::BackupId;
use prexor_proto::backup::{DeleteBackupRequest, GetBackupRequest};
use serde::Serialize;

use crate::{
    client::Client, commands::outcome, exit::Exit, failure::Failure, hints::Hint, printer::Printer, prompt, text,
};

/// What `backup delete --json` prints.
#[derive(Serialize)]
struct Document {
    backup_id: String,
    deleted: bool,
}

/// Deletes a backup, after asking.
///
/// # Errors
/// When there is none of this id, or nobody said yes.
pub async fn run(printer: &Printer, id: &BackupId, yes: bool) -> Result<Exit, Failure> {
    if !yes && !prompt::can_ask(printer) {
        return Err(Failure::usage(format!("deleting {id} needs a yes, and there is nobody to ask")).hint(Hint::Yes));
    }
    let client = Client::connect().await?;
    let backup_id = id.to_string();
    if !yes {
        let request = GetBackupRequest { backup_id: backup_id.clone() };
        let found = client.call(request, |s, r| async move { s.backups().get_backup(r).await }).await;
        let backup = found.map_err(outcome::about_backup)?.backup.unwrap_or_default();
        let (size, created) = (text::bytes(backup.size_bytes), text::wire_time(backup.created_at.as_ref()));
        prompt::confirm(printer, &format!("Delete {id} ({size}, created {created}) for good?")).await?;
    }
    let request = DeleteBackupRequest { backup_id };
    let deleted = client.call_once(request, |s, r| async move { s.backups().delete_backup(r).await }).await;
    deleted.map_err(outcome::about_backup)?;
    printer.line(&format!("{id} deleted"));
    printer.document(&Document { backup_id: id.to_string(), deleted: true });
    Ok(Exit::Ok)
}
