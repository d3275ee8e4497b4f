//! Strangers in numbers, and strangers with the wrong protocol: what they get, and that a backup does not notice them.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use jiff::Timestamp;
use prexor_certs::{Authority, Identity, Role, tls};
use prexor_tests::{
    cluster::{Cluster, Said},
    servers::PATIENCE,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{ClientConnection, Stream};

const CROWD: usize = 1000;

/// A connection with a finished handshake on which nothing is ever said.
fn idle(
    address: &str,
    config: &std::sync::Arc<rustls::ClientConfig>,
) -> std::io::Result<(ClientConnection, TcpStream)> {
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut tls = ClientConnection::new(config.clone(), tls::server_name()).map_err(std::io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp)?;
    }
    Ok((tls, tcp))
}

#[tokio::test]
async fn a_thousand_half_open_and_a_thousand_idle_connections_do_not_stop_a_backup() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, all).expect("many files");
    let cluster = Cluster::start().await;
    cluster.ballast(150);
    let ca = Authority::open(&cluster.coordinator_state().join("ca")).expect("the CA");
    let credential = |role, name: &str| {
        let identity = Identity::new("test", role, name).expect("an identity");
        ca.issue_credential(&identity, Duration::from_secs(3600), Timestamp::now()).expect("a credential")
    };
    let coordinator = tls::Expected::Coordinator { cluster: "test".into() };
    let operator = tls::client_config(&credential(Role::Operator, "anna"), coordinator).expect("a configuration");
    let agent = tls::Expected::Node { cluster: "test".into(), name: "h1".into() };
    let agent = tls::client_config(&credential(Role::Coordinator, "c2"), agent).expect("a configuration");

    let running = cluster.capture_has_begun("filesystem").await;
    let (api, enrolment, listens) = (cluster.api_address(), cluster.enrolment_address(), cluster.agent_address());
    let held = tokio::task::spawn_blocking(move || {
        // Half open: not a byte, or the beginning of a handshake.
        let half: Vec<TcpStream> = (0..CROWD)
            .map(|i| {
                let mut tcp = TcpStream::connect([&api, &enrolment, &listens][i % 3]).expect("a connection");
                if i % 2 == 0 {
                    let _ = tcp.write_all(&[22, 3, 1, 2, 0, 1, 0]);
                }
                tcp
            })
            .collect();
        let mut refused = 0;
        let idle: Vec<_> = (0..CROWD)
            .filter_map(|i| {
                let (address, config) = if i % 2 == 0 { (&api, &operator) } else { (&listens, &agent) };
                idle(address, config).inspect_err(|_| refused += 1).ok()
            })
            .collect();
        (half, idle, refused)
    });
    let (half, mut idle, refused) = held.await.expect("the crowd");
    assert!(idle.len() > CROWD * 9 / 10, "{refused} were refused");
    let ended = Said::from(running.wait_with_output().expect("prexorctl")).ok();
    assert!(ended.json()["id"].is_string());
    // And others still get in, for another one.
    cluster.ctl(&["status"]).ok();
    cluster.backup();
    assert_eq!(half.len(), CROWD);
    let (tls, tcp) = &mut idle[0];
    let mut greeting = [0; 9];
    Stream::new(tls, tcp).read_exact(&mut greeting).expect("the server's settings: an idle connection is still served");
    // Operators who say nothing more are not kept for ever.
    for (i, (tls, tcp)) in idle.iter_mut().enumerate().filter(|(i, _)| i % 2 == 0) {
        until_it_ends(tls, tcp).unwrap_or_else(|e| panic!("idle connection {i}: {e}"));
    }
}

