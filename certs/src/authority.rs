//! The backup CA: one ECDSA P-256 root that signs leaf certificates.
//!
//! It takes a public key from a request and everything else from the caller. Who may ask for which identity, and
//! what was issued or revoked, is the coordinator's to know.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use prexor_format::digest::Sha256Digest;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509CertificationRequest};
use zeroize::Zeroizing;

use crate::{
    credential::{Credential, CredentialError, KeyPair, generate_request},
    files::{self, FileError},
    identity::{Identity, IdentityError, Role},
    passphrase::{self, Passphrase},
    pem,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a root is valid.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * DAY.as_secs());
/// How long certificates of agents and coordinators are valid, unless configured otherwise.
pub const DAEMON_LIFETIME: Duration = Duration::from_secs(30 * DAY.as_secs());
/// How long certificates of operators are valid, unless configured otherwise.
pub const OPERATOR_LIFETIME: Duration = Duration::from_secs(90 * DAY.as_secs());

/// How far certificates are dated back, so that hosts whose clocks are behind accept them at once; at most a tenth of
/// their life, which begins with it for those who renew in time.
const BACKDATE: Duration = Duration::from_secs(60);

const KEY_FILE: &str = "ca-key.pem";
const ROOT_FILE: &str = "ca.pem";

/// How long a certificate of this role is valid, unless configured otherwise.
pub fn default_lifetime(role: Role) -> Duration {
    match role {
        Role::Agent | Role::Coordinator => DAEMON_LIFETIME,
        Role::Operator => OPERATOR_LIFETIME,
    }
}

/// The backup CA of one cluster.
pub struct Authority {
    issuer: Issuer<'static, rcgen::KeyPair>,
    root: CertificateDer<'static>,
    root_not_after: Timestamp,
    cluster: String,
}

