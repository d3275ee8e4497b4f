//! Asking a person: on a terminal, and nowhere else.

use std::io::{self, BufRead, IsTerminal};

use rustix::termios::{self, LocalModes, OptionalActions, Termios};

use crate::{failure::Failure, printer::Printer};

/// Whether somebody is there to be asked, and may be.
pub fn can_ask(printer: &Printer) -> bool {
    !printer.is_json() && io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for a line; an empty answer is the default, where there is one.
///
/// # Errors
/// When there is no answer.
pub async fn ask(printer: &Printer, question: &str, default: Option<&str>) -> Result<String, Failure> {
    loop {
        match default {
            Some(default) => printer.question(&format!("{question} [{default}]:")),
            None => printer.question(&format!("{question}:")),
        }
        let answer = read_line().await?;
        match (answer.trim(), default) {
            ("", Some(default)) => return Ok(default.to_owned()),
            ("", None) => {}
            (answer, _) => return Ok(answer.to_owned()),
        }
    }
}

/// Asks for something that is not shown while it is typed.
///
/// # Errors
/// When there is no answer.
pub async fn ask_secret(printer: &Printer, question: &str) -> Result<String, Failure> {
    // Hidden before it is asked for: those who type fast are not shown either.
    let hidden = Hidden::new();
    printer.question(&format!("{question}:"));
    let answer = read_line().await;
    drop(hidden);
    printer.note("");
    answer
}

/// Goes on only when the person types exactly this word.
///
/// # Errors
/// When something else is typed, or nothing.
pub async fn confirm_word(printer: &Printer, question: &str, word: &str) -> Result<(), Failure> {
    printer.question(question);
    if read_line().await?.trim() == word { Ok(()) } else { Err(Failure::not_confirmed()) }
}

/// Goes on only when the person says yes.
///
/// # Errors
/// When the answer is another, or none.
pub async fn confirm(printer: &Printer, question: &str) -> Result<(), Failure> {
    printer.question(&format!("{question} [y/N]"));
    let answer = read_line().await?.trim().to_ascii_lowercase();
    if ["y", "yes"].contains(&answer.as_str()) { Ok(()) } else { Err(Failure::not_confirmed()) }
}

/// One line from the terminal. Ctrl-C ends it in order, so that the terminal is left as it was found.
async fn read_line() -> Result<String, Failure> {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|n| (n > 0).then_some(line))
    });
    tokio::select! {
        line = read => match line {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(Ok(None)) => Err(Failure::not_confirmed()),
            Ok(Err(error)) => Err(Failure::local(format!("cannot read from the terminal: {error}"))),
            Err(error) => Err(Failure::local(format!("cannot read from the terminal: {error}"))),
        },
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
    }
}

/// While it lives, the terminal does not show what is typed.
struct Hidden(Option<Termios>);

impl Hidden {
    fn new() -> Self {
        let Ok(before) = termios::tcgetattr(io::stdin()) else { return Self(None) };
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        let set = termios::tcsetattr(io::stdin(), OptionalActions::Flush, &hidden);
        Self(set.is_ok().then_some(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}
