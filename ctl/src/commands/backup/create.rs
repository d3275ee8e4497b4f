//! `prexorctl backup create`.

use prexor_format::{artifact::ArtifactKind, class::Class, gzip::Level};
use prexor_proto::{
    backup::{Backup, CreateBackupRequest, JobState, job_result},
    convert,
};

use crate::{
    cli::Compression,
    client::{self, Client},
    commands::outcome,
    exit::Exit,
    failure::Failure,
    printer::Printer,
    text,
    view::{BackupView, JobView},
};

/// The request for a backup of these kinds, or of everything there is.
pub fn request(
    description: String,
    scope: &[ArtifactKind],
    compression: Option<Compression>,
    class: Option<Class>,
    no_queue: bool,
) -> CreateBackupRequest {
    let level = compression.map(|c| match c {
        Compression::Fast => Level::Fast,
        Compression::Balanced => Level::Balanced,
        Compression::Small => Level::Small,
    });
    let scope = ArtifactKind::ALL.into_iter().filter(|k| scope.contains(k));
    CreateBackupRequest {
        request_id: client::request_id(),
        description,
        scope: scope.map(|k| convert::kind_to_wire(k).into()).collect(),
        no_queue,
        compression: convert::compression_to_wire(level).into(),
        class: convert::class_to_wire(class).into(),
    }
}

/// Makes a backup and prints it, or the job with `detach`.
///
/// # Errors
/// When there is no backup in the end.
pub async fn run(printer: &Printer, request: CreateBackupRequest, detach: bool) -> Result<Exit, Failure> {
    let client = Client::connect().await?;
    let job = client.call(request, |s, r| async move { s.backups().create_backup(r).await }).await?;
    if detach {
        let when = if job.state() == JobState::Queued { " when it is its turn" } else { "" };
        printer.line(&format!("{} makes the backup{when}", job.id));
        outcome::detached(printer, &job.id, false);
        printer.document(&JobView::from(&job));
        return Ok(Exit::Ok);
    }
    let Some(job) = outcome::wait(&client, printer, &job, None).await? else { return Ok(Exit::Detached) };
    if let job_result::Result::Backup(backup) = outcome::result(&job)? {
        printer.document(&BackupView::from(backup));
    }
    outcome::print(printer, &job)
}

/// The lines that say what was made.
pub fn lines(backup: &Backup) -> Vec<String> {
    vec![
        format!("-> Backup {} created", backup.id),
        format!("files: {}", text::scope(&backup.scope, ", ")),
        format!("size: {}", text::bytes(backup.size_bytes)),
        format!("path: {}", backup.path),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_backup_reads_as_in_the_guide() {
        let backup = Backup {
            id: "bk-2026-05-10-001".into(),
            size_bytes: 142 << 20,
            scope: vec![1, 2, 3],
            path: "/var/backups/prexorcloud/bk-2026-05-10-001/".into(),
            ..Backup::default()
        };
        assert_eq!(
            lines(&backup),
            [
                "-> Backup bk-2026-05-10-001 created",
                "files: mongo, valkey, filesystem",
                "size: 142 MiB",
                "path: /var/backups/prexorcloud/bk-2026-05-10-001/",
            ]
        );
    }
}
