//! Restores that are about some hosts only, and hosts that are lost: before a restore, in the middle of one, for good. Needs root.

use std::time::Instant;

use prexor_tests::fleet::{Fleet, NOT_READY, UNIT, wait};

const NOTHING: [String; 0] = [];
const BORN_LATER: &str = "/etc/prexorcloud/templates/born-after-the-backup";

/// The fleet is expensive, so the cases share it and come one after the other; each begins and ends with all controllers ready.
#[test]
fn a_restore_is_about_some_hosts_or_goes_without_one() {
    let begun = Instant::now();
    let say = |what: &str| eprintln!("hosts: {what} at {:.1?}", begun.elapsed());
    let mut fleet = Fleet::start();
    fleet.restart_coordinator("agents:\n  ready: 10s\n  away: 5s\n");
    for host in 1..=3 {
        fleet.until_reachable(host);
    }
    fleet.start_controllers(&[1, 2, 3]);
    say("set up");
    one_host_gets_its_files_back_and_no_other_controller_stops(&fleet);
    say("one host");
    a_person_on_the_host_ends_a_hold(&fleet);
    say("a hold that a person ended");
    a_host_that_is_lost_half_way_is_given_up_and_comes_back(&mut fleet);
    say("a host that came back");
    a_lost_host_is_left_out_and_replaced_by_another_machine(&mut fleet);
    say("a host that was replaced");
}

fn one_host_gets_its_files_back_and_no_other_controller_stops(fleet: &Fleet) {
    let id = fleet.backup();
    let before = fleet.snapshot().at_rest();
    let (first, second, third) = (fleet.controller_pid(1), fleet.controller_pid(2), fleet.controller_pid(3));
    fleet.rack.host(2).write(BORN_LATER, "x");
    let said = fleet.ctl(&["restore", &id, "--only-host", "h2", "--yes"]).ok();
    assert!(said.err.contains("only the files of these hosts go back"), "{said:?}");
    assert!(said.out.ends_with("The controllers on h2 run again.\n"), "{said:?}");
    assert_eq!((fleet.controller_pid(1), fleet.controller_pid(3)), (first, third), "they were never stopped");
    assert_ne!(fleet.controller_pid(2), second);
    assert_eq!(before.differences_of_files(&fleet.snapshot()), NOTHING);

    // The certificates alone: what else has changed stays so.
    let (ca, template) = ("/etc/prexorcloud/data/certs/ca.pem", "/etc/prexorcloud/templates/born-after-the-backup");
    let good = std::fs::read(fleet.rack.host(1).path(ca)).expect("a CA");
    fleet.rack.host(1).write(ca, "scrambled");
    fleet.rack.host(1).write(template, "x");
    let said = fleet.ctl(&["restore", &id, "--only-host", "h1", "--certs", "--yes"]).ok();
    assert!(said.err.contains("only: data/certs"), "{said:?}");
    assert_eq!(std::fs::read(fleet.rack.host(1).path(ca)).expect("a CA"), good);
    std::fs::remove_file(fleet.rack.host(1).path(template)).expect("it was left alone");
    let refused = fleet.ctl(&["restore", &id, "--only-host", "h2", "--certs", "--dry-run"]).failed(2);
    assert!(refused.err.contains("the files of h2") && refused.err.contains("hold no CA"), "{refused:?}");
    fleet.until_ready(&[1, 2, 3]);
}

fn a_person_on_the_host_ends_a_hold(fleet: &Fleet) {
    let (id, host) = (fleet.backup(), fleet.rack.host(2));
    host.write(NOT_READY, "");
    fleet.ctl(&["restore", &id, "--only-host", "h2", "--on-failure", "hold", "--yes"]).failed(1);
    let jobs = fleet.ctl(&["job", "list", "--json"]).ok().json();
    let job = jobs[0]["id"].as_str().expect("a job");
    std::fs::remove_file(host.path(NOT_READY)).expect("a file");
    assert!(host.exec(&["systemctl", "start", UNIT]).code != 0, "its controller is held");

    let said = host.exec(&["prexor-agent", "release", "--local"]).ok();
    let freed = format!("the controller was held for {job} and is no more: `systemctl start {UNIT}` starts it\n");
    assert!(said.out.starts_with(&freed) && said.out.contains("finds data in between"), "{said:?}");
    host.exec(&["systemctl", "start", UNIT]).ok();
    fleet.until_ready(&[2]);
    fleet.ctl(&["job", "resume", job]).ok();
    fleet.until_ready(&[1, 2, 3]);
    let said = host.exec(&["prexor-agent", "release", "--local"]).ok();
    assert_eq!(said.out, "no hold of the controller is in force\n");
}

