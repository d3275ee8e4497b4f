//! The look at the other end's certificate: rustls checks chain, dates and usage, we check whom it speaks for.

use std::{fmt, sync::Arc};

use prexor_format::digest::Sha256Digest;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, ring, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use crate::{
    identity::{Identity, IdentityError, Role},
    leaf::Leaf,
};

/// Whom a client wants to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// The agent of this node.
    Node {
        /// The backup cluster.
        cluster: String,
        /// The node's name.
        name: String,
    },
    /// Any coordinator of this cluster.
    Coordinator {
        /// The backup cluster.
        cluster: String,
    },
}

impl Expected {
    fn admits(&self, identity: &Identity) -> bool {
        match self {
            Self::Node { cluster, name } => {
                identity.role() == Role::Agent && identity.cluster() == cluster && identity.name() == name
            }
            Self::Coordinator { cluster } => identity.role() == Role::Coordinator && identity.cluster() == cluster,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { cluster, name } => write!(f, "prexor://{cluster}/agent/{name}"),
            Self::Coordinator { cluster } => write!(f, "prexor://{cluster}/coordinator/*"),
        }
    }
}

/// Why the other end's certificate was not accepted, beyond what rustls itself finds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// Signed by a CA that is not ours: one of the two was replaced.
    #[error("its certificate is signed by the CA {presented}, but the CA trusted here is {}", list(trusted))]
    UnknownAuthority {
        /// The SHA-256 of the root that it presented.
        presented: Sha256Digest,
        /// The SHA-256 of each root that is trusted here.
        trusted: Vec<Sha256Digest>,
    },
    /// Signed by the CA that is trusted, but for somebody else.
    #[error("it is {presented}, but {expected} was expected")]
    WrongIdentity {
        /// Whom its certificate speaks for.
        presented: Identity,
        /// Who was expected.
        expected: String,
    },
    /// Its certificate names no identity.
    #[error(transparent)]
    NoIdentity(#[from] IdentityError),
    /// The CA that the token pins is not in the chain.
    #[error("it presents the CA {}, but the token pins {pinned}", list(presented))]
    Pin {
        /// The SHA-256 in the token.
        pinned: Sha256Digest,
        /// The SHA-256 of the last certificate presented.
        presented: Vec<Sha256Digest>,
    },
}

impl From<PeerError> for Error {
    fn from(error: PeerError) -> Self {
        CertificateError::Other(OtherError(Arc::new(error))).into()
    }
}

/// Which certificates are no longer good although their dates say so.
pub trait Revocations: fmt::Debug + Send + Sync {
    /// Whether the certificate with this serial number (lower-case hexadecimal) was revoked.
    fn is_revoked(&self, serial: &str) -> bool;
}

/// Whom a certificate speaks for, unless it was revoked.
fn speaker(leaf: &CertificateDer<'_>, revocations: Option<&Arc<dyn Revocations>>) -> Result<Identity, Error> {
    let leaf = Leaf::parse(leaf).map_err(PeerError::from)?;
    if revocations.is_some_and(|r| r.is_revoked(&leaf.serial)) {
        return Err(CertificateError::Revoked.into());
    }
    Ok(leaf.identity)
}

fn list(digests: &[Sha256Digest]) -> String {
    digests.iter().map(Sha256Digest::to_string).collect::<Vec<_>>().join(" or ")
}

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken here".into()))
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    ring::default_provider().signature_verification_algorithms
}

/// rustls says "unknown issuer"; people need to know which CA stands where. Two CAs of one cluster could also differ in
/// the key only, which webpki calls a bad signature.
fn name_authorities(error: Error, chain: &[CertificateDer<'_>], trusted: &[Sha256Digest]) -> Error {
    use CertificateError::{BadSignature, UnknownIssuer};
    let presented = chain.last().map(|root| Sha256Digest::of(root));
    match (&error, presented) {
        (Error::InvalidCertificate(UnknownIssuer | BadSignature), Some(presented)) if !trusted.contains(&presented) => {
            PeerError::UnknownAuthority { presented, trusted: trusted.to_vec() }.into()
        }
        _ => error,
    }
}

fn fingerprints(roots: &[CertificateDer<'_>]) -> Vec<Sha256Digest> {
    roots.iter().map(|root| Sha256Digest::of(root)).collect()
}

/// Accepts the server that is expected.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    roots: RootCertStore,
    trusted: Vec<Sha256Digest>,
    expected: Expected,
    revocations: Option<Arc<dyn Revocations>>,
}

impl ServerVerifier {
    pub(super) fn new(
        roots: RootCertStore,
        certificates: &[CertificateDer<'_>],
        expected: Expected,
        revocations: Option<Arc<dyn Revocations>>,
    ) -> Self {
        Self { roots, trusted: fingerprints(certificates), expected, revocations }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, chain, now, algorithms().all)
            .map_err(|e| name_authorities(e, chain, &self.trusted))?;
        let presented = speaker(leaf, self.revocations.as_ref())?;
        if !self.expected.admits(&presented) {
            return Err(PeerError::WrongIdentity { presented, expected: self.expected.to_string() }.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Accepts a coordinator whose root has the pinned fingerprint.
#[derive(Debug)]
pub(super) struct PinnedVerifier {
    pinned: Sha256Digest,
}

impl PinnedVerifier {
    pub(super) fn new(pinned: Sha256Digest) -> Self {
        Self { pinned }
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(root) = chain.iter().find(|c| Sha256Digest::of(c) == self.pinned) else {
            let presented = fingerprints(&[chain.last().unwrap_or(leaf).clone()]);
            return Err(PeerError::Pin { pinned: self.pinned, presented }.into());
        };
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, chain, now, algorithms().all)?;
        let presented = Identity::of_certificate(leaf).map_err(PeerError::from)?;
        if presented.role() != Role::Coordinator {
            return Err(PeerError::WrongIdentity { presented, expected: "a coordinator".into() }.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Accepts clients that speak for an identity of the cluster.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    trusted: Vec<Sha256Digest>,
    cluster: String,
    revocations: Option<Arc<dyn Revocations>>,
}

impl ClientVerifier {
    pub(super) fn new(
        roots: RootCertStore,
        certificates: &[CertificateDer<'_>],
        cluster: &str,
        revocations: Option<Arc<dyn Revocations>>,
    ) -> Result<Self, Error> {
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()))
            .build()
            .map_err(|e| Error::General(e.to_string()))?;
        Ok(Self { inner, trusted: fingerprints(certificates), cluster: cluster.to_owned(), revocations })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Hints would only tell strangers our cluster's name: every client has one certificate to offer.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.inner.verify_client_cert(leaf, chain, now).map_err(|e| name_authorities(e, chain, &self.trusted))?;
        let presented = speaker(leaf, self.revocations.as_ref())?;
        if presented.cluster() != self.cluster {
            let expected = format!("an identity of cluster '{}'", self.cluster);
            return Err(PeerError::WrongIdentity { presented, expected }.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
