//! `JobService`.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use prexor_proto::{
    backup::{
        CancelJobRequest, GetJobRequest, Job, JobEvent, ListJobsRequest, ListJobsResponse, WatchJobRequest,
        job_service_server::JobService,
    },
    convert::time_from_wire,
};
use tonic::{Request, Response, Status, async_trait};

use super::{Api, bad_wire, caller, page};
use crate::error::Error;

#[async_trait]
impl JobService for Api {
    type WatchJobStream = Pin<Box<dyn Stream<Item = Result<JobEvent, Status>> + Send>>;

    async fn get_job(&self, request: Request<GetJobRequest>) -> Result<Response<Job>, Status> {
        Ok(Response::new(self.ctx.catalog.job(&request.into_inner().job_id).await?.job))
    }

    async fn list_jobs(&self, request: Request<ListJobsRequest>) -> Result<Response<ListJobsResponse>, Status> {
        let request = request.into_inner();
        let size = page::size(request.page_size);
        let jobs = self.ctx.catalog.jobs(page::parse(&request.page_token)?, size).await?;
        let more = jobs.len() == size as usize;
        let next_page_token = jobs.last().filter(|_| more).map(token_after).transpose()?.unwrap_or_default();
        Ok(Response::new(ListJobsResponse { jobs, next_page_token }))
    }

    async fn watch_job(&self, request: Request<WatchJobRequest>) -> Result<Response<Self::WatchJobStream>, Status> {
        let request = request.into_inner();
        let events = self.ctx.jobs.watch(&request.job_id, request.after_seq).await?;
        Ok(Response::new(Box::pin(events.map(|event| event.map_err(Status::from)))))
    }

    async fn cancel_job(&self, request: Request<CancelJobRequest>) -> Result<Response<Job>, Status> {
        let who = caller(&request)?.to_string();
        Ok(Response::new(self.ctx.jobs.cancel(&request.into_inner().job_id, &who).await?))
    }
}

fn token_after(job: &Job) -> Result<String, Error> {
    let created_at = time_from_wire(&job.created_at.unwrap_or_default()).map_err(bad_wire)?;
    Ok(page::after(created_at, &job.id))
}
