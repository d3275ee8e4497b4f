//! Brings the agent API up: credential, TLS listener, tonic; and down again.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, bail};
use prexor_certs::{
    credential::Credential,
    identity::{Identity, Role},
    tls,
};
use prexor_daemon::process;
use prexor_proto::agent::agent_service_server::AgentServiceServer;
use prexor_transport::serve::{self, Limits};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{config::AgentConfig, grpc::Api, host::Host};

/// The agent's credential.
///
/// # Errors
/// When there is none, it cannot be read, or it belongs to somebody else.
pub fn load_credential(config: &AgentConfig) -> anyhow::Result<Credential> {
    let dir = config.credential_dir();
    let credential = Credential::load(&dir)
        .with_context(|| format!("no usable credential in {}: enrol with `prexorctl setup`", dir.display()))?;
    let expected = Identity::new(&config.cluster, Role::Agent, config.node.as_str())?;
    if *credential.identity() != expected {
        bail!(
            "the certificate in {} is for {}, the configuration says {expected}: correct agent.yml, or enrol again \
             with `prexorctl setup --force`",
            dir.display(),
            credential.identity()
        );
    }
    Ok(credential)
}

/// Serves until `stop` fires, then lets running calls end.
///
/// # Errors
/// When the address cannot be bound or the server fails.
pub async fn serve(
    host: Arc<Host>,
    credential: &Credential,
    listen: SocketAddr,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // The sender lives as long as the server: renewal will publish new configurations through it.
    let (_config, tls) = watch::channel(tls::server_config(credential)?);
    let listener = serve::listener(listen).await?;
    tracing::info!(node = %host.node(), address = %listener.local_addr()?, "agent ready");
    let incoming = serve::incoming(listener, tls, Limits::default());
    process::ready()?;
    serve::server()
        .add_service(AgentServiceServer::new(Api::new(host)).max_decoding_message_size(MAX_MESSAGE))
        .serve_with_incoming_shutdown(incoming, stop.cancelled())
        .await
        .context("the agent's server ended")
}

/// The largest message taken: a manifest's entry of an artifact. Twice what a coordinator takes of a capture, so that
/// whatever was captured can be staged (law L23).
const MAX_MESSAGE: usize = 128 << 20;
