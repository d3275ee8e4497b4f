//! One capture as a stream: frames from the source, progress beside them, and the summary last.

use std::sync::Arc;

use prexor_proto::{agent as wire, convert};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{BoxStream, REPORT_EVERY, error, progress_to_wire};
use crate::{
    sink::{ArtifactSink, Frame, Progress},
    source::{Captured, Source, SourceError},
};

/// Frames that wait for HTTP/2's window, beside those in the sink's own channel.
const FRAMES_IN_FLIGHT: usize = 4;

type Tx = mpsc::Sender<Result<wire::CaptureResponse, Status>>;

/// Starts the capture; dropping the stream stops it.
pub(super) fn run(source: Arc<dyn Source>) -> BoxStream<wire::CaptureResponse> {
    let (sink, frames, progress) = ArtifactSink::new();
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    let capture = tokio::spawn(async move { source.capture(sink, token).await });
    let (tx, rx) = mpsc::channel(FRAMES_IN_FLIGHT);
    tokio::spawn(forward(capture, frames, progress, cancel, tx));
    Box::pin(ReceiverStream::new(rx))
}

async fn forward(
    capture: JoinHandle<Result<Captured, SourceError>>,
    mut frames: mpsc::Receiver<Frame>,
    progress: Arc<Progress>,
    cancel: CancellationToken,
    tx: Tx,
) {
    let mut tick = tokio::time::interval(REPORT_EVERY);
    loop {
        let frame = tokio::select! {
            frame = frames.recv() => match frame {
                Some(frame) => frame_to_wire(frame),
                None => break,
            },
            _ = tick.tick() => {
                wire::capture_response::Frame::Progress(progress_to_wire(progress.figures()))
            }
            () = tx.closed() => break,
        };
        if tx.send(Ok(response(frame))).await.is_err() {
            break;
        }
    }
    if tx.is_closed() {
        cancel.cancel();
    }
    drop(frames);
    let last = match capture.await {
        Ok(Ok(captured)) => end(captured, &progress, &tx).await,
        Ok(Err(e)) => Err(error::source(e)),
        Err(e) => Err(error::source(SourceError::Failed(format!("the capture crashed: {e}")))),
    };
    if let Err(status) = &last {
        tracing::warn!(error = status.message(), "capture failed");
    }
    // Nobody may be listening any more, then there is nobody to tell.
    let _ = tx.send(last.map(response)).await;
}

async fn end(captured: Captured, progress: &Progress, tx: &Tx) -> Result<wire::capture_response::Frame, Status> {
    let total = wire::capture_response::Frame::Progress(progress_to_wire(progress.figures()));
    let _ = tx.send(Ok(response(total))).await;
    let contents_json = serde_json::to_string(&captured.contents)
        .map_err(|e| error::source(SourceError::Failed(format!("the manifest's entry cannot be written: {e}"))))?;
    Ok(wire::capture_response::Frame::End(wire::CaptureEnd {
        path: captured.path,
        format: captured.format.to_owned(),
        contents_json,
        warnings: captured.warnings,
    }))
}

fn response(frame: wire::capture_response::Frame) -> wire::CaptureResponse {
    wire::CaptureResponse { frame: Some(frame) }
}

fn frame_to_wire(frame: Frame) -> wire::capture_response::Frame {
    use wire::capture_response::Frame as Wire;
    match frame {
        Frame::Begin { file, path } => Wire::FileBegin(wire::FileBegin { file, path }),
        Frame::Chunk { file, data } => Wire::Chunk(wire::Chunk { file, data }),
        Frame::End { file, stored } => Wire::FileEnd(convert::file_end_to_wire(file, &stored)),
        Frame::Restart => Wire::Restart(wire::CaptureRestart {}),
    }
}
