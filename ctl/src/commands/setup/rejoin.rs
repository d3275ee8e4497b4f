//! `prexorctl setup --rejoin`: the way back, whatever became of this host's certificate or of the CA. The node stays the
//! same, its configuration and data stay; its key is a new one, and what it had before is good no more.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use prexor_certs::{Credential, identity::Role};
use prexor_format::id::NodeName;
use serde::Deserialize;

use super::{Document, enrol, service};
use crate::{cli::SetupArgs, exit::Exit, failure::Failure, hints::Hint, printer::Printer, text};

/// What is read of the agent's configuration. The rest is the agent's.
#[derive(Deserialize)]
struct AgentConfig {
    node: NodeName,
    cluster: String,
    #[serde(default = "default_state_dir")]
    state_dir: PathBuf,
    coordinator: Option<String>,
    advertise: Option<String>,
}

fn default_state_dir() -> PathBuf {
    "/var/lib/prexor-agent".into()
}

/// Gets a new certificate for the node of this host's configuration, and starts the agent again.
///
/// # Errors
/// When this host was never enrolled, something is missing, or the coordinator refuses; then everything is as it was.
pub(super) async fn run(printer: &Printer, args: SetupArgs) -> Result<Exit, Failure> {
    let config = read(&args.config)?;
    if let Some(node) = args.node.as_ref().filter(|node| **node != config.node) {
        let message = format!("{} says that this host is {}, not {node}", args.config.display(), config.node);
        return Err(Failure::usage(message));
    }
    let dir = config.state_dir.join("credential");
    let former = Credential::load(&dir);
    let coordinator =
        enrol::coordinator(printer, args.coordinator.as_deref().or(config.coordinator.as_deref())).await?;
    let address = args.advertise.clone().or(config.advertise).unwrap_or_default();
    if !address.is_empty() {
        enrol::check_address("--advertise", &address)?;
    }
    let token = enrol::token(printer, args.token_file.as_deref()).await?;
    writable(&dir)?;
    let enrolled = enrol::enrol(enrol::Applicant {
        coordinator: &coordinator,
        token: &token,
        role: Role::Agent,
        name: &config.node,
        hostname: enrol::hostname(),
        address,
        rejoin: true,
    })
    .await?;
    let credential = enrolled.credential;
    let identity = credential.identity().clone();
    if identity.cluster() != config.cluster {
        let message = format!(
            "the token is of the cluster {}, {} says {}: to move this host there, use `prexorctl setup --force`",
            identity.cluster(),
            args.config.display(),
            config.cluster
        );
        return Err(Failure::local(message));
    }
    credential.store(&dir).map_err(|e| Failure::local(e.to_string()))?;
    printer.line(&format!("{} has rejoined {}", config.node, config.cluster));
    printer.line(&format!("certificate: {identity}, valid until {}", text::time(credential.not_after())));
    let before = former.ok().filter(|former| former.roots() != credential.roots());
    if let Some(before) = before {
        let [old, new] = [&before, &credential].map(fingerprints);
        printer.line(&format!("backup CA: {new} (before: {old})"));
    }
    let service = service::restart(printer, &args.config);
    let inspection = service::inspect(printer, &args.config);
    printer.document(&Document {
        node: config.node.to_string(),
        cluster: config.cluster,
        identity: identity.to_string(),
        certificate_not_after: credential.not_after(),
        config: args.config,
        credential: dir,
        started: service.started,
        start_command: service.start_command,
        inspection,
    });
    Ok(Exit::Ok)
}

fn fingerprints(credential: &Credential) -> String {
    let all = credential.roots().iter().map(|root| prexor_format::digest::Sha256Digest::of(root).to_string());
    all.collect::<Vec<_>>().join(" and ")
}

fn read(path: &Path) -> Result<AgentConfig, Failure> {
    let text = fs::read_to_string(path).map_err(|e| {
        let failure = Failure::local(format!("cannot read the agent's configuration {}: {e}", path.display()));
        if e.kind() == io::ErrorKind::NotFound { failure.hint(Hint::SetUp) } else { failure }
    })?;
    // What the parser says may repeat values of the file, which may be secrets.
    serde_saphyr::from_str(&text).map_err(|_| {
        let message = format!("{} is no agent's configuration: it needs `node` and `cluster`", path.display());
        Failure::local(message).hint(Hint::Inspect(path.to_owned()))
    })
}

/// Finds out whether a credential could be written before the token is spent.
fn writable(dir: &Path) -> Result<(), Failure> {
    let cannot = |e: io::Error| Failure::local(format!("cannot write to {}: {e}: run setup as root", dir.display()));
    let parent = dir.parent().unwrap_or(Path::new("/"));
    let place = if dir.exists() { dir } else { parent };
    let probe = place.join(format!(".prexorctl-{}", std::process::id()));
    fs::write(&probe, "").and_then(|()| fs::remove_file(&probe)).map_err(cannot)
}
