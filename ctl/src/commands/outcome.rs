//! What came of a job: its result, or why there is none.

use jiff::SignedDuration;
use prexor_proto::{
    backup::{Job, JobState, Plan, RestoreReport, job_result},
    convert,
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
    text,
};

/// Watches a job with bars or lines; none when the person left.
///
/// # Errors
/// When it cannot be watched, or has no result.
pub async fn wait(client: &Client, printer: &Printer, job: &Job, plan: Option<&Plan>) -> Result<Option<Job>, Failure> {
    let mut reporter = Reporter::new(printer);
    if let Some(plan) = plan {
        reporter.expect(plan);
    }
    let watched = follow::to_end(client, printer, &job.id, |event| reporter.event(event)).await;
    reporter.clear();
    match watched? {
        Watched::Detached => {
            detached(printer, &job.id, reporter.is_of_restore());
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
pub fn detached(printer: &Printer, job_id: &str, is_restore: bool) {
    let end = if is_restore {
        format!("takes it back; should it pause, `prexorctl job resume {job_id}` lets it go on")
    } else {
        "ends it".to_owned()
    };
    printer.note(&format!("{job_id} goes on without us"));
    printer.note(&format!("hint: `prexorctl job watch {job_id}` watches it, `prexorctl job cancel {job_id}` {end}"));
}

/// How long a restore took, step by step, for people; empty for one of an older coordinator.
pub fn times(report: &RestoreReport) -> Vec<String> {
    let duration = |d: &prost_types::Duration| convert::duration_from_wire(d);
    let Some(took) = report.took.as_ref().map(duration) else { return Vec::new() };
    let mut lines = vec!["Steps:".to_owned()];
    lines.extend(report.steps.iter().map(|s| {
        let on = if s.node.is_empty() { "coordinator" } else { &s.node };
        let seconds = s.duration.as_ref().map(duration).unwrap_or_default().as_secs_f64();
        let time = if seconds < 60.0 {
            format!("{seconds:.1} s")
        } else {
            text::duration(SignedDuration::from_secs(seconds as i64))
        };
        format!("  {:>2}. {time:>9}  {on}: {}", s.number, s.title)
    }));
    let stopped = report.stopped.as_ref().map(duration);
    let stopped = stopped.map(|d| format!("; controllers were stopped for {} of that", text::duration(d)));
    lines.push(format!("Restored in {}{}.", text::duration(took), stopped.unwrap_or_default()));
    lines
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

/// Prints what came of a job, for people, and how long a restore took.
///
/// # Errors
/// When it failed, was cancelled, or found damage.
pub fn print(printer: &Printer, job: &Job) -> Result<Exit, Failure> {
    if let job_result::Result::Restore(report) = result(job)? {
        times(report).iter().for_each(|line| printer.note(line));
    }
    print_result(printer, job)
}

/// Prints what came of a job, for people.
///
/// # Errors
/// When it failed, was cancelled, or found damage.
pub fn print_result(printer: &Printer, job: &Job) -> Result<Exit, Failure> {
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
    use prexor_proto::backup::{Failure as JobFailure, JobResult, StepResult, VerifyReport};

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
    fn a_restore_tells_how_long_its_steps_took() {
        let of = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
        let step = |number, node: &str, title: &str, duration| StepResult {
            number,
            node: node.into(),
            title: title.into(),
            duration,
            ..StepResult::default()
        };
        let report = RestoreReport {
            steps: vec![
                step(1, "", "look at every host again", of(0, 250_000_000)),
                step(2, "h1", "drop+restore mongo", of(75, 0)),
            ],
            took: of(80, 0),
            stopped: of(77, 0),
            ..RestoreReport::default()
        };
        assert_eq!(
            times(&report),
            [
                "Steps:",
                "   1.     0.2 s  coordinator: look at every host again",
                "   2. 1 min 15 s  h1: drop+restore mongo",
                "Restored in 1 min 20 s; controllers were stopped for 1 min 17 s of that.",
            ]
        );
        assert_eq!(times(&RestoreReport::default()), [""; 0]);
    }

    #[test]
    fn who_leaves_a_restore_is_told_how_it_goes_on() {
        let said = |is_restore| {
            let (printer, captured) = capture::printer(false);
            detached(&printer, "job-1", is_restore);
            captured.err()
        };
        for words in [
            "`prexorctl job watch job-1` watches it",
            "`prexorctl job cancel job-1` takes it back",
            "`prexorctl job resume job-1`",
        ] {
            assert!(said(true).contains(words), "{}", said(true));
        }
        assert!(!said(false).contains("resume"), "{}", said(false));
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
