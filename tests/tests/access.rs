//! Who may call what: every RPC, by every identity, on every listener of running programs.

use std::{path::Path, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use prexor_certs::{
    Authority, CertificateDer, Credential, Identity, Role,
    credential::generate_request,
    tls::{self, Expected},
};
use prexor_tests::cluster::Cluster;
use prexor_transport::{
    access::{Callers, TABLE},
    dial::{self, DialErrorKind, Timeouts},
};
use rustls::ClientConfig;
use tonic::{Code, transport::Channel};

const HOUR: Duration = Duration::from_secs(3600);

/// What becomes of a caller at the door, before any call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handshake {
    Passes,
    Fails,
}

/// Somebody who calls.
struct Caller {
    name: &'static str,
    /// The role that the table looks at; `None`: there is no identity.
    role: Option<Role>,
    /// On the listeners that ask for a certificate.
    handshake: Handshake,
    credential: Option<Credential>,
}

fn identity(role: Role, name: &str) -> Identity {
    Identity::new("test", role, name).expect("an identity")
}

/// A certificate over a key of ours with another subject alternative name, signed by the real CA.
fn wrong_san(ca: &Path, san: rcgen::SanType) -> (Vec<CertificateDer<'static>>, String) {
    let read = |name: &str| std::fs::read_to_string(ca.join(name)).expect("a file of the CA");
    let key = rcgen::KeyPair::from_pem(&read("ca-key.pem")).expect("the CA's key");
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.pem"), key).expect("the CA");
    let own = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![san];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let leaf = params.signed_by(&own, &issuer).expect("a certificate");
    (vec![leaf.der().clone()], own.serialize_pem())
}

/// TLS with a chain of one's own choice, which trusts whatever it finds at the other end that `like` would trust.
fn config_with(like: &Credential, expected: Expected, chain: Vec<CertificateDer<'static>>, key: &str) -> ClientConfig {
    use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
    let mut config = ClientConfig::clone(&tls::client_config(like, expected).expect("a configuration"));
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let provider = rustls::crypto::ring::default_provider();
    let signer = provider.key_provider.load_private_key(key).expect("a key");
    let certified = rustls::sign::CertifiedKey::new(chain, signer);
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    config
}

