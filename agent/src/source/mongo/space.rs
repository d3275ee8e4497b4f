//! Whether the server's disk has room for a second copy of what is restored.

use bson::doc;

use super::{Server, inspect::number};
use crate::source::SourceError;

/// What always stays free: a MongoDB whose disk is full ends at once.
const RESERVE: u64 = 256 << 20;

/// Bytes on disk per byte of BSON, where there are no live data to tell.
const TYPICAL: f64 = 0.7;

/// The disk that holds the database.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Disk {
    /// Bytes; `None` where the server does not say.
    free: Option<u64>,
    total: u64,
    /// Bytes on disk, indexes included, per byte of BSON.
    per_byte: f64,
}

impl Disk {
    /// Asks the server.
    pub(super) async fn of(server: &Server) -> Result<Self, SourceError> {
        let stats = server.ask(doc! { "dbStats": 1 }).await?;
        let n = |key| number(&stats, key);
        let (total, used) = (n("fsTotalSize"), n("fsUsedSize"));
        Ok(Self {
            free: (total > 0).then(|| total.saturating_sub(used)),
            total,
            per_byte: per_byte(n("dataSize"), n("storageSize") + n("indexSize")),
        })
    }

    /// Bytes of BSON that have room.
    pub(super) fn room(&self) -> Option<u64> {
        Some((self.free?.saturating_sub(self.reserve()) as f64 / self.per_byte) as u64)
    }

    fn reserve(&self) -> u64 {
        RESERVE.min(self.total / 20)
    }

    /// Fails when so little is left that the server itself is in danger.
    pub(super) fn still_has_room(&self, server: &Server) -> Result<(), SourceError> {
        match self.free {
            Some(free) if free < self.reserve() => Err(SourceError::NoSpace(format!(
                "the disk of MongoDB at {} is nearly full ({} left): loading stopped before the server ran out of it; \
                 the live data were not touched",
                server.place,
                bytes(free)
            ))),
            _ => Ok(()),
        }
    }

    /// Fails when a second copy of `bson` bytes has no room.
    pub(super) fn has_room_for(&self, bson: u64, server: &Server) -> Result<(), SourceError> {
        match (self.room(), self.free) {
            (Some(room), Some(free)) if room < bson => Err(SourceError::NoSpace(format!(
                "a restore needs room for a second copy beside the live data, about {}, and the disk of MongoDB at {} \
                 has {} free: make room, or restore collections one after the other with --ns; nothing was changed",
                bytes((bson as f64 * self.per_byte) as u64 + self.reserve()),
                server.place,
                bytes(free)
            ))),
            _ => Ok(()),
        }
    }
}

fn per_byte(data: u64, stored: u64) -> f64 {
    // Small databases are all overhead and tell nothing.
    if data < 64 << 20 { TYPICAL } else { (stored as f64 / data as f64).clamp(0.2, 2.0) }
}

fn bytes(n: u64) -> String {
    prexor_format::text::bytes(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_data_tell_how_well_they_compress() {
        assert_eq!(per_byte(1 << 30, 1 << 29), 0.5);
        assert_eq!(per_byte(1000, 100_000), TYPICAL);
        let disk = Disk { free: Some(1 << 30), total: 1 << 40, per_byte: 0.5 };
        assert_eq!(disk.room(), Some(2 * ((1 << 30) - RESERVE)));
        assert_eq!(Disk { free: Some(1), ..disk }.room(), Some(0));
        assert_eq!(Disk { total: 1 << 30, ..disk }.reserve(), (1 << 30) / 20);
        assert_eq!(Disk { free: None, ..disk }.room(), None);
    }
}