/// Reads until the other end hangs up.
fn until_it_ends(tls: &mut ClientConnection, tcp: &mut TcpStream) -> std::io::Result<()> {
    tcp.set_read_timeout(Some(2 * PATIENCE))?;
    loop {
        match Stream::new(tls, tcp).read(&mut [0; 1024]) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset].contains(&e.kind()) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

/// HTTP/2 by hand (RFC 9113): a frame of this type and these flags on a stream.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

#[tokio::test]
async fn whoever_sends_little_by_little_is_sent_away() {
    let cluster = Cluster::empty().await;
    let ca = Authority::open(&cluster.coordinator_state().join("ca")).expect("the CA");
    let anybody = tls::pinned_client_config(ca.fingerprint()).expect("a configuration");
    let address = cluster.enrolment_address();
    // Silent after the handshake; half of HTTP/2's greeting; all of it and pings answered by nobody; half a request.
    let greeting = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat();
    let literal = |name: &str, value: &str| {
        let length = |text: &str| u8::try_from(text.len()).expect("short");
        [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
    };
    let headers = [
        literal(":method", "POST"),
        literal(":scheme", "https"),
        literal(":path", "/prexorcloud.enroll.v1.EnrolmentService/Enrol"),
        literal(":authority", "x"),
        literal("content-type", "application/grpc"),
        literal("te", "trailers"),
    ];
    // HEADERS with END_HEADERS, then five of the hundred bytes that its message is to have.
    let request = [frame(1, 4, 1, &headers.concat()), frame(0, 0, 1, &[0, 0, 0, 0, 100, 1, 2, 3, 4, 5])].concat();
    let wholly = [greeting.clone(), request].concat();
    for (what, said) in [
        ("nothing", &b""[..]),
        ("half a greeting", &greeting[..12]),
        ("a greeting", &greeting),
        ("half a request", &wholly),
    ] {
        let (mut tls, mut tcp) = idle(&address, &anybody).expect("a connection");
        Stream::new(&mut tls, &mut tcp).write_all(said).expect("sent");
        tcp.set_read_timeout(Some(2 * PATIENCE)).expect("a timeout");
        let mut answer = Vec::new();
        loop {
            match Stream::new(&mut tls, &mut tcp).read(&mut [0; 1024]) {
                Ok(0) => break,
                Ok(_) if what != "half a request" => {}
                Err(e) if [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset].contains(&e.kind()) => break,
                Err(e) => panic!("{what}: {e}"),
                Ok(n) => answer.push(n),
            }
        }
        if what == "half a request" {
            assert!(answer.len() > 1, "it is told why: {answer:?}");
        }
    }
    cluster.ctl(&["status"]).ok();
}

fn openssl(address: &str, args: &[&str]) -> Said {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", address, "-alpn", "h2", "-msg"]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.output().expect("openssl").into()
}

#[tokio::test]
async fn the_wrong_protocol_gets_an_alert_and_nothing_else() {
    let cluster = Cluster::empty().await;
    let addresses = [cluster.api_address(), cluster.enrolment_address(), cluster.agent_address()];
    for (i, address) in addresses.iter().enumerate() {
        let old = openssl(address, &["-tls1_2"]);
        let said = old.out + &old.err;
        assert!(said.contains("protocol version") || said.contains("protocol_version"), "{address}: {said}");

        if i != 1 {
            let mut bare = Command::new("openssl");
            bare.args(["s_client", "-connect", address, "-alpn", "h2", "-tls1_3", "-quiet", "-ign_eof"]);
            bare.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let bare = bare.output().expect("openssl");
            let said = String::from_utf8_lossy(&bare.stderr).into_owned();
            assert!(said.contains("certificate required"), "{address}: {said}");
            assert!(bare.stdout.is_empty(), "not one HTTP/2 frame: {:?}", bare.stdout);
        }

        for scheme in ["http", "https"] {
            let mut curl = Command::new("curl");
            curl.args([
                "-sS",
                "-k",
                "--noproxy",
                "*",
                "--max-time",
                "20",
                "-i",
                &format!("{scheme}://{address}/metrics"),
            ]);
            let said = Said::from(curl.output().expect("curl"));
            // Only where no certificate is asked for is there an answer, and that is the refusal of a call.
            let refusal = i == 1 && scheme == "https" && said.out.contains("grpc-status: 7");
            assert!(refusal || (said.code != 0 && said.out.is_empty()), "{scheme}://{address}: {said:?}");
        }

        // Plain HTTP, and HTTP/2 without TLS: an alert record of TLS (type 21) or nothing at all.
        for request in
            [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"]
        {
            let mut tcp = TcpStream::connect(address).expect("a connection");
            tcp.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
            tcp.write_all(request).expect("sent");
            let mut answer = Vec::new();
            match tcp.read_to_end(&mut answer) {
                Ok(_) => {}
                Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset, "{address}: {e}"),
            }
            assert!(answer.is_empty() || (answer[0] == 21 && answer.len() == 7), "{address}: {answer:?}");
        }
    }
}
