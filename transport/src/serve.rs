//! Listening: TCP, then TLS in bounded time and number, then a stream of connections for tonic.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use prexor_certs::{
    Identity, Leaf,
    tls::{ALPN_H2, Problem},
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream, ToSocketAddrs},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use tonic::transport::{Server, server::Connected};
use tower::layer::util::{Identity as Unchanged, Stack};

use crate::{
    CONNECTION_WINDOW, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MAX_FRAME, STREAM_WINDOW,
    idle::{Calls, Idle, Patience},
    revoked::{Guarded, Revoked},
};

/// How much strangers can ask of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How many connections may be open; more are closed right after their handshake.
    pub max_connections: usize,
    /// How many handshakes may be under way. One more ends the oldest, so that clients who never finish theirs cannot
    /// keep others out.
    pub max_handshakes: usize,
    /// How long a connection may be open without a call; pings are none.
    pub idle_timeout: Duration,
    /// How long the next piece of a request may take while it is waited for; `None`: as long as it likes.
    pub request_timeout: Option<Duration>,
}

/// For agents: only a coordinator gets that far.
impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            max_connections: 1024,
            max_handshakes: 256,
            idle_timeout: Duration::from_secs(600),
            request_timeout: None,
        }
    }
}

impl Limits {
    /// For people, who have a certificate.
    pub fn for_operators() -> Self {
        let minute = Duration::from_secs(60);
        Self { idle_timeout: minute, request_timeout: Some(minute), ..Self::default() }
    }

    /// For everybody.
    pub fn for_strangers() -> Self {
        let moment = Duration::from_secs(20);
        Self { idle_timeout: moment, request_timeout: Some(moment), ..Self::default() }
    }
}

/// Who is at the other end of a connection; tonic puts it among the extensions of every request.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Where from.
    pub address: SocketAddr,
    /// What the verified certificate says; `None` on listeners that ask for none (enrolment).
    pub certificate: Option<Leaf>,
    pub(crate) calls: Calls,
}

impl PeerInfo {
    /// Whom the verified certificate speaks for.
    pub fn identity(&self) -> Option<&Identity> {
        self.certificate.as_ref().map(|leaf| &leaf.identity)
    }
}

/// Who sent a request; `None` only if the server was not fed by [`incoming`].
pub fn peer<T>(request: &tonic::Request<T>) -> Option<&PeerInfo> {
    request.extensions().get()
}

/// Listens on an address (`host:port`; port 0 picks a free one).
///
/// # Errors
/// If the address cannot be bound; the message names it.
pub async fn listener(address: impl ToSocketAddrs + std::fmt::Display + Copy) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")))
}

/// A tonic server with our windows and keep-alive; and, for connections from [`incoming`], with these limits.
pub fn server(limits: Limits) -> Server<Stack<Patience, Unchanged>> {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(Patience { request: limits.request_timeout })
}

/// Connections that finished their handshake, for `serve_with_incoming_shutdown`. Failed ones are logged and left out.
///
/// Every handshake uses the configuration that is the newest when it starts. Dropping the stream closes the listener;
/// open connections stay.
pub fn incoming(
    listener: TcpListener,
    config: watch::Receiver<Arc<ServerConfig>>,
    limits: Limits,
) -> impl Stream<Item = io::Result<TlsStream>> + Send + 'static {
    guarded_incoming(listener, config, limits, Revoked::default())
}

/// As [`incoming`]; a connection ends when the certificate of its client is revoked. That new ones are refused is the
/// configuration's part.
pub fn guarded_incoming(
    listener: TcpListener,
    config: watch::Receiver<Arc<ServerConfig>>,
    limits: Limits,
    revoked: Revoked,
) -> impl Stream<Item = io::Result<TlsStream>> + Send + 'static {
    let (ready, connections) = mpsc::channel(16);
    tokio::spawn(accept(listener, config, limits, revoked, ready));
    tokio_stream::wrappers::ReceiverStream::new(connections)
}

