//! The audit log: entries are added, never changed; when there are too many the oldest go.

use jiff::Timestamp;
use sqlx::Row as _;

use super::{Catalog, time, unsigned};
use crate::error::Error;

/// How many entries are kept.
const MOST: i64 = 500_000;

/// Something that was done, or tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// The caller's identity, or `-`.
    pub who: String,
    /// Address and port, or `-`.
    pub from: String,
    /// What.
    pub action: String,
    /// To what.
    pub subject: String,
    /// `OK`, or a reason's word.
    pub result: String,
    /// Of failures, in words.
    pub detail: String,
}

impl Catalog {
    /// Adds an entry.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn add_audit(&self, entry: &AuditEntry) -> Result<(), Error> {
        let row = sqlx::query(
            "INSERT INTO audit (number, at_ms, who, origin, action, subject, result, detail)
             VALUES ((SELECT COALESCE(MAX(number), 0) + 1 FROM audit), $1, $2, $3, $4, $5, $6, $7) RETURNING number",
        )
        .bind(entry.at.as_millisecond())
        .bind(&entry.who)
        .bind(&entry.from)
        .bind(&entry.action)
        .bind(&entry.subject)
        .bind(&entry.result)
        .bind(&entry.detail)
        .fetch_one(&self.pool)
        .await?;
        let number: i64 = row.try_get("number")?;
        if number % 1000 == 0 {
            sqlx::query("DELETE FROM audit WHERE number <= $1").bind(number - MOST).execute(&self.pool).await?;
        }
        Ok(())
    }

    /// Entries with lower numbers than `before` (`None`: all), the newest first, at most `most`.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn audit(&self, before: Option<i64>, most: u32) -> Result<Vec<(u64, AuditEntry)>, Error> {
        let rows = sqlx::query("SELECT * FROM audit WHERE number < $1 ORDER BY number DESC LIMIT $2")
            .bind(before.unwrap_or(i64::MAX))
            .bind(i64::from(most))
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                let entry = AuditEntry {
                    at: time(row.try_get("at_ms")?)?,
                    who: row.try_get("who")?,
                    from: row.try_get("origin")?,
                    action: row.try_get("action")?,
                    subject: row.try_get("subject")?,
                    result: row.try_get("result")?,
                    detail: row.try_get("detail")?,
                };
                Ok((unsigned(row.try_get("number")?), entry))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::scratch;

    #[tokio::test]
    async fn entries_are_numbered_and_read_page_by_page() {
        let (catalog, _dir) = scratch().await;
        let entry = |subject: &str| AuditEntry {
            at: Timestamp::from_second(1000).unwrap(),
            who: "prexor://c/operator/anna".to_owned(),
            from: "127.0.0.1:1".to_owned(),
            action: "BackupService/DeleteBackup".to_owned(),
            subject: subject.to_owned(),
            result: "OK".to_owned(),
            detail: String::new(),
        };
        for subject in ["a", "b", "c"] {
            catalog.add_audit(&entry(subject)).await.unwrap();
        }
        let page = catalog.audit(None, 2).await.unwrap();
        assert_eq!(page, [(3, entry("c")), (2, entry("b"))]);
        assert_eq!(catalog.audit(Some(2), 2).await.unwrap(), [(1, entry("a"))]);
    }
}
