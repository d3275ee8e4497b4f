//! The snapshot that a new replica gets (SYNC or PSYNC), for servers whose disk is out of sight.
//!
//! The link is closed as soon as the snapshot has come, or the capture ends; what is written meanwhile is asked for only
//! where the server insists on sending it. Nothing is changed on the server: `repl-diskless-sync-delay` (5 s by default)
//! is waited out.

use std::io::{self, Read};

use tokio_util::sync::CancellationToken;

use super::{
    SourceError,
    address::Address,
    wire::{Head, Wire},
};

/// Length of the mark with which a server ends a snapshot that it did not know the length of.
const MARK: usize = 40;

/// A snapshot on its way, to be read to its end. Reading fails when the server cuts it.
pub(super) struct Snapshot {
    wire: Wire,
    end: End,
    received: u64,
}

/// How the end of the snapshot is known.
enum End {
    /// After so many bytes more.
    Length(u64),
    /// At this mark; what may be its beginning is held back.
    Mark { mark: [u8; MARK], held: Vec<u8>, ready: usize },
}

/// Asks for a snapshot and waits until it begins. The inner error tells why the server gives none to us.
pub(super) fn open(address: &Address, cancel: &CancellationToken) -> Result<Result<Snapshot, String>, SourceError> {
    let mut refusals = Vec::new();
    for command in [&[&b"SYNC"[..]][..], &[b"PSYNC", b"?", b"-1"]] {
        let mut wire = Wire::connect(address, cancel)?;
        // Without `capa eof` a server saves to its disk first; with `rdb-only` it sends nothing after the snapshot and
        // buffers nothing for us meanwhile. Servers that know neither say so and go on.
        for option in [[&b"REPLCONF"[..], b"capa", b"eof"], [b"REPLCONF", b"rdb-only", b"1"]] {
            wire.ask(&option)?;
        }
        wire.send(&[command])?;
        match head(&mut wire) {
            Ok(Head::Bulk(text)) => return Snapshot::begin(wire, &text).map(Ok),
            Ok(Head::Error(said)) => refusals.push(refusal(address, said)?),
            Ok(other) => return Err(SourceError::Failed(format!("Valkey at {address} answers SYNC with {other:?}"))),
            // Some proxies just hang up.
            Err(SourceError::Unavailable(said)) => refusals.push(said),
            Err(e) => return Err(e),
        }
    }
    refusals.dedup();
    Ok(Err(refusals.join("; ")))
}

/// The head of the snapshot. Empty lines keep the link alive while the server waits or saves.
fn head(wire: &mut Wire) -> Result<Head, SourceError> {
    loop {
        while wire.some(1)?[0] == b'\n' {
            wire.consume(1);
        }
        match wire.head()? {
            Head::Status(said) if said.starts_with("FULLRESYNC") => {}
            other => return Ok(other),
        }
    }
}

/// Tells what is a refusal from what is a failure, which another way of capturing must not hide.
fn refusal(address: &Address, said: String) -> Result<String, SourceError> {
    match address.refusal("SYNC", &said) {
        SourceError::Denied(_) => Ok(said),
        SourceError::Failed(_) if !said.contains("BGSAVE") && !said.contains("background save") => Ok(said),
        failure => Err(failure),
    }
}

impl Snapshot {
    fn begin(wire: Wire, head: &str) -> Result<Self, SourceError> {
        let end = match head.strip_prefix("EOF:") {
            None => End::Length(wire.length(head)?),
            Some(mark) => {
                let mark = mark.as_bytes().try_into();
                let mark = mark.map_err(|_| SourceError::Failed(format!("a snapshot with an odd mark: {head:?}")))?;
                End::Mark { mark, held: Vec::new(), ready: 0 }
            }
        };
        Ok(Self { wire, end, received: 0 })
    }

    /// Bytes to come, where the server says.
    pub(super) fn length(&self) -> Option<u64> {
        match self.end {
            End::Length(n) => Some(n),
            End::Mark { .. } => None,
        }
    }

