//! What setup needs to know: from flags, from a person, or from this host.

use prexor_format::id::NodeName;

use super::{Enrolment, enrol};
use crate::{cli::SetupArgs, failure::Failure, printer::Printer, prompt};

/// Gathers it all; asks a person where there is one.
pub(super) async fn gather(printer: &Printer, args: &SetupArgs) -> Result<Enrolment, Failure> {
    let person = prompt::can_ask(printer);
    let hostname = enrol::hostname();
    let coordinator = enrol::coordinator(printer, args.coordinator.as_deref()).await?;
    let node = match (&args.node, hostname.parse::<NodeName>()) {
        (Some(node), _) => node.clone(),
        (None, proposed) if person => {
            let proposed = proposed.ok().map(|n| n.to_string());
            let answer = prompt::ask(printer, "Name of this host in the backup system", proposed.as_deref()).await?;
            answer.parse().map_err(|e| Failure::usage(format!("{e}")))?
        }
        (None, Ok(node)) => node,
        (None, Err(_)) => {
            return Err(Failure::usage(format!("the host name '{hostname}' cannot name a node: use --node NAME")));
        }
    };
    let proposed = proposed_address(args, &hostname);
    let advertise = match &args.advertise {
        Some(advertise) => advertise.clone(),
        None if person => prompt::ask(printer, "Where the coordinator reaches this host", Some(&proposed)).await?,
        None => proposed,
    };
    enrol::check_address("--advertise", &advertise)?;
    let token = enrol::token(printer, args.token_file.as_deref()).await?;
    Ok(Enrolment { coordinator, token, node, hostname, advertise })
}

/// A listener on one address is reached there; one on all addresses by the host's name.
fn proposed_address(args: &SetupArgs, hostname: &str) -> String {
    if args.listen.ip().is_unspecified() {
        format!("{hostname}:{}", args.listen.port())
    } else {
        args.listen.to_string()
    }
}
