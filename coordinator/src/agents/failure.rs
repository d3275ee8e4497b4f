//! From what tonic says of a call to an error that names the node and what to do.

use std::time::Duration;

use prexor_format::id::NodeName;
use prexor_proto::{convert::BadWire, reason::Reason, status};
use prexor_transport::dial::{DialError, DialErrorKind};
use tonic::{Code, Status};

use crate::error::Error;

pub(super) fn of_dial(node: &NodeName, e: &DialError) -> Error {
    let rejoin = match e.kind {
        DialErrorKind::Untrusted(_) | DialErrorKind::Rejected(_) => format!("; {}", way_back(node)),
        _ => String::new(),
    };
    let message = format!("the agent on {node} cannot be reached: {e}{rejoin}");
    Error::new(Reason::AgentUnavailable, message).on(node.as_str())
}

/// What to type to let a node in again, whatever became of its certificate or of the CA.
pub fn way_back(node: &NodeName) -> String {
    format!(
        "to let it in again, `prexorctl token create --description rejoin --ttl 1h` here, then `prexorctl setup --rejoin` \
         on {node}"
    )
}

pub(super) fn of_status(node: &NodeName, s: &Status) -> Error {
    if let Some(dial) = DialError::behind(s) {
        return of_dial(node, dial);
    }
    let unavailable = |what: String| Error::new(Reason::AgentUnavailable, what);
    let error = match (s.code(), status::reason(s)) {
        (Code::Unimplemented, _) => {
            Error::invalid(format!("the agent on {node} does not know this call: update prexor-agent there"))
        }
        // What we cancel we do not wait for: this is the agent giving up, most likely because it is being stopped.
        (_, Reason::Cancelled) => unavailable(format!("the agent on {node} ended the call: is it being stopped?")),
        (_, reason) if s.message().is_empty() => Error::new(reason, format!("the agent on {node} failed: {reason}")),
        (Code::Unknown | Code::Unavailable | Code::Internal, Reason::Internal | Reason::AgentUnavailable)
            if s.details().is_empty() =>
        {
            unavailable(format!(
                "the connection to the agent on {node} broke off ({}): `prexorctl status` shows whether it is back",
                s.message()
            ))
        }
        (_, reason) => Error::new(reason, s.message()),
    };
    error.on(node.as_str())
}

pub(super) fn of_wire(node: &NodeName, e: &BadWire) -> Error {
    Error::internal(format!("the agent on {node}: {e}")).on(node.as_str())
}

pub(super) fn stalled(node: &NodeName, doing: &str, after: Duration) -> Error {
    Error::new(
        Reason::AgentUnavailable,
        format!("the agent on {node} has not moved for {} s while {doing}: is it stuck?", after.as_secs()),
    )
    .on(node.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_names_its_node_and_a_reason() {
        let node: NodeName = "h1".parse().unwrap();
        for (s, reason, says) in [
            (status::status(Reason::SourceDenied, "no privilege"), Reason::SourceDenied, "no privilege"),
            (status::status(Reason::Cancelled, "cancelled"), Reason::AgentUnavailable, "being stopped"),
            (Status::unavailable("transport error"), Reason::AgentUnavailable, "broke off"),
            (Status::unknown("h2 protocol error"), Reason::AgentUnavailable, "broke off"),
            (Status::internal("h2 protocol error"), Reason::AgentUnavailable, "broke off"),
            (status::status(Reason::Internal, "a bug"), Reason::Internal, "a bug"),
            (Status::unimplemented(""), Reason::InvalidRequest, "update prexor-agent"),
            (Status::permission_denied("coordinators only"), Reason::NotAllowed, "coordinators only"),
        ] {
            let e = of_status(&node, &s);
            assert_eq!((e.reason, e.node.as_deref()), (reason, Some("h1")), "{s:?}");
            assert!(e.message.contains(says), "{e}");
        }
    }
}
