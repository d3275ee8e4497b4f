//! Watching a job to its end: lost connections are mended without gaps in the events, Ctrl-C leaves the job alone.

use std::time::{Duration, Instant};

use prexor_proto::backup::{GetJobRequest, Job, JobEvent, JobState, WatchJobRequest};

use crate::{
    client::{self, Client},
    failure::Failure,
    hints::Hint,
    printer::Printer,
};

/// How long the coordinator may be out of reach before watching is given up. The job does not depend on it.
const PATIENCE: Duration = Duration::from_secs(600);

/// Pauses between two attempts grow from this...
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// ...to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How watching ended.
pub enum Watched {
    /// The job has ended.
    Ended(Box<Job>),
    /// The person left.
    Detached,
}

/// Whether nothing more happens to a job in this state by itself.
pub fn has_ended(state: JobState) -> bool {
    matches!(state, JobState::Succeeded | JobState::Failed | JobState::Cancelled | JobState::Paused)
}

/// Hands every event of a job to `on_event`, past ones first, until the job has ended or Ctrl-C is pressed.
///
/// # Errors
/// When there is no such job, or the coordinator stays out of reach.
pub async fn to_end(
    client: &Client,
    printer: &Printer,
    job_id: &str,
    mut on_event: impl FnMut(&JobEvent),
) -> Result<Watched, Failure> {
    // Listening begins before the first event is shown: whoever sees one may press Ctrl-C at once.
    let interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
    let mut interrupts = interrupts.map_err(|e| Failure::local(format!("cannot listen for Ctrl-C: {e}")))?;
    tokio::select! {
        ended = watch(client, printer, job_id, &mut on_event) => ended.map(|job| Watched::Ended(Box::new(job))),
        _ = interrupts.recv() => Ok(Watched::Detached),
    }
}

async fn watch(
    client: &Client,
    printer: &Printer,
    job_id: &str,
    on_event: &mut impl FnMut(&JobEvent),
) -> Result<Job, Failure> {
    let mut after_seq = 0;
    let mut lost_since = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let seen = after_seq;
        let streamed = stream(client, job_id, &mut after_seq, &mut lost_since, on_event).await;
        let asked = match streamed {
            Ok(()) => get(client, job_id).await.map(|job| has_ended(job.state()).then_some(job)),
            Err(status) => Err(status),
        };
        match asked {
            Ok(Some(job)) => return Ok(job),
            // The stream ended before the job did: the coordinator is stopping.
            Ok(None) => {}
            Err(status) if !client::is_lost(&status) => {
                return Err(client::failure(&status).hint_if_not_found(Hint::ListJobs));
            }
            Err(status) => match lost_since {
                None => {
                    lost_since = Some(Instant::now());
                    printer.note("lost the connection to the coordinator, trying again");
                }
                Some(since) if since.elapsed() > PATIENCE => {
                    return Err(client::failure(&status).hint(Hint::WatchJob(job_id.to_owned())));
                }
                Some(_) => {}
            },
        }
        pause = if after_seq > seen { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        tokio::time::sleep(pause).await;
        // When this fails the old connection stays, and the next attempt says why.
        let _ = client.reconnect().await;
    }
}

async fn stream(
    client: &Client,
    job_id: &str,
    after_seq: &mut u64,
    lost_since: &mut Option<Instant>,
    on_event: &mut impl FnMut(&JobEvent),
) -> Result<(), tonic::Status> {
    let request = WatchJobRequest { job_id: job_id.to_owned(), after_seq: *after_seq };
    let mut events = client.services().jobs().watch_job(request).await?.into_inner();
    *lost_since = None;
    while let Some(event) = events.message().await? {
        // A repeated event is not shown twice.
        if event.seq > *after_seq {
            *after_seq = event.seq;
            on_event(&event);
        }
    }
    Ok(())
}

async fn get(client: &Client, job_id: &str) -> Result<Job, tonic::Status> {
    let request = GetJobRequest { job_id: job_id.to_owned() };
    client.services().jobs().get_job(request).await.map(tonic::Response::into_inner)
}
