//! Fingerprints of PrexorCloud's own CA (law L10): daemons whose certificates it signed must rejoin when it changes.

use std::{fs, path::Path};

use prexor_format::{digest::Sha256Digest, manifest::CaFingerprint};
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject as _};

/// Where the guide's layout and later versions keep certificates, relative to the root.
const DIRECTORIES: [&str; 2] = ["data/certs", "config/security"];

/// No certificate file is larger.
const MAX_SIZE: u64 = 1 << 20;

/// One fingerprint for each certificate in files called `ca*.pem` or `ca*.crt`, and one of the whole file for
/// `ca*.p12`. What cannot be read has none.
pub(super) fn fingerprints(root: &Path) -> Vec<CaFingerprint> {
    let mut out = Vec::new();
    for directory in DIRECTORIES {
        let Ok(files) = fs::read_dir(root.join(directory)) else { continue };
        let mut names: Vec<String> = files.flatten().filter_map(|f| f.file_name().into_string().ok()).collect();
        names.sort();
        for name in names.iter().filter(|n| n.starts_with("ca")) {
            let path = format!("{directory}/{name}");
            let full = root.join(&path);
            let pem = name.ends_with(".pem") || name.ends_with(".crt");
            let small = fs::symlink_metadata(&full).is_ok_and(|m| m.is_file() && m.len() <= MAX_SIZE);
            if !small || !(pem || name.ends_with(".p12")) {
                continue;
            }
            let Ok(bytes) = fs::read(&full) else { continue };
            let fingerprint = |der: &[u8]| CaFingerprint { path: path.clone(), sha256: Sha256Digest::of(der) };
            if pem {
                out.extend(CertificateDer::pem_slice_iter(&bytes).flatten().map(|der| fingerprint(&der)));
            } else {
                out.push(fingerprint(&bytes));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_certificate_of_a_ca_file_has_a_fingerprint() {
        let root = tempfile::tempdir().unwrap();
        for directory in DIRECTORIES {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        // "abc" and "abd" in base64; a PEM block says nothing about what is in it.
        let block = |kind: &str, base64: &str| format!("-----BEGIN {kind}-----\n{base64}\n-----END {kind}-----\n");
        let bundle = block("CERTIFICATE", "YWJj") + &block("PRIVATE KEY", "YWJj") + &block("CERTIFICATE", "YWJk");
        fs::write(root.path().join("data/certs/ca-bundle.crt"), bundle).unwrap();
        fs::write(root.path().join("data/certs/server.crt"), block("CERTIFICATE", "YWJj")).unwrap();
        fs::write(root.path().join("config/security/ca.p12"), "pkcs12").unwrap();
        fs::write(root.path().join("config/security/ca.pem"), "no PEM").unwrap();
        let found = fingerprints(root.path());
        let of = |path: &str, bytes: &[u8]| CaFingerprint { path: path.to_owned(), sha256: Sha256Digest::of(bytes) };
        assert_eq!(
            found,
            [
                of("data/certs/ca-bundle.crt", b"abc"),
                of("data/certs/ca-bundle.crt", b"abd"),
                of("config/security/ca.p12", b"pkcs12")
            ]
        );
    }
}
