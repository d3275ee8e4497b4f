//! `prexorctl`: the command line for operators.
//!
//! It asks the coordinator and shows the answers; it plans nothing, stores nothing and talks to no agent. What is typed
//! is in [`cli`], what it does in [`commands`], one file each; [`printer`] is the only place that prints, [`exit`] has
//! all exit codes, [`view`] all shapes of `--json`.

pub mod cli;
pub mod client;
pub mod commands;
pub mod exit;
pub mod failure;
pub mod follow;
pub mod hints;
pub mod meter;
pub mod printer;
pub mod prompt;
pub mod reporter;
pub mod text;
pub mod view;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

use crate::{
    cli::{Cli, Verb},
    exit::Exit,
    failure::Failure,
    printer::Printer,
};

/// Runs the program with these arguments, its own name first.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&args, &error),
    };
    let printer = Printer::new(cli.json);
    let result = match cli.verb {
        // Before there are threads: this process becomes the other program.
        Verb::Platform(argv) => Err(commands::platform::hand_over(&args, &argv)),
        verb => run(&printer, verb),
    };
    ended(&printer, result)
}

fn run(printer: &Printer, verb: Verb) -> Result<Exit, Failure> {
    // One thread keeps connections alive while this one waits for a person.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|e| Failure::local(format!("cannot start: {e}")))?;
    let result = runtime.block_on(commands::run(printer, verb));
    // A read from the terminal that nobody waits for any more must not hold up the end.
    runtime.shutdown_background();
    result
}

fn ended(printer: &Printer, result: Result<Exit, Failure>) -> ExitCode {
    let written = printer.finish().map_err(|e| Failure::local(format!("cannot write the output: {e}")));
    let exit = match result.and_then(|exit| written.map(|()| exit)) {
        Ok(exit) => exit,
        Err(failure) => {
            printer.failure(&failure);
            failure.exit
        }
    };
    exit.into()
}

/// Help and version are results; everything else that clap says is a usage error.
fn not_parsed(args: &[OsString], error: &clap::Error) -> ExitCode {
    let printer = Printer::new(args.iter().any(|a| a == "--json"));
    let text = error.render().to_string();
    if !error.use_stderr() {
        printer.raw(&text);
        return ended(&printer, Ok(Exit::Ok));
    }
    if printer.is_json() {
        let message = text.lines().next().unwrap_or_default();
        let failure = Failure::usage(message.strip_prefix("error: ").unwrap_or(message)).hint(hints::Hint::Help);
        return ended(&printer, Err(failure));
    }
    text.lines().for_each(|line| printer.note(line));
    Exit::Usage.into()
}
