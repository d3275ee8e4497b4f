//! A credential: certificate, private key, and the roots it trusts; and how the three stay together on disk.
//!
//! Layout of a credential directory (mode 0700): `current` is a symbolic link to `set-<random>/`, which holds `cert.pem`
//! (leaf first), `key.pem` (PKCS#8, mode 0600) and `roots.pem`. A replacement writes a new set and renames the link, so
//! whoever is killed at any point leaves the old set or the new one, whole.

use std::{
    fmt, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use prexor_format::digest::Sha256Digest;
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{
    files::{self, FileError},
    identity::{Identity, IdentityError},
    leaf::Leaf,
    pem,
};

const CURRENT: &str = "current";
const SET_PREFIX: &str = "set-";
const CERT_FILE: &str = "cert.pem";
const KEY_FILE: &str = "key.pem";
const ROOTS_FILE: &str = "roots.pem";

/// A private key (ECDSA P-256) that was made on this host and does not leave it.
pub struct KeyPair(rcgen::KeyPair);

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(redacted)")
    }
}

/// Why there is no credential, or why it is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// Nothing was ever stored there.
    #[error("{} holds no credential: this host is not enrolled yet, see `prexorctl setup`", .0.display())]
    Missing(PathBuf),
    /// A file is unreadable, unwritable or open to others.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file does not hold what it should.
    #[error("{} is malformed: {expected} in PEM was expected; rejoin with `prexorctl setup --rejoin`", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
    /// The certificate is not one of ours.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The parts do not belong together.
    #[error("certificate and private key do not belong together")]
    KeyMismatch,
    /// There is nothing to trust.
    #[error("a credential needs at least one root certificate")]
    NoRoots,
    /// The answer to an enrolment does not hold the root that the token pins.
    #[error("the answer does not hold the CA certificate {pin} that the token pins: get a new token")]
    NotPinned {
        /// The SHA-256 in the token.
        pin: Sha256Digest,
    },
    /// Making or reading a key failed.
    #[error("cannot use the private key: {0}")]
    Key(#[from] rcgen::Error),
}

/// Makes a private key and a certificate request (PKCS#10 in DER) signed by it.
///
/// The request carries the public key and nothing else: names are the CA's to give.
///
/// # Errors
/// If the system has no randomness to give.
pub fn generate_request() -> Result<(KeyPair, Vec<u8>), CredentialError> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key)?.der().to_vec();
    Ok((KeyPair(key), csr))
}

/// Certificate, private key and trusted roots of one party. The parts are known to belong together.
pub struct Credential {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
    roots: Vec<CertificateDer<'static>>,
    leaf: Leaf,
}

