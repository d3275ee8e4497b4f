//! Data as PrexorCloud leaves it, with everything in it that is easily lost: odd BSON, links, expiries, options.
//!
//! The same seed gives the same data, times aside. Nothing in it expires within a day.

mod files;
mod mongo;
mod raw_bson;
mod valkey;

use std::path::Path;

use anyhow::Result;
use mongodb::Client;

pub use self::{
    files::{CONTROLLER_UUID, Layout, Site, destroy_files, files, write_controller_yml},
    mongo::{destroy_mongo, mongo},
    valkey::{destroy_valkey, many_valkey, valkey},
};
use crate::resp::Resp;

/// Database of a controller's records.
pub const DATABASE: &str = "prexorcloud";
/// What a backup leaves out of the tree, and a restore carries over: top-level names.
pub const EXCLUDED: &[&str] = &["logs"];

/// How much data.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Documents in `audit_log`, of about 900 bytes each; by far the largest collection.
    pub audit: u32,
    /// Documents in the capped `console_lines`.
    pub console: u32,
    /// Files below `templates`.
    pub templates: u32,
    /// Keys of players and instances in Valkey.
    pub keys: u32,
    /// Bytes per module jar, which do not compress.
    pub jar: usize,
}

impl Size {
    /// For tests: every kind of thing, in a second or two.
    pub const SMALL: Self = Self { audit: 1_500, console: 800, templates: 120, keys: 300, jar: 200_000 };
    /// For showing: numbers that look like an installation.
    pub const SHOWN: Self = Self { audit: 40_000, console: 20_000, templates: 1_500, keys: 5_000, jar: 4_000_000 };
}

/// Fills all three kinds of stores; without a connection to Valkey, the two that the profile without it has.
///
/// # Errors
/// When a server refuses, or the tree cannot be written.
pub async fn fill(
    client: &Client,
    database: &str,
    resp: Option<&mut Resp>,
    root: &Path,
    site: &Site,
    size: Size,
) -> Result<()> {
    mongo(client, database, size).await?;
    if let Some(resp) = resp {
        valkey(resp, size).await?;
    }
    files(root, site, size)
}

/// Destroys what [`fill`] made, and leaves things behind that were "born after the backup".
///
/// # Errors
/// When a server refuses, or the tree cannot be changed.
pub async fn destroy(client: &Client, database: &str, resp: Option<&mut Resp>, root: &Path) -> Result<()> {
    destroy_mongo(client, database).await?;
    if let Some(resp) = resp {
        destroy_valkey(resp).await?;
    }
    destroy_files(root)
}

/// A small generator of numbers (SplitMix64): the same seed, the same numbers, on every machine.
#[derive(Debug, Clone)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }

    pub(crate) fn hex<const N: usize>(&mut self) -> String {
        hex::encode(self.bytes::<N>())
    }

    /// Words with spaces between, as log lines have them.
    pub(crate) fn words(&mut self, count: usize) -> String {
        const WORDS: &[&str] = &[
            "server",
            "player",
            "joined",
            "lobby",
            "bedwars",
            "started",
            "template",
            "copied",
            "deployment",
            "revision",
            "scaled",
            "instance",
            "node",
            "memory",
            "heap",
            "usage",
            "restarted",
            "because",
            "health",
            "check",
            "failed",
            "proxy",
            "connected",
            "world",
            "saved",
            "chunk",
            "königsburg",
            "网络",
            "permission",
            "denied",
        ];
        (0..count).map(|_| self.pick(WORDS)).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        equality::Snapshot,
        servers::{Mongod, Valkey},
    };

    #[tokio::test]
    async fn a_snapshot_is_stable_and_sees_the_destruction() {
        let (mongod, valkey) = tokio::join!(Mongod::replica_set_with_auth(), Valkey::plain(true));
        let (client, mut resp) = (mongod.client().await, valkey.client().await);
        let root = tempfile::tempdir().unwrap();
        let site = Site {
            layout: Layout::Guide,
            mongo_uri: mongod.uri(),
            database: DATABASE.into(),
            valkey_uri: Some(valkey.uri()),
        };
        fill(&client, DATABASE, Some(&mut resp), root.path(), &site, Size::SMALL).await.unwrap();
        let before = Snapshot::take(&client, DATABASE, Some(&mut resp), root.path(), EXCLUDED).await.unwrap();
        assert!(
            before.mongo.len() > 40 && before.valkey.len() > 300 && before.files.len() > 120,
            "{}",
            before.summary()
        );
        let again = Snapshot::take(&client, DATABASE, Some(&mut resp), root.path(), EXCLUDED).await.unwrap();
        assert_eq!(before.differences(&again), Vec::<String>::new());

        destroy(&client, DATABASE, Some(&mut resp), root.path()).await.unwrap();
        let after = Snapshot::take(&client, DATABASE, Some(&mut resp), root.path(), EXCLUDED).await.unwrap();
        let found = before.differences(&after).join("\n");
        for part in [
            "mongo audit_log: missing",
            "mongo born_after_the_backup: new",
            "mongo console_lines: options was",
            "mongo users: index email_1 was",
            "valkey db0 prexor:v1:lease-token:leader: value was 41, is 0",
            "valkey function prexor: missing",
            "files .: mode was",
            "files born-after-the-backup: new",
        ] {
            assert!(found.contains(part), "{part} is not in\n{found}");
        }
    }
}
