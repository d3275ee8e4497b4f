//! `prexorctl token list`.

use jiff::Timestamp;
use prexor_proto::backup::{ListTokensRequest, Token, TokenRole, TokenState};
use serde::Serialize;

use crate::{client::Client, exit::Exit, failure::Failure, printer::Printer, text, view};

/// An element of `token list --json`.
#[derive(Serialize)]
struct TokenView<'a> {
    id: &'a str,
    state: &'static str,
    role: &'static str,
    node: Option<&'a str>,
    description: Option<&'a str>,
    created_by: &'a str,
    created_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    spent_by: Option<&'a str>,
}

/// Prints the tokens, newest first.
///
/// # Errors
/// When the coordinator cannot be asked.
pub async fn run(printer: &Printer) -> Result<Exit, Failure> {
    let client = Client::connect().await?;
    let answer = client.call(ListTokensRequest {}, |s, r| async move { s.admin().list_tokens(r).await }).await?;
    printer.document(&answer.tokens.iter().map(view).collect::<Vec<_>>());
    printer.lines(lines(&answer.tokens));
    Ok(Exit::Ok)
}

fn view(token: &Token) -> TokenView<'_> {
    TokenView {
        id: &token.id,
        state: state(token.state()),
        role: role(token.role()),
        node: said(&token.node),
        description: said(&token.description),
        created_by: &token.created_by,
        created_at: view::at(token.created_at.as_ref()),
        expires_at: view::at(token.expires_at.as_ref()),
        spent_by: said(&token.spent_by),
    }
}

fn said(text: &str) -> Option<&str> {
    Some(text).filter(|t| !t.is_empty())
}

fn state(state: TokenState) -> &'static str {
    match state {
        TokenState::Usable => "usable",
        TokenState::Spent => "spent",
        TokenState::Expired => "expired",
        TokenState::Revoked => "revoked",
        TokenState::Unspecified => "unknown",
    }
}

fn role(role: TokenRole) -> &'static str {
    match role {
        TokenRole::Agent => "agent",
        TokenRole::Operator => "operator",
        TokenRole::Unspecified => "unknown",
    }
}

fn lines(tokens: &[Token]) -> Vec<String> {
    text::table(
        &["ID", "STATE", "ROLE", "FOR", "UNTIL", "DESCRIPTION"],
        tokens.iter().map(|t| {
            let name = said(&t.node).or(said(&t.spent_by)).unwrap_or("any");
            vec![
                t.id.clone(),
                state(t.state()).to_owned(),
                role(t.role()).to_owned(),
                name.to_owned(),
                text::wire_time(t.expires_at.as_ref()),
                t.description.clone(),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_say_what_they_are_good_for() {
        let usable = Token {
            id: "00112233aabbccdd".into(),
            state: TokenState::Usable.into(),
            role: TokenRole::Agent.into(),
            description: "rejoin".into(),
            expires_at: Some(prost_types::Timestamp { seconds: 1_778_400_000, nanos: 0 }),
            ..Token::default()
        };
        let spent = Token { state: TokenState::Spent.into(), spent_by: "h1".into(), ..usable.clone() };
        assert_eq!(
            lines(&[usable, spent]),
            [
                "ID                STATE   ROLE   FOR  UNTIL                 DESCRIPTION",
                "00112233aabbccdd  usable  agent  any  2026-05-10T08:00:00Z  rejoin",
                "00112233aabbccdd  spent   agent  h1   2026-05-10T08:00:00Z  rejoin",
            ]
        );
    }
}
