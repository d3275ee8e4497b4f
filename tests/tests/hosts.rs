//! Several hosts with a real systemd each: units, reboots, hosts that lose power, links that are cut. Needs root.

use std::{process::Stdio, time::Instant};

use prexor_tests::{
    cluster::Said,
    fleet::{Fleet, wait},
};

const NOTHING: [String; 0] = [];

/// The fleet is expensive, so the cases share it and come one after the other; each leaves it in order.
#[test]
fn three_hosts() {
    let begun = Instant::now();
    let say = |what: &str| eprintln!("three hosts: {what} at {:.1?}", begun.elapsed());
    let mut fleet = Fleet::start();
    say("set up");
    units_run_everywhere(&fleet);
    say("backed up");
    an_agent_is_back_after_a_reboot_without_help(&fleet);
    say("rebooted");
    one_command_brings_back_what_is_wrecked(&fleet);
    say("restored");
    a_host_that_loses_power_takes_its_part_back(&mut fleet);
    say("powered on again");
    a_cut_link_is_told_and_heals(&mut fleet);
    say("healed");
    // Whatever becomes of a certificate or of the CA, the two commands that everybody is told bring the hosts back.
    the_coordinator_goes_back_to_before_a_change_of_its_ca(&fleet);
    say("back after both changes of the CA");
    a_revoked_host(&fleet);
    say("back after a revocation");
    a_deleted_key(&fleet);
    say("back after the key was deleted");
    an_expired_certificate(&mut fleet);
    say("back after the certificate expired");
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
    assert_eq!(fleet.nodes_of(&fleet.backup()), ["h1", "h2", "h3"]);
}

fn an_agent_is_back_after_a_reboot_without_help(fleet: &Fleet) {
    let host = fleet.rack.host(2);
    let since = |host: &prexor_tests::rig::Host| {
        host.exec(&["systemctl", "show", "--property=ExecMainPID,ExecMainStartTimestampMonotonic", "prexor-agent"])
            .ok()
            .out
    };
    let before = since(host);
    fleet.rack.reboot(2);
    wait("the agent on h2 to be up", || fleet.is_active(2, "prexor-agent"));
    assert_ne!(since(host), before, "it was started anew");
    fleet.until_reachable(2);
    assert_eq!(fleet.nodes_of(&fleet.backup()), ["h1", "h2", "h3"]);
}

fn one_command_brings_back_what_is_wrecked(fleet: &Fleet) {
    let before = fleet.snapshot();
    let id = fleet.backup();
    fleet.wreck();
    let wrecked = fleet.snapshot();
    assert!(!before.differences(&wrecked).is_empty());

    let restored = fleet.ctl(&["restore", &id, "--yes"]).ok();
    assert!(restored.out.contains("RestoreExecutor: replace valkey RDB... OK"), "{restored:?}");
    let expected = before.restored_over(&wrecked);
    assert_eq!(expected.differences(&fleet.snapshot()), NOTHING);
    // Append-only files are what the server loads when it starts again (law L12).
    fleet.restart_valkey();
    assert_eq!(expected.differences(&fleet.snapshot()), NOTHING);
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
    let said: Said = restore.wait_with_output().expect("prexorctl ends").into();
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
    assert_eq!(fleet.node(3)["reachable"], false);
    fleet.rack.heal();
    fleet.until_reachable(3);
    fleet.backup();
}

const COMMANDS: [&str; 2] = ["prexorctl token create --description rejoin --ttl 1h", "prexorctl setup --rejoin"];

fn the_coordinator_goes_back_to_before_a_change_of_its_ca(fleet: &Fleet) {
    let host = fleet.rack.host(1);
    let change = |script: &str| {
        host.exec(&["systemctl", "stop", "prexor-coordinator"]).ok();
        host.exec(&["sh", "-ec", script]).ok();
        host.exec(&["systemctl", "start", "prexor-coordinator"]).ok();
        // The operators' certificates are of the other CA, too: the way back in is on the host.
        wait("the coordinator's CA", || host.exec(&["prexor-coordinator", "issue-operator"]).code == 0);
        wait("the coordinator to answer", || fleet.ctl(&["status"]).code == 0);
    };
    let first = ca(fleet);
    change("cp -a /var/lib/prexor-coordinator /root/rolled-back; rm -r /var/lib/prexor-coordinator/ca");
    let second = ca(fleet);
    assert_ne!(first, second);
    everybody_is_refused_and_comes_back(fleet, &[&first, &second]);
    change("rm -r /var/lib/prexor-coordinator; mv /root/rolled-back /var/lib/prexor-coordinator");
    assert_eq!(ca(fleet), first);
    everybody_is_refused_and_comes_back(fleet, &[&first, &second]);
}

