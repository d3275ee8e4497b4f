//! Jobs and the scopes that they have to themselves. A job, its scope and its first event come into being in one
//! transaction, and end in one. Who waits for whom is `queue`'s.

use jiff::Timestamp;
use prexor_format::{id::BackupId, text};
use prexor_proto::{
    backup::{Failure, Job, JobKind, JobResult, JobState, job_event::Event},
    convert::time_to_wire,
    reason::Reason,
};
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{BEGIN, Catalog, decode, events, queue, time};
use crate::{error::Error, scope::Scope};

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
    /// What it must have to itself.
    pub scope: Scope,
    /// Now.
    pub created_at: Timestamp,
}

/// What became of [`Catalog::submit_job`].
#[derive(Debug)]
pub enum Submitted {
    /// It is recorded as running and is the caller's to run.
    Running,
    /// It is recorded as waiting, for these jobs in words.
    Queued(String),
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
    /// Jobs are numbered in the order in which they were asked for.
    pub number: i64,
}

impl Catalog {
    /// Records a job as running or, when one that came before is in its way, as waiting; or finds the one with the same
    /// request id. No more than `room` jobs may wait.
    ///
    /// # Errors
    /// `BUSY` when it would have to wait and there is no room; `INVALID_REQUEST` when the request id names another
    /// request.
    pub async fn submit_job(&self, new: &NewJob, room: usize) -> Result<Submitted, Error> {
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
        let open = queue::open_jobs(&mut tx).await?;
        let in_the_way = queue::in_the_way(&open, &new.scope);
        let waits_for = queue::words(&in_the_way, new.created_at);
        let state = if in_the_way.is_empty() { JobState::Running } else { JobState::Queued };
        let waiting = open.iter().filter(|o| o.is_queued()).count();
        if state == JobState::Queued && waiting >= room {
            return Err(busy(&in_the_way[0].job.id, &waits_for, waiting, room));
        }
        let at = new.created_at.as_millisecond();
        sqlx::query(
            "INSERT INTO jobs (id, request_id, kind, spec, state, backup_id, requested_by, created_ms, started_ms, number)
             SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, COALESCE(MAX(number), 0) + 1 FROM jobs",
        )
        .bind(&new.id)
        .bind(&new.request_id)
        .bind(new.kind.as_str_name())
        .bind(&new.spec)
        .bind(state.as_str_name())
        .bind(new.backup_id.as_ref().map(ToString::to_string))
        .bind(&new.requested_by)
        .bind(at)
        .bind((state == JobState::Running).then_some(at))
        .execute(&mut *tx)
        .await?;
        queue::claim(&mut tx, &new.id, &new.scope).await?;
        events::append(&mut tx, &new.id, new.created_at, Event::State(state as i32)).await?;
        tx.commit().await?;
        Ok(if state == JobState::Running { Submitted::Running } else { Submitted::Queued(waits_for) })
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

    /// Ends a job: its result and failure, the events that say so, and its scope, all at once. A job that has ended
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
        end(&mut tx, id, state, failure, result, now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Pauses a job that runs: it has not ended, keeps its scope, and says why.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn pause_job(&self, id: &str, failure: Failure, now: Timestamp) -> Result<(), Error> {
        let mut tx = self.pool.begin_with(BEGIN).await?;
        sqlx::query("UPDATE jobs SET state = $1, failure = $2 WHERE id = $3 AND finished_ms IS NULL")
            .bind(JobState::Paused.as_str_name())
            .bind(prost::Message::encode_to_vec(&failure))
            .bind(id)
            .execute(&mut *tx)
            .await?;
        events::append(&mut tx, id, now, Event::Failure(failure)).await?;
        events::append(&mut tx, id, now, Event::State(JobState::Paused as i32)).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Changes what a job is to do that is paused; one that is not stays as it is.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn change_paused_job(&self, id: &str, spec: &[u8]) -> Result<(), Error> {
        sqlx::query("UPDATE jobs SET spec = $1 WHERE id = $2 AND state = $3")
            .bind(spec)
            .bind(id)
            .bind(JobState::Paused.as_str_name())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Lets a job that is paused run again; `false` when it is not paused. It is the caller's to run.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn unpause_job(&self, id: &str, now: Timestamp) -> Result<bool, Error> {
        let mut tx = self.pool.begin_with(BEGIN).await?;
        let done = sqlx::query("UPDATE jobs SET state = $1, failure = NULL WHERE id = $2 AND state = $3")
            .bind(JobState::Running.as_str_name())
            .bind(id)
            .bind(JobState::Paused.as_str_name())
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        events::append(&mut tx, id, now, Event::State(JobState::Running as i32)).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// The job with this id.
    ///
    /// # Errors
    /// `NOT_FOUND` when there is none.
    pub async fn job(&self, id: &str) -> Result<JobRow, Error> {
        find(&mut *self.pool.acquire().await?, id).await
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

    /// Up to `limit` jobs, the last that was asked for first, beginning after the one with this number.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn jobs(&self, after: Option<i64>, limit: u32) -> Result<Vec<JobRow>, Error> {
        let rows = sqlx::query("SELECT * FROM jobs WHERE number < $1 ORDER BY number DESC LIMIT $2")
            .bind(after.unwrap_or(i64::MAX))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(job_row).collect()
    }

    /// Up to `limit` restores that have succeeded, the newest first.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn succeeded_restores(&self, limit: u32) -> Result<Vec<JobRow>, Error> {
        let rows = sqlx::query("SELECT * FROM jobs WHERE kind = $1 AND state = $2 ORDER BY number DESC LIMIT $3")
            .bind(JobKind::Restore.as_str_name())
            .bind(JobState::Succeeded.as_str_name())
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(job_row).collect()
    }

    /// The jobs that have not ended, in the order in which they were asked for.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn active_jobs(&self) -> Result<Vec<JobRow>, Error> {
        let rows = sqlx::query("SELECT * FROM jobs WHERE finished_ms IS NULL ORDER BY number");
        rows.fetch_all(&self.pool).await?.iter().map(job_row).collect()
    }
}

/// See [`Catalog::finish_job`].
pub(super) async fn end(
    tx: &mut SqliteConnection,
    id: &str,
    state: JobState,
    failure: Option<Failure>,
    result: Option<JobResult>,
    now: Timestamp,
) -> Result<(), Error> {
    let ended = sqlx::query(
        "UPDATE jobs SET state = $1, finished_ms = $2, failure = $3, result = $4 WHERE id = $5 AND finished_ms IS NULL",
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
        events::append(&mut *tx, id, now, Event::Result(result)).await?;
    }
    if let Some(failure) = failure {
        events::append(&mut *tx, id, now, Event::Failure(failure)).await?;
    }
    events::append(&mut *tx, id, now, Event::State(state as i32)).await?;
    sqlx::query("DELETE FROM job_scopes WHERE job_id = $1").bind(id).execute(&mut *tx).await?;
    Ok(())
}

pub(super) async fn find(tx: &mut SqliteConnection, id: &str) -> Result<JobRow, Error> {
    let row = sqlx::query("SELECT * FROM jobs WHERE id = $1").bind(id).fetch_optional(tx).await?;
    let row =
        row.ok_or_else(|| Error::not_found(format!("there is no job '{id}': `prexorctl job list` shows them")))?;
    job_row(&row)
}

fn busy(first: &str, waits_for: &str, waiting: usize, room: usize) -> Error {
    let full = match room {
        0 => String::new(),
        _ => format!(", and the queue is full ({})", text::things(waiting as u64, "job")),
    };
    let message =
        format!("it would have to wait for {waits_for}{full}: `prexorctl job watch {first}` waits for that one");
    Error::new(Reason::Busy, message)
}

pub(super) fn job_row(row: &SqliteRow) -> Result<JobRow, Error> {
    let word = |column: &str| row.try_get::<String, _>(column);
    let unknown = |what: &str, w: &str| Error::internal(format!("the catalog holds the unknown {what} '{w}'"));
    let (kind, state) = (word("kind")?, word("state")?);
    let (finished, started): (Option<i64>, Option<i64>) = (row.try_get("finished_ms")?, row.try_get("started_ms")?);
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
        started_at: started.map(time).transpose()?.map(time_to_wire),
        waits_for: String::new(),
    };
    Ok(JobRow { job, spec: row.try_get("spec")?, number: row.try_get("number")? })
}

#[cfg(test)]
pub(crate) mod tests {
    use prexor_format::artifact::ArtifactKind;

