//! Where the server is and how to log in to it: the URI, TLS, and the words for what a server refuses. No password
//! leaves this file but towards the server.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use percent_encoding::percent_decode_str;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use secrecy::SecretString;
use url::Url;

use super::{SourceError, ValkeyTls};

/// How long a connection may take to come about.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// The port of `redis://` where none is given.
const PORT: u16 = 6379;

/// A server's address with its credentials; only host and port, or the socket's path, are ever shown.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) place: Place,
    pub(super) username: Option<String>,
    pub(super) password: Option<SecretString>,
    pub(super) tls: Option<Arc<ClientConfig>>,
}

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Place {
    /// Whether it is an address of this host. One that cannot be found out counts as another host's.
    pub(super) async fn is_here(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, port } => match tokio::net::lookup_host((host.as_str(), *port)).await {
                Ok(mut found) => found.any(|at| is_of_this_host(at).unwrap_or(false)),
                Err(_) => false,
            },
        }
    }
}

/// By the address that the kernel would send from: to one of its own it is that very one. Nothing is sent.
fn is_of_this_host(at: SocketAddr) -> io::Result<bool> {
    let any: IpAddr = if at.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(at)?;
    Ok(at.ip().is_loopback() || socket.local_addr()?.ip() == at.ip())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Place::Tcp { host, port } => write!(f, "{host}:{port}"),
            Place::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Address {
    pub(super) fn parse(uri: &str, tls: &ValkeyTls) -> Result<Self, SourceError> {
        // The parser's own message may quote the URI, and with it the password.
        let wrong = || {
            SourceError::Invalid(
                "valkey.uri cannot be used: it looks like redis://[user]:[password]@host:6379, rediss:// for TLS, or \
                 unix:///path/to/socket"
                    .to_owned(),
            )
        };
        let url = Url::parse(uri).map_err(|_| wrong())?;
        let decoded = |text: &str| match text {
            "" => Ok(None),
            text => percent_decode_str(text).decode_utf8().map(|t| Some(t.into_owned())).map_err(|_| wrong()),
        };
        let (username, password) = (decoded(url.username())?, decoded(url.password().unwrap_or_default())?);
        let secure = matches!(url.scheme(), "rediss" | "valkeys");
        let place = match url.scheme() {
            "redis" | "rediss" | "valkey" | "valkeys" => {
                let host = url.host_str().and_then(|h| decoded(h.trim_matches(['[', ']'])).ok()?).ok_or_else(wrong)?;
                Place::Tcp { host, port: url.port().unwrap_or(PORT) }
            }
            "unix" | "redis+unix" | "valkey+unix" => {
                let path = PathBuf::from(decoded(url.path())?.ok_or_else(wrong)?);
                if !path.is_absolute() {
                    return Err(wrong());
                }
                Place::Unix(path)
            }
            _ => return Err(wrong()),
        };
        let tls = if secure { Some(client_config(tls)?) } else { None };
        Ok(Self { place, username, password: password.map(Into::into), tls })
    }

    /// What to say when the server is loading its data.
    pub(super) fn loading(&self) -> SourceError {
        SourceError::Unavailable(format!("Valkey at {self} is still loading its data: try again when it is done"))
    }

    /// What to say when there is no connection, or no answer on it.
    pub(super) fn unreachable(&self, doing: &str, said: &str) -> SourceError {
        SourceError::Unavailable(format!(
            "Valkey at {self} cannot be reached ({doing}: {said}): see that it runs, and that valkey.uri and valkey.tls are right"
        ))
    }

    /// What a server's own words mean that are the same for every command; `None` for all others.
    pub(super) fn known(&self, doing: &str, said: &str) -> Option<SourceError> {
        Some(match said.split(' ').next().unwrap_or_default() {
            "NOAUTH" | "WRONGPASS" => SourceError::Denied(format!(
                "Valkey at {self} refuses the credentials ({said}): correct valkey.uri in the agent's configuration, or redis.uri in \
                 controller.yml"
            )),
            "NOPERM" => {
                SourceError::Denied(format!("Valkey at {self} forbids {doing} ({said}): allow it to this account"))
            }
            "LOADING" => self.loading(),
            "BUSY" => SourceError::Unavailable(format!(
                "Valkey at {self} is busy with a script ({said}): try again, or end it with SCRIPT KILL"
            )),
            "MISCONF" => SourceError::Unavailable(format!(
                "Valkey at {self} takes no writes because it cannot save to its disk ({said}): make room there or correct its \
                 rights, and try again"
            )),
            "READONLY" => SourceError::Invalid(format!(
                "Valkey at {self} is a replica and takes no writes ({said}): set valkey.uri to the primary"
            )),
            "MASTERDOWN" | "NOMASTERLINK" => SourceError::Unavailable(format!(
                "Valkey at {self} is a replica that has lost its primary ({said}): set valkey.uri to the primary, or see to the link"
            )),
            "OOM" => SourceError::NoSpace(format!(
                "Valkey at {self} has no memory left ({said}): raise maxmemory, or restore fewer keys"
            )),
            "NOREPLICAS" => SourceError::Unavailable(format!(
                "Valkey at {self} takes no writes without its replicas ({said}): bring them back"
            )),
            "MOVED" | "ASK" | "CLUSTERDOWN" => SourceError::Invalid(format!(
                "Valkey at {self} is a node of a cluster, whose keys are spread over all nodes ({said}): that cannot be restored"
            )),
            _ => return None,
        })
    }

    /// The error for a command that the server refused; [`SourceError::Failed`] is what is particular to the command.
    pub(super) fn refusal(&self, command: &str, said: &str) -> SourceError {
        let other = || SourceError::Failed(format!("Valkey at {self} refuses {command}: {said}"));
        self.known(command, said).unwrap_or_else(other)
    }
}

/// TLS 1.2 or 1.3, with the given CAs and no others, or with the system's.
fn client_config(tls: &ValkeyTls) -> Result<Arc<ClientConfig>, SourceError> {
    let unusable = |name: &str, path: &PathBuf, e: &dyn fmt::Display| {
        SourceError::Invalid(format!("valkey.tls.{name}, {}, cannot be used: {e}", path.display()))
    };
    let certificates = |name: &str, path: &PathBuf| {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(found) if found.is_empty() => Err(unusable(name, path, &"there is no certificate in it")),
            Ok(found) => Ok(found),
            Err(e) => Err(unusable(name, path, &e)),
        }
    };
    let mut roots = RootCertStore::empty();
    match &tls.ca {
        Some(path) => {
            for certificate in certificates("ca", path)? {
                roots.add(certificate).map_err(|e| unusable("ca", path, &e))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| SourceError::Failed(format!("TLS cannot be set up: {e}")))?
        .with_root_certificates(roots);
    let config = match (&tls.certificate, &tls.key) {
        (None, None) => config.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|e| unusable("key", key, &e))?;
            let chain = certificates("certificate", certificate)?;
            config.with_client_auth_cert(chain, private).map_err(|e| unusable("certificate", certificate, &e))?
        }
        _ => {
            return Err(SourceError::Invalid("valkey.tls needs both certificate and key, or neither".to_owned()));
        }
    };
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn parse(uri: &str) -> Result<Address, SourceError> {
        Address::parse(uri, &ValkeyTls::default())
    }

    #[test]
    fn addresses_show_no_password() {
        for uri in ["redis://:hunter2@h:7000", "valkey://user:hunter2@h:7000/3"] {
            assert_eq!(parse(uri).unwrap().to_string(), "h:7000");
        }
        for uri in
            ["", "hunter2", "http://:hunter2@h", "redis://:hunter2@", "redis-cluster://:hunter2@h", "unix:hunter2"]
        {
            let e = parse(uri).err().unwrap_or_else(|| panic!("{uri}")).to_string();
            assert!(!e.contains("hunter2") && e.contains("valkey.uri"), "{e}");
        }
    }

    #[tokio::test]
    async fn a_server_is_here_or_elsewhere() {
        for (uri, here) in [
            ("unix:///run/valkey.sock", true),
            ("redis://127.0.0.1", true),
            ("redis://localhost:7", true),
            // Set aside for documentation: no host has them.
            ("redis://192.0.2.1", false),
            ("redis://[2001:db8::1]", false),
        ] {
            assert_eq!(parse(uri).unwrap().place.is_here().await, here, "{uri}");
        }
    }

    #[test]
    fn all_forms_are_understood() {
        let tcp = |host: &str, port| Place::Tcp { host: host.to_owned(), port };
        for (uri, place, username, password, secure) in [
            ("redis://h", tcp("h", 6379), None, None, false),
            ("redis://u:p%40%2F@h:1/2", tcp("h", 1), Some("u"), Some("p@/"), false),
            ("rediss://:p@[::1]:7", tcp("::1", 7), None, Some("p"), true),
            ("unix:///run/v%20k.sock", Place::Unix("/run/v k.sock".into()), None, None, false),
            ("unix:/run/vk.sock?db=0", Place::Unix("/run/vk.sock".into()), None, None, false),
            ("redis+unix://u:p@localhost/run/vk.sock", Place::Unix("/run/vk.sock".into()), Some("u"), Some("p"), false),
        ] {
            let found = parse(uri).unwrap();
            assert_eq!(found.place, place, "{uri}");
            assert_eq!(
                (found.username.as_deref(), found.password.as_ref().map(|p| p.expose_secret())),
                (username, password),
                "{uri}"
            );
            assert_eq!(found.tls.is_some(), secure, "{uri}");
        }
        assert_eq!(parse("redis://[::1]:7").unwrap().to_string(), "[::1]:7");
    }

    #[test]
    fn half_a_client_certificate_is_refused() {
        let tls = ValkeyTls { key: Some("/nowhere".into()), ..ValkeyTls::default() };
        assert!(Address::parse("rediss://h", &tls).err().unwrap().to_string().contains("both"));
        let tls = ValkeyTls { ca: Some("/nowhere/ca.pem".into()), ..ValkeyTls::default() };
        assert!(Address::parse("rediss://h", &tls).err().unwrap().to_string().contains("/nowhere/ca.pem"));
    }
}
