//! The seam to whatever starts and stops services on this host: systemd, or commands from the configuration.

use async_trait::async_trait;

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
    /// Whether the service runs.
    async fn state(&self, role: Role) -> Result<ServiceState, ServiceError>;
    /// Stops it and waits; stopping a stopped service is fine.
    async fn stop(&self, role: Role) -> Result<(), ServiceError>;
    /// Starts it and waits; starting a running service is fine.
    async fn start(&self, role: Role) -> Result<(), ServiceError>;
    /// How a person starts it: `systemctl start prexorcloud-controller`.
    fn start_command(&self, role: Role) -> String;
}
