//! Brings the agent API up: credential, TLS listener, tonic; and down again.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use futures::future::BoxFuture;
use prexor_certs::identity::{Identity, Role};
use prexor_daemon::process;
use prexor_proto::agent::agent_service_server::AgentServiceServer;
use prexor_transport::{
    access::{Door, Seen, Witness},
    serve::{self, Limits},
};
use tokio_util::sync::CancellationToken;

use crate::{config::AgentConfig, grpc::Api, host::Host, identity::Keeper};

/// The agent's credential, and whom it trusts.
///
/// # Errors
/// When there is none, it cannot be read, or it belongs to somebody else.
pub fn keeper(config: &AgentConfig) -> anyhow::Result<Keeper> {
    let dir = config.credential_dir();
    let expected = Identity::new(&config.cluster, Role::Agent, config.node.as_str())?;
    Keeper::open(&config.state_dir, &dir, expected).with_context(|| {
        format!(
            "no usable credential in {}: enrol with `prexorctl setup`, or, when this host was enrolled before, \
             `prexorctl token create --description rejoin --ttl 1h` on the coordinator's host and \
             `prexorctl setup --rejoin` here",
            dir.display()
        )
    })
}

/// Serves until `stop` fires, then lets running calls end.
///
/// # Errors
/// When the address cannot be bound or the server fails.
pub async fn serve(host: Arc<Host>, keeper: Keeper, listen: SocketAddr, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = serve::listener(listen).await?;
    let keeper = Arc::new(keeper);
    tracing::info!(node = %host.node(), address = %listener.local_addr()?, not_after = %keeper.leaf().not_after, "agent ready");
    let limits = Limits::default();
    let incoming = serve::guarded_incoming(listener, keeper.tls(), limits, keeper.revoked());
    tokio::spawn(keeper.clone().watch_files(stop.clone()));
    // Beside the serving: stopping a controller may take a while.
    let taking_up = host.clone();
    tokio::spawn(async move { taking_up.take_up().await });
    process::ready()?;
    let door = Door::new(host.cluster(), Arc::new(Journal));
    serve::server(limits)
        .layer(door)
        .add_service(AgentServiceServer::new(Api::new(host, keeper)).max_decoding_message_size(MAX_MESSAGE))
        .serve_with_incoming_shutdown(incoming, stop.cancelled())
        .await
        .context("the agent's server ended")
}

/// Agents have no audit log of their own: who was denied stands in the journal.
#[derive(Debug)]
struct Journal;

impl Witness for Journal {
    fn note(&self, seen: Seen) -> BoxFuture<'_, ()> {
        let who = seen.who.map_or_else(|| "-".to_owned(), |who| who.to_string());
        if let Err((reason, message)) = seen.outcome {
            tracing::warn!(who, from = ?seen.from, action = seen.action, %reason, "a call was denied: {message}");
        }
        Box::pin(std::future::ready(()))
    }
}

/// The largest message taken: a manifest's entry of an artifact. Twice what a coordinator takes of a capture, so that
/// whatever was captured can be staged (law L23).
const MAX_MESSAGE: usize = 128 << 20;
