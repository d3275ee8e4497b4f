//! Verbs that are not ours: handed to PrexorCloud's own CLI where one is configured.

use std::{
    env,
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use clap::CommandFactory;
use prexor_transport::context::ContextError;

use crate::{cli::Cli, client, failure::Failure, hints::Hint};

/// Set for the other program: when it turns out to be this one, nobody is called again.
const HANDED_OVER: &str = "PREXORCTL_HANDED_OVER";

/// Becomes the other program, with all arguments as they were typed. Returns only when that is not possible.
pub fn hand_over(args: &[OsString], argv: &[OsString]) -> Failure {
    let (path, command) = match client::contexts() {
        Ok((path, contexts)) => (Some(path), contexts.platform_cli),
        Err(ContextError::NotFound(_)) => (None, Vec::new()),
        Err(error) => {
            let unknown = unknown(argv, None);
            return Failure { message: format!("{}; {error}", unknown.message), ..unknown };
        }
    };
    let Some((program, fixed)) = command.split_first() else { return unknown(argv, path.as_deref()) };
    if env::var_os(HANDED_OVER).is_some() {
        return Failure::unknown_verb(format!("platform_cli runs {program}, which is this program"))
            .hint(Hint::PlatformCli(path));
    }
    let typed = args.get(1..).unwrap_or_default();
    let error = Command::new(program).args(fixed).args(typed).env(HANDED_OVER, "1").exec();
    let why = match error.kind() {
        io::ErrorKind::NotFound => "there is no such program".to_owned(),
        _ => error.to_string(),
    };
    Failure::unknown_verb(format!("cannot run platform_cli {program}: {why}")).hint(Hint::PlatformCli(path))
}

/// The failure for a verb that nobody knows.
pub fn unknown(argv: &[OsString], context_file: Option<&Path>) -> Failure {
    let verb = argv.first().map(|v| v.to_string_lossy().into_owned()).unwrap_or_default();
    let failure = Failure::unknown_verb(format!("'{verb}' is not a command of prexorctl"));
    let ours = Cli::command();
    let near = ours
        .get_subcommands()
        .map(clap::Command::get_name)
        .max_by(|a, b| strsim::jaro_winkler(a, &verb).total_cmp(&strsim::jaro_winkler(b, &verb)));
    match near.filter(|name| strsim::jaro_winkler(name, &verb) > 0.85) {
        Some(name) => failure.hint(Hint::DidYouMean(name.to_owned())),
        None => failure.hint(Hint::PlatformCli(context_file.map(PathBuf::from))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn what_is_not_known_is_said_with_a_way_on() {
        let failure = unknown(&["group".into(), "list".into()], Some(Path::new("/etc/prexorctl/config.yml")));
        assert_eq!(failure.exit, Exit::UnknownVerb);
        assert_eq!(failure.message, "'group' is not a command of prexorctl");
        assert!(failure.lines()[1].contains("/etc/prexorctl/config.yml"), "{failure:?}");
        assert_eq!(unknown(&["bakcup".into()], None).hint, Some(Hint::DidYouMean("backup".into())));
    }
}
