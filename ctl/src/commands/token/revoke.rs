//! `prexorctl token revoke`.

use prexor_proto::backup::RevokeTokenRequest;
use serde::Serialize;

use crate::{client::Client, exit::Exit, failure::Failure, printer::Printer};

/// What `token revoke --json` prints.
#[derive(Serialize)]
struct Document {
    id: String,
}

/// Revokes a token that was not used yet.
///
/// # Errors
/// When there is none with this id that could still be used.
pub async fn run(printer: &Printer, id: String) -> Result<Exit, Failure> {
    let client = Client::connect().await?;
    let request = RevokeTokenRequest { id: id.clone() };
    client.call_once(request, |s, r| async move { s.admin().revoke_token(r).await }).await?;
    printer.line(&format!("token {id} is revoked"));
    printer.document(&Document { id });
    Ok(Exit::Ok)
}
