//! `prexorctl job list`.

use jiff::Timestamp;
use prexor_proto::backup::{Job, ListJobsRequest};

use crate::{
    client::Client,
    exit::Exit,
    failure::Failure,
    printer::Printer,
    text,
    view::{self, JobView},
};

/// Prints jobs, newest first; all with a limit of 0.
///
/// # Errors
/// When the coordinator cannot be asked.
pub async fn run(printer: &Printer, limit: u32) -> Result<Exit, Failure> {
    let client = Client::connect().await?;
    let limit = if limit == 0 { usize::MAX } else { limit as usize };
    let mut jobs: Vec<Job> = Vec::new();
    let mut request = ListJobsRequest::default();
    while jobs.len() < limit {
        let page = client.call(request.clone(), |s, r| async move { s.jobs().list_jobs(r).await }).await?;
        jobs.extend(page.jobs);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    jobs.truncate(limit);
    printer.document(&jobs.iter().map(JobView::from).collect::<Vec<_>>());
    printer.lines(lines(&jobs, Timestamp::now()));
    Ok(Exit::Ok)
}

/// The table.
pub fn lines(jobs: &[Job], now: Timestamp) -> Vec<String> {
    text::table(
        &["ID", "KIND", "STATE", "BACKUP", "STARTED", "TOOK"],
        jobs.iter().map(|job| {
            let backup = if job.backup_id.is_empty() { "-" } else { &job.backup_id };
            vec![
                job.id.clone(),
                view::job_kind(job.kind()).to_owned(),
                view::job_state(job.state()).to_owned(),
                backup.to_owned(),
                text::wire_time(job.started_at.as_ref()),
                took(job, now),
            ]
        }),
    )
}

/// How long it took, or has been going on; `-` for one that has not begun.
pub fn took(job: &Job, now: Timestamp) -> String {
    let end = view::at(job.finished_at.as_ref()).unwrap_or(now);
    view::at(job.started_at.as_ref()).map_or_else(|| "-".to_owned(), |t| text::duration(end.duration_since(t)))
}

#[cfg(test)]
mod tests {
    use prexor_proto::backup::{JobKind, JobState};

    use super::*;

    #[test]
    fn jobs_say_what_they_do_and_for_how_long() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let done = Job {
            id: "job-0123456789ab".into(),
            kind: JobKind::Backup.into(),
            state: JobState::Succeeded.into(),
            backup_id: "bk-2026-05-10-001".into(),
            started_at: at(1_778_400_000),
            finished_at: at(1_778_400_065),
            ..Job::default()
        };
        let running = Job {
            kind: JobKind::Restore.into(),
            state: JobState::Running.into(),
            backup_id: String::new(),
            finished_at: None,
            ..done.clone()
        };
        let queued = Job { state: JobState::Queued.into(), started_at: None, ..running.clone() };
        let now = Timestamp::from_second(1_778_400_010).unwrap();
        assert_eq!(
            lines(&[queued, running, done], now),
            [
                "ID                KIND     STATE      BACKUP             STARTED               TOOK",
                "job-0123456789ab  restore  queued     -                  -                     -",
                "job-0123456789ab  restore  running    -                  2026-05-10T08:00:00Z  10 s",
                "job-0123456789ab  backup   succeeded  bk-2026-05-10-001  2026-05-10T08:00:00Z  1 min 5 s",
            ]
        );
    }
}
