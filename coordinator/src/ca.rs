//! The backup CA as the coordinator has it: the root that signs, and during a rotation the one that takes its place.
//!
//! `<state_dir>/ca` is the root that the coordinator's own certificate is signed by; `<state_dir>/ca-next` is there while
//! a rotation is under way. Both are trusted then, and everybody else's certificates are signed by the next one.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use prexor_certs::{Authority, CertificateDer, Credential, Identity, Leaf, Passphrase, authority::AuthorityError};
use prexor_format::digest::Sha256Digest;
use tokio::sync::watch;

use crate::{catalog::Catalog, config::Config, error::Error};

/// How long a change of the roots is waited for.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

/// Roots, and which of them signs.
#[derive(Debug)]
pub struct Roots {
    /// Signs the coordinator's own certificate; tokens pin it.
    pub current: Authority,
    /// Signs everybody else's during a rotation.
    pub next: Option<Authority>,
}

impl Roots {
    /// The one that signs for agents and operators.
    pub fn issuing(&self) -> &Authority {
        self.next.as_ref().unwrap_or(&self.current)
    }

    /// All that are trusted.
    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        let next = self.next.as_ref().map(Authority::root_der);
        [self.current.root_der()].into_iter().chain(next).cloned().collect()
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Ca {
    dir: PathBuf,
    next_dir: PathBuf,
    /// What the keys lie under on the disk.
    passphrase: Option<Passphrase>,
    /// As they are on the disk: where the coordinator's own credential has to get to.
    target: watch::Sender<Arc<Roots>>,
    /// As the coordinator's own credential and listeners have them: what others are told and given.
    roots: watch::Sender<Arc<Roots>>,
}

impl Ca {
    /// Opens the CA, or makes it at the first start.
    ///
    /// # Errors
    /// When it cannot be used, or belongs to another cluster than the configured one.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let (dir, next_dir) = (config.ca_dir(), config.state_dir.join("ca-next"));
        let passphrase = config.ca_passphrase.as_deref().map(Passphrase::read).transpose();
        let passphrase = passphrase.map_err(|e| Error::invalid(format!("ca.passphrase_file: {e}")))?;
        let with = passphrase.as_ref();
        if !dir.exists() && next_dir.exists() {
            // Killed between the two renames that end a rotation.
            rename(&next_dir, &dir)?;
        }
        let current = match dir.exists() {
            true => open(&dir, config, with)?,
            false => {
                let made = create(&dir, &config.cluster, with)?;
                tracing::info!(dir = %dir.display(), fingerprint = %made.fingerprint(), "the backup CA was made");
                made
            }
        };
        let next = next_dir.exists().then(|| open(&next_dir, config, with)).transpose()?;
        let roots = Arc::new(Roots { current, next });
        let (target, roots) = (watch::Sender::new(roots.clone()), watch::Sender::new(roots));
        Ok(Self { dir, next_dir, passphrase, target, roots })
    }

    /// Opens the CA that must be there.
    ///
    /// # Errors
    /// When there is none, or as [`Ca::open`].
    pub fn existing(config: &Config) -> Result<Self, Error> {
        if !config.ca_dir().exists() && !config.state_dir.join("ca-next").exists() {
            let message = format!("there is no CA in {}: the coordinator makes it", config.ca_dir().display());
            return Err(Error::invalid(message));
        }
        Self::open(config)
    }

    /// The roots that are in effect.
    pub fn roots(&self) -> Arc<Roots> {
        self.roots.borrow().clone()
    }

    /// The roots that are to take effect, and their changes.
    pub fn target(&self) -> watch::Receiver<Arc<Roots>> {
        self.target.subscribe()
    }

    /// From now on these are in effect: the coordinator itself trusts them, and is trusted by whoever does.
    pub fn take_effect(&self, roots: &Arc<Roots>) {
        self.roots.send_if_modified(|now| {
            let other = !Arc::ptr_eq(now, roots);
            *now = roots.clone();
            other
        });
    }

    /// Waits until what was begun or finished has taken effect; not for ever.
    pub async fn settled(&self) {
        let (target, mut roots) = (self.target.borrow().clone(), self.roots.subscribe());
        let settled = roots.wait_for(|now| Arc::ptr_eq(now, &target));
        if tokio::time::timeout(SETTLED_WITHIN, settled).await.is_err() {
            tracing::warn!("a change of the CA has not taken effect yet: the coordinator has no certificate for it");
        }
    }

