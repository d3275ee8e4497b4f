//! `RestoreService`.

use prexor_format::id::BackupId;
use prexor_proto::{
    backup::{ApplyRestoreRequest, Job, JobKind, Plan, PlanRestoreRequest, restore_service_server::RestoreService},
    convert::{scope_from_wire, selection_from_wire, time_from_wire},
    reason::Reason,
};
use prexor_transport::access::About;
use tonic::{Request, Response, Status, async_trait};

use super::{Api, LATEST, backup_id, bad_wire, caller, latest};
use crate::{
    context::Context,
    error::Error,
    jobs::{Task, Wait},
    restore::{self, plan::Options, plan_to_wire},
};

#[async_trait]
impl RestoreService for Api {
    async fn plan_restore(&self, request: Request<PlanRestoreRequest>) -> Result<Response<Plan>, Status> {
        let plan = plan(&self.ctx, &request.into_inner()).await?;
        Ok(Response::new(plan_to_wire(&plan)))
    }

    async fn apply_restore(&self, request: Request<ApplyRestoreRequest>) -> Result<Response<Job>, Status> {
        let (who, about) = (caller(&request)?.to_string(), About::of(&request));
        let request = request.into_inner();
        // Before anything is computed again: once the restore runs, the facts are no longer those of its plan.
        if let Some(job) = repeated(&self.ctx, &request).await? {
            return Ok(Response::new(job));
        }
        let asked = request.plan.ok_or_else(|| Error::invalid("the request names no plan"))?;
        about.is(&asked.backup_id);
        let plan = plan(&self.ctx, &asked).await?;
        restore::refuse(&plan)?;
        let plan = plan_to_wire(&plan);
        if plan.digest != request.plan_digest {
            let message = "the hosts or the backup have changed since the plan was shown: look at it again with \
                           --dry-run";
            return Err(Error::new(Reason::PlanChanged, message).into());
        }
        let backup = plan.backup_id.clone();
        let task = Task::Restore(Box::new(plan));
        let job = self.ctx.jobs.submit(&self.ctx, task, Wait::InQueue, &request.request_id, &who).await?;
        about.is(format!("{backup} ({})", job.id));
        Ok(Response::new(job))
    }
}

async fn plan(ctx: &Context, request: &PlanRestoreRequest) -> Result<restore::plan::Plan, Error> {
    let id = resolve(ctx, request).await?;
    let scope = scope_from_wire(&request.scope).map_err(bad_wire)?;
    let selection = selection_from_wire(request.selection.as_ref());
    let selection = selection.checked().map_err(|e| Error::invalid(e.to_string()))?;
    let safety = restore::safety_from_wire(request.safety());
    let on_failure = restore::on_failure_from_wire(request.on_failure());
    let hosts = restore::hosts_from_wire(&request.only_hosts, &request.without_hosts).map_err(Error::invalid)?;
    let (accept_versions, certificates) = (request.accept_versions, request.certificates);
    let options = Options { scope, selection, certificates, accept_versions, safety, on_failure, hosts };
    restore::plan_restore(ctx, &id, &options).await
}

async fn resolve(ctx: &Context, request: &PlanRestoreRequest) -> Result<BackupId, Error> {
    let before = request.before.as_ref().map(time_from_wire).transpose().map_err(bad_wire)?;
    if request.backup_id != LATEST {
        if before.is_some() {
            return Err(Error::invalid("a time goes with 'latest', not with the id of a backup"));
        }
        return backup_id(&request.backup_id);
    }
    latest(ctx, before).await
}

/// The job that the same request has begun before, if any.
async fn repeated(ctx: &Context, request: &ApplyRestoreRequest) -> Result<Option<Job>, Error> {
    let Some(known) = ctx.catalog.job_of_request(&request.request_id).await? else { return Ok(None) };
    let same = known.job.kind() == JobKind::Restore
        && Task::read(JobKind::Restore, &known.spec)?.is_plan_with(&request.plan_digest);
    if same {
        return Ok(Some(known.job));
    }
    Err(Error::invalid(format!("the request id belongs to {}, which was asked for something else", known.job.id)))
}
