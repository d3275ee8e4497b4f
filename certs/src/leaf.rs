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
    /// When its owner renews it: with two thirds of its life gone, and up to a tenth of its life later, by its serial
    /// number, so that certificates that were issued together are not renewed together.
    pub fn renew_at(&self) -> Timestamp {
        let life = self.not_after.duration_since(self.not_before);
        let spread = self.serial.get(2..4).and_then(|b| i32::from_str_radix(b, 16).ok()).unwrap_or_default();
        self.not_before + life * 2 / 3 + life / 10 * spread / 255
    }

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

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn certificates_are_renewed_in_the_last_third_and_not_all_at_once() {
        let life = SignedDuration::from_hours(30 * 24);
        let leaf = |serial: &str| Leaf {
            identity: "prexor://c/agent/h1".parse().unwrap(),
            serial: serial.to_owned(),
            not_before: Timestamp::UNIX_EPOCH,
            not_after: Timestamp::UNIX_EPOCH + life,
            public_key: Vec::new(),
        };
        let at = |serial| leaf(serial).renew_at().duration_since(Timestamp::UNIX_EPOCH);
        assert_eq!(at("4000"), life * 2 / 3);
        assert_eq!(at("40ff"), life * 2 / 3 + life / 10);
        assert!(at("4000") < at("4080") && at("4080") < at("40ff"));
    }
}
