//! Everything a running coordinator has, in one place for those who do its work.

use prexor_proto::agent::Fence;
use prexor_transport::revoked::Revoked;

use crate::{agents::Agents, ca::Ca, catalog::Catalog, config::Config, enrolment::Tries, jobs::Jobs, store::Store};

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
    pub ca: Ca,
    /// Certificates that are good no more; as in the catalog.
    pub revoked: Revoked,
    /// Wrong tries to enrol.
    pub tries: Tries,
}

impl Context {
    /// What goes with everything that a job changes on an agent.
    pub fn fence(&self, job_id: &str) -> Fence {
        Fence { cluster: self.config.cluster.clone(), epoch: self.epoch, job_id: job_id.to_owned() }
    }
}
