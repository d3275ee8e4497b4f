//! Key by key, with SCAN and DUMP, for servers that give no snapshot at all: an RDB file put together from what the server
//! has serialised. Each key is as it was at its own moment, with value and expiry of the same moment; the keys are not of
//! one moment (*fuzzy*).
//!
//! SCAN may name a key twice, which no server would load. What was seen is remembered as 16 bytes a key; a database of
//! more than [`KEYS_AT_ONCE`] keys is walked several times, each time for another part of its keys, so that this stays
//! bounded. Large values pass through in pieces.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    hash::{BuildHasher as _, RandomState},
    io::{self, Read},
};

use prexor_format::{
    rdb::{Facts, Payload, Writer},
    selection::Selection,
};
use tokio_util::sync::CancellationToken;

use super::{
    SourceError,
    address::Address,
    client::Info,
    versions,
    wire::{Head, Reply, Wire, encode},
};

/// Keys that are remembered at a time.
const KEYS_AT_ONCE: u64 = 1 << 20;

/// Keys asked for with one SCAN.
const PAGE: &str = "1024";

/// Bytes of answers that the server should have to hold for us, by the size of the keys before.
const OUTSTANDING: u64 = 4 << 20;

/// Bytes of the file that are made before they are read.
const MADE: usize = 64 << 10;

/// Keys that are asked for before the first answer is read.
const WINDOW: usize = 256;

/// How many answers one after the other may tell an expiry that is not exact.
const INEXACT_MAX: u32 = 100;

/// What is asked of the server.
#[derive(Default)]
pub(super) struct Wanted {
    /// Which keys; functions only where it is all of them.
    pub(super) selection: Selection,
    /// Nobody else writes: value and expiry are of one moment whenever they are asked for. Nothing may be missing.
    pub(super) at_rest: bool,
}

/// The file as it comes into being, to be read to its end.
pub(super) struct Scan {
    wire: Wire,
    /// None when the file has ended.
    writer: Option<Writer<Vec<u8>>>,
    version: u16,
    /// What the writer has made, and of that, what was read.
    made: Vec<u8>,
    taken: usize,
    selection: Selection,
    atomic: bool,
    absolute: bool,
    /// Expiries one after the other that were not exact.
    inexact: u32,
    /// Databases that are still to be walked, and those that were.
    databases: VecDeque<u64>,
    walked: BTreeSet<u64>,
    db: u64,
    walk: Option<Walk>,
    value: Option<Value>,
    /// A mean of the last keys' sizes.
    size: u64,
}

/// One key's value on its way: bytes of it that are still to come, and of the footer behind it.
struct Value {
    left: u64,
    payload: Payload,
}

/// Bytes behind the value in what DUMP answers.
const FOOTER: usize = 10;

/// One database on its way.
struct Walk {
    part: u64,
    parts: u64,
    cursor: Vec<u8>,
    begun: bool,
    found: VecDeque<Vec<u8>>,
    asked: VecDeque<Vec<u8>>,
    seen: HashSet<(u64, u64)>,
    hashers: (RandomState, RandomState),
}

impl Walk {
    fn new(part: u64, parts: u64, hashers: (RandomState, RandomState)) -> Self {
        Self {
            part,
            parts,
            cursor: b"0".to_vec(),
            begun: false,
            found: VecDeque::new(),
            asked: VecDeque::new(),
            seen: HashSet::new(),
            hashers,
        }
    }

    /// Whether this key is of this part, and new.
    fn takes(&mut self, key: &[u8]) -> bool {
        let hash = (self.hashers.0.hash_one(key), self.hashers.1.hash_one(key));
        hash.0 % self.parts == self.part && self.seen.insert(hash)
    }
}

