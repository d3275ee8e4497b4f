//! The server's protocol by hand (RESP2), for what the client library does not do: the replication stream, and answers
//! that are too large to hold. Blocking; every wait ends when the capture is cancelled. What is captured with it, it does
//! not know.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};
use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;

use super::{
    SourceError,
    address::{Address, CONNECT, Place},
};

/// How often a wait looks whether it was cancelled.
const TICK: Duration = Duration::from_millis(100);

/// How long a server may be silent, for example while it forks or serialises one huge key.
const SILENCE: Duration = Duration::from_secs(180);

const BUFFER: usize = 256 << 10;

/// The longest line, and the longest string that [`Wire::reply`] takes whole: a key has at most 512 MiB.
const LINE_MAX: usize = 64 << 10;
const STRING_MAX: u64 = 512 << 20;

/// Answers within answers: those about commands go deepest.
const DEPTH_MAX: u8 = 12;

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Head {
    /// `+OK`
    Status(String),
    /// `-ERR ...`
    Error(String),
    /// `:1`
    Int(i64),
    /// `$5`, or `$EOF:...` of the replication stream; bytes follow.
    Bulk(String),
    /// `*2`; answers follow.
    Array(u64),
    /// `$-1` or `*-1`
    Nil,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Status(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Array(Vec<Reply>),
    Nil,
}

/// Both ways at once.
trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection that is logged in; closed when dropped.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    address: Address,
    cancel: CancellationToken,
}

