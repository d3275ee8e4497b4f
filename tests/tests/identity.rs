//! Certificates that end: revoked, replaced, lost, of another CA. Who is shut out, who gets back in, and how.

use std::{fs, path::Path, process::Stdio};

use prexor_tests::{
    cluster::{Cluster, Said},
    servers::{PATIENCE, wait_until},
};

fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(done.success());
}

fn problems(said: &Said) -> String {
    said.json()["problems"]
        .as_array()
        .expect("problems")
        .iter()
        .filter_map(|p| p.as_str())
        .collect::<Vec<_>>()
        .join("\n")
}

async fn until_reachable(cluster: &Cluster) {
    wait_until("the agent to be reachable", PATIENCE, async || {
        cluster.ctl(&["status", "--json"]).ok().json()["nodes"][0]["reachable"] == true
    })
    .await;
}

#[tokio::test]
async fn a_revoked_node_is_shut_out_at_once_and_for_good_until_it_rejoins() {
    let mut cluster = Cluster::start().await;
    cluster.ballast(200);
    let running = cluster.capture_has_begun("filesystem").await;
    let unspent = cluster.token(&["--node", "h1"]);
    let said = cluster.ctl(&["node", "revoke", "h1", "--yes", "--json"]).ok().json();
    assert_eq!(said["revoked"].as_array().map(Vec::len), Some(1), "{said}");
    let ended = Said::from(running.wait_with_output().expect("prexorctl"));
    assert_ne!(ended.code, 0, "the stream that was open broke: {ended:?}");

    cluster.ctl(&["backup", "create"]).failed(2);
    let status = cluster.ctl(&["status", "--json"]).ok();
    assert!(problems(&status).contains("h1 was revoked"), "{}", status.out);
    cluster.kill_coordinator();
    cluster.start_coordinator().await;
    cluster.ctl(&["backup", "create"]).failed(2);
    cluster.rejoin(&unspent).failed(3);

    let before = fs::read_to_string(cluster.dir().join("agent.yml")).expect("agent.yml");
    let token = cluster.token(&["--description", "rejoin", "--ttl", "1h"]);
    let said = cluster.rejoin(&token).ok();
    assert!(said.out.contains("h1 has rejoined test"), "{said:?}");
    assert_eq!(fs::read_to_string(cluster.dir().join("agent.yml")).expect("agent.yml"), before);
    until_reachable(&cluster).await;
    cluster.backup();
}

#[tokio::test]
async fn a_deleted_key_is_no_end() {
    let mut cluster = Cluster::start().await;
    cluster.kill_agent();
    fs::remove_dir_all(cluster.agent_state().join("credential")).expect("a directory");
    cluster.rejoin(&cluster.token(&["--description", "rejoin", "--ttl", "1h"])).ok();
    cluster.start_agent().await;
    cluster.backup();
    // What the host had before is good no more: whoever has a copy of it has nothing.
    let log = cluster.ctl(&["audit", "--json"]).ok();
    assert!(log.out.contains("rejoin"), "{}", log.out);
}

#[tokio::test]
async fn after_a_change_of_the_ca_two_commands_bring_a_host_back() {
    let mut cluster = Cluster::start().await;
    let state = cluster.coordinator_state();
    let fingerprint = |cluster: &Cluster| {
        cluster.ctl(&["status", "--json"]).ok().json()["ca_fingerprint"].as_str().expect("a word").to_owned()
    };
    let first = fingerprint(&cluster);
    cluster.kill_coordinator();
    copy(&state, &cluster.dir().join("rolled-back"));
    fs::remove_dir_all(state.join("ca")).expect("the CA");
    // The operators' certificates are of the old CA: the way back in is on the host.
    cluster.start_coordinator_unasked();
    let let_in = async |cluster: &Cluster| {
        wait_until("a CA", PATIENCE, async || cluster.issue_operator(&[]).code == 0).await;
        wait_until("the coordinator", PATIENCE, async || cluster.ctl(&["status"]).code == 0).await;
    };
    let_in(&cluster).await;
    let second = fingerprint(&cluster);
    assert_ne!(first, second);
    let come_back = async |cluster: &Cluster, here: &str, there: &str| {
        let status = cluster.ctl(&["status", "--json"]).ok();
        let said = problems(&status);
        for word in [here, there, "prexorctl token create --description rejoin --ttl 1h", "prexorctl setup --rejoin"] {
            assert!(said.contains(word), "{word} is missing in: {said}");
        }
        cluster.rejoin(&cluster.token(&["--description", "rejoin", "--ttl", "1h"])).ok();
        until_reachable(cluster).await;
        cluster.backup();
    };
    come_back(&cluster, &second, &first).await;

    cluster.kill_coordinator();
    fs::remove_dir_all(&state).expect("the state");
    fs::rename(cluster.dir().join("rolled-back"), &state).expect("the state");
    cluster.start_coordinator_unasked();
    let_in(&cluster).await;
    come_back(&cluster, &first, &second).await;
}

