//! Who this agent is and whom it trusts: the credential, the certificates that are good no more, and what TLS makes of
//! both. All of it changes while the agent serves; open connections and their streams go on.
//!
//! It does not know who brings the changes: the coordinator (`grpc`), or `prexorctl setup --rejoin` on this host, which
//! replaces the credential's files.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use prexor_certs::{
    CertificateDer, Leaf,
    credential::{self, Credential, CredentialError, KeyPair},
    identity::{Identity, IdentityError},
    tls::{self, TlsError},
};
use prexor_proto::{agent::TrustRequest, trust};
use prexor_transport::revoked::Revoked;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::restore_unit::write_durably;

/// How often it is looked whether somebody replaced the credential's files.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why the agent cannot be who it is to be.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// There is no usable credential.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// It cannot be used for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A certificate that was brought is none of ours.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It is somebody else's.
    #[error(
        "the certificate in {} is for {found}, the configuration says {expected}: correct agent.yml, or enrol again with \
         `prexorctl setup --force`", dir.display()
    )]
    SomebodyElse {
        /// The credential's directory.
        dir: PathBuf,
        /// Whose it is.
        found: Box<Identity>,
        /// Whose it should be.
        expected: Box<Identity>,
    },
    /// What was brought does not fit together.
    #[error("what to trust from now on cannot be used: {0}")]
    Unfit(&'static str),
    /// The record of revoked certificates could not be read or written.
    #[error("the revoked certificates in {} cannot be kept: {source}", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// See the module's text.
#[derive(Debug)]
pub struct Keeper {
    dir: PathBuf,
    record: PathBuf,
    expected: Identity,
    revoked: Revoked,
    state: Mutex<State>,
    tls: watch::Sender<Arc<ServerConfig>>,
}

#[derive(Debug)]
struct State {
    credential: Credential,
    /// Which of the directory's credentials that is.
    version: Option<PathBuf>,
    /// A key that was made for the next certificate, and the request for that.
    pending: Option<(KeyPair, Vec<u8>)>,
}

impl Keeper {
    /// The credential in `dir`, which must be that of `expected`; the record of revoked certificates is
    /// `<state_dir>/revoked`, one serial number per line.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn open(state_dir: &Path, dir: &Path, expected: Identity) -> Result<Self, KeeperError> {
        let record = state_dir.join("revoked");
        let serials = match fs::read_to_string(&record) {
            Ok(text) => text.lines().map(str::to_owned).collect(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(KeeperError::Record { path: record, source }),
        };
        let revoked = Revoked::default();
        revoked.set(serials);
        let (credential, version) = load(dir, &expected)?;
        let tls = watch::Sender::new(tls::checking_server_config(&credential, revoked.lookup())?);
        let state = Mutex::new(State { credential, version, pending: None });
        Ok(Self { dir: dir.to_owned(), record, expected, revoked, state, tls })
    }

    /// For the listener.
    pub fn tls(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.tls.subscribe()
    }

    /// The certificates that are good no more.
    pub fn revoked(&self) -> Revoked {
        self.revoked.clone()
    }

    /// What the certificate in use says.
    pub fn leaf(&self) -> Leaf {
        self.state().credential.leaf().clone()
    }

    /// The digest of what is trusted now, as [`trust::digest`] computes it.
    pub fn trust_digest(&self) -> Vec<u8> {
        let roots_der = self.state().credential.roots().iter().map(|c| c.to_vec()).collect();
        let mut revoked_serials = self.revoked.serials();
        revoked_serials.sort();
        trust::digest(&TrustRequest { roots_der, revoked_serials, ..TrustRequest::default() }).0.to_vec()
    }

    /// A request for the next certificate, when it is time for one or somebody wants it. The same one until it is
    /// answered, over a key that never leaves this process but for the credential's directory.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn wants(&self, now: Timestamp, at_once: bool) -> Result<Option<Vec<u8>>, KeeperError> {
        let mut state = self.state();
        if !at_once && now < state.credential.leaf().renew_at() {
            return Ok(None);
        }
        if state.pending.is_none() {
            state.pending = Some(credential::generate_request()?);
        }
        Ok(state.pending.as_ref().map(|(_, csr)| csr.clone()))
    }

    /// From here on trusts these roots and not these certificates, and is known by the certificate that was asked for if
    /// there is one. Durable when it returns; a failure changes nothing.
    ///
    /// # Errors
    /// When the certificate is not for the key that was made for it or not for this agent, when its root would not be
    /// trusted, or when something cannot be written.
    pub fn trust(
        &self,
        roots: Vec<CertificateDer<'static>>,
        serials: Vec<String>,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<(), KeeperError> {
        if serials.iter().any(|s| s.is_empty() || !s.bytes().all(|b| b.is_ascii_hexdigit())) {
            return Err(KeeperError::Unfit("a serial number is not hexadecimal"));
        }
        let mut state = self.state();
        let next = if !chain.is_empty() {
            // When it is of no use the key goes with it: the next ping makes another.
            let (key, _) = state.pending.take().ok_or(KeeperError::Unfit("a certificate that was not asked for"))?;
            self.check(&chain, &roots)?;
            Some(Credential::new(chain, key, roots)?)
        } else if state.credential.roots() != roots {
            self.check(state.credential.chain(), &roots)?;
            Some(state.credential.with_roots(roots)?)
        } else {
            None
        };
        if serials != sorted(self.revoked.serials()) {
            let text: String = serials.iter().map(|serial| format!("{serial}\n")).collect();
            write_durably(&self.record, text.as_bytes())
                .map_err(|source| KeeperError::Record { path: self.record.clone(), source })?;
        }
        if let Some(next) = next {
            let config = tls::checking_server_config(&next, self.revoked.lookup())?;
            next.store(&self.dir)?;
            tracing::info!(serial = next.leaf().serial, not_after = %next.not_after(), "the agent has a new credential");
            state.version = Credential::version(&self.dir);
            state.credential = next;
            self.tls.send_replace(config);
        }
        drop(state);
        // Last: it may end the very connection that brought this.
        self.revoked.set(serials);
        Ok(())
    }

    /// The chain is this agent's, and ends with a root that it trusts.
    fn check(&self, chain: &[CertificateDer<'_>], roots: &[CertificateDer<'_>]) -> Result<(), KeeperError> {
        let leaf = Leaf::parse(chain.first().map(AsRef::as_ref).unwrap_or_default())?;
        if leaf.identity != self.expected {
            return Err(KeeperError::Unfit("the certificate is somebody else's"));
        }
        match chain.last() {
            Some(root) if roots.contains(root) => Ok(()),
            _ => Err(KeeperError::Unfit("the agent would not trust its own root")),
        }
    }

    /// Takes up a credential that somebody else put into the directory, until `stop` fires.
    pub async fn watch_files(self: Arc<Self>, stop: CancellationToken) {
        let mut failed = None;
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let keeper = self.clone();
            let looked = tokio::task::spawn_blocking(move || keeper.reload()).await;
            let message = looked.ok().and_then(Result::err).map(|e| e.to_string());
            if let Some(message) = message.as_ref().filter(|m| failed.as_ref() != Some(*m)) {
                tracing::warn!("the credential on disk cannot be used, the one in memory stays: {message}");
            }
            failed = message;
        }
    }

    fn reload(&self) -> Result<(), KeeperError> {
        let mut state = self.state();
        if Credential::version(&self.dir) == state.version {
            return Ok(());
        }
        let (credential, version) = load(&self.dir, &self.expected)?;
        let config = tls::checking_server_config(&credential, self.revoked.lookup())?;
        tracing::info!(
            serial = credential.leaf().serial,
            "the credential was replaced on disk and is used from here on"
        );
        *state = State { credential, version, pending: None };
        self.tls.send_replace(config);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sorted(mut serials: Vec<String>) -> Vec<String> {
    serials.sort();
    serials
}

fn load(dir: &Path, expected: &Identity) -> Result<(Credential, Option<PathBuf>), KeeperError> {
    let version = Credential::version(dir);
    let credential = Credential::load(dir)?;
    if credential.identity() != expected {
        return Err(KeeperError::SomebodyElse {
            dir: dir.to_owned(),
            found: Box::new(credential.identity().clone()),
            expected: Box::new(expected.clone()),
        });
    }
    Ok((credential, version))
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use prexor_certs::{Authority, Role};

    use super::*;

    struct Site {
        ca: Authority,
        keeper: Keeper,
        dir: tempfile::TempDir,
    }

    fn site() -> Site {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::create(&dir.path().join("ca"), "c", Timestamp::now()).unwrap();
        let me = Identity::new("c", Role::Agent, "h1").unwrap();
        let hour = Duration::from_secs(3600);
        ca.issue_credential(&me, hour, Timestamp::now()).unwrap().store(&dir.path().join("credential")).unwrap();
        let keeper = Keeper::open(dir.path(), &dir.path().join("credential"), me).unwrap();
        Site { ca, keeper, dir }
    }

    fn issue(ca: &Authority, csr: &[u8], name: &str) -> Vec<CertificateDer<'static>> {
        let identity = Identity::new("c", Role::Agent, name).unwrap();
        ca.issue(csr, &identity, Duration::from_secs(3600), Timestamp::now()).unwrap()
    }

    #[test]
    fn a_certificate_is_asked_for_in_time_and_kept() {
        let Site { ca, keeper, dir } = site();
        let (now, first) = (Timestamp::now(), keeper.leaf().serial);
        assert_eq!(keeper.wants(now, false).unwrap(), None);
        let csr = keeper.wants(now + SignedDuration::from_mins(50), false).unwrap().unwrap();
        assert_eq!(keeper.wants(now, true).unwrap().as_ref(), Some(&csr), "the same until it is answered");
        let roots = vec![ca.root_der().clone()];
        keeper.trust(roots.clone(), vec![], issue(&ca, &csr, "h1")).unwrap();
        assert_ne!(keeper.leaf().serial, first);
        let stored = Credential::load(&dir.path().join("credential")).unwrap();
        assert_eq!(stored.leaf().serial, keeper.leaf().serial);
        let again = keeper.trust(roots, vec![], issue(&ca, &csr, "h1")).unwrap_err().to_string();
        assert!(again.contains("not asked for"), "{again}");
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let Site { ca, keeper, dir } = site();
        let other = Authority::create(&dir.path().join("other"), "c", Timestamp::now()).unwrap();
        let (serial, digest) = (keeper.leaf().serial, keeper.trust_digest());
        let csr = keeper.wants(Timestamp::now(), true).unwrap().unwrap();
        let (ours, theirs) = (vec![ca.root_der().clone()], vec![other.root_der().clone()]);
        assert!(keeper.trust(ours.clone(), vec![], issue(&ca, &csr, "h2")).is_err(), "another's certificate");
        let csr = keeper.wants(Timestamp::now(), true).unwrap().unwrap();
        assert!(keeper.trust(ours.clone(), vec![], issue(&other, &csr, "h1")).is_err(), "of a root not trusted");
        assert!(keeper.trust(theirs, vec![], vec![]).is_err(), "it would lock itself out");
        assert!(keeper.trust(vec![], vec![], vec![]).is_err());
        assert!(keeper.trust(ours, vec!["../x".to_owned()], vec![]).is_err());
        assert_eq!((keeper.leaf().serial, keeper.trust_digest()), (serial, digest));
    }

    #[test]
    fn roots_and_revoked_serials_survive_a_restart() {
        let Site { ca, keeper, dir } = site();
        let next = Authority::create(&dir.path().join("next"), "c", Timestamp::now()).unwrap();
        let roots = vec![ca.root_der().clone(), next.root_der().clone()];
        keeper.trust(roots.clone(), vec!["0a".to_owned(), "0b".to_owned()], vec![]).unwrap();
        let me = Identity::new("c", Role::Agent, "h1").unwrap();
        let again = Keeper::open(dir.path(), &dir.path().join("credential"), me).unwrap();
        assert_eq!(again.trust_digest(), keeper.trust_digest());
        assert_eq!(sorted(again.revoked().serials()), ["0a", "0b"]);
        let said = TrustRequest {
            roots_der: roots.iter().map(|c| c.to_vec()).collect(),
            revoked_serials: vec!["0a".to_owned(), "0b".to_owned()],
            ..TrustRequest::default()
        };
        assert_eq!(again.trust_digest(), trust::digest(&said).0, "both ends compute the same");
    }

    #[test]
    fn a_credential_that_is_put_there_is_taken_up() {
        let Site { ca, keeper, dir } = site();
        let me = Identity::new("c", Role::Agent, "h1").unwrap();
        let now = Timestamp::now();
        let next = ca.issue_credential(&me, Duration::from_secs(3600), now).unwrap();
        keeper.reload().unwrap();
        assert_ne!(keeper.leaf().serial, next.leaf().serial);
        next.store(&dir.path().join("credential")).unwrap();
        keeper.reload().unwrap();
        assert_eq!(keeper.leaf().serial, next.leaf().serial);
        let other = Identity::new("c", Role::Agent, "h2").unwrap();
        let other = ca.issue_credential(&other, Duration::from_secs(3600), now).unwrap();
        other.store(&dir.path().join("credential")).unwrap();
        assert!(keeper.reload().unwrap_err().to_string().contains("agent/h2"));
        assert_eq!(keeper.leaf().serial, next.leaf().serial, "the one in memory stays");
    }
}
