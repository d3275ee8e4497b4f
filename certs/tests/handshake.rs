//! Real handshakes on 127.0.0.1: who gets in, who does not, and what both ends are told.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use prexor_certs::{
    Authority, Credential, Identity, Role,
    credential::generate_request,
    tls::{self, Expected, Problem},
};
use prexor_format::digest::Sha256Digest;
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const DAY: Duration = Duration::from_secs(86400);

struct Ca {
    authority: Authority,
    _dir: TempDir,
}

impl Ca {
    fn new(cluster: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let ago = Timestamp::now() - SignedDuration::from_hours(24 * 365);
        Self { authority: Authority::create(&dir.path().join("ca"), cluster, ago).unwrap(), _dir: dir }
    }

    fn credential(&self, role: Role, name: &str) -> Credential {
        self.credential_at(role, name, Timestamp::now())
    }

    fn credential_at(&self, role: Role, name: &str, now: Timestamp) -> Credential {
        self.authority
            .issue_credential(&Identity::new(self.authority.cluster(), role, name).unwrap(), DAY, now)
            .unwrap()
    }

    /// A credential of this CA that trusts other ones.
    fn trusting(&self, role: Role, name: &str, roots: &[&Ca]) -> Credential {
        let (key, csr) = generate_request().unwrap();
        let identity = Identity::new(self.authority.cluster(), role, name).unwrap();
        let chain = self.authority.issue(&csr, &identity, DAY, Timestamp::now()).unwrap();
        Credential::new(chain, key, roots.iter().map(|ca| ca.authority.root_der().clone()).collect()).unwrap()
    }
}

fn node(name: &str) -> Expected {
    Expected::Node { cluster: "main".into(), name: name.into() }
}

fn coordinator() -> Expected {
    Expected::Coordinator { cluster: "main".into() }
}

type Side = Result<(), Problem>;

/// One connection; what the server and the client saw. The server greets after its handshake, the client reads that.
async fn connect(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> (Side, Side) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut tls = TlsAcceptor::from(server).accept(tcp).await.map_err(|e| Problem::of_io(&e))?;
        assert_eq!(tls.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        tls.write_all(b"hello").await.unwrap();
        tls.shutdown().await.unwrap();
        Ok(())
    });
    let client = async move {
        let tcp = TcpStream::connect(address).await.unwrap();
        let mut tls =
            TlsConnector::from(client).connect(tls::server_name(), tcp).await.map_err(|e| Problem::of_io(&e))?;
        let mut greeting = Vec::new();
        tls.read_to_end(&mut greeting).await.map_err(|e| Problem::of_io(&e))?;
        assert_eq!(greeting, b"hello");
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(tls::ALPN_H2));
        Ok(())
    };
    let client = client.await;
    (server.await.unwrap(), client)
}

async fn dial(server: &Credential, client: &Credential, expected: Expected) -> (Side, Side) {
    connect(tls::server_config(server).unwrap(), tls::client_config(client, expected).unwrap()).await
}

