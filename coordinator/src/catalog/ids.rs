//! Giving out backup ids, and remembering which directories of the store must go.

use jiff::{Timestamp, tz::TimeZone};
use prexor_format::id::BackupId;
use sqlx::Row as _;

use super::{BEGIN, Catalog};
use crate::error::Error;

impl Catalog {
    /// The next id of the UTC day that is `now`: above every id of that day given out before, and above
    /// `highest_in_store`, which matters when the catalog is younger than the store.
    ///
    /// In lists the backup will stand after all that were made before, whatever the clock said then.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn next_backup_id(&self, now: Timestamp, highest_in_store: u32) -> Result<BackupId, Error> {
        let day = now.to_zoned(TimeZone::UTC).date();
        let mut tx = self.pool.begin_with(BEGIN).await?;
        let row = sqlx::query(
            "INSERT INTO backup_days (day, last_number) VALUES ($1, $2 + 1)
             ON CONFLICT (day) DO UPDATE SET last_number =
                 CASE WHEN backup_days.last_number > $2 THEN backup_days.last_number + 1 ELSE $2 + 1 END
             RETURNING last_number",
        )
        .bind(day.to_string())
        .bind(i64::from(highest_in_store))
        .fetch_one(&mut *tx)
        .await?;
        let number: i64 = row.try_get("last_number")?;
        let number = u32::try_from(number).map_err(|_| Error::internal(format!("no backup ids are left for {day}")))?;
        let id = BackupId::new(day, number);
        sqlx::query(
            "INSERT INTO backup_orders (id, order_ms)
             SELECT $1, CASE WHEN MAX(order_ms) >= $2 THEN MAX(order_ms) + 1 ELSE $2 END FROM backup_orders",
        )
        .bind(id.to_string())
        .bind(now.as_millisecond())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Remembers that a directory must be removed unless [`Catalog::spare_backup`] is called: before a capture writes
    /// into it (`job` is the capturing job) or before a delete begins.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn doom_backup(&self, id: &BackupId, job: Option<&str>) -> Result<(), Error> {
        sqlx::query("INSERT INTO doomed_backups (id, job_id) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING")
            .bind(id.to_string())
            .bind(job)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Forgets a backup that was removed, or that never came to be: the directory is gone.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn forget_backup(&self, id: &BackupId) -> Result<(), Error> {
        let mut tx = self.pool.begin_with(BEGIN).await?;
        for gone in ["DELETE FROM backup_orders WHERE id = $1", "DELETE FROM doomed_backups WHERE id = $1"] {
            sqlx::query(gone).bind(id.to_string()).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Takes back [`Catalog::doom_backup`]: the backup is complete.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn spare_backup(&self, id: &BackupId) -> Result<(), Error> {
        sqlx::query("DELETE FROM doomed_backups WHERE id = $1").bind(id.to_string()).execute(&self.pool).await?;
        Ok(())
    }

    /// Every directory that must go.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn doomed_backups(&self) -> Result<Vec<DoomedBackup>, Error> {
        let rows = sqlx::query("SELECT id, job_id FROM doomed_backups ORDER BY id").fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                let id: String = row.try_get("id")?;
                Ok(DoomedBackup {
                    id: id.parse().map_err(|e| Error::internal(format!("the catalog: {e}")))?,
                    job: row.try_get("job_id")?,
                })
            })
            .collect()
    }
}

/// A directory of the store that must go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoomedBackup {
    /// Its name.
    pub id: BackupId,
    /// The job whose capture has not been completed; `None`: an import, or a delete.
    pub job: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::scratch;

    #[tokio::test]
    async fn ids_are_unique_at_once_and_never_come_back() {
        let (catalog, _dir) = scratch().await;
        let day: Timestamp = "2026-05-10T12:00:00Z".parse().unwrap();
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let catalog = catalog.clone();
                tokio::spawn(async move { catalog.next_backup_id(day, 0).await.unwrap().number() })
            })
            .collect();
        let mut numbers: Vec<_> = futures::future::join_all(tasks).await.into_iter().map(Result::unwrap).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
        assert_eq!(catalog.next_backup_id(day, 0).await.unwrap().number(), 21, "whatever was deleted since");
    }

    #[tokio::test]
    async fn a_catalog_that_was_lost_does_not_reuse_what_is_in_the_store() {
        let (catalog, _dir) = scratch().await;
        let day: Timestamp = "2026-05-10T23:59:59Z".parse().unwrap();
        assert_eq!(catalog.next_backup_id(day, 7).await.unwrap().to_string(), "bk-2026-05-10-008");
        assert_eq!(catalog.next_backup_id(day, 7).await.unwrap().number(), 9);
        assert_eq!(catalog.next_backup_id(day, 40).await.unwrap().number(), 41);
        assert_eq!(catalog.next_backup_id("2026-05-11T00:00:00Z".parse().unwrap(), 0).await.unwrap().number(), 1);
    }
}
