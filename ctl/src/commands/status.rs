//! `prexorctl status`: what is out of order first, then what there is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use prexor_proto::{
    backup::{Backup, GetStatusRequest, GetStatusResponse, LastGood, Node, Service, Source},
    convert, facts,
};
use serde::Serialize;

use crate::{
    client::Client,
    exit::Exit,
    failure::Failure,
    printer::Printer,
    text,
    view::{self, BackupView, JobView},
};

/// What `status --json` prints.
#[derive(Serialize)]
struct StatusView {
    cluster: String,
    coordinator_version: String,
    ca_fingerprint: String,
    problems: Vec<String>,
    nodes: Vec<NodeView>,
    active_jobs: Vec<JobView>,
    latest_backup: Option<BackupView>,
    last_good: Vec<LastGoodView>,
    store: String,
    store_free_bytes: u64,
}

/// The newest complete backup of one thing.
#[derive(Serialize)]
struct LastGoodView {
    kind: &'static str,
    /// Whose files; the cluster has its datastores once.
    node: Option<String>,
    backup_id: Option<String>,
    created_at: Option<Timestamp>,
    rpo_seconds: i64,
    overdue: bool,
}

#[derive(Serialize)]
struct NodeView {
    name: String,
    hostname: String,
    address: String,
    reachable: bool,
    last_seen: Option<Timestamp>,
    unreachable_since: Option<Timestamp>,
    problem: Option<String>,
    agent_version: Option<String>,
    certificate_not_after: Option<Timestamp>,
    clock: Option<Timestamp>,
    staging_free_bytes: u64,
    sources: Vec<SourceView>,
    services: Vec<ServiceView>,
    controller: Option<ControllerView>,
}

