//! What an agent is told of identities whenever it is asked whether it is there: whom to trust, which certificates are
//! good no more, and its next certificate when its own comes to an end or the CA changes.
//!
//! The agent need not reach the coordinator for that: it is the coordinator that dials, over the connection that stays
//! open.

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use prexor_certs::{Credential, Identity, Role};
use prexor_proto::{
    agent::{PingRequest, TrustRequest},
    reason::Reason,
    trust,
};

use super::{AgentClient, Agents, INSPECTIONS_AT_ONCE, failure};
use crate::{context::Context, error::Error};

impl AgentClient {
    /// Asks whether the agent is there, and gives it what it lacks.
    ///
    /// # Errors
    /// When it does not answer, or does not take what it is given.
    pub(super) async fn tend(&self, ctx: &Context, credential: &Credential) -> Result<(), Error> {
        let mut revoked_serials = ctx.revoked.serials();
        revoked_serials.sort();
        let mut said = TrustRequest {
            fence: Some(ctx.fence("")),
            // Not those of the CA: nobody is moved to a root that the coordinator itself does not trust yet.
            roots_der: credential.roots().iter().map(|c| c.to_vec()).collect(),
            revoked_serials,
            chain_der: Vec::new(),
        };
        let digest = trust::digest(&said);
        let mut ping = PingRequest { renew: false };
        if let Some(next) = ctx.ca.roots().next.as_ref().filter(|n| credential.roots().contains(n.root_der())) {
            let node = ctx.catalog.node(self.node()).await?;
            ping.renew = ctx.catalog.issuer(&node.serial).await? != next.fingerprint().to_string();
        }
        let mut client = self.client.clone();
        let answer = self.within(self.limits.answer, "being asked whether it is there", client.ping(ping)).await?;
        let now = Timestamp::now();
        let mut issued = None;
        if !answer.csr_der.is_empty() {
            let identity = Identity::new(&ctx.config.cluster, Role::Agent, self.node().as_str())
                .map_err(|e| Error::internal(e.to_string()))?;
            let next = ctx.ca.issue(&answer.csr_der, &identity, ctx.config.certificates.agent, now)?;
            if next.roots.iter().any(|root| !credential.roots().contains(root)) {
                // The roots changed a moment ago; the next heartbeat finds everything in its place.
                return Ok(());
            }
            ctx.catalog.add_renewal(&next.leaf, next.ca, &answer.serial, now).await?;
            said.chain_der = next.chain.iter().map(|c| c.to_vec()).collect();
            issued = Some(next.leaf);
        } else if answer.trust_digest == digest.0 {
            return Ok(());
        }
        let mut client = self.client.clone();
        self.within(self.limits.answer, "being told whom to trust", client.trust(said)).await?;
        if let Some(leaf) = issued {
            ctx.catalog.renew_node(self.node(), &leaf.serial, leaf.not_after).await?;
            tracing::info!(node = %self.node(), serial = leaf.serial, not_after = %leaf.not_after, "an agent's certificate was renewed");
        }
        Ok(())
    }
}

impl Agents {
    /// Tells all agents at once what they lack, and returns those that could not be told.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn tell_all(&self, ctx: &Context) -> Result<Vec<String>, Error> {
        let nodes = ctx.catalog.nodes().await?;
        let told = nodes.iter().map(async |node| {
            let credential = self.credential.borrow().clone();
            let tell = async { self.connect(node).await?.tend(ctx, &credential).await };
            let done = tokio::time::timeout(self.limits.answer, tell)
                .await
                .unwrap_or_else(|_| Err(failure::stalled(&node.name, "being told whom to trust", self.limits.answer)));
            done.inspect_err(|e| tracing::warn!(node = %node.name, "an agent was not told whom to trust: {e}"))
                .is_err()
                .then(|| node.name.to_string())
        });
        let told: Vec<_> = told.collect();
        let missed: Vec<Option<String>> = stream::iter(told).buffered(INSPECTIONS_AT_ONCE).collect().await;
        Ok(missed.into_iter().flatten().collect())
    }
}

/// Whether an agent is there, although it may not take what it is given: a version that does not know the call, or
/// something that does not fit.
pub(super) fn is_answer(answer: Result<(), Error>) -> Result<(), Error> {
    match answer {
        Err(e) if e.reason == Reason::InvalidRequest => {
            tracing::warn!(node = e.node, "an agent answers, but does not take what it is told: {e}");
            Ok(())
        }
        answer => answer,
    }
}
