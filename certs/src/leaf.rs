//! What we read from a leaf certificate: whose it is, how long it lasts, which key it carries.

use jiff::Timestamp;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{Identity, IdentityError};

/// The parts of a leaf certificate that we use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Whom it speaks for.
    pub identity: Identity,
    /// The serial number in lower-case hexadecimal, the key under which the catalog knows and revokes it.
    pub serial: String,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// The subject public key as in the SubjectPublicKeyInfo's bit string.
    pub(crate) public_key: Vec<u8>,
}

impl Leaf {
    /// Reads a certificate (DER). Its signature is not looked at: that is TLS's part.
    ///
    /// # Errors
    /// If it is no certificate or speaks for no identity.
    pub fn parse(der: &[u8]) -> Result<Self, IdentityError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| IdentityError::NotACertificate)?;
        if !rest.is_empty() {
            return Err(IdentityError::NotACertificate);
        }
        let time = |t: x509_parser::time::ASN1Time| {
            Timestamp::from_second(t.timestamp()).map_err(|_| IdentityError::NotACertificate)
        };
        let validity = certificate.validity();
        Ok(Self {
            identity: Identity::of_parsed(&certificate)?,
            serial: hex::encode(certificate.raw_serial()),
            not_before: time(validity.not_before)?,
            not_after: time(validity.not_after)?,
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
        })
    }
}
