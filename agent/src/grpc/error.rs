//! The agent's errors as gRPC statuses, decided in one place.

use prexor_proto::{convert::BadWire, reason::Reason, status::status};
use tonic::Status;

use crate::{fence::FenceError, identity::KeeperError, services::ServiceError, source::SourceError};

pub(super) fn source(error: SourceError) -> Status {
    let reason = match &error {
        SourceError::Unavailable(_) => Reason::SourceUnavailable,
        SourceError::Denied(_) => Reason::SourceDenied,
        SourceError::Invalid(_) => Reason::Damaged,
        SourceError::NoSpace(_) => Reason::NoSpace,
        SourceError::Cancelled => Reason::Cancelled,
        SourceError::Failed(_) => Reason::SourceFailed,
    };
    status(reason, error.to_string())
}

pub(super) fn fence(error: FenceError) -> Status {
    let reason = match &error {
        FenceError::OtherCluster { .. } | FenceError::Stale { .. } => Reason::Fenced,
        FenceError::Io { .. } => Reason::Internal,
    };
    status(reason, error.to_string())
}

pub(super) fn keeper(error: KeeperError) -> Status {
    let reason = match &error {
        KeeperError::Unfit(_) | KeeperError::Identity(_) => Reason::InvalidRequest,
        _ => Reason::Internal,
    };
    status(reason, error.to_string())
}

pub(super) fn service(error: ServiceError) -> Status {
    status(Reason::SourceFailed, error.0)
}

pub(super) fn wire<T>(result: Result<T, BadWire>) -> Result<T, Status> {
    result.map_err(|e| status(Reason::InvalidRequest, e.to_string()))
}
