//! `BackupService`.

use prexor_proto::{
    backup::{
        CreateBackupRequest, DeleteBackupRequest, DeleteBackupResponse, GetBackupRequest, GetBackupResponse, Job,
        JobKind, ListBackupsRequest, ListBackupsResponse, VerifyBackupRequest, backup_service_server::BackupService,
    },
    convert::{compression_from_wire, scope_from_wire},
};
use tonic::{Request, Response, Status, async_trait};

use super::{Api, LATEST, backup_id, backup_or_latest, bad_wire, caller, page};
use crate::{
    backups,
    error::Error,
    jobs::{Task, Wait},
};

/// The longest description, in bytes: it is shown in lists.
const MAX_DESCRIPTION: usize = 1000;

#[async_trait]
impl BackupService for Api {
    async fn create_backup(&self, request: Request<CreateBackupRequest>) -> Result<Response<Job>, Status> {
        let who = caller(&request)?.to_string();
        let request = request.into_inner();
        if request.description.len() > MAX_DESCRIPTION {
            return Err(Error::invalid(format!("the description is longer than {MAX_DESCRIPTION} bytes")).into());
        }
        let task = Task::Backup {
            scope: scope_from_wire(&request.scope).map_err(bad_wire)?,
            compression: compression_from_wire(request.compression).map_err(bad_wire)?,
            description: Some(request.description).filter(|d| !d.is_empty()),
        };
        let wait = if request.no_queue { Wait::No } else { Wait::InQueue };
        Ok(Response::new(self.ctx.jobs.submit(&self.ctx, task, wait, &request.request_id, &who).await?))
    }

    async fn get_backup(&self, request: Request<GetBackupRequest>) -> Result<Response<GetBackupResponse>, Status> {
        let id = backup_or_latest(&self.ctx, &request.into_inner().backup_id).await?;
        let (backup, manifest) = backups::show(&self.ctx, &id).await?;
        let manifest_json = String::from_utf8_lossy(&manifest).into_owned();
        Ok(Response::new(GetBackupResponse { backup: Some(backup), manifest_json }))
    }

    async fn list_backups(
        &self,
        request: Request<ListBackupsRequest>,
    ) -> Result<Response<ListBackupsResponse>, Status> {
        let request = request.into_inner();
        let size = page::size(request.page_size);
        let found = backups::list(&self.ctx, page::parse(&request.page_token)?, size).await?;
        let more = found.len() == size as usize;
        let last = found.last().filter(|_| more);
        let next_page_token =
            last.map(|b| page::after(b.order.as_millisecond(), &b.id.to_string())).unwrap_or_default();
        let backups = found.into_iter().map(|b| b.backup).collect();
        Ok(Response::new(ListBackupsResponse { backups, next_page_token }))
    }

    async fn verify_backup(&self, request: Request<VerifyBackupRequest>) -> Result<Response<Job>, Status> {
        let who = caller(&request)?.to_string();
        let request = request.into_inner();
        let id = backup_or_latest(&self.ctx, &request.backup_id).await?;
        // A repeated call must not become another one because there is a newer backup by now.
        if request.backup_id == LATEST
            && let Some(known) = self.ctx.catalog.job_of_request(&request.request_id).await?
            && known.job.kind() == JobKind::Verify
        {
            return Ok(Response::new(known.job));
        }
        backups::exists(&self.ctx, &id).await?;
        let submitted = self.ctx.jobs.submit(&self.ctx, Task::Verify(id), Wait::InQueue, &request.request_id, &who);
        Ok(Response::new(submitted.await?))
    }

    async fn delete_backup(
        &self,
        request: Request<DeleteBackupRequest>,
    ) -> Result<Response<DeleteBackupResponse>, Status> {
        let who = caller(&request)?;
        let id = backup_id(&request.into_inner().backup_id)?;
        backups::delete(&self.ctx, &id).await?;
        tracing::info!(backup = %id, %who, "a backup was deleted");
        Ok(Response::new(DeleteBackupResponse {}))
    }
}