/// Looks whether the account may do it, and begins; tells also what an operator should know. The inner error tells why not.
pub(super) fn open(
    address: &Address,
    info: &Info,
    Wanted { selection, at_rest }: Wanted,
    cancel: &CancellationToken,
) -> Result<Result<(Scan, Vec<String>), String>, SourceError> {
    let mut wire = Wire::connect(address, cancel)?;
    let absent = format!("prexor-absent-{:016x}", RandomState::new().hash_one(0));
    for command in [&[&b"SCAN"[..], b"0", b"COUNT", b"1"][..], &[b"DUMP", absent.as_bytes()]] {
        if let Reply::Error(said) = wire.ask(command)? {
            return match address.refusal("SCAN and DUMP", &said) {
                SourceError::Denied(_) | SourceError::Failed(_) => Ok(Err(said)),
                failure => Err(failure),
            };
        }
    }
    let absolute = !matches!(wire.ask(&[b"PEXPIRETIME", absent.as_bytes()])?, Reply::Error(_));
    let refused = |reply: Reply| matches!(reply, Reply::Error(_));
    let mut atomic = !at_rest;
    if atomic {
        wire.send(&[&[b"MULTI"], &[b"EXEC"]])?;
        let answers = [wire.reply()?, wire.reply()?];
        atomic = !answers.into_iter().any(refused);
    }
    let mut warnings =
        vec!["captured key by key while writes went on: the keys do not show one point in time".to_owned()];
    if !atomic {
        warnings.push("MULTI is refused: a key's expiry may be of another moment than its value".to_owned());
    }
    let (functions, version) = match wire.ask(&[b"FUNCTION", b"DUMP"])? {
        // No function: a version and a checksum. It is each value's turn to be checked against the version.
        Reply::Bulk(dump) if dump.len() == FOOTER => (Vec::new(), Some(u16::from_le_bytes([dump[0], dump[1]]))),
        Reply::Bulk(dump) => {
            let parsed = Payload::parse(&dump).map_err(|e| damaged(address, "the functions", &e))?;
            let all = if selection.keys.is_empty() { parsed.serialised } else { &[] };
            (all.to_vec(), Some(parsed.version))
        }
        refused => {
            // Redis 6 has none, and no PEXPIRETIME either.
            if let (Reply::Error(said), true) = (refused, absolute) {
                if at_rest && selection.keys.is_empty() {
                    return Ok(Err(said));
                }
                warnings.push(format!("functions are not in this backup, because FUNCTION DUMP is refused ({said})"));
            }
            (Vec::new(), versions::highest(info.server_name(), info.server_version()).and_then(|v| v.try_into().ok()))
        }
    };
    let Some(version) = version else {
        return Err(SourceError::Failed(format!(
            "{} {} at {address} refuses FUNCTION DUMP, and which RDB version it writes is not known here: allow it to this account",
            info.server_name(),
            info.server_version()
        )));
    };
    let mut databases = VecDeque::from(info.databases());
    if databases.is_empty() {
        databases.push_back(0);
    }
    let writer = header(info, version, &functions).map_err(|e| SourceError::Failed(e.to_string()))?;
    let scan = Scan {
        wire,
        writer: Some(writer),
        version,
        made: Vec::new(),
        taken: 0,
        selection,
        atomic,
        absolute,
        inexact: 0,
        databases,
        walked: BTreeSet::new(),
        db: 0,
        walk: None,
        value: None,
        size: OUTSTANDING / 16,
    };
    Ok(Ok((scan, warnings)))
}

fn header(info: &Info, version: u16, functions: &[u8]) -> io::Result<Writer<Vec<u8>>> {
    let name = if info.server_name() == "valkey" { "valkey-ver" } else { "redis-ver" };
    let mut writer = Writer::new(Vec::new(), version.into(), &[(name, info.server_version())])?;
    if !functions.is_empty() {
        // All libraries, with the marks between them.
        writer.library(functions)?;
    }
    Ok(writer)
}

fn damaged(address: &Address, what: &str, e: &dyn std::fmt::Display) -> SourceError {
    SourceError::Failed(format!("what Valkey at {address} gives as {what} cannot be used: {e}"))
}

/// A key as people may see it.
fn shown(key: &[u8]) -> String {
    key.iter().take(200).copied().collect::<Vec<u8>>().escape_ascii().to_string()
}

impl Scan {
    fn next(&mut self, buf: &mut [u8]) -> Result<usize, SourceError> {
        loop {
            if self.taken < self.made.len() {
                let n = buf.len().min(self.made.len() - self.taken);
                buf[..n].copy_from_slice(&self.made[self.taken..self.taken + n]);
                self.taken += n;
                return Ok(n);
            }
            self.made.clear();
            self.taken = 0;
            while let Some(writer) = &mut self.writer {
                if writer.inner_mut().len() >= MADE {
                    std::mem::swap(writer.inner_mut(), &mut self.made);
                    break;
                }
                self.step()?;
            }
            if self.made.is_empty() {
                return Ok(0);
            }
        }
    }

    /// Makes some more of the file, or takes one step towards it.
    fn step(&mut self) -> Result<(), SourceError> {
        if let Some(value) = self.value.take() {
            return self.piece(value);
        }
        let Some(walk) = &mut self.walk else { return self.next_database() };
        if !walk.found.is_empty() || !walk.asked.is_empty() {
            self.ask_for_values()?;
            return self.answer();
        }
        if walk.begun && walk.cursor == b"0" {
            let (part, parts) = (walk.part + 1, walk.parts);
            let hashers = walk.hashers.clone();
            self.walk = (part < parts).then(|| Walk::new(part, parts, hashers));
            return Ok(());
        }
        self.page()
    }

