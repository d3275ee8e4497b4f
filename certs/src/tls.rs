//! TLS as every connection of this system uses it: 1.3 only, both ends authenticated, HTTP/2 only.
//!
//! Configurations are plain rustls ones with `ring` named explicitly: another dependency's idea of a process-wide
//! default never matters. Sessions are not resumed, since a resumed one would skip the look at the certificate.

mod peer;
mod problem;

use std::sync::Arc;

use prexor_format::digest::Sha256Digest;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName},
    server::NoServerSessionStorage,
    version::TLS13,
};

use self::peer::{ClientVerifier, PinnedVerifier, ServerVerifier};
pub use self::{
    peer::{Expected, PeerError, Revocations},
    problem::Problem,
};
use crate::credential::Credential;

/// The only protocol that is spoken inside TLS (RFC 7301 name of HTTP/2).
pub const ALPN_H2: &[u8] = b"h2";

/// A credential that rustls does not take.
#[derive(Debug, thiserror::Error)]
#[error("the credential cannot be used for TLS: {0}")]
pub struct TlsError(#[from] rustls::Error);

/// For listeners of the API: clients must present a certificate that is signed by one of the credential's roots, valid
/// now, meant for clients, and speaks for an identity of the same cluster. Which one is for the callers to look at.
///
/// # Errors
/// If the credential's key or roots are unusable.
pub fn server_config(credential: &Credential) -> Result<Arc<ServerConfig>, TlsError> {
    serving(credential, None)
}

/// As [`server_config`], and refuses certificates that were revoked: looked up at each handshake.
///
/// # Errors
/// If the credential's key or roots are unusable.
pub fn checking_server_config(
    credential: &Credential,
    revocations: Arc<dyn Revocations>,
) -> Result<Arc<ServerConfig>, TlsError> {
    serving(credential, Some(revocations))
}

fn serving(credential: &Credential, revocations: Option<Arc<dyn Revocations>>) -> Result<Arc<ServerConfig>, TlsError> {
    let cluster = credential.identity().cluster();
    let verifier = ClientVerifier::new(roots(credential.roots())?, credential.roots(), cluster, revocations)?;
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    finish_server(builder.with_client_cert_verifier(Arc::new(verifier)), credential)
}

/// For the enrolment listener: clients have no certificate yet. The chain that is sent includes the root, which clients
/// compare with the pin of their token.
///
/// # Errors
/// If the credential's key is unusable.
pub fn enrolment_server_config(credential: &Credential) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    finish_server(builder.with_no_client_auth(), credential)
}

fn finish_server(
    builder: rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>,
    credential: &Credential,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = builder.with_single_cert(credential.chain().to_vec(), credential.private_key())?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// For dialling: the server must present a certificate that is signed by one of the credential's roots, valid now, meant
/// for servers, and speaks for the expected identity. Host names play no part.
///
/// # Errors
/// If the credential's key or roots are unusable.
pub fn client_config(credential: &Credential, expected: Expected) -> Result<Arc<ClientConfig>, TlsError> {
    dialling(credential, expected, None)
}

/// As [`client_config`], and refuses certificates that were revoked: looked up at each handshake.
///
/// # Errors
/// If the credential's key or roots are unusable.
pub fn checking_client_config(
    credential: &Credential,
    expected: Expected,
    revocations: Arc<dyn Revocations>,
) -> Result<Arc<ClientConfig>, TlsError> {
    dialling(credential, expected, Some(revocations))
}

fn dialling(
    credential: &Credential,
    expected: Expected,
    revocations: Option<Arc<dyn Revocations>>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = ServerVerifier::new(roots(credential.roots())?, credential.roots(), expected, revocations);
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(credential.chain().to_vec(), credential.private_key())?;
    Ok(finish_client(config))
}

/// For the first contact, with nothing in hand but a token: the chain that the server presents must hold the root whose
/// DER has this SHA-256, and its leaf must be signed by that root and speak for a coordinator.
///
/// # Errors
/// Never in practice: `ring` supports TLS 1.3.
pub fn pinned_client_config(pin: Sha256Digest) -> Result<Arc<ClientConfig>, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedVerifier::new(pin)))
        .with_no_client_auth();
    Ok(finish_client(config))
}

fn finish_client(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

/// The name to hand to rustls, which insists on one. It is not sent and not compared: identities are.
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("prexor.invalid").expect("a constant that is a DNS name")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, rustls::Error> {
    let mut store = RootCertStore::empty();
    certificates.iter().try_for_each(|root| store.add(root.clone()))?;
    Ok(store)
}
