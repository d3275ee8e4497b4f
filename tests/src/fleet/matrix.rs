//! Crash matrix: at each step of a restore under running controllers something dies or falls silent. However that ends,
//! everything is restored, or everything is as it was, or the controllers are held for a person; never in between, and nobody
//! writes meanwhile.
//!
//! Which fault goes with which step is the caller's choice. A fault comes as soon as the step is seen to begin, so it hits that
//! step or, when that is short, one of the next.

use std::{
    collections::BTreeSet,
    fmt,
    io::{BufRead as _, BufReader},
    panic::{AssertUnwindSafe, catch_unwind},
    process::Stdio,
    time::Duration,
};

use mongodb::{Client, bson::doc};
use serde_json::Value;

use super::{CONTROLLER_YML, Everything, Fleet, Logged, ROOT, UNIT, wait, wait_within};
use crate::{dataset::DATABASE, resp::Resp, servers::kill_now};

/// How long a link is cut.
const CUT_FOR: Duration = Duration::from_secs(4);

/// Within what time a restore comes to any of its steps, as seconds.
const STEP_LIMIT: &str = "120";

/// Within what time a restore ends, whatever happened to it.
const END_LIMIT: Duration = Duration::from_secs(300);

/// Within what time a command ends that only asks.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// How much of the hosts' journals is told with a case that failed.
const JOURNAL_LINES: usize = 25;

/// The hosts whose controllers run; the one on the other is stopped.
const RUNNING: [usize; 2] = [1, 2];

/// What dies or falls silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL for the coordinator.
    Coordinator,
    /// SIGKILL for a host's agent.
    Agent(usize),
    /// SIGKILL for mongod.
    Mongod,
    /// SIGKILL for Valkey.
    Valkey,
    /// A host loses power and gets it again.
    Host(usize),
    /// A host's link is cut for some seconds.
    Link(usize),
}

