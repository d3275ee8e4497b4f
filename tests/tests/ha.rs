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
        Fleet, Logged, NOT_READY, UNIT,
        matrix::{Fault, Matrix},
        wait,
    },
};

const NOTHING: [String; 0] = [];

/// Two fleets at once would make each other slow.
static ONE_FLEET: Mutex<()> = Mutex::new(());

/// A sample of the crash matrix, which `tests/run ha-matrix` runs in whole: one fault of each kind, each at a step where
/// everything could end in between.
#[test]
fn whatever_dies_during_a_restore_nothing_is_in_between() {
    let _alone = ONE_FLEET.lock().unwrap_or_else(PoisonError::into_inner);
    let mut matrix = Matrix::start();
    let steps = matrix.steps();
    let step = |title: &str| {
        let mut found = steps.iter().filter(|(_, step)| step.starts_with(title));
        found.next().unwrap_or_else(|| panic!("no step is '{title}': {steps:?}")).0
    };
    for (title, fault) in [
        ("h2: stop the controller", Fault::Agent(2)),
        ("h1: drop+restore mongo", Fault::Mongod),
        ("h1: replace valkey RDB", Fault::Valkey),
        ("h2: untar", Fault::Host(2)),
        ("h1: compare the live filesystem", Fault::Coordinator),
        ("h2: unpack beside", Fault::Link(2)),
    ] {
        let end = matrix.run(step(title), fault).unwrap_or_else(|why| panic!("{fault} at '{title}': {why}"));
        eprintln!("{fault} at '{title}': {end}");
    }
}

/// The fleet is expensive, so the cases share it and come one after the other; each begins and ends with the controllers on h1
/// and h2 ready, and the one on h3 stopped.
#[test]
fn controllers_are_stopped_everywhere_and_come_back() {
    let _alone = ONE_FLEET.lock().unwrap_or_else(PoisonError::into_inner);
    let begun = Instant::now();
    let say = |what: &str| eprintln!("controllers: {what} at {:.1?}", begun.elapsed());
    let mut fleet = Fleet::start(3);
    fleet.restart_coordinator("agents:\n  ready: 20s\n");
    for host in 1..=3 {
        fleet.until_reachable(host);
    }
    say("set up");
    one_command_restores_a_wrecked_cluster(&fleet);
    say("restored");
    a_controller_that_does_not_get_ready_takes_everything_back(&fleet);
    say("taken back");
    a_controller_that_no_agent_knows_of_is_found(&fleet);
    say("found another one");
    nobody_starts_a_held_controller(&mut fleet);
    say("held over a reboot and a killed coordinator");
    drop(fleet);
    say("removed");
}

fn one_command_restores_a_wrecked_cluster(fleet: &Fleet) {
    let before = fleet.snapshot();
    fleet.start_controllers(&[1, 2]);
    let id = fleet.backup();
    let written_before = fleet.oplog().len();
    wait("more writes", || fleet.oplog().len() > written_before + 20);
    let live = fleet.snapshot();
    fleet.wreck();

    let said = fleet.ctl(&["restore", &id, "--yes", "--json"]).ok().json();
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
    fleet.stop_controllers(&[3]);

    writes_are_fenced(fleet);
    // Of what the controllers had written nothing but what the backup has is there, without a hole.
    for ((controller, token), seqs) in fleet.writes() {
        let last = i64::try_from(seqs.len()).expect("a few") - 1;
        assert_eq!((seqs.first(), seqs.last()), (Some(&0), Some(&last)), "{controller} {token}");
    }
    let expected = before.at_rest().restored_over(&live.at_rest());
    assert!(said["safety_backup"].as_str().is_some_and(|id| fleet.nodes_of(id) == ["h1", "h2", "h3"]), "{said:#}");
    assert_eq!(expected.differences(&fleet.snapshot().at_rest()), NOTHING);
}

/// By the oplog of all that ever happened: nobody wrote while a restore renamed, and after every restore the fencing numbers are
/// above all of before.
fn writes_are_fenced(fleet: &Fleet) {
    let oplog = fleet.oplog();
    let renames: Vec<usize> = (0..oplog.len()).filter(|n| oplog[*n] == Logged::Rename).collect();
    let (first, last) = (renames[0], renames[renames.len() - 1]);
    let tokens = |of: &[Logged]| -> BTreeSet<i64> {
        let token = |logged: &Logged| match logged {
            Logged::Write { token, .. } => Some(*token),
            Logged::Rename => None,
        };
        of.iter().filter_map(token).collect()
    };
    assert_eq!(tokens(&oplog[first..last]), BTreeSet::new(), "a controller wrote during the restore");
    let (old, new) = (tokens(&oplog[..first]), tokens(&oplog[last..]));
    assert!(old.last() < new.first(), "fencing numbers were issued again: {old:?}, then {new:?}");
    assert!(new.last() <= Some(&fleet.fencing_counter()));
}

fn a_controller_that_does_not_get_ready_takes_everything_back(fleet: &Fleet) {
    let id = fleet.backup();
    let live = fleet.snapshot().at_rest();
    let written = fleet.writes();
    fleet.rack.host(1).write(NOT_READY, "");
    let said = fleet.ctl(&["restore", &id, "--yes"]).failed(1);
    assert!(said.err.contains("is not ready after 20 s"), "{said:?}");
    assert!(said.err.contains("everything is as it was before, and the controllers on h1, h2 run again"), "{said:?}");
    std::fs::remove_file(fleet.rack.host(1).path(NOT_READY)).expect("a file");
    fleet.until_ready(&[1, 2]);
    assert_eq!(live.differences(&fleet.snapshot().at_rest()), NOTHING);
    let now = fleet.writes();
    assert!(written.keys().all(|key| now.contains_key(key)), "what was written before is there: {now:?}");
}

/// It runs beside its host's unit; what gives it away is the lease.
fn a_controller_that_no_agent_knows_of_is_found(fleet: &Fleet) {
    let id = fleet.backup();
    fleet.run_unknown_controller(3);
    let before = fleet.oplog().len();
    let refused = fleet.ctl(&["restore", &id, "--yes"]).failed(3);
    assert!(refused.err.contains("is renewed, although every controller that has an agent is stopped"), "{refused:?}");
    assert!(refused.err.contains("and the controllers on h1, h2 run again"), "{refused:?}");
    assert!(!fleet.oplog()[before..].contains(&Logged::Rename), "nothing live was touched");
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
