//! A backup: look at every node, choose who captures what, stream all of it into the store at once, and write the
//! manifest last. Until then nothing is listed, and any failure or cancellation removes everything.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use prexor_format::{
    artifact::ArtifactKind,
    class::Class,
    gzip::Level,
    id::{BackupId, NodeName},
    manifest::{Artifact, FORMAT_VERSION, Host, Manifest},
    text,
};
use prexor_proto::{
    backup::{Backup, JobResult, Node, job_result},
    convert::controller_from_wire,
    reason::Reason,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::JobHandle;
use crate::{agents::Look, backups, context::Context, error::Error};

mod receive;
mod select;

use select::Selection;

/// What to back up, and how.
#[derive(Debug, Clone, Default)]
pub(super) struct Order {
    /// What the operator said.
    pub(super) description: Option<String>,
    /// The kinds; empty for everything that the nodes have.
    pub(super) scope: Vec<ArtifactKind>,
    /// How hard dumps are compressed, where it is not as the agent is configured.
    pub(super) compression: Option<Level>,
    /// How long it is to be kept.
    pub(super) class: Option<Class>,
    /// The restore job that saves the live state. Then what cannot be read is left out, and named.
    pub(super) safety_of: Option<String>,
}

/// Makes a backup.
pub(super) async fn run(ctx: &Arc<Context>, job: &JobHandle, order: Order) -> Result<JobResult, Error> {
    let backup = back_up(ctx, job, order, |id| async move { job.set_backup(&id).await }).await?;
    Ok(JobResult { result: Some(job_result::Result::Backup(backup)) })
}

/// Saves as much of the live state as can be read, for the restore that this job is. What cannot be read is named in a
/// warning; `None` when that is everything.
///
/// # Errors
/// When the store cannot take it, or the job is cancelled.
pub async fn safety(
    ctx: &Arc<Context>,
    job: &JobHandle,
    scope: Vec<ArtifactKind>,
    restoring: &BackupId,
) -> Result<Option<Backup>, Error> {
    let order = Order {
        description: Some(format!("the state before the restore of {restoring} by {}", job.id())),
        scope,
        // The controllers are stopped meanwhile.
        compression: Some(Level::Fast),
        class: None,
        safety_of: Some(job.id().to_owned()),
    };
    match back_up(ctx, job, order, |_| async { Ok(()) }).await {
        Ok(backup) => Ok(Some(backup)),
        Err(e) if cannot_be_read(&e) => {
            job.warning(format!("nothing of the state before this restore is saved: {}", e.message)).await;
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Whether it is what was to be captured that failed, and not our own store.
fn cannot_be_read(error: &Error) -> bool {
    matches!(error.reason, Reason::SourceUnavailable | Reason::SourceFailed | Reason::SourceDenied)
}

async fn back_up<F: Future<Output = Result<(), Error>>>(
    ctx: &Arc<Context>,
    job: &JobHandle,
    order: Order,
    reserved: impl FnOnce(BackupId) -> F,
) -> Result<Backup, Error> {
    let started_at = Timestamp::now();
    let nodes = tokio::select! {
        nodes = look(ctx) => nodes?,
        () = job.cancel().cancelled() => return Err(Error::cancelled()),
    };
    let mut selection = select::select(&nodes, &order.scope, order.safety_of.is_some())?;
    check_space(ctx, job, &selection).await?;
    for warning in &selection.warnings {
        job.warning(warning).await;
    }
    for node in ctx.catalog.all_nodes().await?.iter().filter(|n| n.revoked_at.is_some()) {
        job.warning(format!("{} is revoked: nothing of it is in this backup", node.name)).await;
    }

    let id = backups::reserve(ctx, started_at, Some(job.id())).await?;
    reserved(id.clone()).await?;
    let what: Vec<String> = selection.captures.iter().map(|c| format!("{} from {}", c.kind, c.node)).collect();
    job.message(format!("{id}: capturing {}", what.join(", "))).await;
    let made = async {
        let artifacts = capture(ctx, job, &id, &mut selection, &order).await?;
        let manifest = manifest(ctx, &id, &order, &selection, &nodes, artifacts, started_at)?;
        ctx.store.commit(&id, manifest.checksums(), manifest.to_json()).await?;
        Ok(manifest)
    };
    match made.await {
        Ok(manifest) => Ok(backups::completed(ctx, &manifest).await),
        Err(e) => {
            backups::discard(ctx, &id).await;
            Err(e)
        }
    }
}

async fn look(ctx: &Context) -> Result<Vec<Node>, Error> {
    let records = ctx.catalog.nodes().await?;
    if records.is_empty() {
        return Err(Error::invalid(
            "no agent is enrolled: `prexorctl token create` here, then `prexorctl setup` on each host",
        ));
    }
    Ok(ctx.agents.inspect_all(&records, Look::Plain).await)
}

/// Warns about what may not fit. Nothing is refused: how much is stored of holes, repeats and text is not known before,
/// and whoever runs out of space fails cleanly.
async fn check_space(ctx: &Context, job: &JobHandle, selection: &Selection) -> Result<(), Error> {
    let (free, live) = (ctx.store.free_bytes().await?, selection.live_bytes);
    if free < live {
        let (live, free) = (text::bytes(live), text::bytes(free));
        job.warning(format!("the store may become full: {live} of live data, {free} free in the store")).await;
    }
    Ok(())
}

/// Captures everything at once; all have ended when this returns. The first failure ends the others, but for a safety
/// backup: there it becomes a warning, and nothing of that artifact stays in the store.
async fn capture(
    ctx: &Arc<Context>,
    job: &JobHandle,
    id: &BackupId,
    selection: &mut Selection,
    order: &Order,
) -> Result<Vec<Artifact>, Error> {
    let stop: CancellationToken = job.cancel().child_token();
    let mut captures = JoinSet::new();
    for choice in selection.captures.iter().cloned() {
        let (ctx, job, id, stop) = (ctx.clone(), job.clone(), id.clone(), stop.clone());
        let compression = order.compression;
        captures.spawn(async move {
            let artifact = receive::receive(ctx, job, id, choice.clone(), compression, stop).await;
            (choice, artifact)
        });
    }
    let (mut artifacts, mut failure) = (Vec::new(), None);
    while let Some(ended) = captures.join_next().await {
        match ended {
            Ok((_, Ok(artifact))) => artifacts.push(artifact),
            Ok((choice, Err(e))) if order.safety_of.is_some() && cannot_be_read(&e) => {
                receive::forget(&ctx.store, id, &choice).await?;
                let what = format!("{} of {} is not saved: {}", choice.kind, choice.node, e.message);
                job.warning(&what).await;
                selection.warnings.push(what);
                failure.get_or_insert(e);
            }
            Ok((_, Err(e))) => {
                stop.cancel();
                return Err(after(captures, e).await);
            }
            Err(_) => {
                stop.cancel();
                return Err(after(captures, Error::internal("a capture hit a defect: see the log")).await);
            }
        }
    }
    match failure {
        Some(e) if artifacts.is_empty() => Err(e),
        _ => Ok(artifacts),
    }
}

/// The error, once the others have ended.
async fn after<T: 'static>(mut others: JoinSet<T>, error: Error) -> Error {
    while others.join_next().await.is_some() {}
    error
}

fn manifest(
    ctx: &Context,
    id: &BackupId,
    order: &Order,
    selection: &Selection,
    nodes: &[Node],
    mut artifacts: Vec<Artifact>,
    started_at: Timestamp,
) -> Result<Manifest, Error> {
    artifacts.sort_by(|a, b| (a.kind, &a.node).cmp(&(b.kind, &b.node)));
    let scope = ArtifactKind::ALL.into_iter().filter(|k| artifacts.iter().any(|a| a.kind == *k)).collect();
    let contributors: BTreeSet<&NodeName> = artifacts.iter().map(|a| &a.node).collect();
    let host = |n: &Node| {
        let node: NodeName = n.name.parse().ok()?;
        contributors.contains(&node).then(|| Host {
            node,
            hostname: n.hostname.clone(),
            agent_version: n.agent_version.clone(),
            controller: n.controller.as_ref().map(controller_from_wire),
        })
    };
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        id: id.clone(),
        cluster: ctx.config.cluster.clone(),
        description: order.description.clone(),
        safety_of: order.safety_of.clone(),
        class: order.class,
        scope,
        started_at,
        completed_at: artifacts.iter().map(|a| a.completed_at).max().unwrap_or(started_at),
        product_version: env!("CARGO_PKG_VERSION").to_owned(),
        hosts: nodes.iter().filter_map(host).collect(),
        size_bytes: artifacts.iter().map(|a| a.size_bytes).sum(),
        artifacts,
        warnings: selection.warnings.clone(),
    };
    // What we would refuse to read is not written.
    match Manifest::from_json(&manifest.to_json()) {
        Ok(_) => Ok(manifest),
        Err(e) => Err(Error::internal(format!("{id} cannot be described: {e}"))),
    }
}
