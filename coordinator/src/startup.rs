//! The first start and every start: the state directory, the CA, and the first operator's context.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use jiff::Timestamp;
use prexor_certs::{Credential, Identity, Role};
use prexor_transport::context::{self, Contexts};
use rustix::fs::{FlockOperation, flock};

use crate::{ca::Ca, catalog::Catalog, config::Config, error::Error};

/// The name of the context, and of the directory of its credential.
pub const CONTEXT: &str = "default";

/// The name of the first operator.
pub const ROOT: &str = "root";

/// What the catalog remembers once the first operator's context is written.
const FIRST_OPERATOR: &str = "first-operator";

/// Makes the state directory (mode 0700) and takes it for this process alone, as long as what is returned lives.
///
/// # Errors
/// When it cannot be made, others can read it, or another coordinator uses it.
pub fn take_state_dir(dir: &Path) -> Result<fs::File, Error> {
    let unusable = |e: &dyn std::fmt::Display| {
        Error::internal(format!("the state directory {} cannot be used: {e}", dir.display()))
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| unusable(&e))?;
    let mode = fs::metadata(dir).map_err(|e| unusable(&e))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(unusable(&format!("others may read it (mode {:03o}): chmod 700 it", mode & 0o777)));
    }
    let lock = fs::File::options().create(true).append(true).open(dir.join("lock")).map_err(|e| unusable(&e))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| unusable(&"another coordinator is running with it"))?;
    Ok(lock)
}

/// Writes the context with which root on this host uses `prexorctl`, once in the life of this CA.
///
/// # Errors
/// When it cannot be written, or there is a context file already that is not ours: it is never replaced.
pub async fn first_operator(config: &Config, catalog: &Catalog, ca: &Ca) -> Result<(), Error> {
    if catalog.is_done(FIRST_OPERATOR).await? {
        return Ok(());
    }
    let file = &config.operator_config;
    if file.exists() {
        // A start that was killed right here has written it already.
        if !is_ours(file, ca) {
            return Err(Error::invalid(format!(
                "{} is there already and belongs to another CA: move it and the credentials beside it away, and start \
                 again",
                file.display()
            )));
        }
    } else {
        write_context(config, catalog, ca, ROOT, file, CONTEXT).await?;
        tracing::info!(file = %file.display(), "the first operator's context was written: prexorctl works for root now");
    }
    catalog.set_done(FIRST_OPERATOR, Timestamp::now()).await
}

/// Issues a credential to an operator and writes it with a context of this name, which becomes the current one; other
/// contexts in the file stay.
///
/// # Errors
/// When it cannot be issued, recorded or written.
pub async fn write_context(
    config: &Config,
    catalog: &Catalog,
    ca: &Ca,
    operator: &str,
    file: &Path,
    name: &str,
) -> Result<Timestamp, Error> {
    let failed = |e: &dyn std::fmt::Display| {
        Error::internal(format!("the context of the operator {operator} cannot be written: {e}"))
    };
    let identity =
        Identity::new(&config.cluster, Role::Operator, operator).map_err(|e| Error::invalid(e.to_string()))?;
    let mut contexts = match file.exists() {
        true => Contexts::load(file).map_err(|e| Error::invalid(e.to_string()))?,
        false => Contexts::default(),
    };
    let credential = ca.issue_credential(&identity, config.certificates.operator, catalog).await?;
    let credential_dir = file.with_file_name("credentials").join(name);
    credential.store(&credential_dir).map_err(|e| failed(&e))?;
    let context = context::Context {
        endpoints: vec![config.api_address.clone()],
        cluster: config.cluster.clone(),
        credential: credential_dir,
    };
    contexts.contexts.insert(name.to_owned(), context);
    contexts.current = name.to_owned();
    contexts.save(file).map_err(|e| failed(&e))?;
    Ok(credential.not_after())
}

fn is_ours(file: &Path, ca: &Ca) -> bool {
    let contexts = Contexts::load(file).ok();
    let context = contexts.as_ref().and_then(|c| c.current().ok());
    let credential = context.and_then(|c| Credential::load(&c.credential).ok());
    credential.is_some_and(|c| c.roots().contains(ca.roots().current.root_der()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;

    fn config(dir: &Path) -> Config {
        let file = dir.join("coordinator.yml");
        let yaml = format!(
            "cluster: c\nstate_dir: {0}/state\nstore: {{path: {0}/store}}\noperator_config: {0}/etc/config.yml\n",
            dir.display()
        );
        fs::write(&file, yaml).unwrap();
        Config::load(&file).unwrap()
    }

    #[test]
    fn one_coordinator_has_a_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let lock = take_state_dir(&state).unwrap();
        let e = take_state_dir(&state).unwrap_err();
        assert!(e.message.contains("another coordinator"), "{e}");
        drop(lock);
        drop(take_state_dir(&state).unwrap());
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(take_state_dir(&state).unwrap_err().message.contains("chmod 700"));
    }

    #[tokio::test]
    async fn the_first_operator_is_made_once_and_nothing_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        drop(take_state_dir(&config.state_dir).unwrap());
        let (catalog, _guard) = catalog::tests::scratch().await;
        let ours = Ca::open(&config).unwrap();
        first_operator(&config, &catalog, &ours).await.unwrap();
        let contexts = Contexts::load(&config.operator_config).unwrap();
        let context = contexts.current().unwrap();
        assert_eq!(context.endpoints, ["127.0.0.1:9443"]);
        let credential = Credential::load(&context.credential).unwrap();
        assert_eq!(credential.identity().to_string(), "prexor://c/operator/root");

        // Removed by a person: it does not come back by itself.
        fs::remove_file(&config.operator_config).unwrap();
        first_operator(&config, &catalog, &Ca::open(&config).unwrap()).await.unwrap();
        assert!(!config.operator_config.exists());

        // Killed before it was remembered: what is there is ours. Somebody else's is left alone.
        let (fresh, _guard) = catalog::tests::scratch().await;
        contexts.save(&config.operator_config).unwrap();
        first_operator(&config, &fresh, &ours).await.unwrap();
        let (fresh, _guard) = catalog::tests::scratch().await;
        let other = Ca::open(&Config { state_dir: dir.path().join("other"), ..config.clone() }).unwrap();
        let e = first_operator(&config, &fresh, &other).await.unwrap_err();
        assert!(e.message.contains("another CA"), "{e}");
    }

    #[test]
    fn a_cluster_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        drop(take_state_dir(&config.state_dir).unwrap());
        Ca::open(&config).unwrap();
        let renamed = Config { cluster: "d".to_owned(), ..config };
        assert!(Ca::open(&renamed).unwrap_err().message.contains("keeps its name"));
    }
}
