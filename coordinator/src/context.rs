//! Everything a running coordinator has, in one place for those who do its work.

use prexor_certs::Authority;
use prexor_proto::agent::Fence;

use crate::{agents::Agents, catalog::Catalog, config::Config, jobs::Jobs, store::Store};

/// See the module's text. Shared as an `Arc`.
#[derive(Debug)]
pub struct Context {
    /// What was configured.
    pub config: Config,
    /// This start's number, higher than all before: what agents fence by.
    pub epoch: u64,
    /// What the coordinator remembers.
    pub catalog: Catalog,
    /// Where backups lie.
    pub store: Store,
    /// Who captures and restores.
    pub agents: Agents,
    /// What is under way.
    pub jobs: Jobs,
    /// The backup CA.
    pub authority: Authority,
}

impl Context {
    /// What goes with everything that a job changes on an agent.
    pub fn fence(&self, job_id: &str) -> Fence {
        Fence { cluster: self.config.cluster.clone(), epoch: self.epoch, job_id: job_id.to_owned() }
    }
}
