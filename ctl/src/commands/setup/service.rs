//! The agent's unit, and the agent's own look at the host.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{hints::Hint, printer::Printer};

const UNIT: &str = "prexor-agent.service";

/// The configuration that the unit uses.
const UNIT_CONFIG: &str = "/etc/prexor-agent/agent.yml";

/// Whether the agent was started, and how a person starts it.
pub(super) struct Service {
    pub(super) started: bool,
    pub(super) start_command: String,
}

/// Enables and starts the unit where systemd runs and the unit is for this configuration; else says what to do.
pub(super) fn start(printer: &Printer, config: &Path) -> Service {
    if !by_unit(config) {
        let start_command = command(config);
        printer.line(&format!("service: start the agent with `{start_command}`"));
        return Service { started: false, start_command };
    }
    start_unit(printer)
}

/// As [`start`], for an agent that may be running: it takes a new credential up by itself within a second, but one that
/// had none has ended.
pub(super) fn restart(printer: &Printer, config: &Path) -> Service {
    if !by_unit(config) {
        let start_command = command(config);
        printer.line(&format!("service: the agent uses it at once if it runs; else start it with `{start_command}`"));
        return Service { started: false, start_command };
    }
    if systemctl(&["is-active", "--quiet", UNIT]).is_ok() {
        printer.line(&format!("service: {UNIT} runs and uses it at once"));
        return Service { started: true, start_command: format!("systemctl restart {UNIT}") };
    }
    // One that failed again and again would not be started otherwise.
    let _ = systemctl(&["reset-failed", UNIT]);
    start_unit(printer)
}

fn by_unit(config: &Path) -> bool {
    Path::new("/run/systemd/system").exists() && config == Path::new(UNIT_CONFIG) && systemctl(&["cat", UNIT]).is_ok()
}

fn command(config: &Path) -> String {
    format!("prexor-agent --config {}", config.display())
}

fn start_unit(printer: &Printer) -> Service {
    let start_command = format!("systemctl enable --now {UNIT}");
    // An agent that runs already has the former certificate: restart starts it too.
    match systemctl(&["enable", UNIT]).and_then(|()| systemctl(&["restart", UNIT])) {
        Ok(()) => {
            printer.line(&format!("service: {UNIT} is enabled and started"));
            Service { started: true, start_command }
        }
        Err(why) => {
            printer.warning(&format!("{UNIT} did not start: {why}; see `journalctl -u {UNIT}`"));
            Service { started: false, start_command }
        }
    }
}

/// Shows what the agent finds on this host; for programs, returns it.
pub(super) fn inspect(printer: &Printer, config: &Path) -> Option<serde_json::Value> {
    let mut command = Command::new(agent());
    command.arg("inspect").arg("--config").arg(config);
    if printer.is_json() {
        command.arg("--json");
    }
    let problem = match command.output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            printer.lines(text.lines());
            return serde_json::from_str(&text).ok();
        }
        Ok(output) => {
            // What it found so far is worth reading, whatever it thinks of it.
            String::from_utf8_lossy(&output.stdout).lines().for_each(|line| printer.line(line));
            String::from_utf8_lossy(&output.stderr).trim().to_owned()
        }
        Err(error) => format!("cannot run prexor-agent: {error}"),
    };
    printer.warning(&format!("the agent's self-test: {problem}"));
    printer.note(&format!("hint: {}", Hint::Inspect(config.to_owned())));
    None
}

/// The agent's program: beside this one, else wherever PATH has it.
fn agent() -> PathBuf {
    let beside = env::current_exe().ok().map(|exe| exe.with_file_name("prexor-agent"));
    beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("prexor-agent"))
}

fn systemctl(args: &[&str]) -> Result<(), String> {
    let output = Command::new("systemctl").args(args).output().map_err(|e| format!("cannot run systemctl: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("systemctl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}
