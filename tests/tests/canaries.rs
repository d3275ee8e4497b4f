//! Secrets are planted in every place a secret can be; then everything that is written or shown is searched for them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use prexor_tests::cluster::Cluster;

/// A file, or what a command printed, and what is in it.
type Shown = (String, Vec<u8>);

/// Every readable file below a directory, but for those in `but`.
fn files(dir: &Path, but: &[&Path], found: &mut Vec<Shown>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if but.iter().any(|b| path == *b) || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            files(&path, but, found);
        } else if let Ok(bytes) = fs::read(&path) {
            found.push((path.display().to_string(), bytes));
        }
    }
}

/// The command lines of our programs, as anybody on the host sees them.
fn processes() -> Vec<Shown> {
    let pids = fs::read_dir("/proc").expect("/proc").flatten().map(|e| e.path());
    let all = pids.filter_map(|p: PathBuf| Some((p.display().to_string(), fs::read(p.join("cmdline")).ok()?)));
    let ours: Vec<Shown> = all.filter(|(_, line)| String::from_utf8_lossy(line).contains("prexor-")).collect();
    assert!(ours.len() >= 2, "the daemons run");
    ours
}

fn find<'a>(secrets: &[(&str, String)], shown: &'a [Shown]) -> Vec<(String, &'a str)> {
    let mut found = Vec::new();
    for (name, secret) in secrets {
        for (place, bytes) in shown {
            if bytes.windows(secret.len()).any(|w| w == secret.as_bytes()) {
                found.push(((*name).to_owned(), place.as_str()));
            }
        }
    }
    found
}

#[tokio::test]
async fn no_secret_is_shown_anywhere() {
    let mut cluster = Cluster::start().await;
    let mut shown: Vec<Shown> = Vec::new();
    let mut ctl = |cluster: &Cluster, args: &[&str]| {
        let said = cluster.ctl(args);
        shown.push((format!("prexorctl {}", args.join(" ")), (said.out.clone() + &said.err).into_bytes()));
        said
    };
    // What goes well, what is refused, and what fails half way.
    let id = cluster.backup();
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["backup", "show", &id, "--json"],
        &["backup", "verify", &id, "--json"],
        &["restore", &id, "--dry-run"],
        &["restore", &id, "--yes"],
        &["job", "list", "--json"],
        &["token", "list", "--json"],
        &["audit", "--limit", "0", "--json"],
        &["backup", "delete", "bk-2020-01-01-001", "--yes"],
    ] {
        ctl(&cluster, args);
    }
    let token = cluster.token(&["--description", "a canary"]);
    let spent = cluster.token(&["--node", "h2"]);
    let dir = tempfile::tempdir().expect("a directory");
    cluster.setup("h2", &spent, dir.path()).ok();
    let again = cluster.setup("h2", &spent, tempfile::tempdir().expect("a directory").path());
    let mistyped = cluster.setup("h3", &token[..token.len() - 1], tempfile::tempdir().expect("a directory").path());
    for said in [again, mistyped] {
        assert_ne!(said.code, 0);
        shown.push(("setup".to_owned(), (said.out + &said.err).into_bytes()));
    }
    ctl_all(&cluster, &mut shown);
    // A wrong password, and a database that is gone: their drivers' messages go through ours.
    let config = cluster.dir().join("agent.yml");
    let good = fs::read_to_string(&config).expect("agent.yml");
    let uri =
        "mongodb://canary-user:canary-mongo-password@127.0.0.1:1/?directConnection=true&serverSelectionTimeoutMS=500";
    let valkey = "redis://:canary-valkey-password@127.0.0.1:1";
    fs::write(&config, format!("{good}mongo: {{uri: '{uri}'}}\nvalkey: {{uri: '{valkey}'}}\n")).expect("agent.yml");
    cluster.kill_agent();
    cluster.start_agent().await;
    let failed = cluster.ctl(&["backup", "create", "--json"]);
    assert_ne!(failed.code, 0);
    shown.push(("a failed backup".to_owned(), (failed.out + &failed.err).into_bytes()));
    ctl_all(&cluster, &mut shown);
    shown.extend(processes());

    let key = |dir: &Path| {
        let pem = fs::read_to_string(dir).expect("a key");
        pem.lines().nth(1).expect("its first line").to_owned()
    };
    let secret = |token: &str| token[20..60].to_owned();
    let secrets = [
        ("the CA's key", key(&cluster.coordinator_state().join("ca/ca-key.pem"))),
        ("the agent's key", key(&cluster.agent_state().join("credential/current/key.pem"))),
        ("the coordinator's key", key(&cluster.coordinator_state().join("credential/current/key.pem"))),
        ("the operator's key", key(&cluster.dir().join("prexorctl/credentials/default/current/key.pem"))),
        ("an unspent token", secret(&token)),
        ("a spent token", secret(&spent)),
        ("MongoDB's password", prexor_tests::servers::MONGO_PASSWORD.to_owned()),
        ("Valkey's password", "valkey-secret".to_owned()),
        ("another password of MongoDB", "canary-mongo-password".to_owned()),
        ("another password of Valkey", "canary-valkey-password".to_owned()),
    ];
    // Everything that our programs wrote, but for where the secrets are kept and for the data itself.
    let kept = [
        cluster.coordinator_state().join("ca"),
        cluster.coordinator_state().join("credential"),
        cluster.agent_state().join("credential"),
        // What was in controller.yml, for when that is lost: 0600, like it.
        cluster.agent_state().join("controller.json"),
        cluster.dir().join("prexorctl/credentials"),
        cluster.dir().join("etc"),
        cluster.dir().join("token"),
        config.clone(),
    ];
    let kept: Vec<&Path> = kept.iter().map(PathBuf::as_path).collect();
    files(cluster.dir(), &kept, &mut shown);
    assert!(shown.iter().any(|(place, _)| place.ends_with("manifest.json")), "manifests were looked at");
    assert!(shown.iter().any(|(place, _)| place.ends_with("catalog.sqlite")), "and the catalog with its events");
    assert!(shown.iter().any(|(place, bytes)| place.ends_with("prexor-agent.log") && !bytes.is_empty()), "and logs");
    // Stored files of the backup are the data; of what is compressed nothing could be found anyway.
    let found = find(&secrets, &shown);
    assert!(found.is_empty(), "{found:#?}");

    // The search does find one where it was put on purpose.
    shown.push(("a log".to_owned(), format!("opened with {}", secrets[4].1).into_bytes()));
    assert_eq!(find(&secrets, &shown), [("an unspent token".to_owned(), "a log")]);
}

fn ctl_all(cluster: &Cluster, shown: &mut Vec<Shown>) {
    for job in cluster.jobs() {
        let id = job["id"].as_str().expect("an id").to_owned();
        let said = cluster.ctl(&["job", "watch", &id, "--json"]);
        shown.push((format!("the events of {id}"), (said.out + &said.err).into_bytes()));
    }
}