impl Wire {
    /// Connects and logs in.
    pub(super) fn connect(address: &Address, cancel: &CancellationToken) -> Result<Self, SourceError> {
        let stream = open(address).map_err(|e| address.unreachable("connecting", &e.to_string()))?;
        let mut wire = Self {
            stream,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            address: address.clone(),
            cancel: cancel.clone(),
        };
        if let Some(password) = &address.password {
            let user = address.username.iter().map(String::as_bytes);
            let login: Vec<&[u8]> =
                [&b"AUTH"[..]].into_iter().chain(user).chain([password.expose_secret().as_bytes()]).collect();
            wire.send(&[&login])?;
            if let Reply::Error(said) = wire.reply()? {
                return Err(match address.refusal("logging in", &said) {
                    SourceError::Failed(words) => SourceError::Denied(words),
                    known => known,
                });
            }
        }
        Ok(wire)
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Sends commands without waiting for answers.
    pub(super) fn send(&mut self, commands: &[&[&[u8]]]) -> Result<(), SourceError> {
        let mut bytes = Vec::new();
        for command in commands {
            encode(command, &mut bytes);
        }
        self.send_encoded(&bytes)
    }

    /// Sends what [`encode`] made.
    pub(super) fn send_encoded(&mut self, mut bytes: &[u8]) -> Result<(), SourceError> {
        let begun = Instant::now();
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return Err(self.lost(&io::ErrorKind::WriteZero.into())),
                Ok(n) => bytes = &bytes[n..],
                Err(e) if idle(&e) => self.wait(begun)?,
                Err(e) => return Err(self.lost(&e)),
            }
        }
        loop {
            match self.stream.flush() {
                Ok(()) => return Ok(()),
                Err(e) if idle(&e) => self.wait(begun)?,
                Err(e) => return Err(self.lost(&e)),
            }
        }
    }

    /// Sends one command and takes its answer.
    pub(super) fn ask(&mut self, command: &[&[u8]]) -> Result<Reply, SourceError> {
        self.send(&[command])?;
        self.reply()
    }

    /// Whether the server knows a command and lets this account use it, as far as it tells; what it does not tell is yes.
    pub(super) fn may(&mut self, command: &[&[u8]]) -> Result<bool, SourceError> {
        let name = command.first().copied().unwrap_or_default();
        if let Reply::Array(found) = self.ask(&[b"COMMAND", b"INFO", name])?
            && matches!(found.first(), None | Some(Reply::Nil))
        {
            return Ok(false);
        }
        let Reply::Bulk(me) = self.ask(&[b"ACL", b"WHOAMI"])? else { return Ok(true) };
        let dry = [&[&b"ACL"[..], b"DRYRUN", &me], command].concat();
        // What is allowed is a status, what is not is told in a string; an error is that of DRYRUN itself.
        Ok(!matches!(self.ask(&dry)?, Reply::Bulk(_)))
    }

    /// The next line, without its end.
    pub(super) fn line(&mut self) -> Result<String, SourceError> {
        let mut line = Vec::new();
        loop {
            let held = self.bytes(usize::MAX)?;
            if held.is_empty() {
                return Err(self.closed());
            }
            let newline = held.iter().position(|b| *b == b'\n');
            let taken = newline.map_or(held.len(), |at| at + 1);
            line.extend_from_slice(&held[..newline.unwrap_or(taken)]);
            self.consume(taken);
            if newline.is_some() {
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if line.len() > LINE_MAX {
                return Err(self.nonsense("an endless line"));
            }
        }
    }

    /// The head of the next answer.
    pub(super) fn head(&mut self) -> Result<Head, SourceError> {
        let line = self.line()?;
        let Some((sort, rest)) = line.split_at_checked(1) else {
            return Err(self.nonsense("an empty line"));
        };
        let number = |text: &str| text.parse::<i64>().ok();
        let head = match (sort, rest) {
            ("+", _) => Some(Head::Status(rest.to_owned())),
            ("-", _) => Some(Head::Error(rest.to_owned())),
            (":", _) => number(rest).map(Head::Int),
            ("$" | "*", "-1") => Some(Head::Nil),
            ("$", _) => Some(Head::Bulk(rest.to_owned())),
            ("*", _) => rest.parse().ok().map(Head::Array),
            _ => None,
        };
        head.ok_or_else(|| self.nonsense(&line))
    }

    /// The length that a bulk's head tells.
    pub(super) fn length(&self, text: &str) -> Result<u64, SourceError> {
        text.parse().map_err(|_| self.nonsense(text))
    }

    /// The next answer, whole.
    pub(super) fn reply(&mut self) -> Result<Reply, SourceError> {
        let head = self.head()?;
        self.rest(head, 0)
    }

    /// Takes the answers that have come, at most `max`, as long as they are a plain OK: what nearly all of very many are.
    /// Tells how many; waits for one to begin.
    pub(super) fn oks(&mut self, max: usize) -> Result<usize, SourceError> {
        const OK: &[u8] = b"+OK\r\n";
        let n = self.some(usize::MAX)?.chunks_exact(OK.len()).take(max).take_while(|answer| *answer == OK).count();
        self.consume(n * OK.len());
        Ok(n)
    }

    /// What follows `head`.
    pub(super) fn rest(&mut self, head: Head, depth: u8) -> Result<Reply, SourceError> {
        Ok(match head {
            Head::Status(text) => Reply::Status(text),
            Head::Error(text) => Reply::Error(text),
            Head::Int(n) => Reply::Int(n),
            Head::Nil => Reply::Nil,
            Head::Array(_) if depth > DEPTH_MAX => return Err(self.nonsense("answers within answers")),
            Head::Array(n) => {
                let mut all = Vec::new();
                for _ in 0..n {
                    let head = self.head()?;
                    all.push(self.rest(head, depth + 1)?);
                }
                Reply::Array(all)
            }
            Head::Bulk(len) => {
                let len = self.length(&len)?;
                if len > STRING_MAX {
                    return Err(self.nonsense("a string of more than 512 MiB"));
                }
                let mut string = Vec::new();
                while (string.len() as u64) < len {
                    let held = self.some(len as usize - string.len())?;
                    string.extend_from_slice(held);
                    let n = held.len();
                    self.consume(n);
                }
                self.line_end()?;
                Reply::Bulk(string)
            }
        })
    }

    /// Takes the end of a bulk.
    pub(super) fn line_end(&mut self) -> Result<(), SourceError> {
        for expected in *b"\r\n" {
            if self.some(1)?[0] != expected {
                return Err(self.nonsense("a string without an end"));
            }
            self.consume(1);
        }
        Ok(())
    }

    /// At most `max` bytes of what has come, without taking them; waits for one at least. None when the server has
    /// closed the connection.
    pub(super) fn bytes(&mut self, max: usize) -> Result<&[u8], SourceError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            let begun = Instant::now();
            loop {
                if self.cancel.is_cancelled() {
                    return Err(SourceError::Cancelled);
                }
                match self.stream.read(&mut self.buffer) {
                    Ok(n) => {
                        self.end = n;
                        break;
                    }
                    Err(e) if idle(&e) => self.wait(begun)?,
                    Err(e) if ended(&e) => break,
                    Err(e) => return Err(self.lost(&e)),
                }
            }
        }
        Ok(&self.buffer[self.start..self.end.min(self.start.saturating_add(max))])
    }

    /// As [`Wire::bytes`], but an end of the connection is an error.
    pub(super) fn some(&mut self, max: usize) -> Result<&[u8], SourceError> {
        if self.bytes(max)?.is_empty() {
            return Err(self.closed());
        }
        self.bytes(max)
    }

    /// Takes bytes that [`Wire::bytes`] showed.
    pub(super) fn consume(&mut self, n: usize) {
        self.start += n;
    }

    /// Takes bytes that nobody wants.
    pub(super) fn skip(&mut self, mut len: u64) -> Result<(), SourceError> {
        while len > 0 {
            let n = self.some(usize::try_from(len).unwrap_or(usize::MAX))?.len();
            self.consume(n);
            len -= n as u64;
        }
        Ok(())
    }

    fn wait(&self, begun: Instant) -> Result<(), SourceError> {
        if self.cancel.is_cancelled() {
            return Err(SourceError::Cancelled);
        }
        if begun.elapsed() > SILENCE {
            return Err(self.address.unreachable("waiting", &format!("silent for {} s", SILENCE.as_secs())));
        }
        Ok(())
    }

    fn lost(&self, e: &io::Error) -> SourceError {
        self.address.unreachable("an open connection", &e.to_string())
    }

    fn closed(&self) -> SourceError {
        self.address.unreachable("an open connection", "the server closed it")
    }

    fn nonsense(&self, what: &str) -> SourceError {
        let what: String = what.chars().take(80).collect();
        SourceError::Failed(format!("Valkey at {} answers what no server answers: {what}", self.address))
    }
}

