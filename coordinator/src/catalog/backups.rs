//! The index of backups: what the store's manifests say, to be listed without reading them all again.

use jiff::Timestamp;
use prexor_format::{
    id::BackupId,
    marks::{Depth, Marks, Pin, Verified},
};
use prexor_proto::{
    backup::{self, Backup},
    convert::{depth_to_wire, time_to_wire},
};
use prost::Message as _;
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{BEGIN, Catalog, decode, time};
use crate::error::Error;

/// A backup of the index.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexedBackup {
    /// Its id.
    pub id: BackupId,
    /// Which bytes of its manifest the rest was taken from; see `Store::survey`.
    pub stamp: String,
    /// What lists are sorted by: when it was created, or later for one that was made here while the clock stood before
    /// that of an earlier one. What is put into the index is only asked for its time of creation.
    pub order: Timestamp,
    /// As clients see it; what the marks say of it is put in when it is read.
    pub backup: Backup,
    /// What the marks beside its manifest say.
    pub marks: Marks,
}

impl Catalog {
    /// The id and stamp of every backup of the index.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn indexed_stamps(&self) -> Result<Vec<(BackupId, String)>, Error> {
        let rows = sqlx::query("SELECT id, stamp FROM backups ORDER BY id").fetch_all(&self.pool).await?;
        rows.iter().map(|r| Ok((backup_id(r)?, r.try_get("stamp")?))).collect()
    }

    /// Brings the index up to date: replaces what is in `put`, and drops `gone`. The time of the last verify stays.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn update_index(&self, put: &[IndexedBackup], gone: &[BackupId]) -> Result<(), Error> {
        if put.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let mut tx = self.pool.begin_with(BEGIN).await?;
        for b in put {
            put_one(&mut tx, b).await?;
        }
        for id in gone {
            sqlx::query("DELETE FROM backups WHERE id = $1").bind(id.to_string()).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Brings the index up to what is in `all`, whatever it said before.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn replace_index(&self, all: &[IndexedBackup]) -> Result<(), Error> {
        let mut tx = self.pool.begin_with(BEGIN).await?;
        sqlx::query("DELETE FROM backups").execute(&mut *tx).await?;
        for b in all {
            put_one(&mut tx, b).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Up to `limit` backups, newest first, beginning after this one (its order and id).
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn backups(&self, after: Option<(i64, &str)>, limit: u32) -> Result<Vec<IndexedBackup>, Error> {
        let (ms, id) = after.unwrap_or((i64::MAX, ""));
        let rows = sqlx::query(
            "SELECT * FROM backups WHERE created_ms < $1 OR (created_ms = $1 AND id < $2)
             ORDER BY created_ms DESC, id DESC LIMIT $3",
        )
        .bind(ms)
        .bind(id)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(indexed).collect()
    }

    /// The backup with this id, if the index has it.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn backup(&self, id: &BackupId) -> Result<Option<IndexedBackup>, Error> {
        let row =
            sqlx::query("SELECT * FROM backups WHERE id = $1").bind(id.to_string()).fetch_optional(&self.pool).await?;
        row.as_ref().map(indexed).transpose()
    }
}

async fn put_one(tx: &mut SqliteConnection, b: &IndexedBackup) -> Result<(), Error> {
    let Marks { pin, accepted_at, verified, superseded_at } = &b.marks;
    sqlx::query(
        "INSERT INTO backups (id, stamp, created_ms, backup, documents, key_count, pinned_ms, pinned_by, pin_reason,
             accepted_ms, first_verified_ms, verified_ms, verified_depth, verify_problem, superseded_ms)
         VALUES ($1, $2, COALESCE((SELECT order_ms FROM backup_orders WHERE id = $1), $3), $4, $5, $6, $7, $8, $9,
             $10, $11, $12, $13, $14, $15)
         ON CONFLICT (id) DO UPDATE SET
             stamp = excluded.stamp, created_ms = excluded.created_ms, backup = excluded.backup,
             documents = excluded.documents, key_count = excluded.key_count, pinned_ms = excluded.pinned_ms,
             pinned_by = excluded.pinned_by, pin_reason = excluded.pin_reason, accepted_ms = excluded.accepted_ms,
             first_verified_ms = COALESCE(excluded.first_verified_ms, backups.first_verified_ms),
             verified_ms = COALESCE(excluded.verified_ms, backups.verified_ms),
             verified_depth = excluded.verified_depth, verify_problem = excluded.verify_problem,
             superseded_ms = excluded.superseded_ms",
    )
    .bind(b.id.to_string())
    .bind(&b.stamp)
    .bind(b.order.as_millisecond())
    .bind(b.backup.encode_to_vec())
    .bind(b.backup.documents.map(signed))
    .bind(b.backup.keys.map(signed))
    .bind(pin.as_ref().map(|pin| pin.at.as_millisecond()))
    .bind(pin.as_ref().map_or("", |pin| &pin.by))
    .bind(pin.as_ref().map_or("", |pin| &pin.reason))
    .bind(accepted_at.map(Timestamp::as_millisecond))
    .bind(verified.first_at.map(Timestamp::as_millisecond))
    .bind(verified.last_at.map(Timestamp::as_millisecond))
    .bind(verified.depth.map_or("", Depth::as_str))
    .bind(verified.problem.as_deref().unwrap_or_default())
    .bind(superseded_at.map(Timestamp::as_millisecond))
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) fn backup_id(row: &SqliteRow) -> Result<BackupId, Error> {
    let id: String = row.try_get("id")?;
    id.parse().map_err(|e| Error::internal(format!("the catalog: {e}")))
}

