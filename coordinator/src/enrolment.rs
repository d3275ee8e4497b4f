//! Letting new nodes and operators in: tokens, and the certificates that they are spent on.

use std::net::SocketAddr;

use jiff::{SignedDuration, Timestamp};
use prexor_certs::{CertificateDer, EnrolmentToken, Identity, Leaf, Role, authority::default_lifetime};
use prexor_format::id::NodeName;
use prexor_proto::reason::Reason;

use crate::{
    catalog::{NewToken, NodeRecord},
    context::Context,
    error::Error,
};

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
    let token = EnrolmentToken::generate(ctx.authority.fingerprint());
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
    /// Agents: `host:port` that we are to dial.
    pub address: String,
    /// Where the call came from.
    pub from: Option<SocketAddr>,
}

/// A certificate that was issued.
#[derive(Debug)]
pub struct Issued {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// What the leaf says.
    pub leaf: Leaf,
}

/// Spends a token on a certificate, and records the node if it is one.
///
/// # Errors
/// `TOKEN_REFUSED` for every token that is not good, without saying why; `INVALID_REQUEST` for what else is wrong,
/// and then the token is not spent.
pub async fn enrol(ctx: &Context, applicant: Applicant<'_>) -> Result<Issued, Error> {
    let name = applicant.name;
    let refused = |why: &str| {
        tracing::warn!(from = ?applicant.from, name, why, "an enrolment was refused");
        Error::new(
            Reason::TokenRefused,
            "the token is not good: it is unknown, spent, expired or for another name; make a new one with \
             `prexorctl token create`",
        )
    };
    let now = Timestamp::now();
    let token: EnrolmentToken = applicant.token.parse().map_err(|_| refused("malformed"))?;
    let (id, hash) = (token.id(), token.hash().to_string());
    let usable = ctx.catalog.look_at_token(&id, &hash, name, now).await?.map_err(refused)?;

    // Everything that can be wrong with the rest comes before the token is spent: a mistake does not cost it.
    let role: Role = usable
        .role
        .parse()
        .map_err(|_| Error::internal(format!("token {id} is for the unknown role '{}'", usable.role)))?;
    let identity = Identity::new(&ctx.config.cluster, role, name).map_err(|e| Error::invalid(e.to_string()))?;
    if role == Role::Agent {
        check_address(&applicant.address)?;
        // Otherwise whoever holds a general token could take the place of a node that is enrolled.
        if !usable.bound && ctx.catalog.node(identity.node()).await.is_ok() {
            return Err(refused("not bound to the name of a node that is enrolled already"));
        }
    }
    if applicant.hostname.len() > MAX_WORDS || applicant.hostname.chars().any(char::is_control) {
        return Err(Error::invalid("the host's own name is too long or has control characters"));
    }
    let chain = ctx.authority.issue(applicant.csr_der, &identity, default_lifetime(role), now);
    let chain = chain.map_err(|e| Error::invalid(e.to_string()))?;
    let leaf = Leaf::parse(&chain[0]).map_err(|e| Error::internal(e.to_string()))?;

    if ctx.catalog.spend_token(&id, &hash, name, now).await?.is_none() {
        return Err(refused("spent by somebody else a moment ago"));
    }
    if role == Role::Agent {
        let node = NodeRecord {
            name: identity.node().clone(),
            hostname: applicant.hostname,
            address: applicant.address,
            serial: leaf.serial.clone(),
            not_after: leaf.not_after,
            enrolled_at: now,
        };
        ctx.catalog.put_node(&node).await?;
    }
    tracing::info!(from = ?applicant.from, token = id, %identity, serial = leaf.serial, "enrolled");
    Ok(Issued { chain, leaf })
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
