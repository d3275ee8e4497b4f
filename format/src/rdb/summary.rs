//! A whole file in figures: keys and content digests by family.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
};

use super::{
    error::RdbError,
    family::{PLATFORM, family},
    foreseen::{Foreseen, Foresight},
    reader::{Checksum, Entry, Functions, Kind, Reader},
};
use crate::{
    digest::{ContentHasher, Order},
    laws::valkey::{Correction, Fencing, LISTED_MAX, Options, Place, removes, role, weight},
    manifest::{KeyFamily, ModuleType},
    text,
};

/// What a file holds. Equal for files that would make equal servers, but for version and informational fields.
#[derive(Debug, Clone, PartialEq)]
pub struct RdbSummary {
    /// The RDB version of the header.
    pub version: u32,
    /// Informational fields of the file, in its order.
    pub aux: Vec<(String, String)>,
    /// Keys in all logical databases.
    pub keys: u64,
    /// Those with an expiry.
    pub expiring_keys: u64,
    /// When the first of those expires, in milliseconds since the epoch: until then a server has all keys.
    pub first_expiry_ms: Option<i64>,
    /// One for each family that has keys, sorted by name.
    pub families: Vec<KeyFamily>,
    /// Fencing numbers (law L1), by the place of their counter; `None` where there are more than [`LISTED_MAX`].
    pub fencing: Option<Fencing>,
    /// Libraries of functions.
    pub functions: Functions,
    /// Types of modules that have data in the file, by name.
    pub modules: Vec<ModuleType>,
    /// Whether the checksum vouches for the file.
    pub checksum: Checksum,
    /// Length of the file.
    pub size_bytes: u64,
    /// Of [`Summary::foreseeing`], where it can be told: what a server will have of it.
    pub foreseen: Option<Foreseen>,
}

impl RdbSummary {
    /// Bytes of memory that the server used when it wrote the file, where that says it.
    pub fn used_memory(&self) -> Option<u64> {
        self.aux.iter().find(|(name, _)| name == "used-mem")?.1.parse().ok()
    }
}

/// Modules that have families of their own. Where there are more, all of them are one family, `prexor:v1:platform:`: which
/// keys a family has must not depend on the order in which they come.
pub const MODULES_MAX: usize = 1024;

/// Adds entries up to an [`RdbSummary`].
#[derive(Debug, Default)]
pub struct Summary {
    alive_at_ms: Option<i64>,
    keys: u64,
    expiring_keys: u64,
    first_expiry_ms: Option<i64>,
    families: BTreeMap<String, (u64, ContentHasher)>,
    /// Modules in `families`; [`MODULES_MAX`] and one more when they are one family.
    modules: usize,
    fencing: Fencing,
    /// What those weigh.
    fencing_bytes: u64,
    /// What the restore laws take out: families, and single keys.
    removed: Vec<Correction>,
    apart: BTreeSet<Place>,
    foresight: Option<Box<Foresight>>,
}

impl Summary {
    /// Counts every key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves out keys that expire before or at this time, in milliseconds since the epoch: what a server that has not
    /// got round to deleting them and one that has agree on.
    pub fn alive_at(ms: i64) -> Self {
        Self::new().alive(ms)
    }

    /// As [`Summary::alive_at`], of a sum that is to leave out other keys too.
    pub fn alive(self, at_ms: i64) -> Self {
        Self { alive_at_ms: Some(at_ms), ..self }
    }

    /// Leaves out what these corrections take away, and the single keys that they give another value.
    pub fn without(self, corrections: &[Correction]) -> Self {
        let removed = corrections.iter().filter(|c| c.place().is_none()).cloned().collect();
        let apart = corrections.iter().filter_map(Correction::place).cloned().collect();
        Self { removed, apart, ..self }
    }

    /// Also tells what a server will have of the keys ([`RdbSummary::foreseen`]) into which they are put after this time, in
    /// milliseconds since the epoch.
    pub fn foreseeing(self, at_ms: i64, options: Options) -> Self {
        Self { foresight: Some(Box::new(Foresight::new(at_ms, options))), ..self }
    }

    fn is_left_out(&self, entry: &Entry<'_>) -> bool {
        if self.removed.is_empty() && self.apart.is_empty() || role(entry.key).is_none() {
            return false;
        }
        let place = || Place { db: entry.db, key: entry.key.to_owned() };
        removes(&self.removed, entry.key) || entry.key_len == entry.key.len() as u64 && self.apart.contains(&place())
    }

    /// Adds a key. Collections without elements do not count: a server does not load them.
    ///
    /// # Panics
    /// If the key is of a reader that takes no digests.
    pub fn add(&mut self, entry: &Entry<'_>) {
        let Some(digest) = &entry.digest else { unreachable!("keys are added up by their digests") };
        let empty = entry.elements == 0 && entry.kind != Kind::Stream;
        let expired = self.alive_at_ms.zip(entry.expires_at_ms).is_some_and(|(now, at)| at <= now);
        if empty || expired || self.is_left_out(entry) {
            return;
        }
        self.keys += 1;
        self.expiring_keys += u64::from(entry.expires_at_ms.is_some());
        self.first_expiry_ms = self.first_expiry_ms.into_iter().chain(entry.expires_at_ms).min();
        let mut name = family(entry.key);
        if self.modules > MODULES_MAX && name.starts_with(PLATFORM) {
            name = PLATFORM;
        }
        let (keys, content) = match self.families.get_mut(name) {
            Some(family) => family,
            None => {
                name = self.new_family(name);
                self.families.entry(name.to_owned()).or_insert_with(|| (0, ContentHasher::new(Order::Multiset)))
            }
        };
        *keys += 1;
        content.add_digest(digest);
        if name.starts_with("prexor:v1:lease") {
            self.fencing_bytes += weight(entry.key);
            if self.fencing_bytes <= LISTED_MAX {
                self.fencing.add(entry.db, entry.key, entry.string().as_deref());
            }
        }
        // Which modules are one family might be otherwise once some of their keys are gone.
        match &mut self.foresight {
            Some(foresight) if self.modules <= MODULES_MAX => foresight.add(entry, digest),
            _ => self.foresight = None,
        }
    }