/// Why the CA could not be made, opened or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// There is something already.
    #[error("{} exists already: the backup CA is created once, `prexorctl ca show` shows it", .0.display())]
    Exists(PathBuf),
    /// A file is unreadable, unwritable or open to others.
    #[error(transparent)]
    File(#[from] FileError),
    /// The files are not a CA of ours.
    #[error("{} holds no usable backup CA: {reason}; bring the directory back from a copy", dir.display())]
    Unusable {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// The key is encrypted, and there is no passphrase for it or another one.
    #[error("the key of the backup CA in {} is under a passphrase, and {reason}", dir.display())]
    Passphrase {
        /// The directory.
        dir: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// The cluster or a name is not spelled as it must be.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A certificate for another cluster was asked for.
    #[error("this is the backup CA of cluster '{ours}', it signs nothing for {identity}")]
    OtherCluster {
        /// The CA's cluster.
        ours: String,
        /// What was asked for.
        identity: Identity,
    },
    /// The request is malformed, not signed by its own key, or not for an ECDSA P-256 key.
    #[error("the certificate request is refused: {0}")]
    Request(&'static str),
    /// The root has expired, or the lifetime is zero or beyond what a certificate can say.
    #[error("the certificate would never be valid: the root is valid until {root_not_after}")]
    Lifetime {
        /// Until when the root is valid.
        root_not_after: Timestamp,
    },
    /// A key could not be put under its passphrase.
    #[error("the key of the backup CA cannot be encrypted")]
    Encrypt,
    /// Signing failed.
    #[error("cannot sign: {0}")]
    Sign(#[from] rcgen::Error),
    /// What was signed could not be used as a credential.
    #[error(transparent)]
    Credential(#[from] Box<CredentialError>),
}

impl Authority {
    /// As [`Self::create_with`], the key in the clear.
    ///
    /// # Errors
    /// As [`Self::create_with`].
    pub fn create(dir: &Path, cluster: &str, now: Timestamp) -> Result<Self, AuthorityError> {
        Self::create_with(dir, cluster, now, None)
    }

    /// Makes a new CA and keeps it in `dir` (mode 0700), which must not exist or be empty; its key under the passphrase,
    /// if there is one.
    ///
    /// # Errors
    /// If there is a CA already, or it cannot be written. A failure leaves `dir` as it was.
    pub fn create_with(
        dir: &Path,
        cluster: &str,
        now: Timestamp,
        passphrase: Option<&Passphrase>,
    ) -> Result<Self, AuthorityError> {
        Identity::new(cluster, Role::Coordinator, "ca")?;
        if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(AuthorityError::Exists(dir.to_owned()));
        }
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, cluster);
        params.distinguished_name.push(DnType::CommonName, "PrexorCloud backup CA");
        params.serial_number = Some(serial());
        let valid = validity(now, ROOT_LIFETIME, Timestamp::MAX);
        set_validity(&mut params, valid.ok_or(AuthorityError::Lifetime { root_not_after: Timestamp::MAX })?);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key)?;
        let key = key_file(key.serialized_der(), passphrase)?;

        // Everything appears under its final name in one rename: a killed start leaves no half CA behind.
        let parent = files::parent(dir);
        fs::create_dir_all(parent).map_err(files::io_error("create", parent))?;
        let new = parent.join(format!(".new-ca-{}", hex::encode(rand::random::<[u8; 8]>())));
        files::create_private_dir(&new)?;
        let write = || {
            files::write_new(&new.join(KEY_FILE), 0o600, key.as_bytes())?;
            files::write_new(&new.join(ROOT_FILE), 0o644, root.pem().as_bytes())?;
            files::sync_dir(&new)?;
            fs::rename(&new, dir).map_err(files::io_error("create", dir))?;
            files::sync_dir(parent)
        };
        if let Err(error) = write() {
            let _ = fs::remove_dir_all(&new);
            return Err(error.into());
        }
        Self::open_with(dir, passphrase)
    }

    /// As [`Self::open_with`], of a CA whose key is in the clear.
    ///
    /// # Errors
    /// As [`Self::open_with`].
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        Self::open_with(dir, None)
    }

    /// Opens the CA in `dir`. A key that is in the clear although there is a passphrase is put under it.
    ///
    /// # Errors
    /// If the directory or the key can be read by others, the key is under another passphrase, or the files are not a CA.
    pub fn open_with(dir: &Path, passphrase: Option<&Passphrase>) -> Result<Self, AuthorityError> {
        let unusable = |reason| AuthorityError::Unusable { dir: dir.to_owned(), reason };
        files::check_private(dir, 0o700)?;
        let locked = |reason| AuthorityError::Passphrase { dir: dir.to_owned(), reason };
        let file = files::read_private(&dir.join(KEY_FILE))?;
        let encrypted = passphrase::is_encrypted(&file);
        let der = match (encrypted, passphrase) {
            (false, _) => pem::key(&file).ok_or_else(|| unusable("its key is not a PKCS#8 private key in PEM"))?,
            (true, None) => return Err(locked("none is configured")),
            (true, Some(with)) => {
                passphrase::decrypt(&file, with).ok_or_else(|| locked("the configured one does not open it"))?
            }
        };
        let key = rcgen::KeyPair::try_from(&*der).map_err(|_| unusable("its key is not one of ours"))?;
        let root = pem::certificates(&files::read(&dir.join(ROOT_FILE))?)
            .and_then(|mut all| if all.len() == 1 { all.pop() } else { None })
            .ok_or_else(|| unusable("its certificate is not one certificate in PEM"))?;

        let (_, parsed) = X509Certificate::from_der(&root).map_err(|_| unusable("its certificate is malformed"))?;
        if parsed.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(unusable("its key does not belong to its certificate"));
        }
        let cluster = parsed.subject().iter_organization().next().and_then(|o| o.as_str().ok()).map(str::to_owned);
        let cluster = cluster.ok_or_else(|| unusable("its certificate names no cluster"))?;
        let root_not_after = Timestamp::from_second(parsed.validity().not_after.timestamp())
            .map_err(|_| unusable("its certificate has no usable end"))?;
        if passphrase.is_some() && !encrypted {
            // Now that it is known to be the right one.
            files::replace(&dir.join(KEY_FILE), 0o600, key_file(key.serialized_der(), passphrase)?.as_bytes())?;
        }
        let issuer = Issuer::from_ca_cert_der(&root, key)?;
        Ok(Self { issuer, root: root.clone(), root_not_after, cluster })
    }

    /// The cluster it signs for.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The root certificate.
    pub fn root_der(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// Until when the root certificate is valid.
    pub fn not_after(&self) -> Timestamp {
        self.root_not_after
    }

    /// The SHA-256 of the root certificate in DER: what tokens pin and people compare.
    pub fn fingerprint(&self) -> Sha256Digest {
        Sha256Digest::of(&self.root)
    }

    /// Signs a certificate for the key of a PKCS#10 request; returns it followed by the root.
    ///
    /// Of the request only the public key is used, after its own signature was verified: subject, names and usages
    /// follow from `identity`. The certificate is valid from a minute before `now` (a tenth of a
    /// shorter life) and never longer than the root.
    ///
    /// # Errors
    /// If the request is malformed, not signed by the key it carries or not ECDSA P-256, if the identity belongs to
    /// another cluster, or if the root has expired.
    pub fn issue(
        &self,
        csr_der: &[u8],
        identity: &Identity,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        if identity.cluster() != self.cluster {
            return Err(AuthorityError::OtherCluster { ours: self.cluster.clone(), identity: identity.clone() });
        }
        let public_key = CertificateSigningRequestParams::from_der(&csr_der.into())
            .map_err(|e| match e {
                rcgen::Error::InvalidCertificationRequestSignature => {
                    AuthorityError::Request("it is not signed by the key it carries")
                }
                _ => AuthorityError::Request("it is malformed"),
            })?
            .public_key;
        if X509CertificationRequest::from_der(csr_der).is_ok_and(|(rest, _)| !rest.is_empty()) {
            return Err(AuthorityError::Request("it is malformed"));
        }
        // An uncompressed point of 2 x 32 bytes (SEC 1): the signature algorithm alone does not tell the curve.
        let point = public_key.der_bytes();
        if public_key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 || point.len() != 65 || point[0] != 4 {
            return Err(AuthorityError::Request("its key is not ECDSA P-256"));
        }

        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, identity.cluster());
        params.distinguished_name.push(DnType::OrganizationalUnitName, identity.role().as_str());
        params.distinguished_name.push(DnType::CommonName, identity.name());
        params.subject_alt_names = vec![SanType::URI(identity.to_string().as_str().try_into()?)];
        params.serial_number = Some(serial());
        let valid = validity(now, lifetime, self.root_not_after);
        set_validity(&mut params, valid.ok_or(AuthorityError::Lifetime { root_not_after: self.root_not_after })?);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if identity.role().serves() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&public_key, &self.issuer)?;
        Ok(vec![leaf.der().clone(), self.root.clone()])
    }

    /// Makes a key here and signs a certificate for it: the coordinator's own credential, and the offline way in.
    ///
    /// # Errors
    /// Like [`Self::issue`].
    pub fn issue_credential(
        &self,
        identity: &Identity,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Credential, AuthorityError> {
        let (key, csr): (KeyPair, _) = generate_request().map_err(Box::new)?;
        let chain = self.issue(&csr, identity, lifetime, now)?;
        Ok(Credential::new(chain, key, vec![self.root.clone()]).map_err(Box::new)?)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).field("root", &self.fingerprint()).finish()
    }
}

