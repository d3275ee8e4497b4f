//! Who may run: jobs whose scopes overlap run one after the other, in the order in which they were asked for; the others
//! side by side. Nobody overtakes a job that is in its way, waiting or running.

use jiff::Timestamp;
use prexor_format::{
    artifact::ArtifactKind,
    id::NodeName,
    text::{duration, things},
};
use prexor_proto::{
    backup::{Job, JobKind, JobState, Message, job_event::Event},
    convert::time_from_wire,
};
use sqlx::{Row as _, SqliteConnection};

use super::{BEGIN, Catalog, JobRow, events, jobs};
use crate::{
    error::Error,
    scope::{Claim, Scope},
};

/// A job that has not ended.
#[derive(Debug, Clone)]
pub struct OpenJob {
    /// As clients see it.
    pub job: Job,
    /// What it has to itself, or waits for.
    pub scope: Scope,
}

impl OpenJob {
    /// Whether it waits.
    pub fn is_queued(&self) -> bool {
        self.job.state() == JobState::Queued
    }

    fn words(&self, now: Timestamp) -> String {
        let what = match self.job.kind() {
            JobKind::Restore => "restore",
            JobKind::Verify => "verify",
            JobKind::Backup | JobKind::Unspecified => "backup",
        };
        let doing = match self.job.started_at.as_ref().and_then(|t| time_from_wire(t).ok()) {
            _ if self.job.state() == JobState::Paused => "paused: `prexorctl job show` tells why".to_owned(),
            Some(started) => format!("running for {}", duration(now.duration_since(started))),
            None => "waiting too".to_owned(),
        };
        format!("{} ({what} of {}, {doing})", self.job.id, self.scope.words())
    }
}

/// These jobs in words: `job-0123456789ab (backup of mongo, running for 3 min)`; of several the first one.
pub fn words(in_the_way: &[&OpenJob], now: Timestamp) -> String {
    let Some((first, others)) = in_the_way.split_first() else { return String::new() };
    match others.len() {
        0 => first.words(now),
        n => format!("{} and {}", first.words(now), things(n as u64, "other job")),
    }
}

/// The jobs among these, in their order, that one with this scope must wait for when it comes after them.
pub fn in_the_way<'a>(earlier: &'a [OpenJob], scope: &Scope) -> Vec<&'a OpenJob> {
    earlier.iter().filter(|open| open.scope.overlaps(scope)).collect()
}

impl Catalog {
    /// The jobs that have not ended, in the order in which they were asked for.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn open_jobs(&self) -> Result<Vec<OpenJob>, Error> {
        open_jobs(&mut *self.pool.acquire().await?).await
    }

    /// Lets every job run that waits and has nobody in its way any more, and returns them: they are the caller's to run.
    ///
    /// # Errors
    /// When the catalog cannot be written: all wait on then.
    pub async fn start_next(&self, now: Timestamp) -> Result<Vec<JobRow>, Error> {
        let mut tx = self.pool.begin_with(BEGIN).await?;
        let open = open_jobs(&mut tx).await?;
        let mut begun = Vec::new();
        for (n, next) in open.iter().enumerate().filter(|(_, open)| open.is_queued()) {
            if !in_the_way(&open[..n], &next.scope).is_empty() {
                continue;
            }
            sqlx::query("UPDATE jobs SET state = $1, started_ms = $2 WHERE id = $3")
                .bind(JobState::Running.as_str_name())
                .bind(now.as_millisecond())
                .bind(&next.job.id)
                .execute(&mut *tx)
                .await?;
            events::append(&mut tx, &next.job.id, now, Event::State(JobState::Running as i32)).await?;
            begun.push(jobs::find(&mut tx, &next.job.id).await?);
        }
        tx.commit().await?;
        Ok(begun)
    }

    /// Ends a job that waits, saying why; `false` when it does not wait.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn cancel_queued(&self, id: &str, why: &str, cause: &Error, now: Timestamp) -> Result<bool, Error> {
        let mut tx = self.pool.begin_with(BEGIN).await?;
        let row = sqlx::query("SELECT 1 FROM jobs WHERE id = $1 AND state = $2");
        if row.bind(id).bind(JobState::Queued.as_str_name()).fetch_optional(&mut *tx).await?.is_none() {
            return Ok(false);
        }
        events::append(&mut tx, id, now, Event::Message(Message { warning: false, text: why.to_owned() })).await?;
        jobs::end(&mut tx, id, JobState::Cancelled, Some(cause.to_failure()), None, now).await?;
        tx.commit().await?;
        Ok(true)
    }
}

