//! The events of jobs: numbered from 1 on, readable from any number on.
//!
//! All are kept, but of progress only the newest of each artifact: jobs that run for hours do not fill the catalog.
//! Numbers are never given out twice, so whoever reads on after a number misses nothing but outdated figures.

use jiff::Timestamp;
use prexor_proto::{
    backup::{JobEvent, Progress, job_event::Event},
    convert::time_to_wire,
};
use prost::Message as _;
use sqlx::{Row as _, SqliteConnection};

use super::{BEGIN, Catalog, decode, unsigned};
use crate::error::Error;

impl Catalog {
    /// Adds an event to a job.
    ///
    /// # Errors
    /// When the catalog cannot be written; no number is used up then.
    pub async fn append_event(&self, job: &str, at: Timestamp, event: Event) -> Result<(), Error> {
        let mut tx = self.pool.begin_with(BEGIN).await?;
        append(&mut tx, job, at, event).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Adds figures to a job's events, each in place of the former ones of the same artifact.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn append_progress(&self, job: &str, at: Timestamp, figures: Vec<Progress>) -> Result<(), Error> {
        let mut tx = self.pool.begin_with(BEGIN).await?;
        for progress in figures {
            let of = format!("{}/{}", progress.node, progress.artifact_id);
            insert(&mut tx, job, at, Event::Progress(progress), Some(&of)).await?;
            // The highest number of a job is never deleted: that is how the next one is found.
            sqlx::query(
                "DELETE FROM job_events WHERE job_id = $1 AND progress_of = $2 AND seq <
                 (SELECT MAX(seq) FROM job_events WHERE job_id = $1 AND progress_of = $2)",
            )
            .bind(job)
            .bind(&of)
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Up to `limit` events of a job after this number, in order.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn events(&self, job: &str, after: u64, limit: u32) -> Result<Vec<JobEvent>, Error> {
        let rows =
            sqlx::query("SELECT seq, event FROM job_events WHERE job_id = $1 AND seq > $2 ORDER BY seq LIMIT $3")
                .bind(job)
                .bind(i64::try_from(after).unwrap_or(i64::MAX))
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
                .await?;
        rows.iter()
            .map(|row| {
                let event: JobEvent = decode(row.try_get("event")?)?;
                Ok(JobEvent { seq: unsigned(row.try_get("seq")?), ..event })
            })
            .collect()
    }
}

/// Adds an event within a transaction that holds the write lock, so that its number is the next one.
pub(super) async fn append(tx: &mut SqliteConnection, job: &str, at: Timestamp, event: Event) -> Result<(), Error> {
    insert(tx, job, at, event, None).await
}

async fn insert(
    tx: &mut SqliteConnection,
    job: &str,
    at: Timestamp,
    event: Event,
    progress_of: Option<&str>,
) -> Result<(), Error> {
    let event = JobEvent { seq: 0, at: Some(time_to_wire(at)), event: Some(event) };
    sqlx::query(
        "INSERT INTO job_events (job_id, seq, event, progress_of)
         SELECT $1, COALESCE(MAX(seq), 0) + 1, $2, $3 FROM job_events WHERE job_id = $1",
    )
    .bind(job)
    .bind(event.encode_to_vec())
    .bind(progress_of)
    .execute(tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use prexor_proto::backup::Message;

    use super::*;
    use crate::catalog::{jobs::tests::new_job, tests::scratch};

    #[tokio::test]
    async fn events_have_no_gaps_whoever_writes() {
        let (catalog, _dir) = scratch().await;
        let now = Timestamp::from_second(1_000).unwrap();
        catalog.submit_job(&new_job("job-1", "1", &[]), 0).await.unwrap();
        let tasks: Vec<_> = (0..20)
            .map(|i| {
                let (catalog, text) = (catalog.clone(), format!("m{i}"));
                let event = Event::Message(Message { warning: false, text });
                tokio::spawn(async move { catalog.append_event("job-1", now, event).await.unwrap() })
            })
            .collect();
        futures::future::join_all(tasks).await.into_iter().for_each(|r| r.unwrap());
        let events = catalog.events("job-1", 0, 100).await.unwrap();
        assert_eq!(events.iter().map(|e| e.seq).collect::<Vec<_>>(), (1..=21).collect::<Vec<_>>());
        let later = catalog.events("job-1", 19, 100).await.unwrap();
        assert_eq!(later, events[19..]);
        assert!(catalog.append_event("job-9", now, Event::State(1)).await.is_err(), "events belong to a job");
    }
    #[tokio::test]
    async fn of_progress_the_newest_is_kept_and_numbers_rise() {
        let (catalog, _dir) = scratch().await;
        let now = Timestamp::from_second(1_000).unwrap();
        catalog.submit_job(&new_job("job-1", "1", &[]), 0).await.unwrap();
        let figure = |artifact: &str, done_bytes| Progress {
            node: "h1".to_owned(),
            artifact_id: artifact.to_owned(),
            done_bytes,
            ..Progress::default()
        };
        for n in 0..100 {
            catalog.append_progress("job-1", now, vec![figure("mongo", n), figure("valkey", n)]).await.unwrap();
        }
        let said = Event::Message(Message { warning: false, text: "said".to_owned() });
        catalog.append_event("job-1", now, said.clone()).await.unwrap();
        catalog.append_progress("job-1", now, vec![figure("mongo", 100)]).await.unwrap();
        let events = catalog.events("job-1", 0, 1000).await.unwrap();
        let kept: Vec<_> = events.into_iter().map(|e| (e.seq, e.event.unwrap())).collect();
        let expected = [
            (1, Event::State(prexor_proto::backup::JobState::Running as i32)),
            (201, Event::Progress(figure("valkey", 99))),
            (202, said),
            (203, Event::Progress(figure("mongo", 100))),
        ];
        assert_eq!(kept, expected);
    }
}
