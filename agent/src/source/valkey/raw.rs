//! A blocking connection that moves many keys: commands written without waiting, replies read later, values of any size
//! passed on in pieces. For one thread; everything else talks through `client`.

use std::{
    io::{self, BufReader, Read, Write},
    time::Duration,
};

use super::{
    SourceError,
    address::Address,
    wire::{self, Stream},
};

/// How long a server may say nothing.
const SILENCE: Duration = Duration::from_secs(120);

/// The longest line of a reply; values have their length before them.
const LINE_MAX: usize = 64 << 10;

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Status(String),
    Error(String),
    Integer(i64),
    /// A value, or none.
    Value(Option<Vec<u8>>),
    Array(Vec<Reply>),
}

/// See the module's text.
pub(super) struct Raw {
    stream: BufReader<Box<dyn Stream>>,
    address: Address,
}

impl Raw {
    /// Connects and logs in.
    pub(super) fn connect(address: &Address) -> Result<Self, SourceError> {
        let stream = wire::open(address, SILENCE).map_err(|e| address.unreachable("connecting", &e.to_string()))?;
        let mut raw = Self { stream: BufReader::with_capacity(256 << 10, stream), address: address.clone() };
        if let Some(password) = &address.password {
            let user = address.username.as_deref();
            let login: Vec<&str> = ["AUTH"].into_iter().chain(user).chain([password.as_str()]).collect();
            raw.ask(&login.iter().map(|a| a.as_bytes()).collect::<Vec<_>>())?;
        }
        Ok(raw)
    }

    /// Sends a command and waits for its answer; a refusal is an error.
    pub(super) fn ask(&mut self, args: &[&[u8]]) -> Result<Reply, SourceError> {
        let mut out = Vec::new();
        command(&mut out, args);
        self.send(&out)?;
        let reply = self.reply()?;
        self.accepted(args.first().copied().unwrap_or_default(), reply)
    }

    /// Sends what [`command`] has put together.
    pub(super) fn send(&mut self, commands: &[u8]) -> Result<(), SourceError> {
        let sent = self.stream.get_mut().write_all(commands).and_then(|()| self.stream.get_mut().flush());
        // A server that refuses says why before it hangs up.
        sent.map_err(|e| match self.reply() {
            Ok(Reply::Error(said)) => self.address.refusal("a command", &said),
            _ => self.lost(&e),
        })
    }

    /// Makes an error of a refusal.
    pub(super) fn accepted(&self, doing: &[u8], reply: Reply) -> Result<Reply, SourceError> {
        match reply {
            Reply::Error(said) => Err(self.address.refusal(&String::from_utf8_lossy(doing), &said)),
            reply => Ok(reply),
        }
    }

    /// The next reply, whole.
    pub(super) fn reply(&mut self) -> Result<Reply, SourceError> {
        let (sort, line) = self.head()?;
        Ok(match sort {
            b'+' => Reply::Status(line),
            b'-' => Reply::Error(line),
            b':' => Reply::Integer(self.number(&line)?),
            b'$' => match self.number(&line)? {
                len @ 0.. => {
                    let mut value = Vec::new();
                    self.pieces(len as u64, |piece| {
                        value.extend_from_slice(piece);
                        Ok(())
                    })?;
                    self.end_of_value()?;
                    Reply::Value(Some(value))
                }
                _ => Reply::Value(None),
            },
            b'*' => {
                let items = self.number(&line)?.max(0);
                Reply::Array((0..items).map(|_| self.reply()).collect::<Result<_, _>>()?)
            }
            _ => return Err(self.garbled()),
        })
    }

    /// The length of the value that comes next; `None` where there is none.
    pub(super) fn value_begins(&mut self) -> Result<Option<u64>, SourceError> {
        let (sort, line) = self.head()?;
        match sort {
            b'$' => Ok(u64::try_from(self.number(&line)?).ok()),
            b'-' => Err(self.address.refusal("DUMP", &line)),
            _ => Err(self.garbled()),
        }
    }

    /// Takes the next bytes of a value that [`Raw::value_begins`] announced.
    pub(super) fn pieces(
        &mut self,
        mut len: u64,
        mut take: impl FnMut(&[u8]) -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        let mut buffer = [0; 64 << 10];
        while len > 0 {
            let most = buffer.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            let n = match self.stream.read(&mut buffer[..most]) {
                Ok(0) => return Err(self.lost(&io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => n,
                Err(e) => return Err(self.lost(&e)),
            };
            take(&buffer[..n])?;
            len -= n as u64;
        }
        Ok(())
    }

    /// Takes what follows a value.
    pub(super) fn end_of_value(&mut self) -> Result<(), SourceError> {
        let mut end = [0; 2];
        self.stream.read_exact(&mut end).map_err(|e| self.lost(&e))?;
        if end == *b"\r\n" { Ok(()) } else { Err(self.garbled()) }
    }

    fn head(&mut self) -> Result<(u8, String), SourceError> {
        let mut line = Vec::new();
        loop {
            let buffer = io::BufRead::fill_buf(&mut self.stream);
            let buffer = match buffer {
                Ok([]) => return Err(self.lost(&io::ErrorKind::UnexpectedEof.into())),
                Ok(buffer) => buffer,
                Err(e) => return Err(self.lost(&e)),
            };
            let end = buffer.iter().position(|b| *b == b'\n');
            let taken = end.map_or(buffer.len(), |at| at + 1);
            line.extend_from_slice(&buffer[..taken]);
            io::BufRead::consume(&mut self.stream, taken);
            match end {
                Some(_) => break,
                None if line.len() > LINE_MAX => return Err(self.garbled()),
                None => {}
            }
        }
        match line.as_slice() {
            [sort, text @ .., b'\r', b'\n'] => Ok((*sort, String::from_utf8_lossy(text).into_owned())),
            _ => Err(self.garbled()),
        }
    }

    fn number(&self, line: &str) -> Result<i64, SourceError> {
        line.parse().map_err(|_| self.garbled())
    }

    fn garbled(&self) -> SourceError {
        SourceError::Failed(format!("what {} answers is not the protocol of Valkey", self.address))
    }

    fn lost(&self, e: &io::Error) -> SourceError {
        let silent = matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        let why = if silent { format!("silent for {} s", SILENCE.as_secs()) } else { e.to_string() };
        self.address.unreachable("moving keys", &why)
    }
}

/// Appends a command.
pub(super) fn command(out: &mut Vec<u8>, args: &[&[u8]]) {
    head(out, args.len());
    args.iter().for_each(|arg| argument(out, arg));
}

/// Appends the head of a command with so many arguments.
pub(super) fn head(out: &mut Vec<u8>, args: usize) {
    out.extend_from_slice(format!("*{args}\r\n").as_bytes());
}

/// Appends an argument.
pub(super) fn argument(out: &mut Vec<u8>, arg: &[u8]) {
    argument_begins(out, arg.len() as u64);
    out.extend_from_slice(arg);
    out.extend_from_slice(b"\r\n");
}

/// Appends what comes before an argument's bytes.
pub(super) fn argument_begins(out: &mut Vec<u8>, len: u64) {
    out.push(b'$');
    out.extend_from_slice(len.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}
