//! Letting new nodes and operators in: tokens, and the certificates that they are spent on.

use std::{net::SocketAddr, time::Instant};

use jiff::{SignedDuration, Timestamp};
use prexor_certs::{EnrolmentToken, Identity, Role};
use prexor_format::id::NodeName;
use prexor_proto::reason::Reason;
use prexor_transport::access::Seen;

use crate::{
    audit,
    ca::Issued,
    catalog::{NewToken, NodeRecord},
    context::Context,
    error::Error,
    revocations,
};

mod tries;

pub use tries::Tries;

/// How long a token lives when nobody says.
const DEFAULT_TTL: SignedDuration = SignedDuration::from_hours(1);
/// The longest that a token lives.
const MAX_TTL: SignedDuration = SignedDuration::from_hours(7 * 24);
/// The longest description and host name, in bytes.
const MAX_WORDS: usize = 255;

/// What a token is to be good for.
#[derive(Debug)]
pub struct Wish {
    /// For whom.
    pub role: Role,
    /// The only name it is good for; `None`: any.
    pub name: Option<NodeName>,
    /// What the operator says about it.
    pub description: String,
    /// How long it lives; `None`: an hour.
    pub ttl: Option<SignedDuration>,
}

/// Makes a token and records its hash. The token itself is nowhere but in what this returns.
///
/// # Errors
/// When its life is no sensible one, or the catalog cannot be written.
pub async fn create_token(ctx: &Context, wish: Wish, created_by: &str) -> Result<(EnrolmentToken, Timestamp), Error> {
    let ttl = wish.ttl.unwrap_or(DEFAULT_TTL);
    if !(SignedDuration::from_secs(1)..=MAX_TTL).contains(&ttl) {
        return Err(Error::invalid(format!("a token lives between a second and {} hours", MAX_TTL.as_hours())));
    }
    if wish.description.len() > MAX_WORDS {
        return Err(Error::invalid(format!("the description is longer than {MAX_WORDS} bytes")));
    }
    let token = EnrolmentToken::generate(ctx.ca.fingerprint());
    let created_at = Timestamp::now();
    let expires_at = created_at.checked_add(ttl).map_err(|e| Error::invalid(e.to_string()))?;
    let new = NewToken {
        id: token.id(),
        hash: token.hash().to_string(),
        role: wish.role.as_str().to_owned(),
        node: wish.name.map(|n| n.to_string()),
        description: wish.description,
        created_by: created_by.to_owned(),
        created_at,
        expires_at,
    };
    ctx.catalog.add_token(&new).await?;
    tracing::info!(token = new.id, role = new.role, name = new.node, created_by, "an enrolment token was made");
    Ok((token, expires_at))
}

/// Somebody who wants a certificate. Nothing of it is to be believed yet.
#[derive(Debug)]
pub struct Applicant<'a> {
    /// The token.
    pub token: &'a str,
    /// A PKCS#10 request.
    pub csr_der: &'a [u8],
    /// The node's or operator's name.
    pub name: &'a str,
    /// The host's own name.
    pub hostname: String,
    /// Agents: `host:port` that we are to dial; empty when rejoining: where the node was before.
    pub address: String,
    /// `agent` or `operator`, where the token must be for it.
    pub role: &'a str,
    /// A node that is known comes back with a new key.
    pub rejoin: bool,
    /// Where the call came from.
    pub from: Option<SocketAddr>,
}

/// Spends a token on a certificate, and records the node if it is one. Whatever comes of it is in the audit log.
///
/// # Errors
/// `TOKEN_REFUSED` for every token that is not good, without saying why, and for everybody who tried too often;
/// `INVALID_REQUEST` for what else is wrong, and then the token is not spent.
pub async fn enrol(ctx: &Context, applicant: Applicant<'_>) -> Result<Issued, Error> {
    let (from, action) = (applicant.from, if applicant.rejoin { "rejoin" } else { "enrol" });
    let claimed: String = applicant.name.chars().take(100).collect();
    let address = from.map(|a| a.ip());
    if let Err(wait) = ctx.tries.may_try(address, Instant::now()) {
        // Not one word in the catalog: this is what a flood of them must not fill.
        tracing::debug!(?from, "an enrolment was refused: too many wrong tries");
        let seconds = wait.as_secs() + 1;
        let message = format!("too many wrong tries came from your address: wait {seconds} s and try again");
        return Err(Error::new(Reason::TokenRefused, message));
    }
    let done = try_enrol(ctx, applicant).await;
    let (who, subject, outcome, answer) = match done {
        Ok((issued, token)) => {
            let subject = format!("serial {} with token {token}", issued.leaf.serial);
            (Some(issued.leaf.identity.clone()), subject, Ok(()), Ok(issued))
        }
        Err(Refusal::Token(why)) => {
            ctx.tries.wrong(address, Instant::now());
            let error = Error::new(
                Reason::TokenRefused,
                "the token is not good: it is unknown, spent, revoked, expired or for another name; make a new one \
                 with `prexorctl token create`",
            );
            (None, claimed, Err((error.reason, why.to_owned())), Err(error))
        }
        Err(Refusal::Other(e)) => (None, claimed, Err((e.reason, e.message.clone())), Err(e)),
    };
    audit::record(&ctx.catalog, Seen { who, from, action: action.to_owned(), subject, outcome }).await;
    answer
}

