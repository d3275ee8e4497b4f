//! The file as a whole: header, keys with what precedes them, end and checksum.

use std::io::Read;

use serde::{Deserialize, Serialize};

use super::{
    digest::Item,
    error::RdbError,
    input::Source,
    module::Modules,
    text::Values,
    value::{Dialect, kind_of},
};
use crate::{
    digest::{ContentDigest, ContentHasher, Order, Sha256Digest},
    manifest::ModuleType,
};

/// Bytes of a key that [`Entry::key`] holds; more are hashed, but not kept.
pub const KEY_KEPT: usize = 64 << 10;

/// The first version with a checksum at the end.
pub(super) const CHECKSUM_SINCE: u32 = 5;

/// The longest value that [`Entry::string`] unpacks, in bytes before and after.
const STRING_MAX: usize = 1 << 10;

/// Informational fields (AUX) that are kept, and bytes kept of each name and value.
const AUX_KEPT: usize = 64;
const AUX_BYTES_KEPT: usize = 1 << 10;

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of the data types")]
pub enum Kind {
    String,
    List,
    Set,
    SortedSet,
    Hash,
    Stream,
    Module,
}

/// A key and what its value means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The logical database.
    pub db: u64,
    /// The key, at most its first [`KEY_KEPT`] bytes.
    pub key: &'a [u8],
    /// Bytes of the whole key.
    pub key_len: u64,
    /// Where it begins in the file, as [`unpack_string`] reads it.
    pub key_at: u64,
    /// What it holds.
    pub kind: Kind,
    /// The byte that says so in the file, and how the value is encoded.
    pub code: u8,
    /// When it expires, in milliseconds since the epoch.
    pub expires_at_ms: Option<i64>,
    /// Elements of the collection, entries of the stream; 1 for strings and module data. Servers drop collections
    /// without elements when they load a file; an empty stream is kept.
    pub elements: u64,
    /// Seconds since it was used, of servers that evict by that.
    pub idle_seconds: Option<u64>,
    /// How often it was used, on a logarithmic scale, of servers that evict by that.
    pub frequency: Option<u8>,
    /// Where the serialised value begins in the file.
    pub serialised_at: u64,
    /// Bytes of it.
    pub serialised_len: u64,
    /// The serialised value, as it stands between type byte and version in what `DUMP` answers, when it has at most
    /// [`SERIALISED_KEPT`](super::SERIALISED_KEPT) bytes; a longer one can be read from the file, when all of it was
    /// found sound.
    pub serialised: Option<&'a [u8]>,
    /// Over database, key, kind, value and expiry, whatever the encoding; `None` of a reader that takes none.
    pub digest: Option<Sha256Digest>,
}

impl Entry<'_> {
    /// The value of a short string, unpacked.
    pub fn string(&self) -> Option<Vec<u8>> {
        let serialised = self.serialised.filter(|s| self.code == 0 && s.len() <= STRING_MAX)?;
        let mut out = Vec::new();
        let put = |piece: &[u8]| out.extend_from_slice(&piece[..piece.len().min(STRING_MAX - out.len())]);
        let len = unpack_string(serialised, put).ok()?;
        (len == out.len() as u64).then_some(out)
    }
}

/// Unpacks the serialised value of a string, piece by piece; tells its length.
///
/// # Errors
/// When `serialised` is none, or cannot be read.
pub fn unpack_string<R: Read>(serialised: R, take: impl FnMut(&[u8])) -> Result<u64, RdbError> {
    Values::new(serialised).string("a string value", take)
}

/// A library of functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Library<'a> {
    /// Where it begins in the file, behind [`Library::CODE`].
    pub serialised_at: u64,
    /// Bytes of it.
    pub serialised_len: u64,
    /// It, as it stands behind [`Library::CODE`] in what `FUNCTION DUMP` answers, on the terms of
    /// [`Entry::serialised`].
    pub serialised: Option<&'a [u8]>,
}

impl Library<'_> {
    /// The byte before each library, in files and in what `FUNCTION DUMP` answers.
    pub const CODE: u8 = 245;
}

/// What a file holds one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// A library of functions; these come before the keys.
    Library(Library<'a>),
    /// A key.
    Key(Entry<'a>),
}

/// Libraries of functions in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Functions {
    /// How many.
    pub libraries: u64,
    /// Over their code.
    pub content: ContentDigest,
}

/// Whether the checksum at the end vouches for the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// It agrees.
    Verified,
    /// The server was told to write none (`rdbchecksum no`).
    Disabled,
    /// Files below version 5 have none.
    Absent,
}

