//! The backup CA is replaced while a backup streams.

use std::{fs, process::Command};

use prexor_certs::Credential;
use prexor_format::digest::Sha256Digest;
use prexor_tests::{
    cluster::{Cluster, Said, Setup},
    servers::{PATIENCE, wait_until},
};

#[tokio::test]
async fn no_stream_breaks_and_afterwards_nobody_has_a_certificate_of_the_old_root() {
    let setup = Setup { coordinator: "agents: {heartbeat: 1s}\n", ..Setup::default() };
    let mut cluster = Cluster::start_as(setup).await;
    cluster.ballast(300);
    let roots = |cluster: &Cluster| {
        let ca = cluster.ctl(&["ca", "show", "--json"]).ok().json();
        let roots = ca["roots"].as_array().expect("roots").clone();
        roots.iter().map(|r| r["sha256"].as_str().expect("a word").to_owned()).collect::<Vec<_>>()
    };
    let first = roots(&cluster);
    cluster.ctl(&["ca", "rotate", "--finish", "--yes"]).failed(2);
    let running = cluster.capture_has_begun("filesystem").await;
    cluster.ctl(&["ca", "rotate"]).ok();
    wait_until("the rotation to end", PATIENCE, async || {
        let now = roots(&cluster);
        now.len() == 1 && now != first
    })
    .await;
    let second = roots(&cluster);
    Said::from(running.wait_with_output().expect("prexorctl")).ok();
    cluster.backup();

    let issuer = |dir: std::path::PathBuf| {
        let credential = Credential::load(&dir).expect("a credential");
        Sha256Digest::of(credential.chain().last().expect("a root")).to_string()
    };
    wait_until("everybody to forget the old root", PATIENCE, async || {
        cluster.ctl(&["status"]).ok();
        let dirs = [
            cluster.agent_state().join("credential"),
            cluster.coordinator_state().join("credential"),
            cluster.dir().join("prexorctl/credentials/default"),
        ];
        dirs.iter().all(|dir| {
            let credential = Credential::load(dir).expect("a credential");
            issuer(dir.clone()) == second[0] && credential.roots().len() == 1
        })
    })
    .await;
    // What is in use now, strictly checked by somebody else.
    for (dir, purpose) in [
        (cluster.agent_state().join("credential"), "sslserver"),
        (cluster.coordinator_state().join("credential"), "sslserver"),
        (cluster.dir().join("prexorctl/credentials/default"), "sslclient"),
    ] {
        let mut openssl = Command::new("openssl");
        openssl.args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile", "roots.pem", "cert.pem"]);
        let said = Said::from(openssl.current_dir(dir.join("current")).output().expect("openssl"));
        assert_eq!(said.ok().out, "cert.pem: OK\n", "{}", dir.display());
    }
    let retired = fs::read_dir(cluster.coordinator_state()).expect("the state").flatten();
    assert!(retired.into_iter().any(|e| e.file_name().to_string_lossy().starts_with("ca-retired-")));
    cluster.kill_coordinator();
    cluster.start_coordinator().await;
    cluster.kill_agent();
    cluster.start_agent().await;
    assert_eq!(roots(&cluster), second);
    cluster.backup();
}
