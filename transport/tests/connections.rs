//! Whole connections on 127.0.0.1: tonic's server and channel over our TLS.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use jiff::Timestamp;
use prexor_certs::{
    Authority, Credential, Identity, Role,
    authority::DAEMON_LIFETIME,
    tls::{self, Expected},
};
use prexor_transport::{
    dial::{self, DialError, DialErrorKind, Timeouts},
    serve::{self, Limits, PeerInfo},
};
use rustls::ServerConfig;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::{bytes::Bytes, sync::CancellationToken};
use tonic::{
    body::Body,
    server::NamedService,
    transport::{Channel, Error},
};
use tower::{Service, ServiceExt as _};

/// Answers every call with the caller's identity in a header. `Stay` keeps it open, `Read` says what became of the request.
#[derive(Clone)]
struct WhoAmI;

impl NamedService for WhoAmI {
    const NAME: &'static str = "test.WhoAmI";
}

impl Service<http::Request<Body>> for WhoAmI {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let peer: &PeerInfo = request.extensions().get().unwrap();
        let who = peer.identity().map_or_else(|| "nobody".to_owned(), ToString::to_string);
        let answer = http::Response::builder().header("who", who);
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/test.WhoAmI/Stay" => {
                    let never = futures::stream::pending::<Result<Frame<Bytes>, Infallible>>();
                    answer.body(Body::new(StreamBody::new(never))).unwrap()
                }
                "/test.WhoAmI/Read" => {
                    let read = match request.into_body().collect().await {
                        Ok(whole) => format!("{} bytes", whole.to_bytes().len()),
                        Err(status) => status.message().to_owned(),
                    };
                    answer.header("read", read).body(Body::empty()).unwrap()
                }
                _ => answer.body(Body::empty()).unwrap(),
            })
        })
    }
}

async fn who_am_i(channel: &Channel) -> Result<String, Error> {
    let request = http::Request::post("/test.WhoAmI/Ask").body(Body::empty()).unwrap();
    let response = channel.clone().ready().await?.call(request).await?;
    Ok(response.headers()["who"].to_str().unwrap().to_owned())
}

