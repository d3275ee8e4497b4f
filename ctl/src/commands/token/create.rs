//! `prexorctl token create`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use prexor_format::id::NodeName;
use prexor_proto::{
    backup::{CreateTokenRequest, CreateTokenResponse, TokenRole as WireRole},
    convert,
};
use serde::Serialize;

use crate::{cli::TokenRole, client::Client, exit::Exit, failure::Failure, printer::Printer, text, view};

/// What `token create --json` prints.
#[derive(Serialize)]
struct Document<'a> {
    token: &'a str,
    expires_at: Option<Timestamp>,
    enrolment_address: &'a str,
}

/// Makes a token and prints it: the word alone on standard output, what to do with it on standard error.
///
/// # Errors
/// When the coordinator does not make one.
pub async fn run(
    printer: &Printer,
    description: String,
    ttl: Duration,
    role: TokenRole,
    node: Option<NodeName>,
) -> Result<Exit, Failure> {
    let ttl = SignedDuration::try_from(ttl).map_err(|e| Failure::usage(e.to_string()))?;
    let request = CreateTokenRequest {
        description,
        ttl: Some(convert::duration_to_wire(ttl)),
        role: match role {
            TokenRole::Agent => WireRole::Agent.into(),
            TokenRole::Operator => WireRole::Operator.into(),
        },
        node: node.as_ref().map(NodeName::to_string).unwrap_or_default(),
    };
    let client = Client::connect().await?;
    // Made twice, one of two tokens would stay good without anybody knowing it.
    let made = client.call_once(request, |s, r| async move { s.admin().create_token(r).await }).await?;
    let (token, enrolment_address) = (made.token.as_str(), made.enrolment_address.as_str());
    printer.document(&Document { token, expires_at: view::at(made.expires_at.as_ref()), enrolment_address });
    printer.line(token);
    notes(&made, role, node.as_ref()).iter().for_each(|note| printer.note(note));
    Ok(Exit::Ok)
}

fn notes(made: &CreateTokenResponse, role: TokenRole, node: Option<&NodeName>) -> Vec<String> {
    let until = text::wire_time(made.expires_at.as_ref());
    let mut notes = vec![format!("Good for one use until {until}. It is not shown again.")];
    if role == TokenRole::Agent {
        let node = node.map(|n| format!(" --node {n}")).unwrap_or_default();
        notes.push(format!("On the host, as root: prexorctl setup --coordinator {}{node}", made.enrolment_address));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notes_name_the_next_command_and_not_the_token() {
        let made = CreateTokenResponse {
            token: "prexor1.secret".into(),
            expires_at: Some(prost_types::Timestamp { seconds: 1_778_400_000, nanos: 0 }),
            enrolment_address: "10.0.0.1:9444".into(),
        };
        let node = "h1".parse().unwrap();
        assert_eq!(
            notes(&made, TokenRole::Agent, Some(&node)),
            [
                "Good for one use until 2026-05-10T08:00:00Z. It is not shown again.",
                "On the host, as root: prexorctl setup --coordinator 10.0.0.1:9444 --node h1",
            ]
        );
        assert_eq!(notes(&made, TokenRole::Operator, None).len(), 1);
    }
}
