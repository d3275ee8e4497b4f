//! The seam to whatever starts and stops services on this host: systemd, or commands from the configuration.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

mod command;
mod hold;
mod hooks;
mod ready;
mod systemd;
mod version;

pub use hold::{Hold, Holds};
pub use hooks::Hooks;
pub use ready::check as check_ready;
pub use systemd::Systemd;
pub use version::of as version_of;

/// How long a service may take to stop or start.
pub const MOVE_TIMEOUT: Duration = Duration::from_secs(120);

/// A service that a restore has to do with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The PrexorCloud controller.
    Controller,
    /// The Valkey server.
    Valkey,
}

/// Whether a service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceState {
    /// It runs, or is about to.
    Active,
    /// It is stopped.
    Inactive,
    /// There is no such service on this host.
    Absent,
}

/// Why a service could not be asked or moved.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ServiceError(pub String);

/// Starts and stops services. Both verbs return when the service has reached the state, or fail.
#[async_trait]
pub trait Services: Send + Sync + 'static {
    /// Whether it was told, or can find out, how to ask for this service; if not, its state is `Absent`.
    fn knows(&self, role: Role) -> bool;
    /// Whether the service runs.
    async fn state(&self, role: Role) -> Result<ServiceState, ServiceError>;
    /// Stops it and waits; stopping a stopped service is fine.
    async fn stop(&self, role: Role) -> Result<(), ServiceError>;
    /// Starts it and waits; starting a running service is fine.
    async fn start(&self, role: Role) -> Result<(), ServiceError>;
    /// How a person starts it: `systemctl start prexorcloud-controller`.
    fn start_command(&self, role: Role) -> String;
    /// What its manager calls it: `prexorcloud-controller.service`; `None` where it has no such name.
    async fn unit(&self, _role: Role) -> Option<String> {
        None
    }
    /// The last lines of its log, for whoever wonders why it does not work; empty where its manager keeps none.
    async fn last_lines(&self, _role: Role) -> String {
        String::new()
    }
    /// Whether [`Services::block`] would work.
    async fn can_block(&self, role: Role) -> Result<(), ServiceError> {
        Err(ServiceError(format!("nothing here keeps {} from being started", role.as_str())))
    }
    /// From now on nobody starts the service for as long as this file is there, not even after a reboot. Whoever looks at
    /// it reads the message. Once it returns the service may still run. Safe to repeat.
    async fn block(&self, role: Role, _while_exists: &Path, _message: &str) -> Result<(), ServiceError> {
        self.can_block(role).await
    }
    /// Takes back what [`Services::block`] did; fine when it did nothing.
    async fn unblock(&self, _role: Role) -> Result<(), ServiceError> {
        Ok(())
    }
}

/// `services` of the agent's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServicesConfig {
    /// What starts and stops services here.
    pub manager: Manager,
    /// The PrexorCloud controller.
    pub controller: ServiceConfig,
    /// The Valkey server.
    pub valkey: ServiceConfig,
}

/// What starts and stops services.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// systemd where it is PID 1, else hooks.
    #[default]
    Auto,
    /// `systemctl`.
    Systemd,
    /// The commands under `hooks`.
    Hooks,
}

/// One service: its unit, and its commands where systemd is not in charge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceConfig {
    /// systemd unit; by default `prexorcloud-controller.service` and the first of the usual Valkey and Redis units.
    pub unit: Option<String>,
    /// Commands for [`Manager::Hooks`].
    pub hooks: Option<HookCommands>,
    /// Controller only: what answers 200 once it is ready; by default `/api/v1/system/ready` at `http.port` of
    /// `controller.yml` (8080) on 127.0.0.1.
    pub ready_url: Option<String>,
}

/// PrexorCloud's own.
const READY_PATH: &str = "/api/v1/system/ready";

/// Its port where `controller.yml` says nothing else.
const HTTP_PORT: u16 = 8080;

/// Commands as argument lists; no shell is involved. All exit 0 on success.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookCommands {
    /// Exits 0 when the service runs, 3 when it is stopped (as `systemctl is-active` and LSB scripts do).
    pub state: Vec<String>,
    /// Stops the service and waits for its end.
    pub stop: Vec<String>,
    /// Starts the service.
    pub start: Vec<String>,
    /// Keeps others from starting the service until `release` ran, also over a reboot. Without it whatever starts the
    /// service on its own must look whether `<state_dir>/hold` exists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hold: Vec<String>,
    /// Takes back what `hold` did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub release: Vec<String>,
}

/// The implementation that the configuration asks for.
///
/// # Errors
/// When a hook's command is empty, or `ready_url` is none.
pub fn from_config(config: &ServicesConfig) -> Result<Arc<dyn Services>, ServiceError> {
    if config.valkey.ready_url.is_some() {
        return Err(ServiceError("services.valkey.ready_url: only the controller has one".into()));
    }
    ready::parse(&config.ready_url(None))?;
    let systemd = match config.manager {
        Manager::Systemd => true,
        Manager::Hooks => false,
        Manager::Auto => std::path::Path::new("/run/systemd/system").exists(),
    };
    if systemd { Ok(Arc::new(Systemd::new(config))) } else { Ok(Arc::new(Hooks::new(config)?)) }
}

impl Role {
    /// The name in messages and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Valkey => "valkey",
        }
    }
}

impl ServicesConfig {
    /// Where the controller says whether it is ready: where it was configured, or at its own port on this host.
    pub fn ready_url(&self, http_port: Option<u16>) -> String {
        let own = || format!("http://127.0.0.1:{}{READY_PATH}", http_port.unwrap_or(HTTP_PORT));
        self.controller.ready_url.clone().unwrap_or_else(own)
    }

    fn of(&self, role: Role) -> &ServiceConfig {
        match role {
            Role::Controller => &self.controller,
            Role::Valkey => &self.valkey,
        }
    }
}