    /// Under which name a family that is not there yet is counted.
    fn new_family<'k>(&mut self, name: &'k str) -> &'k str {
        if !name.starts_with(PLATFORM) {
            return name;
        }
        self.modules += 1;
        if self.modules <= MODULES_MAX {
            return name;
        }
        let mut all = (0, ContentHasher::new(Order::Multiset));
        self.families.retain(|name, (keys, content)| {
            if name.starts_with(PLATFORM) {
                all.0 += *keys;
                all.1.merge(content);
            }
            !name.starts_with(PLATFORM)
        });
        self.families.insert(PLATFORM.to_owned(), all);
        PLATFORM
    }

    /// The sum, with what `reader` knows of the file that it has read to the end.
    pub fn finish(self, reader: &Reader<'_>) -> RdbSummary {
        let family =
            |(name, (keys, content)): (_, (_, ContentHasher))| KeyFamily { name, keys, content: content.finish() };
        let families: Vec<KeyFamily> = self.families.into_iter().map(family).collect();
        RdbSummary {
            version: reader.version(),
            aux: reader.aux().to_vec(),
            keys: self.keys,
            expiring_keys: self.expiring_keys,
            first_expiry_ms: self.first_expiry_ms,
            foreseen: self.foresight.and_then(|foresight| foresight.finish(&families)),
            families,
            fencing: (self.fencing_bytes <= LISTED_MAX).then_some(self.fencing),
            functions: reader.functions(),
            modules: reader.modules(),
            checksum: reader.checksum().unwrap_or(Checksum::Absent),
            size_bytes: reader.position(),
        }
    }
}

impl RdbSummary {
    /// Who wrote it and what it holds, a line each, as people read it.
    pub fn lines(&self) -> Vec<String> {
        let aux = |name: &str| self.aux.iter().find(|(n, _)| n == name).map(|(_, value)| value);
        let by = match (aux("valkey-ver"), aux("redis-ver")) {
            (Some(version), _) => format!("Valkey {version}"),
            (None, Some(version)) => format!("Redis {version}"),
            (None, None) => "an unnamed server".to_owned(),
        };
        let checksum = match self.checksum {
            Checksum::Verified => "checksum verified",
            Checksum::Disabled => "written without a checksum",
            Checksum::Absent => "no checksum",
        };
        let keys = text::things(self.keys, "key");
        let mut lines = vec![
            format!("RDB version {} of {by}, {}, {checksum}", self.version, text::bytes(self.size_bytes)),
            format!("{keys}, {} with an expiry", text::count(self.expiring_keys)),
        ];
        for family in &self.families {
            let name = if family.name.is_empty() { "(others)" } else { &family.name };
            lines.push(format!("{} {}", name, text::things(family.keys, "key")));
        }
        lines.extend(self.modules.iter().map(|module| format!("data of a module: {module}")));
        match self.functions.libraries {
            0 => {}
            1 => lines.push("1 library of functions".to_owned()),
            n => lines.push(format!("{} libraries of functions", text::count(n))),
        }
        lines
    }
}

/// Reads a file to its end and sums it up.
///
/// # Errors
/// When the file is damaged, or of a version that is not known here.
pub fn summarise(inner: impl Read) -> Result<RdbSummary, RdbError> {
    let (summary, end) = survey(inner)?;
    end.map(|()| summary)
}

/// [`summarise`], which also tells what could be read before the place at which a file is damaged: then the sum is that
/// of the keys before it.
///
/// # Errors
/// When not even the header can be read.
pub fn survey(inner: impl Read) -> Result<(RdbSummary, Result<(), RdbError>), RdbError> {
    survey_all(Reader::new(inner)?)
}

fn survey_all(mut reader: Reader<'_>) -> Result<(RdbSummary, Result<(), RdbError>), RdbError> {
    let mut summary = Summary::new();
    let end = loop {
        match reader.next_entry() {
            Ok(Some(entry)) => summary.add(&entry),
            Ok(None) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    Ok((summary.finish(&reader), end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdb::{Facts, Writer};

    fn families(keys: impl Iterator<Item = String>) -> Vec<KeyFamily> {
        let mut file = Writer::new(Vec::new(), 11, &[]).unwrap();
        for key in keys {
            file.key(0, key.as_bytes(), 0, &Facts::default()).unwrap();
            file.value(b"\x01x").unwrap();
        }
        summarise(&file.finish().unwrap()[..]).unwrap().families
    }

    #[test]
    fn modules_beyond_number_are_one_family_whatever_their_order() {
        let keys = |modules: usize| (0..2 * modules).map(move |n| format!("prexor:v1:platform:m{}:{n}", n % modules));
        assert_eq!(families(keys(MODULES_MAX)).len(), MODULES_MAX);
        let forwards = families(keys(MODULES_MAX + 1).chain(["x".to_owned()]));
        let backwards: Vec<String> = keys(MODULES_MAX + 1).chain(["x".to_owned()]).collect();
        assert_eq!(forwards, families(backwards.into_iter().rev()));
        let told: Vec<_> = forwards.iter().map(|f| (f.name.as_str(), f.keys)).collect();
        assert_eq!(told, [("", 1), (PLATFORM, 2 * (MODULES_MAX as u64 + 1))]);
    }
}