#[tokio::test]
async fn a_revoked_operator_sees_nothing_more_not_even_what_was_open() {
    let cluster = Cluster::start().await;
    cluster.ballast(100);
    let elsewhere = tempfile::tempdir().expect("a directory");
    let (config, file) = (elsewhere.path().join("config.yml"), elsewhere.path().join("token"));
    fs::write(&file, cluster.token(&["--role", "operator", "--node", "anna"])).expect("a file");
    let as_anna = |args: &[&str]| {
        let mut command = cluster.ctl_command(args);
        command.env("PREXORCTL_CONFIG", &config);
        command
    };
    let login = ["login", "--name", "anna", "--coordinator", &cluster.enrolment_address(), "--token-file"];
    let run = |args: &[&str]| Said::from(as_anna(args).output().expect("prexorctl"));
    run(&[&login[..], &[&file.display().to_string()]].concat()).ok();
    run(&["status"]).ok();
    let contexts = run(&["context", "list", "--json"]).ok().json();
    assert_eq!((&contexts[0]["name"], &contexts[0]["current"]), (&"test".into(), &true.into()));
    run(&["context", "use", "other"]).failed(4);

    let own = run(&["operator", "revoke", "anna", "--yes"]).failed(2);
    assert!(own.err.contains("issue-operator"), "{own:?}");
    let job = run(&["backup", "create", "--scope", "filesystem", "--detach", "--json"]).ok().json()["id"].clone();
    let mut watch = as_anna(&["job", "watch", job.as_str().expect("an id")]);
    let watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("prexorctl");
    cluster.ctl(&["operator", "revoke", "anna", "--yes"]).ok();
    let said = run(&["status"]).failed(3);
    assert!(said.err.contains("revoked"), "{said:?}");
    let watched = Said::from(watch.wait_with_output().expect("prexorctl"));
    assert_ne!(watched.code, 0, "{watched:?}");
}

#[tokio::test]
async fn tokens_are_listed_and_revoked_and_wrong_tries_run_out() {
    let cluster = Cluster::empty().await;
    let dir = tempfile::tempdir().expect("a directory");
    let (used, unused) = (cluster.token(&["--node", "h7"]), cluster.token(&["--description", "not needed"]));
    cluster.setup("h7", &used, dir.path()).ok();
    let list = |cluster: &Cluster| cluster.ctl(&["token", "list", "--json"]).ok().json();
    let tokens = list(&cluster);
    let of = |tokens: &serde_json::Value, description: &str| {
        let found = tokens.as_array().expect("tokens").iter().find(|t| t["description"] == description).cloned();
        found.expect("a token")
    };
    let id = of(&tokens, "not needed")["id"].as_str().expect("an id").to_owned();
    assert_eq!(of(&tokens, "not needed")["state"], "usable");
    assert!(!tokens.to_string().contains(&unused) && !tokens.to_string().contains("prexor1."));
    cluster.ctl(&["token", "revoke", &id]).ok();
    cluster.ctl(&["token", "revoke", &id]).failed(4);
    assert_eq!(of(&list(&cluster), "not needed")["state"], "revoked");

    // Spent, revoked, expired, never made: the answer is the same, and what it was is in the log.
    let short = cluster.token(&["--ttl", "1s"]);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let never = {
        let real: prexor_certs::EnrolmentToken = unused.parse().expect("a token");
        prexor_certs::EnrolmentToken::generate(real.pin()).to_string()
    };
    let fresh = || tempfile::tempdir().expect("a directory");
    let answers: Vec<_> = [&used, &unused, &short, &never]
        .into_iter()
        .map(|token| {
            let dir = fresh();
            cluster.setup("h8", token, dir.path()).failed(3).err
        })
        .collect();
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:#?}");
    let log = cluster.ctl(&["audit", "--json"]).ok().out;
    for why in ["already spent", "revoked", "expired", "unknown"] {
        assert!(log.contains(why), "{why}: {log}");
    }
    let good = cluster.token(&["--node", "h8"]);
    for _ in 0..7 {
        cluster.setup("h8", &never, fresh().path()).failed(3);
    }
    let said = cluster.setup("h8", &good, fresh().path()).failed(3);
    assert!(said.err.contains("too many wrong tries"), "{said:?}");
}
