//! `JobService`.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use jiff::Timestamp;
use prexor_proto::backup::{
    CancelJobRequest, GetJobRequest, Job, JobEvent, ListJobsRequest, ListJobsResponse, ResumeJobRequest,
    WatchJobRequest, job_service_server::JobService,
};
use prexor_transport::access::About;
use tonic::{Request, Response, Status, async_trait};

use super::{Api, caller, page};
use crate::jobs::say_what_they_wait_for;

#[async_trait]
impl JobService for Api {
    type WatchJobStream = Pin<Box<dyn Stream<Item = Result<JobEvent, Status>> + Send>>;

    async fn get_job(&self, request: Request<GetJobRequest>) -> Result<Response<Job>, Status> {
        let mut job = [self.ctx.catalog.job(&request.into_inner().job_id).await?.job];
        say_what_they_wait_for(&self.ctx.catalog, &mut job, Timestamp::now()).await?;
        let [job] = job;
        Ok(Response::new(job))
    }

    async fn list_jobs(&self, request: Request<ListJobsRequest>) -> Result<Response<ListJobsResponse>, Status> {
        let request = request.into_inner();
        let size = page::size(request.page_size);
        let after = page::parse(&request.page_token)?.map(|(number, _)| number);
        let rows = self.ctx.catalog.jobs(after, size).await?;
        let last = rows.last().filter(|_| rows.len() == size as usize);
        let next_page_token = last.map(|row| page::after(row.number, &row.job.id)).unwrap_or_default();
        let mut jobs: Vec<Job> = rows.into_iter().map(|row| row.job).collect();
        say_what_they_wait_for(&self.ctx.catalog, &mut jobs, Timestamp::now()).await?;
        Ok(Response::new(ListJobsResponse { jobs, next_page_token }))
    }

    async fn watch_job(&self, request: Request<WatchJobRequest>) -> Result<Response<Self::WatchJobStream>, Status> {
        let request = request.into_inner();
        let events = self.ctx.jobs.watch(&request.job_id, request.after_seq).await?;
        Ok(Response::new(Box::pin(events.map(|event| event.map_err(Status::from)))))
    }

    async fn cancel_job(&self, request: Request<CancelJobRequest>) -> Result<Response<Job>, Status> {
        let (who, about) = (caller(&request)?.to_string(), About::of(&request));
        let job_id = request.into_inner().job_id;
        about.is(format!("{job_id:.40}"));
        Ok(Response::new(self.ctx.jobs.cancel(&self.ctx, &job_id, &who).await?))
    }

    async fn resume_job(&self, request: Request<ResumeJobRequest>) -> Result<Response<Job>, Status> {
        let (who, about) = (caller(&request)?.to_string(), About::of(&request));
        let ResumeJobRequest { job_id, without_hosts } = request.into_inner();
        about.is(format!("{job_id:.40}"));
        Ok(Response::new(self.ctx.jobs.resume(&self.ctx, &job_id, &without_hosts, &who).await?))
    }
}
