//! Certificates that live for seconds: renewed again and again under load, and nobody notices.

use std::{
    fs,
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use prexor_tests::{
    cluster::{Cluster, Said, Setup, program},
    servers::{self, PATIENCE, free_port, wait_until},
};

/// Agents besides the cluster's own.
const MORE_AGENTS: usize = 9;

/// How many renewals are waited for, of all agents together.
const RENEWALS: usize = 100;

/// How long that may take; it takes about a quarter of it.
const AT_MOST: Duration = Duration::from_secs(900);

/// An agent without data, so that many of them fit on one host.
struct Small {
    child: Option<Child>,
}

impl Small {
    fn start(cluster: &Cluster, node: &str, dir: &Path) -> Self {
        let token = dir.join("token");
        fs::write(&token, cluster.token(&["--node", node])).expect("a file");
        let (port, config) = (free_port(), dir.join("agent.yml"));
        let said = cluster.ctl(&[
            "setup",
            "--coordinator",
            &cluster.enrolment_address(),
            "--token-file",
            &token.display().to_string(),
            "--node",
            node,
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--config",
            &config.display().to_string(),
            "--state-dir",
            &dir.join("state").display().to_string(),
        ]);
        said.ok();
        let more = "\nmongo: {enabled: false}\nvalkey: {enabled: false}\nfilesystem: {enabled: false}\n";
        let text = fs::read_to_string(&config).expect("agent.yml") + more;
        fs::write(&config, text).expect("agent.yml");
        let mut command = Command::new(program("prexor-agent"));
        command.arg("--config").arg(&config);
        Self { child: Some(servers::spawn(&mut command, &dir.join("log")).expect("prexor-agent")) }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            servers::kill_now(child);
        }
    }
}

fn renewals(cluster: &Cluster) -> usize {
    cluster.log("prexor-coordinator").matches("an agent's certificate was renewed").count()
}

#[tokio::test]
async fn a_hundred_renewals_under_load_and_not_one_failed_call() {
    let cluster = Cluster::start_as(Setup {
        coordinator: "agents: {heartbeat: 1s}\ncertificates: {agent: 12s, coordinator: 15s, operator: 10s}\n",
        ..Setup::default()
    })
    .await;
    let dirs: Vec<_> = (0..MORE_AGENTS).map(|_| tempfile::tempdir().expect("a directory")).collect();
    let agents: Vec<_> =
        dirs.iter().enumerate().map(|(i, dir)| Small::start(&cluster, &format!("s{i}"), dir.path())).collect();
    wait_until("all agents to be reachable", PATIENCE, async || {
        let status = cluster.ctl(&["status", "--json"]).ok().json();
        let nodes = status["nodes"].as_array().expect("nodes").clone();
        nodes.len() == MORE_AGENTS + 1 && nodes.iter().all(|n| n["reachable"] == true)
    })
    .await;

    // Before, one may have been asked between its enrolment and its start.
    let before = cluster.log("prexor-coordinator").len();
    cluster.ballast(8);
    let (begun, mut calls, mut backups) = (Instant::now(), 0, 0);
    let mut backup: Option<Child> = None;
    while renewals(&cluster) < RENEWALS {
        assert!(begun.elapsed() < AT_MOST, "{} renewals after {:?}", renewals(&cluster), begun.elapsed());
        if let Some(mut running) = backup.take() {
            if running.try_wait().expect("a child").is_some() {
                let made = Said::from(running.wait_with_output().expect("prexorctl")).ok().json();
                cluster.ctl(&["backup", "delete", made["id"].as_str().expect("an id"), "--yes"]).ok();
                backups += 1;
            } else {
                backup = Some(running);
            }
        }
        if backup.is_none() {
            backup = Some(cluster.ctl_spawn(&["backup", "create", "--json", "--scope", "filesystem"]));
        }
        let status = cluster.ctl(&["status", "--json"]).ok().json();
        for node in status["nodes"].as_array().expect("nodes") {
            assert_eq!(node["reachable"], true, "{node:#}");
        }
        calls += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if let Some(running) = backup {
        Said::from(running.wait_with_output().expect("prexorctl")).ok();
        backups += 1;
    }
    let log = cluster.log("prexor-coordinator");
    assert!(log.contains("the coordinator's certificate was renewed"), "{log}");
    assert!(!log[before..].contains("does not answer"), "{log}");
    assert!(backups > 3 && calls > 50, "{backups} backups, {calls} calls");
    let serials = cluster.ctl(&["audit", "--limit", "0", "--json"]).ok().out;
    assert!(serials.contains("AdminService/Renew"), "the operator's certificate was renewed too");
    drop(agents);
}
