//! From a [`Reason`] and a message to `tonic::Status` with `google.rpc.ErrorInfo`, and back.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::reason::{DOMAIN, Reason};

/// The longest message, in bytes. A status travels in HTTP/2 headers, the message twice (percent-encoded, and in the
/// details), and peers refuse more than 16 KiB of them: the reason would be lost together with the message.
const MAX_MESSAGE: usize = 2 << 10;

/// What stands in the middle of a message that was too long.
const SHORTENED: &str = " ... (shortened) ... ";

/// The status for this reason; `message` says what happened, to what, and what to do next. Of one that is too long the
/// beginning and the end are kept.
pub fn status(reason: Reason, message: impl Into<String>) -> Status {
    let message = shorten(message.into());
    let details = ErrorDetails::with_error_info(reason.as_str(), DOMAIN, HashMap::new());
    Status::with_error_details(reason.code(), message, details)
}

fn shorten(message: String) -> String {
    if message.len() <= MAX_MESSAGE {
        return message;
    }
    // What happened stands at the beginning, what to do next at the end.
    let (head, tail) = (MAX_MESSAGE * 3 / 4, MAX_MESSAGE / 4 - SHORTENED.len());
    let head = message.floor_char_boundary(head);
    let tail = message.ceil_char_boundary(message.len() - tail);
    format!("{}{SHORTENED}{}", &message[..head], &message[tail..])
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

    #[test]
    fn long_messages_are_shortened_and_keep_their_reason() {
        for piece in ["x", "ä", "€", "\u{1f600}", "a€"] {
            let long = format!("begin {} end", piece.repeat(100_000));
            let s = status(Reason::NoSpace, &long);
            assert_eq!(reason(&s), Reason::NoSpace);
            let text = s.message();
            assert!(text.len() <= MAX_MESSAGE && text.len() > MAX_MESSAGE - 16, "{}", text.len());
            assert!(text.starts_with("begin ") && text.ends_with(" end") && text.contains("(shortened)"), "{text}");
            // As headers: what every client takes.
            let mut headers = tonic::codegen::http::HeaderMap::new();
            s.add_header(&mut headers).unwrap();
            let size: usize = headers.iter().map(|(k, v)| k.as_str().len() + v.len() + 32).sum();
            assert!(size < 12 << 10, "{size}");
        }
        let exact = "y".repeat(MAX_MESSAGE);
        assert_eq!(status(Reason::NoSpace, &exact).message(), exact);
    }
}
