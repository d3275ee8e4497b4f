//! `prexorctl job resume`.

use prexor_proto::backup::ResumeJobRequest;

use super::watch;
use crate::{client::Client, exit::Exit, failure::Failure, hints::Hint, printer::Printer};

/// Lets a restore go on that is paused, and watches it to its end.
///
/// # Errors
/// When there is no such job, it is not paused, it cannot do without such a host, or it has no good end.
pub async fn run(printer: &Printer, id: String, without_hosts: Vec<String>) -> Result<Exit, Failure> {
    let client = Client::connect().await?;
    let request = ResumeJobRequest { job_id: id, without_hosts };
    let resumed = client.call(request, |s, r| async move { s.jobs().resume_job(r).await }).await;
    let job = resumed.map_err(|f| f.hint_if_not_found(Hint::ListJobs))?;
    watch::run(printer, job.id).await
}
