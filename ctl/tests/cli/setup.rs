//! Enrolling: what is written, what is refused, and that nothing is left behind by what did not work.

use std::{fs, path::PathBuf};

use prexor_certs::{Credential, EnrolmentToken};
use prexor_format::digest::Sha256Digest;

use crate::{
    faults::on_a_terminal,
    scripted::{Said, Scripted},
};

/// The arguments of `setup` for this host, all in the coordinator's scratch directory.
fn arguments(coordinator: &Scripted, token: &EnrolmentToken) -> Vec<String> {
    let path = |name: &str| coordinator.dir.path().join(name).display().to_string();
    fs::write(path("token"), format!("{token}\n")).unwrap();
    let mut args = vec!["setup".to_owned()];
    for (flag, value) in [
        ("--coordinator", coordinator.enrolment.clone()),
        ("--token-file", path("token")),
        ("--node", "h1".to_owned()),
        ("--listen", "127.0.0.1:9445".to_owned()),
        ("--config", path("etc/agent.yml")),
        ("--state-dir", path("state")),
    ] {
        args.extend([flag.to_owned(), value]);
    }
    args
}

async fn setup(coordinator: &Scripted, args: &[String], more: &[&str]) -> Said {
    let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
    coordinator.run(&args).await
}

fn credential_dir(coordinator: &Scripted) -> PathBuf {
    coordinator.dir.path().join("state/credential")
}

#[tokio::test]
async fn a_host_is_enrolled_once() {
    let coordinator = Scripted::start().await;
    let args = arguments(&coordinator, &coordinator.token);
    let said = setup(&coordinator, &args, &["--root", "/etc/prexorcloud"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.starts_with("h1 is enrolled in test\n"), "{}", said.out);
    assert!(said.out.contains("start the agent with `prexor-agent --config"), "{}", said.out);
    let credential = Credential::load(&credential_dir(&coordinator)).unwrap();
    assert_eq!(credential.identity().to_string(), "prexor://test/agent/h1");
    let config = fs::read_to_string(coordinator.dir.path().join("etc/agent.yml")).unwrap();
    assert!(config.contains("node: h1\ncluster: test\n") && config.contains("root: /etc/prexorcloud\n"), "{config}");
    assert!(!config.contains("prexor1.") && !said.out.contains("prexor1."), "the token is nowhere");

    let said = setup(&coordinator, &args, &[]).await;
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("agent.yml is there already") && said.err.contains("--force"), "{}", said.err);
    let said = setup(&coordinator, &args, &["--force", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&json["identity"], &json["started"]), (&"prexor://test/agent/h1".into(), &false.into()));
}

#[tokio::test]
async fn a_token_that_is_refused_leaves_nothing() {
    let coordinator = Scripted::start().await;
    let spent = EnrolmentToken::generate(coordinator.token.pin());
    let said = setup(&coordinator, &arguments(&coordinator, &spent), &[]).await;
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.err.contains("prexorctl token create"), "{}", said.err);

    // The coordinator is not the one that made the token: it does not even get to see it.
    let stranger = EnrolmentToken::generate(Sha256Digest::of(b"another root"));
    let said = setup(&coordinator, &arguments(&coordinator, &stranger), &[]).await;
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.err.contains(&stranger.pin().to_string()), "{}", said.err);
    assert!(!credential_dir(&coordinator).exists() && !coordinator.dir.path().join("etc/agent.yml").exists());
}

#[tokio::test]
async fn a_place_that_cannot_be_written_does_not_cost_the_token() {
    let coordinator = Scripted::start().await;
    let args = arguments(&coordinator, &coordinator.token);
    fs::write(coordinator.dir.path().join("etc"), "in the way").unwrap();
    let said = setup(&coordinator, &args, &[]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("cannot write to"), "{}", said.err);
}

#[tokio::test]
async fn a_token_is_not_shown_while_it_is_typed() {
    let coordinator = Scripted::start().await;
    let dir = coordinator.dir.path().display().to_string();
    let (config, state) = (format!("{dir}/etc/agent.yml"), format!("{dir}/state"));
    let args =
        ["setup", "--coordinator", "127.0.0.1:1", "--node", "h1", "--advertise", "127.0.0.1:2", "--config", &config];
    let args = [&args[..], &["--state-dir", &state]].concat();
    let (said, screen) = on_a_terminal(&coordinator, &args, "hunter2hunter2\n").await;
    assert_eq!(said.code, Some(2), "{screen}");
    assert!(screen.contains("not an enrolment token") && !screen.contains("hunter2"), "{screen}");
    assert!(!std::path::Path::new(&config).exists());
}
