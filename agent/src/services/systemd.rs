//! Services by systemd, through `systemctl` (which also asks polkit when the agent is not root).

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;

use super::{
    MOVE_TIMEOUT, Role, ServiceError, ServiceState, Services, ServicesConfig,
    command::{run, run_ok},
};
use crate::restore_unit::write_durably;

const QUERY_TIMEOUT: Duration = Duration::from_secs(20);
const CONTROLLER_UNIT: &str = "prexorcloud-controller.service";
/// Where what an administrator adds to units lies. Beyond a reboot, unlike what is under `/run`.
const UNITS: &str = "/etc/systemd/system";
/// The name in a unit's drop-in directory.
const DROP_IN: &str = "50-prexor-hold.conf";
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
    async fn found(&self, role: Role) -> Result<Option<(String, ServiceState)>, ServiceError> {
        for unit in self.candidates(role) {
            let show = ["systemctl", "show", "--property=LoadState,ActiveState", "--", &unit].map(str::to_owned);
            let answer = run_ok(&show, QUERY_TIMEOUT).await?.stdout;
            if let Some(state) = parse_show(&answer) {
                return Ok(Some((unit, state)));
            }
        }
        Ok(None)
    }

    /// The unit that must exist on this host.
    async fn known_unit(&self, role: Role) -> Result<String, ServiceError> {
        let found = self.found(role).await?;
        found.map(|(unit, _)| unit).ok_or_else(|| {
            let names = self.candidates(role).join(", ");
            ServiceError(format!("systemd knows no unit {names}: set services.{}.unit in agent.yml", role.as_str()))
        })
    }

    /// Lets systemd read the units again.
    async fn reload(&self) -> Result<(), ServiceError> {
        run_ok(&["systemctl", "--no-ask-password", "daemon-reload"].map(str::to_owned), MOVE_TIMEOUT).await.map(drop)
    }

    async fn move_to(&self, role: Role, verb: &str) -> Result<(), ServiceError> {
        let unit = self.known_unit(role).await?;
        let argv = ["systemctl", "--no-ask-password", verb, "--", &unit].map(str::to_owned);
        if let Err(ServiceError(message)) = run_ok(&argv, MOVE_TIMEOUT).await {
            let last = journal_of(&unit).await;
            return Err(ServiceError(format!("{message}\nlast lines of {unit}:\n{last}")));
        }
        Ok(())
    }
}

async fn journal_of(unit: &str) -> String {
    let journal = ["journalctl", "--no-pager", "--lines=5", "--output=cat", "--unit", unit].map(str::to_owned);
    run(&journal, QUERY_TIMEOUT).await.map(|j| j.stdout).unwrap_or_default()
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
        Ok(self.found(role).await?.map_or(ServiceState::Absent, |(_, state)| state))
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

    async fn unit(&self, role: Role) -> Option<String> {
        self.known_unit(role).await.ok()
    }

    async fn last_lines(&self, role: Role) -> String {
        match self.known_unit(role).await {
            Ok(unit) => journal_of(&unit).await,
            Err(_) => String::new(),
        }
    }

    async fn can_block(&self, role: Role) -> Result<(), ServiceError> {
        self.known_unit(role).await?;
        rustix::fs::access(UNITS, rustix::fs::Access::WRITE_OK)
            .map_err(|e| ServiceError(format!("the agent cannot write drop-ins of units in {UNITS}: {e}")))
    }

    async fn block(&self, role: Role, while_exists: &Path, message: &str) -> Result<(), ServiceError> {
        let path = drop_in(&self.known_unit(role).await?);
        let text = drop_in_text(while_exists, message);
        if fs::read_to_string(&path).is_ok_and(|there| there == text) {
            // Whether systemd has read it is not known: whoever wrote it may have died.
            return self.reload().await;
        }
        write_drop_in(&path, &text)
            .map_err(|e| ServiceError(format!("the drop-in {} cannot be written: {e}", path.display())))?;
        self.reload().await
    }

    async fn unblock(&self, role: Role) -> Result<(), ServiceError> {
        for unit in self.candidates(role) {
            let path = drop_in(&unit);
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(ServiceError(format!("{} cannot be removed: {e}", path.display()))),
            }
            // Others may have drop-ins there.
            let _ = path.parent().map(fs::remove_dir);
            self.reload().await?;
        }
        Ok(())
    }
}

fn drop_in(unit: &str) -> PathBuf {
    Path::new(UNITS).join(format!("{unit}.d")).join(DROP_IN)
}

fn write_drop_in(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::other("a drop-in without a directory"))?;
    fs::create_dir_all(dir)?;
    fs::File::open(UNITS)?.sync_all()?;
    write_durably(path, text.as_bytes())
}

/// A failed assertion says so to whoever starts the unit, where a condition would skip it in silence. Masking is no way:
/// it has no effect on units below `/etc/systemd/system`.
fn drop_in_text(while_exists: &Path, message: &str) -> String {
    // A percent sign begins a specifier.
    let plain = |text: &str| text.replace('%', "%%").replace('\n', " ");
    format!(
        "# Written by prexor-agent for a restore, and removed when that ends.\n[Unit]\nDescription={}\n\
         AssertPathExists=!{}\n",
        plain(message),
        plain(&while_exists.display().to_string())
    )
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
    fn a_drop_in_names_the_marker_and_says_why() {
        assert_eq!(
            drop_in_text(Path::new("/var/lib/prexor-agent/hold"), "HELD at 100 %"),
            "# Written by prexor-agent for a restore, and removed when that ends.\n[Unit]\n\
             Description=HELD at 100 %%\nAssertPathExists=!/var/lib/prexor-agent/hold\n"
        );
    }

    #[test]
    fn the_start_command_is_the_guides() {
        let systemd = Systemd::new(&ServicesConfig::default());
        assert_eq!(systemd.start_command(Role::Controller), "systemctl start prexorcloud-controller");
    }
}
