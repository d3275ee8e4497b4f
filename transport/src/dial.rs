//! Dialling: TCP, TLS, and a tonic channel that reconnects the same way.

use std::{error::Error as StdError, io, sync::Arc, time::Duration};

use http::uri::Authority;
use hyper_util::rt::TokioIo;
use prexor_certs::{
    Leaf,
    tls::{ALPN_H2, Problem, server_name},
};
use rustls::ClientConfig;
use tokio::{io::AsyncBufReadExt as _, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

use crate::{
    CONNECTION_WINDOW, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MAX_FRAME, STREAM_WINDOW,
    revoked::{Guarded, Revoked},
};

/// How long things may take before a connection counts as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the look-up of the name until the other end accepted us.
    pub connect: Duration,
    /// How often a silent connection is asked whether it lives.
    pub keepalive_interval: Duration,
    /// How long it has to answer.
    pub keepalive_timeout: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            keepalive_interval: KEEPALIVE_INTERVAL,
            keepalive_timeout: KEEPALIVE_TIMEOUT,
        }
    }
}

/// Why there is no connection, and to where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address}: {kind}")]
pub struct DialError {
    /// The address that was dialled.
    pub address: String,
    /// What happened.
    pub kind: DialErrorKind,
}

/// What kept a connection from being made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialErrorKind {
    /// Not a `host:port`.
    #[error("this is not an address: use host:port")]
    Address,
    /// The name is unknown.
    #[error("the name cannot be resolved: {0}")]
    Resolve(String),
    /// Nobody listens there.
    #[error("connection refused: is the daemon running there, and is the port right?")]
    Refused,
    /// No answer in time.
    #[error("no answer within {0:?}: is a firewall in between?")]
    TimedOut(Duration),
    /// The network failed.
    #[error("cannot connect: {0}")]
    Network(String),
    /// The other end's certificate is not accepted here.
    #[error("the other end is not trusted: {0}")]
    Untrusted(String),
    /// The other end does not accept our certificate.
    #[error("the other end refuses us: {0}")]
    Rejected(String),
    /// Something else answers there, or another version.
    #[error("no TLS connection: {0}")]
    Protocol(String),
}

impl DialError {
    /// The dial error behind another one (a tonic status or transport error), if there is one.
    pub fn behind<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }
}

/// Connects to `host:port` and returns a channel that reconnects by itself.
///
/// It only returns once the other end has accepted our certificate too. (In TLS 1.3 a client is done before the server
/// has looked at its certificate; that end would otherwise appear as a broken first call without a reason.)
///
/// # Errors
/// What kept the first connection from being made. Errors of later ones: [`DialError::behind`] the call's status.
pub async fn channel(address: &str, config: Arc<ClientConfig>, timeouts: Timeouts) -> Result<Channel, DialError> {
    guarded_channel(address, config, timeouts, Revoked::default()).await
}

/// As [`channel`]; a connection ends when the certificate of its server is revoked. That new ones are refused is the
/// configuration's part.
///
/// # Errors
/// As [`channel`].
pub async fn guarded_channel(
    address: &str,
    config: Arc<ClientConfig>,
    timeouts: Timeouts,
    revoked: Revoked,
) -> Result<Channel, DialError> {
    let endpoint = endpoint(address)
        .ok_or_else(|| DialError { address: address.to_owned(), kind: DialErrorKind::Address })?
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .http2_keep_alive_interval(timeouts.keepalive_interval)
        .keep_alive_timeout(timeouts.keepalive_timeout)
        .keep_alive_while_idle(true);
    let target: Arc<str> = address.into();
    let connector = tower::service_fn(move |_| {
        let (target, config, revoked) = (target.clone(), config.clone(), revoked.clone());
        async move {
            let failed = |kind| DialError { address: target.to_string(), kind };
            match tokio::time::timeout(timeouts.connect, connect(&target, config)).await {
                Ok(Ok(stream)) => {
                    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                    let serial = leaf.and_then(|leaf| Leaf::parse(leaf).ok()).map(|leaf| leaf.serial);
                    Ok(TokioIo::new(Guarded::new(stream, serial.as_deref(), &revoked)))
                }
                Ok(Err(kind)) => Err(failed(kind)),
                Err(_) => Err(failed(DialErrorKind::TimedOut(timeouts.connect))),
            }
        }
    });
    endpoint.connect_with_connector(connector).await.map_err(|error| {
        DialError::behind(&error).cloned().unwrap_or_else(|| DialError {
            address: address.to_owned(),
            kind: DialErrorKind::Network(error.source().map_or_else(|| error.to_string(), ToString::to_string)),
        })
    })
}

/// The scheme only names the header that HTTP/2 wants; what is below it is always TLS.
fn endpoint(address: &str) -> Option<Endpoint> {
    let authority: Authority = address.parse().ok()?;
    let complete = authority.port_u16().is_some() && !authority.host().is_empty() && !address.contains('@');
    complete.then(|| Endpoint::from_shared(format!("http://{address}")).ok())?
}

async fn connect(address: &str, config: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, DialErrorKind> {
    let mut last = DialErrorKind::Resolve("it has no address".into());
    for candidate in tokio::net::lookup_host(address).await.map_err(|e| DialErrorKind::Resolve(e.to_string()))? {
        match TcpStream::connect(candidate).await {
            Ok(tcp) => return handshake(tcp, config).await,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => last = DialErrorKind::Refused,
            Err(error) => last = DialErrorKind::Network(error.to_string()),
        }
    }
    Err(last)
}

async fn handshake(tcp: TcpStream, config: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, DialErrorKind> {
    tcp.set_nodelay(true).map_err(|e| DialErrorKind::Network(e.to_string()))?;
    let mut tls = TlsConnector::from(config).connect(server_name(), tcp).await.map_err(|e| problem(&e))?;
    if tls.get_ref().1.alpn_protocol() != Some(ALPN_H2) {
        return Err(DialErrorKind::Protocol("it does not speak HTTP/2".into()));
    }
    // The server's settings (RFC 9113, 3.4) come unasked as soon as it accepted our certificate; an alert if it did not.
    match tls.fill_buf().await {
        Ok([]) => {
            Err(DialErrorKind::Network("it closed the connection: too many are open there, or it is stopping".into()))
        }
        Ok(_) => Ok(tls),
        Err(error) => Err(problem(&error)),
    }
}

fn problem(error: &io::Error) -> DialErrorKind {
    match Problem::of_io(error) {
        Problem::Untrusted(reason) => DialErrorKind::Untrusted(reason),
        Problem::Rejected(reason) => DialErrorKind::Rejected(reason),
        Problem::Protocol(reason) => DialErrorKind::Protocol(reason),
    }
}
