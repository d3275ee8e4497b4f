//! The catalog: what the coordinator remembers besides the backups themselves. The only place that names SQL.
//!
//! The backups' index in it can be rebuilt from the store; jobs, events, tokens, nodes and the journal of restores
//! cannot. It lives in the state directory, outside everything that a restore touches (law L22). Queries use `$n`
//! placeholders and portable SQL; times go in as milliseconds since the epoch.

use std::{path::Path, time::Duration};

use jiff::Timestamp;
use prexor_proto::reason::Reason;
use sqlx::{
    Row as _, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::error::Error;

mod audit;
mod backups;
mod certificates;
mod events;
mod ids;
mod jobs;
mod journal;
mod keeping;
mod nodes;
mod queue;
mod tokens;

pub use audit::AuditEntry;
pub use backups::IndexedBackup;
pub use ids::DoomedBackup;
pub use jobs::{JobRow, NewJob, Submitted};
pub use journal::{JournaledStep, StepRecord};
pub use nodes::NodeRecord;
pub use queue::{OpenJob, in_the_way, words as in_words};
pub use tokens::{NewToken, SpentToken, TokenRecord, TokenState, UsableToken};

/// The catalog. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Catalog {
    pool: SqlitePool,
}

/// How a transaction that writes begins: SQLite takes the write lock at once, so that two of them queue up instead of
/// failing in the middle.
const BEGIN: &str = "BEGIN IMMEDIATE";

/// How long a writer waits for another one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

impl Catalog {
    /// Opens the catalog in this file, made if it is not there, and brings its tables up to date.
    ///
    /// # Errors
    /// When the file cannot be opened, is no catalog, or was written by a newer version.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let cannot = |e: &dyn std::fmt::Display| {
            Error::internal(format!("the catalog {} cannot be opened: {e}", path.display()))
        };
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.map_err(|e| cannot(&e))?;
        sqlx::migrate!("./migrations").run(&pool).await.map_err(|e| cannot(&e))?;
        Ok(Self { pool })
    }

    /// Begins the next epoch and returns it: one more than the last, whatever happened to the one before.
    ///
    /// It is at least the time in seconds, so that a coordinator that lost its catalog, or got an old one back, is still
    /// above everything that agents remember and is not fenced off by them.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn begin_epoch(&self, now: Timestamp) -> Result<u64, Error> {
        let row = sqlx::query(
            "INSERT INTO meta (name, value) VALUES ('epoch', $1)
             ON CONFLICT (name) DO UPDATE SET value =
                 CASE WHEN meta.value < excluded.value THEN excluded.value ELSE meta.value + 1 END
             RETURNING value",
        )
        .bind(now.as_second())
        .fetch_one(&self.pool)
        .await?;
        Ok(unsigned(row.try_get("value")?))
    }

    /// Whether something that is done once in a coordinator's life has been done; see [`Catalog::set_done`].
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn is_done(&self, what: &str) -> Result<bool, Error> {
        let row = sqlx::query("SELECT 1 FROM meta WHERE name = $1").bind(what).fetch_optional(&self.pool).await?;
        Ok(row.is_some())
    }

    /// Remembers that something has been done.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn set_done(&self, what: &str, now: Timestamp) -> Result<(), Error> {
        sqlx::query("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
            .bind(what)
            .bind(now.as_millisecond())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Writes everything out and lets go of the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl From<sqlx::Error> for Error {
    fn from(e: sqlx::Error) -> Self {
        // 13 is SQLITE_FULL; the disk under the state directory, not the store's.
        let full = e.as_database_error().and_then(|d| d.code()).is_some_and(|c| c == "13");
        let reason = if full { Reason::NoSpace } else { Reason::Internal };
        Self::new(reason, format!("the catalog could not be read or written: {e}"))
    }
}

/// A time out of the catalog.
fn time(ms: i64) -> Result<Timestamp, Error> {
    Timestamp::from_millisecond(ms).map_err(|_| Error::internal(format!("the catalog holds the impossible time {ms}")))
}

/// A count out of the catalog; none is ever negative.
fn unsigned(n: i64) -> u64 {
    n.unsigned_abs()
}

/// A message out of the catalog.
fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, Error> {
    M::decode(bytes).map_err(|e| Error::internal(format!("the catalog holds a record that cannot be read: {e}")))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A catalog in a directory of its own, which goes away with the guard.
    pub(crate) async fn scratch() -> (Catalog, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Catalog::open(&dir.path().join("catalog.sqlite")).await.unwrap(), dir)
    }

    #[tokio::test]
    async fn epochs_only_rise() {
        let (catalog, dir) = scratch().await;
        let now = Timestamp::from_second(1_000_000).unwrap();
        assert_eq!(catalog.begin_epoch(now).await.unwrap(), 1_000_000);
        catalog.close().await;
        let catalog = Catalog::open(&dir.path().join("catalog.sqlite")).await.unwrap();
        let earlier = Timestamp::from_second(5).unwrap();
        assert_eq!(catalog.begin_epoch(earlier).await.unwrap(), 1_000_001, "a clock that goes back changes nothing");
        let later = Timestamp::from_second(2_000_000).unwrap();
        assert_eq!(catalog.begin_epoch(later).await.unwrap(), 2_000_000, "whatever a lost catalog had given out");
    }

    #[tokio::test]
    async fn a_file_that_is_no_catalog_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.sqlite");
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        let e = Catalog::open(&path).await.unwrap_err();
        assert!(e.message.contains("catalog.sqlite"), "{e}");
    }
}
