//! The backup CA: what it signs, what it refuses, and what the openssl binary makes of it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command, time::Duration};

use jiff::Timestamp;
use prexor_certs::{
    Authority, Identity, Leaf, Passphrase, Role,
    authority::{AuthorityError, default_lifetime},
    credential::generate_request,
};
use rcgen::{CertificateParams, KeyPair, SanType};
use tempfile::TempDir;

fn authority(dir: &TempDir) -> Authority {
    Authority::create(&dir.path().join("ca"), "main", Timestamp::now()).unwrap()
}

fn identity(role: Role) -> Identity {
    Identity::new("main", role, "n1").unwrap()
}

/// Runs `openssl verify`.
fn openssl_verify(dir: &Path, purpose: &str, root: &[u8], leaf: &[u8]) -> Result<(), String> {
    fs::write(dir.join("root.der"), root).unwrap();
    fs::write(dir.join("leaf.der"), leaf).unwrap();
    for name in ["root", "leaf"] {
        let converted = Command::new("openssl")
            .current_dir(dir)
            .args(["x509", "-inform", "DER", "-in", &format!("{name}.der"), "-out", &format!("{name}.pem")])
            .output()
            .expect("openssl, which tests/run installs");
        assert!(converted.status.success(), "{}", String::from_utf8_lossy(&converted.stderr));
    }
    let args = ["verify", "-x509_strict", "-purpose", purpose, "-CAfile", "root.pem", "leaf.pem"];
    let verified = Command::new("openssl").current_dir(dir).args(args).output().unwrap();
    if verified.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&verified.stderr).into_owned()) }
}

#[test]
fn openssl_strictly_agrees_with_every_role() {
    let dir = TempDir::new().unwrap();
    authority(&dir);
    // Reopened: what is signed must not depend on how the CA got into memory.
    let ca = Authority::open(&dir.path().join("ca")).unwrap();
    for role in [Role::Agent, Role::Coordinator, Role::Operator] {
        let (_, csr) = generate_request().unwrap();
        let chain = ca.issue(&csr, &identity(role), default_lifetime(role), Timestamp::now()).unwrap();
        assert_eq!(&chain[1], ca.root_der());
        for (purpose, good) in [("sslclient", true), ("sslserver", role.serves())] {
            let result = openssl_verify(dir.path(), purpose, &chain[1], &chain[0]);
            assert_eq!(result.is_ok(), good, "{role} as {purpose}: {result:?}");
        }
    }
    openssl_verify(dir.path(), "any", ca.root_der(), ca.root_der()).expect("the root itself");

    // The path ends below the root: whoever got a CA signed by it would get nothing.
    let read = |name: &str| fs::read_to_string(dir.path().join("ca").join(name)).unwrap();
    let (root_key, root_pem) = (KeyPair::from_pem(&read("ca-key.pem")).unwrap(), read("ca.pem"));
    let root = rcgen::Issuer::from_ca_cert_pem(&root_pem, root_key).unwrap();
    let (middle_key, leaf_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "in between");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = true;
    let middle = params.signed_by(&middle_key, &root).unwrap();
    let issuer = rcgen::Issuer::from_params(&params, middle_key);
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "below it");
    params.use_authority_key_identifier_extension = true;
    let leaf = params.signed_by(&leaf_key, &issuer).unwrap();
    fs::write(dir.path().join("middle.pem"), middle.pem()).unwrap();
    fs::write(dir.path().join("below.pem"), leaf.pem()).unwrap();
    let args = ["verify", "-CAfile", "root.pem", "-untrusted", "middle.pem", "below.pem"];
    let verified = Command::new("openssl").current_dir(dir.path()).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(!verified.status.success() && said.contains("path length constraint exceeded"), "{said}");
}

