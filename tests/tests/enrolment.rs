//! Who gets in: tokens that are spent once, for the name that they are bound to, and nobody without one.

use std::{fs, os::unix::fs::PermissionsExt as _};

use prexor_tests::cluster::Cluster;

#[tokio::test]
async fn a_token_is_good_once_and_for_its_name() {
    let cluster = Cluster::empty().await;
    let dir = || tempfile::tempdir().expect("a directory");
    let token = cluster.token(&["--node", "h2"]);

    let other = dir();
    let said = cluster.setup("h3", &token, other.path()).failed(3);
    assert!(!other.path().join("agent/credential").exists(), "{said:?}");

    let h2 = dir();
    cluster.setup("h2", &token, h2.path()).ok();
    let credential = h2.path().join("agent/credential");
    let keys = walk(&credential).into_iter().filter(|p| p.ends_with("key.pem")).collect::<Vec<_>>();
    assert!(!keys.is_empty());
    for key in keys {
        assert_eq!(fs::metadata(&key).expect("a key").permissions().mode() & 0o777, 0o600, "{}", key.display());
    }
    let nodes = cluster.ctl(&["status", "--json"]).ok().json()["nodes"].clone();
    let names: Vec<&str> = nodes.as_array().expect("nodes").iter().filter_map(|n| n["name"].as_str()).collect();
    assert_eq!(names, ["h1", "h2"]);

    let again = cluster.setup("h2", &token, dir().path()).failed(3);
    assert!(!again.err.contains(&token), "{}", again.err);
}

#[tokio::test]
async fn nobody_takes_the_place_of_an_enrolled_node_without_a_token_for_it() {
    let cluster = Cluster::empty().await;
    let general = cluster.token(&[]);
    let dir = tempfile::tempdir().expect("a directory");
    cluster.setup("h1", &general, dir.path()).failed(3);
    cluster.setup("h9", &general, dir.path()).ok();
}

#[tokio::test]
async fn a_token_of_another_ca_and_a_mistyped_one_reach_nobody() {
    let (cluster, other) = (Cluster::empty().await, Cluster::empty().await);
    let dir = tempfile::tempdir().expect("a directory");
    let foreign = other.token(&["--node", "h2"]);
    let said = cluster.setup("h2", &foreign, dir.path());
    assert!(said.code != 0 && said.err.contains("pins"), "both CAs are named: {said:?}");
    let good = cluster.token(&["--node", "h2"]);
    let mistyped = if good.ends_with('A') { good.replace('A', "B") } else { good.clone() + "A" };
    cluster.setup("h2", &mistyped, dir.path()).failed(2);
    cluster.setup("h2", &good, dir.path()).ok();
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}