#[derive(Serialize)]
struct SourceView {
    kind: &'static str,
    target: String,
    problem: Option<String>,
    facts: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct ServiceView {
    role: &'static str,
    state: &'static str,
    start_command: Option<String>,
    problem: Option<String>,
    /// The restore job that keeps it from starting.
    held_for: Option<String>,
    /// Of a controller that runs.
    ready: Option<bool>,
    not_ready: Option<String>,
}

#[derive(Serialize)]
struct ControllerView {
    uuid: Option<String>,
    cluster_id: Option<String>,
    version: Option<String>,
    root: String,
}

/// Prints how things are.
///
/// # Errors
/// When the coordinator cannot be asked. Problems that it reports are an answer, not an error.
pub async fn run(printer: &Printer) -> Result<Exit, Failure> {
    let client = Client::connect().await?;
    let status = client.call(GetStatusRequest {}, |s, r| async move { s.admin().get_status(r).await }).await?;
    printer.document(&StatusView::from(&status));
    printer.lines(lines(&status, Timestamp::now()));
    Ok(Exit::Ok)
}

fn lines(status: &GetStatusResponse, now: Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    if !status.problems.is_empty() {
        lines.push("Problems:".to_owned());
        lines.extend(status.problems.iter().map(|p| format!("  ! {p}")));
        lines.push(String::new());
    }
    lines.push(format!("Cluster {}, coordinator {}", status.cluster, status.coordinator_version));
    lines.push(format!("  backup CA        {}", status.ca_fingerprint));
    lines.push(format!("  store            {}, {} free", status.store, text::bytes(status.store_free_bytes)));
    lines.push(format!(
        "  latest backup    {}",
        status.latest_backup.as_ref().map_or("none".into(), |b| latest(b, now))
    ));
    lines.extend(status.last_good.iter().map(|last| last_good(last, now)));
    for job in &status.active_jobs {
        let (kind, state) = (view::job_kind(job.kind()), view::job_state(job.state()));
        let waits = if job.waits_for.is_empty() { String::new() } else { format!(" behind {}", job.waits_for) };
        lines.push(format!("  {:<17}{} is {state}{waits}", format!("{kind} job"), job.id));
    }
    if status.nodes.is_empty() {
        lines.extend([
            String::new(),
            "No nodes yet: `prexorctl token create`, then `prexorctl setup` on each host.".into(),
        ]);
    }
    for node in &status.nodes {
        lines.push(String::new());
        lines.extend(node_lines(node, now));
    }
    lines
}

fn latest(backup: &Backup, now: Timestamp) -> String {
    let age = view::at(backup.created_at.as_ref()).map(|t| format!(", {} ago", text::duration(now.duration_since(t))));
    let (size, scope) = (text::bytes(backup.size_bytes), text::scope(&backup.scope, ","));
    format!("{}, {size}, {scope}{}", backup.id, age.unwrap_or_default())
}

fn last_good(last: &LastGood, now: Timestamp) -> String {
    let of = if last.node.is_empty() { String::new() } else { format!("{}: ", last.node) };
    let age = view::at(last.created_at.as_ref()).map(|t| text::duration(now.duration_since(t)));
    let what = age.map_or_else(|| "none yet".to_owned(), |age| format!("{}, {age} ago", last.backup_id));
    let rpo = last.rpo.as_ref().map(|d| text::duration(convert::duration_from_wire(d))).unwrap_or_default();
    let late = if last.overdue { "OVERDUE, " } else { "" };
    format!("  {:<17}{of}{what} ({late}rpo {rpo})", format!("{} saved", text::kind_word(last.kind)))
}

fn node_lines(node: &Node, now: Timestamp) -> Vec<String> {
    let health = if !node.reachable {
        let since = view::at(node.unreachable_since.as_ref());
        let since = since.map(|t| format!(" for {}", text::duration(now.duration_since(t)))).unwrap_or_default();
        format!("not reachable{since}: {}", node.problem)
    } else if node.problem.is_empty() {
        format!("reachable, agent {}", node.agent_version)
    } else {
        format!("reachable, agent {}, but {}", node.agent_version, node.problem)
    };
    let mut lines = vec![format!("Node {} ({}): {health}", node.name, node.address)];
    if let Some(seen) = node.last_seen.as_ref().filter(|_| !node.reachable) {
        lines.push(format!("  {:<17}{}", "last seen", text::wire_time(Some(seen))));
    }
    if let Some(not_after) = &node.certificate_not_after {
        lines.push(format!("  {:<17}valid until {}", "certificate", text::wire_time(Some(not_after))));
    }
    if let Some(controller) = &node.controller {
        let version = controller.version.as_ref().map(|v| format!(" {v}")).unwrap_or_default();
        lines.push(format!("  {:<17}PrexorCloud{version} in {}", "controller", controller.root));
    }
    lines.extend(node.services.iter().map(|service| {
        let name = format!("{} unit", view::service_role(service.role()));
        let ready = match service.ready {
            Some(true) => ", ready".to_owned(),
            Some(false) => format!(", NOT READY: {}", service.not_ready),
            None => String::new(),
        };
        let held = if service.held_for.is_empty() { String::new() } else { format!(", HELD for {}", service.held_for) };
        let problem = if service.problem.is_empty() { String::new() } else { format!(": {}", service.problem) };
        format!("  {name:<17}{}{ready}{held}{problem}", view::service_state(service.state()))
    }));
    lines.extend(node.sources.iter().map(|source| {
        let problem = if source.problem.is_empty() { "ok".to_owned() } else { format!("NOT OK: {}", source.problem) };
        format!("  {:<17}{}: {problem}{}", text::kind_word(source.kind), source.target, replication(source))
    }));
    lines
}

/// Of a datastore: what it is to the others, and how far they are behind.
fn replication(source: &Source) -> String {
    let fact = |name: &str| source.facts.get(name).map(String::as_str);
    let role = fact(facts::ROLE).map(|role| format!(", {role}"));
    let lag = fact(facts::LAG).map(|s| format!(", lag {s} s"));
    let cut_off = fact(facts::CUT_OFF).map(|who| format!(", NO REPLICATION with {who}"));
    [role, lag, cut_off].into_iter().flatten().collect()
}

impl From<&GetStatusResponse> for StatusView {
    fn from(s: &GetStatusResponse) -> Self {
        Self {
            cluster: s.cluster.clone(),
            coordinator_version: s.coordinator_version.clone(),
            ca_fingerprint: s.ca_fingerprint.clone(),
            problems: s.problems.clone(),
            nodes: s.nodes.iter().map(NodeView::from).collect(),
            active_jobs: s.active_jobs.iter().map(JobView::from).collect(),
            latest_backup: s.latest_backup.as_ref().map(BackupView::from),
            last_good: s.last_good.iter().map(LastGoodView::from).collect(),
            store: s.store.clone(),
            store_free_bytes: s.store_free_bytes,
        }
    }
}

impl From<&LastGood> for LastGoodView {
    fn from(l: &LastGood) -> Self {
        Self {
            kind: text::kind_word(l.kind),
            node: view::some(&l.node),
            backup_id: view::some(&l.backup_id),
            created_at: view::at(l.created_at.as_ref()),
            rpo_seconds: l.rpo.as_ref().map_or(0, |d| d.seconds),
            overdue: l.overdue,
        }
    }
}

impl From<&Node> for NodeView {
    fn from(n: &Node) -> Self {
        let controller = n.controller.as_ref().map(|c| {
            let (uuid, cluster_id, version) = (c.uuid.clone(), c.cluster_id.clone(), c.version.clone());
            ControllerView { uuid, cluster_id, version, root: c.root.clone() }
        });
        Self {
            name: n.name.clone(),
            hostname: n.hostname.clone(),
            address: n.address.clone(),
            reachable: n.reachable,
            last_seen: view::at(n.last_seen.as_ref()),
            unreachable_since: view::at(n.unreachable_since.as_ref()),
            problem: view::some(&n.problem),
            agent_version: view::some(&n.agent_version),
            certificate_not_after: view::at(n.certificate_not_after.as_ref()),
            clock: view::at(n.clock.as_ref()),
            staging_free_bytes: n.staging_free_bytes,
            sources: n.sources.iter().map(SourceView::from).collect(),
            services: n.services.iter().map(ServiceView::from).collect(),
            controller,
        }
    }
}

impl From<&Source> for SourceView {
    fn from(s: &Source) -> Self {
        let facts = s.facts.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        Self { kind: text::kind_word(s.kind), target: s.target.clone(), problem: view::some(&s.problem), facts }
    }
}

impl From<&Service> for ServiceView {
    fn from(s: &Service) -> Self {
        Self {
            role: view::service_role(s.role()),
            state: view::service_state(s.state()),
            start_command: view::some(&s.start_command),
            problem: view::some(&s.problem),
            held_for: view::some(&s.held_for),
            ready: s.ready,
            not_ready: view::some(&s.not_ready),
        }
    }
}

#[cfg(test)]
mod tests {
    use prexor_proto::backup::{Controller, Job, JobKind, JobState, ServiceRole, ServiceState};

