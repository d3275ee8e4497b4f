//! `BackupService`.

use std::{sync::Arc, time::Duration};

use prexor_proto::{
    backup::{
        AcceptBackupRequest, Backup, CreateBackupRequest, DeleteBackupRequest, DeleteBackupResponse, GetBackupRequest,
        GetBackupResponse, ImportBackupRequest, Job, JobKind, ListBackupsRequest, ListBackupsResponse,
        PinBackupRequest, PruneBackupsRequest, PruneBackupsResponse, UnpinBackupRequest, VerifyBackupRequest,
        backup_service_server::BackupService, import_backup_request::Frame,
    },
    convert::{class_from_wire, class_to_wire, compression_from_wire, digest_from_wire, scope_from_wire},
    reason::Reason,
};
use prexor_transport::access;
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{Api, LATEST, backup_id, backup_or_latest, bad_wire, caller, page};
use crate::{
    backups,
    context::Context,
    error::Error,
    import::{About, Import},
    jobs::{Reading, Task, Wait},
    prune,
};

/// The longest description, in bytes: it is shown in lists.
const MAX_DESCRIPTION: usize = 1000;

/// How long somebody who imports may say nothing.
const IMPORT_STALL: Duration = Duration::from_secs(120);

async fn import(ctx: Arc<Context>, mut frames: Streaming<ImportBackupRequest>) -> Result<Backup, Error> {
    let Some(Frame::Begin(begin)) = next(&mut frames).await? else {
        return Err(Error::invalid("an import begins with its description"));
    };
    if begin.description.len() > MAX_DESCRIPTION {
        return Err(Error::invalid(format!("the description is longer than {MAX_DESCRIPTION} bytes")));
    }
    let about = About {
        description: Some(begin.description).filter(|d| !d.is_empty()),
        hostname: begin.hostname,
        format: begin.format,
        notes: begin.notes,
    };
    let mut import = Import::begin(&ctx, about).await?;
    match receive(&mut import, &mut frames).await {
        Ok(()) => import.finish().await,
        Err(e) => {
            import.discard().await;
            Err(e)
        }
    }
}

async fn receive(import: &mut Import, frames: &mut Streaming<ImportBackupRequest>) -> Result<(), Error> {
    loop {
        match next(frames).await? {
            Some(Frame::ContentsJson(piece)) => import.contents(&piece)?,
            Some(Frame::FilePath(path)) => import.file(&path).await?,
            Some(Frame::Data(data)) => import.data(data.into()).await?,
            Some(Frame::FileSha256(digest)) => {
                import.end_of_file(digest_from_wire(&digest).map_err(bad_wire)?).await?;
            }
            Some(Frame::End(_)) => return Ok(()),
            Some(Frame::Begin(_)) => return Err(Error::invalid("an import begins once")),
            None => return Err(Error::new(Reason::Cancelled, "the import broke off: nothing of it is kept")),
        }
    }
}

async fn next(frames: &mut Streaming<ImportBackupRequest>) -> Result<Option<Frame>, Error> {
    let broken = |why: &dyn std::fmt::Display| {
        Error::new(Reason::Cancelled, format!("the import broke off: {why}; nothing of it is kept"))
    };
    let message = tokio::time::timeout(IMPORT_STALL, frames.message()).await;
    let message = message.map_err(|e| broken(&e))?.map_err(|e| broken(&e.message()))?;
    message.map(|m| m.frame.ok_or_else(|| broken(&"an unknown frame"))).transpose()
}

/// With the class that the rules give it, where it was made without.
fn classed(ctx: &Context, backup: Backup) -> Backup {
    Backup { class: class_to_wire(ctx.config.retention.class_of(&backup)).into(), ..backup }
}

/// For the audit: `keep 14 days, 3 last, dry run`.
fn rules_in_words(asked: PruneBackupsRequest) -> String {
    let counts = [
        (asked.keep_days, "days"),
        (asked.keep_last, "last"),
        (asked.keep_hourly, "hourly"),
        (asked.keep_daily, "daily"),
        (asked.keep_weekly, "weekly"),
        (asked.keep_monthly, "monthly"),
        (asked.keep_yearly, "yearly"),
    ];
    let counts = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}"));
    let words: Vec<String> = counts.chain(asked.dry_run.then(|| "dry run".to_owned())).collect();
    format!("keep {}", if words.is_empty() { "by class".to_owned() } else { words.join(", ") })
}

#[async_trait]
impl BackupService for Api {
    async fn create_backup(&self, request: Request<CreateBackupRequest>) -> Result<Response<Job>, Status> {
        let (who, about) = (caller(&request)?.to_string(), access::About::of(&request));
        let request = request.into_inner();
        if request.description.len() > MAX_DESCRIPTION {
            return Err(Error::invalid(format!("the description is longer than {MAX_DESCRIPTION} bytes")).into());
        }
        let task = Task::Backup {
            scope: scope_from_wire(&request.scope).map_err(bad_wire)?,
            compression: compression_from_wire(request.compression).map_err(bad_wire)?,
            class: class_from_wire(request.class).map_err(bad_wire)?,
            description: Some(request.description).filter(|d| !d.is_empty()),
        };
        let wait = if request.no_queue { Wait::No } else { Wait::InQueue };
        let job = self.ctx.jobs.submit(&self.ctx, task, wait, &request.request_id, &who).await?;
        about.is(&job.id);
        Ok(Response::new(job))
    }

