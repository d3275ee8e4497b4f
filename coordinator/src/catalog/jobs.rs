//! Jobs and the leases that they hold. A job, its leases and its first event come into being in one transaction, and
//! end in one.

use jiff::Timestamp;
use prexor_format::id::BackupId;
use prexor_proto::{
    backup::{Failure, Job, JobKind, JobResult, JobState, job_event::Event},
    convert::time_to_wire,
    reason::Reason,
};
use sqlx::{Row as _, sqlite::SqliteRow};

use super::{BEGIN, Catalog, decode, events, time};
use crate::error::Error;

/// A job to be recorded.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its id.
    pub id: String,
    /// The caller's name for it: the same one twice is the same job.
    pub request_id: String,
    /// What it does.
    pub kind: JobKind,
    /// Everything that it needs to know, for `kind` to read.
    pub spec: Vec<u8>,
    /// The backup it works on, where that is known already.
    pub backup_id: Option<BackupId>,
    /// The operator's identity.
    pub requested_by: String,
    /// The names it must have to itself.
    pub leases: Vec<&'static str>,
    /// Now.
    pub created_at: Timestamp,
}

/// What became of [`Catalog::submit_job`].
#[derive(Debug)]
pub enum Submitted {
    /// It is recorded as running and is the caller's to run.
    New,
    /// This job has the same request id.
    Known(Box<JobRow>),
}

/// A job of the catalog.
#[derive(Debug, Clone)]
pub struct JobRow {
    /// As clients see it.
    pub job: Job,
    /// See [`NewJob::spec`].
    pub spec: Vec<u8>,
}

impl Catalog {
    /// Records a job as running with its leases, or finds the one with the same request id.
    ///
    /// # Errors
    /// `BUSY` when another job holds one of the leases; `INVALID_REQUEST` when the request id names another request.
    pub async fn submit_job(&self, new: &NewJob) -> Result<Submitted, Error> {
        let mut tx = self.pool.begin_with(BEGIN).await?;
        let known = sqlx::query("SELECT * FROM jobs WHERE request_id = $1").bind(&new.request_id);
        if let Some(row) = known.fetch_optional(&mut *tx).await? {
            let known = job_row(&row)?;
            if known.job.kind != new.kind as i32 || known.spec != new.spec {
                return Err(Error::invalid(format!(
                    "the request id '{}' belongs to {}, which was asked for something else: use a new one",
                    new.request_id, known.job.id
                )));
            }
            return Ok(Submitted::Known(Box::new(known)));
        }
        sqlx::query(
            "INSERT INTO jobs (id, request_id, kind, spec, state, backup_id, requested_by, created_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(&new.id)
        .bind(&new.request_id)
        .bind(new.kind.as_str_name())
        .bind(&new.spec)
        .bind(JobState::Running.as_str_name())
        .bind(new.backup_id.as_ref().map(ToString::to_string))
        .bind(&new.requested_by)
        .bind(new.created_at.as_millisecond())
        .execute(&mut *tx)
        .await?;
        for name in &new.leases {
            let taken = sqlx::query(
                "INSERT INTO leases (name, job_id, acquired_ms) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING",
            )
            .bind(*name)
            .bind(&new.id)
            .bind(new.created_at.as_millisecond())
            .execute(&mut *tx)
            .await?;
            if taken.rows_affected() == 0 {
                let holder = sqlx::query(
                    "SELECT jobs.* FROM jobs JOIN leases ON leases.job_id = jobs.id WHERE leases.name = $1",
                );
                let holder = job_row(&holder.bind(*name).fetch_one(&mut *tx).await?)?.job;
                return Err(busy(name, &holder));
            }
        }
        events::append(&mut tx, &new.id, new.created_at, Event::State(JobState::Running as i32)).await?;
        tx.commit().await?;
        Ok(Submitted::New)
    }

    /// Sets the backup that a job works on, once it is known.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn set_job_backup(&self, job: &str, backup: &BackupId) -> Result<(), Error> {
        sqlx::query("UPDATE jobs SET backup_id = $1 WHERE id = $2")
            .bind(backup.to_string())
            .bind(job)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Ends a job: its result and failure, the events that say so, and its leases, all at once. A job that has ended
    /// already stays as it is.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn finish_job(
        &self,
        id: &str,
        state: JobState,
        failure: Option<Failure>,
        result: Option<JobResult>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut tx = self.pool.begin_with(BEGIN).await?;
        let ended = sqlx::query(
            "UPDATE jobs SET state = $1, finished_ms = $2, failure = $3, result = $4
             WHERE id = $5 AND finished_ms IS NULL",
        )
        .bind(state.as_str_name())
        .bind(now.as_millisecond())
        .bind(failure.as_ref().map(prost::Message::encode_to_vec))
        .bind(result.as_ref().map(prost::Message::encode_to_vec))
        .bind(id)
        .execute(&mut *tx)
        .await?;
        if ended.rows_affected() == 0 {
            return Ok(());
        }
        if let Some(result) = result {
            events::append(&mut tx, id, now, Event::Result(result)).await?;
        }
        if let Some(failure) = failure {
            events::append(&mut tx, id, now, Event::Failure(failure)).await?;
        }
        events::append(&mut tx, id, now, Event::State(state as i32)).await?;
        sqlx::query("DELETE FROM leases WHERE job_id = $1").bind(id).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The job with this id.
    ///
    /// # Errors
    /// `NOT_FOUND` when there is none.
    pub async fn job(&self, id: &str) -> Result<JobRow, Error> {
        let row = sqlx::query("SELECT * FROM jobs WHERE id = $1").bind(id).fetch_optional(&self.pool).await?;
        let row =
            row.ok_or_else(|| Error::not_found(format!("there is no job '{id}': `prexorctl job list` shows them")))?;
        job_row(&row)
    }

    /// The job that this request id made, if any.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn job_of_request(&self, request_id: &str) -> Result<Option<JobRow>, Error> {
        let row =
            sqlx::query("SELECT * FROM jobs WHERE request_id = $1").bind(request_id).fetch_optional(&self.pool).await?;
        row.as_ref().map(job_row).transpose()
    }