/// A count into the catalog.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn indexed(row: &SqliteRow) -> Result<IndexedBackup, Error> {
    let marks = marks(row)?;
    let pin =
        marks.pin.clone().map(|pin| backup::Pin { at: Some(time_to_wire(pin.at)), by: pin.by, reason: pin.reason });
    let backup = Backup {
        verified_at: marks.verified.last_at.map(time_to_wire),
        verified_depth: depth_to_wire(marks.verified.depth).into(),
        verify_problem: marks.verified.problem.clone().unwrap_or_default(),
        suspect: row.try_get("suspect")?,
        pin,
        ..decode(row.try_get("backup")?)?
    };
    let order = time(row.try_get("created_ms")?)?;
    Ok(IndexedBackup { id: backup_id(row)?, stamp: row.try_get("stamp")?, order, backup, marks })
}

fn marks(row: &SqliteRow) -> Result<Marks, Error> {
    let at = |column: &str| row.try_get::<Option<i64>, _>(column)?.map(time).transpose();
    let text = |column: &str| row.try_get::<String, _>(column);
    let pin = match at("pinned_ms")? {
        Some(at) => Some(Pin { at, by: text("pinned_by")?, reason: text("pin_reason")? }),
        None => None,
    };
    let depth: &str = row.try_get("verified_depth")?;
    let verified = Verified {
        first_at: at("first_verified_ms")?,
        last_at: at("verified_ms")?,
        depth: Depth::ALL.into_iter().find(|d| d.as_str() == depth),
        problem: Some(text("verify_problem")?).filter(|p| !p.is_empty()),
    };
    Ok(Marks { pin, accepted_at: at("accepted_ms")?, verified, superseded_at: at("superseded_ms")? })
}

#[cfg(test)]
mod tests {
    use prexor_format::marks::Says;

    use super::*;
    use crate::catalog::tests::scratch;

    fn entry(id: &str, second: i64, stamp: &str) -> IndexedBackup {
        let backup = Backup { id: id.to_owned(), size_bytes: 7, ..Backup::default() };
        let order = Timestamp::from_second(second).unwrap();
        let marks = Marks::default();
        IndexedBackup { id: id.parse().unwrap(), stamp: stamp.to_owned(), order, backup, marks }
    }

    #[tokio::test]
    async fn the_index_lists_newest_first_and_keeps_what_verify_found() {
        let (catalog, _dir) = scratch().await;
        let (a, b) = (entry("bk-2026-05-10-001", 10, "s"), entry("bk-2026-05-10-002", 10, "s"));
        let c = entry("bk-2026-05-09-001", 20, "s");
        catalog.update_index(&[a.clone(), b.clone(), c.clone()], &[]).await.unwrap();
        assert_eq!(catalog.backups(None, 10).await.unwrap(), [c.clone(), b.clone(), a.clone()]);
        assert_eq!(catalog.backups(Some((10_000, "bk-2026-05-10-002")), 10).await.unwrap(), std::slice::from_ref(&a));

        let verified = Verified::default().and(Timestamp::from_second(99).unwrap(), Depth::Full, None);
        catalog.mark(&a.id, Timestamp::from_second(99).unwrap(), "root", &Says::Verify(verified)).await.unwrap();
        catalog.update_index(&[entry("bk-2026-05-10-001", 10, "t")], &[b.id]).await.unwrap();
        let again = catalog.backup(&a.id).await.unwrap().unwrap();
        assert_eq!((again.stamp.as_str(), again.backup.verified_at.map(|t| t.seconds)), ("t", Some(99)));
        assert_eq!(catalog.indexed_stamps().await.unwrap().len(), 2);
    }
    #[tokio::test]
    async fn a_clock_that_goes_back_does_not_change_the_order() {
        let (catalog, _dir) = scratch().await;
        let mut made = Vec::new();
        for second in [50_000, 49_000, 49_000, 50_000, 50_001] {
            let id = catalog.next_backup_id(Timestamp::from_second(second).unwrap(), 0).await.unwrap();
            catalog.update_index(&[entry(&id.to_string(), second, "s")], &[]).await.unwrap();
            made.push(id);
        }
        // Brought in from elsewhere: it stands where its own time says.
        let foreign = entry("bk-1970-01-01-100", 49_500, "s");
        catalog.update_index(std::slice::from_ref(&foreign), &[]).await.unwrap();
        let listed: Vec<_> = catalog.backups(None, 10).await.unwrap().into_iter().rev().map(|b| b.id).collect();
        assert_eq!(listed, [&[foreign.id], &made[..]].concat());
    }
}
