//! Stopping, starting and holding services on the wire.

use jiff::Timestamp;
use prexor_proto::{
    agent::{self as wire, ServiceVerb},
    backup::ServiceRole,
    reason::Reason,
    status::status,
};
use tonic::Status;

use super::{error, inspect};
use crate::{
    host::Host,
    services::{Role, ServiceError, check_ready},
};

pub(super) async fn control(
    host: &Host,
    job_id: &str,
    role: ServiceRole,
    verb: ServiceVerb,
    take_over: &str,
) -> Result<wire::ControlServiceResponse, Status> {
    let invalid = |what: &str| status(Reason::InvalidRequest, what);
    let role = inspect::role_from_wire(role).ok_or_else(|| invalid("no such service"))?;
    let (services, holds) = (host.services(), host.holds());
    if matches!(verb, ServiceVerb::Hold | ServiceVerb::Release) && role != Role::Controller {
        return Err(invalid("only a controller can be held"));
    }
    let done = match verb {
        ServiceVerb::Stop => services.stop(role).await,
        ServiceVerb::Start => start(host, role).await,
        ServiceVerb::Hold => holds.hold(services, job_id, take_over, Timestamp::now()).await,
        ServiceVerb::Release => holds.release(services, Some(job_id)).await.map(drop),
        ServiceVerb::Look | ServiceVerb::Log => Ok(()),
        ServiceVerb::Unspecified => return Err(invalid("no such verb")),
    };
    done.map_err(error::service)?;
    let state = match role {
        Role::Controller => host.controller_state(&host.targets()).await,
        Role::Valkey => services.state(role).await,
    };
    let state = inspect::state_to_wire(state.map_err(error::service)?);
    let mut answer = wire::ControlServiceResponse { state: state.into(), ..Default::default() };
    if role == Role::Controller {
        answer.held_for = inspect::held(host);
        if matches!(verb, ServiceVerb::Look | ServiceVerb::Log) {
            let ready = check_ready(&host.ready_url()).await;
            answer.ready = ready.is_ok();
            answer.not_ready = ready.err().map(|e| e.0).unwrap_or_default();
        }
    }
    if verb == ServiceVerb::Log {
        answer.last_lines = services.last_lines(role).await;
    }
    Ok(answer)
}

async fn start(host: &Host, role: Role) -> Result<(), ServiceError> {
    if role == Role::Controller
        && let Some(hold) = host.holds().in_force()?
    {
        return Err(ServiceError(format!("the controller is held for {}: it is released first", hold.job_id)));
    }
    host.services().start(role).await
}
