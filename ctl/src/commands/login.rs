//! `prexorctl login`: makes the person at this machine an operator of a cluster.
//!
//! The private key is made here and stays; what is in the context file already stays too.

use std::{env, path::PathBuf};

use jiff::Timestamp;
use prexor_certs::identity::Role;
use prexor_format::id::NodeName;
use prexor_transport::context::{self, Context, Contexts};
use serde::Serialize;

use crate::{
    cli::LoginArgs,
    commands::setup::enrol::{self, Applicant},
    exit::Exit,
    failure::Failure,
    hints::Hint,
    printer::Printer,
    prompt, text,
};

/// What `login --json` prints.
#[derive(Serialize)]
struct Document {
    identity: String,
    certificate_not_after: Timestamp,
    context: String,
    config: PathBuf,
}

/// Spends a token on an operator's certificate and writes a context with it, which is used from then on.
///
/// # Errors
/// When something is missing, in the way, or the coordinator refuses.
pub async fn run(printer: &Printer, args: LoginArgs) -> Result<Exit, Failure> {
    // The first place that is looked at later.
    let places = context::candidates(|name| env::var_os(name));
    let path = places.into_iter().next().ok_or_else(|| Failure::local("there is no place for a context file"))?;
    let mut contexts = if path.exists() { Contexts::load(&path)? } else { Contexts::default() };
    let coordinator = enrol::coordinator(printer, args.coordinator.as_deref()).await?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None if prompt::can_ask(printer) => parse(&prompt::ask(printer, "Your name", None).await?)?,
        None => return Err(Failure::usage("--name NAME is missing: it is how the audit log calls you")),
    };
    let token = enrol::token(printer, args.token_file.as_deref()).await?;
    let hostname = enrol::hostname();
    let enrolled = enrol::enrol(Applicant {
        coordinator: &coordinator,
        token: &token,
        role: Role::Operator,
        name: &name,
        hostname,
        address: String::new(),
        rejoin: false,
    })
    .await?;
    let credential = enrolled.credential;
    let identity = credential.identity().clone();
    let chosen = args.context.map_or_else(|| identity.cluster().to_owned(), |c| c.to_string());
    if contexts.contexts.get(&chosen).is_some_and(|c| c.cluster != identity.cluster()) {
        // The token is spent: rather another name than nothing at all.
        let message = format!("the context {chosen} in {} is of another cluster", path.display());
        return Err(Failure::local(format!("{message}: use --context NAME and a new token")).hint(Hint::CreateToken));
    }
    let dir = path.with_file_name("credentials").join(&chosen);
    credential.store(&dir).map_err(|e| Failure::local(e.to_string()))?;
    let context =
        Context { endpoints: vec![enrolled.api_address], cluster: identity.cluster().to_owned(), credential: dir };
    contexts.contexts.insert(chosen.clone(), context);
    contexts.current.clone_from(&chosen);
    contexts.save(&path)?;
    printer.line(&format!("you are {identity} until {}", text::time(credential.not_after())));
    printer.line(&format!("context: {chosen} in {}", path.display()));
    printer.document(&Document {
        identity: identity.to_string(),
        certificate_not_after: credential.not_after(),
        context: chosen,
        config: path,
    });
    Ok(Exit::Ok)
}

fn parse(name: &str) -> Result<NodeName, Failure> {
    name.parse().map_err(|e| Failure::usage(format!("{e}")))
}