struct Served {
    address: SocketAddr,
    config: watch::Sender<Arc<ServerConfig>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Served {
    async fn start(config: Arc<ServerConfig>, limits: Limits) -> Self {
        Self::start_on("127.0.0.1:0", config, limits).await
    }

    async fn start_on(address: &str, config: Arc<ServerConfig>, limits: Limits) -> Self {
        let listener = serve::listener(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (config, receiver) = watch::channel(config);
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let task = tokio::spawn(async move {
            let incoming = serve::incoming(listener, receiver, limits);
            serve::server(limits).add_service(WhoAmI).serve_with_incoming_shutdown(incoming, stopped).await.unwrap();
        });
        Self { address, config, stop, task }
    }

    fn address(&self) -> String {
        self.address.to_string()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn authority() -> Authority {
    let dir = TempDir::new().unwrap();
    Authority::create(&dir.path().join("ca"), "main", Timestamp::now()).unwrap()
}

fn credential(ca: &Authority, role: Role, name: &str) -> Credential {
    ca.issue_credential(&Identity::new("main", role, name).unwrap(), DAEMON_LIFETIME, Timestamp::now()).unwrap()
}

fn agent_config(ca: &Authority) -> Arc<ServerConfig> {
    tls::server_config(&credential(ca, Role::Agent, "h1")).unwrap()
}

async fn dial(address: &str, ca: &Authority, node: &str) -> Result<Channel, DialError> {
    let expected = Expected::Node { cluster: "main".into(), name: node.into() };
    let config = tls::client_config(&credential(ca, Role::Coordinator, "c1"), expected).unwrap();
    let timeouts = Timeouts { connect: Duration::from_secs(2), ..Timeouts::default() };
    dial::channel(address, config, timeouts).await
}

#[tokio::test]
async fn a_call_arrives_with_the_callers_identity() {
    let ca = authority();
    let served = Served::start(agent_config(&ca), Limits::default()).await;
    let channel = dial(&served.address(), &ca, "h1").await.unwrap();
    assert_eq!(who_am_i(&channel).await.unwrap(), "prexor://main/coordinator/c1");
    drop(channel);
    served.stop().await;
}

#[tokio::test]
async fn at_enrolment_the_caller_is_nobody() {
    let ca = authority();
    let config = tls::enrolment_server_config(&credential(&ca, Role::Coordinator, "c1")).unwrap();
    let served = Served::start(config, Limits::default()).await;
    let client = tls::pinned_client_config(ca.fingerprint()).unwrap();
    let channel = dial::channel(&served.address(), client, Timeouts::default()).await.unwrap();
    assert_eq!(who_am_i(&channel).await.unwrap(), "nobody");
}

#[tokio::test]
async fn errors_name_the_address_and_the_reason() {
    let (ca, other) = (authority(), authority());
    let served = Served::start(agent_config(&ca), Limits::default()).await;
    let address = served.address();

    let error = dial(&address, &ca, "h2").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{address}: the other end is not trusted: it is prexor://main/agent/h1, but prexor://main/agent/h2 was expected"
        )
    );
    let error = dial(&address, &other, "h1").await.unwrap_err();
    let DialErrorKind::Untrusted(reason) = &error.kind else { panic!("{error}") };
    assert!(reason.contains(&ca.fingerprint().to_string()) && reason.contains(&other.fingerprint().to_string()));

    // Refused by the server: it must be this end's first error too, not a call that breaks later.
    let nobody = tls::pinned_client_config(ca.fingerprint()).unwrap();
    let home =
        Served::start(tls::server_config(&credential(&ca, Role::Coordinator, "c1")).unwrap(), Limits::default()).await;
    let error = dial::channel(&home.address(), nobody, Timeouts::default()).await.unwrap_err();
    assert_eq!(error.kind, DialErrorKind::Rejected("it wants a certificate and was shown none".into()));

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    assert_eq!(dial(&free, &ca, "h1").await.unwrap_err().kind, DialErrorKind::Refused);
    assert!(matches!(dial("h1.invalid:7443", &ca, "h1").await.unwrap_err().kind, DialErrorKind::Resolve(_)));
    for bad in ["", "no port", "h1", "h1:", "h1:x", "h1:99999", "http://h1:1", "h1:1/path"] {
        let error = dial(bad, &ca, "h1").await.unwrap_err();
        assert_eq!(error.kind, DialErrorKind::Address, "{bad}");
    }
}

#[tokio::test]
async fn what_does_not_speak_tls_is_named_and_what_is_silent_times_out() {
    let ca = authority();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut talkative, _) = listener.accept().await.unwrap();
        talkative.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let mut open = vec![talkative];
        loop {
            open.push(listener.accept().await.unwrap().0);
        }
    });
    let error = dial(&address, &ca, "h1").await.unwrap_err();
    assert_eq!(error.kind, DialErrorKind::Protocol("what answers there does not speak TLS".into()));
    let error = dial(&address, &ca, "h1").await.unwrap_err();
    assert_eq!(error.kind, DialErrorKind::TimedOut(Duration::from_secs(2)));
}

#[tokio::test]
async fn clients_that_never_finish_their_handshake_keep_nobody_out() {
    let ca = authority();
    let limits = Limits { handshake_timeout: Duration::from_secs(3600), max_handshakes: 4, ..Limits::default() };
    let served = Served::start(agent_config(&ca), limits).await;
    let mut half_open = Vec::new();
    for _ in 0..50 {
        half_open.push(TcpStream::connect(served.address).await.unwrap());
    }
    let channel = dial(&served.address(), &ca, "h1").await.unwrap();
    who_am_i(&channel).await.unwrap();
    // All but the newest few were cut off.
    let mut cut_off = 0;
    for stream in &mut half_open {
        let read = tokio::time::timeout(Duration::from_millis(20), stream.read_u8()).await;
        cut_off += usize::from(read.is_ok());
    }
    assert!((46..=50).contains(&cut_off), "{cut_off}");
}

#[tokio::test]
async fn a_handshake_has_its_time() {
    let ca = authority();
    let limits = Limits { handshake_timeout: Duration::from_millis(50), ..Limits::default() };
    let served = Served::start(agent_config(&ca), limits).await;
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(5), silent.read_u8()).await.unwrap();
    assert!(read.is_err(), "the server hung up");
}

