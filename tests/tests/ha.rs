//! A restore under running controllers, on several hosts with a real systemd each: they are stopped everywhere, stay so whatever
//! happens, and come back when everything is restored. Needs root.
//!
//! The controllers are stand-ins (`tests/src/bin/stand-in-controller.rs`) that write all the time and would write into anything.

use std::{
    collections::BTreeSet,
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use prexor_tests::{
    cluster::Said,
    fleet::{
        Command, Fleet, HOSTS, Logged, NOT_READY, Numbers, Profile, UNIT,
        matrix::{Fault, Matrix},
        wait,
    },
};

const NOTHING: [String; 0] = [];

/// Two fleets at once would make each other slow.
static ONE_FLEET: Mutex<()> = Mutex::new(());

/// The profile and the layout of the guide. The fleet is expensive, so the cases share it and come one after the other; each begins
/// and ends with the controllers on h1 and h2 ready, and the one on h3 stopped.
#[test]
fn controllers_are_stopped_everywhere_and_come_back() {
    let _alone = ONE_FLEET.lock().unwrap_or_else(PoisonError::into_inner);
    let begun = Instant::now();
    let say = |what: &str| eprintln!("controllers: {what} at {:.1?}", begun.elapsed());
    let mut fleet = ready_fleet(Profile::GUIDE);
    say("set up");
    one_command_restores_a_wrecked_cluster(&mut fleet, None);
    say("restored");
    a_controller_that_does_not_get_ready_takes_everything_back(&fleet);
    say("taken back");
    undo_returns_to_what_was_before(&fleet);
    say("undone");
    a_controller_that_no_agent_knows_of_is_found(&fleet);
    say("found another one");
    nobody_starts_a_held_controller(&mut fleet);
    say("held over a reboot and a killed coordinator");
    // A sample of the crash matrix, which `tests/run ha-matrix` runs in whole: one fault of each kind, each at a step where
    // everything could end in between.
    sample(
        fleet,
        &[
            ("h2: stop the controller", Fault::Agent(2), false),
            ("h1: drop+restore mongo", Fault::Primary, false),
            ("h2: replace valkey RDB", Fault::Valkey, true),
            ("h2: untar", Fault::Host(2), true),
            ("h1: compare the live filesystem", Fault::Coordinator, false),
            ("h2: unpack beside", Fault::Link(2), false),
        ],
        say,
    );
}

/// The profile without Valkey and the layout of later versions, and a host that is lost for good.
#[test]
fn without_valkey_it_is_the_same() {
    let _alone = ONE_FLEET.lock().unwrap_or_else(PoisonError::into_inner);
    let begun = Instant::now();
    let say = |what: &str| eprintln!("without Valkey: {what} at {:.1?}", begun.elapsed());
    let mut fleet = ready_fleet(Profile::LATER);
    say("set up");
    one_command_restores_a_wrecked_cluster(&mut fleet, Some(3));
    say("restored");
}

fn ready_fleet(profile: Profile) -> Fleet {
    let fleet = Fleet::start_as(profile);
    fleet.restart_coordinator("agents:\n  ready: 20s\n  heartbeat: 1s\n");
    for host in 1..=3 {
        fleet.until_reachable(host);
    }
    fleet
}

fn sample(fleet: Fleet, cases: &[(&str, Fault, bool)], say: impl Fn(&str)) {
    let mut matrix = Matrix::over(fleet);
    for (title, fault, hold) in cases {
        let case = matrix.case(title, *fault, *hold);
        let end = matrix.run(&case).unwrap_or_else(|why| panic!("{fault} at '{title}': {why}"));
        say(&format!("{fault} at '{title}', {end}"));
    }
}

/// `lost` is a host in whose place another machine has come.
fn one_command_restores_a_wrecked_cluster(fleet: &mut Fleet, lost: Option<usize>) {
    let before = fleet.snapshot();
    fleet.start_controllers(&[1, 2]);
    let id = fleet.backup();
    let written_before = fleet.oplog().len();
    wait("more writes", || fleet.oplog().len() > written_before + 20);
    let live = fleet.snapshot();
    fleet.wreck();
    if let Some(host) = lost {
        fleet.rack.kill(host);
        fleet.replace(host, "spare");
        fleet.setup_new_machine(host).ok();
        fleet.until_reachable(host);
    }
    let commanded = fleet.recorder.commands();

    let said = fleet.ctl(&["restore", &id, "--yes", "--json"]).ok().json();
    let restored = fleet.recorder.commands().len();
    assert!(fleet.is_ready(1) && fleet.is_ready(2), "{said:#}");
    assert!(!fleet.is_active(3, UNIT), "it was stopped before, and is no longer held");
    let after = said["after"].as_str().expect("what is left to do");
    assert_eq!(
        after,
        format!(
            "The controllers on h1, h2 run again. Run `systemctl start {UNIT}` on h3 to bring the rest of the cluster back."
        )
    );
    fleet.start_controllers(&[3]);

    writes_are_fenced(fleet);
    // Of what the controllers had written nothing but what the backup has is there, without a hole.
    for (run, seqs) in fleet.writes() {
        let last = i64::try_from(seqs.len()).expect("a few") - 1;
        assert_eq!((seqs.first(), seqs.last()), (Some(&0), Some(&last)), "{run}");
    }
    assert!(said["safety_backup"].as_str().is_some_and(|id| fleet.nodes_of(id).contains(&"h1".to_owned())), "{said:#}");
    let expected = before.at_rest().restored_over(&live.at_rest());
    assert_eq!(expected.differences(&fleet.snapshot().at_rest()), NOTHING);

    fleet.stop_controllers(&[1, 2, 3]);
    the_daemon_obeys_the_new_leader(fleet, &commanded, restored);
    assert_eq!(fleet.differences_between_copies(), NOTHING);
    fleet.start_controllers(&[1, 2]);
}

/// By the oplog of all that ever happened: nobody wrote while a restore renamed, and after every restore the fencing numbers are
/// above all of before.
fn writes_are_fenced(fleet: &Fleet) {
    let oplog = fleet.oplog();
    let renames: Vec<usize> = (0..oplog.len()).filter(|n| oplog[*n] == Logged::Rename).collect();
    let (first, last) = (renames[0], renames[renames.len() - 1]);
    let (old, during, new) = (&oplog[..first], &oplog[first..last], &oplog[last..]);
    assert!(during.iter().all(|logged| *logged == Logged::Rename), "a controller wrote during the restore: {during:?}");
    let (old, new) = (Numbers::of(old), Numbers::of(new));
    assert!(old.are_below(&new) && !new.epochs.is_empty(), "fencing numbers were issued again: {old:?}, then {new:?}");
    assert_eq!(new.tokens.is_empty(), !fleet.profile.valkey);
}

/// What a daemon was given by the controllers of `before` is below all that it took from those of later, and below all that it
/// was given once the restore was done, `restored` commands later. In between it refuses a controller that begins to count
/// anew in the wrecked databases.
fn the_daemon_obeys_the_new_leader(fleet: &Fleet, before: &[Command], restored: usize) {
    let old: BTreeSet<i64> = before.iter().map(|c| c.run).collect();
    let highest = |of: fn(&Command) -> i64| before.iter().filter(|c| c.taken).map(of).max().expect("commands");
    let (epoch, token) = (highest(|c| c.epoch), highest(|c| c.token));
    let all = fleet.recorder.commands();
    let new = all.iter().enumerate().filter(|(n, c)| !old.contains(&c.run) && (c.taken || *n >= restored));
    let new: Vec<&Command> = new.map(|(_, command)| command).collect();
    assert!(new.iter().any(|c| c.taken), "no controller that the restore has started leads: {new:?}");
    for command in new {
        assert!(command.epoch > epoch, "after epoch {epoch}: {command:?}");
        assert!(command.token > token || !fleet.profile.valkey, "after token {token}: {command:?}");
    }
}

fn a_controller_that_does_not_get_ready_takes_everything_back(fleet: &Fleet) {
    let id = fleet.backup();
    let live = fleet.snapshot().at_rest();
    let written = fleet.writes();
    fleet.rack.host(1).write(NOT_READY, "");
    let said = fleet.ctl(&["restore", &id, "--yes"]).failed(1);
    assert!(said.err.contains("is not ready after 20 s"), "{said:?}");
    assert!(said.err.contains("everything is as it was before, and the controllers on h1, h2 run again"), "{said:?}");
    let log = said.err.split("the last lines of its log:").nth(1).unwrap_or_else(|| panic!("{said:?}"));
    assert!(log.contains("Started") && log.contains(UNIT), "the journal tells of its start: {said:?}");
    std::fs::remove_file(fleet.rack.host(1).path(NOT_READY)).expect("a file");
    fleet.until_ready(&[1, 2]);
    assert_eq!(live.differences(&fleet.snapshot().at_rest()), NOTHING);
    let now = fleet.writes();
    assert!(written.keys().all(|run| now.contains_key(run)), "what was written before is there: {now:?}");
}

/// Datastores that were wrecked and files of every host that had changed: a restore replaces them, and an undo brings them back.
fn undo_returns_to_what_was_before(fleet: &Fleet) {
    let id = fleet.backup();
    fleet.stop_controllers(&[1, 2]);
    fleet.wreck_datastores();
    for host in 1..=HOSTS {
        std::fs::write(fleet.file(host, "born-after-the-backup"), "x").expect("the root");
        std::fs::remove_dir_all(fleet.file(host, "templates")).expect("templates");
    }
    let before = fleet.snapshot();
    let restored = fleet.ctl(&["restore", &id, "--yes", "--json"]).ok().json();
    let between = fleet.snapshot();
    assert!(before.differences(&between).len() > 100, "the restore has replaced little");
    let job = restored["job_id"].as_str().expect("a job");
    let undone = fleet.ctl(&["restore", "--undo", job, "--yes"]).ok();
    assert!(undone.out.ends_with(&format!("Run `systemctl start {UNIT}` to bring the cluster back.\n")), "{undone:?}");
    assert_eq!(before.restored_over(&between).differences(&fleet.snapshot()), NOTHING);
    fleet.ctl(&["restore", &id, "--yes"]).ok();
    fleet.start_controllers(&[1, 2]);
}

/// It runs beside its host's unit; what gives it away is the lease.
fn a_controller_that_no_agent_knows_of_is_found(fleet: &Fleet) {
    let id = fleet.backup();
    fleet.run_unknown_controller(3);
    let before = fleet.end_of_oplog();
    let refused = fleet.ctl(&["restore", &id, "--yes"]).failed(3);
    assert!(refused.err.contains("is renewed, although every controller that has an agent is stopped"), "{refused:?}");
    assert!(refused.err.contains("and the controllers on h1, h2 run again"), "{refused:?}");
    assert!(!fleet.oplog_since(before).contains(&Logged::Rename), "nothing live was touched");
    fleet.stop_unknown_controller(3);
    fleet.until_ready(&[1, 2]);
}

/// The restore is caught where the first controller is started and does not get ready: the other is held.
fn nobody_starts_a_held_controller(fleet: &mut Fleet) {
    fleet.restart_coordinator("agents:\n  ready: 10min\n");
    for host in 1..=3 {
        fleet.until_reachable(host);
    }
    let id = fleet.backup();
    let renames = |fleet: &Fleet| fleet.oplog().iter().filter(|logged| **logged == Logged::Rename).count();
    let before = renames(fleet);
    fleet.rack.host(1).write(NOT_READY, "");
    let mut restore = fleet.rack.host(1).command(&["prexorctl", "restore", &id, "--yes"]);
    let restore = restore.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("prexorctl");
    wait("the databases to be swapped", || renames(fleet) > before);
    wait("the first controller to be started", || fleet.is_active(1, UNIT));
    let held = |fleet: &Fleet| {
        let host = fleet.rack.host(2);
        let start = host.exec(&["systemctl", "start", UNIT]);
        assert!(start.code != 0 && !fleet.is_active(2, UNIT), "{start:?}");
        let status = host.exec(&["systemctl", "status", "--no-pager", UNIT]).out;
        assert!(status.contains("HELD for the restore job-"), "{status}");
    };
    held(fleet);
    let other = fleet.ctl(&["restore", &id, "--dry-run", "--json"]);
    assert!(other.code == 0, "looking is allowed: {other:?}");

    fleet.rack.reboot(2);
    wait("the agent on h2 to be up", || fleet.is_active(2, "prexor-agent"));
    fleet.until_reachable(2);
    held(fleet);

    let coordinator = fleet.rack.host(1).exec(&["systemctl", "kill", "--signal=KILL", "prexor-coordinator"]);
    coordinator.ok();
    wait("the coordinator to be back", || fleet.ctl(&["status"]).code == 0);
    held(fleet);
    std::fs::remove_file(fleet.rack.host(1).path(NOT_READY)).expect("a file");
    let said: Said = restore.wait_with_output().expect("prexorctl ends").into();
    fleet.until_ready(&[1, 2]);
    let job = fleet.ctl(&["job", "list", "--json"]).ok().json();
    assert_eq!(job[0]["state"], "succeeded", "{said:?} {job:#}");
    let status = fleet.rack.host(2).exec(&["systemctl", "status", "--no-pager", UNIT]).out;
    assert!(!status.contains("HELD"), "{status}");
}
