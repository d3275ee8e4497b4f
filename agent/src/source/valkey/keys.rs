//! Keys of a running server, by the thousand: written down as an RDB file, taken away, put in out of one.
//!
//! All of it is limited to the keys that a selection covers. Knows nothing of journals and laws.

use std::{
    borrow::Cow,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use prexor_format::{
    rdb::{self, Entry, Facts, Kind, Payload, Reader, Record, Writer, unpack_string},
    selection::Selection,
};

use super::{
    SourceError,
    address::Address,
    load::{At, Functions, Load, knows_no_command},
    raw::{Raw, command},
    wire::Reply,
};
use crate::sink::Progress;

/// Keys that a server is asked for in one go.
const AT_ONCE: &[u8] = b"1000";
/// Values that a server is asked for in one go: it holds all of them until they are taken.
const DUMPS_AT_ONCE: usize = 64;
/// The RDB version in files that are written down from servers whose own is not known.
const FILE_VERSION: u32 = 11;
/// `proto-max-bulk-len` where the server does not say.
pub(super) const BULK_MAX: u64 = 512 << 20;
/// How often a server that does not tell absolute expiries is asked for one, until the answer is exact.
const EXACT_TRIES: u32 = 100;
/// The longest key that is moved: one is held whole.
const KEY_MAX: u64 = 64 << 20;

/// A server whose keys are moved.
pub(super) struct Keys<'a> {
    raw: Raw,
    selection: &'a Selection,
    progress: &'a Progress,
}

impl<'a> Keys<'a> {
    pub(super) fn connect(
        address: &Address,
        selection: &'a Selection,
        progress: &'a Progress,
    ) -> Result<Self, SourceError> {
        Ok(Self { raw: Raw::connect(address)?, selection, progress })
    }

    /// Whether functions belong to what is moved.
    fn with_functions(&self) -> bool {
        self.selection.keys.is_empty()
    }

