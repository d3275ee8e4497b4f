//! What earlier restores took here, out of their reports in the catalog.

use prexor_proto::{
    backup::{ArtifactKind, StepResult, StepVerb, job_result},
    convert::{duration_from_wire, kind_from_wire},
};

use super::{plan::Past, wire::verb_from_wire};
use crate::{context::Context, error::Error};

/// How many of them are looked at, the newest first: older ones tell of smaller data and other machines.
const RESTORES: u32 = 20;

/// Every step that was measured.
pub(super) async fn of(ctx: &Context) -> Result<Vec<Past>, Error> {
    let jobs = ctx.catalog.succeeded_restores(RESTORES).await?;
    let reports = jobs.into_iter().filter_map(|row| match row.job.result?.result? {
        job_result::Result::Restore(report) => Some(report),
        job_result::Result::Backup(_) | job_result::Result::Verify(_) => None,
    });
    Ok(reports.flat_map(|report| report.steps.into_iter().filter_map(|step| measured(&step))).collect())
}

fn measured(step: &StepResult) -> Option<Past> {
    let about_none = step.kind() == ArtifactKind::Unspecified;
    Some(Past {
        verb: verb_from_wire(StepVerb::try_from(step.verb).ok()?)?,
        kind: if about_none { None } else { Some(kind_from_wire(step.kind).ok()?) },
        bytes: step.size_bytes,
        took: duration_from_wire(step.duration.as_ref()?).try_into().ok()?,
    })
}