    /// Up to `limit` jobs, newest first, beginning after this one (its creation time and id).
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn jobs(&self, after: Option<(i64, &str)>, limit: u32) -> Result<Vec<Job>, Error> {
        let (ms, id) = after.unwrap_or((i64::MAX, ""));
        let rows = sqlx::query(
            "SELECT * FROM jobs WHERE created_ms < $1 OR (created_ms = $1 AND id < $2)
             ORDER BY created_ms DESC, id DESC LIMIT $3",
        )
        .bind(ms)
        .bind(id)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|r| Ok(job_row(r)?.job)).collect()
    }

    /// The jobs that have not ended, oldest first.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn active_jobs(&self) -> Result<Vec<JobRow>, Error> {
        let rows = sqlx::query("SELECT * FROM jobs WHERE finished_ms IS NULL ORDER BY created_ms, id");
        rows.fetch_all(&self.pool).await?.iter().map(job_row).collect()
    }
}

fn busy(name: &str, holder: &Job) -> Error {
    let doing = match holder.kind() {
        JobKind::Restore => "a restore runs".to_owned(),
        _ => format!("another backup of {name} runs"),
    };
    Error::new(Reason::Busy, format!("{doing} ({}): wait for it with `prexorctl job watch {}`", holder.id, holder.id))
}

