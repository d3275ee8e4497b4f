//! Replacing the backup CA while everything goes on: both roots are trusted until everybody has a certificate of the new
//! one. Agents are given theirs with the heartbeat; operators get theirs with the next command that they type.

use jiff::Timestamp;
use prexor_proto::{
    backup::{self, Root},
    convert::time_to_wire,
};

use crate::{context::Context, error::Error};

/// The roots, and whom a rotation waits for.
///
/// # Errors
/// When the catalog cannot be read.
pub async fn show(ctx: &Context) -> Result<backup::Ca, Error> {
    let roots = ctx.ca.roots();
    let root = |a: &prexor_certs::Authority| Root {
        sha256: a.fingerprint().to_string(),
        not_after: Some(time_to_wire(a.not_after())),
    };
    Ok(backup::Ca {
        roots: [&roots.current].into_iter().chain(&roots.next).map(root).collect(),
        waiting: waiting(ctx).await?,
    })
}

/// Who has no certificate of the next root; nobody when no rotation is under way.
async fn waiting(ctx: &Context) -> Result<Vec<String>, Error> {
    let roots = ctx.ca.roots();
    let Some(next) = &roots.next else { return Ok(Vec::new()) };
    ctx.catalog.without_certificate_of(next.fingerprint(), Timestamp::now()).await
}

/// Ends a rotation that nobody has to be waited for any more.
pub async fn finish_when_all_have_moved(ctx: &Context) {
    // What has not taken effect yet is waited for.
    if ctx.ca.roots().next.is_none() || ctx.ca.target().borrow().next.is_none() {
        return;
    }
    let done = waiting(ctx).await.and_then(|left| if left.is_empty() { ctx.ca.finish() } else { Ok(()) });
    if let Err(e) = done {
        tracing::error!("the rotation of the CA does not come to its end: {e}");
    }
}
