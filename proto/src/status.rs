//! From a [`Reason`] and a message to `tonic::Status` with `google.rpc.ErrorInfo`, and back.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::reason::{DOMAIN, Reason};

/// The status for this reason; `message` says what happened, to what, and what to do next.
pub fn status(reason: Reason, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason.as_str(), DOMAIN, HashMap::new());
    Status::with_error_details(reason.code(), message, details)
}

/// The reason in a status; what carries none (a broken connection, a proxy) is mapped from its code.
pub fn reason(status: &Status) -> Reason {
    let word = status.get_details_error_info().filter(|i| i.domain == DOMAIN).map(|i| i.reason);
    word.and_then(|w| Reason::from_word(&w)).unwrap_or(match status.code() {
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => Reason::InvalidRequest,
        Code::NotFound => Reason::NotFound,
        Code::PermissionDenied | Code::Unauthenticated => Reason::NotAllowed,
        Code::Cancelled => Reason::Cancelled,
        Code::Unavailable | Code::DeadlineExceeded => Reason::AgentUnavailable,
        _ => Reason::Internal,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire() {
        for r in Reason::ALL {
            let s = status(*r, "what happened");
            assert_eq!((reason(&s), s.message(), s.code()), (*r, "what happened", r.code()));
        }
        assert_eq!(reason(&Status::unavailable("gone")), Reason::AgentUnavailable);
    }
}
