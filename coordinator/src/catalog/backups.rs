//! The index of backups: what the store's manifests say, to be listed without reading them all again.

use jiff::Timestamp;
use prexor_format::id::BackupId;
use prexor_proto::{backup::Backup, convert::time_to_wire};
use prost::Message as _;
use sqlx::{Row as _, sqlite::SqliteRow};

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
    /// As clients see it.
    pub backup: Backup,
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
            sqlx::query(
                "INSERT INTO backups (id, stamp, created_ms, backup) VALUES ($1, $2, COALESCE((SELECT order_ms FROM backup_orders WHERE id = $1), $3), $4)
                 ON CONFLICT (id) DO UPDATE SET
                     stamp = excluded.stamp, created_ms = excluded.created_ms, backup = excluded.backup",
            )
            .bind(b.id.to_string())
            .bind(&b.stamp)
            .bind(b.order.as_millisecond())
            .bind(b.backup.encode_to_vec())
            .execute(&mut *tx)
            .await?;
        }
        for id in gone {
            sqlx::query("DELETE FROM backups WHERE id = $1").bind(id.to_string()).execute(&mut *tx).await?;
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

    /// Remembers when a backup was last verified without finding anything.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn set_verified(&self, id: &BackupId, at: Timestamp) -> Result<(), Error> {
        sqlx::query("UPDATE backups SET verified_ms = $1 WHERE id = $2")
            .bind(at.as_millisecond())
            .bind(id.to_string())
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

fn backup_id(row: &SqliteRow) -> Result<BackupId, Error> {
    let id: String = row.try_get("id")?;
    id.parse().map_err(|e| Error::internal(format!("the catalog: {e}")))
}

fn indexed(row: &SqliteRow) -> Result<IndexedBackup, Error> {
    let backup: Backup = decode(row.try_get("backup")?)?;
    let verified = row.try_get::<Option<i64>, _>("verified_ms")?.map(time).transpose()?;
    Ok(IndexedBackup {
        id: backup_id(row)?,
        stamp: row.try_get("stamp")?,
        order: time(row.try_get("created_ms")?)?,
        backup: Backup { verified_at: verified.map(time_to_wire), ..backup },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::scratch;

    fn entry(id: &str, second: i64, stamp: &str) -> IndexedBackup {
        let backup = Backup { id: id.to_owned(), size_bytes: 7, ..Backup::default() };
        let order = Timestamp::from_second(second).unwrap();
        IndexedBackup { id: id.parse().unwrap(), stamp: stamp.to_owned(), order, backup }
    }

    #[tokio::test]
    async fn the_index_lists_newest_first_and_keeps_what_verify_found() {
        let (catalog, _dir) = scratch().await;
        let (a, b) = (entry("bk-2026-05-10-001", 10, "s"), entry("bk-2026-05-10-002", 10, "s"));
        let c = entry("bk-2026-05-09-001", 20, "s");
        catalog.update_index(&[a.clone(), b.clone(), c.clone()], &[]).await.unwrap();
        assert_eq!(catalog.backups(None, 10).await.unwrap(), [c.clone(), b.clone(), a.clone()]);
        assert_eq!(catalog.backups(Some((10_000, "bk-2026-05-10-002")), 10).await.unwrap(), std::slice::from_ref(&a));

        catalog.set_verified(&a.id, Timestamp::from_second(99).unwrap()).await.unwrap();
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