    use super::*;

    fn status() -> GetStatusResponse {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let h1 = Node {
            name: "h1".into(),
            address: "10.0.0.1:9445".into(),
            reachable: true,
            agent_version: "0.1.0".into(),
            certificate_not_after: at(1_778_400_000),
            sources: vec![
                Source {
                    kind: 1,
                    target: "database prexorcloud on 127.0.0.1:27017".into(),
                    facts: [(facts::ROLE, "primary"), (facts::LAG, "2"), (facts::CUT_OFF, "h3:27017")]
                        .map(|(name, value)| (name.to_owned(), value.to_owned()))
                        .into_iter()
                        .collect(),
                    ..Source::default()
                },
                Source {
                    kind: 2,
                    target: "127.0.0.1:6379".into(),
                    problem: "wrong password".into(),
                    ..Source::default()
                },
            ],
            services: vec![Service {
                role: ServiceRole::Controller.into(),
                state: ServiceState::Inactive.into(),
                held_for: "job-0".into(),
                ..Service::default()
            }],
            controller: Some(Controller {
                version: Some("1.0.1".into()),
                root: "/etc/prexorcloud".into(),
                ..Controller::default()
            }),
            ..Node::default()
        };
        let h2 = Node {
            name: "h2".into(),
            address: "h2:9445".into(),
            problem: "connection refused".into(),
            last_seen: at(1_778_403_350),
            unreachable_since: at(1_778_403_360),
            ..Node::default()
        };
        GetStatusResponse {
            cluster: "prexorcloud".into(),
            coordinator_version: "0.1.0".into(),
            ca_fingerprint: "ab".repeat(32),
            nodes: vec![h1, h2],
            active_jobs: vec![Job {
                id: "job-0123456789ab".into(),
                kind: JobKind::Backup.into(),
                state: JobState::Queued.into(),
                waits_for: "job-ba9876543210 (restore of mongo, running for 3 min)".into(),
                ..Job::default()
            }],
            latest_backup: Some(Backup {
                id: "bk-2026-05-10-001".into(),
                created_at: at(1_778_400_000),
                size_bytes: 142 << 20,
                scope: vec![1, 2],
                ..Backup::default()
            }),
            last_good: vec![
                LastGood {
                    kind: 1,
                    backup_id: "bk-2026-05-10-001".into(),
                    created_at: at(1_778_400_000),
                    rpo: Some(prost_types::Duration { seconds: 90_000, nanos: 0 }),
                    ..LastGood::default()
                },
                LastGood {
                    kind: 3,
                    node: "h1".into(),
                    rpo: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
                    overdue: true,
                    ..LastGood::default()
                },
            ],
            store: "/var/backups/prexorcloud".into(),
            store_free_bytes: 120 << 30,
            problems: vec!["h2 is unreachable: connection refused".into()],
        }
    }