/// What the key's file holds.
fn key_file(pkcs8: &[u8], passphrase: Option<&Passphrase>) -> Result<Zeroizing<String>, AuthorityError> {
    match passphrase {
        None => Ok(pem::of_key(pkcs8)),
        Some(with) => passphrase::encrypt(pkcs8, with).ok_or(AuthorityError::Encrypt),
    }
}

/// 127 random bits: positive and far below the 20 bytes that RFC 5280 allows.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// The validity of a certificate in seconds since the epoch: from a moment ago until `lifetime` from `now`, at most
/// until `end`. `None` if that is empty.
fn validity(now: Timestamp, lifetime: Duration, end: Timestamp) -> Option<(u64, u64)> {
    let now = u64::try_from(now.as_second()).ok()?;
    let end = u64::try_from(end.as_second()).ok()?.min(now.checked_add(lifetime.as_secs())?);
    (now < end).then_some((now.saturating_sub(BACKDATE.as_secs().min(lifetime.as_secs() / 10)), end))
}

/// Sets the validity. `rcgen` wants a type of the `time` crate; adding to its epoch is all we need of that.
fn set_validity(params: &mut CertificateParams, (not_before, not_after): (u64, u64)) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(not_before);
    params.not_after = epoch + Duration::from_secs(not_after);
}
