//! The coordinator's own credential: issued by its CA at the first start, renewed while it runs, and handed to
//! listeners and dialers without a restart.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use prexor_certs::{
    Authority, Credential, Identity, Role,
    authority::default_lifetime,
    tls::{enrolment_server_config, server_config},
};
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{config::Config, context::Context, error::Error};

/// How often the credential's age is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// The newest credential, and what TLS makes of it.
#[derive(Debug)]
pub struct Tls {
    dir: PathBuf,
    credential: watch::Sender<Arc<Credential>>,
    api: watch::Sender<Arc<ServerConfig>>,
    enrolment: watch::Sender<Arc<ServerConfig>>,
}

impl Tls {
    /// Loads the credential, or has a new one issued when there is none that will do.
    ///
    /// # Errors
    /// When none can be issued or kept.
    pub fn open(config: &Config, authority: &Authority) -> Result<Self, Error> {
        let dir = config.credential_dir();
        let credential = match Credential::load(&dir) {
            Ok(credential) if is_good(&credential, authority, Timestamp::now()) => credential,
            _ => issue(&dir, authority)?,
        };
        let (api, enrolment) = configs(&credential)?;
        Ok(Self {
            dir,
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

    /// Renews the credential in time, until `stop` fires.
    pub async fn keep_fresh(self, ctx: Arc<Context>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let current = self.credential.borrow().clone();
            if is_good(&current, &ctx.authority, Timestamp::now()) {
                continue;
            }
            if let Err(e) = self.renew(&ctx.authority) {
                tracing::error!("the coordinator's certificate could not be renewed, trying again in an hour: {e}");
            }
        }
    }

    fn renew(&self, authority: &Authority) -> Result<(), Error> {
        let credential = issue(&self.dir, authority)?;
        let (api, enrolment) = configs(&credential)?;
        tracing::info!(not_after = %credential.not_after(), "the coordinator's certificate was renewed");
        self.credential.send_replace(Arc::new(credential));
        self.api.send_replace(api);
        self.enrolment.send_replace(enrolment);
        Ok(())
    }
}

/// Whether a credential is of this CA and has more than a third of its life left.
fn is_good(credential: &Credential, authority: &Authority, now: Timestamp) -> bool {
    let leaf = credential.leaf();
    let (life, left) = (leaf.not_after.duration_since(leaf.not_before), leaf.not_after.duration_since(now));
    credential.roots().contains(authority.root_der())
        && credential.identity().cluster() == authority.cluster()
        && leaf.not_before <= now
        && left > SignedDuration::from_secs(life.as_secs() / 3)
}

fn issue(dir: &std::path::Path, authority: &Authority) -> Result<Credential, Error> {
    let failed = |e: &dyn std::fmt::Display| Error::internal(format!("the coordinator has no certificate: {e}"));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let identity = Identity::new(authority.cluster(), Role::Coordinator, &host)
        .or_else(|_| Identity::new(authority.cluster(), Role::Coordinator, "coordinator"))
        .map_err(|e| failed(&e))?;
    let lifetime = default_lifetime(Role::Coordinator);
    let credential = authority.issue_credential(&identity, lifetime, Timestamp::now()).map_err(|e| failed(&e))?;
    credential.store(dir).map_err(|e| failed(&e))?;
    Ok(credential)
}

fn configs(credential: &Credential) -> Result<(Arc<ServerConfig>, Arc<ServerConfig>), Error> {
    let failed = |e: prexor_certs::tls::TlsError| Error::internal(e.to_string());
    Ok((server_config(credential).map_err(failed)?, enrolment_server_config(credential).map_err(failed)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_renewed_with_a_third_of_its_life_left() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let authority = Authority::create(&dir.path().join("ca"), "c", now).unwrap();
        let credential = issue(&dir.path().join("credential"), &authority).unwrap();
        assert!(is_good(&credential, &authority, now));
        assert!(is_good(&credential, &authority, now + SignedDuration::from_hours(19 * 24)));
        assert!(!is_good(&credential, &authority, now + SignedDuration::from_hours(21 * 24)));
        let other = Authority::create(&dir.path().join("other"), "c", now).unwrap();
        assert!(!is_good(&credential, &other, now));
    }
}
