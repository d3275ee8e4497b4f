//! Services by commands from the configuration, for hosts whose PID 1 is not systemd.

use std::path::Path;

use async_trait::async_trait;

use super::{
    HookCommands, MOVE_TIMEOUT, Role, ServiceError, ServiceState, Services, ServicesConfig,
    command::{run, run_ok},
};

/// Runs the configured commands; a service without commands counts as absent.
#[derive(Debug)]
pub struct Hooks {
    config: ServicesConfig,
}

impl Hooks {
    /// # Errors
    /// When a command is empty, or one of `hold` and `release` is missing.
    pub fn new(config: &ServicesConfig) -> Result<Self, ServiceError> {
        for role in [Role::Controller, Role::Valkey] {
            if let Some(h) = &config.of(role).hooks
                && [&h.state, &h.stop, &h.start].into_iter().any(Vec::is_empty)
            {
                let message = format!("services.{}.hooks: state, stop and start each need a command", role.as_str());
                return Err(ServiceError(message));
            }
            if let Some(h) = &config.of(role).hooks
                && h.hold.is_empty() != h.release.is_empty()
            {
                let message = format!("services.{}.hooks: hold and release go together", role.as_str());
                return Err(ServiceError(message));
            }
        }
        Ok(Self { config: config.clone() })
    }

    fn commands(&self, role: Role) -> Result<&HookCommands, ServiceError> {
        self.config.of(role).hooks.as_ref().ok_or_else(|| {
            ServiceError(format!(
                "the agent does not know how to stop and start {role} here: set services.{role}.hooks in agent.yml",
                role = role.as_str()
            ))
        })
    }

    async fn run_if_any(&self, command: &[String]) -> Result<(), ServiceError> {
        if command.is_empty() { Ok(()) } else { run_ok(command, MOVE_TIMEOUT).await.map(drop) }
    }
}

#[async_trait]
impl Services for Hooks {
    fn knows(&self, role: Role) -> bool {
        self.config.of(role).hooks.is_some()
    }

    async fn state(&self, role: Role) -> Result<ServiceState, ServiceError> {
        let Ok(hooks) = self.commands(role) else { return Ok(ServiceState::Absent) };
        let done = run(&hooks.state, MOVE_TIMEOUT).await?;
        match done.code {
            Some(0) => Ok(ServiceState::Active),
            Some(3) => Ok(ServiceState::Inactive),
            code => Err(ServiceError(format!(
                "`{}` answered {code:?}, not 0 (runs) or 3 (stopped): {}",
                hooks.state.join(" "),
                done.stderr
            ))),
        }
    }

    async fn stop(&self, role: Role) -> Result<(), ServiceError> {
        let hooks = self.commands(role)?;
        if self.state(role).await? == ServiceState::Inactive {
            return Ok(());
        }
        run_ok(&hooks.stop, MOVE_TIMEOUT).await?;
        match self.state(role).await? {
            ServiceState::Inactive => Ok(()),
            _ => Err(ServiceError(format!("`{}` exited 0 but {} still runs", hooks.stop.join(" "), role.as_str()))),
        }
    }

    async fn start(&self, role: Role) -> Result<(), ServiceError> {
        let hooks = self.commands(role)?;
        if self.state(role).await? == ServiceState::Active {
            return Ok(());
        }
        run_ok(&hooks.start, MOVE_TIMEOUT).await.map(drop)
    }

    fn start_command(&self, role: Role) -> String {
        self.commands(role).map(|h| h.start.join(" ")).unwrap_or_default()
    }

    async fn can_block(&self, role: Role) -> Result<(), ServiceError> {
        self.commands(role).map(drop)
    }

    async fn block(&self, role: Role, _: &Path, _: &str) -> Result<(), ServiceError> {
        self.run_if_any(&self.commands(role)?.hold).await
    }

    async fn unblock(&self, role: Role) -> Result<(), ServiceError> {
        match self.commands(role) {
            Ok(hooks) => self.run_if_any(&hooks.release).await,
            // What is not known was not kept from starting either.
            Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::{Manager, ServiceConfig};

    fn sh(script: String) -> Vec<String> {
        vec!["/bin/sh".into(), "-c".into(), script]
    }

    #[tokio::test]
    async fn a_service_moves_between_its_states() {
        let dir = tempfile::tempdir().unwrap();
        let flag = dir.path().join("runs");
        let f = flag.display();
        let hooks = HookCommands {
            state: sh(format!("test -e {f} || exit 3")),
            stop: sh(format!("rm {f}")),
            start: sh(format!("touch {f}")),
            ..Default::default()
        };
        let valkey = ServiceConfig { hooks: Some(hooks), ..Default::default() };
        let config = ServicesConfig { manager: Manager::Hooks, valkey, ..Default::default() };
        let services = Hooks::new(&config).unwrap();
        assert_eq!(services.state(Role::Controller).await.unwrap(), ServiceState::Absent);
        assert!(services.stop(Role::Controller).await.unwrap_err().0.contains("services.controller.hooks"));
        for _ in 0..2 {
            services.start(Role::Valkey).await.unwrap();
            assert_eq!(services.state(Role::Valkey).await.unwrap(), ServiceState::Active);
        }
        for _ in 0..2 {
            services.stop(Role::Valkey).await.unwrap();
            assert_eq!(services.state(Role::Valkey).await.unwrap(), ServiceState::Inactive);
        }
    }

    #[tokio::test]
    async fn a_hook_that_fails_is_quoted() {
        let hooks = HookCommands {
            state: sh("exit 3".into()),
            stop: sh("true".into()),
            start: sh("echo no such instance >&2; exit 7".into()),
            ..Default::default()
        };
        let config =
            ServicesConfig { valkey: ServiceConfig { hooks: Some(hooks), ..Default::default() }, ..Default::default() };
        let error = Hooks::new(&config).unwrap().start(Role::Valkey).await.unwrap_err();
        assert!(error.0.contains("exited with 7: no such instance"), "{error}");
    }

    #[tokio::test]
    async fn a_server_left_in_the_background_does_not_hold_the_hook() {
        let dir = tempfile::tempdir().unwrap();
        let f = dir.path().join("runs").display().to_string();
        let hooks = HookCommands {
            state: sh(format!("test -e {f} || exit 3")),
            stop: sh("true".into()),
            start: sh(format!("touch {f}; sleep 20 &")),
            ..Default::default()
        };
        let config =
            ServicesConfig { valkey: ServiceConfig { hooks: Some(hooks), ..Default::default() }, ..Default::default() };
        let begun = Hooks::new(&config).unwrap();
        let started = tokio::time::timeout(std::time::Duration::from_secs(15), begun.start(Role::Valkey)).await;
        started.expect("the hook has ended, its child has not").unwrap();
    }
}
