//! A private key that lies on the disk under a passphrase: PKCS#8 as `openssl pkcs8 -topk8 -v2 aes-256-cbc` writes it
//! (RFC 5958; PBES2 of RFC 8018 with PBKDF2-HMAC-SHA256 and AES-256-CBC), so that stock tools read and change it.

use std::path::Path;

use pkcs8::{
    EncryptedPrivateKeyInfoRef, SecretDocument,
    der::{Encode as _, asn1::OctetStringRef},
    pkcs5::pbes2,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::files::{self, FileError};

/// How often the hash is taken: what OWASP recommends for PBKDF2-HMAC-SHA256. A third of a second, once at each start.
const ROUNDS: u32 = 600_000;

/// No file with a passphrase is longer, in bytes.
const LONGEST: usize = 1024;
/// Fewer characters are guessed, whatever the number of rounds.
const SHORTEST: usize = 12;

const LABEL: &str = "ENCRYPTED PRIVATE KEY";

/// What a private key is encrypted with.
#[derive(Debug, Clone)]
pub struct Passphrase(SecretString);

/// A passphrase that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassphraseError {
    /// The file is unreadable or open to others.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is nothing in it that could be one.
    #[error("{path} holds no passphrase: it must be one line of {SHORTEST} to {LONGEST} characters")]
    Malformed {
        /// The file.
        path: String,
    },
}

impl Passphrase {
    /// Reads it from a file that only its owner may read: the first line is all there is.
    ///
    /// # Errors
    /// If others can read the file, or there is no usable passphrase in it.
    pub fn read(path: &Path) -> Result<Self, PassphraseError> {
        let malformed = || PassphraseError::Malformed { path: path.display().to_string() };
        let bytes = files::read_private(path)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| malformed())?;
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.contains(['\n', '\r', '\0']) || !(SHORTEST..=LONGEST).contains(&line.len()) {
            return Err(malformed());
        }
        Ok(Self(line.into()))
    }

    fn bytes(&self) -> &[u8] {
        self.0.expose_secret().as_bytes()
    }
}

/// Whether this is a PEM file with an encrypted key.
pub(crate) fn is_encrypted(pem: &[u8]) -> bool {
    pem.starts_with(format!("-----BEGIN {LABEL}-----").as_bytes())
}

/// The file of a private key in PKCS#8, encrypted.
pub(crate) fn encrypt(pkcs8: &[u8], passphrase: &Passphrase) -> Option<Zeroizing<String>> {
    let (salt, iv): ([u8; 16], [u8; 16]) = (rand::random(), rand::random());
    let scheme = pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(ROUNDS, &salt, iv).ok()?;
    let encrypted = scheme.encrypt(passphrase.bytes(), pkcs8).ok()?;
    let encrypted_data = OctetStringRef::new(&encrypted).ok()?;
    let info = EncryptedPrivateKeyInfoRef { encryption_algorithm: scheme.into(), encrypted_data };
    Some(crate::pem::encode(LABEL, &info.to_der().ok()?))
}

/// The private key in such a file; `None` if it is malformed or the passphrase is another one, which cannot be told apart.
pub(crate) fn decrypt(pem: &[u8], passphrase: &Passphrase) -> Option<Zeroizing<PrivatePkcs8KeyDer<'static>>> {
    let (label, document) = SecretDocument::from_pem(std::str::from_utf8(pem).ok()?).ok()?;
    let info = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes()).ok().filter(|_| label == LABEL)?;
    let key = info.decrypt(passphrase.bytes()).ok()?;
    Some(Zeroizing::new(key.as_bytes().to_vec().into()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_passphrase_is_one_private_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("passphrase");
        let read = |content: &[u8], mode| {
            fs::write(&file, content).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            Passphrase::read(&file)
        };
        for good in [&b"correct horse battery\n"[..], b"correct horse battery", b"correct horse battery\r\n"] {
            assert_eq!(read(good, 0o600).unwrap().bytes(), b"correct horse battery");
        }
        assert!(read(b"correct horse battery", 0o400).is_ok(), "as systemd gives credentials");
        for bad in [&b""[..], b"short\n", b"two lines of it\nand more\n", &[b'a'; 1025], b"not \xff utf-8 at all"] {
            let error = read(bad, 0o600).unwrap_err();
            assert!(matches!(error, PassphraseError::Malformed { .. }), "{error}");
        }
        assert!(matches!(read(b"correct horse battery", 0o640), Err(PassphraseError::File(FileError::Mode { .. }))));
        let shown = format!("{:?}", read(b"correct horse battery", 0o600).unwrap());
        assert!(!shown.contains("horse"), "{shown}");
    }
}