/// What comes before a key.
#[derive(Default)]
struct Before {
    expires_at_ms: Option<i64>,
    idle_seconds: Option<u64>,
    frequency: Option<u8>,
}

/// A key that was read, but for what the reader holds of it.
struct Key {
    code: u8,
    kind: Kind,
    before: Before,
    key_len: u64,
    key_at: u64,
    at: u64,
    len: u64,
    elements: u64,
    digest: Option<Sha256Digest>,
}

enum Found {
    Library { at: u64, len: u64 },
    Key(Key),
}

/// Reads an RDB file from front to end.
pub struct Reader<'i> {
    values: Values<'i>,
    dialect: Dialect,
    version: u32,
    item: Item,
    key: Vec<u8>,
    db: u64,
    aux: Vec<(String, String)>,
    libraries: u64,
    code: ContentHasher,
    modules: Modules,
    checksum: Option<Checksum>,
}

impl<'i> Reader<'i> {
    /// Reads the header. `inner` needs no buffer of its own.
    ///
    /// # Errors
    /// When this is no RDB file, or one of a version that this reader does not know.
    pub fn new(inner: impl Read + 'i) -> Result<Self, RdbError> {
        const HEADER: &str = "the header of an RDB file";
        let mut values = Values::new(inner);
        let magic: [u8; 9] = values.input.array(HEADER)?;
        let digits = |d: &[u8]| str::from_utf8(d).ok().filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?.parse().ok();
        let (dialect, version) = if let Some(d) = magic.strip_prefix(b"REDIS") {
            (Dialect::Redis, digits(d))
        } else if let Some(d) = magic.strip_prefix(b"VALKEY") {
            (Dialect::Valkey, digits(d))
        } else {
            let found = magic.escape_ascii().to_string();
            return Err(RdbError::Damaged { offset: 0, expected: "REDIS or VALKEY and a version", found });
        };
        let version = match (dialect, version) {
            (Dialect::Redis, Some(v @ 1..=12)) | (Dialect::Valkey, Some(v @ 80)) => v,
            _ => {
                return Err(RdbError::Unsupported(format!(
                    "{} is no version of RDB that can be read here (REDIS0001 to REDIS0012, VALKEY080)",
                    magic.escape_ascii()
                )));
            }
        };
        Ok(Self {
            values,
            dialect,
            version,
            item: Item::default(),
            key: Vec::new(),
            db: 0,
            aux: Vec::new(),
            libraries: 0,
            code: ContentHasher::new(Order::Multiset),
            modules: Modules::default(),
            checksum: None,
        })
    }

    /// Takes no digests of keys: for those who want their serialised values alone.
    pub fn without_digests(mut self) -> Self {
        (self.item, self.values.element) = (Item::off(), Item::off());
        self
    }

    /// The RDB version of the header.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The informational fields seen so far (all of them, once the first key was read): `redis-ver`, `valkey-ver`,
    /// `ctime`, `used-mem` and the like.
    pub fn aux(&self) -> &[(String, String)] {
        &self.aux
    }

    /// The libraries of functions seen so far.
    pub fn functions(&self) -> Functions {
        Functions { libraries: self.libraries, content: self.code.clone().finish() }
    }

    /// The types of modules whose data was seen so far.
    pub fn modules(&self) -> Vec<ModuleType> {
        self.modules.told()
    }

    /// What the checksum said; `None` before the end was reached.
    pub fn checksum(&self) -> Option<Checksum> {
        self.checksum
    }

    /// Bytes read so far: the file's length after the end.
    pub fn position(&self) -> u64 {
        self.values.input.offset()
    }

