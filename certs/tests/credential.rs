//! Credentials on disk: kept together, replaced in one step, closed to others.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use jiff::Timestamp;
use prexor_certs::{
    Authority, Credential, Identity, Role,
    authority::DAEMON_LIFETIME,
    credential::{CredentialError, generate_request},
};
use prexor_format::digest::Sha256Digest;
use tempfile::TempDir;

fn authority(dir: &TempDir) -> Authority {
    Authority::create(&dir.path().join("ca"), "main", Timestamp::now()).unwrap()
}

fn agent() -> Identity {
    Identity::new("main", Role::Agent, "h1").unwrap()
}

fn credential(ca: &Authority) -> Credential {
    ca.issue_credential(&agent(), DAEMON_LIFETIME, Timestamp::now()).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn what_is_stored_is_loaded() {
    let dir = TempDir::new().unwrap();
    let ca = authority(&dir);
    let at = dir.path().join("lib/agent/credential");
    assert!(matches!(Credential::load(&at), Err(CredentialError::Missing(_))));
    let first = credential(&ca);
    first.store(&at).unwrap();
    let loaded = Credential::load(&at).unwrap();
    assert_eq!(loaded.chain(), first.chain());
    assert_eq!(loaded.roots(), [ca.root_der().clone()]);
    assert_eq!(loaded.identity(), &agent());
    assert_eq!(loaded.not_after(), first.not_after());
    assert_eq!((mode(&at), mode(&at.join("current/key.pem"))), (0o700, 0o600));

    let second = credential(&ca);
    second.store(&at).unwrap();
    assert_eq!(Credential::load(&at).unwrap().leaf(), second.leaf());
    assert_eq!(fs::read_dir(&at).unwrap().count(), 2, "one set and the link");
}

#[test]
fn a_killed_replacement_leaves_the_old_credential_whole() {
    let dir = TempDir::new().unwrap();
    let ca = authority(&dir);
    let at = dir.path().join("credential");
    let old = credential(&ca);
    old.store(&at).unwrap();
    // Killed while writing the new set, and killed between making the link and renaming it.
    fs::create_dir(at.join("set-0000000000000000")).unwrap();
    fs::write(at.join("set-0000000000000000/key.pem"), "half a k").unwrap();
    fs::create_dir(at.join("set-1111111111111111")).unwrap();
    symlink("set-1111111111111111", at.join(".set-1111111111111111")).unwrap();
    assert_eq!(Credential::load(&at).unwrap().leaf(), old.leaf());

    let new = credential(&ca);
    new.store(&at).unwrap();
    assert_eq!(Credential::load(&at).unwrap().leaf(), new.leaf());
    assert_eq!(fs::read_dir(&at).unwrap().count(), 2, "what the killed ones left is gone");
}

#[test]
fn readers_see_one_whole_set_while_it_is_replaced() {
    let dir = TempDir::new().unwrap();
    let ca = authority(&dir);
    let at = dir.path().join("credential");
    credential(&ca).store(&at).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                Credential::load(&at).unwrap();
            }
        });
        for _ in 0..50 {
            credential(&ca).store(&at).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_failed_replacement_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let ca = authority(&dir);
    let at = dir.path().join("credential");
    let old = credential(&ca);
    old.store(&at).unwrap();
    fs::set_permissions(&at, fs::Permissions::from_mode(0o750)).unwrap();
    let error = credential(&ca).store(&at).unwrap_err().to_string();
    assert!(error.contains("has mode 0750"), "{error}");
    assert!(Credential::load(&at).is_err(), "a directory open to others is not used");
    fs::set_permissions(&at, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(at.join("current/key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = Credential::load(&at).unwrap_err().to_string();
    assert!(error.contains("key.pem has mode 0644"), "{error}");
    fs::set_permissions(at.join("current/key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(Credential::load(&at).unwrap().leaf(), old.leaf());
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let dir = TempDir::new().unwrap();
    let ca = authority(&dir);
    let (key, csr) = generate_request().unwrap();
    let (other_key, _) = generate_request().unwrap();
    let chain = ca.issue(&csr, &agent(), DAEMON_LIFETIME, Timestamp::now()).unwrap();
    let roots = vec![ca.root_der().clone()];
    let build = |chain: &[_], key, roots: &[_]| Credential::new(chain.to_vec(), key, roots.to_vec());
    assert!(matches!(build(&chain, other_key, &roots), Err(CredentialError::KeyMismatch)));
    assert!(matches!(build(&[], generate_request().unwrap().0, &roots), Err(CredentialError::Identity(_))));
    assert!(matches!(build(&chain[1..], generate_request().unwrap().0, &roots), Err(CredentialError::Identity(_))));
    let pin = Sha256Digest::of(b"another root");
    let unpinned = Credential::enrolled(chain.clone(), generate_request().unwrap().0, roots.clone(), pin);
    assert!(matches!(unpinned, Err(CredentialError::NotPinned { .. })));
    let credential = Credential::enrolled(chain, key, roots, ca.fingerprint()).unwrap();
    let shown = format!("{credential:?}");
    assert!(shown.contains("prexor://main/agent/h1") && shown.contains("redacted"), "{shown}");
}

#[test]
fn malformed_files_are_named_without_their_content() {
    let dir = TempDir::new().unwrap();
    let ca = authority(&dir);
    let at = dir.path().join("credential");
    credential(&ca).store(&at).unwrap();
    for file in ["cert.pem", "roots.pem", "key.pem"] {
        let path = at.join("current").join(file);
        let good = fs::read(&path).unwrap();
        for bad in [&b"canary"[..], b"", &good[..good.len() / 2]] {
            fs::write(&path, bad).unwrap();
            let error = Credential::load(&at).unwrap_err().to_string();
            assert!(error.contains(file) && !error.contains("canary"), "{error}");
        }
        fs::write(&path, good).unwrap();
    }
    assert!(Credential::load(&at).is_ok());
}

#[test]
fn replacements_at_the_same_time_leave_a_whole_one() {
    let dir = TempDir::new().unwrap();
    let (at, first) = (dir.path().join("credential"), credential(&authority(&dir)));
    first.store(&at).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..25).for_each(|_| first.store(&at).unwrap()));
        }
        for _ in 0..200 {
            Credential::load(&at).unwrap();
        }
    });
    Credential::load(&at).unwrap();
    assert_eq!(fs::read_dir(&at).unwrap().count(), 2, "the link and one set");
}
