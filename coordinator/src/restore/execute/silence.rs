//! Law L14: the proof that no controller is left that could write. Every one that an agent knows of is stopped and held, none
//! answers from beside its unit, no lease is renewed, and nobody is connected to a datastore as a controller is.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use futures::{FutureExt as _, future::join_all};
use prexor_format::laws::{Lease, Leases, Session};
use prexor_proto::{
    agent::ServiceVerb,
    backup::{Node, ServiceRole, ServiceState, StepVerb},
    facts,
    reason::Reason,
};
use tokio::time::Instant;

use super::Execution;
use crate::{agents::Look, error::Error};

/// Leases that end later than this are not waited for: nobody renews one in time that takes so long.
const LONGEST_LEASE_MS: i64 = 60_000;

/// By how much a lease's end may seem to move that nobody moves, where the server tells only how long it still is.
const MARK_IS_VAGUE_MS: i64 = 100;

/// How long a session may outlive the controller that had it.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// How often it is asked whether it has gone.
const ASK_EVERY: Duration = Duration::from_secs(1);

impl Execution<'_> {
    /// L14: every controller is stopped and held, and none answers from beside its unit.
    pub(super) async fn silence(&self) -> Result<(), Error> {
        let nodes = self.nodes_with(StepVerb::Hold)?;
        let looks: Vec<_> = nodes.iter().map(|node| self.control(node, ServiceVerb::Look).boxed()).collect();
        for (node, answer) in nodes.iter().zip(join_all(looks).await) {
            let answer = answer?;
            self.is_held(node, &answer)?;
            if answer.ready {
                let message = format!(
                    "the controller's unit on {node} is stopped, and still its readiness URL answers: one runs beside the \
                     unit; stop it (law L14)"
                );
                return Err(Error::new(Reason::RestoreRefused, message).on(node.as_str()));
            }
        }
        // Those that this restore leaves alone go on, and one of them may well lead.
        if !self.plan.only_hosts.is_empty() {
            return Ok(());
        }
        let nodes = self.nobody_leads().await?;
        self.nobody_is_connected(nodes).await
    }

    /// Nobody renews a lease either: that would be a controller that no agent knows of.
    async fn nobody_leads(&self) -> Result<Vec<Node>, Error> {
        let nodes = self.look_at_datastores().await?;
        let before = leases(&nodes);
        let wait = before.values().map(|l| l.renewed_within).filter(|ms| *ms <= LONGEST_LEASE_MS).max();
        let Some(wait) = wait.and_then(|ms| u64::try_from(ms).ok()) else { return Ok(nodes) };
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(wait)) => {}
            () = self.job.cancel().cancelled() => return Err(Error::cancelled()),
        }
        let renewed = |(name, now): (&String, &Lease)| {
            before
                .get(name)
                .is_none_or(|before| now.mark > before.mark + MARK_IS_VAGUE_MS)
                .then(|| (name.clone(), now.clone()))
        };
        let nodes = self.look_at_datastores().await?;
        match leases(&nodes).iter().find_map(renewed) {
            None => Ok(nodes),
            Some((name, lease)) => Err(Error::new(
                Reason::RestoreRefused,
                format!(
                    "{name} is held by {} and is renewed, although every controller that has an agent is stopped: another one \
                     runs somewhere; stop it, or enrol its host (law L14)",
                    lease.holder
                ),
            )),
        }
    }

    async fn look_at_datastores(&self) -> Result<Vec<Node>, Error> {
        let records = self.ctx.catalog.nodes().await?;
        Ok(self.ctx.agents.inspect_all(&records, Look::ForRestore).await)
    }

    /// Nobody is connected to a datastore as a controller is. Where a server does not say who is, that is told, and the rest
    /// of the proof has to do.
    async fn nobody_is_connected(&self, mut nodes: Vec<Node>) -> Result<(), Error> {
        let (addresses, deadline) = (self.addresses().await?, Instant::now() + GONE_WITHIN);
        for text in hidden(&nodes) {
            self.job.message(text).await;
        }
        loop {
            let Some(found) = controllers_among(&nodes, &addresses).into_iter().next() else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(Error::new(Reason::RestoreRefused, found));
            }
            // The server notices a moment after a program has ended.
            tokio::select! {
                () = tokio::time::sleep(ASK_EVERY) => {}
                () = self.job.cancel().cancelled() => return Err(Error::cancelled()),
            }
            nodes = self.look_at_datastores().await?;
        }
    }

    /// Where the enrolled hosts are.
    async fn addresses(&self) -> Result<Vec<(String, Vec<IpAddr>)>, Error> {
        let mut out = Vec::new();
        for record in self.ctx.catalog.nodes().await? {
            // What is no name for us, the datastores know no host by either.
            let found = tokio::net::lookup_host(&record.address).await;
            let found = found.map(|all| all.map(|a| a.ip().to_canonical()).collect()).unwrap_or_default();
            out.push((record.name.to_string(), found));
        }
        Ok(out)
    }
}

