//! PEM (RFC 7468) as we write and read it: certificates and one private key.

use base64::Engine as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use zeroize::Zeroizing;

/// Certificates one after the other.
pub(crate) fn of_certificates(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|der| encode("CERTIFICATE", der).to_string()).collect()
}

/// A private key in PKCS#8.
pub(crate) fn of_key(pkcs8: &[u8]) -> Zeroizing<String> {
    encode("PRIVATE KEY", pkcs8)
}

/// All certificates in `pem`; `None` if it is malformed or holds none.
pub(crate) fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!all.is_empty()).then_some(all)
}

/// The private key in `pem`; `None` if there is none in PKCS#8.
pub(crate) fn key(pem: &[u8]) -> Option<Zeroizing<PrivatePkcs8KeyDer<'static>>> {
    PrivatePkcs8KeyDer::from_pem_slice(pem).ok().map(Zeroizing::new)
}

/// One block of PEM. It may be a secret: nothing of it stays in memory that was given back.
pub(crate) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(der));
    // Large enough from the beginning: what grows leaves copies behind.
    let mut pem = Zeroizing::new(String::with_capacity(2 * body.len() + 4 * label.len() + 64));
    pem.push_str(&format!("-----BEGIN {label}-----\n"));
    for start in (0..body.len()).step_by(64) {
        pem.push_str(&body[start..body.len().min(start + 64)]);
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}
