//! Services by systemd, through `systemctl` (which also asks polkit when the agent is not root).

use std::time::Duration;

use async_trait::async_trait;

use super::{
    MOVE_TIMEOUT, Role, ServiceError, ServiceState, Services, ServicesConfig,
    command::{run, run_ok},
};

const QUERY_TIMEOUT: Duration = Duration::from_secs(20);
const CONTROLLER_UNIT: &str = "prexorcloud-controller.service";
/// In the order in which they are looked for: Debian's and upstream's names.
const VALKEY_UNITS: [&str; 4] = ["valkey-server.service", "valkey.service", "redis-server.service", "redis.service"];

/// Asks and moves systemd units.
#[derive(Debug)]
pub struct Systemd {
    config: ServicesConfig,
}

impl Systemd {
    /// With the units of the configuration, or the usual ones.
    pub fn new(config: &ServicesConfig) -> Self {
        Self { config: config.clone() }
    }

    fn candidates(&self, role: Role) -> Vec<String> {
        match (&self.config.of(role).unit, role) {
            (Some(unit), _) => vec![unit.clone()],
            (None, Role::Controller) => vec![CONTROLLER_UNIT.to_owned()],
            (None, Role::Valkey) => VALKEY_UNITS.map(str::to_owned).to_vec(),
        }
    }

    /// The unit that exists on this host, with its state.
    async fn unit(&self, role: Role) -> Result<Option<(String, ServiceState)>, ServiceError> {
        for unit in self.candidates(role) {
            let show = ["systemctl", "show", "--property=LoadState,ActiveState", "--", &unit].map(str::to_owned);
            let answer = run_ok(&show, QUERY_TIMEOUT).await?.stdout;
            if let Some(state) = parse_show(&answer) {
                return Ok(Some((unit, state)));
            }
        }
        Ok(None)
    }

    async fn move_to(&self, role: Role, verb: &str) -> Result<(), ServiceError> {
        let Some((unit, _)) = self.unit(role).await? else {
            let names = self.candidates(role).join(", ");
            let message = format!("systemd knows no unit {names}: set services.{}.unit in agent.yml", role.as_str());
            return Err(ServiceError(message));
        };
        let argv = ["systemctl", "--no-ask-password", verb, "--", &unit].map(str::to_owned);
        if let Err(ServiceError(message)) = run_ok(&argv, MOVE_TIMEOUT).await {
            let journal = ["journalctl", "--no-pager", "--lines=5", "--output=cat", "--unit", &unit].map(str::to_owned);
            let last = run(&journal, QUERY_TIMEOUT).await.map(|j| j.stdout).unwrap_or_default();
            return Err(ServiceError(format!("{message}\nlast lines of {unit}:\n{last}")));
        }
        Ok(())
    }
}

/// The state in `systemctl show`'s answer; `None` when there is no such unit.
///
/// `activating`, `deactivating` and `reloading` count as active: such a unit may still write.
fn parse_show(answer: &str) -> Option<ServiceState> {
    let value = |key: &str| answer.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default();
    if value("LoadState") == "not-found" {
        return None;
    }
    match value("ActiveState") {
        "inactive" | "failed" => Some(ServiceState::Inactive),
        _ => Some(ServiceState::Active),
    }
}

#[async_trait]
impl Services for Systemd {
    fn knows(&self, _: Role) -> bool {
        true
    }

    async fn state(&self, role: Role) -> Result<ServiceState, ServiceError> {
        Ok(self.unit(role).await?.map_or(ServiceState::Absent, |(_, state)| state))
    }

    async fn stop(&self, role: Role) -> Result<(), ServiceError> {
        self.move_to(role, "stop").await
    }

    async fn start(&self, role: Role) -> Result<(), ServiceError> {
        self.move_to(role, "start").await
    }

    fn start_command(&self, role: Role) -> String {
        let unit = self.candidates(role).remove(0);
        format!("systemctl start {}", unit.strip_suffix(".service").unwrap_or(&unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_is_on_its_way_counts_as_active() {
        for (answer, state) in [
            ("LoadState=loaded\nActiveState=active", Some(ServiceState::Active)),
            ("LoadState=loaded\nActiveState=activating", Some(ServiceState::Active)),
            ("ActiveState=deactivating\nLoadState=loaded", Some(ServiceState::Active)),
            ("LoadState=loaded\nActiveState=failed", Some(ServiceState::Inactive)),
            ("LoadState=masked\nActiveState=inactive", Some(ServiceState::Inactive)),
            ("LoadState=not-found\nActiveState=inactive", None),
        ] {
            assert_eq!(parse_show(answer), state, "{answer}");
        }
    }

    #[test]
    fn the_start_command_is_the_guides() {
        let systemd = Systemd::new(&ServicesConfig::default());
        assert_eq!(systemd.start_command(Role::Controller), "systemctl start prexorcloud-controller");
    }
}
