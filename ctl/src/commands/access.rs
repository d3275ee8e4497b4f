//! `prexorctl node revoke` and `prexorctl operator revoke`.

use prexor_format::id::NodeName;
use prexor_proto::backup::{RevokeRequest, TokenRole};
use serde::Serialize;

use crate::{client::Client, exit::Exit, failure::Failure, hints::Hint, printer::Printer, prompt};

/// What `node revoke --json` and `operator revoke --json` print.
#[derive(Serialize)]
struct Document<'a> {
    role: &'static str,
    name: &'a str,
    /// Serial numbers, in hexadecimal.
    revoked: Vec<String>,
    /// Agents that do not know it yet.
    not_told: Vec<String>,
}

/// Shuts a host out.
///
/// # Errors
/// When it is not confirmed, or the coordinator refuses.
pub async fn revoke_node(printer: &Printer, node: &NodeName, yes: bool) -> Result<Exit, Failure> {
    let question = format!("Shut the agent on {node} out? What it works on ends.");
    revoke(printer, TokenRole::Agent, node, yes, &question).await?;
    printer.note(&format!(
        "to let it in again: prexorctl token create --node {node}, then on {node}: prexorctl setup --rejoin"
    ));
    Ok(Exit::Ok)
}

/// Shuts an operator out.
///
/// # Errors
/// When it is not confirmed, or the coordinator refuses.
pub async fn revoke_operator(printer: &Printer, name: &NodeName, yes: bool) -> Result<Exit, Failure> {
    revoke(printer, TokenRole::Operator, name, yes, &format!("Shut the operator {name} out?")).await?;
    Ok(Exit::Ok)
}

async fn revoke(printer: &Printer, role: TokenRole, name: &NodeName, yes: bool, question: &str) -> Result<(), Failure> {
    if !yes {
        if !prompt::can_ask(printer) {
            return Err(Failure::not_confirmed().hint(Hint::Yes));
        }
        prompt::confirm(printer, question).await?;
    }
    let client = Client::connect().await?;
    let request = RevokeRequest { role: role.into(), name: name.to_string() };
    let done = client.call(request, |s, r| async move { s.admin().revoke(r).await }).await?;
    let what = match done.serials.len() {
        0 => "no certificate was left to revoke".to_owned(),
        1 => "1 certificate is revoked".to_owned(),
        n => format!("{n} certificates are revoked"),
    };
    printer.line(&format!("{name}: {what}"));
    for node in &done.not_told {
        printer.warning(&format!("the agent on {node} could not be told yet: it is as soon as it answers"));
    }
    let role = if role == TokenRole::Agent { "agent" } else { "operator" };
    printer.document(&Document { role, name: name.as_str(), revoked: done.serials, not_told: done.not_told });
    Ok(())
}
