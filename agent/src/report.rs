//! `prexor-agent inspect`: what the agent finds on this host, for a person or as JSON.

use std::collections::BTreeMap;

use prexor_format::{artifact::ArtifactKind, manifest::Controller};
use prexor_proto::facts;
use serde::Serialize;

use crate::{
    host::Host,
    services::{Role, ServiceState},
};

/// The findings.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The node's name.
    pub node: String,
    /// The controller, if there is one.
    pub controller: Option<Controller>,
    /// What can be captured, and what is wrong with it.
    pub sources: Vec<SourceReport>,
    /// State of the services by role.
    pub services: BTreeMap<&'static str, String>,
    /// What a restore has under way here, one line each.
    pub under_way: Vec<String>,
}

/// One source.
#[derive(Debug, Serialize)]
pub struct SourceReport {
    /// Its kind.
    pub kind: ArtifactKind,
    /// What it is.
    pub target: String,
    /// Why it cannot be captured now.
    pub problem: Option<String>,
    /// Versions, sizes and settings.
    pub facts: BTreeMap<String, String>,
}

impl Report {
    /// Looks around on this host.
    pub async fn of(host: &Host) -> Self {
        let targets = host.targets();
        let mut sources = Vec::new();
        for source in host.sources(&targets) {
            let found = source.inspect().await;
            let (target, problem, facts) = (found.target, found.problem, found.facts);
            sources.push(SourceReport { kind: source.kind(), target, problem, facts });
        }
        let mut services = BTreeMap::new();
        for role in [Role::Controller, Role::Valkey] {
            let state = match host.services().state(role).await {
                Ok(ServiceState::Active) => "running".to_owned(),
                Ok(ServiceState::Inactive) => "stopped".to_owned(),
                Ok(ServiceState::Absent) => "not on this host".to_owned(),
                Err(e) => e.0,
            };
            services.insert(role.as_str(), state);
        }
        let mut under_way = host.restores().unfinished();
        match host.holds().in_force() {
            Ok(hold) => under_way.extend(hold.map(|h| format!("the controller is {}", h.message()))),
            Err(e) => under_way.push(format!("the controller is HELD: {e}")),
        }
        Self { node: host.node().to_string(), controller: targets.controller, sources, services, under_way }
    }

    /// Whether everything that was found can be captured, and something was found.
    pub fn is_good(&self) -> bool {
        !self.sources.is_empty() && self.sources.iter().all(|s| s.problem.is_none())
    }

    /// One line for each finding.
    pub fn text(&self) -> String {
        let mut lines = vec![match &self.controller {
            Some(c) => format!("controller   {} (uuid {})", c.root, c.uuid.as_deref().unwrap_or("not set")),
            None => "controller   none found in /etc/prexorcloud or /opt/prexorcloud/controller".to_owned(),
        }];
        for kind in ArtifactKind::ALL {
            let found = self.sources.iter().find(|s| s.kind == kind);
            let text = match found {
                None => "nothing to capture on this host".to_owned(),
                Some(SourceReport { problem: Some(problem), .. }) => format!("PROBLEM: {problem}"),
                Some(source) => match source.facts.get(facts::CAPTURE) {
                    Some(way) => format!("OK, {}, captured by {way}", source.target),
                    None => format!("OK, {}", source.target),
                },
            };
            lines.push(format!("{:<12} {text}", kind.as_str()));
            let fact = |name| found.and_then(|s| s.facts.get(name));
            if let Some(missing) = fact(facts::MISSING_PRIVILEGES) {
                lines.push(format!("{:<12} no restore without these privileges: {missing}", ""));
            }
            if let Some(helpful) = fact(facts::HELPFUL_PRIVILEGES) {
                lines.push(format!("{:<12} better with these privileges: {helpful}", ""));
            }
        }
        for (role, state) in &self.services {
            lines.push(format!("{:<12} service {state}", role));
        }
        lines.extend(self.under_way.iter().map(|line| format!("{:<12} {line}", "restore")));
        lines.join("\n") + "\n"
    }
}
