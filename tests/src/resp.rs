//! A small client of Valkey's protocol (RESP2), independent of the driver that the product uses.
//!
//! It knows bytes and replies, and nothing of what the commands mean. One connection, no reconnects.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// What the server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Status(String),
    /// `:1`
    Integer(i64),
    /// A value, or none.
    Bulk(Option<Vec<u8>>),
    /// Several; none where the server says nil.
    Array(Option<Vec<Reply>>),
    /// `-ERR ...`; within an array, since [`Resp::call`] makes an outer one an error.
    Error(String),
}

impl Reply {
    /// The elements of an array; none for anything else.
    pub fn items(self) -> Vec<Reply> {
        match self {
            Reply::Array(Some(items)) => items,
            _ => Vec::new(),
        }
    }

    /// The bytes of a value or status; empty for anything else.
    pub fn bytes(self) -> Vec<u8> {
        match self {
            Reply::Bulk(Some(bytes)) => bytes,
            Reply::Status(text) => text.into_bytes(),
            _ => Vec::new(),
        }
    }

    /// The bytes as text.
    pub fn text(self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// The number; 0 for anything else.
    pub fn integer(&self) -> i64 {
        match self {
            Reply::Integer(n) => *n,
            _ => 0,
        }
    }

    /// Writes a form that two equal replies share, and unequal ones do not.
    pub fn canonical(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Status(s) => out.extend(format!("+{s}\n").bytes()),
            Reply::Error(s) => out.extend(format!("-{s}\n").bytes()),
            Reply::Integer(n) => out.extend(format!(":{n}\n").bytes()),
            Reply::Bulk(None) | Reply::Array(None) => out.extend(b"_\n"),
            Reply::Bulk(Some(bytes)) => {
                out.extend(format!("${}\n", bytes.len()).bytes());
                out.extend(bytes);
                out.push(b'\n');
            }
            Reply::Array(Some(items)) => {
                out.extend(format!("*{}\n", items.len()).bytes());
                for item in items {
                    item.canonical(out);
                }
            }
        }
    }
}

/// A connection.
#[derive(Debug)]
pub struct Resp {
    stream: BufReader<TcpStream>,
}

impl Resp {
    /// Connects to `redis://[[user]:password@]host:port[/db]`.
    ///
    /// # Errors
    /// When the address is not of that form, nobody listens, or the password is refused.
    pub async fn connect(uri: &str) -> Result<Self> {
        let rest = uri.strip_prefix("redis://").context("the address must begin with redis://")?;
        let (login, rest) = rest.rsplit_once('@').map_or((None, rest), |(login, rest)| (Some(login), rest));
        let (address, db) = rest.split_once('/').unwrap_or((rest, ""));
        let stream = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(address))
            .await
            .with_context(|| format!("{address} does not answer"))?
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let mut resp = Self { stream: BufReader::new(stream) };
        if let Some((user, password)) = login.and_then(|login| login.split_once(':')) {
            let user = if user.is_empty() { "default" } else { user };
            resp.call(&["AUTH", user, password]).await?;
        }
        if !db.is_empty() {
            resp.call(&["SELECT", db]).await?;
        }
        Ok(resp)
    }

    /// Sends a command and reads its reply.
    ///
    /// # Errors
    /// When the server answers with an error or goes away.
    pub async fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Reply> {
        self.pipeline(&[args]).await?.pop().context("one command has one reply")
    }

    /// Sends several commands at once and reads their replies.
    ///
    /// # Errors
    /// When the server answers any of them with an error, or goes away.
    pub async fn pipeline<A: AsRef<[u8]>, C: AsRef<[A]>>(&mut self, commands: &[C]) -> Result<Vec<Reply>> {
        let mut out = Vec::new();
        for command in commands {
            let args = command.as_ref();
            out.extend(format!("*{}\r\n", args.len()).bytes());
            for arg in args.iter().map(AsRef::as_ref) {
                out.extend(format!("${}\r\n", arg.len()).bytes());
                out.extend(arg);
                out.extend(b"\r\n");
            }
        }
        self.stream.write_all(&out).await?;
        let mut replies = Vec::with_capacity(commands.len());
        for command in commands {
            match self.read().await? {
                Reply::Error(e) => {
                    let name = command.as_ref().first().map(|a| String::from_utf8_lossy(a.as_ref()).into_owned());
                    bail!("{}: {e}", name.unwrap_or_default());
                }
                reply => replies.push(reply),
            }
        }
        Ok(replies)
    }

    async fn read(&mut self) -> Result<Reply> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await?;
        let Some(body) = line.strip_suffix(b"\r\n").filter(|body| !body.is_empty()) else {
            bail!("the server closed the connection");
        };
        let text = String::from_utf8_lossy(&body[1..]).into_owned();
        Ok(match body[0] {
            b'+' => Reply::Status(text),
            b'-' => Reply::Error(text),
            b':' => Reply::Integer(text.parse()?),
            b'$' => match usize::try_from(text.parse::<i64>()?) {
                Err(_) => Reply::Bulk(None),
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.stream.read_exact(&mut bytes).await?;
                    bytes.truncate(length);
                    Reply::Bulk(Some(bytes))
                }
            },
            b'*' => match usize::try_from(text.parse::<i64>()?) {
                Err(_) => Reply::Array(None),
                Ok(count) => {
                    let mut items = Vec::with_capacity(count);
                    for _ in 0..count {
                        items.push(Box::pin(self.read()).await?);
                    }
                    Reply::Array(Some(items))
                }
            },
            other => bail!("the server sent {:?} where a reply begins", char::from(other)),
        })
    }
}