#[tokio::test]
async fn connections_are_bounded_in_number() {
    let ca = authority();
    let limits = Limits { max_connections: 2, ..Limits::default() };
    let served = Served::start(agent_config(&ca), limits).await;
    let first = dial(&served.address(), &ca, "h1").await.unwrap();
    let _second = dial(&served.address(), &ca, "h1").await.unwrap();
    let error = dial(&served.address(), &ca, "h1").await.unwrap_err();
    assert!(error.to_string().contains("too many are open"), "{error}");
    assert!(who_am_i(&first).await.is_ok(), "those that are open go on");
    drop(first);
    for _ in 0..100 {
        if dial(&served.address(), &ca, "h1").await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("a closed connection does not make room");
}

#[tokio::test]
async fn a_connection_ends_when_nobody_calls_over_it_and_not_while_somebody_does() {
    let ca = authority();
    let limits = Limits { idle_timeout: Duration::from_millis(300), max_connections: 1, ..Limits::default() };
    let served = Served::start(agent_config(&ca), limits).await;
    let channel = dial(&served.address(), &ca, "h1").await.unwrap();
    let request = http::Request::post("/test.WhoAmI/Stay").body(Body::empty()).unwrap();
    let staying = channel.clone().ready().await.unwrap().call(request).await.unwrap();
    tokio::time::sleep(Duration::from_millis(900)).await;
    let error = dial(&served.address(), &ca, "h1").await.unwrap_err();
    assert!(error.to_string().contains("too many are open"), "a call is open, and so is its connection: {error}");
    drop(staying);
    // Its keep-alive is answered all the time; the next call connects anew.
    for _ in 0..250 {
        if let Ok(other) = dial(&served.address(), &ca, "h1").await {
            drop(other);
            return served.stop.cancel();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody calls, and the connection stays");
}

#[tokio::test]
async fn a_channel_whose_connection_was_idle_calls_again() {
    let ca = authority();
    let limits = Limits { idle_timeout: Duration::from_millis(100), ..Limits::default() };
    let served = Served::start(agent_config(&ca), limits).await;
    let channel = dial(&served.address(), &ca, "h1").await.unwrap();
    for _ in 0..3 {
        who_am_i(&channel).await.unwrap();
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
}

#[tokio::test]
async fn a_request_that_stands_still_is_ended_and_a_slow_one_is_not() {
    let ca = authority();
    let limits = Limits { request_timeout: Some(Duration::from_millis(400)), ..Limits::default() };
    let served = Served::start(agent_config(&ca), limits).await;
    let channel = dial(&served.address(), &ca, "h1").await.unwrap();
    let send = async |pieces: u64| {
        let (more, body) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
        let frames = tokio_stream::wrappers::ReceiverStream::new(body);
        let frames = futures::StreamExt::map(frames, |piece| piece.map(|p| Frame::data(p.into())));
        let request = http::Request::post("/test.WhoAmI/Read").body(Body::new(StreamBody::new(frames))).unwrap();
        let sending = tokio::spawn(async move {
            for _ in 0..pieces {
                more.send(Ok(vec![0])).await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if pieces == 1 {
                // One byte of many, and never another one.
                more.closed().await;
            }
        });
        let answer = channel.clone().ready().await.unwrap().call(request).await.unwrap();
        sending.abort();
        answer.headers()["read"].to_str().unwrap().to_owned()
    };
    assert_eq!(send(8).await, "8 bytes", "slower than the limit in all, and never still for that long");
    let said = send(1).await;
    assert!(said.contains("stood still"), "{said}");
}

#[tokio::test]
async fn a_new_certificate_serves_new_connections_and_leaves_open_ones_alone() {
    let (old, new) = (authority(), authority());
    let served = Served::start(agent_config(&old), Limits::default()).await;
    let open = dial(&served.address(), &old, "h1").await.unwrap();
    served.config.send_replace(agent_config(&new));
    assert!(dial(&served.address(), &old, "h1").await.is_err());
    let fresh = dial(&served.address(), &new, "h1").await.unwrap();
    who_am_i(&fresh).await.unwrap();
    who_am_i(&open).await.unwrap();
}

#[tokio::test]
async fn a_channel_reconnects_and_says_why_it_cannot() {
    let ca = authority();
    let served = Served::start(agent_config(&ca), Limits::default()).await;
    let address = served.address();
    let channel = dial(&address, &ca, "h1").await.unwrap();
    who_am_i(&channel).await.unwrap();
    served.stop().await;
    let mut reasons = Vec::new();
    for _ in 0..3 {
        let error = who_am_i(&channel).await.unwrap_err();
        let status = tonic::Status::from_error(Box::new(error));
        reasons.extend(DialError::behind(&status).cloned());
    }
    assert!(reasons.contains(&DialError { address: address.clone(), kind: DialErrorKind::Refused }), "{reasons:?}");

    let served = Served::start_on(&address, agent_config(&ca), Limits::default()).await;
    for _ in 0..50 {
        if who_am_i(&channel).await.is_ok() {
            return served.stop.cancel();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the channel does not come back");
}
