//! `prexorctl job cancel`.

use prexor_proto::backup::{CancelJobRequest, Job, JobState};

use crate::{client::Client, exit::Exit, failure::Failure, hints::Hint, printer::Printer, view, view::JobView};

/// Cancels a job and prints it.
///
/// # Errors
/// When there is none of this id, or it can no longer be cancelled.
pub async fn run(printer: &Printer, id: String) -> Result<Exit, Failure> {
    let client = Client::connect().await?;
    let request = CancelJobRequest { job_id: id };
    let asked = client.call(request, |s, r| async move { s.jobs().cancel_job(r).await }).await;
    let job = asked.map_err(|f| f.hint_if_not_found(Hint::ListJobs))?;
    printer.document(&JobView::from(&job));
    printer.line(&line(&job));
    Ok(Exit::Ok)
}

fn line(job: &Job) -> String {
    match job.state() {
        JobState::Cancelled => format!("{} cancelled", job.id),
        JobState::Queued | JobState::Running | JobState::Unspecified => format!("{} is being cancelled", job.id),
        state @ (JobState::Succeeded | JobState::Failed | JobState::Paused) => {
            format!("{} had already {}", job.id, view::job_state(state))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_says_what_is_so() {
        let line =
            |state: JobState| line(&Job { id: "job-0123456789ab".into(), state: state.into(), ..Job::default() });
        assert_eq!(line(JobState::Cancelled), "job-0123456789ab cancelled");
        assert_eq!(line(JobState::Running), "job-0123456789ab is being cancelled");
        assert_eq!(line(JobState::Succeeded), "job-0123456789ab had already succeeded");
    }
}
