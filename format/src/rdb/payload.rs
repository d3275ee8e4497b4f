//! What `DUMP` answers and `RESTORE` takes: the type byte, the serialised value as in a file, the RDB version (2 bytes) and
//! the CRC-64 of all that (8 bytes), both little-endian (`cluster.c`, `createDumpPayload`). `FUNCTION DUMP` and `FUNCTION
//! RESTORE` do the same with libraries, each behind a byte of its own.

use super::crc64;

/// Bytes behind the serialised value.
const FOOTER: usize = 10;

/// Puts a payload together piece by piece; what it hands out and what it is given, in that order, is the payload.
#[derive(Debug, Clone)]
pub struct Payload {
    crc: u64,
    version: u16,
}

impl Payload {
    /// Bytes of a payload around `serialised_len` bytes.
    pub fn len(serialised_len: u64) -> u64 {
        serialised_len + 1 + FOOTER as u64
    }

    /// Begins one: the type byte comes first. A server refuses a version above its own; see
    /// [`Payload::version_needed`] for the lowest that it may be given.
    pub fn begin(code: u8, version: u16) -> Self {
        Self { crc: crc64::update(0, &[code]), version }
    }

    /// Goes on over bytes of the serialised value.
    pub fn add(&mut self, serialised: &[u8]) {
        self.crc = crc64::update(self.crc, serialised);
    }

    /// What comes after it when the version turns out to be this one.
    pub fn end_with(self, version: u16) -> [u8; FOOTER] {
        Self { version, ..self }.end()
    }

    /// What comes after it.
    pub fn end(self) -> [u8; FOOTER] {
        let mut footer = [0; FOOTER];
        footer[..2].copy_from_slice(&self.version.to_le_bytes());
        footer[2..].copy_from_slice(&crc64::update(self.crc, &self.version.to_le_bytes()).to_le_bytes());
        footer
    }

    /// A whole payload, appended to `out`.
    pub fn append(code: u8, serialised: &[u8], version: u16, out: &mut Vec<u8>) {
        let mut payload = Self::begin(code, version);
        payload.add(serialised);
        out.push(code);
        out.extend_from_slice(serialised);
        out.extend_from_slice(&payload.end());
    }

    /// The lowest RDB version of servers that can read values with this type byte, as Redis and Valkey raised it: what
    /// an older server understands can be given to it under its own version.
    pub fn version_needed(code: u8) -> u16 {
        match code {
            0..=4 => 1,
            9 => 2,
            10..=13 => 4,
            14 => 7,
            5..=7 => 8,
            15 => 9,
            16..=19 => 10,
            20 | 21 => 11,
            22 => 80,
            _ => 12,
        }
    }

    /// Takes a payload apart.
    ///
    /// # Errors
    /// When it is none, or damaged.
    pub fn parse(payload: &[u8]) -> Result<Parsed<'_>, BadPayload> {
        let (&code, rest) = payload.split_first().ok_or(BadPayload::Short)?;
        let (serialised, footer) = rest.split_last_chunk::<FOOTER>().ok_or(BadPayload::Short)?;
        let [v0, v1, crc @ ..] = *footer;
        let stored = u64::from_le_bytes(crc);
        let computed = crc64::update(0, &payload[..payload.len() - 8]);
        // Servers write no 0, but take it as `not computed`.
        if stored != 0 && stored != computed {
            return Err(BadPayload::Checksum { stored, computed });
        }
        Ok(Parsed { code, serialised, version: u16::from_le_bytes([v0, v1]) })
    }
}

/// A payload taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// The type byte.
    pub code: u8,
    /// The value as it stands in a file.
    pub serialised: &'a [u8],
    /// The RDB version of the server that made it.
    pub version: u16,
}

/// Why bytes are no payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPayload {
    /// Too few of them.
    #[error("a dumped value is too short")]
    Short,
    /// Not those that the server sent.
    #[error("checksum mismatch: the dumped value says {stored:016x}, its bytes give {computed:016x}")]
    Checksum {
        /// Its last eight bytes.
        stored: u64,
        /// CRC-64 of all others.
        computed: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `SET a x`, `DUMP a` of Valkey 8.0.1.
    const DUMPED: &[u8] = b"\x00\x01x\x0b\x00K_;,@w\xa1Y";

    #[test]
    fn payloads_are_those_of_servers() {
        let parsed = Payload::parse(DUMPED);
        assert_eq!(parsed, Ok(Parsed { code: 0, serialised: b"\x01x", version: 11 }));
        let mut made = Vec::new();
        Payload::append(0, b"\x01x", 11, &mut made);
        assert_eq!(made, DUMPED);
        assert_eq!(Payload::len(2), DUMPED.len() as u64);
        let mut pieces = Payload::begin(0, 11);
        pieces.add(b"\x01");
        pieces.add(b"x");
        assert_eq!(pieces.end(), DUMPED[3..]);
    }

    #[test]
    fn damage_is_noticed() {
        for len in 0..DUMPED.len() {
            assert!(Payload::parse(&DUMPED[..len]).is_err(), "{len}");
        }
        for at in 0..DUMPED.len() {
            let mut bad = DUMPED.to_vec();
            bad[at] ^= 1;
            assert!(matches!(Payload::parse(&bad), Err(BadPayload::Checksum { .. })), "{at}");
        }
        assert!(Payload::parse(&[&DUMPED[..5], &[0; 8]].concat()).is_ok());
    }
}
