//! The gRPC services: adapters that unwrap a request, call what does the work, and map the error. Besides `agents` the
//! only place that names tonic.

use std::sync::Arc;

use http::HeaderName;
use jiff::Timestamp;
use prexor_certs::Identity;
use prexor_format::id::BackupId;
use prexor_proto::{
    backup::{
        admin_service_server::AdminServiceServer, backup_service_server::BackupServiceServer,
        job_service_server::JobServiceServer, restore_service_server::RestoreServiceServer,
    },
    enroll::enrolment_service_server::EnrolmentServiceServer,
    reason::Reason,
    status::status,
    trust,
};
use prexor_transport::{
    access::Door,
    serve::{self, Limits},
};
use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, body::Body};
use tower::util::MapResponseLayer;

use crate::{audit::Auditor, backups, context::Context, error::Error};

mod admin;
mod backup;
mod enrol;
mod job;
mod page;
mod restore;

/// The word for the newest complete backup.
const LATEST: &str = "latest";

/// The largest request of an operator: descriptions and ids, and what a person types to select.
const MAX_REQUEST: usize = 1 << 20;

/// The largest request of somebody who is not known yet: a token, a name and a certificate request.
const MAX_ENROLMENT: usize = 64 << 10;

/// The client API.
#[derive(Debug, Clone)]
struct Api {
    ctx: Arc<Context>,
}

/// Serves the client API to operators until `stop` fires, then lets running calls end.
///
/// # Errors
/// When the server fails.
pub async fn serve_api(
    ctx: Arc<Context>,
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let door = door(&ctx);
    let limits = Limits::for_operators();
    let connections = serve::guarded_incoming(listener, tls, limits, ctx.revoked.clone());
    let (marked, api) = (ctx.clone(), Api { ctx });
    let mark = MapResponseLayer::new(move |mut response: http::Response<Body>| {
        let roots = marked.ca.roots();
        let mark = trust::mark(roots.issuing().root_der(), roots.certificates());
        response.headers_mut().extend(mark.parse().ok().map(|mark| (HeaderName::from_static(trust::MARK), mark)));
        response
    });
    let served = serve::server(limits)
        .layer(mark)
        .layer(door)
        .add_service(BackupServiceServer::new(api.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(RestoreServiceServer::new(api.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(JobServiceServer::new(api.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(AdminServiceServer::new(api).max_decoding_message_size(MAX_REQUEST))
        .serve_with_incoming_shutdown(connections, stop.cancelled());
    served.await.map_err(|e| Error::internal(format!("the API's server ended: {e}")))
}

fn door(ctx: &Context) -> Door {
    Door::new(&ctx.config.cluster, Arc::new(Auditor::new(ctx.catalog.clone())))
}

/// Serves enrolment to whoever has a token until `stop` fires.
///
/// # Errors
/// When the server fails.
pub async fn serve_enrolment(
    ctx: Arc<Context>,
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let limits = Limits::for_strangers();
    let served = serve::server(limits)
        .layer(door(&ctx))
        .add_service(EnrolmentServiceServer::new(enrol::Enrolment::new(ctx)).max_decoding_message_size(MAX_ENROLMENT))
        .serve_with_incoming_shutdown(serve::incoming(listener, tls, limits), stop.cancelled());
    served.await.map_err(|e| Error::internal(format!("the enrolment server ended: {e}")))
}

impl From<Error> for Status {
    fn from(e: Error) -> Self {
        if e.reason == Reason::Internal {
            tracing::error!(node = e.node, "{e}");
        }
        match &e.node {
            // The status has no place of its own for the node.
            Some(node) if !e.message.contains(node.as_str()) => status(e.reason, format!("{node}: {}", e.message)),
            _ => status(e.reason, e.message),
        }
    }
}

/// Who calls; the authorisation has seen to it that there is somebody.
fn caller<T>(request: &Request<T>) -> Result<Identity, Error> {
    serve::peer(request)
        .and_then(|p| p.identity())
        .cloned()
        .ok_or_else(|| Error::new(Reason::NotAllowed, "a client certificate is needed"))
}

fn backup_id(id: &str) -> Result<BackupId, Error> {
    id.parse().map_err(|e: prexor_format::id::InvalidBackupId| Error::invalid(e.to_string()))
}

/// The backup with this id, or the newest complete one for `latest`.
async fn backup_or_latest(ctx: &Context, word: &str) -> Result<BackupId, Error> {
    if word == LATEST { latest(ctx, None).await } else { backup_id(word) }
}

/// The newest good backup, or the newest that was completed before this time.
async fn latest(ctx: &Context, before: Option<Timestamp>) -> Result<BackupId, Error> {
    let found = backups::latest(ctx, before).await?.ok_or_else(|| match before {
        Some(before) => Error::not_found(format!("no good backup was completed before {before}")),
        None => Error::not_found("there is no good backup: `prexorctl backup create` makes one"),
    })?;
    backup_id(&found.id)
}

fn bad_wire(e: prexor_proto::convert::BadWire) -> Error {
    Error::invalid(e.to_string())
}

#[cfg(test)]
mod tests;
