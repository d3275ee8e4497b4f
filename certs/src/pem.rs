//! PEM (RFC 7468) as we write and read it: certificates and one private key.

use base64::Engine as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};

/// Certificates one after the other.
pub(crate) fn of_certificates(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|der| encode("CERTIFICATE", der)).collect()
}

/// A private key in PKCS#8.
pub(crate) fn of_key(pkcs8: &[u8]) -> String {
    encode("PRIVATE KEY", pkcs8)
}

/// All certificates in `pem`; `None` if it is malformed or holds none.
pub(crate) fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!all.is_empty()).then_some(all)
}

/// The private key in `pem`; `None` if there is none in PKCS#8.
pub(crate) fn key(pem: &[u8]) -> Option<PrivatePkcs8KeyDer<'static>> {
    PrivatePkcs8KeyDer::from_pem_slice(pem).ok()
}

fn encode(label: &str, der: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for start in (0..body.len()).step_by(64) {
        pem.push_str(&body[start..body.len().min(start + 64)]);
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}
