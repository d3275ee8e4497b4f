//! The first contact, of hosts and of operators: pinned by the token, and over once there is a certificate.

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    path::Path,
    time::Duration,
};

use prexor_certs::{CertificateDer, Credential, EnrolmentToken, credential, identity::Role, tls};
use prexor_format::id::NodeName;
use prexor_proto::enroll::{EnrolRequest, enrolment_service_client::EnrolmentServiceClient};
use prexor_transport::dial::{self, DialErrorKind, Timeouts};

use crate::{client, failure::Failure, hints::Hint, printer::Printer, prompt};

/// How long the coordinator may take to sign.
const TIMEOUT: Duration = Duration::from_secs(60);

/// No token is longer.
const LONGEST_TOKEN: u64 = 4096;

/// Who wants a certificate.
pub(crate) struct Applicant<'a> {
    /// `host:port` of the enrolment listener.
    pub(crate) coordinator: &'a str,
    pub(crate) token: &'a EnrolmentToken,
    /// As what.
    pub(crate) role: Role,
    pub(crate) name: &'a NodeName,
    pub(crate) hostname: String,
    /// Agents: `host:port` that the coordinator dials; empty when rejoining: as it is known.
    pub(crate) address: String,
    /// A node that is known comes back.
    pub(crate) rejoin: bool,
}

/// What came of it.
pub(crate) struct Enrolled {
    /// Over a key that was made here.
    pub(crate) credential: Credential,
    /// `host:port` of the client API.
    pub(crate) api_address: String,
}

/// Spends the token for a certificate over a key that is made here.
///
/// # Errors
/// When the coordinator cannot be reached, is another one, or refuses.
pub(crate) async fn enrol(applicant: Applicant<'_>) -> Result<Enrolled, Failure> {
    let pin = applicant.token.pin();
    let (key, csr_der) = credential::generate_request().map_err(|e| Failure::local(e.to_string()))?;
    let config = tls::pinned_client_config(pin).map_err(|e| Failure::local(e.to_string()))?;
    let dialled = dial::channel(applicant.coordinator, config, Timeouts::default()).await;
    let channel = dialled.map_err(|e| match e.kind {
        DialErrorKind::Untrusted(_) => Failure::from(e).hint(Hint::CreateToken),
        _ => Failure::from(e),
    })?;
    let request = EnrolRequest {
        token: applicant.token.to_string(),
        csr_der,
        name: applicant.name.to_string(),
        hostname: applicant.hostname,
        address: applicant.address,
        role: applicant.role.as_str().to_owned(),
        rejoin: applicant.rejoin,
    };
    let mut service = EnrolmentServiceClient::new(channel);
    let answer = tokio::time::timeout(TIMEOUT, service.enrol(request))
        .await
        .map_err(|_| Failure::unreachable(format!("no answer from the coordinator within {} s", TIMEOUT.as_secs())))?
        .map_err(|status| client::failure(&status))?
        .into_inner();
    let certificates = |ders: Vec<Vec<u8>>| ders.into_iter().map(CertificateDer::from).collect();
    let credential = Credential::enrolled(certificates(answer.chain_der), key, certificates(answer.roots_der), pin)
        .map_err(|e| Failure::contract(format!("the coordinator's answer cannot be used: {e}")))?;
    let identity = credential.identity();
    if identity.role() != applicant.role || identity.name() != applicant.name.as_str() {
        let message = format!("this token enrols {identity}, not {} as {}", applicant.name, applicant.role);
        return Err(Failure::local(message).hint(Hint::CreateToken));
    }
    Ok(Enrolled { credential, api_address: answer.api_address })
}

/// The enrolment address: as given, or as a person says.
pub(crate) async fn coordinator(printer: &Printer, given: Option<&str>) -> Result<String, Failure> {
    let coordinator = match given {
        Some(coordinator) => coordinator.to_owned(),
        None if prompt::can_ask(printer) => {
            prompt::ask(printer, "Enrolment address of the coordinator (host:port)", None).await?
        }
        None => return Err(Failure::usage("--coordinator HOST:PORT is missing").hint(Hint::CreateToken)),
    };
    check_address("--coordinator", &coordinator)?;
    Ok(coordinator)
}

/// The token: from a file, from a person, or from standard input; never from the command line, which everybody sees.
pub(crate) async fn token(printer: &Printer, file: Option<&Path>) -> Result<EnrolmentToken, Failure> {
    let word = match file {
        Some(path) if path == Path::new("-") => read_token("standard input", io::stdin().lock())?,
        Some(path) => {
            let name = path.display().to_string();
            let file =
                File::open(path).map_err(|e| Failure::local(format!("cannot read the token from {name}: {e}")))?;
            read_token(&name, file)?
        }
        None if prompt::can_ask(printer) => prompt::ask_secret(printer, "Token (it is not shown)").await?,
        None if io::stdin().is_terminal() => {
            return Err(Failure::usage("the token is missing: use --token-file FILE, or - for standard input"));
        }
        None => read_token("standard input", io::stdin().lock())?,
    };
    word.parse().map_err(|e| Failure::usage(format!("{e}")).hint(Hint::CreateToken))
}

/// The host's own name.
pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Refuses what is not `host:port`.
pub(crate) fn check_address(flag: &str, address: &str) -> Result<(), Failure> {
    let good = address.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
        !host.is_empty() && bare && !host.contains(['/', ' ', '@']) && port.parse::<u16>().is_ok_and(|p| p > 0)
    });
    if good { Ok(()) } else { Err(Failure::usage(format!("{flag} {address}: this is not an address, use host:port"))) }
}

fn read_token(name: &str, from: impl Read) -> Result<String, Failure> {
    let mut word = String::new();
    from.take(LONGEST_TOKEN)
        .read_to_string(&mut word)
        .map_err(|e| Failure::local(format!("cannot read the token from {name}: {e}")))?;
    Ok(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_host_and_port() {
        for good in ["127.0.0.1:9444", "ctl-1.example:9444", "[::1]:9444"] {
            assert!(check_address("--coordinator", good).is_ok(), "{good}");
        }
        for bad in ["", "h", ":9444", "h:", "h:0", "h:99999", "::1:9444", "https://h:9444", "a b:1", "u@h:1"] {
            assert!(check_address("--coordinator", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens_are_read_whole_and_bounded() {
        assert_eq!(read_token("x", &b"prexor1.abc\n"[..]).unwrap(), "prexor1.abc\n");
        assert_eq!(read_token("x", io::repeat(b'a')).unwrap().len() as u64, LONGEST_TOKEN);
        assert!(read_token("x", &[0xff][..]).is_err());
    }
}