    #[test]
    fn problems_come_first() {
        assert_eq!(
            lines(&status(), Timestamp::from_second(1_778_403_600).unwrap()),
            [
                "Problems:",
                "  ! h2 is unreachable: connection refused",
                "",
                "Cluster prexorcloud, coordinator 0.1.0",
                &format!("  backup CA        {}", "ab".repeat(32)),
                "  store            /var/backups/prexorcloud, 120 GiB free",
                "  latest backup    bk-2026-05-10-001, 142 MiB, mongo,valkey, 1 h ago",
                "  mongo saved      bk-2026-05-10-001, 1 h ago (rpo 1 d 1 h)",
                "  filesystem saved h1: none yet (OVERDUE, rpo 1 h)",
                "  backup job       job-0123456789ab is queued behind job-ba9876543210 (restore of mongo, running for 3 min)",
                "",
                "Node h1 (10.0.0.1:9445): reachable, agent 0.1.0",
                "  certificate      valid until 2026-05-10T08:00:00Z",
                "  controller       PrexorCloud 1.0.1 in /etc/prexorcloud",
                "  controller unit  inactive, HELD for job-0",
                "  mongo            database prexorcloud on 127.0.0.1:27017: ok, primary, lag 2 s, NO REPLICATION with h3:27017",
                "  valkey           127.0.0.1:6379: NOT OK: wrong password",
                "",
                "Node h2 (h2:9445): not reachable for 4 min: connection refused",
                "  last seen        2026-05-10T08:55:50Z",
            ]
        );
    }

    #[test]
    fn an_empty_cluster_says_how_to_begin() {
        let lines = lines(&GetStatusResponse::default(), Timestamp::UNIX_EPOCH);
        assert!(lines.last().unwrap().contains("prexorctl token create"), "{lines:?}");
        let json = serde_json::to_value(StatusView::from(&GetStatusResponse::default())).unwrap();
        assert_eq!(json["latest_backup"], serde_json::Value::Null);
        assert_eq!(json["nodes"], serde_json::json!([]));
    }
}
