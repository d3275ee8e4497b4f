//! The staging stream: its frames, in the one order that is allowed.

use std::sync::Arc;

use prexor_format::manifest::Artifact;
use prexor_proto::{
    agent::{self as wire, stage_request::Frame},
    convert::selection_from_wire,
    reason::Reason,
    status::status,
};
use tonic::{Status, Streaming};

use super::{Api, error};
use crate::staging::Staging;

pub(super) async fn receive(
    api: &Api,
    mut stream: Streaming<wire::StageRequest>,
) -> Result<wire::StageResponse, Status> {
    let bad = |what: &str| status(Reason::InvalidRequest, format!("staging stream: {what}"));
    let Some(Frame::Begin(begin)) = stream.message().await?.and_then(|m| m.frame) else {
        return Err(bad("it does not begin with StageBegin"));
    };
    let fence = api.pass(begin.fence)?;
    let artifact: Artifact = serde_json::from_str(&begin.artifact_json)
        .map_err(|e| bad(&format!("the artifact's entry cannot be read: {e}")))?;
    artifact.check().map_err(|e| bad(&e))?;
    let selection = selection_from_wire(begin.selection.as_ref()).checked().map_err(|e| bad(&e.to_string()))?;
    let lock = api.host.restores().lock(&fence.job_id, &artifact.id).await.map_err(error::source)?;
    let unit = Arc::new(api.host.begin_unit(&fence.job_id, &artifact, &selection).map_err(error::source)?);
    let source = api.host.unit_source(&unit).map_err(error::source)?;
    let mut staging = Staging::begin(unit, source, lock).await.map_err(error::source)?;
    while let Some(message) = stream.message().await? {
        match message.frame {
            Some(Frame::FileBegin(f)) => staging.file_begin(&f.path).await,
            Some(Frame::Chunk(c)) => staging.chunk(c.data).await,
            Some(Frame::FileEnd(_)) => staging.file_end().await,
            Some(Frame::Begin(_)) | None => return Err(bad("a frame came out of order")),
        }
        .map_err(error::source)?;
    }
    let staged_bytes = staging.finish().await.map_err(error::source)?;
    Ok(wire::StageResponse { staged_bytes })
}