/// Why there is no certificate.
enum Refusal {
    /// The token is not good. Why is for the log alone.
    Token(&'static str),
    /// The rest is not.
    Other(Error),
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Self {
        Self::Other(e)
    }
}

async fn try_enrol(ctx: &Context, applicant: Applicant<'_>) -> Result<(Issued, String), Refusal> {
    let name = applicant.name;
    let now = Timestamp::now();
    let token: EnrolmentToken = applicant.token.parse().map_err(|_| Refusal::Token("malformed"))?;
    let (id, hash) = (token.id(), token.hash().to_string());
    let usable = ctx.catalog.look_at_token(&id, &hash, name, now).await?.map_err(Refusal::Token)?;

    // Everything that can be wrong with the rest comes before the token is spent: a mistake does not cost it.
    let role: Role = usable
        .role
        .parse()
        .map_err(|_| Error::internal(format!("token {id} is for the unknown role '{}'", usable.role)))?;
    if !applicant.role.is_empty() && applicant.role != usable.role {
        let command = if role == Role::Agent { "prexorctl setup" } else { "prexorctl login" };
        return Err(Error::invalid(format!("this token enrols an {role}: use it with `{command}`")).into());
    }
    let identity = Identity::new(&ctx.config.cluster, role, name).map_err(|e| Error::invalid(e.to_string()))?;
    let mut address = applicant.address;
    if role == Role::Agent {
        let known = ctx.catalog.all_nodes().await?.into_iter().find(|n| n.name == *identity.node());
        if applicant.rejoin && address.is_empty() {
            address = known.as_ref().map(|n| n.address.clone()).unwrap_or_default();
        }
        check_address(&address)?;
        // Two hosts of one name would otherwise go unnoticed until the first has lost its place.
        if !usable.bound && !applicant.rejoin && known.is_some() {
            return Err(Refusal::Token("for a name that is enrolled already, neither bound to it nor a rejoin"));
        }
    } else if applicant.rejoin {
        return Err(Error::invalid("an operator does not rejoin: use `prexorctl login`").into());
    }
    if applicant.hostname.len() > MAX_WORDS || applicant.hostname.chars().any(char::is_control) {
        return Err(Error::invalid("the host's own name is too long or has control characters").into());
    }
    let issued = ctx.ca.issue(applicant.csr_der, &identity, ctx.config.certificates.of(role), now)?;
    if ctx.catalog.spend_token(&id, &hash, name, now).await?.is_none() {
        return Err(Refusal::Token("spent by somebody else a moment ago"));
    }
    ctx.catalog.add_certificate(&issued.leaf, issued.ca, now).await?;
    if role == Role::Agent {
        let node = NodeRecord {
            name: identity.node().clone(),
            hostname: applicant.hostname,
            address,
            serial: issued.leaf.serial.clone(),
            not_after: issued.leaf.not_after,
            enrolled_at: now,
            revoked_at: None,
        };
        ctx.catalog.put_node(&node).await?;
        // Whoever holds the former key of this node holds nothing any more.
        ctx.catalog.revoke(role, name, Some(&issued.leaf.serial), false, now).await?;
        revocations::apply(ctx).await?;
    }
    Ok((issued, id))
}

/// `host:port`, as it can be dialled.
fn check_address(address: &str) -> Result<(), Error> {
    let host_and_port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let good = host_and_port.is_some_and(|(host, port)| {
        matches!(port.parse::<u16>(), Ok(1..))
            && host.len() <= MAX_WORDS
            && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._:[]".contains(c))
    });
    if good {
        return Ok(());
    }
    Err(Error::invalid(format!("'{}' is not an address that can be dialled: give host:port", address.escape_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["h1:9445", "10.0.0.1:1", "[::1]:9445", "h1.example.org:65535"] {
            assert!(check_address(good).is_ok(), "{good}");
        }
        for bad in ["", "h1", ":9445", "h1:0", "h1:65536", "h1:x", "h 1:9445", "h1/x:9445", "h1\n:9445", "u@h1:1"] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }
}
