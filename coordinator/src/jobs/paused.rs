//! Jobs that are paused: restores that stand in between. A person lets them go on, or back.

use std::sync::Arc;

use jiff::Timestamp;
use prexor_proto::{
    backup::{Job, JobKind, JobState},
    reason::Reason,
};

use super::{Jobs, Task};
use crate::{
    catalog::JobRow,
    context::Context,
    error::Error,
    restore::{self, Way},
};

impl Jobs {
    /// Lets a job go on that is paused, without the hosts that do not come back, and returns it as it is then.
    ///
    /// # Errors
    /// `NOT_FOUND` when there is no such job; `INVALID_REQUEST` when it is not paused, or cannot do without such a host.
    pub async fn resume(
        &self,
        ctx: &Arc<Context>,
        id: &str,
        without_hosts: &[String],
        requested_by: &str,
    ) -> Result<Job, Error> {
        let row = self.catalog.job(id).await?;
        match row.job.state() {
            JobState::Paused => {}
            JobState::Queued | JobState::Running => {
                return Err(Error::invalid(format!("{id} has not stopped: `prexorctl job watch {id}` watches it")));
            }
            _ => return Err(Error::invalid(format!("{id} has ended: there is nothing to resume"))),
        }
        let mut why = format!("resumed by {requested_by}");
        if !without_hosts.is_empty() {
            why = format!("{why} without {}", without_hosts.join(", "));
            let Task::Restore(mut plan) = Task::read(JobKind::Restore, &row.spec)? else {
                return Err(Error::internal(format!("{id} is paused and is no restore")));
            };
            restore::give_up_hosts(&mut plan, without_hosts)?;
            self.catalog.change_paused_job(id, &Task::Restore(plan).spec()).await?;
        }
        let row = self.catalog.job(id).await?;
        self.go_on(ctx, row, Way::On, why).await?;
        Ok(self.catalog.job(id).await?.job)
    }

    /// Runs a job that is paused; nothing happens when it is not any more.
    pub(super) async fn go_on(&self, ctx: &Arc<Context>, row: JobRow, way: Way, why: String) -> Result<(), Error> {
        let _gate = self.hold_submissions().await;
        if self.is_stopping() {
            return Err(Error::new(Reason::Interrupted, "the coordinator is stopping: try again when it is back"));
        }
        let id = row.job.id;
        let Task::Restore(plan) = Task::read(JobKind::Restore, &row.spec)? else {
            return Err(Error::internal(format!("{id} is paused and is no restore")));
        };
        if !self.catalog.unpause_job(&id, Timestamp::now()).await? {
            return Ok(());
        }
        tracing::info!(job = id, ?way, why, "a job that was paused goes on");
        self.start(ctx, &id, JobKind::Restore, |ctx, job| async move {
            job.message(why).await;
            restore::resume(&ctx, &job, &plan, way).await.into()
        });
        Ok(())
    }
}
