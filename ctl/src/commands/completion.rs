//! `prexorctl completion`.

use clap::CommandFactory;
use clap_complete::{Shell as Target, generate};

use crate::{
    cli::{Cli, Shell},
    exit::Exit,
    printer::Printer,
};

/// Prints a completion script.
pub fn run(printer: &Printer, shell: Shell) -> Exit {
    printer.raw(&script(shell));
    Exit::Ok
}

fn script(shell: Shell) -> String {
    let target = match shell {
        Shell::Bash => Target::Bash,
        Shell::Zsh => Target::Zsh,
        Shell::Fish => Target::Fish,
    };
    let mut script = Vec::new();
    generate(target, &mut Cli::command(), "prexorctl", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_learns_every_verb() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for word in ["backup", "restore", "datastores", "job", "setup"] {
                assert!(script.contains(word), "{shell:?}: {word}");
            }
        }
    }
}