/// A command as the server reads it.
pub(super) fn encode(command: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
    for word in command {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn idle(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// A server that dies closes nothing in good order.
fn ended(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// Connects, over whatever the address says; reads and writes then wait for a tick at a time.
fn open(address: &Address) -> io::Result<Box<dyn Stream>> {
    let (host, port) = match &address.place {
        Place::Tcp { host, port } => (host, *port),
        Place::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(TICK))?;
            stream.set_write_timeout(Some(TICK))?;
            return Ok(Box::new(stream));
        }
    };
    let mut outcome = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for at in (host.as_str(), port).to_socket_addrs()? {
        outcome = TcpStream::connect_timeout(&at, CONNECT);
        if outcome.is_ok() {
            break;
        }
    }
    let stream = outcome?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(TICK))?;
    let Some(tls) = &address.tls else {
        stream.set_read_timeout(Some(TICK))?;
        return Ok(Box::new(stream));
    };
    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
    let connection = ClientConnection::new(tls.clone(), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    stream.sock.set_read_timeout(Some(CONNECT))?;
    stream.conn.complete_io(&mut stream.sock)?;
    stream.sock.set_read_timeout(Some(TICK))?;
    Ok(Box::new(stream))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::source::valkey::ValkeyTls;

    /// A server that says `said`, whatever it is asked, and closes.
    fn saying(said: &'static [u8]) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("redis://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || listener.accept().unwrap().0.write_all(said));
        Wire::connect(&Address::parse(&uri, &ValkeyTls::default()).unwrap(), &CancellationToken::new()).unwrap()
    }

    #[test]
    fn answers_are_read_whole() {
        let mut wire = saying(b"+OK\r\n-ERR no\r\n:-7\r\n$-1\r\n*-1\r\n*2\r\n$3\r\na\r\n\r\n*1\r\n:1\r\n");
        let some = |text: &str| text.to_owned();
        for expected in [
            Reply::Status(some("OK")),
            Reply::Error(some("ERR no")),
            Reply::Int(-7),
            Reply::Nil,
            Reply::Nil,
            Reply::Array(vec![Reply::Bulk(b"a\r\n".to_vec()), Reply::Array(vec![Reply::Int(1)])]),
        ] {
            assert_eq!(wire.reply().unwrap(), expected);
        }
        assert!(matches!(wire.reply(), Err(SourceError::Unavailable(_))));
    }

    #[test]
    fn plain_answers_are_taken_together() {
        let mut wire = saying(b"+OK\r\n+OK\r\n+OK\r\n-ERR no\r\n+OK\r\n+O");
        let mut taken = |mut n: usize| {
            while n > 0 {
                match wire.oks(n).unwrap() {
                    0 => return Some(wire.reply().unwrap()),
                    oks => n -= oks,
                }
            }
            None
        };
        assert_eq!(taken(2), None);
        assert_eq!(taken(5), Some(Reply::Error("ERR no".into())));
        assert_eq!(taken(1), None);
        assert_eq!(wire.oks(1).unwrap(), 0);
        assert!(matches!(wire.reply(), Err(SourceError::Unavailable(_))));
    }

    #[test]
    fn nonsense_is_an_error() {
        let said: [&[u8]; 8] = [
            b"\r\n",
            b"hello\r\n",
            b":x\r\n",
            b"$x\r\n",
            b"*-2\r\n",
            b"$1\r\nabc",
            b"$999999999999\r\n",
            b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
        ];
        for said in said {
            let outcome = saying(said).reply();
            assert!(matches!(outcome, Err(SourceError::Failed(_))), "{outcome:?}");
        }
        assert!(matches!(saying(b"$5\r\nab").reply(), Err(SourceError::Unavailable(_))));
    }
}
