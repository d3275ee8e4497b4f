//! The journal of restores: each step is written down before it begins and after it ends, so that a coordinator that
//! died knows what may be half done. Which steps there are is the restore's to know.

use jiff::Timestamp;
use prexor_proto::backup::StepState;
use sqlx::Row as _;

use super::{Catalog, time};
use crate::error::Error;

/// What is to be written down of a step.
#[derive(Debug, Clone)]
pub struct StepRecord<'a> {
    /// The restore job.
    pub job_id: &'a str,
    /// The step's number in its plan.
    pub number: u32,
    /// What has become of it.
    pub state: StepState,
    /// In words; empty when there is nothing to say.
    pub detail: &'a str,
    /// Now.
    pub at: Timestamp,
}

/// A step of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournaledStep {
    /// The step's number in its plan.
    pub number: u32,
    /// The last that was written down of it.
    pub state: StepState,
    /// When it first began.
    pub started_at: Timestamp,
    /// When it ended, if it has.
    pub ended_at: Option<Timestamp>,
    /// In words.
    pub detail: String,
}

impl Catalog {
    /// Writes down, durably, that a step has begun, is done, has failed, or was reverted.
    ///
    /// A step that begins again keeps the time at which it first began.
    ///
    /// # Errors
    /// When the catalog cannot be written: the step must not be taken then.
    pub async fn record_step(&self, step: &StepRecord<'_>) -> Result<(), Error> {
        let at = step.at.as_millisecond();
        let ended = (step.state != StepState::Started).then_some(at);
        sqlx::query(
            "INSERT INTO restore_steps (job_id, number, state, started_ms, ended_ms, detail)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (job_id, number) DO UPDATE SET
                 state = excluded.state, ended_ms = excluded.ended_ms, detail = excluded.detail",
        )
        .bind(step.job_id)
        .bind(i64::from(step.number))
        .bind(step.state.as_str_name())
        .bind(at)
        .bind(ended)
        .bind(step.detail)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Everything written down of a restore, by number.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn steps(&self, job_id: &str) -> Result<Vec<JournaledStep>, Error> {
        let rows = sqlx::query("SELECT * FROM restore_steps WHERE job_id = $1 ORDER BY number")
            .bind(job_id)
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                let (number, state): (i64, String) = (row.try_get("number")?, row.try_get("state")?);
                let impossible = || Error::internal(format!("the journal of {job_id} holds step {number} '{state}'"));
                Ok(JournaledStep {
                    number: u32::try_from(number).map_err(|_| impossible())?,
                    state: StepState::from_str_name(&state).ok_or_else(impossible)?,
                    started_at: time(row.try_get("started_ms")?)?,
                    ended_at: row.try_get::<Option<i64>, _>("ended_ms")?.map(time).transpose()?,
                    detail: row.try_get("detail")?,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{jobs::tests::new_job, tests::scratch};

    #[tokio::test]
    async fn the_journal_keeps_the_last_word_on_each_step() {
        let (catalog, _dir) = scratch().await;
        catalog.submit_job(&new_job("job-1", "1", &[]), 0).await.unwrap();
        let record = async |number, state, second, detail| {
            let at = Timestamp::from_second(second).unwrap();
            catalog.record_step(&StepRecord { job_id: "job-1", number, state, detail, at }).await.unwrap();
        };
        record(2, StepState::Started, 20, "").await;
        record(1, StepState::Started, 10, "").await;
        record(1, StepState::Done, 15, "fine").await;
        record(2, StepState::Started, 30, "again").await;
        let steps = catalog.steps("job-1").await.unwrap();
        assert_eq!(steps.len(), 2);
        assert_eq!((steps[0].state, steps[0].ended_at.map(|t| t.as_second())), (StepState::Done, Some(15)));
        assert_eq!((steps[1].state, steps[1].started_at.as_second()), (StepState::Started, 20));
        assert_eq!((steps[1].ended_at, steps[1].detail.as_str()), (None, "again"));
    }
}