pub(super) async fn open_jobs(tx: &mut SqliteConnection) -> Result<Vec<OpenJob>, Error> {
    let rows = sqlx::query("SELECT * FROM jobs WHERE finished_ms IS NULL ORDER BY number").fetch_all(&mut *tx).await?;
    let mut open = Vec::with_capacity(rows.len());
    for row in &rows {
        let job = jobs::job_row(row)?.job;
        let claims = sqlx::query("SELECT kind, node FROM job_scopes WHERE job_id = $1").bind(&job.id);
        let claims = claims.fetch_all(&mut *tx).await?;
        let claim = |row: &sqlx::sqlite::SqliteRow| {
            let (kind, node): (String, String) = (row.try_get("kind")?, row.try_get("node")?);
            let bad = || Error::internal(format!("the catalog holds the unknown scope '{kind} {node}'"));
            let node = Some(&node).filter(|n| !n.is_empty()).map(|n| n.parse::<NodeName>().map_err(|_| bad()));
            let kind = kind.parse::<ArtifactKind>().map_err(|_| bad())?;
            Ok::<_, Error>(Claim { kind, node: node.transpose()? })
        };
        let scope = Scope(claims.iter().map(claim).collect::<Result<_, _>>()?);
        open.push(OpenJob { job, scope });
    }
    Ok(open)
}

pub(super) async fn claim(tx: &mut SqliteConnection, job: &str, scope: &Scope) -> Result<(), Error> {
    for Claim { kind, node } in &scope.0 {
        sqlx::query("INSERT INTO job_scopes (job_id, kind, node) VALUES ($1, $2, $3)")
            .bind(job)
            .bind(kind.as_str())
            .bind(node.as_ref().map_or("", NodeName::as_str))
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ArtifactKind::{Filesystem, Mongo, Valkey};

    use super::*;
    use crate::catalog::{Submitted, jobs::tests::new_job, tests::scratch};

    async fn submit(catalog: &Catalog, id: &str, kinds: &[ArtifactKind], room: usize) -> Result<Submitted, Error> {
        catalog.submit_job(&new_job(id, id, kinds), room).await
    }

    async fn started(catalog: &Catalog) -> Vec<String> {
        let begun = catalog.start_next(Timestamp::from_second(3_000).unwrap()).await.unwrap();
        begun.into_iter().map(|row| row.job.id).collect()
    }

    async fn end(catalog: &Catalog, id: &str) {
        let now = Timestamp::from_second(2_000).unwrap();
        catalog.finish_job(id, JobState::Succeeded, None, None, now).await.unwrap();
    }

    #[tokio::test]
    async fn overlapping_jobs_take_turns_in_order_and_others_run_beside() {
        let (catalog, _dir) = scratch().await;
        assert!(matches!(submit(&catalog, "job-1", &[Mongo], 9).await.unwrap(), Submitted::Running));
        assert!(matches!(submit(&catalog, "job-2", &[Mongo, Valkey], 9).await.unwrap(), Submitted::Queued(_)));
        // Its own scope is free, but somebody waits for it who came before.
        assert!(matches!(submit(&catalog, "job-3", &[Valkey], 9).await.unwrap(), Submitted::Queued(_)));
        assert!(matches!(submit(&catalog, "job-4", &[Filesystem], 9).await.unwrap(), Submitted::Running));
        assert!(matches!(submit(&catalog, "job-5", &[], 9).await.unwrap(), Submitted::Running), "a verify");
        assert!(started(&catalog).await.is_empty());
        end(&catalog, "job-4").await;
        assert!(started(&catalog).await.is_empty());
        end(&catalog, "job-1").await;
        assert_eq!(started(&catalog).await, ["job-2"]);
        end(&catalog, "job-2").await;
        assert_eq!(started(&catalog).await, ["job-3"]);
        let job = catalog.job("job-3").await.unwrap().job;
        assert_eq!((job.state(), job.started_at.unwrap().seconds), (JobState::Running, 3_000));
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_need_not_be_entered() {
        let (catalog, _dir) = scratch().await;
        submit(&catalog, "job-1", &[Mongo], 0).await.unwrap();
        let e = submit(&catalog, "job-2", &[Mongo], 0).await.unwrap_err();
        assert!(e.message.contains("job-1 (backup of mongo"), "{e}");
        submit(&catalog, "job-3", &[Mongo], 2).await.unwrap();
        submit(&catalog, "job-4", &[Mongo], 2).await.unwrap();
        let e = submit(&catalog, "job-5", &[Mongo], 2).await.unwrap_err();
        assert!(e.message.contains("the queue is full (2 jobs)"), "{e}");
        assert!(catalog.job("job-5").await.is_err(), "nothing of it is recorded");
        submit(&catalog, "job-6", &[Valkey], 2).await.unwrap();
    }

    #[tokio::test]
    async fn a_job_that_waits_can_be_cancelled_and_makes_room() {
        let (catalog, _dir) = scratch().await;
        let now = Timestamp::from_second(2_000).unwrap();
        let cancel = async |id| catalog.cancel_queued(id, "by ann", &Error::cancelled(), now).await.unwrap();
        submit(&catalog, "job-1", &[Mongo], 9).await.unwrap();
        submit(&catalog, "job-2", &[Mongo, Valkey], 9).await.unwrap();
        submit(&catalog, "job-3", &[Valkey], 9).await.unwrap();
        assert!(!cancel("job-1").await, "it runs");
        assert!(cancel("job-2").await);
        assert!(!cancel("job-2").await, "it has ended");
        let job = catalog.job("job-2").await.unwrap().job;
        assert_eq!(
            (job.state(), job.started_at, job.failure.unwrap().reason.as_str()),
            (JobState::Cancelled, None, "CANCELLED")
        );
        assert_eq!(started(&catalog).await, ["job-3"]);
    }
}