fn job_row(row: &SqliteRow) -> Result<JobRow, Error> {
    let word = |column: &str| row.try_get::<String, _>(column);
    let unknown = |what: &str, w: &str| Error::internal(format!("the catalog holds the unknown {what} '{w}'"));
    let (kind, state) = (word("kind")?, word("state")?);
    let finished: Option<i64> = row.try_get("finished_ms")?;
    let failure: Option<Vec<u8>> = row.try_get("failure")?;
    let result: Option<Vec<u8>> = row.try_get("result")?;
    let job = Job {
        id: word("id")?,
        kind: JobKind::from_str_name(&kind).ok_or_else(|| unknown("job kind", &kind))? as i32,
        state: JobState::from_str_name(&state).ok_or_else(|| unknown("job state", &state))? as i32,
        backup_id: row.try_get::<Option<String>, _>("backup_id")?.unwrap_or_default(),
        requested_by: word("requested_by")?,
        created_at: Some(time_to_wire(time(row.try_get("created_ms")?)?)),
        finished_at: finished.map(time).transpose()?.map(time_to_wire),
        failure: failure.map(|b| decode::<Failure>(&b)).transpose()?,
        result: result.map(|b| decode::<JobResult>(&b)).transpose()?,
    };
    Ok(JobRow { job, spec: row.try_get("spec")? })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::catalog::tests::scratch;

    pub(crate) fn new_job(id: &str, request: &str, leases: &[&'static str]) -> NewJob {
        NewJob {
            id: id.to_owned(),
            request_id: request.to_owned(),
            kind: JobKind::Backup,
            spec: b"spec".to_vec(),
            backup_id: None,
            requested_by: "root".to_owned(),
            leases: leases.to_vec(),
            created_at: Timestamp::from_second(1_000).unwrap(),
        }
    }

    #[tokio::test]
    async fn a_request_id_makes_one_job() {
        let (catalog, _dir) = scratch().await;
        assert!(matches!(catalog.submit_job(&new_job("job-1", "r", &[])).await.unwrap(), Submitted::New));
        let Submitted::Known(known) = catalog.submit_job(&new_job("job-2", "r", &[])).await.unwrap() else {
            panic!("a second job was made")
        };
        assert_eq!(known.job.id, "job-1");
        let other = NewJob { spec: b"other".to_vec(), ..new_job("job-3", "r", &[]) };
        assert_eq!(catalog.submit_job(&other).await.unwrap_err().reason, Reason::InvalidRequest);
        assert_eq!(catalog.jobs(None, 10).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn leases_are_all_or_nothing_and_end_with_their_job() {
        let (catalog, _dir) = scratch().await;
        let now = Timestamp::from_second(2_000).unwrap();
        catalog.submit_job(&new_job("job-1", "1", &["mongo"])).await.unwrap();
        let e = catalog.submit_job(&new_job("job-2", "2", &["filesystem", "mongo"])).await.unwrap_err();
        assert_eq!(e.reason, Reason::Busy);
        assert!(e.message.contains("job-1"), "{e}");
        catalog.submit_job(&new_job("job-3", "3", &["filesystem"])).await.unwrap();
        catalog.finish_job("job-1", JobState::Failed, Some(Failure::default()), None, now).await.unwrap();
        catalog.submit_job(&new_job("job-4", "4", &["mongo"])).await.unwrap();
        let active: Vec<_> = catalog.active_jobs().await.unwrap().into_iter().map(|j| j.job.id).collect();
        assert_eq!(active, ["job-3", "job-4"]);
    }

    #[tokio::test]
    async fn a_job_ends_once() {
        let (catalog, _dir) = scratch().await;
        let now = Timestamp::from_second(2_000).unwrap();
        catalog.submit_job(&new_job("job-1", "1", &[])).await.unwrap();
        catalog.finish_job("job-1", JobState::Succeeded, None, None, now).await.unwrap();
        catalog.finish_job("job-1", JobState::Failed, None, None, now).await.unwrap();
        assert_eq!(catalog.job("job-1").await.unwrap().job.state(), JobState::Succeeded);
        assert_eq!(catalog.job("job-9").await.unwrap_err().reason, Reason::NotFound);
    }

    #[tokio::test]
    async fn pages_follow_each_other() {
        let (catalog, _dir) = scratch().await;
        for i in 1..=5 {
            catalog.submit_job(&new_job(&format!("job-{i}"), &i.to_string(), &[])).await.unwrap();
        }
        let ids = |jobs: Vec<Job>| jobs.into_iter().map(|j| j.id).collect::<Vec<_>>();
        assert_eq!(ids(catalog.jobs(None, 2).await.unwrap()), ["job-5", "job-4"]);
        assert_eq!(ids(catalog.jobs(Some((1_000_000, "job-4")), 10).await.unwrap()), ["job-3", "job-2", "job-1"]);
    }
}
