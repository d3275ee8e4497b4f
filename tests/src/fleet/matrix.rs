//! Crash matrix: at each step of a restore under running controllers something dies or falls silent. However that ends,
//! everything is restored, or everything is as it was, or the controllers are held for a person; never in between, and nobody
//! writes meanwhile.
//!
//! A fault comes as soon as the step is seen to begin, so it hits that step or, when that is short, one of the next.

use std::fmt;

use serde_json::Value;

use super::{Everything, Fleet, HOSTS, wait};

mod case;

/// The hosts whose controllers run; the one on the other is stopped.
const RUNNING: [usize; 2] = [1, 2];

/// With these lines of its configuration a coordinator notices sooner than by default who is away.
const COORDINATOR: &str = "agents:\n  ready: 1min\n  heartbeat: 1s\n  answer: 10s\n  stall: 10s\n";

/// What dies or falls silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL for the coordinator.
    Coordinator,
    /// SIGKILL for a host's agent.
    Agent(usize),
    /// SIGKILL for the mongod that is the primary.
    Primary,
    /// SIGKILL for Valkey.
    Valkey,
    /// A host loses power and gets it again.
    Host(usize),
    /// A host's link is cut for some seconds.
    Link(usize),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator => write!(f, "coordinator killed"),
            Self::Agent(host) => write!(f, "agent on h{host} killed"),
            Self::Primary => write!(f, "mongod's primary killed"),
            Self::Valkey => write!(f, "Valkey killed"),
            Self::Host(host) => write!(f, "h{host} loses power"),
            Self::Link(host) => write!(f, "h{host} cut off"),
        }
    }
}

/// A step of the restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// From 1.
    pub number: u64,
    /// On which host; `None`: the coordinator's.
    pub host: Option<usize>,
    /// For people, with the host.
    pub title: String,
}

/// A step at which something happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// From 0; the same case has the same number in every run.
    pub number: usize,
    /// Which step.
    pub step: Step,
    /// What happens.
    pub fault: Fault,
    /// Whether the restore is to pause when it fails half way, instead of being taken back.
    pub hold: bool,
}

/// The faults of a step, one in each column of the table: of agents each, of hosts and links that of the step.
pub fn faults(step: &Step) -> [Fault; 8] {
    let coordinators = |other| step.host.unwrap_or(other);
    [
        Fault::Coordinator,
        Fault::Agent(1),
        Fault::Agent(2),
        Fault::Agent(3),
        Fault::Primary,
        Fault::Valkey,
        Fault::Host(coordinators(1)),
        Fault::Link(coordinators(HOSTS)),
    ]
}

/// Every fault at every step; every third restore pauses when it fails half way.
pub fn cases(steps: &[Step]) -> Vec<Case> {
    let each = steps.iter().flat_map(|step| faults(step).map(|fault| (step.clone(), fault)));
    let numbered = each.enumerate();
    numbered.map(|(number, (step, fault))| Case { number, step, fault, hold: number % 3 == 0 }).collect()
}

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Everything is as in the backup, but for what the restore laws correct.
    Restored,
    /// Everything is as it was before.
    RolledBack,
    /// The controllers were held for a person, who let it go on to its end.
    HeldAndRestored,
    /// The controllers were held for a person, who took it back.
    HeldAndRolledBack,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Restored => "restored",
            Self::RolledBack => "rolled back",
            Self::HeldAndRestored => "held, on",
            Self::HeldAndRolledBack => "held, back",
        })
    }
}

/// A fleet with a backup and controllers that run.
#[derive(Debug)]
pub struct Matrix {
    fleet: Fleet,
    backup: String,
    backed_up: Everything,
    cases: u32,
}

impl Matrix {
    /// Starts a fleet, and makes it ready for cases.
    ///
    /// # Panics
    /// When that does not work.
    pub fn start() -> Self {
        Self::over(Fleet::start())
    }

    /// Makes a fleet ready for cases: the controllers run on two of the hosts, and there is a backup.
    ///
    /// # Panics
    /// When that does not work.
    pub fn over(fleet: Fleet) -> Self {
        fleet.restart_coordinator(COORDINATOR);
        for host in 1..=HOSTS {
            fleet.until_reachable(host);
        }
        fleet.stop_controllers(&[3]);
        fleet.start_controllers(&RUNNING);
        let backed_up = fleet.snapshot().at_rest();
        let backup = fleet.backup();
        Self { fleet, backup, backed_up, cases: 0 }
    }

    /// The steps of a restore.
    ///
    /// # Panics
    /// When there is no plan.
    pub fn steps(&self) -> Vec<Step> {
        // An agent on a machine that is busy may be late with its answer, and the plan is refused.
        let mut plan = Value::Null;
        wait("a plan", || {
            let said = self.fleet.ctl(&["restore", &self.backup, "--dry-run", "--json"]);
            plan = if said.code == 0 { said.json() } else { Value::Null };
            !plan.is_null()
        });
        let step = |s: &Value| {
            let node = s["node"].as_str();
            Step {
                number: s["number"].as_u64().expect("a number"),
                host: node.map(|node| node.trim_start_matches('h').parse().expect("hosts are called h1, h2, ...")),
                title: format!("{}: {}", node.unwrap_or("coordinator"), s["title"].as_str().unwrap_or_default()),
            }
        };
        plan["steps"].as_array().expect("steps").iter().map(step).collect()
    }

    /// The case with this fault at the first step whose title begins so.
    ///
    /// # Panics
    /// When there is none.
    pub fn case(&self, title: &str, fault: Fault, hold: bool) -> Case {
        let steps = self.steps();
        let step = steps.iter().find(|step| step.title.starts_with(title));
        let step = step.unwrap_or_else(|| panic!("no step is '{title}': {steps:?}")).clone();
        Case { number: 0, step, fault, hold }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_comes_with_and_without_a_pause() {
        let steps: Vec<Step> = (1..=34).map(|number| Step { number, host: Some(1), title: String::new() }).collect();
        let cases = cases(&steps);
        assert!(cases.len() >= 200, "{}", cases.len());
        for column in 0..8 {
            let held = cases.iter().skip(column).step_by(8).filter(|case| case.hold).count();
            assert!((11..=12).contains(&held), "{held} in column {column}");
        }
    }
}