    /// The next key; `None` at the end, after the checksum was compared and nothing follows.
    ///
    /// # Errors
    /// At the first thing that no server writes. The reader cannot be used after that.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>, RdbError> {
        loop {
            match self.advance()? {
                None => return Ok(None),
                Some(Found::Library { .. }) => {}
                Some(Found::Key(key)) => return Ok(Some(self.entry(key))),
            }
        }
    }

    /// The next library or key; as [`Reader::next_entry`] otherwise.
    ///
    /// # Errors
    /// Those of [`Reader::next_entry`].
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, RdbError> {
        Ok(self.advance()?.map(|found| match found {
            Found::Library { at, len } => {
                let serialised = self.values.input.marked();
                Record::Library(Library { serialised_at: at, serialised_len: len, serialised })
            }
            Found::Key(key) => Record::Key(self.entry(key)),
        }))
    }

    fn entry(&self, key: Key) -> Entry<'_> {
        Entry {
            db: self.db,
            key: &self.key,
            key_len: key.key_len,
            key_at: key.key_at,
            kind: key.kind,
            code: key.code,
            expires_at_ms: key.before.expires_at_ms,
            elements: key.elements,
            idle_seconds: key.before.idle_seconds,
            frequency: key.before.frequency,
            serialised_at: key.at,
            serialised_len: key.len,
            serialised: self.values.input.marked(),
            digest: key.digest,
        }
    }

    fn advance(&mut self) -> Result<Option<Found>, RdbError> {
        if self.checksum.is_some() {
            return Ok(None);
        }
        const OPCODE: &str = "a key or an opcode";
        let mut before = Before::default();
        loop {
            let at = self.position();
            let v = &mut self.values;
            match v.input.byte(OPCODE)? {
                255 => {
                    self.checksum = Some(self.end()?);
                    return Ok(None);
                }
                254 => self.db = v.length("a database's number")?,
                253 => {
                    before.expires_at_ms = Some(i64::from(i32::from_le_bytes(v.input.array("an expiry")?)) * 1000);
                }
                252 => before.expires_at_ms = Some(i64::from_le_bytes(v.input.array("an expiry")?)),
                251 => {
                    v.length("a hint of size")?;
                    v.length("a hint of size")?;
                }
                250 => self.read_aux()?,
                249 => before.frequency = Some(v.input.byte("a frequency")?),
                248 => before.idle_seconds = Some(v.length("an idle time")?),
                247 => {
                    // Type id, then the moment in which to load it, in the form of the parts that follow.
                    self.modules.add(v.length("a module's type")?, 0);
                    v.module_parts(&mut self.item)?;
                    self.item.clear();
                }
                Library::CODE => {
                    v.input.mark();
                    let mut item = Item::default();
                    v.string("a library of functions", |piece| item.put(piece))?;
                    self.libraries += 1;
                    self.code.add_digest(&item.take());
                    return Ok(Some(Found::Library { at: at + 1, len: self.position() - at - 1 }));
                }
                244 => {
                    v.length("a slot")?;
                    v.length("a slot")?;
                    v.length("a slot")?;
                }
                code => match kind_of(code, self.dialect) {
                    Some(kind) => return self.read_key(code, kind, before).map(|key| Some(Found::Key(key))),
                    None => {
                        let found = format!("0x{code:02x}");
                        return Err(RdbError::Damaged { offset: at, expected: OPCODE, found });
                    }
                },
            }
        }
    }

    fn read_key(&mut self, code: u8, kind: Kind, before: Before) -> Result<Key, RdbError> {
        // The key's length is part of the digest and comes before its bytes.
        self.item.clear();
        self.key.clear();
        self.item.put_u64(self.db);
        self.item.put(&[kind as u8]);
        self.item.put_u64(before.expires_at_ms.map_or(u64::MAX, |ms| ms as u64));
        let (item, key) = (&mut self.item, &mut self.key);
        let key_at = self.values.input.offset();
        let key_len = self.values.key(item, |piece| {
            let n = piece.len().min(KEY_KEPT - key.len());
            key.extend_from_slice(&piece[..n]);
        })?;
        let at = self.values.input.offset();
        self.values.input.mark();
        let elements = self.values.value(code, self.dialect, item)?;
        let len = self.values.input.offset() - at;
        if kind == Kind::Module {
            self.modules.add(self.values.module_type, 1);
        }
        Ok(Key { code, kind, before, key_len, key_at, at, len, elements, digest: self.item.take_if_on() })
    }

    fn read_aux(&mut self) -> Result<(), RdbError> {
        let mut pair = [Vec::new(), Vec::new()];
        for text in &mut pair {
            self.values.string("an informational field", |piece| {
                text.extend_from_slice(&piece[..piece.len().min(AUX_BYTES_KEPT - text.len())]);
            })?;
        }
        if self.aux.len() < AUX_KEPT {
            let [name, value] = pair.map(|text| String::from_utf8_lossy(&text).into_owned());
            self.aux.push((name, value));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<Checksum, RdbError> {
        let input = &mut self.values.input;
        let checksum = if self.version < CHECKSUM_SINCE {
            Checksum::Absent
        } else {
            let computed = input.crc();
            match u64::from_le_bytes(input.array("the checksum")?) {
                0 => Checksum::Disabled,
                stored if stored == computed => Checksum::Verified,
                stored => return Err(RdbError::Checksum { stored, computed }),
            }
        };
        if input.at_end()? { Ok(checksum) } else { input.damaged("the end of the file", "more bytes") }
    }
}