impl Credential {
    /// Puts the parts together: a chain with the leaf first, its key, and the roots to trust.
    ///
    /// # Errors
    /// If the leaf speaks for no identity, the key is another's, or there is no root. Dates and signatures are TLS's.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: KeyPair,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, CredentialError> {
        let leaf = Leaf::parse(chain.first().map(AsRef::as_ref).unwrap_or_default())?;
        if leaf.public_key != key.0.der_bytes() {
            return Err(CredentialError::KeyMismatch);
        }
        if roots.is_empty() {
            return Err(CredentialError::NoRoots);
        }
        Ok(Self { chain, key, roots, leaf })
    }

    /// Puts together what an enrolment answered. The root that the token pins must be among `roots`.
    ///
    /// # Errors
    /// Like [`Self::new`], and if the pinned root is missing.
    pub fn enrolled(
        chain: Vec<CertificateDer<'static>>,
        key: KeyPair,
        roots: Vec<CertificateDer<'static>>,
        pin: Sha256Digest,
    ) -> Result<Self, CredentialError> {
        if !roots.iter().any(|root| Sha256Digest::of(root) == pin) {
            return Err(CredentialError::NotPinned { pin });
        }
        Self::new(chain, key, roots)
    }

    /// The same, trusting other roots.
    ///
    /// # Errors
    /// If there is no root.
    pub fn with_roots(&self, roots: Vec<CertificateDer<'static>>) -> Result<Self, CredentialError> {
        let key = KeyPair(rcgen::KeyPair::try_from(self.key.0.serialized_der())?);
        Self::new(self.chain.clone(), key, roots)
    }

    /// Which credential is the current one of a directory: something else after every replacement. `None`: there is
    /// none.
    pub fn version(dir: &Path) -> Option<PathBuf> {
        current(dir).ok()
    }

    /// Loads the current credential of a directory.
    ///
    /// # Errors
    /// If there is none, if others can read its key, or if the parts do not belong together.
    pub fn load(dir: &Path) -> Result<Self, CredentialError> {
        files::check_private(dir, 0o700).map_err(|e| match e {
            FileError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                CredentialError::Missing(dir.to_owned())
            }
            e => e.into(),
        })?;
        let mut set = current(dir)?;
        loop {
            let loaded = Self::load_set(&dir.join(&set));
            // Replaced and removed while it was read: then the link names a newer set, which is whole.
            let newest = current(dir)?;
            match loaded {
                Err(CredentialError::File(FileError::Io { source, .. }))
                    if source.kind() == io::ErrorKind::NotFound && newest != set =>
                {
                    set = newest;
                }
                loaded => return loaded,
            }
        }
    }

    fn load_set(set: &Path) -> Result<Self, CredentialError> {
        let malformed = |file: &str, expected| CredentialError::Malformed { path: set.join(file), expected };
        let key = pem::key(&files::read_private(&set.join(KEY_FILE))?)
            .ok_or_else(|| malformed(KEY_FILE, "a PKCS#8 private key"))?;
        let certificates = |file: &str| {
            pem::certificates(&files::read(&set.join(file))?).ok_or_else(|| malformed(file, "certificates"))
        };
        Self::new(certificates(CERT_FILE)?, KeyPair(rcgen::KeyPair::try_from(&*key)?), certificates(ROOTS_FILE)?)
    }

    /// Makes this the current credential of a directory, durably and in one step; creates the directory.
    ///
    /// # Errors
    /// If it cannot be written: then the former credential is still the current one. Only if the very last wait for the
    /// disk fails is the new one current already, and may be lost with the power.
    pub fn store(&self, dir: &Path) -> Result<(), CredentialError> {
        if !dir.exists() {
            let parent = files::parent(dir);
            fs::create_dir_all(parent).map_err(files::io_error("create", parent))?;
            files::create_private_dir(dir)?;
            files::sync_dir(parent)?;
        }
        files::check_private(dir, 0o700)?;
        // One at a time: what another process is about to make current would be rubbish to us.
        let alone = fs::File::open(dir).and_then(|dir| dir.lock().map(|()| dir));
        let _alone = alone.map_err(files::io_error("lock", dir))?;
        let name = format!("{SET_PREFIX}{}", hex::encode(rand::random::<[u8; 8]>()));
        let set = dir.join(&name);
        let stored = self.write_set(&set).and_then(|()| {
            files::sync_dir(dir)?;
            let link = dir.join(format!(".{name}"));
            symlink(&name, &link).map_err(files::io_error("write", &link))?;
            fs::rename(&link, dir.join(CURRENT)).map_err(files::io_error("replace", &dir.join(CURRENT)))?;
            files::sync_dir(dir)
        });
        // Whatever is not current is rubbish: former sets, or what this or a killed replacement left.
        if let Ok(current) = current(dir) {
            remove_others(dir, &current);
        }
        Ok(stored?)
    }

    fn write_set(&self, set: &Path) -> Result<(), FileError> {
        files::create_private_dir(set)?;
        files::write_new(&set.join(KEY_FILE), 0o600, pem::of_key(self.key.0.serialized_der()).as_bytes())?;
        files::write_new(&set.join(CERT_FILE), 0o644, pem::of_certificates(&self.chain).as_bytes())?;
        files::write_new(&set.join(ROOTS_FILE), 0o644, pem::of_certificates(&self.roots).as_bytes())?;
        files::sync_dir(set)
    }

    /// The certificate chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The roots that peers must be signed by.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Whom it speaks for.
    pub fn identity(&self) -> &Identity {
        &self.leaf.identity
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> Timestamp {
        self.leaf.not_after
    }

    /// What its leaf certificate says.
    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.0.serialize_der()).into()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("identity", &self.leaf.identity.to_string())
            .field("serial", &self.leaf.serial)
            .field("not_after", &self.leaf.not_after)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// The name of the current set.
fn current(dir: &Path) -> Result<PathBuf, CredentialError> {
    let link = dir.join(CURRENT);
    fs::read_link(&link).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => CredentialError::Missing(dir.to_owned()),
        _ => files::io_error("read", &link)(source).into(),
    })
}

/// Removes former sets, as far as it can: what stays is removed by the next replacement.
fn remove_others(dir: &Path, current: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(SET_PREFIX) && Path::new(name.as_ref()) != current {
            let _ = fs::remove_dir_all(entry.path());
        } else if name.starts_with(&format!(".{SET_PREFIX}")) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