    /// What tokens pin: the SHA-256 of the root that the enrolment listener presents.
    pub fn fingerprint(&self) -> Sha256Digest {
        self.roots().current.fingerprint()
    }

    /// Makes the root that takes the place of the current one. As soon as that takes effect both are trusted, and it signs.
    ///
    /// # Errors
    /// `INVALID_REQUEST` when a rotation is under way.
    pub fn begin(&self) -> Result<(), Error> {
        let roots = self.target.borrow().clone();
        if roots.next.is_some() {
            return Err(Error::invalid("a rotation of the CA is under way: `prexorctl ca show` says who it waits for"));
        }
        let next = create(&self.next_dir, roots.current.cluster(), self.passphrase.as_ref())?;
        tracing::info!(fingerprint = %next.fingerprint(), "the CA is being replaced");
        let current = self.reopen()?;
        self.target.send_replace(Arc::new(Roots { current, next: Some(next) }));
        Ok(())
    }

    /// Lets the next root take the place of the current one, which is trusted no more; its files are kept beside it.
    ///
    /// # Errors
    /// `INVALID_REQUEST` when no rotation is under way.
    pub fn finish(&self) -> Result<(), Error> {
        let roots = self.target.borrow().clone();
        if roots.next.is_none() {
            return Err(Error::invalid("no rotation of the CA is under way: `prexorctl ca rotate` begins one"));
        }
        let former = roots.current.fingerprint().to_string();
        rename(&self.dir, &self.dir.with_file_name(format!("ca-retired-{}", &former[..16])))?;
        rename(&self.next_dir, &self.dir)?;
        let current = self.reopen()?;
        tracing::info!(fingerprint = %current.fingerprint(), former, "the CA was replaced");
        self.target.send_replace(Arc::new(Roots { current, next: None }));
        Ok(())
    }

    fn reopen(&self) -> Result<Authority, Error> {
        Authority::open_with(&self.dir, self.passphrase.as_ref()).map_err(|e| Error::internal(e.to_string()))
    }

    /// Signs a certificate for an agent or an operator.
    ///
    /// # Errors
    /// `INVALID_REQUEST` when the request is no good one.
    pub fn issue(
        &self,
        csr_der: &[u8],
        identity: &Identity,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        let roots = self.roots();
        let chain = roots.issuing().issue(csr_der, identity, lifetime, now);
        let chain = chain.map_err(|e| Error::invalid(e.to_string()))?;
        let leaf = Leaf::parse(&chain[0]).map_err(|e| Error::internal(e.to_string()))?;
        Ok(Issued { chain, leaf, roots: roots.certificates(), ca: roots.issuing().fingerprint() })
    }

    /// Makes a key here and signs and records a certificate for it, for an operator on this host.
    ///
    /// # Errors
    /// When the CA cannot sign, or the catalog cannot be written.
    pub async fn issue_credential(
        &self,
        identity: &Identity,
        lifetime: Duration,
        catalog: &Catalog,
    ) -> Result<Credential, Error> {
        let (key, csr) = prexor_certs::credential::generate_request().map_err(|e| Error::internal(e.to_string()))?;
        let now = Timestamp::now();
        let issued = self.issue(&csr, identity, lifetime, now)?;
        catalog.add_certificate(&issued.leaf, issued.ca, now).await?;
        Credential::new(issued.chain, key, issued.roots).map_err(|e| Error::internal(e.to_string()))
    }
}

/// A certificate that was issued.
#[derive(Debug)]
pub struct Issued {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// What the leaf says.
    pub leaf: Leaf,
    /// What its owner is to trust.
    pub roots: Vec<CertificateDer<'static>>,
    /// The SHA-256 of the root that signed it.
    pub ca: Sha256Digest,
}

fn create(dir: &Path, cluster: &str, passphrase: Option<&Passphrase>) -> Result<Authority, Error> {
    Authority::create_with(dir, cluster, Timestamp::now(), passphrase).map_err(|e| Error::internal(e.to_string()))
}