async fn accept(
    listener: TcpListener,
    config: watch::Receiver<Arc<ServerConfig>>,
    limits: Limits,
    revoked: Revoked,
    ready: mpsc::Sender<io::Result<TlsStream>>,
) {
    let slots = Arc::new(Semaphore::new(limits.max_connections.min(Semaphore::MAX_PERMITS)));
    let mut handshakes = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    let warned = Arc::new(Warnings::default());
    loop {
        let accepted = tokio::select! {
            () = ready.closed() => return,
            Some(_) = handshakes.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: trying again at once would only burn the processor.
                tracing::warn!(%error, "cannot accept connections, trying again in a moment");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        while handshakes.len() >= limits.max_handshakes.max(1) {
            oldest_first.retain(|handshake| !handshake.is_finished());
            if let Some(oldest) = oldest_first.pop_front() {
                oldest.abort();
            }
            let _ = handshakes.join_next().await;
        }
        let acceptor = TlsAcceptor::from(config.borrow().clone());
        let (slots, ready, revoked, warned) = (slots.clone(), ready.clone(), revoked.clone(), warned.clone());
        oldest_first.push_back(handshakes.spawn(async move {
            let shaken = handshake(acceptor, tcp, address, slots, &revoked, limits.idle_timeout);
            match tokio::time::timeout(limits.handshake_timeout, shaken).await {
                Ok(Ok(connection)) => {
                    // A closed channel means that the server is shutting down: the connection is dropped with it.
                    let _ = ready.send(Ok(connection)).await;
                }
                Ok(Err(refusal)) => warned.tell(address, &refusal),
                Err(_) => tracing::debug!(peer = %address, "a TLS handshake took too long"),
            }
        }));
        if oldest_first.len() > 2 * limits.max_handshakes {
            oldest_first.retain(|handshake| !handshake.is_finished());
        }
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    address: SocketAddr,
    slots: Arc<Semaphore>,
    revoked: &Revoked,
    idle_timeout: Duration,
) -> Result<TlsStream, Problem> {
    let other = |e: &dyn std::fmt::Display| Problem::Protocol(e.to_string());
    tcp.set_nodelay(true).map_err(|e| other(&e))?;
    let mut tls = acceptor.accept(tcp).await.map_err(|e| Problem::of_io(&e))?;
    let (_, session) = tls.get_ref();
    if session.alpn_protocol() != Some(ALPN_H2) {
        return Err(Problem::Protocol("it did not ask for HTTP/2".into()));
    }
    let certificate = match session.peer_certificates().and_then(<[_]>::first) {
        Some(leaf) => Some(Leaf::parse(leaf).map_err(|e| Problem::Untrusted(e.to_string()))?),
        None => None,
    };
    let Ok(slot) = slots.try_acquire_owned() else {
        let _ = tls.shutdown().await;
        return Err(Problem::Protocol("too many connections are open".into()));
    };
    let serial = certificate.as_ref().map(|leaf| leaf.serial.as_str());
    let inner = Guarded::new(tls, serial, revoked);
    let calls = Calls::default();
    let idle = Idle::new(calls.clone(), idle_timeout);
    Ok(TlsStream { inner, idle, info: PeerInfo { address, certificate, calls }, _slot: slot })
}

/// How often people are told of strangers: they can knock faster than anybody reads.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// When it was last told of a refused connection, and of how many it was not told since.
#[derive(Default)]
struct Warnings(std::sync::Mutex<(Option<std::time::Instant>, u64)>);

impl Warnings {
    fn tell(&self, peer: SocketAddr, refusal: &Problem) {
        // Whoever shows a certificate, or looks at ours, means us: these are for people. The rest is scanners' noise.
        if matches!(refusal, Problem::Protocol(_)) {
            tracing::debug!(%peer, "a connection was refused: {refusal}");
            return;
        }
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.0.is_some_and(|last| last.elapsed() < WARN_EVERY) {
            state.1 += 1;
            return;
        }
        let more = std::mem::take(&mut state.1);
        state.0 = Some(std::time::Instant::now());
        let by = if matches!(refusal, Problem::Rejected(_)) { "refused by the other end" } else { "refused" };
        let more = if more > 0 { format!(" ({more} more since the last message)") } else { String::new() };
        tracing::warn!(%peer, "a connection was {by}: {refusal}{more}");
    }
}

/// One accepted connection. While it lives it counts against [`Limits::max_connections`].
#[derive(Debug)]
pub struct TlsStream {
    inner: Guarded<tokio_rustls::server::TlsStream<TcpStream>>,
    idle: Idle,
    info: PeerInfo,
    _slot: OwnedSemaphorePermit,
}

impl Connected for TlsStream {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.idle.poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nobody called over it")));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