fn a_host_that_is_lost_half_way_is_given_up_and_comes_back(fleet: &mut Fleet) {
    let id = fleet.backup();
    let before = fleet.snapshot().at_rest();
    fleet.rack.host(3).write(BORN_LATER, "x");
    fleet.rack.host(1).write(NOT_READY, "");
    let paused = fleet.ctl(&["restore", &id, "--on-failure", "hold", "--yes"]).failed(1);
    assert!(paused.err.contains("--without-host NAME"), "{paused:?}");
    std::fs::remove_file(fleet.rack.host(1).path(NOT_READY)).expect("a file");
    let jobs = fleet.ctl(&["job", "list", "--json"]).ok().json();
    let job = jobs[0]["id"].as_str().expect("a job").to_owned();

    fleet.rack.kill(3);
    let again = fleet.ctl(&["job", "resume", &job]).failed(5);
    assert!(again.err.contains("h3"), "{again:?}");
    let unable = fleet.ctl(&["job", "resume", &job, "--without-host", "h1"]).failed(3);
    assert!(unable.err.contains("is restored through h1"), "{unable:?}");
    let said = fleet.ctl(&["job", "resume", &job, "--without-host", "h3"]).ok();
    assert!(said.out.contains("h3 was left out"), "{said:?}");
    fleet.until_ready(&[1, 2]);

    fleet.rack.boot(3);
    fleet.until_reachable(3);
    let host = fleet.rack.host(3);
    assert!(host.exec(&["systemctl", "start", UNIT]).code != 0, "its controller is held");
    assert!(!fleet.is_active(3, UNIT));
    let refused = fleet.ctl(&["restore", &id, "--datastores", "--dry-run"]).failed(3);
    assert!(refused.err.contains(&format!("the controller on h3 is still held for {job}")), "{refused:?}");
    let said = fleet.ctl(&["restore", &id, "--only-host", "h3", "--yes"]).ok();
    assert!(said.err.contains("this restore takes the hold over"), "{said:?}");
    assert!(said.out.ends_with(&format!("Run `systemctl start {UNIT}` to bring the cluster back.\n")), "{said:?}");
    assert_eq!(before.differences_of_files(&fleet.snapshot()), NOTHING);
    let left = host.exec(&["find", "/etc", "-maxdepth", "1", "-name", ".prexor*"]).ok().out;
    assert_eq!(left, "", "nothing of the first restore is left");
    fleet.start_controllers(&[3]);
}

fn a_lost_host_is_left_out_and_replaced_by_another_machine(fleet: &mut Fleet) {
    let id = fleet.backup();
    let before = fleet.snapshot().at_rest();
    fleet.wreck();
    fleet.rack.kill(3);
    wait("the coordinator to notice", || fleet.node(3)["reachable"] == false);
    let refused = fleet.ctl(&["restore", &id, "--dry-run"]).failed(3);
    assert!(refused.err.contains("h3 does not answer") && refused.err.contains("--without-host h3"), "{refused:?}");
    let said = fleet.ctl(&["restore", &id, "--without-host", "h3", "--yes"]).ok();
    assert!(said.err.contains("h3 is left out, its files are not restored"), "{said:?}");
    fleet.until_ready(&[1, 2]);

    fleet.replace(3, "spare");
    fleet.setup_new_machine(3).ok();
    fleet.until_reachable(3);
    let said = fleet.ctl(&["restore", &id, "--only-host", "h3", "--yes"]).ok();
    assert!(said.err.contains("h3 is another machine now (spare, then h3)"), "{said:?}");
    assert_eq!(before.differences_of_files(&fleet.snapshot()), NOTHING);
    fleet.start_controllers(&[3]);
}
