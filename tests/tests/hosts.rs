//! Several hosts with a real systemd each: units, links that are cut, hosts that lose power. Needs root.

use std::process::Stdio;

use prexor_tests::{fleet::Fleet, servers::PATIENCE};

const NOTHING: [String; 0] = [];

/// The fleet is expensive, so the cases share it and come one after the other; each leaves it in order.
#[test]
fn three_hosts() {
    let mut fleet = Fleet::start("hosts", 3);
    units_run_everywhere(&fleet);
    one_command_brings_back_what_is_wrecked(&fleet);
    a_host_that_loses_power_takes_its_part_back(&mut fleet);
    a_cut_link_is_told_and_heals(&mut fleet);
}

fn units_run_everywhere(fleet: &Fleet) {
    for host in 1..=3 {
        assert!(fleet.is_active(host, "prexor-agent"), "{}", fleet.journal(host));
        let enabled = fleet.rack.host(host).exec(&["systemctl", "is-enabled", "prexor-agent"]);
        assert_eq!(enabled.out.trim(), "enabled", "setup enables the unit");
    }
    let status = fleet.ctl(&["status", "--json"]).ok().json();
    let nodes = status["nodes"].as_array().expect("nodes");
    assert!(nodes.len() == 3 && nodes.iter().all(|n| n["reachable"] == true), "{status:#}");
}

fn one_command_brings_back_what_is_wrecked(fleet: &Fleet) {
    let before = fleet.snapshot();
    let id = fleet.backup();
    let shown = fleet.ctl(&["backup", "show", &id, "--json"]).ok().json();
    assert_eq!(shown["nodes"], serde_json::json!(["h1", "h2", "h3"]), "every controller's files: {shown:#}");
    fleet.wreck();
    assert!(!before.differences(&fleet.snapshot()).is_empty());

    fleet.rack.host(3).exec(&["systemctl", "start", "prexorcloud-controller"]).ok();
    let refused = fleet.ctl(&["restore", &id, "--yes"]).failed(3);
    assert!(refused.err.contains("the controller on h3 is running"), "{refused:?}");
    fleet.rack.host(3).exec(&["systemctl", "stop", "prexorcloud-controller"]).ok();

    let restored = fleet.ctl(&["restore", &id, "--yes"]).ok();
    assert!(restored.out.contains("RestoreExecutor: replace valkey RDB... OK"), "{restored:?}");
    assert_eq!(before.differences(&fleet.snapshot()), NOTHING);
    // Append-only files are what the server loads when it starts again (law L12).
    fleet.rack.host(1).exec(&["systemctl", "restart", "valkey"]).ok();
    assert!(fleet.is_active(1, "valkey"), "{}", fleet.journal(1));
    assert_eq!(before.differences(&fleet.snapshot()), NOTHING);
}

fn a_host_that_loses_power_takes_its_part_back(fleet: &mut Fleet) {
    let id = fleet.backup();
    fleet.wreck();
    let live = fleet.snapshot();
    let mut restore = fleet.rack.host(1).command(&["prexorctl", "restore", &id, "--yes"]);
    let restore = restore.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("prexorctl");
    wait("the restore to load", || fleet.temporary_collections() > 0);
    fleet.rack.kill(2);
    fleet.rack.boot(2);
    let said: prexor_tests::cluster::Said = restore.wait_with_output().expect("prexorctl ends").into();
    // It may have been done before the power went; then it is all new.
    if said.code == 0 {
        assert_ne!(live.differences(&fleet.snapshot()), NOTHING);
    } else {
        assert!(said.err.contains("as it was before"), "{said:?}");
        assert_eq!(live.differences(&fleet.snapshot()), NOTHING);
        fleet.ctl(&["restore", &id, "--yes"]).ok();
    }
    assert!(fleet.is_active(2, "prexor-agent"), "it starts with the host: {}", fleet.journal(2));
}

fn a_cut_link_is_told_and_heals(fleet: &mut Fleet) {
    fleet.rack.cut(3, None);
    let said = fleet.ctl(&["backup", "create"]);
    assert!(said.code != 0 && said.err.contains("h3"), "{said:?}");
    assert_eq!(fleet.ctl(&["status", "--json"]).json()["nodes"][2]["reachable"], false);
    fleet.rack.heal();
    wait("h3 to be reachable", || fleet.ctl(&["status", "--json"]).json()["nodes"][2]["reachable"] == true);
    fleet.backup();
}

fn wait(what: &str, ask: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !ask() {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