#[test]
fn a_key_under_a_passphrase_is_one_for_openssl_too_and_openssls_is_one_for_us() {
    let dir = TempDir::new().unwrap();
    let at = dir.path().join("ca");
    let file = |name: &str, words: &str| {
        let path = dir.path().join(name);
        fs::write(&path, words).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Passphrase::read(&path).unwrap()
    };
    let (first, second) = (file("first", "correct horse battery\n"), file("second", "staple staple staple\n"));
    let made = Authority::create_with(&at, "main", Timestamp::now(), Some(&first)).unwrap();
    assert!(matches!(Authority::open(&at).unwrap_err(), AuthorityError::Passphrase { .. }));
    assert!(matches!(Authority::open_with(&at, Some(&second)).unwrap_err(), AuthorityError::Passphrase { .. }));
    assert_eq!(Authority::open_with(&at, Some(&first)).unwrap().fingerprint(), made.fingerprint());

    // The passphrase is changed as one would on a host.
    let openssl = |args: &[&str]| {
        let done = Command::new("openssl").current_dir(dir.path()).args(args).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let key = "ca/ca-key.pem";
    openssl(&["pkcs8", "-in", key, "-passin", "file:first", "-out", "plain.pem"]);
    openssl(&["pkcs8", "-topk8", "-v2", "aes-256-cbc", "-in", "plain.pem", "-passout", "file:second", "-out", key]);
    assert!(Authority::open_with(&at, Some(&first)).is_err());
    let opened = Authority::open_with(&at, Some(&second)).unwrap();
    assert_eq!(opened.fingerprint(), made.fingerprint());
    let (_, csr) = generate_request().unwrap();
    let chain = opened.issue(&csr, &identity(Role::Agent), Duration::from_secs(60), Timestamp::now()).unwrap();
    openssl_verify(dir.path(), "sslserver", &chain[1], &chain[0]).unwrap();

    // One that is in the clear is put under it, and nothing else becomes of it.
    fs::copy(dir.path().join("plain.pem"), at.join("ca-key.pem")).unwrap();
    fs::set_permissions(at.join("ca-key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(Authority::open_with(&at, Some(&first)).unwrap().fingerprint(), made.fingerprint());
    let now = fs::read_to_string(at.join("ca-key.pem")).unwrap();
    assert!(now.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{now}");
    assert_eq!(fs::metadata(at.join("ca-key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(&at).unwrap().count(), 2, "nothing temporary stays");
}

#[test]
fn a_leaf_says_who_and_how_long_and_nothing_from_the_request() {
    let dir = TempDir::new().unwrap();
    let ca = authority(&dir);
    let key = KeyPair::generate().unwrap();
    let mut wish = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    wish.subject_alt_names.push(SanType::URI("prexor://main/operator/root".try_into().unwrap()));
    wish.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = wish.serialize_request(&key).unwrap();

    let now: Timestamp = "2026-05-10T08:00:00.7Z".parse().unwrap();
    let day = Duration::from_secs(86400);
    let ca_now = Authority::create(&dir.path().join("ca-2026"), "main", now).unwrap();
    let chain = ca_now.issue(csr.der(), &identity(Role::Agent), day, now).unwrap();
    let leaf = Leaf::parse(&chain[0]).unwrap();
    assert_eq!(leaf.identity, identity(Role::Agent));
    assert_eq!(leaf.not_before.to_string(), "2026-05-10T07:59:00Z");
    assert_eq!(leaf.not_after.to_string(), "2026-05-11T08:00:00Z");
    let text = String::from_utf8_lossy(&chain[0]).into_owned();
    assert!(!text.contains("evil.example") && !text.contains("operator"));

    let again = Leaf::parse(&ca.issue(csr.der(), &identity(Role::Agent), day, Timestamp::now()).unwrap()[0]).unwrap();
    assert_ne!(leaf.serial, again.serial, "serials are random, not derived from the key");
    assert_eq!(leaf.serial.len(), 32);
}

#[test]
fn requests_are_refused_for_what_is_wrong_with_them() {
    let dir = TempDir::new().unwrap();
    let ca = authority(&dir);
    let issue = |csr: &[u8]| ca.issue(csr, &identity(Role::Agent), Duration::from_secs(60), Timestamp::now());
    let refused = |csr: &[u8], part: &str| {
        let error = issue(csr).unwrap_err();
        assert!(matches!(error, AuthorityError::Request(_)) && error.to_string().contains(part), "{error}");
    };

    let (_, csr) = generate_request().unwrap();
    assert!(issue(&csr).is_ok());
    refused(b"", "malformed");
    refused(&csr[..csr.len() - 1], "malformed");
    refused(&[&csr[..], b"x"].concat(), "malformed");
    // The public key is followed by the empty attributes and the signature: one flipped bit in the point.
    let mut flipped = csr.clone();
    let point = csr.windows(2).position(|w| w == [0x00, 0x04]).unwrap() + 10;
    flipped[point] ^= 1;
    refused(&flipped, "not signed by the key");
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    refused(CertificateParams::default().serialize_request(&p384).unwrap().der(), "not ECDSA P-256");
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    refused(CertificateParams::default().serialize_request(&ed25519).unwrap().der(), "not ECDSA P-256");

    let other = Identity::new("other", Role::Agent, "n1").unwrap();
    let error = ca.issue(&csr, &other, Duration::from_secs(60), Timestamp::now()).unwrap_err();
    assert!(matches!(error, AuthorityError::OtherCluster { .. }), "{error}");
    let late = Timestamp::now() + jiff::SignedDuration::from_hours(24 * 3651);
    let error = ca.issue(&csr, &identity(Role::Agent), Duration::from_secs(60), late).unwrap_err();
    assert!(matches!(error, AuthorityError::Lifetime { .. }), "{error}");
}

#[test]
fn a_certificate_never_outlives_the_root() {
    let dir = TempDir::new().unwrap();
    let ca = authority(&dir);
    let (_, csr) = generate_request().unwrap();
    let century = Duration::from_secs(100 * 365 * 86400);
    let chain = ca.issue(&csr, &identity(Role::Agent), century, Timestamp::now()).unwrap();
    let years = (Leaf::parse(&chain[0]).unwrap().not_after.as_second() - Timestamp::now().as_second()) / 86400 / 365;
    assert!(years < 11, "{years}");
}

#[test]
fn a_ca_is_created_once_and_opens_again_as_the_same() {
    let dir = TempDir::new().unwrap();
    let at = dir.path().join("state/ca");
    let created = Authority::create(&at, "main", Timestamp::now()).unwrap();
    let opened = Authority::open(&at).unwrap();
    assert_eq!(opened.fingerprint(), created.fingerprint());
    assert_eq!(opened.cluster(), "main");
    let again = Authority::create(&at, "main", Timestamp::now()).unwrap_err();
    assert!(matches!(again, AuthorityError::Exists(_)), "{again}");
    assert!(Authority::create(&dir.path().join("x"), "no/slash", Timestamp::now()).is_err());
    let left: Vec<_> = fs::read_dir(at.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["ca"], "nothing temporary stays");
}

#[test]
fn a_ca_that_others_can_read_or_that_is_broken_does_not_open() {
    let dir = TempDir::new().unwrap();
    let at = dir.path().join("ca");
    authority(&dir);
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let key = at.join("ca-key.pem");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o7777, 0o600);
    for (path, bad, good) in [(&key, 0o640, 0o600), (&key, 0o604, 0o600), (&at, 0o750, 0o700), (&at, 0o701, 0o700)] {
        set(path, bad);
        let error = Authority::open(&at).unwrap_err().to_string();
        assert!(error.contains(&format!("has mode {bad:04o}")), "{error}");
        set(path, good);
    }
    assert!(Authority::open(&at).is_ok());

    let other = TempDir::new().unwrap();
    authority(&other);
    fs::copy(other.path().join("ca/ca.pem"), at.join("ca.pem")).unwrap();
    let error = Authority::open(&at).unwrap_err().to_string();
    assert!(error.contains("key does not belong"), "{error}");
    fs::write(&key, "rubbish").unwrap();
    let error = Authority::open(&at).unwrap_err().to_string();
    assert!(error.contains("not a PKCS#8") && !error.contains("rubbish"), "{error}");
}

#[test]
fn debug_output_holds_no_key() {
    let dir = TempDir::new().unwrap();
    let ca = authority(&dir);
    let shown = format!("{ca:?}");
    assert!(shown.contains("main") && shown.len() < 200, "{shown}");
}
