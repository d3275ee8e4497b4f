//! The backup CA as the coordinator has it: the root that signs, and during a rotation the one that takes its place.
//!
//! `<state_dir>/ca` is the root that the coordinator's own certificate is signed by; `<state_dir>/ca-next` is there while
//! a rotation is under way. Both are trusted then, and everybody else's certificates are signed by the next one.

use std::{fs, path::Path, sync::Arc};

use jiff::Timestamp;
use prexor_certs::{Authority, CertificateDer, Credential, Identity, Leaf};
use prexor_format::digest::Sha256Digest;
use tokio::sync::watch;

use crate::{catalog::Catalog, config::Config, error::Error};

/// The roots there are now.
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
    roots: watch::Sender<Arc<Roots>>,
}

impl Ca {
    /// Opens the CA, or makes it at the first start.
    ///
    /// # Errors
    /// When it cannot be used, or belongs to another cluster than the configured one.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let (dir, next_dir) = (config.ca_dir(), config.state_dir.join("ca-next"));
        if !dir.exists() && next_dir.exists() {
            // Killed between the two renames that end a rotation.
            rename(&next_dir, &dir)?;
        }
        let current = match dir.exists() {
            true => open(&dir, config)?,
            false => {
                let made = create(&dir, &config.cluster)?;
                tracing::info!(dir = %dir.display(), fingerprint = %made.fingerprint(), "the backup CA was made");
                made
            }
        };
        let next = next_dir.exists().then(|| open(&next_dir, config)).transpose()?;
        Ok(Self { roots: watch::Sender::new(Arc::new(Roots { current, next })) })
    }

    /// Opens the CA that must be there.
    ///
    /// # Errors
    /// When there is none, or as [`Ca::open`].
    pub fn existing(config: &Config) -> Result<Self, Error> {
        if !config.ca_dir().exists() {
            let message = format!("there is no CA in {}: the coordinator makes it", config.ca_dir().display());
            return Err(Error::invalid(message));
        }
        Self::open(config)
    }

    /// The roots there are now.
    pub fn roots(&self) -> Arc<Roots> {
        self.roots.borrow().clone()
    }

    /// Learns of changes of the roots.
    pub fn changes(&self) -> watch::Receiver<Arc<Roots>> {
        self.roots.subscribe()
    }

    /// What tokens pin: the SHA-256 of the root that the enrolment listener presents.
    pub fn fingerprint(&self) -> Sha256Digest {
        self.roots().current.fingerprint()
    }

    /// Signs a certificate for an agent or an operator.
    ///
    /// # Errors
    /// `INVALID_REQUEST` when the request is no good one.
    pub fn issue(
        &self,
        csr_der: &[u8],
        identity: &Identity,
        lifetime: std::time::Duration,
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
        lifetime: std::time::Duration,
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

fn create(dir: &Path, cluster: &str) -> Result<Authority, Error> {
    Authority::create(dir, cluster, Timestamp::now()).map_err(|e| Error::internal(e.to_string()))
}

fn open(dir: &Path, config: &Config) -> Result<Authority, Error> {
    let authority = Authority::open(dir).map_err(|e| Error::internal(e.to_string()))?;
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