    async fn get_backup(&self, request: Request<GetBackupRequest>) -> Result<Response<GetBackupResponse>, Status> {
        let id = backup_or_latest(&self.ctx, &request.into_inner().backup_id).await?;
        let (backup, manifest) = backups::show(&self.ctx, &id).await?;
        let backup = classed(&self.ctx, backup);
        let manifest_json = String::from_utf8_lossy(&manifest).into_owned();
        Ok(Response::new(GetBackupResponse { backup: Some(backup), manifest_json }))
    }

    async fn list_backups(
        &self,
        request: Request<ListBackupsRequest>,
    ) -> Result<Response<ListBackupsResponse>, Status> {
        let request = request.into_inner();
        let size = page::size(request.page_size);
        let mut found = backups::list(&self.ctx, page::parse(&request.page_token)?, size).await?;
        let more = found.len() == size as usize;
        let fit = page::fitting(found.iter().map(|b| b.backup.encoded_len()));
        let more = more || fit < found.len();
        found.truncate(fit);
        let last = found.last().filter(|_| more);
        let next_page_token =
            last.map(|b| page::after(b.order.as_millisecond(), &b.id.to_string())).unwrap_or_default();
        let backups = found.into_iter().map(|b| classed(&self.ctx, b.backup)).collect();
        Ok(Response::new(ListBackupsResponse { backups, next_page_token }))
    }

    async fn verify_backup(&self, request: Request<VerifyBackupRequest>) -> Result<Response<Job>, Status> {
        let (who, about) = (caller(&request)?.to_string(), access::About::of(&request));
        let request = request.into_inner();
        let reading = Reading::asked(&request)?;
        let id = backup_or_latest(&self.ctx, &request.backup_id).await?;
        about.is(id.to_string());
        // A repeated call must not become another one because there is a newer backup by now.
        if request.backup_id == LATEST
            && let Some(known) = self.ctx.catalog.job_of_request(&request.request_id).await?
            && known.job.kind() == JobKind::Verify
        {
            return Ok(Response::new(known.job));
        }
        backups::exists(&self.ctx, &id).await?;
        let task = Task::Verify(id, reading);
        let submitted = self.ctx.jobs.submit(&self.ctx, task, Wait::InQueue, &request.request_id, &who);
        Ok(Response::new(submitted.await?))
    }

    async fn delete_backup(
        &self,
        request: Request<DeleteBackupRequest>,
    ) -> Result<Response<DeleteBackupResponse>, Status> {
        let about = access::About::of(&request);
        let id = backup_id(&request.into_inner().backup_id)?;
        about.is(id.to_string());
        backups::delete(&self.ctx, &id).await?;
        Ok(Response::new(DeleteBackupResponse {}))
    }

    async fn prune_backups(
        &self,
        request: Request<PruneBackupsRequest>,
    ) -> Result<Response<PruneBackupsResponse>, Status> {
        let about = access::About::of(&request);
        let asked = request.into_inner();
        about.is(rules_in_words(asked));
        Ok(Response::new(prune::prune(&self.ctx, asked).await?))
    }

    async fn pin_backup(&self, request: Request<PinBackupRequest>) -> Result<Response<Backup>, Status> {
        let (who, about) = (caller(&request)?.to_string(), access::About::of(&request));
        let request = request.into_inner();
        let id = backup_or_latest(&self.ctx, &request.backup_id).await?;
        about.is(id.to_string());
        if request.reason.len() > MAX_DESCRIPTION {
            return Err(Error::invalid(format!("the reason is longer than {MAX_DESCRIPTION} bytes")).into());
        }
        Ok(Response::new(classed(&self.ctx, backups::pin(&self.ctx, &id, request.reason, &who).await?)))
    }

    async fn unpin_backup(&self, request: Request<UnpinBackupRequest>) -> Result<Response<Backup>, Status> {
        let about = access::About::of(&request);
        let id = backup_id(&request.into_inner().backup_id)?;
        about.is(id.to_string());
        Ok(Response::new(classed(&self.ctx, backups::unpin(&self.ctx, &id).await?)))
    }

    async fn accept_backup(&self, request: Request<AcceptBackupRequest>) -> Result<Response<Backup>, Status> {
        let (who, about) = (caller(&request)?.to_string(), access::About::of(&request));
        let id = backup_id(&request.into_inner().backup_id)?;
        about.is(id.to_string());
        Ok(Response::new(classed(&self.ctx, backups::accept(&self.ctx, &id, &who).await?)))
    }

    async fn import_backup(
        &self,
        request: Request<Streaming<ImportBackupRequest>>,
    ) -> Result<Response<Backup>, Status> {
        let about = access::About::of(&request);
        // In a task of its own: what a caller that goes away has sent must be removed.
        let imported = tokio::spawn(import(self.ctx.clone(), request.into_inner())).await;
        let backup = imported.map_err(|e| Error::internal(format!("the import hit a defect: {e}")))??;
        about.is(&backup.id);
        Ok(Response::new(backup))
    }
}
