//! Asks every enrolled agent, and puts the answers into the plan's terms.

use jiff::Timestamp;
use prexor_format::id::NodeName;
use prexor_proto::{
    backup::{Node, Service, ServiceRole, ServiceState},
    convert,
};

use super::plan::{NodeFacts, ServiceFacts, SourceFacts};
use crate::{agents::Look, context::Context, error::Error};

/// What all hosts look like now.
pub(super) async fn gather(ctx: &Context) -> Result<Vec<NodeFacts>, Error> {
    let records = ctx.catalog.nodes().await?;
    let nodes = ctx.agents.inspect_all(&records, Look::ForRestore).await;
    let now = Timestamp::now();
    // A job that has not ended ends its holds itself; a plan that was made meanwhile is made anew when its turn comes.
    let open: Vec<String> = ctx.catalog.active_jobs().await?.into_iter().map(|row| row.job.id).collect();
    let facts = records.iter().zip(nodes).map(|(record, node)| node_facts(record.name.clone(), node, now, &open));
    Ok(facts.collect())
}

fn node_facts(name: NodeName, node: Node, now: Timestamp, open_jobs: &[String]) -> NodeFacts {
    let controller_service = controller_service(&node);
    let controller = node.services.iter().find(|s| s.role() == ServiceRole::Controller);
    let valkey = node.services.iter().find(|s| s.role() == ServiceRole::Valkey);
    let unit = |service: Option<&Service>| service.map(|s| s.unit.clone()).unwrap_or_default();
    let (controller_unit, valkey_unit) = (unit(controller), unit(valkey));
    let cannot_hold = match controller {
        Some(service) if service.can_hold => None,
        Some(service) if !service.cannot_hold.is_empty() => Some(service.cannot_hold.clone()),
        _ => Some("it does not say that it can".to_owned()),
    };
    let held_for = controller.map(|s| s.held_for.clone()).filter(|job| !job.is_empty() && !open_jobs.contains(job));
    let clock = node.clock.as_ref().and_then(|t| convert::time_from_wire(t).ok());
    let clock_ahead = clock.map_or(0, |clock| clock.duration_since(now).as_secs());
    let sources = node.sources.into_iter().filter_map(|s| {
        Some(SourceFacts {
            // A kind of a newer agent is none that this coordinator can restore.
            kind: convert::kind_from_wire(s.kind).ok()?,
            target: s.target,
            problem: (!s.problem.is_empty()).then_some(s.problem),
            facts: s.facts.into_iter().collect(),
        })
    });
    NodeFacts {
        name,
        hostname: node.hostname,
        unreachable: (!node.reachable).then_some(node.problem),
        sources: sources.collect(),
        controller_service,
        controller_unit,
        valkey_unit,
        cannot_hold,
        held_for,
        clock_ahead,
        controller: node.controller.as_ref().map(convert::controller_from_wire),
        staging_free_bytes: node.staging_free_bytes,
    }
}

fn controller_service(node: &Node) -> ServiceFacts {
    let Some(service) = node.services.iter().find(|s| s.role() == ServiceRole::Controller) else {
        return ServiceFacts::Unknown("the agent does not say".to_owned());
    };
    match service.state() {
        ServiceState::Absent => ServiceFacts::Absent,
        ServiceState::Active => ServiceFacts::Active { start_command: service.start_command.clone() },
        ServiceState::Inactive => ServiceFacts::Inactive { start_command: service.start_command.clone() },
        ServiceState::Unspecified => ServiceFacts::Unknown(service.problem.clone()),
    }
}
