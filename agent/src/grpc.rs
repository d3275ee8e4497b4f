//! The agent API: adapters that unwrap a request, call the agent, and map the answer. Nothing is decided here.

mod capture;
mod error;
mod inspect;
mod service;
mod stage;
mod verbs;

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use jiff::Timestamp;
use prexor_certs::CertificateDer;
use prexor_proto::{
    agent::{self as wire, agent_service_server::AgentService},
    backup,
    reason::Reason,
    status::status,
};
use tonic::{Request, Response, Status, Streaming};

use crate::{host::Host, identity::Keeper, restores::Verb};

/// How often a running capture or verb reports, so that a silent stream is a dead one.
const REPORT_EVERY: Duration = Duration::from_millis(500);

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves the agent API for one host.
#[derive(Debug, Clone)]
pub struct Api {
    host: Arc<Host>,
    keeper: Arc<Keeper>,
}

impl Api {
    /// The API of this host.
    pub fn new(host: Arc<Host>, keeper: Arc<Keeper>) -> Self {
        Self { host, keeper }
    }

    /// Refuses coordinators of the past. That it is a coordinator at all is the door's to see (`server`).
    fn pass(&self, fence: Option<wire::Fence>) -> Result<wire::Fence, Status> {
        let fence = fence.ok_or_else(|| status(Reason::InvalidRequest, "the call carries no fence"))?;
        self.host.fence().pass(&fence.cluster, fence.epoch).map_err(error::fence)?;
        Ok(fence)
    }
}

#[tonic::async_trait]
impl AgentService for Api {
    async fn inspect(&self, request: Request<wire::InspectRequest>) -> Result<Response<wire::InspectResponse>, Status> {
        let node = inspect::node(&self.host, request.into_inner().laws).await;
        Ok(Response::new(wire::InspectResponse { node: Some(node) }))
    }

    async fn ping(&self, request: Request<wire::PingRequest>) -> Result<Response<wire::PingResponse>, Status> {
        let csr = self.keeper.wants(Timestamp::now(), request.into_inner().renew);
        Ok(Response::new(wire::PingResponse {
            trust_digest: self.keeper.trust_digest(),
            csr_der: csr.map_err(error::keeper)?.unwrap_or_default(),
            serial: self.keeper.leaf().serial,
        }))
    }

    async fn trust(&self, request: Request<wire::TrustRequest>) -> Result<Response<wire::TrustResponse>, Status> {
        let request = request.into_inner();
        self.pass(request.fence)?;
        let certificates = |ders: Vec<Vec<u8>>| ders.into_iter().map(CertificateDer::from).collect();
        let (roots, chain) = (certificates(request.roots_der), certificates(request.chain_der));
        let keeper = self.keeper.clone();
        let done = tokio::task::spawn_blocking(move || keeper.trust(roots, request.revoked_serials, chain));
        done.await.map_err(|e| status(Reason::Internal, e.to_string()))?.map_err(error::keeper)?;
        Ok(Response::new(wire::TrustResponse {}))
    }

    type CaptureStream = BoxStream<wire::CaptureResponse>;

    async fn capture(&self, request: Request<wire::CaptureRequest>) -> Result<Response<Self::CaptureStream>, Status> {
        let request = request.into_inner();
        self.pass(request.fence)?;
        let kind = error::wire(prexor_proto::convert::kind_from_wire(request.kind))?;
        let compression = error::wire(prexor_proto::convert::compression_from_wire(request.compression))?;
        let source = self.host.live_source(kind, compression).await.map_err(error::source)?;
        Ok(Response::new(capture::run(source)))
    }

    async fn stage(
        &self,
        request: Request<Streaming<wire::StageRequest>>,
    ) -> Result<Response<wire::StageResponse>, Status> {
        stage::receive(self, request.into_inner()).await.map(Response::new)
    }

    type PrepareStream = BoxStream<wire::ApplyResponse>;

    async fn prepare(&self, request: Request<wire::ApplyRequest>) -> Result<Response<Self::PrepareStream>, Status> {
        self.apply(Verb::Prepare, request).await
    }

    type SwapStream = BoxStream<wire::ApplyResponse>;

    async fn swap(&self, request: Request<wire::ApplyRequest>) -> Result<Response<Self::SwapStream>, Status> {
        self.apply(Verb::Swap, request).await
    }

    type CheckStream = BoxStream<wire::ApplyResponse>;

    async fn check(&self, request: Request<wire::ApplyRequest>) -> Result<Response<Self::CheckStream>, Status> {
        self.apply(Verb::Check, request).await
    }

    type RevertStream = BoxStream<wire::ApplyResponse>;

    async fn revert(&self, request: Request<wire::ApplyRequest>) -> Result<Response<Self::RevertStream>, Status> {
        self.apply(Verb::Revert, request).await
    }

    type CommitStream = BoxStream<wire::ApplyResponse>;

    async fn commit(&self, request: Request<wire::ApplyRequest>) -> Result<Response<Self::CommitStream>, Status> {
        self.apply(Verb::Commit, request).await
    }

    async fn probe(&self, request: Request<wire::ProbeRequest>) -> Result<Response<wire::ProbeResponse>, Status> {
        let request = request.into_inner();
        let fence = self.pass(request.fence)?;
        let unit = self.host.restores().find(&fence.job_id, &request.artifact_id).map_err(error::source)?;
        verbs::probe(unit.as_ref()).map(Response::new)
    }

    async fn control_service(
        &self,
        request: Request<wire::ControlServiceRequest>,
    ) -> Result<Response<wire::ControlServiceResponse>, Status> {
        let request = request.into_inner();
        let fence = self.pass(request.fence.clone())?;
        service::control(&self.host, &fence.job_id, request.role(), request.verb(), &request.take_over)
            .await
            .map(Response::new)
    }
}

/// The progress of one artifact on the wire; the coordinator fills in node and artifact.
fn progress_to_wire(figures: crate::sink::ProgressFigures) -> backup::Progress {
    backup::Progress {
        subject: figures.subject,
        done_bytes: figures.done_bytes,
        total_bytes: (figures.total_bytes > 0).then_some(figures.total_bytes),
        done_items: figures.done_items,
        ..Default::default()
    }
}
