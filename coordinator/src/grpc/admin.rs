//! `AdminService`.

use jiff::Timestamp;
use prexor_certs::Role;
use prexor_format::id::NodeName;
use prexor_proto::{
    backup::{
        AuditEntry, BackupState, Ca, CreateTokenRequest, CreateTokenResponse, GetStatusRequest, GetStatusResponse,
        ListAuditRequest, ListAuditResponse, ListTokensRequest, ListTokensResponse, RebuildCatalogRequest,
        RebuildCatalogResponse, RenewRequest, RenewResponse, RevokeRequest, RevokeResponse, RevokeTokenRequest,
        RevokeTokenResponse, RotateCaRequest, ShowCaRequest, Token, TokenRole, TokenState,
        admin_service_server::AdminService,
    },
    convert::{duration_from_wire, time_to_wire},
};
use prexor_transport::{access::About, serve};
use tonic::{Request, Response, Status, async_trait};

use super::{Api, caller, page};
use crate::{
    backups, catalog,
    enrolment::{self, Wish},
    error::Error,
    revocations, rotation, status,
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
        let (who, about) = (caller(&request)?.to_string(), About::of(&request));
        let request = request.into_inner();
        let role = role(request.role())?;
        let name = Some(request.node.as_str()).filter(|n| !n.is_empty()).map(str::parse::<NodeName>).transpose();
        let wish = Wish {
            role,
            name: name.map_err(|e| Error::invalid(e.to_string()))?,
            description: request.description,
            ttl: request.ttl.as_ref().map(duration_from_wire),
        };
        let (token, expires_at) = enrolment::create_token(&self.ctx, wish, &who).await?;
        about.is(format!("token {} for an {role}", token.id()));
        Ok(Response::new(CreateTokenResponse {
            token: token.to_string(),
            expires_at: Some(time_to_wire(expires_at)),
            enrolment_address: self.ctx.config.enrolment_address.clone(),
        }))
    }

    async fn list_tokens(&self, _: Request<ListTokensRequest>) -> Result<Response<ListTokensResponse>, Status> {
        let tokens = self.ctx.catalog.tokens(Timestamp::now()).await?;
        Ok(Response::new(ListTokensResponse { tokens: tokens.into_iter().map(token_to_wire).collect() }))
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        let about = About::of(&request);
        let id = request.into_inner().id;
        about.is(format!("token {id:.40}"));
        self.ctx.catalog.revoke_token(&id, Timestamp::now()).await?;
        Ok(Response::new(RevokeTokenResponse {}))
    }

    async fn revoke(&self, request: Request<RevokeRequest>) -> Result<Response<RevokeResponse>, Status> {
        let (who, about) = (caller(&request)?, About::of(&request));
        let request = request.into_inner();
        let role = role(request.role())?;
        about.is(format!("{role} {:.100}", request.name));
        if role == who.role() && request.name == who.name() {
            let message = "nobody revokes the certificate in use: let another operator do it, or root on the \
                           coordinator's host with `prexor-coordinator issue-operator`";
            return Err(Error::invalid(message).into());
        }
        let done = revocations::revoke(&self.ctx, role, &request.name).await?;
        Ok(Response::new(RevokeResponse { serials: done.serials, not_told: done.not_told }))
    }

    async fn list_audit(&self, request: Request<ListAuditRequest>) -> Result<Response<ListAuditResponse>, Status> {
        let request = request.into_inner();
        let size = page::size(request.page_size);
        let before = page::parse(&request.page_token)?.map(|(number, _)| number);
        let rows = self.ctx.catalog.audit(before, size).await?;
        let last = rows.last().filter(|_| rows.len() == size as usize);
        let next_page_token = last.map(|(n, _)| page::after(n.cast_signed(), "")).unwrap_or_default();
        Ok(Response::new(ListAuditResponse { entries: rows.into_iter().map(entry_to_wire).collect(), next_page_token }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let (who, about) = (caller(&request)?, About::of(&request));
        let presented = serve::peer(&request).and_then(|p| p.certificate.as_ref());
        let former = presented.map(|leaf| leaf.serial.clone()).unwrap_or_default();
        let now = Timestamp::now();
        let lifetime = self.ctx.config.certificates.of(who.role());
        let issued = self.ctx.ca.issue(&request.into_inner().csr_der, &who, lifetime, now)?;
        self.ctx.catalog.add_renewal(&issued.leaf, issued.ca, &former, now).await?;
        about.is(format!("serial {}", issued.leaf.serial));
        Ok(Response::new(RenewResponse {
            chain_der: issued.chain.iter().map(|c| c.to_vec()).collect(),
            roots_der: issued.roots.iter().map(|c| c.to_vec()).collect(),
        }))
    }

    async fn show_ca(&self, _: Request<ShowCaRequest>) -> Result<Response<Ca>, Status> {
        Ok(Response::new(rotation::show(&self.ctx).await?))
    }

    async fn rotate_ca(&self, request: Request<RotateCaRequest>) -> Result<Response<Ca>, Status> {
        let about = About::of(&request);
        let finish = request.into_inner().finish;
        let done = if finish { self.ctx.ca.finish() } else { self.ctx.ca.begin() };
        self.ctx.ca.settled().await;
        let roots = self.ctx.ca.roots();
        about.is(format!("{} root {}", if finish { "to" } else { "towards" }, roots.issuing().fingerprint()));
        done?;
        Ok(Response::new(rotation::show(&self.ctx).await?))
    }

    async fn rebuild_catalog(
        &self,
        _: Request<RebuildCatalogRequest>,
    ) -> Result<Response<RebuildCatalogResponse>, Status> {
        let found = backups::rebuild_index(&self.ctx).await?;
        let damaged = found.iter().filter(|b| b.state() == BackupState::Damaged);
        let problems = damaged.map(|b| format!("{} is damaged: {}", b.id, b.problem)).collect();
        Ok(Response::new(RebuildCatalogResponse { backups: found.len() as u64, problems }))
    }
}

fn role(role: TokenRole) -> Result<Role, Error> {
    match role {
        TokenRole::Agent => Ok(Role::Agent),
        TokenRole::Operator => Ok(Role::Operator),
        TokenRole::Unspecified => Err(Error::invalid("the request names no role")),
    }
}

fn token_to_wire(record: catalog::TokenRecord) -> Token {
    let token = record.token;
    let role = if token.role == Role::Operator.as_str() { TokenRole::Operator } else { TokenRole::Agent };
    let state = match record.state {
        catalog::TokenState::Usable => TokenState::Usable,
        catalog::TokenState::Spent => TokenState::Spent,
        catalog::TokenState::Expired => TokenState::Expired,
        catalog::TokenState::Revoked => TokenState::Revoked,
    };
    Token {
        id: token.id,
        state: state.into(),
        role: role.into(),
        node: token.node.unwrap_or_default(),
        description: token.description,
        created_by: token.created_by,
        created_at: Some(time_to_wire(token.created_at)),
        expires_at: Some(time_to_wire(token.expires_at)),
        spent_by: record.spent_by.unwrap_or_default(),
    }
}

fn entry_to_wire((number, entry): (u64, catalog::AuditEntry)) -> AuditEntry {
    AuditEntry {
        number,
        at: Some(time_to_wire(entry.at)),
        who: entry.who,
        from: entry.from,
        action: entry.action,
        subject: entry.subject,
        result: entry.result,
        detail: entry.detail,
    }
}
