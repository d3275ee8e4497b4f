//! What came of a job: its result, or why there is none.

use prexor_proto::{
    backup::{Job, JobState, job_result},
    reason::Reason,
};

use crate::{
    client::Client,
    commands::backup::{create, verify},
    exit::Exit,
    failure::Failure,
    follow::{self, Watched},
    hints::Hint,
    printer::Printer,
    reporter::Reporter,
};

/// Watches a job with bars or lines; none when the person left.
///
/// # Errors
/// When it cannot be watched, or has no result.
pub async fn wait(client: &Client, printer: &Printer, job: &Job) -> Result<Option<Job>, Failure> {
    let mut reporter = Reporter::new(printer);
    let watched = follow::to_end(client, printer, &job.id, |event| reporter.event(event)).await;
    reporter.clear();
    match watched? {
        Watched::Detached => {
            detached(printer, &job.id);
            Ok(None)
        }
        Watched::Ended(job) => {
            if let Some(job_result::Result::Backup(backup)) = job.result.as_ref().and_then(|r| r.result.as_ref()) {
                backup.warnings.iter().for_each(|warning| reporter.warning(warning));
            }
            Ok(Some(*job))
        }
    }
}

/// Says how to go on with a job that is left alone.
pub fn detached(printer: &Printer, job_id: &str) {
    printer.note(&format!("{job_id} goes on without us"));
    printer.note(&format!("hint: `prexorctl job watch {job_id}` watches it, `prexorctl job cancel {job_id}` ends it"));
}

/// The result of a job that has ended. A verify that found damage has one too.
///
/// # Errors
/// When it failed or was cancelled.
pub fn result(job: &Job) -> Result<&job_result::Result, Failure> {
    let result = job.result.as_ref().and_then(|r| r.result.as_ref());
    match (job.state(), result) {
        (JobState::Succeeded, Some(result)) | (_, Some(result @ job_result::Result::Verify(_))) => Ok(result),
        (JobState::Failed | JobState::Paused, _) => Err(job
            .failure
            .as_ref()
            .map_or_else(|| Failure::contract(format!("{} failed and does not say why", job.id)), Failure::of_job)),
        (JobState::Cancelled, _) => {
            let message = format!("{} was cancelled", job.id);
            Err(Failure { exit: Exit::of(Reason::Cancelled), ..Failure::refused(Reason::Cancelled, message) })
        }
        (state, _) => Err(Failure::contract(format!("{} ended as {} without a result", job.id, state.as_str_name()))),
    }
}

/// Prints what came of a job, for people.
///
/// # Errors
/// When it failed, was cancelled, or found damage.
pub fn print(printer: &Printer, job: &Job) -> Result<Exit, Failure> {
    match result(job)? {
        job_result::Result::Backup(backup) => printer.lines(create::lines(backup)),
        job_result::Result::Restore(report) => {
            if !report.safety_backup.is_empty() {
                printer.note(&format!(
                    "The state before is saved as {}: `prexorctl restore --undo {}` brings it back.",
                    report.safety_backup, job.id
                ));
            }
            if !report.after.is_empty() {
                printer.line(&report.after);
            }
        }
        job_result::Result::Verify(report) => {
            printer.lines(verify::lines(report));
            verify::verdict(&job.backup_id, report)?;
        }
    }
    Ok(Exit::Ok)
}

/// The failure of a call about a backup: what is not there is a backup.
pub fn about_backup(failure: Failure) -> Failure {
    failure.hint_if_not_found(Hint::ListBackups)
}

#[cfg(test)]
mod tests {
    use prexor_proto::backup::{Failure as JobFailure, JobResult, RestoreReport, VerifyReport};

    use super::*;
    use crate::printer::capture;

    fn job(state: JobState, result: Option<job_result::Result>) -> Job {
        let result = result.map(|r| JobResult { result: Some(r) });
        Job { id: "job-0123456789ab".into(), state: state.into(), result, ..Job::default() }
    }

    #[test]
    fn jobs_end_with_a_result_or_a_reason() {
        let (printer, captured) = capture::printer(false);
        let report = RestoreReport {
            after: "Run `systemctl start prexorcloud-controller` to bring the cluster back.".into(),
            ..RestoreReport::default()
        };
        let restored = job(JobState::Succeeded, Some(job_result::Result::Restore(report)));
        assert_eq!(print(&printer, &restored).unwrap(), Exit::Ok);
        assert_eq!(captured.out(), "Run `systemctl start prexorcloud-controller` to bring the cluster back.\n");

        let cancelled = result(&job(JobState::Cancelled, None)).unwrap_err();
        assert_eq!((cancelled.exit, cancelled.reason.as_str()), (Exit::Failed, "CANCELLED"));

        let why = JobFailure { reason: "NO_SPACE".into(), message: "the store is full".into(), node: String::new() };
        let failed = Job { failure: Some(why), ..job(JobState::Failed, None) };
        assert_eq!(result(&failed).unwrap_err().message, "the store is full");

        assert_eq!(result(&job(JobState::Succeeded, None)).unwrap_err().reason, "INTERNAL");
    }

    #[test]
    fn a_verify_that_found_damage_has_a_result_whatever_its_state() {
        for state in [JobState::Succeeded, JobState::Failed] {
            let damaged = job(state, Some(job_result::Result::Verify(VerifyReport::default())));
            let (printer, _) = capture::printer(false);
            assert_eq!(print(&printer, &damaged).unwrap_err().exit, Exit::Failed);
        }
    }
}