impl Fault {
    /// One of each kind, on the host with the datastores and on another.
    pub const ALL: [Self; 8] = [
        Self::Coordinator,
        Self::Agent(1),
        Self::Agent(2),
        Self::Mongod,
        Self::Valkey,
        Self::Host(1),
        Self::Host(2),
        Self::Link(2),
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator => write!(f, "coordinator killed"),
            Self::Agent(host) => write!(f, "agent on h{host} killed"),
            Self::Mongod => write!(f, "mongod killed"),
            Self::Valkey => write!(f, "Valkey killed"),
            Self::Host(host) => write!(f, "h{host} loses power"),
            Self::Link(host) => write!(f, "h{host} cut off"),
        }
    }
}

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Everything is as in the backup, but for what the restore laws correct.
    Restored,
    /// Everything is as it was before.
    RolledBack,
    /// The controllers were held for a person, who took it back.
    Held,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Restored => "restored",
            Self::RolledBack => "rolled back",
            Self::Held => "held",
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
    /// Starts three hosts, the controllers on two of them, and backs up.
    ///
    /// # Panics
    /// When that does not work.
    pub fn start() -> Self {
        let fleet = Fleet::start(3);
        fleet.restart_coordinator("agents:\n  ready: 1min\n");
        for host in 1..=3 {
            fleet.until_reachable(host);
        }
        fleet.start_controllers(&RUNNING);
        // When a server loads append-only files, as after a rollback, it does not know any more when a consumer was last seen.
        let valkey = fleet.valkey_uri();
        fleet.rack.on_the_wire(async move || {
            let mut valkey = Resp::connect(&valkey).await.expect("Valkey");
            valkey.call(&["XGROUP", "DESTROY", "prexor:v1:sse:events", "dashboards"]).await.expect("a group");
        });
        // MongoDB fills empty timestamps in when it replays its log after a crash: what there is must be in a checkpoint.
        let mongo = fleet.mongo_uri();
        fleet.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&mongo).await.expect("MongoDB");
            client.database("admin").run_command(doc! { "fsync": 1 }).await.expect("a checkpoint");
        });
        let backed_up = fleet.snapshot().at_rest();
        let backup = fleet.backup();
        Self { fleet, backup, backed_up, cases: 0 }
    }

    /// The steps of a restore: their numbers and titles.
    ///
    /// # Panics
    /// When there is no plan.
    pub fn steps(&self) -> Vec<(u64, String)> {
        let plan = self.fleet.ctl(&["restore", &self.backup, "--dry-run", "--json"]).ok().json();
        let step = |s: &Value| {
            let on = s["node"].as_str().unwrap_or("coordinator");
            (s["number"].as_u64().expect("a number"), format!("{on}: {}", s["title"].as_str().unwrap_or_default()))
        };
        plan["steps"].as_array().expect("steps").iter().map(step).collect()
    }

    /// Restores, lets `fault` happen when step `number` begins, and waits for the end. After an error the fleet may be in any
    /// state.
    ///
    /// # Errors
    /// In words and with the job's events, when anything is in between, a controller wrote while data moved, one is not as it
    /// was, or something was waited for in vain.
    pub fn run(&mut self, number: u64, fault: Fault) -> Result<End, String> {
        let before = self.last_job();
        let case = catch_unwind(AssertUnwindSafe(|| self.case(&before, number, fault)));
        let end = case.unwrap_or_else(|panic| Err(words(panic.as_ref())));
        end.map_err(|why| {
            let told = catch_unwind(AssertUnwindSafe(|| self.what_was_said(&before)));
            format!("{why}\n{}", told.unwrap_or_else(|panic| words(panic.as_ref())))
        })
    }

    fn case(&mut self, before: &str, number: u64, fault: Fault) -> Result<End, String> {
        self.cases += 1;
        // A host that just came back refuses a restore until its agent is seen again.
        wait("all agents to be reachable", || {
            let status = self.ask(&["status"]);
            let nodes = status["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
            nodes.len() == 3 && nodes.iter().all(|node| node["reachable"] == true)
        });
        self.change();
        let (live, logged) = (self.fleet.snapshot().at_rest(), self.fleet.oplog().len());
        let mut restore = self.fleet.rack.host(1).command(&["prexorctl", "restore", &self.backup, "--yes"]);
        let restore = restore.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("prexorctl");
        wait("the restore to begin", || self.last_job() != before);
        let job = self.last_job();
        let seen = self.until_step(&job, number);
        self.strike(fault);
        let state = self.end_of(&job);
        kill_now(restore);
        if !seen {
            return Err(format!("{job} was never seen to come to step {number}"));
        }

        let held = state == "paused";
        if held {
            if let Some(host) = (1..=3).find(|host| self.fleet.is_active(*host, UNIT)) {
                return Err(format!("{job} is paused, and the controller on h{host} runs"));
            }
            self.fleet.ctl(&["job", "cancel", &job]).ok();
            self.end_of(&job);
        }
        self.controllers_are_as_before()?;
        let now = self.fleet.snapshot().at_rest();
        self.nobody_wrote(logged, self.has_started(&job))?;
        let restored = self.backed_up.restored_over(&live).differences(&now);
        let rolled_back = live.differences(&now);
        match (restored.is_empty(), rolled_back.is_empty()) {
            (_, true) if held => Ok(End::Held),
            (_, true) => Ok(End::RolledBack),
            (true, false) => Ok(End::Restored),
            (false, false) => Err(format!(
                "in between ({state}): {} differences from the backup, {} from before: {}; {}",
                restored.len(),
                rolled_back.len(),
                restored[0],
                rolled_back[0]
            )),
        }
    }

    /// Makes what is live another state than the backup's.
    fn change(&self) {
        let (name, mongo, valkey) = (format!("born_{}", self.cases), self.fleet.mongo_uri(), self.fleet.valkey_uri());
        for host in self.fleet.rack.hosts() {
            host.write(&format!("{ROOT}/templates/{name}"), "x");
        }
        self.fleet.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&mongo).await.expect("MongoDB");
            client.database(DATABASE).collection(&name).insert_one(doc! { "_id": 1 }).await.expect("an insert");
            let mut valkey = Resp::connect(&valkey).await.expect("Valkey");
            valkey.call(&["SET", &format!("prexor:v1:platform:matrix:{name}"), "x"]).await.expect("a key");
        });
    }

    /// `prexorctl` with a question; null when there is no answer, as from a coordinator that was just killed.
    fn ask(&self, args: &[&str]) -> Value {
        let said = self.fleet.rack.host(1).exec_within(ANSWER_LIMIT, &[&["prexorctl"], args, &["--json"]].concat());
        said.filter(|said| said.code == 0).map(|said| said.json()).unwrap_or_default()
    }

    fn last_job(&self) -> String {
        self.ask(&["job", "list"])[0]["id"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns when the step is seen to begin, or that it was not: the job has ended before, or it took too long.
    fn until_step(&self, job: &str, number: u64) -> bool {
        let command = ["timeout", STEP_LIMIT, "prexorctl", "job", "watch", job, "--json"];
        let mut watch = self.fleet.rack.host(1).command(&command);
        let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("prexorctl");
        let mut lines = BufReader::new(watch.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
        let seen = lines.any(|line| {
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            event["step"]["number"].as_u64().is_some_and(|n| n >= number)
        });
        kill_now(watch);
        seen
    }

    fn strike(&mut self, fault: Fault) {
        let kill = |fleet: &Fleet, host: usize, unit: &str| {
            fleet.rack.host(host).exec(&["systemctl", "kill", "--signal=KILL", unit]);
        };
        match fault {
            Fault::Coordinator => kill(&self.fleet, 1, "prexor-coordinator"),
            Fault::Agent(host) => kill(&self.fleet, host, "prexor-agent"),
            Fault::Mongod => kill(&self.fleet, 1, "mongod"),
            Fault::Valkey => kill(&self.fleet, 1, "valkey"),
            Fault::Host(host) => {
                self.fleet.rack.kill(host);
                self.fleet.rack.boot(host);
            }
            Fault::Link(host) => {
                self.fleet.rack.cut(host, None);
                std::thread::sleep(CUT_FOR);
                self.fleet.rack.heal();
            }
        }
    }

    /// How a job ends, or `paused`.
    fn end_of(&self, job: &str) -> String {
        let mut state = String::new();
        wait_within(END_LIMIT, &format!("{job} to end"), || {
            if let Some(shown) = self.ask(&["job", "show", job])["state"].as_str() {
                shown.clone_into(&mut state);
            }
            !matches!(state.as_str(), "" | "queued" | "running")
        });
        state
    }

    fn controllers_are_as_before(&self) -> Result<(), String> {
        for host in RUNNING {
            wait(&format!("the controller that ran on h{host} to be ready again"), || self.fleet.is_ready(host));
        }
        let hosts = self.fleet.rack.hosts();
        let held = |host: &crate::rig::Host| host.path("/var/lib/prexor-agent/hold").exists();
        if let Some(host) = hosts.iter().find(|host| held(host)) {
            return Err(format!("the controller on {} is still held", host.name));
        }
        if self.fleet.is_active(3, UNIT) {
            return Err("the controller on h3, which was stopped, runs".to_owned());
        }
        let yml = |host: &crate::rig::Host| std::fs::read_to_string(host.path(CONTROLLER_YML)).expect("controller.yml");
        let uuid = |yml: String| yml.lines().find(|line| line.starts_with("uuid:")).expect("a uuid").to_owned();
        let uuids: BTreeSet<String> = hosts.iter().map(|host| uuid(yml(host))).collect();
        if uuids.len() < hosts.len() {
            return Err(format!("two controllers have one uuid: {uuids:?}"));
        }
        Ok(())
    }

    /// Nobody wrote while collections were exchanged, and fencing numbers only rise. Between an exchange and the way back a
    /// controller may write that the restore itself had started, once.
    fn nobody_wrote(&self, from: usize, started: bool) -> Result<(), String> {
        let logged = &self.fleet.oplog()[from..];
        let spells: Vec<BTreeSet<i64>> =
            logged.chunk_by(|a, b| (*a == Logged::Rename) == (*b == Logged::Rename)).map(tokens).collect();
        let renames: Vec<usize> = (0..spells.len()).filter(|n| spells[*n].is_empty()).collect();
        let between = match renames[..] {
            [] | [_] => None,
            [first, _] => Some(&spells[first + 1]),
            _ => {
                return Err(format!(
                    "controllers wrote while collections moved, where nothing is a spell of renames: {spells:?}"
                ));
            }
        };
        if let Some(between) = between.filter(|_| !started) {
            return Err(format!("controllers with the fencing numbers {between:?} wrote while collections moved"));
        }
        let mut writes = spells.iter().filter(|tokens| !tokens.is_empty());
        let mut old = writes.next();
        for new in writes {
            if old.is_some_and(|old| old.last() >= new.first()) {
                return Err(format!("fencing numbers were issued again: {old:?}, then {new:?}"));
            }
            old = Some(new);
        }
        Ok(())
    }

    /// Whether a job has come to starting a controller.
    fn has_started(&self, job: &str) -> bool {
        let watch = ["timeout", "30", "prexorctl", "job", "watch", job, "--json"];
        let events = self.fleet.rack.host(1).exec(&watch).out;
        let mut events = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.any(|event| event["step"]["verb"] == "start" && event["step"]["state"] == "started")
    }

    /// What the job's watchers and the hosts' journals have of a case.
    fn what_was_said(&self, before: &str) -> String {
        let job = self.last_job();
        let watch = ["timeout", "10", "prexorctl", "job", "watch", &job, "--json"];
        let events = if job == before { String::new() } else { self.fleet.rack.host(1).exec(&watch).out };
        let events = events.lines().filter(|line| !line.contains("\"progress\"")).map(str::to_owned);
        let journals = (1..=3).map(|host| {
            let journal = self.fleet.journal(host);
            let lines: Vec<&str> = journal.lines().rev().take(JOURNAL_LINES).collect();
            format!("h{host}:\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
        });
        events.chain(journals).collect::<Vec<_>>().join("\n")
    }
}

/// The fencing numbers of some writes; of renames there are none.
fn tokens(of: &[Logged]) -> BTreeSet<i64> {
    let token = |entry: &Logged| match entry {
        Logged::Write { token, .. } => Some(*token),
        Logged::Rename => None,
    };
    of.iter().filter_map(token).collect()
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
