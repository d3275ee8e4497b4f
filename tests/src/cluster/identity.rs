//! What a cluster has to do with identities: where one enrols, how a host comes back.

use std::{fs, path::PathBuf, process::Command};

use super::{Cluster, Said, program};

impl Cluster {
    /// Where hosts and operators enrol.
    pub fn enrolment_address(&self) -> String {
        format!("127.0.0.1:{}", self.enrolment_port)
    }

    /// Where operators call.
    pub fn api_address(&self) -> String {
        format!("127.0.0.1:{}", self.api_port)
    }

    /// Where the agent of h1 listens.
    pub fn agent_address(&self) -> String {
        format!("127.0.0.1:{}", self.agent_port)
    }

    /// The coordinator's state directory.
    pub fn coordinator_state(&self) -> PathBuf {
        self.dir().join("coordinator")
    }

    /// `prexorctl setup --rejoin` of h1, with this token.
    pub fn rejoin(&self, token: &str) -> Said {
        let file = self.dir().join("rejoin-token");
        fs::write(&file, token).expect("a file");
        let (file, config) = (file.display().to_string(), self.dir().join("agent.yml").display().to_string());
        self.ctl(&["setup", "--rejoin", "--config", &config, "--token-file", &file])
    }

    /// `prexor-coordinator issue-operator` with these further arguments.
    pub fn issue_operator(&self, args: &[&str]) -> Said {
        let mut command = Command::new(program("prexor-coordinator"));
        command.arg("--config").arg(self.dir().join("coordinator.yml")).arg("issue-operator").args(args);
        command.output().expect("prexor-coordinator can be started").into()
    }
}