    /// Writes all covered keys, and the functions where everything is covered, to a new file, which is on the disk then.
    /// `version` is that of the server's own files, where it is known.
    pub(super) fn write_down(&mut self, path: &Path, version: Option<u32>) -> Result<(), SourceError> {
        let failed = |e: std::io::Error| file_failed("writing", path, &e);
        let file = File::create(path).map_err(failed)?;
        let out = Writer::new(BufWriter::with_capacity(256 << 10, file), version.unwrap_or(FILE_VERSION), &[]);
        let mut out = out.map_err(failed)?;
        if self.with_functions() {
            match self.raw.ask(&[b"FUNCTION", b"DUMP"]) {
                // All libraries one behind the other, each behind its byte; the first byte is the writer's.
                Ok(Reply::Bulk(dump)) if dump.len() > 10 => {
                    out.library(&dump[1..dump.len() - 10]).map_err(failed)?;
                }
                Ok(_) => {}
                Err(e) if knows_no_command(&e) => {}
                Err(e) => return Err(e),
            }
        }
        let absolute = self.tells_absolute_expiries()?;
        for db in self.databases()? {
            let mut cursor = self.select(db)?;
            while let Some((keys, next)) = self.scan(cursor)? {
                cursor = next;
                for keys in keys.chunks(DUMPS_AT_ONCE) {
                    let (mut ask, mut expiries) = (Vec::new(), Vec::new());
                    for key in keys {
                        if absolute {
                            command(&mut ask, &[b"PEXPIRETIME", key]);
                        } else {
                            expiries.push(self.expiry(key)?);
                        }
                        command(&mut ask, &[b"DUMP", key]);
                    }
                    self.raw.send(&ask)?;
                    let mut expiries = expiries.into_iter();
                    for key in keys {
                        self.take_down(db, key, expiries.next(), &mut out).map_err(|e| match e {
                            Down::Server(e) => e,
                            Down::File(e) => failed(e),
                        })?;
                    }
                }
                self.progress.add(0, keys.len() as u64);
            }
        }
        let file = out.finish().map_err(failed)?;
        let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)
    }

    /// Before Redis 7 they do not.
    fn tells_absolute_expiries(&mut self) -> Result<bool, SourceError> {
        match self.raw.ask(&[b"PEXPIRETIME", b"prexor-absent"]) {
            Ok(_) => Ok(true),
            Err(e) if knows_no_command(&e) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// When a key expires, of a server that tells the time and what is left: exact where both are of one millisecond.
    fn expiry(&mut self, key: &[u8]) -> Result<Option<i64>, SourceError> {
        let mut ask = Vec::new();
        for args in [&[&b"TIME"[..]][..], &[b"PTTL", key], &[b"TIME"]] {
            command(&mut ask, args);
        }
        let mut tries = 0;
        loop {
            self.raw.send(&ask)?;
            let (before, left, after) = (self.raw.reply()?, self.raw.reply()?, self.raw.reply()?);
            let Reply::Int(left @ 0..) = self.raw.accepted(b"PTTL", left)? else { return Ok(None) };
            tries += 1;
            match (milliseconds(&before), milliseconds(&after)) {
                (Some(before), Some(after)) if before == after || tries == EXACT_TRIES => {
                    return Ok(Some(before + left));
                }
                (Some(_), Some(_)) => {}
                _ => return Err(SourceError::Failed("the server answers TIME as none does".to_owned())),
            }
        }
    }

    /// `expires` where it was asked for before.
    fn take_down<W: Write>(
        &mut self,
        db: u64,
        key: &[u8],
        expires: Option<Option<i64>>,
        out: &mut Writer<W>,
    ) -> Result<(), Down> {
        let expires_at_ms = match expires {
            Some(known) => known,
            None => {
                let answer = self.raw.reply()?;
                match self.raw.accepted(b"PEXPIRETIME", answer)? {
                    Reply::Int(ms @ 0..) => Some(ms),
                    _ => None,
                }
            }
        };
        // Gone since the scan.
        let Some(len) = self.raw.value_begins()? else { return Ok(()) };
        let body = len.checked_sub(11).ok_or_else(|| bad_dump(key))?;
        let mut code = 0;
        self.raw.pieces(1, |byte| {
            code = byte[0];
            Ok(())
        })?;
        out.key(db, key, code, &Facts { expires_at_ms, ..Facts::default() }).map_err(Down::File)?;
        let mut payload = None;
        let mut broken = None;
        self.raw.pieces(body, |piece| {
            // The version comes behind the value and is not needed: the checksum is over it too, so it is redone below.
            payload.get_or_insert_with(|| Payload::begin(code, 0)).add(piece);
            if broken.is_none() {
                broken = out.value(piece).err();
            }
            Ok(())
        })?;
        let mut footer = Vec::new();
        self.raw.pieces(10, |piece| {
            footer.extend_from_slice(piece);
            Ok(())
        })?;
        self.raw.end_of_value()?;
        if let Some(e) = broken {
            return Err(Down::File(e));
        }
        let version = u16::from_le_bytes([footer[0], footer[1]]);
        let sum = payload.unwrap_or_else(|| Payload::begin(code, 0)).end_with(version);
        if sum[..] == footer[..] { Ok(()) } else { Err(bad_dump(key).into()) }
    }

    /// Takes all covered keys away.
    pub(super) fn remove(&mut self) -> Result<(), SourceError> {
        for db in self.databases()? {
            let mut cursor = self.select(db)?;
            while let Some((keys, next)) = self.scan(cursor)? {
                cursor = next;
                if !keys.is_empty() {
                    let args: Vec<&[u8]> = [&b"UNLINK"[..]].into_iter().chain(keys.iter().map(Vec::as_slice)).collect();
                    self.raw.ask(&args)?;
                }
            }
        }
        Ok(())
    }

    /// Puts in all covered keys of a file that have not expired by `now_ms` and that `wanted` says yes to, and the
    /// functions where everything is covered.
    pub(super) fn put_in(
        &mut self,
        path: &Path,
        now_ms: i64,
        wanted: impl Fn(&Entry<'_>) -> bool,
    ) -> Result<(), SourceError> {
        let open = || File::open(path).map_err(|e| file_failed("reading", path, &e));
        let damaged = |e: rdb::RdbError| SourceError::Failed(format!("{} cannot be read: {e}", path.display()));
        let (mut reader, file) = (Reader::new(open()?).map_err(damaged)?, open()?);
        let bulk_max = self.bulk_max()?;
        let mut functions = Functions::default();
        let mut load = Load::new(&mut self.raw, path, bulk_max);
        while let Some(record) = reader.next_record().map_err(damaged)? {
            match record {
                Record::Library(library) => {
                    functions.add(&library, &file).map_err(|e| file_failed("reading", path, &e))?
                }
                Record::Key(entry) => {
                    // Servers drop collections without elements when they load a file.
                    let empty = entry.elements == 0 && entry.kind != Kind::Stream;
                    let expired = entry.expires_at_ms.is_some_and(|at| at <= now_ms);
                    if empty || expired || !wanted(&entry) {
                        continue;
                    }
                    let key = whole_key(&entry, &file, path)?;
                    if !self.selection.covers_key(&key) {
                        continue;
                    }
                    load.key(&entry, &key, &file)?;
                    self.progress.add(entry.serialised_len, 1);
                }
            }
        }
        load.finish()?;
        if self.with_functions() {
            functions.put(&mut self.raw)?;
        }
        Ok(())
    }

    fn databases(&mut self) -> Result<Vec<u64>, SourceError> {
        let Reply::Bulk(text) = self.raw.ask(&[b"INFO", b"keyspace"])? else { return Ok(Vec::new()) };
        Ok(super::client::Info::parse(&String::from_utf8_lossy(&text)).databases())
    }

    fn bulk_max(&mut self) -> Result<u64, SourceError> {
        match self.raw.ask(&[b"CONFIG", b"GET", b"proto-max-bulk-len"]) {
            Ok(Reply::Array(pair)) => match pair.get(1) {
                Some(Reply::Bulk(text)) => {
                    Ok(str::from_utf8(text).ok().and_then(|t| t.parse().ok()).unwrap_or(BULK_MAX))
                }
                _ => Ok(BULK_MAX),
            },
            Ok(_) | Err(SourceError::Denied(_) | SourceError::Failed(_)) => Ok(BULK_MAX),
            Err(e) => Err(e),
        }
    }

    /// Selects a database; where its scan begins.
    fn select(&mut self, db: u64) -> Result<Option<Vec<u8>>, SourceError> {
        self.raw.ask(&[b"SELECT", db.to_string().as_bytes()])?;
        Ok(Some(b"0".to_vec()))
    }

    /// Some covered keys, and where to go on; `None` at the end.
    fn scan(&mut self, cursor: Option<Vec<u8>>) -> Result<Option<Scanned>, SourceError> {
        let Some(cursor) = cursor else { return Ok(None) };
        let mut args: Vec<&[u8]> = vec![b"SCAN", &cursor, b"COUNT", AT_ONCE];
        if let [pattern] = &self.selection.keys[..] {
            args.extend([&b"MATCH"[..], pattern.as_bytes()]);
        }
        let Reply::Array(mut answer) = self.raw.ask(&args)? else { return Ok(None) };
        let (Some(Reply::Array(keys)), Some(Reply::Bulk(next))) = (answer.pop(), answer.pop()) else {
            return Ok(None);
        };
        let keys = keys.into_iter().filter_map(|key| match key {
            Reply::Bulk(key) if self.selection.covers_key(&key) => Some(key),
            _ => None,
        });
        Ok(Some((keys.collect(), (next != b"0").then_some(next))))
    }
}

/// What TIME answers, in milliseconds since the epoch.
fn milliseconds(reply: &Reply) -> Option<i64> {
    let number = |r: &Reply| match r {
        Reply::Bulk(text) => str::from_utf8(text).ok()?.parse::<i64>().ok(),
        _ => None,
    };
    let Reply::Array(parts) = reply else { return None };
    let [s, us] = parts.as_slice() else { return None };
    Some(number(s)?.checked_mul(1000)?.checked_add(number(us)? / 1000)?)
}

/// Some keys, and the cursor where there are more.
type Scanned = (Vec<Vec<u8>>, Option<Vec<u8>>);

/// Writing a key down failed on one side or the other.
enum Down {
    Server(SourceError),
    File(std::io::Error),
}

impl From<SourceError> for Down {
    fn from(e: SourceError) -> Self {
        Self::Server(e)
    }
}

fn bad_dump(key: &[u8]) -> SourceError {
    SourceError::Failed(format!("the server dumps {} in a way that cannot be read", key.escape_ascii()))
}

/// A key, of which an entry has only the beginning where it is very long.
pub(super) fn whole_key<'e>(entry: &Entry<'e>, file: &File, path: &Path) -> Result<Cow<'e, [u8]>, SourceError> {
    if entry.key.len() as u64 == entry.key_len {
        return Ok(Cow::Borrowed(entry.key));
    }
    if entry.key_len > KEY_MAX {
        return Err(SourceError::Invalid(format!(
            "a key of {} bytes cannot be put into a running server: restore by exchanging the server's files",
            entry.key_len
        )));
    }
    let mut key = Vec::new();
    unpack_string(At::new(file, entry.key_at, u64::MAX), |piece| key.extend_from_slice(piece))
        .map_err(|e| SourceError::Failed(format!("{} cannot be read: {e}", path.display())))?;
    Ok(Cow::Owned(key))
}

pub(super) fn file_failed(doing: &str, path: &Path, e: &std::io::Error) -> SourceError {
    let what = format!("{doing} {} failed: {e}", path.display());
    match e.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => SourceError::NoSpace(what),
        _ => SourceError::Failed(what),
    }
}