fn untrusted(side: &Side) -> &str {
    match side {
        Err(Problem::Untrusted(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

fn rejected(side: &Side) -> &str {
    match side {
        Err(Problem::Rejected(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_right_ones_get_in() {
    let ca = Ca::new("main");
    let agent = ca.credential(Role::Agent, "h1");
    let home = ca.credential(Role::Coordinator, "c1");
    let operator = ca.credential(Role::Operator, "anna");
    let client = tls::client_config(&home, node("h1")).unwrap();
    let server = tls::server_config(&agent).unwrap();
    for _ in 0..3 {
        // The same configurations again and again: no session is resumed, every certificate is looked at.
        assert_eq!(connect(server.clone(), client.clone()).await, (Ok(()), Ok(())));
    }
    assert_eq!(dial(&home, &agent, coordinator()).await, (Ok(()), Ok(())));
    assert_eq!(dial(&home, &operator, coordinator()).await, (Ok(()), Ok(())));
}

#[tokio::test]
async fn a_server_must_be_who_is_expected() {
    let ca = Ca::new("main");
    let home = ca.credential(Role::Coordinator, "c1");
    let agent = ca.credential(Role::Agent, "h1");
    let elsewhere = Expected::Node { cluster: "other".into(), name: "h1".into() };
    for (server, expected, message) in [
        (&agent, node("h2"), "it is prexor://main/agent/h1, but prexor://main/agent/h2 was expected"),
        (&agent, coordinator(), "it is prexor://main/agent/h1, but prexor://main/coordinator/* was expected"),
        (&home, node("c1"), "it is prexor://main/coordinator/c1, but prexor://main/agent/c1 was expected"),
        (&agent, elsewhere, "it is prexor://main/agent/h1, but prexor://other/agent/h1 was expected"),
        (&ca.credential(Role::Operator, "h1"), node("h1"), "its certificate is not meant for this end of a connection"),
    ] {
        let (server, client) = dial(server, &home, expected).await;
        assert_eq!(untrusted(&client), message);
        rejected(&server);
    }
}

#[tokio::test]
async fn a_replaced_ca_is_named_with_both_fingerprints() {
    let (old, new) = (Ca::new("main"), Ca::new("main"));
    let [old_print, new_print] = [&old, &new].map(|ca| ca.authority.fingerprint().to_string());

    let (server, client) =
        dial(&old.credential(Role::Agent, "h1"), &new.credential(Role::Coordinator, "c1"), node("h1")).await;
    let message = format!("its certificate is signed by the CA {old_print}, but the CA trusted here is {new_print}");
    assert_eq!(untrusted(&client), message);
    assert!(rejected(&server).contains("rejoin"));

    // The client trusts both, as during a rotation; the server only the new one.
    let client = old.trusting(Role::Coordinator, "c1", &[&old, &new]);
    let (server, client) = dial(&new.credential(Role::Agent, "h1"), &client, node("h1")).await;
    assert_eq!(untrusted(&server), message);
    assert!(rejected(&client).contains("rejoin"));
}

#[tokio::test]
async fn clients_of_another_cluster_stay_out_even_if_their_ca_is_trusted() {
    let (ours, theirs) = (Ca::new("main"), Ca::new("other"));
    let server = ours.trusting(Role::Agent, "h1", &[&ours, &theirs]);
    let client = theirs.trusting(Role::Coordinator, "c1", &[&ours, &theirs]);
    let (server, client) = dial(&server, &client, node("h1")).await;
    assert_eq!(
        untrusted(&server),
        "it is prexor://other/coordinator/c1, but an identity of cluster 'main' was expected"
    );
    rejected(&client);
}

#[tokio::test]
async fn certificates_out_of_their_time_are_refused_and_both_ends_know_why() {
    let ca = Ca::new("main");
    let past = Timestamp::now() - SignedDuration::from_hours(48);
    let future = Timestamp::now() + SignedDuration::from_hours(48);
    let agent = ca.credential(Role::Agent, "h1");
    let home = ca.credential(Role::Coordinator, "c1");
    for (when, part) in [(past, "expired at "), (future, "check both clocks")] {
        let (server, client) = dial(&ca.credential_at(Role::Agent, "h1", when), &home, node("h1")).await;
        assert!(untrusted(&client).contains(part), "{client:?}");
        assert!(rejected(&server).contains("expired, or the clocks differ"), "{server:?}");
        let (server, client) = dial(&agent, &ca.credential_at(Role::Coordinator, "c1", when), node("h1")).await;
        assert!(untrusted(&server).contains(part), "{server:?}");
        assert!(rejected(&client).contains("expired, or the clocks differ"), "{client:?}");
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_told_so() {
    let ca = Ca::new("main");
    let server = tls::server_config(&ca.credential(Role::Coordinator, "c1")).unwrap();
    let (server, client) = connect(server, tls::pinned_client_config(ca.authority.fingerprint()).unwrap()).await;
    assert_eq!(rejected(&client), "it wants a certificate and was shown none");
    assert_eq!(untrusted(&server), "it presented no certificate");
}

#[tokio::test]
async fn tls_1_2_is_not_spoken() {
    let ca = Ca::new("main");
    let home = ca.credential(Role::Coordinator, "c1");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.authority.root_der().clone()).unwrap();
    let old = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let old = Arc::new(old);
    for server in [tls::server_config(&home), tls::enrolment_server_config(&home)] {
        let (server, client) = connect(server.unwrap(), old.clone()).await;
        assert_eq!(client, Err(Problem::Protocol("it ended the handshake with the alert ProtocolVersion".into())));
        assert!(matches!(&server, Err(Problem::Protocol(reason)) if reason.contains("TLS 1.3")), "{server:?}");
    }
}

#[tokio::test]
async fn the_first_contact_trusts_the_pinned_ca_and_nobody_else() {
    let (ca, evil) = (Ca::new("main"), Ca::new("main"));
    let pin = |pin| tls::pinned_client_config(pin).unwrap();
    let serve = |credential: &Credential| tls::enrolment_server_config(credential).unwrap();
    let home = ca.credential(Role::Coordinator, "c1");
    assert_eq!(connect(serve(&home), pin(ca.authority.fingerprint())).await, (Ok(()), Ok(())));

    let (_, client) = connect(serve(&evil.credential(Role::Coordinator, "c1")), pin(ca.authority.fingerprint())).await;
    let message = format!(
        "it presents the CA {}, but the token pins {}",
        evil.authority.fingerprint(),
        ca.authority.fingerprint()
    );
    assert_eq!(untrusted(&client), message);

    // An impostor shows the root that is pinned, behind a leaf that it did not sign.
    let (key, csr) = generate_request().unwrap();
    let identity = Identity::new("main", Role::Coordinator, "c1").unwrap();
    let mut chain = evil.authority.issue(&csr, &identity, DAY, Timestamp::now()).unwrap();
    chain[1] = ca.authority.root_der().clone();
    let impostor = Credential::new(chain.clone(), key, vec![ca.authority.root_der().clone()]).unwrap();
    let (_, client) = connect(serve(&impostor), pin(ca.authority.fingerprint())).await;
    untrusted(&client);
    // The leaf itself is never its own root.
    let (_, client) = connect(serve(&home), pin(Sha256Digest::of(&home.chain()[0]))).await;
    untrusted(&client);

    // Somebody who is known, but not as a coordinator, collects no tokens.
    let (_, client) = connect(serve(&ca.credential(Role::Agent, "h1")), pin(ca.authority.fingerprint())).await;
    assert_eq!(untrusted(&client), "it is prexor://main/agent/h1, but a coordinator was expected");
    let past = Timestamp::now() - SignedDuration::from_hours(48);
    let (_, client) =
        connect(serve(&ca.credential_at(Role::Coordinator, "c1", past)), pin(ca.authority.fingerprint())).await;
    assert!(untrusted(&client).contains("expired at "));
}