fn open(dir: &Path, config: &Config, passphrase: Option<&Passphrase>) -> Result<Authority, Error> {
    let authority = Authority::open_with(dir, passphrase).map_err(|e| match e {
        // The configuration's to mend: a restart will not help.
        AuthorityError::Passphrase { .. } => Error::invalid(format!("{e}: see ca.passphrase_file in coordinator.yml")),
        e => Error::internal(e.to_string()),
    })?;
    if authority.cluster() != config.cluster {
        return Err(Error::invalid(format!(
            "the CA in {} is that of the cluster '{}', the configuration says '{}': a cluster keeps its name",
            dir.display(),
            authority.cluster(),
            config.cluster
        )));
    }
    Ok(authority)
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    let sync = |path: &Path| path.parent().map_or(Ok(()), |dir| fs::File::open(dir).and_then(|d| d.sync_all()));
    fs::rename(from, to)
        .and_then(|()| sync(to))
        .map_err(|e| Error::internal(format!("{} cannot become {}: {e}", from.display(), to.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path) -> Config {
        let file = dir.join("coordinator.yml");
        let yaml = format!("cluster: c\nstate_dir: {0}/state\nstore: {{path: {0}/store}}\n", dir.display());
        fs::write(&file, yaml).unwrap();
        fs::create_dir(dir.join("state")).unwrap();
        Config::load(&file).unwrap()
    }

    #[test]
    fn a_rotation_is_begun_once_and_survives_a_crash_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        assert!(Ca::existing(&config).is_err(), "nothing is made behind the coordinator's back");
        let ca = Ca::open(&config).unwrap();
        let first = ca.fingerprint();
        assert!(ca.finish().is_err());
        ca.begin().unwrap();
        assert!(ca.begin().is_err());
        let both = ca.target().borrow().clone();
        assert!(ca.roots().next.is_none(), "nobody is told before the coordinator itself trusts it");
        ca.take_effect(&both);
        let second = both.next.as_ref().unwrap().fingerprint();
        assert_eq!((both.current.fingerprint(), both.issuing().fingerprint()), (first, second));
        assert_eq!(both.certificates().len(), 2);

        let again = Ca::open(&config).unwrap();
        assert_eq!(again.roots().issuing().fingerprint(), second, "after a restart it goes on");
        // Killed between the two renames.
        fs::rename(config.ca_dir(), dir.path().join("state/ca-retired")).unwrap();
        let again = Ca::existing(&config).unwrap();
        assert_eq!((again.fingerprint(), again.roots().next.is_none()), (second, true));
    }

    #[test]
    fn no_key_of_the_ca_lies_in_the_clear_when_there_is_a_passphrase() {
        let dir = tempfile::tempdir().unwrap();
        let plain = config(dir.path());
        let first = Ca::open(&plain).unwrap().fingerprint();
        let file = dir.path().join("passphrase");
        let write = |words: &str| {
            fs::write(&file, words).unwrap();
            fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        };
        write("correct horse battery staple\n");
        let config = Config { ca_passphrase: Some(file.clone()), ..plain.clone() };
        let in_the_clear = |ca: &Path| fs::read_to_string(ca.join("ca-key.pem")).unwrap().contains("BEGIN PRIVATE KEY");
        assert!(in_the_clear(&config.ca_dir()));
        let ca = Ca::open(&config).unwrap();
        assert_eq!(ca.fingerprint(), first, "the same CA as before");
        assert!(!in_the_clear(&config.ca_dir()));
        ca.begin().unwrap();
        assert!(!in_the_clear(&config.state_dir.join("ca-next")));
        ca.finish().unwrap();
        assert!(!in_the_clear(&config.ca_dir()));
        assert!(Ca::existing(&config).is_ok());

        let missing = Ca::open(&plain).unwrap_err();
        assert_eq!(missing.reason, prexor_proto::reason::Reason::InvalidRequest);
        assert!(missing.message.contains("none is configured") && missing.message.contains("passphrase_file"));
        write("incorrect horse battery staple\n");
        let wrong = Ca::open(&config).unwrap_err().message;
        assert!(wrong.contains("does not open it") && !wrong.contains("horse"), "{wrong}");
        write("");
        assert!(Ca::open(&config).unwrap_err().message.contains("holds no passphrase"));
    }

    #[test]
    fn a_finished_rotation_leaves_one_root() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::open(&config(dir.path())).unwrap();
        let mut changes = ca.target();
        ca.begin().unwrap();
        let next = ca.target().borrow().issuing().fingerprint();
        ca.finish().unwrap();
        ca.take_effect(&ca.target().borrow());
        assert!(changes.has_changed().unwrap());
        assert_eq!((ca.fingerprint(), changes.borrow_and_update().certificates().len()), (next, 1));
    }
}
