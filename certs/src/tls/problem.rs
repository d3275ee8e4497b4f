//! What to tell people when a handshake fails: rustls's errors and alerts in words that name the next step.

use std::fmt;

use jiff::Timestamp;
use rustls::{AlertDescription, CertificateError, Error, OtherError, pki_types::UnixTime};

/// What a failed handshake means for the people at this end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The other end's certificate was not accepted here.
    Untrusted(String),
    /// The other end did not accept our certificate, or missed one.
    Rejected(String),
    /// Anything else: another protocol, a version too old, a broken connection.
    Protocol(String),
}

impl Problem {
    /// Reads the error of a connection: TLS's own, if it holds one.
    pub fn of_io(error: &std::io::Error) -> Self {
        match error.get_ref().and_then(|e| e.downcast_ref()) {
            Some(tls) => Self::of(tls),
            None => Self::Protocol(error.to_string()),
        }
    }

    fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(reason) => Self::Untrusted(untrusted(reason)),
            Error::NoCertificatesPresented => Self::Untrusted("it presented no certificate".into()),
            Error::AlertReceived(alert) => match rejected(*alert) {
                Some(reason) => Self::Rejected(reason.into()),
                None => Self::Protocol(format!("it ended the handshake with the alert {alert:?}")),
            },
            Error::InvalidMessage(_) => Self::Protocol("what answers there does not speak TLS".into()),
            Error::PeerIncompatible(_) => Self::Protocol(format!("it does not speak TLS 1.3 as we do: {error}")),
            _ => Self::Protocol(error.to_string()),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrusted(reason) | Self::Rejected(reason) | Self::Protocol(reason) => f.write_str(reason),
        }
    }
}

fn untrusted(reason: &CertificateError) -> String {
    let time = |t: &UnixTime| {
        i64::try_from(t.as_secs()).ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or(Timestamp::MAX)
    };
    match reason {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate expired at {}: renew or rejoin it", time(not_after))
        }
        CertificateError::NotValidYetContext { not_before, time: now } => {
            format!(
                "its certificate is valid from {}, but it is {} here: check both clocks",
                time(not_before),
                time(now)
            )
        }
        CertificateError::UnknownIssuer => "its certificate is not signed by the backup CA trusted here".into(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not meant for this end of a connection".into()
        }
        CertificateError::Revoked => "its certificate was revoked: rejoin it".into(),
        CertificateError::Other(OtherError(error)) => error.to_string(),
        other => format!("its certificate is not accepted: {other}"),
    }
}

/// What an alert about certificates (RFC 8446, 6.2) says about ours.
fn rejected(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::CertificateRequired => "it wants a certificate and was shown none",
        AlertDescription::CertificateExpired => {
            "our certificate is not valid at its time: expired, or the clocks differ; renew or rejoin"
        }
        AlertDescription::CertificateRevoked => "our certificate was revoked: rejoin",
        AlertDescription::UnknownCA => "our certificate is signed by a CA that it does not know: rejoin",
        AlertDescription::CertificateUnknown => {
            "it does not accept our certificate: its log says why; after a change of the CA, rejoin"
        }
        AlertDescription::AccessDenied => "our certificate is good, but not for this",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::DecryptError => "it does not accept our certificate: its log says why",
        _ => return None,
    })
}
