//! Keys on their way into a running server: commands that are put together while the server works on those before them.
//!
//! What is too long for one `RESTORE` is rebuilt with the commands of its type.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use prexor_format::rdb::{self, Entry, Library, Payload};

use super::{
    SourceError,
    keys::file_failed,
    raw::{Raw, argument, argument_begins, command, head},
};

/// Bytes of commands that go out before the replies to the ones before them are read.
const WINDOW: usize = 256 << 10;

/// The most of a string that is appended at once.
const PART: u64 = 8 << 20;

/// Commands gathered, and the number of replies that are still to come.
pub(super) struct Load<'a> {
    raw: &'a mut Raw,
    /// The file that the keys come from.
    path: &'a Path,
    /// The longest argument that the server takes.
    bulk_max: u64,
    out: Vec<u8>,
    /// Commands in `out`.
    begun: usize,
    /// Commands that were sent and not answered yet.
    sent: usize,
    db: Option<u64>,
}

impl<'a> Load<'a> {
    pub(super) fn new(raw: &'a mut Raw, path: &'a Path, bulk_max: u64) -> Self {
        Self { raw, path, bulk_max, out: Vec::new(), begun: 0, sent: 0, db: None }
    }

    /// Puts in a key, which is not there; `key` is all of it.
    pub(super) fn key(&mut self, entry: &Entry<'_>, key: &[u8], file: &File) -> Result<(), SourceError> {
        if self.db != Some(entry.db) {
            command(&mut self.out, &[b"SELECT", entry.db.to_string().as_bytes()]);
            self.begun += 1;
            self.db = Some(entry.db);
        }
        let len = Payload::len(entry.serialised_len);
        if len > self.bulk_max {
            return self.rebuilt(entry, key, file);
        }
        head(&mut self.out, 6);
        argument(&mut self.out, b"RESTORE");
        argument(&mut self.out, key);
        argument(&mut self.out, entry.expires_at_ms.unwrap_or(0).to_string().as_bytes());
        argument_begins(&mut self.out, len);
        let version = Payload::version_needed(entry.code);
        match entry.serialised {
            Some(serialised) => Payload::append(entry.code, serialised, version, &mut self.out),
            None => {
                let mut payload = Payload::begin(entry.code, version);
                self.out.push(entry.code);
                pieces(file, self.path, entry.serialised_at, entry.serialised_len, |piece| {
                    payload.add(piece);
                    self.out.extend_from_slice(piece);
                    if self.out.len() < WINDOW { Ok(()) } else { self.raw.send(&std::mem::take(&mut self.out)) }
                })?;
                self.out.extend_from_slice(&payload.end());
            }
        }
        self.out.extend_from_slice(b"\r\n");
        argument(&mut self.out, b"REPLACE");
        argument(&mut self.out, b"ABSTTL");
        self.begun += 1;
        self.flow()
    }

    /// A value whose payload is longer than the server takes in one piece, by the commands of its type.
    fn rebuilt(&mut self, entry: &Entry<'_>, key: &[u8], file: &File) -> Result<(), SourceError> {
        let serialised = At::new(file, entry.serialised_at, entry.serialised_len);
        let unreadable = |path: &Path, e: rdb::RdbError| match e {
            rdb::RdbError::Unsupported(why) => SourceError::Invalid(format!(
                "{} cannot be put into a running server: {why}; restore by exchanging the server's files",
                key.escape_ascii()
            )),
            e => SourceError::Failed(format!("{} cannot be read: {e}", path.display())),
        };
        // A verb that was cut off may have left a part of it.
        self.command(&[b"UNLINK", key])?;
        let (mut part, mut failed) = (Vec::new(), Ok(()));
        if entry.code == 0 {
            let most = (self.bulk_max / 4).min(PART) as usize;
            let unpacked = rdb::unpack_string(serialised, |piece| {
                part.extend_from_slice(piece);
                if failed.is_ok() && part.len() >= most {
                    failed = self.command(&[b"APPEND", key, &std::mem::take(&mut part)]);
                }
            });
            failed?;
            unpacked.map_err(|e| unreadable(self.path, e))?;
            self.command(&[b"APPEND", key, &part])?;
        } else {
            let Some((adds, group)) = rdb::adds(entry.code, entry.kind) else {
                // Looked at before anything was changed; the server's limit has changed since.
                return Err(SourceError::Invalid(format!(
                    "{} has {} bytes, the server takes {} at once (proto-max-bulk-len)",
                    key.escape_ascii(),
                    entry.serialised_len,
                    self.bulk_max
                )));
            };
            let mut args = 0;
            let unpacked = rdb::unpack(entry.code, serialised, |element| {
                argument(&mut part, element);
                args += 1;
                if failed.is_ok() && args % group == 0 && part.len() >= WINDOW {
                    failed = self.elements(adds, key, std::mem::take(&mut args), &mut part);
                }
            });
            failed?;
            unpacked.map_err(|e| unreadable(self.path, e))?;
            if args > 0 {
                self.elements(adds, key, args, &mut part)?;
            }
        }
        match entry.expires_at_ms {
            Some(at) => self.command(&[b"PEXPIREAT", key, at.to_string().as_bytes()]),
            None => Ok(()),
        }
    }

