//! The commands, one file each. A command asks, prints, and says how it ended.

pub mod access;
pub mod audit;
pub mod backup;
pub mod ca;
pub mod catalog;
pub mod completion;
pub mod context;
pub mod job;
pub mod login;
pub mod outcome;
pub mod platform;
pub mod restore;
pub mod setup;
pub mod status;
pub mod token;

use serde::Serialize;

use crate::{
    cli::{BackupVerb, CaVerb, CatalogVerb, ContextVerb, JobVerb, NodeVerb, OperatorVerb, TokenVerb, Verb},
    exit::Exit,
    failure::Failure,
    printer::Printer,
};

/// What `version --json` prints.
#[derive(Serialize)]
struct VersionView {
    version: &'static str,
}

/// Does what was typed.
///
/// # Errors
/// Why it was not done.
pub async fn run(printer: &Printer, verb: Verb) -> Result<Exit, Failure> {
    match verb {
        Verb::Backup(BackupVerb::Create { description, scope, compression, class, detach, no_queue }) => {
            let request = backup::create::request(description, &scope, compression, class, no_queue);
            backup::create::run(printer, request, detach).await
        }
        Verb::Backup(BackupVerb::List { wide }) => backup::list::run(printer, wide).await,
        Verb::Backup(BackupVerb::Show { id }) => backup::show::run(printer, &id).await,
        Verb::Backup(BackupVerb::Verify { id, deep, sample, details }) => {
            backup::verify::run(printer, backup::verify::request(&id, deep, sample), details).await
        }
        Verb::Backup(BackupVerb::VerifyDump { dir }) => backup::verify_dump::run(printer, dir).await,
        Verb::Backup(BackupVerb::Import { dir, description }) => backup::import::run(printer, dir, description).await,
        Verb::Backup(BackupVerb::Delete { id, yes }) => backup::delete::run(printer, &id, yes).await,
        Verb::Backup(BackupVerb::Prune(args)) => backup::prune::run(printer, args.request()).await,
        Verb::Backup(BackupVerb::Pin { id, reason }) => backup::pin::pin(printer, &id, reason).await,
        Verb::Backup(BackupVerb::Unpin { id }) => backup::pin::unpin(printer, &id).await,
        Verb::Backup(BackupVerb::Accept { id }) => backup::pin::accept(printer, &id).await,
        Verb::Restore(args) => restore::run(printer, args).await,
        Verb::Job(JobVerb::List { limit }) => job::list::run(printer, limit).await,
        Verb::Job(JobVerb::Show { id }) => job::show::run(printer, id).await,
        Verb::Job(JobVerb::Watch { id }) => job::watch::run(printer, id).await,
        Verb::Job(JobVerb::Cancel { id }) => job::cancel::run(printer, id).await,
        Verb::Job(JobVerb::Resume { id, without_hosts }) => job::resume::run(printer, id, without_hosts).await,
        Verb::Status => status::run(printer).await,
        Verb::Token(TokenVerb::Create { description, ttl, role, node }) => {
            token::create::run(printer, description, ttl, role, node).await
        }
        Verb::Token(TokenVerb::List) => token::list::run(printer).await,
        Verb::Token(TokenVerb::Revoke { id }) => token::revoke::run(printer, id).await,
        Verb::Setup(args) => setup::run(printer, args).await,
        Verb::Login(args) => login::run(printer, args).await,
        Verb::Context(ContextVerb::List) => context::list(printer),
        Verb::Context(ContextVerb::Use { name }) => context::switch(printer, &name),
        Verb::Node(NodeVerb::Revoke { node, yes }) => access::revoke_node(printer, &node, yes).await,
        Verb::Operator(OperatorVerb::Revoke { name, yes }) => access::revoke_operator(printer, &name, yes).await,
        Verb::Ca(CaVerb::Show) => ca::show(printer).await,
        Verb::Ca(CaVerb::Rotate { finish, yes }) => ca::rotate(printer, finish, yes).await,
        Verb::Catalog(CatalogVerb::Rebuild) => catalog::rebuild(printer).await,
        Verb::Audit { limit } => audit::run(printer, limit).await,
        Verb::Completion { shell } => Ok(completion::run(printer, shell)),
        Verb::Version => {
            printer.line(&format!("prexorctl {}", env!("CARGO_PKG_VERSION")));
            printer.document(&VersionView { version: env!("CARGO_PKG_VERSION") });
            Ok(Exit::Ok)
        }
        // Handed over before a runtime is started.
        Verb::Platform(argv) => Err(platform::unknown(&argv, None)),
    }
}
