//! Restores: the plan (pure), its execution (journaled), and what a coordinator that was killed does with a half-done one.

mod certificates;
mod execute;
mod facts;
mod past;
pub mod plan;
mod records;
mod wire;
mod without;

use prexor_format::{id::BackupId, manifest::Manifest};
use prexor_proto::reason::Reason;

pub use execute::{Ended, Way, recover, resume, run};
pub use wire::{hosts_from_wire, on_failure_from_wire, plan as plan_to_wire, safety_from_wire};

pub use without::give_up_hosts;

use crate::{context::Context, error::Error};
use plan::{Known, Options, Plan};

/// Reads the manifest, looks at every host and computes the plan. Changes nothing.
///
/// # Errors
/// When the backup does not exist or its manifest is damaged. Hosts that do not answer are refusals in the plan.
pub async fn plan_restore(ctx: &Context, id: &BackupId, options: &Options) -> Result<Plan, Error> {
    let manifest = read_manifest(ctx, id).await?;
    let mut options = options.clone();
    if options.certificates {
        let directory = certificates::directory(&manifest, &options.hosts).map_err(Error::invalid)?;
        options.selection.paths.push(directory);
        options.selection = options.selection.checked().map_err(|e| Error::invalid(e.to_string()))?;
    }
    let nodes = facts::gather(ctx).await?;
    let known = Known { records: records::of_backup(ctx, &manifest).await, past: past::of(ctx).await? };
    Ok(plan::plan(&manifest, &nodes, &options, &known))
}

/// Why a plan cannot be applied, or `Ok`.
///
/// # Errors
/// `RESTORE_REFUSED` with every refusal.
pub fn refuse(plan: &Plan) -> Result<(), Error> {
    if plan.refusals.is_empty() {
        return Ok(());
    }
    let because: Vec<String> = plan
        .refusals
        .iter()
        .map(|r| if r.law.is_empty() { r.message.clone() } else { format!("{} ({})", r.message, r.law) })
        .collect();
    Err(Error::new(Reason::RestoreRefused, because.join("; ")))
}

async fn read_manifest(ctx: &Context, id: &BackupId) -> Result<Manifest, Error> {
    let bytes = ctx.store.read(id, prexor_format::manifest::MANIFEST_FILE).await.map_err(|e| match e.reason {
        Reason::NotFound => Error::not_found(format!("there is no backup {id}: `prexorctl backup list` shows them")),
        _ => e,
    })?;
    let manifest = Manifest::from_json(&bytes).map_err(|e| Error::new(Reason::Damaged, format!("{id}: {e}")))?;
    if manifest.id != *id {
        return Err(Error::new(Reason::Damaged, format!("{id}: the manifest there is that of {}", manifest.id)));
    }
    Ok(manifest)
}
