//! Keys of a running server, by the thousand: taken away, and put in out of an RDB file.
//!
//! All of it is limited to the keys that a selection covers. Knows nothing of journals and laws.

use std::{borrow::Cow, fs::File, path::Path};

use prexor_format::{
    rdb::{self, Entry, Kind, RdbSummary, Reader, Record, Summary, unpack_string},
    selection::Selection,
};

use super::{
    SourceError,
    address::Address,
    load::{At, Functions, Load},
    raw::Raw,
    wire::Reply,
};
use crate::sink::Progress;

/// Keys that a server is asked for in one go.
const AT_ONCE: &[u8] = b"1000";
/// `proto-max-bulk-len` where the server does not say.
pub(super) const BULK_MAX: u64 = 512 << 20;
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
    /// functions where everything is covered. `summary` adds up all that the file has: the server is what is waited for, there
    /// is time for it.
    pub(super) fn put_in(
        &mut self,
        path: &Path,
        now_ms: i64,
        wanted: impl Fn(&Entry<'_>) -> bool,
        mut summary: Option<Summary>,
    ) -> Result<Option<RdbSummary>, SourceError> {
        let open = || File::open(path).map_err(|e| file_failed("reading", path, &e));
        let damaged = |e: rdb::RdbError| SourceError::Failed(format!("{} cannot be read: {e}", path.display()));
        let (mut reader, file) = (Reader::new(open()?).map_err(damaged)?, open()?);
        if summary.is_none() {
            reader = reader.without_digests();
        }
        let bulk_max = self.bulk_max()?;
        let mut functions = Functions::default();
        let mut load = Load::new(&mut self.raw, path, bulk_max);
        while let Some(record) = reader.next_record().map_err(damaged)? {
            match record {
                Record::Library(library) => {
                    functions.add(&library, &file).map_err(|e| file_failed("reading", path, &e))?
                }
                Record::Key(entry) => {
                    if let Some(summary) = &mut summary {
                        summary.add(&entry);
                    }
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
        Ok(summary.map(|summary| summary.finish(&reader)))
    }

    fn databases(&mut self) -> Result<Vec<u64>, SourceError> {
        let Reply::Bulk(text) = self.raw.ask(&[b"INFO", b"keyspace"])? else { return Ok(Vec::new()) };
        Ok(super::client::Info::parse(&String::from_utf8_lossy(&text)).databases())
    }

    fn bulk_max(&mut self) -> Result<u64, SourceError> {
        let told = self.raw.setting("proto-max-bulk-len")?;
        Ok(told.and_then(|text| text.parse().ok()).unwrap_or(BULK_MAX))
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

/// Some keys, and the cursor where there are more.
type Scanned = (Vec<Vec<u8>>, Option<Vec<u8>>);

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