/// The leases of all datastores.
fn leases(nodes: &[Node]) -> Leases {
    let facts = nodes.iter().flat_map(|n| &n.sources).filter_map(|s| s.facts.get(facts::LEASES));
    facts.filter_map(|json| serde_json::from_str::<Leases>(json).ok()).flatten().collect()
}

/// Datastores that do not say who is connected.
fn hidden(nodes: &[Node]) -> Vec<String> {
    let sources = nodes.iter().flat_map(|n| &n.sources);
    let told = sources.filter_map(|s| {
        let why = s.facts.get(facts::SESSIONS_HIDDEN)?;
        Some(format!(
            "who is connected to {} cannot be told ({why}): that nobody writes is proved by units, readiness and leases alone",
            s.target
        ))
    });
    told.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Sessions of controllers that should be stopped, in words.
fn controllers_among(nodes: &[Node], addresses: &[(String, Vec<IpAddr>)]) -> Vec<String> {
    let has_controller = |node: &Node| {
        let service = node.services.iter().find(|s| s.role() == ServiceRole::Controller);
        node.controller.is_some() || service.is_some_and(|s| s.state() != ServiceState::Absent)
    };
    let mut hosts: Vec<IpAddr> = Vec::new();
    for node in nodes.iter().filter(|n| has_controller(n) || !n.reachable) {
        hosts.extend(addresses.iter().filter(|(name, _)| *name == node.name).flat_map(|(_, all)| all));
    }
    let mut out = Vec::new();
    for node in nodes {
        // As the datastore of this host sees its own controller.
        let local = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        let local = local.into_iter().filter(|_| has_controller(node));
        let hosts: Vec<IpAddr> = hosts.iter().copied().chain(local).collect();
        for source in &node.sources {
            let sessions = source.facts.get(facts::SESSIONS).and_then(|json| serde_json::from_str(json).ok());
            let sessions: Vec<Session> = sessions.unwrap_or_default();
            out.extend(sessions.iter().filter(|s| s.is_controller(&hosts)).map(|session| {
                format!(
                    "{} is connected to {} as a controller is, although every controller that has an agent is stopped: another \
                     one runs there; stop it, or enrol its host. If it is none, let it give itself a name (appName, \
                     clientName) that says so (law L14)",
                    session.in_words(),
                    source.target
                )
            }));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use prexor_proto::backup::{Service, Source};

    use super::*;

    fn node(name: &str, controller: ServiceState, sessions: &[Session]) -> Node {
        let facts = [(facts::SESSIONS.to_owned(), serde_json::to_string(sessions).unwrap())].into_iter().collect();
        let service = Service { role: ServiceRole::Controller.into(), state: controller.into(), ..Service::default() };
        Node {
            name: name.to_owned(),
            reachable: true,
            sources: vec![Source { target: "database d".to_owned(), facts, ..Source::default() }],
            services: vec![service],
            ..Node::default()
        }
    }

    fn java(address: &str) -> Session {
        let (address, driver) = (address.to_owned(), "mongo-java-driver|sync 4.11".to_owned());
        Session { address, driver, called_so: true, ..Session::default() }
    }

    #[test]
    fn a_java_program_on_a_controllers_host_is_one_and_elsewhere_it_is_not() {
        let addresses = [("h1", "10.0.0.1"), ("db", "10.0.0.5")];
        let addresses = addresses.map(|(name, ip)| (name.to_owned(), vec![ip.parse().unwrap()]));
        let found = |session: &str| {
            let nodes = [node("h1", ServiceState::Inactive, &[]), node("db", ServiceState::Absent, &[java(session)])];
            controllers_among(&nodes, &addresses)
        };
        assert!(
            found("10.0.0.1:9")[0].starts_with("10.0.0.1:9 (mongo-java-driver|sync 4.11) is connected to database d")
        );
        for other in ["10.0.0.5:9", "127.0.0.1:9", "192.0.2.1:9"] {
            assert_eq!(found(other), [""; 0], "{other}");
        }
        let own = [node("h1", ServiceState::Inactive, &[java("127.0.0.1:9")])];
        assert_eq!(controllers_among(&own, &addresses).len(), 1);
    }

    #[test]
    fn who_does_not_say_is_named_once() {
        let mut node = node("h1", ServiceState::Inactive, &[]);
        node.sources[0].facts = [(facts::SESSIONS_HIDDEN.to_owned(), "no inprog".to_owned())].into_iter().collect();
        let told = hidden(&[node.clone(), node]);
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("database d cannot be told (no inprog)"), "{told:?}");
    }
}
