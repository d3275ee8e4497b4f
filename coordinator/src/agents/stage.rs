//! Sending an artifact's files to the host that restores them, without those that are there already.

use std::{collections::HashSet, pin::pin};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use prexor_format::{
    manifest::{Artifact, StoredFile},
    selection::Selection,
};
use prexor_proto::{
    agent::{Chunk, Fence, FileBegin, StageBegin, StageRequest, stage_request::Frame},
    backup::Progress,
    convert::{file_end_to_wire, selection_to_wire},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{AgentClient, failure};
use crate::error::Error;

/// Frames that may wait for the network.
const FRAMES_IN_FLIGHT: usize = 4;

/// The largest chunk that is sent.
const CHUNK: usize = 256 << 10;

/// Why no more is sent.
enum Stop {
    /// The stored file cannot be read.
    Source(Error),
    /// Nothing went out for too long.
    Stalled,
    /// The agent has ended the call: its status says why.
    Refused,
}

impl AgentClient {
    /// Sends an artifact to the agent, which checks every digest; `open` opens one of its files by its path in the
    /// backup. Files that an earlier attempt of this job has staged are not sent again. Returns the staged bytes.
    ///
    /// # Errors
    /// When a file cannot be read, or the agent fails, refuses what it got, stalls or goes away.
    pub async fn stage<Open, Opened, File>(
        &self,
        fence: Fence,
        artifact: &Artifact,
        selection: &Selection,
        open: Open,
        on_progress: impl FnMut(Progress) + Send,
    ) -> Result<u64, Error>
    where
        Open: Fn(String) -> Opened + Send + Sync,
        Opened: Future<Output = Result<File, Error>> + Send,
        File: Stream<Item = Result<Bytes, Error>> + Send + Unpin,
    {
        let staged: HashSet<String> = self.probe(fence.clone(), &artifact.id).await?.staged_paths.into_iter().collect();
        let artifact_json = serde_json::to_string(artifact)
            .map_err(|e| Error::internal(format!("{} cannot be described: {e}", artifact.id)))?;
        let selected = (*selection != Selection::default()).then(|| selection_to_wire(selection));
        let begin = StageBegin { fence: Some(fence), artifact_json, selection: selected };
        let (tx, rx) = mpsc::channel(FRAMES_IN_FLIGHT);
        let feeder = Feeder { tx, stall: self.limits.stall };
        let feed = async {
            feeder.send(Frame::Begin(begin)).await?;
            feeder.files(artifact, &selection.files(artifact), &staged, &open, self.node.as_str(), on_progress).await?;
            drop(feeder);
            Ok(())
        };
        let mut client = self.client.clone();
        let (mut call, mut feed) = (pin!(client.stage(ReceiverStream::new(rx))), pin!(feed));
        tokio::select! {
            biased;
            ended = &mut call => return self.answered(ended),
            fed = &mut feed => match fed {
                Ok(()) | Err(Stop::Refused) => {}
                Err(Stop::Source(e)) => return Err(e),
                Err(Stop::Stalled) => {
                    return Err(failure::stalled(&self.node, "receiving an artifact", self.limits.stall));
                }
            },
        }
        let ended = tokio::time::timeout(self.limits.sync, call).await;
        self.answered(ended.map_err(|_| failure::stalled(&self.node, "checking an artifact", self.limits.sync))?)
    }

    fn answered(
        &self,
        answer: Result<tonic::Response<prexor_proto::agent::StageResponse>, tonic::Status>,
    ) -> Result<u64, Error> {
        answer.map(|r| r.into_inner().staged_bytes).map_err(|s| failure::of_status(&self.node, &s))
    }
}

struct Feeder {
    tx: mpsc::Sender<StageRequest>,
    stall: std::time::Duration,
}

impl Feeder {
    async fn send(&self, frame: Frame) -> Result<(), Stop> {
        let sent = tokio::time::timeout(self.stall, self.tx.send(StageRequest { frame: Some(frame) })).await;
        sent.map_err(|_| Stop::Stalled)?.map_err(|_| Stop::Refused)
    }

    async fn files<Open, Opened, File>(
        &self,
        artifact: &Artifact,
        files: &[&StoredFile],
        staged: &HashSet<String>,
        open: &Open,
        node: &str,
        mut on_progress: impl FnMut(Progress) + Send,
    ) -> Result<(), Stop>
    where
        Open: Fn(String) -> Opened + Send + Sync,
        Opened: Future<Output = Result<File, Error>> + Send,
        File: Stream<Item = Result<Bytes, Error>> + Send + Unpin,
    {
        let mut progress = Progress {
            node: node.to_owned(),
            artifact_id: artifact.id.clone(),
            total_bytes: Some(files.iter().map(|f| f.size_bytes).sum()),
            ..Progress::default()
        };
        for (file, stored) in (0u32..).zip(files) {
            progress.subject.clone_from(&stored.path);
            if !staged.contains(&stored.path) {
                self.send(Frame::FileBegin(FileBegin { file, path: stored.path.clone() })).await?;
                let mut pieces = open(stored.path.clone()).await.map_err(Stop::Source)?;
                while let Some(piece) = pieces.next().await {
                    let mut piece = piece.map_err(Stop::Source)?;
                    progress.done_bytes += piece.len() as u64;
                    while !piece.is_empty() {
                        let data = piece.split_to(piece.len().min(CHUNK));
                        self.send(Frame::Chunk(Chunk { file, data })).await?;
                    }
                    on_progress(progress.clone());
                }
                self.send(end(file, stored)).await?;
            } else {
                progress.done_bytes += stored.size_bytes;
            }
            progress.done_items += 1;
            on_progress(progress.clone());
        }
        Ok(())
    }
}

/// What the manifest says of the file, not what was read: the agent compares, and refuses what is damaged.
fn end(file: u32, stored: &StoredFile) -> Frame {
    Frame::FileEnd(file_end_to_wire(file, stored))
}
