//! What is known of the index's backups beside their manifests: marks, and which of them are suspect.

use std::collections::BTreeMap;

use jiff::Timestamp;
use prexor_format::{
    id::BackupId,
    marks::{Depth, Mark, Says, Verified},
};
use sqlx::Row as _;

use super::{BEGIN, Catalog, backups::backup_id, time, unsigned};
use crate::{error::Error, retention::Figures};

impl Catalog {
    /// Takes note of what a mark says.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn mark(&self, id: &BackupId, at: Timestamp, by: &str, says: &Says) -> Result<(), Error> {
        let (id, ms) = (id.to_string(), at.as_millisecond());
        let query = match says {
            Says::Pin { reason } => {
                sqlx::query("UPDATE backups SET pinned_ms = $2, pinned_by = $3, pin_reason = $4 WHERE id = $1")
                    .bind(id)
                    .bind(ms)
                    .bind(by)
                    .bind(reason)
            }
            Says::Accept => sqlx::query("UPDATE backups SET accepted_ms = $2 WHERE id = $1").bind(id).bind(ms),
            Says::Upgrade { .. } => {
                sqlx::query("UPDATE backups SET superseded_ms = $2 WHERE id = $1").bind(id).bind(ms)
            }
            Says::Verify(Verified { first_at, last_at, depth, problem }) => sqlx::query(
                "UPDATE backups SET first_verified_ms = $2, verified_ms = $3, verified_depth = $4, verify_problem = $5
                 WHERE id = $1",
            )
            .bind(id)
            .bind(first_at.map(Timestamp::as_millisecond))
            .bind(last_at.map(Timestamp::as_millisecond))
            .bind(depth.map_or("", Depth::as_str))
            .bind(problem.as_deref().unwrap_or_default()),
        };
        query.execute(&self.pool).await?;
        Ok(())
    }

    /// Forgets what a mark said.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn unmark(&self, id: &BackupId, mark: Mark) -> Result<(), Error> {
        let query = match mark {
            Mark::Pin => "UPDATE backups SET pinned_ms = NULL, pinned_by = '', pin_reason = '' WHERE id = $1",
            Mark::Accept => "UPDATE backups SET accepted_ms = NULL WHERE id = $1",
            Mark::Upgrade => "UPDATE backups SET superseded_ms = NULL WHERE id = $1",
            Mark::Verify => {
                "UPDATE backups SET first_verified_ms = NULL, verified_ms = NULL, verified_depth = '', verify_problem = ''
                 WHERE id = $1"
            }
        };
        sqlx::query(query).bind(id.to_string()).execute(&self.pool).await?;
        Ok(())
    }

    /// When something was done last; see [`Catalog::set_moment`].
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn moment(&self, what: &str) -> Result<Option<Timestamp>, Error> {
        let row = sqlx::query("SELECT value FROM meta WHERE name = $1").bind(what).fetch_optional(&self.pool).await?;
        row.map(|row| time(row.try_get("value")?)).transpose()
    }

    /// Remembers when something was done, in place of the time before.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn set_moment(&self, what: &str, at: Timestamp) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )
        .bind(what)
        .bind(at.as_millisecond())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// How much is in each backup that is measured against others, in the order of their creation.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn figures(&self) -> Result<Vec<Figures>, Error> {
        let rows = sqlx::query(
            "SELECT id, documents, key_count, accepted_ms FROM backups
             WHERE documents IS NOT NULL OR key_count IS NOT NULL ORDER BY created_ms, id",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Figures {
                    id: backup_id(row)?,
                    documents: row.try_get::<Option<i64>, _>("documents")?.map(unsigned),
                    keys: row.try_get::<Option<i64>, _>("key_count")?.map(unsigned),
                    accepted: row.try_get::<Option<i64>, _>("accepted_ms")?.is_some(),
                })
            })
            .collect()
    }

    /// Remembers which backups are suspect, and why; all others are not. Returns those of which that is new.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn set_suspects(&self, all: &BTreeMap<BackupId, String>) -> Result<Vec<(BackupId, String)>, Error> {
        let rows = sqlx::query("SELECT id, suspect FROM backups WHERE suspect <> ''").fetch_all(&self.pool).await?;
        let mut known = BTreeMap::new();
        for row in &rows {
            known.insert(backup_id(row)?, row.try_get::<String, _>("suspect")?);
        }
        let fresh: Vec<_> = all.iter().filter(|(id, lost)| known.get(*id) != Some(lost)).collect();
        let cleared = known.keys().filter(|id| !all.contains_key(*id));
        let changes: Vec<_> =
            fresh.iter().map(|(id, lost)| (*id, lost.as_str())).chain(cleared.map(|id| (id, ""))).collect();
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.pool.begin_with(BEGIN).await?;
        for (id, lost) in changes {
            sqlx::query("UPDATE backups SET suspect = $2 WHERE id = $1")
                .bind(id.to_string())
                .bind(lost)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        let news = fresh.into_iter().filter(|(id, _)| !known.contains_key(*id));
        Ok(news.map(|(id, lost)| (id.clone(), lost.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use prexor_format::marks::Marks;
    use prexor_proto::backup::Backup;

    use super::*;
    use crate::catalog::{IndexedBackup, tests::scratch};

    fn entry(number: u32, documents: u64) -> IndexedBackup {
        let id: BackupId = format!("bk-2026-05-10-{number:03}").parse().unwrap();
        let backup = Backup { id: id.to_string(), documents: Some(documents), ..Backup::default() };
        let order = Timestamp::from_second(number.into()).unwrap();
        IndexedBackup { id, stamp: "s".to_owned(), order, backup, marks: Marks::default() }
    }

    #[tokio::test]
    async fn marks_are_there_when_they_are_read_and_stay_apart() {
        let (catalog, _dir) = scratch().await;
        let (one, at) = (entry(1, 7), Timestamp::from_second(99).unwrap());
        catalog.update_index(std::slice::from_ref(&one), &[]).await.unwrap();
        let verified = Verified::default().and(at, Depth::Deep, None).and(at, Depth::Full, Some("x".to_owned()));
        for says in [
            Says::Pin { reason: "r".to_owned() },
            Says::Accept,
            Says::Verify(verified.clone()),
            Says::Upgrade { version: "2".to_owned() },
        ] {
            catalog.mark(&one.id, at, "root", &says).await.unwrap();
        }
        let read = catalog.backup(&one.id).await.unwrap().unwrap();
        let pin = read.marks.pin.clone().unwrap();
        assert_eq!((pin.at, pin.by.as_str(), pin.reason.as_str()), (at, "root", "r"));
        assert_eq!(
            (&read.marks.verified, read.marks.superseded_at, read.marks.accepted_at),
            (&verified, Some(at), Some(at))
        );
        assert_eq!((read.backup.verify_problem.as_str(), read.backup.pin.unwrap().by.as_str()), ("x", "root"));
        // What was read from the marks themselves says all that there is.
        let again = IndexedBackup { marks: read.marks.clone(), ..one.clone() };
        catalog.update_index(&[again], &[]).await.unwrap();
        assert_eq!(catalog.backup(&one.id).await.unwrap().unwrap().marks, read.marks);
        for mark in Mark::ALL {
            catalog.unmark(&one.id, mark).await.unwrap();
        }
        assert_eq!(catalog.backup(&one.id).await.unwrap().unwrap().marks, Marks::default());
    }

    #[tokio::test]
    async fn who_is_suspect_is_told_once() {
        let (catalog, _dir) = scratch().await;
        catalog.update_index(&[entry(1, 100), entry(2, 1)], &[]).await.unwrap();
        let suspects = crate::retention::suspects(&catalog.figures().await.unwrap());
        let news = catalog.set_suspects(&suspects).await.unwrap();
        assert_eq!(news.iter().map(|(id, _)| id.number()).collect::<Vec<_>>(), [2]);
        assert!(catalog.set_suspects(&suspects).await.unwrap().is_empty());
        let read = catalog.backup(&entry(2, 1).id).await.unwrap().unwrap();
        assert_eq!(read.backup.suspect, "1 document, 100 in bk-2026-05-10-001");
        catalog.set_suspects(&BTreeMap::new()).await.unwrap();
        assert_eq!(catalog.backup(&read.id).await.unwrap().unwrap().backup.suspect, "");
    }
}