async fn call(channel: &Channel, method: &str) -> Code {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.expect("a connection");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let path = method.parse().expect("a path");
    let answer = grpc.unary(tonic::Request::new(()), path, codec);
    match tokio::time::timeout(Duration::from_secs(60), answer).await.expect("an answer") {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

/// Which services a listener has, and whether it asks for certificates.
struct Listener {
    address: String,
    services: &'static [&'static str],
    mutual: bool,
    expected: Expected,
}

#[tokio::test]
async fn only_the_listed_cells_pass() {
    let cluster = Cluster::empty().await;
    let ca_dir = cluster.coordinator_state().join("ca");
    let ca = Authority::open(&ca_dir).expect("the CA");
    let elsewhere = tempfile::tempdir().expect("a directory");
    let now = Timestamp::now();
    let other_ca = Authority::create(&elsewhere.path().join("ca"), "test", now).expect("a CA");
    let at = |role, name: &str, when| ca.issue_credential(&identity(role, name), HOUR, when).expect("a credential");
    // Its root is not theirs, but it trusts theirs: what they say of it is seen.
    let foreign = {
        let (key, csr) = generate_request().expect("a key");
        let chain = other_ca.issue(&csr, &identity(Role::Operator, "eve"), HOUR, now).expect("a certificate");
        Credential::new(chain, key, vec![ca.root_der().clone()]).expect("a credential")
    };
    // Enrolled, and then shut out.
    let token = cluster.token(&["--role", "operator"]);
    let revoked = login(&cluster, &token, "mallory", elsewhere.path());
    cluster.ctl(&["operator", "revoke", "mallory", "--yes"]).ok();

    let caller = |name, role, handshake, credential| Caller { name, role, handshake, credential };
    let (passes, fails) = (Handshake::Passes, Handshake::Fails);
    let (day, hours) = (SignedDuration::from_hours(24), SignedDuration::from_hours(2));
    let callers = [
        caller("none", None, fails, None),
        caller("wrong CA", None, fails, Some(foreign)),
        caller("expired", None, fails, Some(at(Role::Operator, "anna", now - hours))),
        caller("revoked", None, fails, Some(revoked)),
        caller("not yet valid", None, fails, Some(at(Role::Operator, "anna", now + day))),
        caller("agent", Some(Role::Agent), passes, Some(at(Role::Agent, "h1", now))),
        caller("other agent", Some(Role::Agent), passes, Some(at(Role::Agent, "h2", now))),
        caller("operator", Some(Role::Operator), passes, Some(at(Role::Operator, "anna", now))),
        caller("coordinator", Some(Role::Coordinator), passes, Some(at(Role::Coordinator, "c2", now))),
    ];
    let coordinator = Expected::Coordinator { cluster: "test".into() };
    let agent = Expected::Node { cluster: "test".into(), name: "h1".into() };
    let api: &[&str] = &["BackupService", "RestoreService", "JobService", "AdminService"];
    let listeners = [
        Listener { address: cluster.api_address(), services: api, mutual: true, expected: coordinator.clone() },
        Listener {
            address: cluster.enrolment_address(),
            services: &["EnrolmentService"],
            mutual: false,
            expected: coordinator.clone(),
        },
        Listener { address: cluster.agent_address(), services: &["AgentService"], mutual: true, expected: agent },
    ];
    let mut cells = 0;
    for listener in &listeners {
        for caller in &callers {
            let config = match &caller.credential {
                Some(credential) => tls::client_config(credential, listener.expected.clone()),
                None => tls::pinned_client_config(ca.fingerprint()),
            };
            // Only coordinators present what a pin asks for: for the agent's listener the handshake says enough.
            let dialled = dial::channel(&listener.address, config.expect("a configuration"), Timeouts::default()).await;
            let handshake = if listener.mutual { caller.handshake } else { passes };
            let channel = match (handshake, dialled) {
                (Handshake::Passes, Ok(channel)) => channel,
                (Handshake::Fails, Err(e)) => {
                    let refused = matches!(e.kind, DialErrorKind::Rejected(_) | DialErrorKind::Untrusted(_));
                    assert!(refused, "{} at {}: {e}", caller.name, listener.address);
                    cells += TABLE.len();
                    continue;
                }
                (_, dialled) => panic!("{} at {}: {dialled:?}", caller.name, listener.address),
            };
            for rule in TABLE {
                let code = call(&channel, rule.method).await;
                let here = listener.services.iter().any(|s| rule.method.contains(&format!(".{s}/")));
                let listed = match rule.callers {
                    Callers::Anybody => true,
                    // No certificate is asked for on the enrolment listener: there is no identity.
                    Callers::Role(role) => listener.mutual && caller.role == Some(role),
                };
                let cell = format!("{} by {} at {}: {code:?}", rule.method, caller.name, listener.address);
                match (here, listed) {
                    (true, true) => {
                        assert!(![Code::PermissionDenied, Code::Unimplemented].contains(&code), "{cell}");
                    }
                    (false, true) => assert_eq!(code, Code::Unimplemented, "{cell}"),
                    (_, false) => assert_eq!(code, Code::PermissionDenied, "{cell}"),
                }
                cells += 1;
            }
        }
    }
    assert_eq!(cells, listeners.len() * callers.len() * TABLE.len());

    // The right key and CA, but not one subject alternative name that is ours.
    let like = at(Role::Operator, "anna", now);
    for san in ["prexor://other/operator/anna", "prexor://test/root/anna", "https://test/operator/anna"] {
        let (chain, key) = wrong_san(&ca_dir, rcgen::SanType::URI(san.try_into().expect("a name")));
        let config = Arc::new(config_with(&like, coordinator.clone(), chain, &key));
        let refused = dial::channel(&cluster.api_address(), config, Timeouts::default()).await.expect_err(san);
        assert!(matches!(refused.kind, DialErrorKind::Rejected(_)), "{san}: {refused}");
    }
    let (chain, key) = wrong_san(&ca_dir, rcgen::SanType::DnsName("test".try_into().expect("a name")));
    let config = Arc::new(config_with(&like, coordinator.clone(), chain, &key));
    dial::channel(&cluster.api_address(), config, Timeouts::default()).await.expect_err("a name instead of a URI");
    let good = rcgen::SanType::URI("prexor://test/operator/anna".try_into().expect("a name"));
    let (chain, key) = wrong_san(&ca_dir, good);
    let config = Arc::new(config_with(&like, coordinator, chain, &key));
    dial::channel(&cluster.api_address(), config, Timeouts::default()).await.expect("the same with the right name");

    // Whoever was denied is in the audit log, and so is who did something.
    let log = cluster.ctl(&["audit", "--limit", "0", "--json"]).ok().json();
    let entries = log.as_array().expect("entries");
    let has = |who: &str, action: &str, result: &str| {
        entries.iter().any(|e| {
            let said = |key: &str, word: &str| e[key].as_str().unwrap_or("-").ends_with(word);
            said("who", who) && said("action", action) && said("result", result)
        })
    };
    assert!(has("agent/h2", "DeleteBackup", "NOT_ALLOWED"), "{log:#}");
    assert!(has("coordinator/c2", "CreateToken", "NOT_ALLOWED"), "{log:#}");
    assert!(has("-", "CreateToken", "NOT_ALLOWED"), "at the enrolment listener: {log:#}");
    assert!(has("operator/root", "Revoke", "OK"), "{log:#}");
    assert!(has("operator/mallory", "enrol", "OK"), "{log:#}");
}

/// Enrols an operator on another machine, and returns the credential.
fn login(cluster: &Cluster, token: &str, name: &str, dir: &Path) -> Credential {
    let file = dir.join("token");
    std::fs::write(&file, token).expect("a file");
    let config = dir.join("context/config.yml");
    let mut command = cluster.ctl_command(&["login", "--name", name, "--coordinator", &cluster.enrolment_address()]);
    command.arg("--token-file").arg(&file).env("PREXORCTL_CONFIG", &config);
    let said = prexor_tests::cluster::Said::from(command.output().expect("prexorctl")).ok();
    assert!(said.out.contains(&format!("prexor://test/operator/{name}")), "{said:?}");
    Credential::load(&config.with_file_name("credentials/test")).expect("a credential")
}