fn ca(fleet: &Fleet) -> String {
    fleet.ctl(&["status", "--json"]).ok().json()["ca_fingerprint"].as_str().expect("a fingerprint").to_owned()
}

fn everybody_is_refused_and_comes_back(fleet: &Fleet, fingerprints: &[&str]) {
    for host in 1..=3 {
        is_told(fleet, host, fingerprints);
    }
    let refused = fleet.ctl(&["backup", "create"]);
    assert_ne!(refused.code, 0);
    for word in COMMANDS.iter().chain(fingerprints) {
        assert!(refused.err.contains(word), "{word} is missing: {refused:?}");
    }
    for host in 1..=3 {
        comes_back(fleet, host);
    }
    assert_eq!(fleet.nodes_of(&fleet.backup()), ["h1", "h2", "h3"]);
}

/// What status says of a host that is refused: the two commands, and this.
fn is_told(fleet: &Fleet, host: usize, words: &[&str]) {
    let name = &fleet.rack.host(host).name;
    let mut problems = String::new();
    let about = |problem: &&str| problem.contains(name.as_str());
    wait(&format!("the reason why {name} is refused, with {words:?}"), || {
        let status = fleet.ctl(&["status", "--json"]).ok().json();
        let all = status["problems"].as_array().expect("problems").iter().filter_map(|p| p.as_str());
        problems = all.filter(about).collect();
        COMMANDS.iter().chain(words).all(|word| problems.contains(word))
    });
}

fn comes_back(fleet: &Fleet, host: usize) -> Said {
    let config = fleet.rack.host(host).path("/etc/prexor-agent/agent.yml");
    let before = std::fs::read_to_string(&config).expect("agent.yml");
    let said = fleet.rejoin(host).ok();
    assert_eq!(said.json()["started"], true, "{said:?}");
    assert_eq!(std::fs::read_to_string(&config).expect("agent.yml"), before);
    fleet.until_reachable(host);
    said
}

fn a_revoked_host(fleet: &Fleet) {
    fleet.ctl(&["node", "revoke", "h2", "--yes"]).ok();
    is_told(fleet, 2, &["revoked"]);
    assert_eq!(fleet.nodes_of(&fleet.backup()), ["h1", "h3"]);
    comes_back(fleet, 2);
    assert_eq!(fleet.nodes_of(&fleet.backup()), ["h1", "h2", "h3"]);
}

fn a_deleted_key(fleet: &Fleet) {
    let host = fleet.rack.host(3);
    host.exec(&["rm", "-r", "/var/lib/prexor-agent/credential"]).ok();
    host.exec(&["systemctl", "restart", "--no-block", "prexor-agent"]).ok();
    wait("the agent's reason", || COMMANDS.iter().all(|command| fleet.journal(3).contains(command)));
    comes_back(fleet, 3);
    assert_eq!(fleet.nodes_of(&fleet.backup()), ["h1", "h2", "h3"]);
}

fn an_expired_certificate(fleet: &mut Fleet) {
    fleet.restart_coordinator("certificates:\n  agent: 5s\n");
    comes_back(fleet, 2);
    // A host that is off renews nothing.
    fleet.rack.kill(2);
    fleet.restart_coordinator("");
    std::thread::sleep(std::time::Duration::from_secs(6));
    fleet.rack.boot(2);
    is_told(fleet, 2, &["expired"]);
    assert_ne!(fleet.ctl(&["backup", "create"]).code, 0);
    comes_back(fleet, 2);
    assert_eq!(fleet.nodes_of(&fleet.backup()), ["h1", "h2", "h3"]);
}
