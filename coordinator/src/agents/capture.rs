//! The frames of one capture, in the order in which the agent sends them.

use std::time::Duration;

use bytes::Bytes;
use prexor_format::{digest::Sha256Digest, id::NodeName};
use prexor_proto::{
    agent::{CaptureEnd, CaptureResponse, capture_response::Frame},
    backup::Progress,
    convert::{BadWire, digest_from_wire},
};
use tonic::Streaming;

use super::failure;
use crate::error::Error;

/// One piece of a capture. `file` names a file within this capture; several may be open at once.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields are those of the wire, see agent.proto")]
pub enum CaptureFrame {
    /// A file begins. Its path is what the agent says: not checked.
    Begin { file: u32, path: String },
    /// The next bytes of a file.
    Chunk { file: u32, data: Bytes },
    /// A file is complete; this is what the agent read.
    FileEnd { file: u32, size_bytes: u64, sha256: Sha256Digest },
    /// Everything so far is void: the capture begins anew.
    Restart,
    /// How far the capture has come.
    Progress(Progress),
    /// All files are complete: the capture has succeeded.
    End(CaptureEnd),
}

/// A capture under way. Dropping it stops the agent's side.
#[derive(Debug)]
pub struct Capture {
    node: NodeName,
    stream: Streaming<CaptureResponse>,
    stall: Duration,
}

impl Capture {
    pub(super) fn new(node: NodeName, stream: Streaming<CaptureResponse>, stall: Duration) -> Self {
        Self { node, stream, stall }
    }

    /// The next frame. Not to be called again after [`CaptureFrame::End`].
    ///
    /// # Errors
    /// When the capture fails, stalls, or breaks off.
    pub async fn next(&mut self) -> Result<CaptureFrame, Error> {
        let next = tokio::time::timeout(self.stall, self.stream.message()).await;
        let next = next.map_err(|_| failure::stalled(&self.node, "capturing", self.stall))?;
        let Some(response) = next.map_err(|s| failure::of_status(&self.node, &s))? else {
            return Err(failure::of_wire(&self.node, &BadWire("a capture without an end".into())));
        };
        self.frame(response).map_err(|e| failure::of_wire(&self.node, &e))
    }

    fn frame(&self, response: CaptureResponse) -> Result<CaptureFrame, BadWire> {
        Ok(match response.frame.ok_or_else(|| BadWire("an unknown frame".into()))? {
            Frame::FileBegin(f) => CaptureFrame::Begin { file: f.file, path: f.path },
            Frame::Chunk(c) => CaptureFrame::Chunk { file: c.file, data: c.data },
            Frame::FileEnd(f) => {
                let sha256 = digest_from_wire(&f.sha256)?;
                CaptureFrame::FileEnd { file: f.file, size_bytes: f.size_bytes, sha256 }
            }
            Frame::Restart(_) => CaptureFrame::Restart,
            Frame::Progress(p) => CaptureFrame::Progress(Progress { node: self.node.to_string(), ..p }),
            Frame::End(end) => CaptureFrame::End(end),
        })
    }
}
