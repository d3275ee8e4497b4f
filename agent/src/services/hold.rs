//! Holds: a controller that is stopped for a restore stays stopped, whoever starts it, until the restore ends it or a
//! person does on this host (`prexor-agent release --local`). Law L14.
//!
//! The marker `<state_dir>/hold` is the truth: it is written durably before anything is stopped and removed before
//! anything may start. It knows nothing of units and commands (see [`Services::block`]) nor of what is restored.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Role, ServiceError, ServiceState, Services};
use crate::restore_unit::write_durably;

/// A hold that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The restore job that asked for it.
    pub job_id: String,
    /// When that was.
    pub since: Timestamp,
}

/// This host's hold of its controller: at most one.
#[derive(Debug)]
pub struct Holds {
    marker: PathBuf,
    /// One call after the other.
    moving: tokio::sync::Mutex<()>,
}

impl Hold {
    /// What `systemctl status` shows.
    pub fn message(&self) -> String {
        format!(
            "HELD for the restore {} since {}: `prexorctl job watch {}` says how it stands; as root here, \
             `prexor-agent release --local` ends the hold",
            self.job_id,
            self.since.strftime("%Y-%m-%dT%H:%M:%SZ"),
            self.job_id
        )
    }
}

impl Holds {
    /// With its marker in this directory.
    pub fn new(state_dir: &Path) -> Self {
        Self { marker: state_dir.join("hold"), moving: tokio::sync::Mutex::default() }
    }

    /// The hold that is in force. One whose marker cannot be read is in force all the same, which is an error here.
    ///
    /// # Errors
    /// When the marker is there and cannot be read.
    pub fn in_force(&self) -> Result<Option<Hold>, ServiceError> {
        let unreadable = |e: &dyn std::fmt::Display| {
            ServiceError(format!("the marker {} cannot be read: {e}", self.marker.display()))
        };
        match fs::read(&self.marker) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| unreadable(&e)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(unreadable(&e)),
        }
    }

    /// Stops the controller and keeps it so. Safe to repeat: what is missing of a hold that was begun is done. The hold of
    /// the job `take_over`, which has ended, becomes this one's without a moment in between.
    ///
    /// # Errors
    /// When yet another job holds it, or it cannot be blocked or stopped; the hold then stays in force as far as it came.
    pub async fn hold(
        &self,
        services: &dyn Services,
        job_id: &str,
        take_over: &str,
        now: Timestamp,
    ) -> Result<(), ServiceError> {
        let _moving = self.moving.lock().await;
        services.can_block(Role::Controller).await?;
        let hold = match self.in_force()? {
            Some(hold) if hold.job_id == job_id => hold,
            Some(hold) if hold.job_id != take_over => {
                return Err(ServiceError(format!(
                    "the controller is held for {} already: that job must end, or `prexor-agent release --local` on this host",
                    hold.job_id
                )));
            }
            _ => {
                let hold = Hold { job_id: job_id.to_owned(), since: now };
                let bytes = serde_json::to_vec(&hold).map_err(|e| ServiceError(e.to_string()))?;
                write_durably(&self.marker, &bytes).map_err(|e| {
                    ServiceError(format!("the marker {} cannot be written: {e}", self.marker.display()))
                })?;
                tracing::warn!(job = job_id, "the controller is held");
                hold
            }
        };
        self.enforce(services, &hold).await
    }

    /// Makes true again what the marker says: after a crash, or a reboot under a manager that knows no hold.
    ///
    /// # Errors
    /// When it cannot be blocked or stopped.
    pub async fn enforce(&self, services: &dyn Services, hold: &Hold) -> Result<(), ServiceError> {
        services.block(Role::Controller, &self.marker, &hold.message()).await?;
        services.stop(Role::Controller).await?;
        match services.state(Role::Controller).await? {
            ServiceState::Inactive | ServiceState::Absent => Ok(()),
            ServiceState::Active => Err(ServiceError("the controller runs again although it was stopped".into())),
        }
    }

    /// Ends the hold of this job, or with `None` whichever is in force; what was in force is returned. Starts nothing.
    ///
    /// # Errors
    /// When another job holds the controller, or the marker or what keeps it from starting cannot be removed.
    pub async fn release(&self, services: &dyn Services, job_id: Option<&str>) -> Result<Option<Hold>, ServiceError> {
        let _moving = self.moving.lock().await;
        let hold = match (self.in_force(), job_id) {
            (Ok(hold), None) => hold,
            // A person who says so ends a hold of which nobody knows any more whose it is.
            (Err(e), None) => {
                tracing::warn!("{e}");
                None
            }
            (hold, Some(job_id)) => {
                let hold = hold?;
                if let Some(other) = hold.as_ref().filter(|h| h.job_id != job_id) {
                    return Err(ServiceError(format!("the controller is held for {}, not for {job_id}", other.job_id)));
                }
                hold
            }
        };
        remove_durably(&self.marker)
            .map_err(|e| ServiceError(format!("the marker {} cannot be removed: {e}", self.marker.display())))?;
        services.unblock(Role::Controller).await?;
        if let Some(hold) = &hold {
            tracing::warn!(job = hold.job_id, "the hold of the controller has ended");
        }
        Ok(hold)
    }
}

