//! The coordinator's own credential: issued by its CA at the first start, renewed while it runs, and handed to
//! listeners and dialers without a restart.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use prexor_certs::{
    Credential, Identity, Role,
    tls::{checking_server_config, enrolment_server_config},
};
use prexor_transport::revoked::Revoked;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    ca::{Ca, Roots},
    catalog::Catalog,
    config::Config,
    context::Context,
    error::Error,
};

/// How often the credential's age is looked at, at least; a twelfth of shorter lives.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// The newest credential, and what TLS makes of it.
#[derive(Debug)]
pub struct Tls {
    dir: PathBuf,
    lifetime: Duration,
    revoked: Revoked,
    credential: watch::Sender<Arc<Credential>>,
    api: watch::Sender<Arc<ServerConfig>>,
    enrolment: watch::Sender<Arc<ServerConfig>>,
}

impl Tls {
    /// Loads the credential, or has a new one issued when there is none that will do.
    ///
    /// # Errors
    /// When none can be issued or kept.
    pub async fn open(config: &Config, ca: &Ca, catalog: &Catalog, revoked: Revoked) -> Result<Self, Error> {
        let (dir, lifetime, roots) = (config.credential_dir(), config.certificates.coordinator, ca.roots());
        let credential = match Credential::load(&dir) {
            Ok(credential) if is_good(&credential, &roots, Timestamp::now()) => credential,
            _ => issue(&dir, &roots, lifetime, catalog).await?,
        };
        let (api, enrolment) = configs(&credential, &revoked)?;
        Ok(Self {
            dir,
            lifetime,
            revoked,
            credential: watch::Sender::new(Arc::new(credential)),
            api: watch::Sender::new(api),
            enrolment: watch::Sender::new(enrolment),
        })
    }

    /// The credential to dial with.
    pub fn credential(&self) -> watch::Receiver<Arc<Credential>> {
        self.credential.subscribe()
    }

    /// For the API's listener.
    pub fn api(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.api.subscribe()
    }

    /// For the enrolment listener.
    pub fn enrolment(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.enrolment.subscribe()
    }

    /// Renews the credential in time, and whenever the roots change, until `stop` fires.
    pub async fn keep_fresh(self, ctx: Arc<Context>, stop: CancellationToken) {
        let every = LOOK_EVERY.min(self.lifetime / 12);
        let mut target = ctx.ca.target();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
                Ok(()) = target.changed() => {}
            }
            let current = self.credential.borrow().clone();
            let roots = target.borrow_and_update().clone();
            if !is_good(&current, &roots, Timestamp::now())
                && let Err(e) = self.renew(&roots, &ctx.catalog).await
            {
                tracing::error!("the coordinator's certificate could not be renewed, trying again: {e}");
                continue;
            }
            ctx.ca.take_effect(&roots);
        }
    }

    async fn renew(&self, roots: &Roots, catalog: &Catalog) -> Result<(), Error> {
        let credential = issue(&self.dir, roots, self.lifetime, catalog).await?;
        let (api, enrolment) = configs(&credential, &self.revoked)?;
        tracing::info!(not_after = %credential.not_after(), "the coordinator's certificate was renewed");
        self.credential.send_replace(Arc::new(credential));
        self.api.send_replace(api);
        self.enrolment.send_replace(enrolment);
        Ok(())
    }
}

/// Whether a credential is signed by the current root, trusts all that are to be trusted, and is not to be renewed yet.
fn is_good(credential: &Credential, roots: &Roots, now: Timestamp) -> bool {
    let leaf = credential.leaf();
    credential.roots() == roots.certificates()
        && credential.chain().get(1) == Some(roots.current.root_der())
        && credential.identity().cluster() == roots.current.cluster()
        && leaf.not_before <= now
        && now < leaf.renew_at()
}

async fn issue(
    dir: &std::path::Path,
    roots: &Roots,
    lifetime: Duration,
    catalog: &Catalog,
) -> Result<Credential, Error> {
    let failed = |e: &dyn std::fmt::Display| Error::internal(format!("the coordinator has no certificate: {e}"));
    let authority = &roots.current;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let identity = Identity::new(authority.cluster(), Role::Coordinator, &host)
        .or_else(|_| Identity::new(authority.cluster(), Role::Coordinator, "coordinator"))
        .map_err(|e| failed(&e))?;
    let now = Timestamp::now();
    let (key, csr) = prexor_certs::credential::generate_request().map_err(|e| failed(&e))?;
    let chain = authority.issue(&csr, &identity, lifetime, now).map_err(|e| failed(&e))?;
    let credential = Credential::new(chain, key, roots.certificates()).map_err(|e| failed(&e))?;
    catalog.add_certificate(credential.leaf(), authority.fingerprint(), now).await?;
    credential.store(dir).map_err(|e| failed(&e))?;
    Ok(credential)
}

fn configs(credential: &Credential, revoked: &Revoked) -> Result<(Arc<ServerConfig>, Arc<ServerConfig>), Error> {
    let failed = |e: prexor_certs::tls::TlsError| Error::internal(e.to_string());
    let api = checking_server_config(credential, revoked.lookup()).map_err(failed)?;
    Ok((api, enrolment_server_config(credential).map_err(failed)?))
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use prexor_certs::Authority;

    use super::*;

    #[tokio::test]
    async fn a_credential_is_renewed_in_the_last_third_of_its_life_and_when_roots_change() {
        let (catalog, dir) = crate::catalog::tests::scratch().await;
        let (now, month) = (Timestamp::now(), Duration::from_secs(30 * 86400));
        let authority = |name: &str| Authority::create(&dir.path().join(name), "c", now).unwrap();
        let roots = Roots { current: authority("ca"), next: None };
        let credential = issue(&dir.path().join("credential"), &roots, month, &catalog).await.unwrap();
        assert!(is_good(&credential, &roots, now));
        assert!(is_good(&credential, &roots, now + SignedDuration::from_hours(19 * 24)));
        assert!(!is_good(&credential, &roots, now + SignedDuration::from_hours(24 * 24)));
        assert!(catalog.is_known(Role::Coordinator, credential.identity().name()).await.unwrap());
        let rotating = Roots { current: roots.current, next: Some(authority("next")) };
        assert!(!is_good(&credential, &rotating, now), "it does not trust the next root");
        assert!(!is_good(&credential, &Roots { current: authority("other"), next: None }, now));
    }
}
