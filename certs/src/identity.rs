//! Identities: who a certificate speaks for. It stands in one SAN URI and nowhere else; roles follow from it alone.
//!
//! It does not know what a role may do.

use std::{fmt, str::FromStr};

use prexor_format::id::{InvalidNodeName, NodeName};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The scheme of our URIs.
const SCHEME: &str = "prexor://";

/// What kind of party a certificate speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The daemon of a controller or datastore host.
    Agent,
    /// The daemon that plans, drives and stores backups.
    Coordinator,
    /// A person or a script that uses `prexorctl`.
    Operator,
}

impl Role {
    /// The spelling in URIs, on command lines and in the catalog.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Coordinator => "coordinator",
            Self::Operator => "operator",
        }
    }

    /// Whether parties of this role accept connections. Everybody dials; operators only dial.
    pub fn serves(self) -> bool {
        matches!(self, Self::Agent | Self::Coordinator)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = IdentityError;

    fn from_str(s: &str) -> Result<Self, IdentityError> {
        [Self::Agent, Self::Coordinator, Self::Operator]
            .into_iter()
            .find(|role| role.as_str() == s)
            .ok_or_else(|| IdentityError::Role(s.to_owned()))
    }
}

/// A party: `prexor://<cluster>/agent/<node>`, `.../coordinator/<name>` or `.../operator/<name>`.
///
/// Cluster and name are spelled like a [`NodeName`], so there is one spelling per identity and nothing to escape.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    cluster: NodeName,
    role: Role,
    name: NodeName,
}

/// A string or certificate that names no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// No such role.
    #[error("'{0}' is not a role: use agent, coordinator or operator")]
    Role(String),
    /// Not our URI.
    #[error("'{0}' is not an identity: identities look like prexor://<cluster>/agent/<name>")]
    Uri(String),
    /// A cluster name outside the character set.
    #[error(
        "'{0}' is not a cluster name: use 1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit"
    )]
    Cluster(String),
    /// A name outside the character set.
    #[error(transparent)]
    Name(#[from] InvalidNodeName),
    /// Bytes that are no certificate.
    #[error("this is not an X.509 certificate in DER")]
    NotACertificate,
    /// A certificate without exactly one subject alternative name that is a URI.
    #[error("the certificate does not hold exactly one subject alternative name, a prexor:// URI")]
    NotOneUri,
}

impl Identity {
    /// The identity with these parts.
    ///
    /// # Errors
    /// If the cluster or the name is outside the character set of [`NodeName`].
    pub fn new(cluster: &str, role: Role, name: &str) -> Result<Self, IdentityError> {
        let cluster = cluster.parse().map_err(|InvalidNodeName(s)| IdentityError::Cluster(s))?;
        Ok(Self { cluster, role, name: name.parse()? })
    }

    /// The backup cluster.
    pub fn cluster(&self) -> &str {
        self.cluster.as_str()
    }

    /// The role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The name: of the node for agents, of the person or script for operators.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The name in its own type.
    pub fn node(&self) -> &NodeName {
        &self.name
    }

    /// The identity that a certificate (DER) speaks for. Its signature is not looked at: that is TLS's part.
    ///
    /// # Errors
    /// If it holds anything but exactly one subject alternative name, one of our URIs.
    pub fn of_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| IdentityError::NotACertificate)?;
        if !rest.is_empty() {
            return Err(IdentityError::NotACertificate);
        }
        Self::of_parsed(&certificate)
    }

    pub(crate) fn of_parsed(certificate: &X509Certificate<'_>) -> Result<Self, IdentityError> {
        let names = certificate.subject_alternative_name().ok().flatten().ok_or(IdentityError::NotOneUri)?;
        match names.value.general_names.as_slice() {
            [GeneralName::URI(uri)] => uri.parse(),
            _ => Err(IdentityError::NotOneUri),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", self.cluster, self.role, self.name)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(s: &str) -> Result<Self, IdentityError> {
        let invalid = || IdentityError::Uri(s.to_owned());
        let mut parts = s.strip_prefix(SCHEME).ok_or_else(invalid)?.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(cluster), Some(role), Some(name), None) => Self::new(cluster, role.parse()?, name),
            _ => Err(invalid()),
        }
    }
}

impl Serialize for Identity {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Identity {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_have_one_spelling() {
        for good in ["prexor://main/agent/h1", "prexor://c-1.eu/coordinator/ctl_A", "prexor://m/operator/anna"] {
            assert_eq!(good.parse::<Identity>().map(|id| id.to_string()).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "main/agent/h1",
            "Prexor://main/agent/h1",
            "prexor:/main/agent/h1",
            "prexor:///agent/h1",
            "prexor://main/agent/",
            "prexor://main/agent",
            "prexor://main/agent/h1/",
            "prexor://main/agent/h1/x",
            "prexor://main/agent/h1?x",
            "prexor://main/agent/h%31",
            "prexor://main/Agent/h1",
            "prexor://main/root/h1",
            "prexor://main/agent/..",
            "prexor://main:1/agent/h1",
            " prexor://main/agent/h1",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }
}
