//! What setup needs to know: from flags, from a person, or from this host.

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    path::Path,
};

use prexor_certs::EnrolmentToken;
use prexor_format::id::NodeName;

use super::Enrolment;
use crate::{cli::SetupArgs, failure::Failure, hints::Hint, printer::Printer, prompt};

/// No token is longer.
const LONGEST_TOKEN: u64 = 4096;

/// Gathers it all; asks a person where there is one.
pub(super) async fn gather(printer: &Printer, args: &SetupArgs) -> Result<Enrolment, Failure> {
    let person = prompt::can_ask(printer);
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let coordinator = match &args.coordinator {
        Some(coordinator) => coordinator.clone(),
        None if person => prompt::ask(printer, "Enrolment address of the coordinator (host:port)", None).await?,
        None => return Err(Failure::usage("--coordinator HOST:PORT is missing").hint(Hint::CreateToken)),
    };
    check_address("--coordinator", &coordinator)?;
    let node = match (&args.node, hostname.parse::<NodeName>()) {
        (Some(node), _) => node.clone(),
        (None, proposed) if person => {
            let proposed = proposed.ok().map(|n| n.to_string());
            let answer = prompt::ask(printer, "Name of this host in the backup system", proposed.as_deref()).await?;
            answer.parse().map_err(|e| Failure::usage(format!("{e}")))?
        }
        (None, Ok(node)) => node,
        (None, Err(_)) => {
            return Err(Failure::usage(format!("the host name '{hostname}' cannot name a node: use --node NAME")));
        }
    };
    let proposed = proposed_address(args, &hostname);
    let advertise = match &args.advertise {
        Some(advertise) => advertise.clone(),
        None if person => prompt::ask(printer, "Where the coordinator reaches this host", Some(&proposed)).await?,
        None => proposed,
    };
    check_address("--advertise", &advertise)?;
    let word = match &args.token_file {
        Some(path) if path == Path::new("-") => read_token("standard input", io::stdin().lock())?,
        Some(path) => {
            let name = path.display().to_string();
            let file =
                File::open(path).map_err(|e| Failure::local(format!("cannot read the token from {name}: {e}")))?;
            read_token(&name, file)?
        }
        None if person => prompt::ask_secret(printer, "Token (it is not shown)").await?,
        None if io::stdin().is_terminal() => {
            return Err(Failure::usage("the token is missing: use --token-file FILE, or - for standard input"));
        }
        None => read_token("standard input", io::stdin().lock())?,
    };
    let token: EnrolmentToken = word.parse().map_err(|e| Failure::usage(format!("{e}")).hint(Hint::CreateToken))?;
    Ok(Enrolment { coordinator, token, node, hostname, advertise })
}

/// A listener on one address is reached there; one on all addresses by the host's name.
fn proposed_address(args: &SetupArgs, hostname: &str) -> String {
    if args.listen.ip().is_unspecified() {
        format!("{hostname}:{}", args.listen.port())
    } else {
        args.listen.to_string()
    }
}

fn check_address(flag: &str, address: &str) -> Result<(), Failure> {
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
