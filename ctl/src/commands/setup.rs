//! `prexorctl setup`: makes this host an agent of a cluster.
//!
//! Everything that can be wrong on this host is found before the token is spent; the private key is made here and stays.

mod config;
pub(crate) mod enrol;
mod gather;
mod rejoin;
mod service;

use std::path::PathBuf;

use jiff::Timestamp;
use prexor_certs::{EnrolmentToken, identity::Role};
use prexor_format::id::NodeName;
use serde::Serialize;

use crate::{cli::SetupArgs, exit::Exit, failure::Failure, printer::Printer, text};

/// All that is needed to enrol.
struct Enrolment {
    /// `host:port` of the enrolment listener.
    coordinator: String,
    token: EnrolmentToken,
    node: NodeName,
    hostname: String,
    /// `host:port` that the coordinator dials.
    advertise: String,
}

/// What `setup --json` prints.
#[derive(Serialize)]
struct Document {
    node: String,
    cluster: String,
    identity: String,
    certificate_not_after: Timestamp,
    config: PathBuf,
    credential: PathBuf,
    /// Whether the agent's unit was enabled and started.
    started: bool,
    /// How a person starts the agent.
    start_command: String,
    /// What `prexor-agent inspect` found.
    inspection: Option<serde_json::Value>,
}

/// Enrols this host, writes its configuration, starts the agent and shows what it finds.
///
/// # Errors
/// When something is missing, in the way, or the coordinator refuses.
pub async fn run(printer: &Printer, args: SetupArgs) -> Result<Exit, Failure> {
    if args.rejoin {
        return rejoin::run(printer, args).await;
    }
    config::check(&args)?;
    let enrolment = gather::gather(printer, &args).await?;
    config::prepare(&args)?;
    let enrolled = enrol::enrol(enrol::Applicant {
        coordinator: &enrolment.coordinator,
        token: &enrolment.token,
        role: Role::Agent,
        name: &enrolment.node,
        hostname: enrolment.hostname.clone(),
        address: enrolment.advertise.clone(),
        rejoin: false,
    })
    .await?;
    let credential = enrolled.credential;
    let identity = credential.identity().clone();
    let credential_dir = args.state_dir.join("credential");
    credential.store(&credential_dir).map_err(|e| Failure::local(e.to_string()))?;
    if let Some(kept) = config::write(&args, &enrolment, identity.cluster())? {
        printer.note(&format!("the former configuration is kept as {}", kept.display()));
    }
    printer.line(&format!("{} is enrolled in {}", enrolment.node, identity.cluster()));
    printer.line(&format!("certificate: {identity}, valid until {}", text::time(credential.not_after())));
    printer.line(&format!("config: {}", args.config.display()));
    printer.line(&format!("credential: {}", credential_dir.display()));

    let service = service::start(printer, &args.config);
    let inspection = service::inspect(printer, &args.config);
    printer.document(&Document {
        node: enrolment.node.to_string(),
        cluster: identity.cluster().to_owned(),
        identity: identity.to_string(),
        certificate_not_after: credential.not_after(),
        config: args.config,
        credential: credential_dir,
        started: service.started,
        start_command: service.start_command,
        inspection,
    });
    Ok(Exit::Ok)
}
