//! prepare, swap, check, revert, commit: each runs to its end whatever becomes of the caller, and reports as it goes.

use prexor_proto::{
    agent::{self as wire, UnitPhase, apply_response::Frame},
    reason::Reason,
    status::status,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Api, BoxStream, REPORT_EVERY, error, progress_to_wire};
use crate::{
    restore_unit::{Phase, RestoreUnit},
    restores::{Outcome, Verb},
    source::SourceError,
};

impl Api {
    pub(super) async fn apply(
        &self,
        verb: Verb,
        request: Request<wire::ApplyRequest>,
    ) -> Result<Response<BoxStream<wire::ApplyResponse>>, Status> {
        let request = request.into_inner();
        let fence = self.pass(request.fence)?;
        let (tx, rx) = mpsc::channel(4);
        tokio::spawn(run(self.clone(), verb, fence.job_id, request.artifact_id, tx));
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }
}

async fn run(
    api: Api,
    verb: Verb,
    job_id: String,
    artifact_id: String,
    tx: mpsc::Sender<Result<wire::ApplyResponse, Status>>,
) {
    let mut tick = tokio::time::interval(REPORT_EVERY);
    // A repeated call waits here for the first one, and reports nothing new meanwhile but that it is alive.
    let lock = api.host.restores().lock(&job_id, &artifact_id);
    tokio::pin!(lock);
    let _guard = loop {
        tokio::select! {
            guard = &mut lock => match guard {
                Ok(guard) => break guard,
                Err(e) => return drop(tx.send(Err(error::source(e))).await),
            },
            _ = tick.tick() => drop(tx.try_send(Ok(response(Frame::Progress(Default::default()))))),
        }
    };
    let unit = match api.host.restores().find(&job_id, &artifact_id) {
        Ok(Some(unit)) => unit,
        Ok(None) => {
            let message = format!("{artifact_id} of {job_id} is not staged on this host");
            return drop(tx.send(Err(status(Reason::NotFound, message))).await);
        }
        Err(e) => return drop(tx.send(Err(error::source(e))).await),
    };
    let work = api.host.carry_out(verb, &unit);
    tokio::pin!(work);
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            // A full channel is no reason to hold up a restore: the next report says more.
            _ = tick.tick() => {
                drop(tx.try_send(Ok(response(Frame::Progress(progress_to_wire(unit.progress.figures()))))));
            }
        }
    };
    match &outcome {
        Ok(outcome) => tracing::info!(job = job_id, artifact = artifact_id, ?verb, ?outcome, "restore verb done"),
        Err(e) => tracing::warn!(job = job_id, artifact = artifact_id, ?verb, error = %e, "restore verb failed"),
    }
    // A repeated swap tells it again: the answer to the first may never have arrived.
    let told = if verb == Verb::Swap { unit.told().unwrap_or_default() } else { Vec::new() };
    drop(tx.send(outcome.map(|outcome| end(outcome, told)).map_err(error::source)).await);
}

fn end(outcome: Outcome, corrections: Vec<String>) -> wire::ApplyResponse {
    let already_done = outcome == Outcome::AlreadyDone;
    let differences = if let Outcome::Compared(differences) = outcome { differences } else { Vec::new() };
    response(Frame::End(wire::ApplyEnd { already_done, differences, corrections }))
}

fn response(frame: Frame) -> wire::ApplyResponse {
    wire::ApplyResponse { frame: Some(frame) }
}

pub(super) fn probe(unit: Option<&RestoreUnit>) -> Result<wire::ProbeResponse, Status> {
    let Some(unit) = unit else {
        return Ok(wire::ProbeResponse { phase: UnitPhase::Unspecified.into(), staged_paths: Vec::new() });
    };
    let phase = unit
        .phase()
        .map_err(|e| error::source(SourceError::Failed(format!("the unit's phase cannot be read: {e}"))))?;
    let whole = unit.artifact.files.iter().filter(|f| unit.is_whole(f));
    Ok(wire::ProbeResponse {
        phase: phase_to_wire(phase).into(),
        staged_paths: whole.map(|f| f.path.clone()).collect(),
    })
}

fn phase_to_wire(phase: Phase) -> UnitPhase {
    match phase {
        Phase::Staging => UnitPhase::Staging,
        Phase::Staged => UnitPhase::Staged,
        Phase::Preparing => UnitPhase::Preparing,
        Phase::Prepared => UnitPhase::Prepared,
        Phase::Swapping => UnitPhase::Swapping,
        Phase::Swapped => UnitPhase::Swapped,
        Phase::Reverting => UnitPhase::Reverting,
        Phase::Reverted => UnitPhase::Reverted,
        Phase::Committing => UnitPhase::Committing,
        Phase::Committed => UnitPhase::Committed,
    }
}
