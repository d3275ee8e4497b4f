//! Talking to agents: dialling them over mutual TLS, asking all of them at once, and an API of plain types over their
//! RPCs. Besides `grpc` the only place that names tonic.
//!
//! Each agent is asked again and again whether it is there (`heartbeat`). A call that streams may take as long as it likes, as long as something moves: agents send a frame every second.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use prexor_certs::{
    Credential,
    tls::{Expected, checking_client_config},
};
use prexor_format::id::NodeName;
use prexor_proto::{agent::agent_service_client::AgentServiceClient, backup, convert::time_to_wire, reason::Reason};
use prexor_transport::{dial, revoked::Revoked};
use tokio::sync::watch;

use crate::{catalog::NodeRecord, config::AgentLimits, error::Error};

mod capture;
mod client;
mod failure;
mod heartbeat;
mod stage;
mod upkeep;

pub use capture::{Capture, CaptureFrame};
pub use client::{AgentClient, Look, Verb, VerbEnd};
pub use failure::way_back;

/// How many agents are asked at once.
const INSPECTIONS_AT_ONCE: usize = 64;

/// The largest message an agent may send: what it says of a dump with very many collections fits.
const MAX_MESSAGE: usize = 64 << 20;

/// Dials agents.
#[derive(Debug, Clone)]
pub struct Agents {
    credential: watch::Receiver<Arc<Credential>>,
    limits: AgentLimits,
    sights: Arc<heartbeat::Sights>,
    revoked: Revoked,
}

impl Agents {
    /// Dials with the newest of these credentials, and nobody whose certificate was revoked.
    pub fn new(credential: watch::Receiver<Arc<Credential>>, limits: AgentLimits, revoked: Revoked) -> Self {
        Self { credential, limits, sights: Arc::default(), revoked }
    }

    /// When the certificate ends that the coordinator shows to agents.
    pub fn own_certificate_ends(&self) -> jiff::Timestamp {
        self.credential.borrow().not_after()
    }

    /// Connects to the agent of a node; whoever answers must prove to be that very node.
    ///
    /// # Errors
    /// `AGENT_UNAVAILABLE` when it cannot be reached or is somebody else.
    pub async fn connect(&self, node: &NodeRecord) -> Result<AgentClient, Error> {
        self.dial(&node.name, &node.address).await
    }

    async fn dial(&self, node: &NodeName, address: &str) -> Result<AgentClient, Error> {
        let credential = self.credential.borrow().clone();
        let expected = Expected::Node { cluster: credential.identity().cluster().to_owned(), name: node.to_string() };
        let tls = checking_client_config(&credential, expected, self.revoked.lookup());
        let tls = tls.map_err(|e| Error::internal(e.to_string()))?;
        let channel = dial::guarded_channel(address, tls, dial::Timeouts::default(), self.revoked.clone()).await;
        let channel = channel.map_err(|e| failure::of_dial(node, &e))?;
        let client = AgentServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        Ok(AgentClient::new(node.clone(), client, self.limits))
    }

    /// Asks all these nodes at once what is on them. A node that does not answer is in the result too, unreachable and
    /// with the problem in words.
    pub async fn inspect_all(&self, nodes: &[NodeRecord], look: Look) -> Vec<backup::Node> {
        let asked: Vec<_> = nodes.iter().map(|node| self.inspect(node, look)).collect();
        stream::iter(asked).buffered(INSPECTIONS_AT_ONCE).collect().await
    }

    async fn inspect(&self, record: &NodeRecord, look: Look) -> backup::Node {
        let look = async { self.connect(record).await?.inspect(look).await };
        let answer = tokio::time::timeout(self.limits.answer, look).await.unwrap_or_else(|_| {
            let after = self.limits.answer.as_secs();
            let message = format!("the agent on {} did not answer within {after} s: is it stuck?", record.name);
            Err(Error::new(Reason::AgentUnavailable, message))
        });
        let sight = self.sights.note(&record.name, answer.as_ref().map(drop));
        let mut node = match answer {
            Ok(node) => backup::Node { reachable: true, problem: String::new(), ..node },
            Err(e) => backup::Node {
                hostname: record.hostname.clone(),
                reachable: false,
                problem: e.message,
                ..backup::Node::default()
            },
        };
        node.last_seen = sight.last_seen.map(time_to_wire);
        node.unreachable_since = sight.unreachable_since.map(time_to_wire);
        node.name = record.name.to_string();
        node.address.clone_from(&record.address);
        node.certificate_not_after.get_or_insert_with(|| time_to_wire(record.not_after));
        node
    }
}

#[cfg(test)]
mod tests;
