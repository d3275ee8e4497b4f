//! Enrolment tokens: one word that a person carries from the coordinator to a new host or operator.
//!
//! A token proves to the coordinator that its bearer may enrol, and pins the backup CA so that the bearer's first
//! contact trusts nobody else. How long it lives, for which role and node, and whether it is spent stands in the
//! coordinator's catalog, under its id and the hash of its secret.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prexor_format::digest::Sha256Digest;
use zeroize::Zeroizing;

/// How every token starts; the digit is the version of the layout.
const PREFIX: &str = "prexor1.";
const ID: usize = 8;
const SECRET: usize = 32;
const PIN: usize = 32;
const CHECKSUM: usize = 4;
const PAYLOAD: usize = ID + SECRET + PIN;

/// A token: `prexor1.` and the base64url (RFC 4648, no padding) of id, secret, SHA-256 of the CA's root certificate in
/// DER, and a checksum (the first four bytes of the SHA-256 of what stands before it).
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentToken {
    id: [u8; ID],
    secret: Zeroizing<[u8; SECRET]>,
    pin: Sha256Digest,
}

/// A word that is no token. It is not repeated in the message: it may be one with a slip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidToken {
    /// It does not look like one.
    #[error(
        "this is not an enrolment token: tokens are one word that starts with prexor1., see `prexorctl token create`"
    )]
    NotAToken,
    /// It looks like one, but something was lost or changed on the way.
    #[error("the enrolment token is incomplete or mistyped: copy it again, all of it")]
    Mistyped,
    /// It was made by a newer version.
    #[error("the enrolment token is of a version that this program does not know: upgrade it")]
    Version,
}

impl EnrolmentToken {
    /// A new token with random id and secret that pins this root certificate.
    pub fn generate(pin: Sha256Digest) -> Self {
        Self { id: rand::random(), secret: Zeroizing::new(rand::random()), pin }
    }

    /// Its name in listings, logs and the audit trail: no secret.
    pub fn id(&self) -> String {
        hex::encode(self.id)
    }

    /// The SHA-256 of the CA's root certificate in DER.
    pub fn pin(&self) -> Sha256Digest {
        self.pin
    }

    /// What is stored instead of the secret: its SHA-256. 256 random bits need no slow hash.
    pub fn hash(&self) -> Sha256Digest {
        Sha256Digest::of(&*self.secret)
    }

    fn payload(&self) -> Zeroizing<Vec<u8>> {
        // Room for the checksum too: what grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(PAYLOAD + CHECKSUM));
        for part in [&self.id[..], &*self.secret, &self.pin.0] {
            bytes.extend(part);
        }
        bytes
    }
}

fn checksum(payload: &[u8]) -> [u8; CHECKSUM] {
    let digest = Sha256Digest::of(&Zeroizing::new([PREFIX.as_bytes(), payload].concat())).0;
    [digest[0], digest[1], digest[2], digest[3]]
}

/// The token itself, secret and all: for the person who carries it, nowhere else.
impl fmt::Display for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.payload();
        let sum = checksum(&bytes);
        bytes.extend(sum);
        write!(f, "{PREFIX}{}", *Zeroizing::new(URL_SAFE_NO_PAD.encode(&*bytes)))
    }
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolmentToken").field("id", &self.id()).field("pin", &self.pin).finish_non_exhaustive()
    }
}

impl FromStr for EnrolmentToken {
    type Err = InvalidToken;

    fn from_str(s: &str) -> Result<Self, InvalidToken> {
        let s = s.trim();
        let Some(body) = s.strip_prefix(PREFIX) else {
            let version = s.strip_prefix("prexor").and_then(|rest| rest.split_once('.'));
            let newer = version.is_some_and(|(v, _)| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit()));
            return Err(if newer { InvalidToken::Version } else { InvalidToken::NotAToken });
        };
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(body).map_err(|_| InvalidToken::Mistyped)?);
        let (payload, sum) = bytes.split_at_checked(PAYLOAD).ok_or(InvalidToken::Mistyped)?;
        if sum != checksum(payload) {
            return Err(InvalidToken::Mistyped);
        }
        let (id, rest) = payload.split_at(ID);
        let (secret, pin) = rest.split_at(SECRET);
        let token = || {
            Some(Self {
                id: id.try_into().ok()?,
                secret: Zeroizing::new(secret.try_into().ok()?),
                pin: Sha256Digest(pin.try_into().ok()?),
            })
        };
        token().ok_or(InvalidToken::Mistyped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> EnrolmentToken {
        EnrolmentToken::generate(Sha256Digest::of(b"a root"))
    }

    #[test]
    fn a_token_is_one_word_that_comes_back_whole() {
        let token = token();
        let word = token.to_string();
        assert!(word.starts_with("prexor1.") && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
        assert_eq!(format!(" {word}\n").parse(), Ok(token.clone()));
        assert_eq!(token.pin(), Sha256Digest::of(b"a root"));
        assert_eq!(token.hash(), Sha256Digest::of(&*token.secret));
    }

    #[test]
    fn every_single_slip_is_noticed() {
        let word = token().to_string();
        for at in PREFIX.len()..word.len() {
            for with in ["A", "B", "", "x-"] {
                let slip = format!("{}{with}{}", &word[..at], &word[at + 1..]);
                if slip != word {
                    assert_eq!(slip.parse::<EnrolmentToken>(), Err(InvalidToken::Mistyped), "{slip}");
                }
            }
        }
        assert_eq!("".parse::<EnrolmentToken>(), Err(InvalidToken::NotAToken));
        assert_eq!("hunter2".parse::<EnrolmentToken>(), Err(InvalidToken::NotAToken));
        assert_eq!(word.replace("prexor1.", "prexor2.").parse::<EnrolmentToken>(), Err(InvalidToken::Version));
    }

    #[test]
    fn debug_output_and_errors_hold_no_secret() {
        let token = token();
        let word = token.to_string();
        let shown = format!("{token:?} {:?}", format!("{word}x").parse::<EnrolmentToken>());
        assert!(shown.contains(&token.id()));
        assert!(!shown.contains(&word[20..40]) && !shown.contains(&hex::encode(*token.secret)));
    }
}
