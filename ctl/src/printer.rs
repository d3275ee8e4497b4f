//! The one place that prints: results on standard output, everything else on standard error.
//!
//! A reader that has seen enough (`prexorctl backup list | head -1`) is no error; a full disk behind `>` is one.

use std::{
    cell::RefCell,
    io::{self, IsTerminal, Write},
};

use indicatif::{MultiProgress, ProgressDrawTarget};
use serde::Serialize;

use crate::{failure::Failure, text};

/// Prints in the form that was asked for.
pub struct Printer {
    json: bool,
    bars: MultiProgress,
    streams: RefCell<Streams>,
}

struct Streams {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    /// The first error of standard output, after which nothing more is written to it.
    broken: Option<io::Error>,
}

impl Printer {
    /// On the process's own streams.
    pub fn new(json: bool) -> Self {
        let target = if json || !io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        Self::on(json, target, Box::new(io::stdout()), Box::new(io::stderr()))
    }

    fn on(json: bool, target: ProgressDrawTarget, out: Box<dyn Write>, err: Box<dyn Write>) -> Self {
        let streams = RefCell::new(Streams { out, err, broken: None });
        Self { json, bars: MultiProgress::with_draw_target(target), streams }
    }

    /// Whether programs read what is printed.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Where progress bars are drawn; hidden when nobody looks.
    pub fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Whether somebody sees progress bars.
    pub fn draws_bars(&self) -> bool {
        !self.bars.is_hidden()
    }

    /// A line of the result, for people. Nothing under `--json`.
    pub fn line(&self, line: &str) {
        if !self.json {
            self.write_out(&format!("{}\n", text::clean(line)));
        }
    }

    /// Lines of the result, for people. Nothing under `--json`.
    pub fn lines(&self, lines: impl IntoIterator<Item = impl AsRef<str>>) {
        lines.into_iter().for_each(|line| self.line(line.as_ref()));
    }

    /// The result for programs, as one document. Nothing without `--json`.
    pub fn document(&self, value: &impl Serialize) {
        if self.json {
            match serde_json::to_string_pretty(value) {
                Ok(text) => self.write_out(&format!("{text}\n")),
                Err(error) => self.streams.borrow_mut().broken = Some(error.into()),
            }
        }
    }

    /// One of many results for programs, each on a line. Nothing without `--json`.
    pub fn json_line(&self, value: &impl Serialize) {
        if self.json {
            match serde_json::to_string(value) {
                Ok(text) => self.write_out(&format!("{text}\n")),
                Err(error) => self.streams.borrow_mut().broken = Some(error.into()),
            }
        }
    }

    /// Text that is not ours to touch: a completion script.
    pub fn raw(&self, text: &str) {
        self.write_out(text);
    }

    /// What happens meanwhile, for people. Nothing under `--json`.
    pub fn note(&self, line: &str) {
        if !self.json {
            self.write_err(&format!("{}\n", text::clean(line)));
        }
    }

    /// A question; the answer is typed after it. Also under `--json`: it is for the terminal.
    pub fn question(&self, text: &str) {
        self.write_err(&format!("{} ", text::clean(text)));
    }

    /// Something that does not stop the command. Under `--json` a line `{"warning": {"message": ...}}`.
    pub fn warning(&self, message: &str) {
        if self.json {
            self.write_err(&format!("{}\n", serde_json::json!({"warning": {"message": message}})));
        } else {
            self.write_err(&format!("warning: {}\n", text::clean(message)));
        }
    }

    /// Why the command did not succeed. Under `--json` a line `{"error": {...}}`.
    pub fn failure(&self, failure: &Failure) {
        if self.json {
            self.write_err(&format!("{}\n", failure.json()));
        } else {
            failure.lines().iter().for_each(|line| self.write_err(&format!("{}\n", text::clean(line))));
        }
    }

    /// Writes what is still held back, and says whether all of the result has arrived.
    ///
    /// # Errors
    /// When standard output could not be written for another reason than a reader that has left.
    pub fn finish(&self) -> io::Result<()> {
        let mut streams = self.streams.borrow_mut();
        let flushed = streams.out.flush();
        match streams.broken.take().map_or(flushed, Err) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }

    fn write_out(&self, text: &str) {
        self.bars.suspend(|| {
            let mut streams = self.streams.borrow_mut();
            if streams.broken.is_none() {
                let written = streams.out.write_all(text.as_bytes()).and_then(|()| streams.out.flush());
                streams.broken = written.err();
            }
        });
    }

    fn write_err(&self, text: &str) {
        // There is nobody to tell that standard error does not work.
        self.bars.suspend(|| drop(self.streams.borrow_mut().err.write_all(text.as_bytes())));
    }
}

/// Printers whose output tests can read.
#[cfg(test)]
pub mod capture {
    use std::{cell::RefCell, rc::Rc};

    use super::*;

    /// What was printed.
    #[derive(Default, Clone)]
    pub struct Captured {
        out: Rc<RefCell<Vec<u8>>>,
        err: Rc<RefCell<Vec<u8>>>,
    }

    struct Sink(Rc<RefCell<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(buf)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Captured {
        /// Standard output.
        pub fn out(&self) -> String {
            String::from_utf8(self.out.borrow().clone()).unwrap()
        }

        /// Standard error.
        pub fn err(&self) -> String {
            String::from_utf8(self.err.borrow().clone()).unwrap()
        }
    }

    /// A printer and what it prints.
    pub fn printer(json: bool) -> (Printer, Captured) {
        let captured = Captured::default();
        let (out, err) = (Box::new(Sink(captured.out.clone())), Box::new(Sink(captured.err.clone())));
        (Printer::on(json, ProgressDrawTarget::hidden(), out, err), captured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_reader_that_leaves_is_no_error_and_a_full_disk_is() {
        let finish = |kind| {
            let printer =
                Printer::on(false, ProgressDrawTarget::hidden(), Box::new(Broken(kind)), Box::new(Broken(kind)));
            printer.lines(["a", "b"]);
            printer.warning("c");
            printer.finish().map_err(|e| e.kind())
        };
        assert_eq!(finish(io::ErrorKind::BrokenPipe), Ok(()));
        assert_eq!(finish(io::ErrorKind::StorageFull), Err(io::ErrorKind::StorageFull));
    }

    #[test]
    fn people_and_programs_get_their_own_form() {
        let failure = Failure::usage("no").hint(crate::hints::Hint::Yes);
        let print = |json| {
            let (printer, captured) = capture::printer(json);
            printer.line("for\u{1b} people");
            printer.note("meanwhile");
            printer.document(&[1]);
            printer.json_line(&serde_json::json!({"a": 1}));
            printer.warning("w");
            printer.failure(&failure);
            (captured.out(), captured.err())
        };
        let (out, err) = print(false);
        assert_eq!(out, "for\u{fffd} people\n");
        assert_eq!(err, "meanwhile\nwarning: w\nerror: no\nhint: add --yes to go ahead without being asked\n");
        let (out, err) = print(true);
        assert_eq!(out, "[\n  1\n]\n{\"a\":1}\n");
        assert!(err.lines().all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()), "{err}");
        assert!(err.starts_with(r#"{"warning":{"message":"w"}}"#), "{err}");
    }
}