    fn next_database(&mut self) -> Result<(), SourceError> {
        if self.databases.is_empty() {
            // Databases that got their first key meanwhile; there is a highest number, so this ends.
            if let Reply::Bulk(text) = self.wire.ask(&[b"INFO", b"keyspace"])? {
                let found = Info::parse(&String::from_utf8_lossy(&text)).databases().into_iter();
                self.databases.extend(found.filter(|db| !self.walked.contains(db)));
            }
        }
        let Some(db) = self.databases.pop_front() else {
            return self.finish();
        };
        // Some proxies know no SELECT, and one database.
        if !(db == 0 && self.walked.is_empty()) {
            let chosen = self.wire.ask(&[b"SELECT", db.to_string().as_bytes()])?;
            self.expect(chosen, "SELECT")?;
        }
        let keys = match self.wire.ask(&[b"DBSIZE"])? {
            Reply::Int(n) => n.max(0) as u64,
            _ => 0,
        };
        self.db = db;
        self.walked.insert(db);
        let parts = keys.div_ceil(KEYS_AT_ONCE).max(1);
        self.walk = Some(Walk::new(0, parts, (RandomState::new(), RandomState::new())));
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SourceError> {
        if let Some(writer) = self.writer.take() {
            self.made = writer.finish().map_err(broken)?;
        }
        Ok(())
    }

    fn page(&mut self) -> Result<(), SourceError> {
        let Some(walk) = &mut self.walk else { return Ok(()) };
        let mut ask: Vec<&[u8]> = vec![b"SCAN", &walk.cursor, b"COUNT", PAGE.as_bytes()];
        if let [pattern] = &self.selection.keys[..] {
            ask.extend([&b"MATCH"[..], pattern.as_bytes()]);
        }
        let reply = self.wire.ask(&ask)?;
        let Reply::Array(parts) = reply else { return self.expect(reply, "SCAN") };
        let Ok([Reply::Bulk(cursor), Reply::Array(keys)]) = <[Reply; 2]>::try_from(parts) else {
            return Err(self.odd("SCAN"));
        };
        walk.begun = true;
        walk.cursor = cursor;
        for key in keys {
            let Reply::Bulk(key) = key else { return Err(self.odd("SCAN")) };
            if self.selection.covers_key(&key) && walk.takes(&key) {
                walk.found.push_back(key);
            }
        }
        Ok(())
    }

    /// Keeps some keys asked for, so that the server is not idle while answers are read.
    fn ask_for_values(&mut self) -> Result<(), SourceError> {
        let Some(walk) = &mut self.walk else { return Ok(()) };
        let window = ((OUTSTANDING / self.size.max(1)) as usize).clamp(1, WINDOW);
        if walk.asked.len() * 2 > window {
            return Ok(());
        }
        let mut bytes = Vec::new();
        while walk.asked.len() < window {
            let Some(key) = walk.found.pop_front() else { break };
            if self.atomic {
                encode(&[b"MULTI"], &mut bytes);
            }
            if self.absolute {
                encode(&[b"PEXPIRETIME", &key], &mut bytes);
            } else {
                for command in [&[&b"TIME"[..]][..], &[b"PTTL", &key], &[b"TIME"]] {
                    encode(command, &mut bytes);
                }
            }
            encode(&[b"DUMP", &key], &mut bytes);
            if self.atomic {
                encode(&[b"EXEC"], &mut bytes);
            }
            walk.asked.push_back(key);
        }
        if bytes.is_empty() { Ok(()) } else { self.wire.send_encoded(&bytes) }
    }

    /// Takes the answers about the key that was asked for first, up to its value.
    fn answer(&mut self) -> Result<(), SourceError> {
        let Some(key) = self.walk.as_mut().and_then(|w| w.asked.pop_front()) else { return Ok(()) };
        let of_key = |e: SourceError| match e {
            SourceError::Denied(said) => SourceError::Denied(format!("key {}: {said}", shown(&key))),
            SourceError::Failed(said) => SourceError::Failed(format!("key {}: {said}", shown(&key))),
            other => other,
        };
        if self.atomic {
            for _ in 0..if self.absolute { 3 } else { 5 } {
                let queued = self.wire.reply()?;
                self.expect(queued, "DUMP").map_err(of_key)?;
            }
            match self.wire.head()? {
                Head::Array(_) => {}
                other => {
                    let other = self.wire.rest(other, 0)?;
                    return self.expect(other, "EXEC").map_err(of_key);
                }
            }
        }
        let now = if self.absolute { 0 } else { self.time()? };
        let expires = match self.wire.reply()? {
            Reply::Int(ms) => Some(ms).filter(|ms| *ms >= 0).map(|ms| ms.saturating_add(now)),
            other => return self.expect(other, "PEXPIRETIME").map_err(of_key),
        };
        // What is left and the time make an exact expiry when they are of one millisecond.
        let exact = self.absolute || self.time()? == now || expires.is_none();
        let len = match self.wire.head()? {
            Head::Bulk(len) => self.wire.length(&len)?,
            Head::Nil => return Ok(()), // gone meanwhile
            other => {
                let other = self.wire.rest(other, 0)?;
                return self.expect(other, "DUMP").map_err(of_key);
            }
        };
        let address = self.wire.address().clone();
        let bad = |what: &dyn std::fmt::Display| damaged(&address, &format!("key {}", shown(&key)), what);
        self.inexact = if exact { 0 } else { self.inexact + 1 };
        if !exact && self.inexact <= INEXACT_MAX {
            self.wire.skip(len)?;
            self.wire.line_end()?;
            let found = self.walk.as_mut().map(|walk| &mut walk.found);
            found.into_iter().for_each(|found| found.push_back(key.clone()));
            return Ok(());
        }
        let left = len.checked_sub(1 + FOOTER as u64).ok_or_else(|| bad(&"it is too short"))?;
        let kind = self.wire.some(1)?[0];
        self.wire.consume(1);
        self.size = (self.size * 7 + len + key.len() as u64) / 8;
        self.value = Some(Value { left, payload: Payload::begin(kind, self.version) });
        let facts = Facts { expires_at_ms: expires, ..Facts::default() };
        let db = self.db;
        self.writer()?.key(db, &key, kind, &facts).map_err(broken)
    }

    /// Milliseconds since the epoch, by the server.
    fn time(&mut self) -> Result<i64, SourceError> {
        let reply = self.wire.reply()?;
        let number = |r: &Reply| match r {
            Reply::Bulk(text) => str::from_utf8(text).ok()?.parse::<i64>().ok(),
            _ => None,
        };
        match &reply {
            Reply::Array(parts) => match parts.as_slice() {
                [s, us] => number(s).zip(number(us)).and_then(|(s, us)| s.checked_mul(1000)?.checked_add(us / 1000)),
                _ => None,
            },
            _ => None,
        }
        .ok_or_else(|| self.odd("TIME"))
    }

    fn piece(&mut self, mut value: Value) -> Result<(), SourceError> {
        if value.left == 0 {
            return self.end_of_value(value.payload);
        }
        let piece = self.wire.some(usize::try_from(value.left).unwrap_or(usize::MAX))?;
        let n = piece.len();
        value.payload.add(piece);
        if let Some(writer) = &mut self.writer {
            writer.value(piece).map_err(broken)?;
        }
        self.wire.consume(n);
        value.left -= n as u64;
        self.value = Some(value);
        Ok(())
    }

    /// Compares the footer with what it must be; a value of another version cannot be in the same file.
    fn end_of_value(&mut self, payload: Payload) -> Result<(), SourceError> {
        let mut footer = [0; FOOTER];
        for byte in &mut footer {
            *byte = self.wire.some(1)?[0];
            self.wire.consume(1);
        }
        self.wire.line_end()?;
        if footer == payload.end() {
            return Ok(());
        }
        let found = u16::from_le_bytes([footer[0], footer[1]]);
        let what = if found == self.version {
            "its checksum is not that of its bytes".to_owned()
        } else {
            format!("it has RDB version {found} where {} was expected", self.version)
        };
        Err(damaged(self.wire.address(), "a key's value", &what))
    }

    fn writer(&mut self) -> Result<&mut Writer<Vec<u8>>, SourceError> {
        self.writer.as_mut().ok_or_else(|| SourceError::Failed("the RDB file has ended already".to_owned()))
    }

    /// Nothing if the answer is a good one.
    fn expect(&self, reply: Reply, doing: &str) -> Result<(), SourceError> {
        match reply {
            Reply::Status(_) => Ok(()),
            Reply::Error(said) => Err(self.wire.address().refusal(doing, &said)),
            _ => Err(self.odd(doing)),
        }
    }

    fn odd(&self, doing: &str) -> SourceError {
        SourceError::Failed(format!("Valkey at {} answers {doing} as no server does", self.wire.address()))
    }
}

fn broken(e: io::Error) -> SourceError {
    SourceError::Failed(format!("the RDB file cannot be put together: {e}"))
}

impl Read for Scan {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.next(buf).map_err(io::Error::other)
    }
}
