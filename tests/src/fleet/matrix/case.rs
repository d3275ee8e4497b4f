//! One case: a restore, a fault, and what everything is like when the job has ended.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    panic::{AssertUnwindSafe, catch_unwind},
    process::{Child, Stdio},
    time::Duration,
};

use mongodb::{
    Client,
    bson::{Timestamp, doc},
};
use serde_json::Value;

use super::{Case, End, Fault, Matrix, RUNNING};
use crate::{
    dataset::DATABASE,
    fleet::{Fleet, HOSTS, Logged, Numbers, UNIT, VALKEY, wait, wait_within},
    rig::Host,
    servers::kill_now,
};

/// How long a link is cut: shorter than a coordinator waits for a sign of life, and longer.
const CUTS: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(9)];

/// Within what time a restore comes to any of its steps, as seconds.
const STEP_LIMIT: &str = "120";

/// Within what time a restore ends, whatever happened to it.
const END_LIMIT: Duration = Duration::from_secs(300);

/// Within what time a command ends that only asks.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// How long nobody asks again how a job stands: each answer is a program's start.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// How much of the hosts' journals is told with a case that failed.
const JOURNAL_LINES: usize = 40;

impl Matrix {
    /// Restores, lets the fault happen when the step begins, and waits for the end. After an error the fleet may be in any
    /// state.
    ///
    /// # Errors
    /// In words and with the job's events, when anything is in between, a controller wrote while data moved, one is not as it
    /// was, or something was waited for in vain.
    pub fn run(&mut self, case: &Case) -> Result<End, String> {
        let before = self.last_job();
        let end = catch_unwind(AssertUnwindSafe(|| self.try_case(&before, case)));
        let end = end.unwrap_or_else(|panic| Err(words(panic.as_ref())));
        end.map_err(|why| {
            let told = catch_unwind(AssertUnwindSafe(|| self.what_was_said(&before)));
            format!("{why}\n{}", told.unwrap_or_else(|panic| words(panic.as_ref())))
        })
    }

