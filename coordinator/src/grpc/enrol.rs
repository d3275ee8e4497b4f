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
        let EnrolRequest { token, csr_der, name, hostname, address, role, rejoin } = request.into_inner();
        let (token, csr_der, name, role) = (&token, &csr_der, &name, &role);
        let applicant = Applicant { token, csr_der, name, hostname, address, role, rejoin, from };
        let issued = enrolment::enrol(&self.ctx, applicant).await?;
        Ok(Response::new(EnrolResponse {
            chain_der: issued.chain.iter().map(|c| c.to_vec()).collect(),
            roots_der: issued.roots.iter().map(|c| c.to_vec()).collect(),
            not_after: Some(time_to_wire(issued.leaf.not_after)),
            identity: issued.leaf.identity.to_string(),
            api_address: self.ctx.config.api_address.clone(),
        }))
    }
}
