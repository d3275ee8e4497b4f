//! Asks every enrolled agent, and puts the answers into the plan's terms.

use prexor_format::id::NodeName;
use prexor_proto::{
    backup::{Node, ServiceRole, ServiceState},
    convert,
};

use super::plan::{NodeFacts, ServiceFacts, SourceFacts};
use crate::{agents::Look, context::Context, error::Error};

/// What all hosts look like now.
pub(super) async fn gather(ctx: &Context) -> Result<Vec<NodeFacts>, Error> {
    let records = ctx.catalog.nodes().await?;
    let nodes = ctx.agents.inspect_all(&records, Look::ForRestore).await;
    Ok(records.iter().zip(nodes).map(|(record, node)| node_facts(record.name.clone(), node)).collect())
}

fn node_facts(name: NodeName, node: Node) -> NodeFacts {
    let controller_service = controller_service(&node);
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
        unreachable: (!node.reachable).then_some(node.problem),
        sources: sources.collect(),
        controller_service,
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
        ServiceState::Active => ServiceFacts::Active,
        ServiceState::Inactive => ServiceFacts::Inactive { start_command: service.start_command.clone() },
        ServiceState::Unspecified => ServiceFacts::Unknown(service.problem.clone()),
    }
}