    use super::*;
    use crate::catalog::tests::scratch;

    pub(crate) fn new_job(id: &str, request: &str, kinds: &[ArtifactKind]) -> NewJob {
        NewJob {
            id: id.to_owned(),
            request_id: request.to_owned(),
            kind: JobKind::Backup,
            spec: b"spec".to_vec(),
            backup_id: None,
            requested_by: "root".to_owned(),
            scope: Scope::everywhere(kinds.iter().copied()),
            created_at: Timestamp::from_second(1_000).unwrap(),
        }
    }

    #[tokio::test]
    async fn a_request_id_makes_one_job() {
        let (catalog, _dir) = scratch().await;
        assert!(matches!(catalog.submit_job(&new_job("job-1", "r", &[]), 0).await.unwrap(), Submitted::Running));
        let Submitted::Known(known) = catalog.submit_job(&new_job("job-2", "r", &[]), 0).await.unwrap() else {
            panic!("a second job was made")
        };
        assert_eq!(known.job.id, "job-1");
        let other = NewJob { spec: b"other".to_vec(), ..new_job("job-3", "r", &[]) };
        assert_eq!(catalog.submit_job(&other, 0).await.unwrap_err().reason, Reason::InvalidRequest);
        assert_eq!(catalog.jobs(None, 10).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_job_ends_once() {
        let (catalog, _dir) = scratch().await;
        let now = Timestamp::from_second(2_000).unwrap();
        catalog.submit_job(&new_job("job-1", "1", &[]), 0).await.unwrap();
        catalog.finish_job("job-1", JobState::Succeeded, None, None, now).await.unwrap();
        catalog.finish_job("job-1", JobState::Failed, None, None, now).await.unwrap();
        assert_eq!(catalog.job("job-1").await.unwrap().job.state(), JobState::Succeeded);
        assert_eq!(catalog.job("job-9").await.unwrap_err().reason, Reason::NotFound);
    }

    #[tokio::test]
    async fn pages_follow_each_other() {
        let (catalog, _dir) = scratch().await;
        for i in 1..=5 {
            catalog.submit_job(&new_job(&format!("job-{i}"), &i.to_string(), &[]), 0).await.unwrap();
        }
        let ids = |rows: Vec<JobRow>| rows.into_iter().map(|row| row.job.id).collect::<Vec<_>>();
        assert_eq!(ids(catalog.jobs(None, 2).await.unwrap()), ["job-5", "job-4"]);
        assert_eq!(ids(catalog.jobs(Some(4), 10).await.unwrap()), ["job-3", "job-2", "job-1"]);
        // A clock that goes back changes nothing.
        let early = NewJob { created_at: Timestamp::from_second(1).unwrap(), ..new_job("job-6", "6", &[]) };
        catalog.submit_job(&early, 0).await.unwrap();
        assert_eq!(ids(catalog.jobs(None, 2).await.unwrap()), ["job-6", "job-5"]);
    }
}
