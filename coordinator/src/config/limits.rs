//! How long agents may be silent, how many jobs may wait, how long certificates are good, and how old backups may get.

use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo};
use prexor_certs::{Role, authority::default_lifetime};
use prexor_format::artifact::ArtifactKind;
use serde::Deserialize;

/// How many jobs may wait.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JobLimits {
    /// Jobs that wait for others that are in their way; one more is refused. 0: nobody waits.
    pub max_queued: usize,
}

impl Default for JobLimits {
    fn default() -> Self {
        Self { max_queued: 16 }
    }
}

/// How long agents may be silent. A job may take as long as it likes, as long as something moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentLimits {
    /// How often each agent is asked whether it is there.
    pub heartbeat: Duration,
    /// For an answer that only takes a look.
    pub answer: Duration,
    /// For the next frame of a stream, or for room to send one. Agents send one every half second, whatever they do.
    pub stall: Duration,
    /// For the last word on staged files, which are synced to disk before it is given.
    pub sync: Duration,
    /// For a service to be stopped or started: above what a service manager itself waits.
    pub service: Duration,
    /// For a controller that was started to say that it is ready.
    pub ready: Duration,
    /// For a host to come back that is away when something of a restore must be finished or taken back there.
    pub away: Duration,
}

impl Default for AgentLimits {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            heartbeat: s(15),
            answer: s(20),
            stall: s(60),
            sync: s(600),
            service: s(300),
            ready: s(300),
            away: s(1800),
        }
    }
}

/// The section as it is written: `60s`, `10min`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAgents {
    heartbeat: Option<SignedDuration>,
    answer: Option<SignedDuration>,
    stall: Option<SignedDuration>,
    sync: Option<SignedDuration>,
    service: Option<SignedDuration>,
    ready: Option<SignedDuration>,
    away: Option<SignedDuration>,
}

impl AgentLimits {
    /// Refuses spans in which no agent could answer.
    pub(super) fn validate(raw: &RawAgents) -> Result<Self, String> {
        let span = |key: &str, given: Option<SignedDuration>, default: Duration, least: u64| {
            let Some(given) = given else { return Ok(default) };
            match Duration::try_from(given) {
                Ok(d) if d >= Duration::from_secs(least) => Ok(d),
                _ => Err(format!("agents.{key} is {given:#}: use {least}s or more")),
            }
        };
        let default = Self::default();
        Ok(Self {
            heartbeat: span("heartbeat", raw.heartbeat, default.heartbeat, 1)?,
            answer: span("answer", raw.answer, default.answer, 1)?,
            stall: span("stall", raw.stall, default.stall, 2)?,
            sync: span("sync", raw.sync, default.sync, 2)?,
            service: span("service", raw.service, default.service, 2)?,
            ready: span("ready", raw.ready, default.ready, 1)?,
            away: span("away", raw.away, default.away, 1)?,
        })
    }
}

/// How long certificates are good. Each is renewed when two thirds of that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of agents.
    pub agent: Duration,
    /// Of the coordinator.
    pub coordinator: Duration,
    /// Of operators.
    pub operator: Duration,
}

/// The section as it is written: `30d`, `12h`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLifetimes {
    agent: Option<Span>,
    coordinator: Option<Span>,
    operator: Option<Span>,
}

impl Default for Lifetimes {
    fn default() -> Self {
        let [agent, coordinator, operator] = [Role::Agent, Role::Coordinator, Role::Operator].map(default_lifetime);
        Self { agent, coordinator, operator }
    }
}

impl Lifetimes {
    /// Refuses lives that are over before they could be renewed, and those that nothing short of a revocation ends.
    pub(super) fn validate(raw: &RawLifetimes) -> Result<Self, String> {
        let span = |key: &str, given: Option<Span>, default: Duration| {
            let Some(given) = given else { return Ok(default) };
            let duration = given.to_duration(SpanRelativeTo::days_are_24_hours()).ok();
            match duration.and_then(|d| Duration::try_from(d).ok()) {
                Some(d) if (2..=825 * 86400).contains(&d.as_secs()) => Ok(d),
                _ => Err(format!("certificates.{key} is {given:#}: use between 2s and 825d")),
            }
        };
        let default = Self::default();
        Ok(Self {
            agent: span("agent", raw.agent, default.agent)?,
            coordinator: span("coordinator", raw.coordinator, default.coordinator)?,
            operator: span("operator", raw.operator, default.operator)?,
        })
    }

    /// That of a role.
    pub fn of(&self, role: Role) -> Duration {
        match role {
            Role::Agent => self.agent,
            Role::Coordinator => self.coordinator,
            Role::Operator => self.operator,
        }
    }
}

/// How old the newest complete backup may get before `status` calls it a problem: the recovery point objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryPoints {
    /// Of MongoDB.
    pub mongo: SignedDuration,
    /// Of Valkey.
    pub valkey: SignedDuration,
    /// Of each controller's files.
    pub filesystem: SignedDuration,
}

/// The section as it is written: `25h`, `1d`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRecoveryPoints {
    mongo: Option<Span>,
    valkey: Option<Span>,
    filesystem: Option<Span>,
}

impl Default for RecoveryPoints {
    /// A backup each day, and an hour for it to be late.
    fn default() -> Self {
        let daily = SignedDuration::from_hours(25);
        Self { mongo: daily, valkey: daily, filesystem: daily }
    }
}

impl RecoveryPoints {
    /// Refuses what no schedule could keep.
    pub(super) fn validate(raw: &RawRecoveryPoints) -> Result<Self, String> {
        let span = |key: &str, given: Option<Span>, default: SignedDuration| {
            let Some(given) = given else { return Ok(default) };
            match given.to_duration(SpanRelativeTo::days_are_24_hours()) {
                Ok(d) if d >= SignedDuration::from_mins(1) => Ok(d),
                _ => Err(format!("rpo.{key} is {given:#}: use 1min or more")),
            }
        };
        let default = Self::default();
        Ok(Self {
            mongo: span("mongo", raw.mongo, default.mongo)?,
            valkey: span("valkey", raw.valkey, default.valkey)?,
            filesystem: span("filesystem", raw.filesystem, default.filesystem)?,
        })
    }

    /// That of a kind.
    pub fn of(&self, kind: ArtifactKind) -> SignedDuration {
        match kind {
            ArtifactKind::Mongo => self.mongo,
            ArtifactKind::Valkey => self.valkey,
            ArtifactKind::Filesystem => self.filesystem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_stays_as_it_is() {
        let raw = RawAgents { stall: Some(SignedDuration::from_mins(2)), ..RawAgents::default() };
        let limits = AgentLimits::validate(&raw).unwrap();
        assert_eq!(limits, AgentLimits { stall: Duration::from_secs(120), ..AgentLimits::default() });
    }
}
