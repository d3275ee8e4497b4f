//! `AdminService`.

use prexor_certs::Role;
use prexor_format::id::NodeName;
use prexor_proto::{
    backup::{
        CreateTokenRequest, CreateTokenResponse, GetStatusRequest, GetStatusResponse, TokenRole,
        admin_service_server::AdminService,
    },
    convert::{duration_from_wire, time_to_wire},
};
use tonic::{Request, Response, Status, async_trait};

use super::{Api, caller};
use crate::{
    enrolment::{self, Wish},
    error::Error,
    status,
};

#[async_trait]
impl AdminService for Api {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(status::report(&self.ctx).await?))
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let who = caller(&request)?.to_string();
        let request = request.into_inner();
        let role = match request.role() {
            TokenRole::Agent => Role::Agent,
            TokenRole::Operator => Role::Operator,
            TokenRole::Unspecified => return Err(Error::invalid("the request names no role").into()),
        };
        let name = Some(request.node.as_str()).filter(|n| !n.is_empty()).map(str::parse::<NodeName>).transpose();
        let wish = Wish {
            role,
            name: name.map_err(|e| Error::invalid(e.to_string()))?,
            description: request.description,
            ttl: request.ttl.as_ref().map(duration_from_wire),
        };
        let (token, expires_at) = enrolment::create_token(&self.ctx, wish, &who).await?;
        Ok(Response::new(CreateTokenResponse {
            token: token.to_string(),
            expires_at: Some(time_to_wire(expires_at)),
            enrolment_address: self.ctx.config.enrolment_address.clone(),
        }))
    }
}