fn remove_durably(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    }
    let dir = path.parent().ok_or_else(|| io::Error::other("a file without a directory"))?;
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::{HookCommands, Hooks, Manager, ServiceConfig, ServicesConfig};

    /// A service that is a file, and a gate in front of it.
    fn services(dir: &Path) -> Hooks {
        let d = dir.display();
        let sh = |script: String| vec!["/bin/sh".into(), "-c".into(), script];
        let hooks = HookCommands {
            state: sh(format!("test -e {d}/runs || exit 3")),
            stop: sh(format!("rm {d}/runs")),
            start: sh(format!("test ! -e {d}/gate && touch {d}/runs")),
            hold: sh(format!("touch {d}/gate")),
            release: sh(format!("rm -f {d}/gate")),
        };
        let controller = ServiceConfig { hooks: Some(hooks), ..Default::default() };
        Hooks::new(&ServicesConfig { manager: Manager::Hooks, controller, ..Default::default() }).unwrap()
    }

    #[tokio::test]
    async fn a_hold_lasts_until_its_job_or_a_person_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let services = services(dir.path());
        services.start(Role::Controller).await.unwrap();
        let holds = Holds::new(dir.path());
        for _ in 0..2 {
            holds.hold(&services, "job-1", "", Timestamp::UNIX_EPOCH).await.unwrap();
            assert_eq!(services.state(Role::Controller).await.unwrap(), ServiceState::Inactive);
            assert!(services.start(Role::Controller).await.is_err(), "the gate is shut");
        }
        // Another agent process, after a crash.
        let holds = Holds::new(dir.path());
        let hold = Hold { job_id: "job-1".into(), since: Timestamp::UNIX_EPOCH };
        assert_eq!(holds.in_force().unwrap(), Some(hold.clone()));
        assert!(holds.hold(&services, "job-2", "", Timestamp::UNIX_EPOCH).await.unwrap_err().0.contains("job-1"));
        assert!(holds.release(&services, Some("job-2")).await.unwrap_err().0.contains("job-1"));
        assert_eq!(holds.release(&services, Some("job-1")).await.unwrap(), Some(hold));
        assert_eq!(holds.release(&services, Some("job-1")).await.unwrap(), None, "again");
        services.start(Role::Controller).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_half_done_when_the_agent_died_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        let services = services(dir.path());
        let holds = Holds::new(dir.path());
        let hold = Hold { job_id: "job-1".into(), since: Timestamp::UNIX_EPOCH };
        fs::write(dir.path().join("hold"), serde_json::to_vec(&hold).unwrap()).unwrap();
        fs::write(dir.path().join("runs"), "").unwrap();
        holds.enforce(&services, &holds.in_force().unwrap().unwrap()).await.unwrap();
        assert_eq!(services.state(Role::Controller).await.unwrap(), ServiceState::Inactive);
        assert!(services.start(Role::Controller).await.is_err());
        // The marker has gone, the gate is still there.
        fs::remove_file(dir.path().join("hold")).unwrap();
        holds.release(&services, Some("job-1")).await.unwrap();
        services.start(Role::Controller).await.unwrap();
    }

    #[tokio::test]
    async fn a_damaged_marker_holds_until_a_person_says_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let (services, holds) = (services(dir.path()), Holds::new(dir.path()));
        fs::write(dir.path().join("hold"), "{").unwrap();
        assert!(holds.in_force().is_err() && holds.release(&services, Some("job-1")).await.is_err());
        holds.release(&services, None).await.unwrap();
        assert_eq!(holds.in_force().unwrap(), None);
    }
}