    fn cut(&self) -> SourceError {
        SourceError::Unavailable(format!(
            "Valkey at {} ended the replication stream after {} bytes. Its log says why: if its limits for replicas were exceeded \
             (client-output-buffer-limit replica, repl-timeout), raise them, make the store faster, or set valkey.capture to \
             bgsave or scan",
            self.wire.address(),
            self.received
        ))
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<usize, SourceError> {
        loop {
            match &mut self.end {
                End::Length(0) => return Ok(0),
                End::Length(left) => {
                    let max = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
                    let came = self.wire.bytes(max)?;
                    let n = came.len();
                    if n == 0 {
                        return Err(self.cut());
                    }
                    buf[..n].copy_from_slice(came);
                    self.wire.consume(n);
                    *left -= n as u64;
                    self.received += n as u64;
                    return Ok(n);
                }
                End::Mark { held, ready, .. } if *ready > 0 => {
                    let n = buf.len().min(*ready);
                    buf[..n].copy_from_slice(&held[..n]);
                    held.drain(..n);
                    *ready -= n;
                    return Ok(n);
                }
                End::Mark { mark, held, .. } if held == mark => return Ok(0),
                End::Mark { held, ready, .. } => {
                    let came = self.wire.bytes(usize::MAX)?;
                    let n = came.len();
                    if n == 0 {
                        return Err(self.cut());
                    }
                    held.extend_from_slice(came);
                    self.wire.consume(n);
                    self.received += n as u64;
                    *ready = held.len().saturating_sub(MARK);
                }
            }
        }
    }
}

impl Read for Snapshot {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.next(buf).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::source::valkey::ValkeyTls;

    /// A server that answers each command with what `answer` says to its first word, in dribs of `drib` bytes.
    fn server(drib: usize, answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("redis://{}", listener.local_addr().unwrap());
        let talk = move |mut out: TcpStream| -> io::Result<()> {
            out.set_nodelay(true)?;
            let mut lines = BufReader::new(out.try_clone()?).lines();
            while let Some(head) = lines.next() {
                let words: usize = head?[1..].parse().unwrap();
                let words: Vec<String> = lines.by_ref().take(words * 2).collect::<Result<_, _>>()?;
                for piece in answer(&words[1]).chunks(drib) {
                    out.write_all(piece)?;
                    out.flush()?;
                }
                if words[1].ends_with("SYNC") {
                    return Ok(());
                }
            }
            Ok(())
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().take(2) {
                let _ = talk(stream.unwrap());
            }
        });
        Address::parse(&uri, &ValkeyTls::default()).unwrap()
    }

    fn all(address: &Address) -> Result<Result<Vec<u8>, String>, SourceError> {
        let snapshot = open(address, &CancellationToken::new())?;
        let Ok(mut snapshot) = snapshot else { return Ok(Err(snapshot.err().unwrap())) };
        let mut bytes = Vec::new();
        match snapshot.read_to_end(&mut bytes) {
            Ok(_) => Ok(Ok(bytes)),
            Err(e) => Err(e.downcast().unwrap()),
        }
    }

    #[test]
    fn both_forms_end_where_they_end() {
        let data: Vec<u8> = (0..10_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
        let mark = "0123456789abcdef0123456789abcdef01234567";
        for drib in [1, 7, 39, 40, 41, 100_000] {
            for len in [0, 1, 39, 40, 41, 10_000] {
                let body = data[..len].to_vec();
                let sized = body.clone();
                let address = server(drib, move |word| match word {
                    "SYNC" => [b"\n\n$", sized.len().to_string().as_bytes(), b"\r\n", &sized].concat(),
                    _ => b"-ERR what\r\n".to_vec(),
                });
                assert_eq!(all(&address).unwrap().unwrap(), body);
                let marked = body.clone();
                let address = server(drib, move |word| match word {
                    "SYNC" => b"-NOPERM this user has no permissions to run the 'sync' command\r\n".to_vec(),
                    "PSYNC" => {
                        let head = format!("+FULLRESYNC abc 1\r\n\n$EOF:{mark}\r\n");
                        [head.as_bytes(), &marked, mark.as_bytes()].concat()
                    }
                    _ => b"+OK\r\n".to_vec(),
                });
                assert_eq!(all(&address).unwrap().unwrap(), body);
            }
        }
    }

    #[test]
    fn refusals_are_told_from_failures() {
        let said = |sync: &'static str| {
            all(&server(100, move |word| if word.ends_with("SYNC") { sync.into() } else { "+OK\r\n".into() }))
        };
        assert_eq!(said("-ERR unknown command 'SYNC'\r\n").unwrap().unwrap_err(), "ERR unknown command 'SYNC'");
        assert!(said("").unwrap().unwrap_err().contains("closed"));
        for (failure, what) in [
            ("-LOADING Redis is loading\r\n", "still loading"),
            ("-NOMASTERLINK Can't SYNC while not connected with my master\r\n", "lost its primary"),
            ("-ERR BGSAVE failed, replication can't continue\r\n", "BGSAVE failed"),
            ("$100\r\nabc", "client-output-buffer-limit replica"),
            ("$EOF:0123456789abcdef0123456789abcdef01234567\r\nabc", "after 3 bytes"),
            ("$EOF:0\r\n", "odd mark"),
        ] {
            let error = said(failure).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
