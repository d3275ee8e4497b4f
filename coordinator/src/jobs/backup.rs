//! A backup: look at every node, choose who captures what, stream all of it into the store at once, and write the
//! manifest last. Until then nothing is listed, and any failure or cancellation removes everything.

use std::sync::Arc;

use jiff::Timestamp;
use prexor_format::{
    artifact::ArtifactKind,
    gzip::Level,
    id::{BackupId, NodeName},
    manifest::{Artifact, FORMAT_VERSION, Host, Manifest},
    text,
};
use prexor_proto::{
    backup::{JobResult, Node, job_result},
    convert::controller_from_wire,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::JobHandle;
use crate::{agents::Look, backups, context::Context, error::Error};

mod receive;
mod select;

use select::Selection;

/// Makes a backup of these kinds, or of everything that the nodes have.
pub(super) async fn run(
    ctx: &Arc<Context>,
    job: &JobHandle,
    description: Option<String>,
    scope: &[ArtifactKind],
    compression: Option<Level>,
) -> Result<JobResult, Error> {
    let started_at = Timestamp::now();
    let nodes = tokio::select! {
        nodes = look(ctx) => nodes?,
        () = job.cancel().cancelled() => return Err(Error::cancelled()),
    };
    let selection = select::select(&nodes, scope)?;
    check_space(ctx, job, &selection).await?;
    for warning in &selection.warnings {
        job.warning(warning).await;
    }
    for node in ctx.catalog.all_nodes().await?.iter().filter(|n| n.revoked_at.is_some()) {
        job.warning(format!("{} is revoked: nothing of it is in this backup", node.name)).await;
    }

    let id = backups::reserve(ctx, started_at, Some(job.id())).await?;
    job.set_backup(&id).await?;
    let what: Vec<String> = selection.captures.iter().map(|c| format!("{} from {}", c.kind, c.node)).collect();
    job.message(format!("{id}: capturing {}", what.join(", "))).await;
    let made = make(ctx, job, &id, &selection, compression, |artifacts| {
        manifest(ctx, &id, description, &selection, &nodes, artifacts, started_at)
    });
    match made.await {
        Ok(manifest) => {
            let backup = backups::completed(ctx, &manifest).await;
            Ok(JobResult { result: Some(job_result::Result::Backup(backup)) })
        }
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

/// Captures everything at once. The first failure ends the others; all have ended when this returns.
async fn make(
    ctx: &Arc<Context>,
    job: &JobHandle,
    id: &BackupId,
    selection: &Selection,
    compression: Option<Level>,
    describe: impl FnOnce(Vec<Artifact>) -> Result<Manifest, Error>,
) -> Result<Manifest, Error> {
    let stop: CancellationToken = job.cancel().child_token();
    let mut captures = JoinSet::new();
    for capture in &selection.captures {
        let (ctx, job, id, choice) = (ctx.clone(), job.clone(), id.clone(), capture.clone());
        captures.spawn(receive::receive(ctx, job, id, choice, compression, stop.clone()));
    }
    let (mut artifacts, mut failure) = (Vec::new(), None);
    while let Some(ended) = captures.join_next().await {
        match ended.unwrap_or_else(|_| Err(Error::internal("a capture hit a defect: see the log"))) {
            Ok(artifact) => artifacts.push(artifact),
            Err(e) => {
                stop.cancel();
                failure.get_or_insert(e);
            }
        }
    }
    if let Some(e) = failure {
        return Err(e);
    }
    let manifest = describe(artifacts)?;
    ctx.store.commit(id, manifest.checksums(), manifest.to_json()).await?;
    Ok(manifest)
}

fn manifest(
    ctx: &Context,
    id: &BackupId,
    description: Option<String>,
    selection: &Selection,
    nodes: &[Node],
    mut artifacts: Vec<Artifact>,
    started_at: Timestamp,
) -> Result<Manifest, Error> {
    artifacts.sort_by(|a, b| (a.kind, &a.node).cmp(&(b.kind, &b.node)));
    let scope = ArtifactKind::ALL.into_iter().filter(|k| artifacts.iter().any(|a| a.kind == *k)).collect();
    let contributed = |node: &NodeName| selection.captures.iter().any(|c| c.node == *node);
    let host = |n: &Node| {
        let node: NodeName = n.name.parse().ok()?;
        contributed(&node).then(|| Host {
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
        description,
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