    fn try_case(&mut self, before: &str, case: &Case) -> Result<End, String> {
        self.cases += 1;
        // A host that just came back refuses a restore until its agent is seen again.
        wait("all agents to be reachable", || {
            let status = self.ask(&["status"]);
            let nodes = status["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
            nodes.len() == HOSTS && nodes.iter().all(|node| node["reachable"] == true)
        });
        self.change();
        let (live, then, primary) = (self.fleet.snapshot().at_rest(), self.fleet.end_of_oplog(), self.fleet.primary());
        let failing = if case.hold { "hold" } else { "roll-back" };
        let (restore, job) = self.begin(before, failing);
        let seen = self.until_step(&job, case.step.number);
        self.strike(case.fault, primary);
        let state = self.end_of(&job);
        kill_now(restore);
        if !seen {
            return Err(format!("{job} was never seen to come to step {}", case.step.number));
        }
        let held = state == "paused";
        if held {
            self.nobody_runs(&job)?;
            self.go_on(&job);
        }
        self.controllers_are_as_before()?;
        self.the_leader_is_obeyed()?;
        let now = self.fleet.snapshot().at_rest();
        self.nobody_wrote(then, self.has_started(&job))?;
        let restored = self.backed_up.restored_over(&live).differences(&now);
        let rolled_back = live.differences(&now);
        match (restored.is_empty(), rolled_back.is_empty()) {
            (_, true) if held => Ok(End::HeldAndRolledBack),
            (_, true) => Ok(End::RolledBack),
            (true, false) if held => Ok(End::HeldAndRestored),
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

    /// Asks for the restore, again where an agent on a busy machine is late with its answer and it is refused, and returns
    /// with its job.
    fn begin(&self, before: &str, failing: &str) -> (Child, String) {
        let restore = ["prexorctl", "restore", &self.backup, "--yes", "--on-failure", failing];
        let ask = || {
            let mut command = self.fleet.rack.host(1).command(&restore);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("prexorctl")
        };
        let (mut asked, mut job) = (ask(), String::new());
        wait("the restore to begin", || {
            job = self.last_job();
            if !job.is_empty() && job != before {
                return true;
            }
            if asked.try_wait().expect("prexorctl").is_some_and(|status| !status.success()) {
                asked = ask();
            }
            false
        });
        (asked, job)
    }

    /// Makes what is live another state than the backup's.
    fn change(&self) {
        let (name, mongo, valkey) = (format!("born_{}", self.cases), self.fleet.mongo_uri(), self.fleet.valkey());
        for host in 1..=HOSTS {
            let path = format!("{}/templates/{name}", self.fleet.root());
            self.fleet.rack.host(host).write(&path, "x");
        }
        self.fleet.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&mongo).await.expect("MongoDB");
            client.database(DATABASE).collection(&name).insert_one(doc! { "_id": 1 }).await.expect("an insert");
            if let Some(mut resp) = Fleet::resp(valkey.as_deref()).await {
                resp.call(&["SET", &format!("prexor:v1:platform:matrix:{name}"), "x"]).await.expect("a key");
            }
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

    fn strike(&mut self, fault: Fault, primary: usize) {
        let kill = |fleet: &Fleet, host: usize, unit: &str| {
            fleet.rack.host(host).exec(&["systemctl", "kill", "--signal=KILL", unit]);
        };
        match fault {
            Fault::Coordinator => kill(&self.fleet, 1, "prexor-coordinator"),
            Fault::Agent(host) => kill(&self.fleet, host, "prexor-agent"),
            Fault::Primary => kill(&self.fleet, primary, "mongod"),
            Fault::Valkey => kill(&self.fleet, VALKEY, "valkey"),
            Fault::Host(host) => {
                self.fleet.rack.kill(host);
                self.fleet.rack.boot(host);
            }
            Fault::Link(host) => {
                self.fleet.rack.cut(host, None);
                std::thread::sleep(CUTS[self.cases as usize % CUTS.len()]);
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
            let ended = !matches!(state.as_str(), "" | "queued" | "running");
            if !ended {
                std::thread::sleep(ASK_EVERY);
            }
            ended
        });
        state
    }

    /// A restore that is paused holds every controller.
    fn nobody_runs(&self, job: &str) -> Result<(), String> {
        for number in 1..=HOSTS {
            if self.fleet.is_active(number, UNIT) {
                return Err(format!("{job} is paused, and the controller on h{number} runs"));
            }
            if !is_held(self.fleet.rack.host(number)) {
                return Err(format!("{job} is paused, and the controller on h{number} is not held"));
            }
        }
        Ok(())
    }

    /// What a person does about a restore that is paused: one time it goes on, the other time back. What cannot go on goes back.
    fn go_on(&self, job: &str) {
        let ways = ["resume", "cancel", "cancel"];
        let ways = if self.cases.is_multiple_of(2) { &ways[..] } else { &ways[1..] };
        for way in ways {
            self.fleet.ctl(&["job", way, job]);
            if self.end_of(job) != "paused" {
                return;
            }
        }
    }

    fn controllers_are_as_before(&self) -> Result<(), String> {
        for host in RUNNING {
            wait(&format!("the controller that ran on h{host} to be ready again"), || self.fleet.is_ready(host));
        }
        if let Some(host) = self.fleet.rack.hosts().iter().find(|host| is_held(host)) {
            return Err(format!("the controller on {} is still held", host.name));
        }
        if self.fleet.is_active(3, UNIT) {
            return Err("the controller on h3, which was stopped, runs".to_owned());
        }
        let mut uuids = self.fleet.uuids();
        uuids.sort_unstable();
        uuids.dedup();
        if uuids.len() < HOSTS {
            return Err(format!("two controllers have one uuid: {uuids:?}"));
        }
        Ok(())
    }

    /// The daemon takes commands again, and no number with which it took one is of two processes.
    fn the_leader_is_obeyed(&self) -> Result<(), String> {
        let recorder = &self.fleet.recorder;
        let so_far = recorder.commands().len();
        wait("a leader whose command is taken", || recorder.commands()[so_far..].iter().any(|c| c.taken));
        let (mut epochs, mut tokens) = (BTreeMap::new(), BTreeMap::new());
        for command in recorder.commands().into_iter().filter(|c| c.taken) {
            let of_epoch = epochs.entry(command.epoch).or_insert(command.run);
            let of_token = tokens.entry(command.token).or_insert(command.run);
            if *of_epoch != command.run || (*of_token != command.run && self.fleet.profile.valkey) {
                return Err(format!("another process has commanded with these numbers before: {command:?}"));
            }
        }
        Ok(())
    }

    /// Nobody wrote while collections were exchanged, and fencing numbers only rise. Between an exchange and the way back a
    /// controller may write that the restore itself had started, once.
    fn nobody_wrote(&self, then: Timestamp, started: bool) -> Result<(), String> {
        let logged = self.fleet.oplog_since(then);
        let spells: Vec<&[Logged]> = logged.chunk_by(|a, b| (*a == Logged::Rename) == (*b == Logged::Rename)).collect();
        let renames: Vec<usize> = (0..spells.len()).filter(|n| spells[*n][0] == Logged::Rename).collect();
        let between = match renames[..] {
            [] | [_] => None,
            [first, _] => Some(spells[first + 1]),
            _ => {
                let spells: Vec<_> = spells.iter().map(|spell| (spell.len(), Numbers::of(spell))).collect();
                return Err(format!(
                    "controllers wrote while collections moved, where nothing is a spell of renames: {spells:?}"
                ));
            }
        };
        if let Some(between) = between.filter(|_| !started) {
            return Err(format!(
                "controllers wrote {} times while collections moved: {:?}",
                between.len(),
                Numbers::of(between)
            ));
        }
        let writes: Vec<Numbers> =
            spells.iter().filter(|spell| spell[0] != Logged::Rename).map(|spell| Numbers::of(spell)).collect();
        match writes.windows(2).find(|two| !two[0].are_below(&two[1])) {
            Some(two) => Err(format!("fencing numbers were issued again: {:?}, then {:?}", two[0], two[1])),
            None => Ok(()),
        }
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
        let journals = (1..=HOSTS).map(|host| {
            let journal = self.fleet.journal(host);
            let lines: Vec<&str> = journal.lines().rev().take(JOURNAL_LINES).collect();
            format!("h{host}:\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
        });
        events.chain(journals).collect::<Vec<_>>().join("\n")
    }
}

fn is_held(host: &Host) -> bool {
    host.path("/var/lib/prexor-agent/hold").exists()
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
