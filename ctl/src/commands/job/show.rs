//! `prexorctl job show`.

use jiff::Timestamp;
use prexor_proto::backup::{GetJobRequest, Job, job_result};

use crate::{
    client::Client,
    commands::{job::list, outcome},
    exit::Exit,
    failure::Failure,
    follow,
    hints::Hint,
    printer::Printer,
    text,
    view::{self, JobView},
};

/// Prints a job.
///
/// # Errors
/// When there is none of this id.
pub async fn run(printer: &Printer, id: String) -> Result<Exit, Failure> {
    let client = Client::connect().await?;
    let request = GetJobRequest { job_id: id };
    let found = client.call(request, |s, r| async move { s.jobs().get_job(r).await }).await;
    let job = found.map_err(|f| f.hint_if_not_found(Hint::ListJobs))?;
    printer.document(&JobView::from(&job));
    printer.lines(lines(&job, Timestamp::now()));
    if let Some(job_result::Result::Restore(report)) = job.result.as_ref().and_then(|r| r.result.as_ref()) {
        printer.lines(outcome::times(report));
    }
    if follow::has_ended(job.state()) && job.failure.is_none() && !printer.is_json() {
        // What came of it, in the words of the command that started it; how it ended is not how this command ends.
        let _ = outcome::print_result(printer, &job);
    }
    Ok(Exit::Ok)
}

fn lines(job: &Job, now: Timestamp) -> Vec<String> {
    let mut fields = vec![
        ("id", job.id.clone()),
        ("kind", view::job_kind(job.kind()).to_owned()),
        ("state", view::job_state(job.state()).to_owned()),
        ("backup", job.backup_id.clone()),
        ("by", job.requested_by.clone()),
        ("asked", text::wire_time(job.created_at.as_ref())),
        ("started", text::wire_time(job.started_at.as_ref())),
        ("waits", if job.waits_for.is_empty() { String::new() } else { format!("for {}", job.waits_for) }),
        ("took", list::took(job, now)),
    ];
    if let Some(failure) = &job.failure {
        fields.push(("failure", format!("{}: {}", failure.reason, Failure::of_job(failure).message)));
    }
    fields
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{:<9}{value}", format!("{name}:")))
        .collect()
}

#[cfg(test)]
mod tests {
    use prexor_proto::backup::{Failure as JobFailure, JobKind, JobState};

    use super::*;

    #[test]
    fn a_failed_job_says_why() {
        let job = Job {
            id: "job-0123456789ab".into(),
            kind: JobKind::Backup.into(),
            state: JobState::Failed.into(),
            failure: Some(JobFailure { reason: "NO_SPACE".into(), message: "full".into(), node: "h1".into() }),
            ..Job::default()
        };
        let lines = lines(&job, Timestamp::UNIX_EPOCH);
        assert_eq!(lines[0], "id:      job-0123456789ab");
        assert_eq!(lines.last().map(String::as_str), Some("failure: NO_SPACE: h1: full"));
    }

    #[test]
    fn a_job_that_waits_says_for_whom() {
        let job = Job { state: JobState::Queued.into(), waits_for: "job-1 (backup of mongo)".into(), ..Job::default() };
        let lines = lines(&job, Timestamp::UNIX_EPOCH);
        assert!(lines.contains(&"waits:   for job-1 (backup of mongo)".to_owned()), "{lines:?}");
    }
}
