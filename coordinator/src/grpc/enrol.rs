//! `EnrolmentService`, on a listener of its own.

use std::sync::Arc;

use prexor_proto::{
    convert::time_to_wire,
    enroll::{EnrolRequest, EnrolResponse, enrolment_service_server::EnrolmentService},
};
use prexor_transport::serve;
use tonic::{Request, Response, Status, async_trait};

use crate::{
    context::Context,
    enrolment::{self, Applicant},
};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Enrolment {
    ctx: Arc<Context>,
}

impl Enrolment {
    pub(super) fn new(ctx: Arc<Context>) -> Self {
        Self { ctx }
    }
}

#[async_trait]
impl EnrolmentService for Enrolment {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let from = serve::peer(&request).map(|p| p.address);
        let EnrolRequest { token, csr_der, name, hostname, address } = request.into_inner();
        let applicant = Applicant { token: &token, csr_der: &csr_der, name: &name, hostname, address, from };
        let issued = enrolment::enrol(&self.ctx, applicant).await?;
        Ok(Response::new(EnrolResponse {
            chain_der: issued.chain.iter().map(|c| c.to_vec()).collect(),
            roots_der: vec![self.ctx.authority.root_der().to_vec()],
            not_after: Some(time_to_wire(issued.leaf.not_after)),
            identity: issued.leaf.identity.to_string(),
            api_address: self.ctx.config.api_address.clone(),
        }))
    }
}
