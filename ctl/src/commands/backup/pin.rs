//! `prexorctl backup pin`, `unpin` and `accept`: what a person says about a backup.

use prexor_format::id::BackupId;
use prexor_proto::backup::{AcceptBackupRequest, Backup, PinBackupRequest, UnpinBackupRequest};

use crate::{
    cli::Target, client::Client, commands::outcome, exit::Exit, failure::Failure, printer::Printer, view::BackupView,
};

/// Keeps a backup until it is unpinned.
///
/// # Errors
/// When there is none of this id, or it is damaged.
pub async fn pin(printer: &Printer, id: &Target, reason: String) -> Result<Exit, Failure> {
    let request = PinBackupRequest { backup_id: id.to_string(), reason };
    let pinned = Client::connect().await?.call(request, |s, r| async move { s.backups().pin_backup(r).await }).await;
    Ok(print(printer, &pinned.map_err(outcome::about_backup)?, "is pinned: `prexorctl backup unpin` lets it go"))
}

/// Lets it go like others.
///
/// # Errors
/// When there is none of this id, or it is not pinned.
pub async fn unpin(printer: &Printer, id: &BackupId) -> Result<Exit, Failure> {
    let request = UnpinBackupRequest { backup_id: id.to_string() };
    let client = Client::connect().await?;
    let unpinned = client.call_once(request, |s, r| async move { s.backups().unpin_backup(r).await }).await;
    Ok(print(printer, &unpinned.map_err(outcome::about_backup)?, "is not pinned any more"))
}

/// Says that what it has lost was meant to go.
///
/// # Errors
/// When there is none of this id, or it is not suspect.
pub async fn accept(printer: &Printer, id: &BackupId) -> Result<Exit, Failure> {
    let request = AcceptBackupRequest { backup_id: id.to_string() };
    let client = Client::connect().await?;
    let accepted = client.call_once(request, |s, r| async move { s.backups().accept_backup(r).await }).await;
    Ok(print(
        printer,
        &accepted.map_err(outcome::about_backup)?,
        "counts as a good one, and the next are measured against it",
    ))
}

fn print(printer: &Printer, backup: &Backup, what: &str) -> Exit {
    printer.line(&format!("{} {what}", backup.id));
    printer.document(&BackupView::from(backup));
    Exit::Ok
}