    /// Adds elements, so many arguments that are put together in `part`.
    fn elements(&mut self, adds: &str, key: &[u8], args: usize, part: &mut Vec<u8>) -> Result<(), SourceError> {
        head(&mut self.out, 2 + args);
        argument(&mut self.out, adds.as_bytes());
        argument(&mut self.out, key);
        self.out.append(part);
        self.begun += 1;
        self.flow()
    }

    fn command(&mut self, args: &[&[u8]]) -> Result<(), SourceError> {
        command(&mut self.out, args);
        self.begun += 1;
        self.flow()
    }

    /// Sends what was gathered once it is enough, and then reads the replies to what was sent before it: the server
    /// works on one while the next is put together.
    fn flow(&mut self) -> Result<(), SourceError> {
        if self.out.len() < WINDOW {
            return Ok(());
        }
        self.raw.send(&self.out)?;
        self.out.clear();
        let before = std::mem::replace(&mut self.sent, std::mem::take(&mut self.begun));
        self.replies(before)
    }

    fn replies(&mut self, n: usize) -> Result<(), SourceError> {
        self.raw.replies(n, b"RESTORE")
    }

    /// Sends the rest and waits for all replies.
    pub(super) fn finish(mut self) -> Result<(), SourceError> {
        self.raw.send(&self.out)?;
        let all = self.sent + self.begun;
        self.replies(all)
    }
}

/// Libraries of functions, as `FUNCTION RESTORE` takes them.
#[derive(Default)]
pub(super) struct Functions(Vec<u8>);

impl Functions {
    pub(super) fn add(&mut self, library: &Library<'_>, file: &File) -> io::Result<()> {
        self.0.push(Library::CODE);
        match library.serialised {
            Some(serialised) => self.0.extend_from_slice(serialised),
            None => {
                let begin = self.0.len();
                self.0.resize(begin + usize::try_from(library.serialised_len).map_err(io::Error::other)?, 0);
                file.read_exact_at(&mut self.0[begin..], library.serialised_at)?;
            }
        }
        Ok(())
    }

    /// Replaces all functions of the server.
    pub(super) fn put(self, raw: &mut Raw) -> Result<(), SourceError> {
        let Some((code, libraries)) = self.0.split_first() else {
            return match raw.ask(&[b"FUNCTION", b"FLUSH"]) {
                Err(e) if !knows_no_command(&e) => Err(e),
                _ => Ok(()),
            };
        };
        let mut payload = Vec::new();
        Payload::append(*code, libraries, 10, &mut payload);
        raw.ask(&[b"FUNCTION", b"RESTORE", &payload, b"FLUSH"]).map(drop)
    }
}

/// Bytes of a file from a place on.
pub(super) struct At<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl<'a> At<'a> {
    /// `left` bytes from `at` on, or up to the file's end.
    pub(super) fn new(file: &'a File, at: u64, left: u64) -> Self {
        Self { file, at, left }
    }
}

impl io::Read for At<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buf[..most], self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

fn pieces(
    file: &File,
    path: &Path,
    at: u64,
    len: u64,
    mut take: impl FnMut(&[u8]) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let (mut from, mut buffer) = (At::new(file, at, len), vec![0; 64 << 10]);
    while from.left > 0 {
        match io::Read::read(&mut from, &mut buffer) {
            Ok(0) => return Err(file_failed("reading", path, &io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => take(&buffer[..n])?,
            Err(e) => return Err(file_failed("reading", path, &e)),
        }
    }
    Ok(())
}

/// An older server, or one that hides it.
pub(super) fn knows_no_command(e: &SourceError) -> bool {
    matches!(e, SourceError::Failed(said) if said.contains("unknown command"))
}
