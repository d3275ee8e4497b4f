//! This host on the wire.

use std::time::{Duration, SystemTime};

use prexor_proto::{backup, convert};

use crate::{
    host::Host,
    services::{Role, ServiceState, check_ready},
    source::{Inspection, Source},
    targets::Targets,
};

/// How long one source may take to look around: well below what the coordinator gives the whole agent, so that one
/// source that hangs does not make the host look dead.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(8);

/// Everything that is on this host; with `laws` also what the restore laws need to know. What cannot be found out is told as a problem.
pub(super) async fn node(host: &Host, laws: bool) -> backup::Node {
    let targets = host.targets_and_version().await;
    let found = host.sources(&targets);
    // At the same time: all that hangs together must not take longer than the coordinator waits.
    let (sources, services) = futures::join!(
        futures::future::join_all(found.iter().map(|s| source(s.as_ref(), laws))),
        futures::future::join_all([Role::Controller, Role::Valkey].map(|r| service(host, r, &targets))),
    );
    let free = rustix::fs::statvfs(host.state_dir()).map(|s| s.f_bavail * s.f_frsize);
    backup::Node {
        name: host.node().to_string(),
        hostname: host.hostname().to_owned(),
        reachable: true,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        sources,
        services,
        controller: targets.controller.as_ref().map(convert::controller_to_wire),
        clock: Some(SystemTime::now().into()),
        staging_free_bytes: free.unwrap_or_default(),
        ..Default::default()
    }
}

async fn source(source: &dyn Source, laws: bool) -> backup::Source {
    let mut found = tokio::time::timeout(SOURCE_TIMEOUT, source.inspect()).await.unwrap_or_else(|_| Inspection {
        problem: Some(format!("no answer within {} s", SOURCE_TIMEOUT.as_secs())),
        ..Default::default()
    });
    if laws && found.problem.is_none() {
        found.facts.extend(source.inspect_laws().await);
    }
    backup::Source {
        kind: convert::kind_to_wire(source.kind()).into(),
        target: found.target,
        problem: found.problem.unwrap_or_default(),
        facts: found.facts.into_iter().collect(),
    }
}

async fn service(host: &Host, role: Role, targets: &Targets) -> backup::Service {
    let found = match role {
        Role::Controller => host.controller_state(targets).await,
        Role::Valkey => host.services().state(role).await,
    };
    let (state, problem) = match found {
        Ok(state) => (state_to_wire(state), String::new()),
        Err(e) => (backup::ServiceState::Unspecified, e.0),
    };
    let (mut held_for, mut cannot_hold, mut not_ready) = (String::new(), None, None);
    if role == Role::Controller {
        held_for = held(host);
        cannot_hold = Some(host.services().can_block(role).await.err().map(|e| e.0).unwrap_or_default());
        if state == backup::ServiceState::Active {
            not_ready = Some(why_not_ready(host).await);
        }
    }
    backup::Service {
        role: role_to_wire(role).into(),
        state: state.into(),
        start_command: host.services().start_command(role),
        problem,
        held_for,
        can_hold: cannot_hold.as_ref().is_some_and(String::is_empty),
        cannot_hold: cannot_hold.unwrap_or_default(),
        ready: not_ready.as_ref().map(String::is_empty),
        not_ready: not_ready.unwrap_or_default(),
        unit: if state == backup::ServiceState::Absent {
            String::new()
        } else {
            host.services().unit(role).await.unwrap_or_default()
        },
    }
}

/// Empty when the controller says that it is ready.
async fn why_not_ready(host: &Host) -> String {
    match tokio::time::timeout(SOURCE_TIMEOUT, check_ready(&host.ready_url())).await {
        Ok(Ok(())) => String::new(),
        Ok(Err(e)) => e.0,
        Err(_) => format!("no answer within {} s", SOURCE_TIMEOUT.as_secs()),
    }
}

/// For which job the controller is held; empty for nobody.
pub(super) fn held(host: &Host) -> String {
    match host.holds().in_force() {
        Ok(hold) => hold.map(|h| h.job_id).unwrap_or_default(),
        // Whoever it is for, it holds.
        Err(_) => "unknown".to_owned(),
    }
}

fn role_to_wire(role: Role) -> backup::ServiceRole {
    match role {
        Role::Controller => backup::ServiceRole::Controller,
        Role::Valkey => backup::ServiceRole::Valkey,
    }
}

pub(super) fn role_from_wire(role: backup::ServiceRole) -> Option<Role> {
    match role {
        backup::ServiceRole::Controller => Some(Role::Controller),
        backup::ServiceRole::Valkey => Some(Role::Valkey),
        backup::ServiceRole::Unspecified => None,
    }
}

pub(super) fn state_to_wire(state: ServiceState) -> backup::ServiceState {
    match state {
        ServiceState::Active => backup::ServiceState::Active,
        ServiceState::Inactive => backup::ServiceState::Inactive,
        ServiceState::Absent => backup::ServiceState::Absent,
    }
}
