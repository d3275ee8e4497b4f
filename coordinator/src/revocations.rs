//! Certificates that are good no more: refused at every handshake, their open connections ended, and agents told of them.

use jiff::Timestamp;
use prexor_certs::Role;
use prexor_transport::revoked::Revoked;

use crate::{catalog::Catalog, context::Context, error::Error};

/// What came of a revocation.
#[derive(Debug)]
pub struct Revocation {
    /// The serial numbers that are revoked now and were not before.
    pub serials: Vec<String>,
    /// Agents that could not be told at once. They are as soon as they answer.
    pub not_told: Vec<String>,
}

/// What the catalog says is revoked.
///
/// # Errors
/// When it cannot be read.
pub async fn load(catalog: &Catalog, revoked: &Revoked) -> Result<(), Error> {
    revoked.set(catalog.revoked_serials(Timestamp::now()).await?);
    Ok(())
}

/// Lets what the catalog says count from here on, for new connections and for open ones.
///
/// # Errors
/// When it cannot be read.
pub async fn apply(ctx: &Context) -> Result<(), Error> {
    load(&ctx.catalog, &ctx.revoked).await
}

/// Revokes all certificates of an agent or operator, and the tokens that are bound to the name.
///
/// # Errors
/// `NOT_FOUND` when none was ever issued to that name.
pub async fn revoke(ctx: &Context, role: Role, name: &str) -> Result<Revocation, Error> {
    if !ctx.catalog.is_known(role, name).await? {
        return Err(Error::not_found(format!("no {role} '{}' ever had a certificate", name.escape_default())));
    }
    let serials = ctx.catalog.revoke(role, name, None, true, Timestamp::now()).await?;
    apply(ctx).await?;
    Ok(Revocation { serials, not_told: ctx.agents.tell_all(ctx).await? })
}
