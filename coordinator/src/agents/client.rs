//! One agent: its calls as functions over plain types.

use prexor_format::id::NodeName;
use prexor_proto::{
    agent::{
        ApplyRequest, ApplyResponse, CaptureRequest, ControlServiceRequest, ControlServiceResponse, Fence,
        InspectRequest, ProbeRequest, ProbeResponse, ServiceVerb, agent_service_client::AgentServiceClient,
        apply_response,
    },
    backup::{Node, Progress, ServiceRole},
    convert::{BadWire, compression_to_wire, kind_to_wire},
};
use tonic::{Response, Status, Streaming, transport::Channel};

use super::{capture::Capture, failure};
use crate::{config::AgentLimits, error::Error};

/// A verb of a restore that is told only the artifact. (`stage` brings the artifact itself.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Bring the artifact beside the live data and compare it with the manifest.
    Prepare,
    /// Exchange live and prepared data, keep the old aside.
    Swap,
    /// Compare the live data with the manifest.
    Check,
    /// The old data is live again, nothing of the new is left.
    Revert,
    /// Let go of the old data and of the unit.
    Commit,
}

impl Verb {
    fn doing(self) -> &'static str {
        match self {
            Self::Prepare => "preparing",
            Self::Swap => "swapping",
            Self::Check => "checking",
            Self::Revert => "reverting",
            Self::Commit => "committing",
        }
    }
}

/// How closely an agent looks around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// At what there is.
    Plain,
    /// Also at what the restore laws need to know of the live data, which takes a while.
    ForRestore,
}

/// How a verb ended that did not fail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerbEnd {
    /// It found nothing to do.
    pub already_done: bool,
    /// Of [`Verb::Check`]: what differs from the manifest, in words; empty when equal.
    pub differences: Vec<String>,
    /// Of [`Verb::Swap`]: what was made otherwise than in the backup, by the restore laws.
    pub corrections: Vec<String>,
}

/// A connection to the agent of one node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AgentClient {
    pub(super) node: NodeName,
    pub(super) client: AgentServiceClient<Channel>,
    pub(super) limits: AgentLimits,
}

impl AgentClient {
    pub(super) fn new(node: NodeName, client: AgentServiceClient<Channel>, limits: AgentLimits) -> Self {
        Self { node, client, limits }
    }

    /// The node.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// What is on the host and whether it could be captured and restored now.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn inspect(&self, look: Look) -> Result<Node, Error> {
        let mut client = self.client.clone();
        let request = InspectRequest { laws: look == Look::ForRestore };
        let answer = self.within(self.limits.answer, "inspecting", client.inspect(request)).await?;
        answer.node.ok_or_else(|| failure::of_wire(&self.node, &BadWire("an inspection without a node".into())))
    }

    /// Begins to stream an artifact, compressed as the agent is configured unless something else is asked for. Dropping
    /// the capture stops it.
    ///
    /// # Errors
    /// When the agent does not answer or cannot begin.
    pub async fn capture(
        &self,
        fence: Fence,
        kind: prexor_format::artifact::ArtifactKind,
        compression: Option<prexor_format::gzip::Level>,
    ) -> Result<Capture, Error> {
        let mut client = self.client.clone();
        let compression = compression_to_wire(compression) as i32;
        let request = CaptureRequest { fence: Some(fence), kind: kind_to_wire(kind) as i32, compression };
        let stream = self.within(self.limits.stall, "beginning to capture", client.capture(request)).await?;
        Ok(Capture::new(self.node.clone(), stream, self.limits.stall))
    }

    /// Performs a verb and waits for its end, however long that takes, as long as the agent shows signs of life.
    /// `on_progress` is given figures about every second.
    ///
    /// Dropping the future leaves the agent to finish the verb: it is not cancelled half way.
    ///
    /// # Errors
    /// When the agent fails, stalls or goes away. Whether the verb has happened is [`AgentClient::probe`]'s to say.
    pub async fn verb(
        &self,
        verb: Verb,
        fence: Fence,
        artifact_id: &str,
        mut on_progress: impl FnMut(Progress) + Send,
    ) -> Result<VerbEnd, Error> {
        let mut stream = self.begin(verb, ApplyRequest { fence: Some(fence), artifact_id: artifact_id.into() }).await?;
        loop {
            let next = tokio::time::timeout(self.limits.stall, stream.message()).await;
            let next = next.map_err(|_| failure::stalled(&self.node, verb.doing(), self.limits.stall))?;
            match next.map_err(|s| failure::of_status(&self.node, &s))?.and_then(|r| r.frame) {
                Some(apply_response::Frame::Progress(p)) => {
                    on_progress(Progress { node: self.node.to_string(), artifact_id: artifact_id.to_owned(), ..p });
                }
                Some(apply_response::Frame::End(end)) => {
                    let (already_done, differences) = (end.already_done, end.differences);
                    return Ok(VerbEnd { already_done, differences, corrections: end.corrections });
                }
                None => {
                    let what = format!("no end while {}", verb.doing());
                    return Err(failure::of_wire(&self.node, &BadWire(what)));
                }
            }
        }
    }

    async fn begin(&self, verb: Verb, request: ApplyRequest) -> Result<Streaming<ApplyResponse>, Error> {
        let mut client = self.client.clone();
        let call = async move {
            match verb {
                Verb::Prepare => client.prepare(request).await,
                Verb::Swap => client.swap(request).await,
                Verb::Check => client.check(request).await,
                Verb::Revert => client.revert(request).await,
                Verb::Commit => client.commit(request).await,
            }
        };
        self.within(self.limits.stall, verb.doing(), call).await
    }

    /// How far a unit of this job has come on the host, and which of its files are staged.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn probe(&self, fence: Fence, artifact_id: &str) -> Result<ProbeResponse, Error> {
        let mut client = self.client.clone();
        let request = ProbeRequest { fence: Some(fence), artifact_id: artifact_id.to_owned() };
        self.within(self.limits.answer, "probing", client.probe(request)).await
    }

    /// Stops, starts, holds or releases a service and waits until that has happened; returns how it then is.
    ///
    /// # Errors
    /// When the agent does not answer, or the service does not obey.
    pub async fn control_service(
        &self,
        fence: Fence,
        verb: ServiceVerb,
        role: ServiceRole,
        take_over: Option<String>,
    ) -> Result<ControlServiceResponse, Error> {
        let mut client = self.client.clone();
        let take_over = take_over.unwrap_or_default();
        let request = ControlServiceRequest { fence: Some(fence), verb: verb as i32, role: role as i32, take_over };
        let call = client.control_service(request);
        self.within(self.limits.service, "moving a service", call).await
    }

    /// Waits for an answer, but not for ever.
    pub(super) async fn within<T>(
        &self,
        limit: std::time::Duration,
        doing: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        let answer = tokio::time::timeout(limit, call).await;
        let answer = answer.map_err(|_| failure::stalled(&self.node, doing, limit))?;
        answer.map(Response::into_inner).map_err(|s| failure::of_status(&self.node, &s))
    }
}
