//! Writes RDB files out of serialised values, for captures that get keys one by one (`DUMP`) or choose among those of a
//! file. Knows no encoding: values are written as they were read.

use std::io::{self, Write};

use super::{
    crc64,
    reader::{CHECKSUM_SINCE, Library},
};

const SELECT: u8 = 254;
const EXPIRES: u8 = 252;
const AUX: u8 = 250;
const FREQUENCY: u8 = 249;
const IDLE: u8 = 248;
const END: u8 = 255;

/// What stands before a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// When it expires, in milliseconds since the epoch.
    pub expires_at_ms: Option<i64>,
    /// Seconds since it was used.
    pub idle_seconds: Option<u64>,
    /// How often it was used, on a logarithmic scale.
    pub frequency: Option<u8>,
}

/// Writes a file from front to end.
#[derive(Debug)]
pub struct Writer<W> {
    inner: W,
    version: u32,
    crc: u64,
    size: u64,
    /// None before the first key, so that its database is always named.
    db: Option<u64>,
}

impl<W: Write> Writer<W> {
    /// Writes the header to `inner`, which should be buffered: `REDIS` with a version of 1 to 79, which every server
    /// reads that knows the version, else `VALKEY`; and informational fields.
    ///
    /// # Errors
    /// Those of `inner`.
    pub fn new(inner: W, version: u32, aux: &[(&str, &str)]) -> io::Result<Self> {
        let mut w = Self { inner, version, crc: 0, size: 0, db: None };
        let magic = if version < 80 { format!("REDIS{version:04}") } else { format!("VALKEY{version:03}") };
        w.put(magic.as_bytes())?;
        for (name, value) in aux {
            w.put(&[AUX])?;
            w.string(name.as_bytes())?;
            w.string(value.as_bytes())?;
        }
        Ok(w)
    }

    /// Writes a library of functions, all of which come before the first key.
    ///
    /// # Errors
    /// Those of `inner`.
    pub fn library(&mut self, serialised: &[u8]) -> io::Result<()> {
        self.put(&[Library::CODE])?;
        self.put(serialised)
    }

    /// Begins a key; its serialised value follows by [`Writer::value`].
    ///
    /// # Errors
    /// Those of `inner`.
    pub fn key(&mut self, db: u64, key: &[u8], code: u8, facts: &Facts) -> io::Result<()> {
        if self.db != Some(db) {
            self.put(&[SELECT])?;
            self.length(db)?;
            self.db = Some(db);
        }
        if let Some(ms) = facts.expires_at_ms {
            self.put(&[EXPIRES])?;
            self.put(&ms.to_le_bytes())?;
        }
        if let Some(seconds) = facts.idle_seconds {
            self.put(&[IDLE])?;
            self.length(seconds)?;
        }
        if let Some(frequency) = facts.frequency {
            self.put(&[FREQUENCY, frequency])?;
        }
        self.put(&[code])?;
        self.string(key)
    }

    /// Bytes of the serialised value of the key begun last.
    ///
    /// # Errors
    /// Those of `inner`.
    pub fn value(&mut self, serialised: &[u8]) -> io::Result<()> {
        self.put(serialised)
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What it writes to, for those who take bytes away as they come.
    pub fn inner_mut(&mut self) -> &mut W {
        &mut self.inner
    }

    /// Ends the file, with its checksum if its version has one, and hands back the inner writer.
    ///
    /// # Errors
    /// Those of `inner`.
    pub fn finish(mut self) -> io::Result<W> {
        self.put(&[END])?;
        if self.version >= CHECKSUM_SINCE {
            self.put(&self.crc.to_le_bytes())?;
        }
        self.inner.flush()?;
        Ok(self.inner)
    }

    fn length(&mut self, n: u64) -> io::Result<()> {
        match (u8::try_from(n), u32::try_from(n)) {
            (Ok(n @ 0..64), _) => self.put(&[n]),
            (_, Ok(n @ 0..0x4000)) => self.put(&[0x40 | (n >> 8) as u8, n as u8]),
            (_, Ok(n)) => self.put(&[&[0x80][..], &n.to_be_bytes()].concat()),
            _ => self.put(&[&[0x81][..], &n.to_be_bytes()].concat()),
        }
    }

    fn string(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.length(bytes.len() as u64)?;
        self.put(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc = crc64::update(self.crc, bytes);
        self.size += bytes.len() as u64;
        self.inner.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Checksum, Reader, Record, summarise},
        *,
    };

    #[test]
    fn lengths_of_all_sizes_are_read_back() {
        let all = [0, 63, 64, 0x3fff, 0x4000, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX];
        let mut w = Writer::new(Vec::new(), 80, &[("redis-bits", "64"), ("long", &"x".repeat(1000))]).unwrap();
        for n in all {
            let facts = Facts { idle_seconds: Some(n), ..Facts::default() };
            w.key(n, b"key", 0, &facts).unwrap();
            w.value(b"\x01v").unwrap();
        }
        let size = w.size();
        let file = w.finish().unwrap();
        assert_eq!(size + 9, file.len() as u64);
        let mut reader = Reader::new(&file[..]).unwrap();
        for n in all {
            let e = reader.next_entry().unwrap().unwrap();
            assert_eq!((e.db, e.idle_seconds, e.serialised), (n, Some(n), Some(&b"\x01v"[..])));
        }
        assert_eq!(reader.next_entry().unwrap(), None);
        assert_eq!((reader.version(), reader.checksum()), (80, Some(Checksum::Verified)));
        assert_eq!(reader.aux()[0], ("redis-bits".to_owned(), "64".to_owned()));
    }

    #[test]
    fn old_versions_have_no_checksum() {
        for (version, expected) in [(4, Checksum::Absent), (5, Checksum::Verified)] {
            let file = Writer::new(Vec::new(), version, &[]).unwrap().finish().unwrap();
            assert_eq!(summarise(&file[..]).unwrap().checksum, expected);
        }
    }

    #[test]
    fn a_file_taken_apart_and_put_together_means_the_same() {
        let file = include_bytes!("testdata/valkey-packed.rdb");
        let mut reader = Reader::new(&file[..]).unwrap();
        let mut w = Writer::new(Vec::new(), reader.version(), &[]).unwrap();
        while let Some(record) = reader.next_record().unwrap() {
            match record {
                Record::Library(l) => w.library(l.serialised.unwrap()).unwrap(),
                Record::Key(e) => {
                    let facts = Facts { expires_at_ms: e.expires_at_ms, ..Facts::default() };
                    w.key(e.db, e.key, e.code, &facts).unwrap();
                    let at = e.serialised_at as usize;
                    assert_eq!(e.serialised.unwrap(), &file[at..at + e.serialised_len as usize]);
                    w.value(e.serialised.unwrap()).unwrap();
                }
            }
        }
        let (was, is) = (summarise(&file[..]).unwrap(), summarise(&w.finish().unwrap()[..]).unwrap());
        assert_eq!((was.families, was.functions, was.version), (is.families, is.functions, is.version));
        assert_eq!(is.checksum, Checksum::Verified);
    }
}
