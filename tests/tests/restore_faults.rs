//! Restores that are interrupted: whatever dies, the end is all-old or all-new, and nothing is left behind.

use std::process::{Child, Stdio};

use mongodb::{
    Client,
    options::{ClientOptions, DriverInfo},
};
use prexor_tests::{
    cluster::{Cluster, Said},
    dataset::DATABASE,
    equality::Snapshot,
    servers::{PATIENCE, wait_until},
};

async fn temporary_collections(cluster: &Cluster) -> usize {
    let names = cluster.mongod.client().await.database(DATABASE).list_collection_names().await.expect("names");
    names.iter().filter(|n| n.starts_with("_prexor_")).count()
}

/// A restore that has begun to load collections beside the live ones.
async fn restore_has_begun(cluster: &Cluster, id: &str) -> Child {
    let mut command = cluster.ctl_command(&["restore", id, "--yes", "--json"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("prexorctl can be started");
    wait_until("the restore to load", PATIENCE, async || temporary_collections(cluster).await > 0).await;
    child
}

/// Some other data than what is in the backup, so that all-old and all-new differ.
async fn changed(cluster: &Cluster) -> (String, Snapshot, Snapshot) {
    let backed_up = cluster.snapshot().await;
    let id = cluster.backup();
    cluster.destroy().await;
    cluster.write_controller_yml();
    let live = cluster.snapshot().await;
    (id, backed_up.restored_over(&live), live)
}

async fn is_as(cluster: &Cluster, expected: &Snapshot) {
    assert_eq!(expected.differences(&cluster.snapshot().await), [] as [String; 0]);
    assert_eq!(temporary_collections(cluster).await, 0);
    let beside: Vec<_> = std::fs::read_dir(cluster.root().parent().expect("a parent"))
        .expect("the root's parent")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(beside, ["prexorcloud"], "nothing is left beside the root");
}

fn last_job(cluster: &Cluster) -> serde_json::Value {
    cluster.ctl(&["job", "list", "--json"]).ok().json()[0].clone()
}

async fn job_has_ended(cluster: &Cluster) -> serde_json::Value {
    let ended = || !matches!(last_job(cluster)["state"].as_str(), Some("running" | "queued"));
    wait_until("the job to end", PATIENCE, async || ended()).await;
    last_job(cluster)
}

#[tokio::test]
async fn a_coordinator_that_dies_takes_the_restore_back_when_it_is_back() {
    let mut cluster = Cluster::start().await;
    let (id, backed_up, live) = changed(&cluster).await;
    let restore = restore_has_begun(&cluster, &id).await;
    cluster.kill_coordinator();
    cluster.start_coordinator().await;
    let job = job_has_ended(&cluster).await;
    assert_eq!((&job["state"], &job["failure"]["reason"]), (&"failed".into(), &"INTERRUPTED".into()), "{job}");
    is_as(&cluster, &live).await;
    let said: Said = restore.wait_with_output().expect("prexorctl ends").into();
    assert_ne!(said.code, 0, "the one who watched comes to know it: {said:?}");
    cluster.ctl(&["restore", &id, "--yes"]).ok();
    is_as(&cluster, &backed_up).await;
}

#[tokio::test]
async fn an_agent_that_dies_is_waited_for_and_takes_back() {
    let mut cluster = Cluster::start().await;
    let (id, backed_up, live) = changed(&cluster).await;
    let restore = restore_has_begun(&cluster, &id).await;
    cluster.kill_agent();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(last_job(&cluster)["state"], "running", "it waits");
    cluster.start_agent().await;
    assert_eq!(job_has_ended(&cluster).await["state"], "failed");
    is_as(&cluster, &live).await;
    let said: Said = restore.wait_with_output().expect("prexorctl ends").into();
    assert!(said.code != 0 && said.err.contains("as it was before"), "{said:?}");
    cluster.ctl(&["restore", &id, "--yes"]).ok();
    is_as(&cluster, &backed_up).await;
}

#[tokio::test]
async fn a_cancelled_restore_leaves_everything_as_it_was() {
    let cluster = Cluster::start().await;
    let (id, _, live) = changed(&cluster).await;
    let restore = restore_has_begun(&cluster, &id).await;
    cluster.ctl(&["job", "cancel", last_job(&cluster)["id"].as_str().expect("an id")]).ok();
    assert_eq!(job_has_ended(&cluster).await["state"], "cancelled");
    is_as(&cluster, &live).await;
    let said: Said = restore.wait_with_output().expect("prexorctl ends").into();
    assert_ne!(said.code, 0, "{said:?}");
}

/// The first start of Valkey fails. The databases are swapped first, so that comes after live data has changed.
async fn valkey_fails_once(mut cluster: Cluster) -> Cluster {
    let config = cluster.dir().join("agent.yml");
    let good = std::fs::read_to_string(&config).expect("agent.yml");
    let start = cluster.valkey.as_ref().expect("Valkey").start_command();
    let once = cluster.dir().join("start-once");
    let script = format!(
        "#!/bin/sh\nif [ -e '{0}.tried' ]; then exec '{1}'; fi\ntouch '{0}.tried'\necho no memory >&2\nexit 1\n",
        once.display(),
        start.display()
    );
    std::fs::write(&once, script).expect("a script");
    std::fs::set_permissions(&once, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    std::fs::write(&config, good.replace(&start.display().to_string(), &once.display().to_string()))
        .expect("agent.yml");
    cluster.kill_agent();
    cluster.start_agent().await;
    cluster
}

#[tokio::test]
async fn a_valkey_that_does_not_start_takes_everything_back() {
    let cluster = Cluster::start().await;
    let (id, backed_up, live) = changed(&cluster).await;
    let cluster = valkey_fails_once(cluster).await;
    let said = cluster.ctl(&["restore", &id, "--yes"]);
    assert_ne!(said.code, 0, "{said:?}");
    assert!(said.err.contains("no memory") && said.err.contains("as it was before"), "{}", said.err);
    assert!(said.out.contains("RestoreExecutor: drop+restore mongo... OK"), "{}", said.out);
    assert!(said.out.contains("RestoreExecutor: replace valkey RDB... FAILED"), "{}", said.out);
    is_as(&cluster, &live).await;
    assert_eq!(cluster.backups().len(), 1, "what was saved before it is live again");
    cluster.ctl(&["restore", &id, "--yes"]).ok();
    is_as(&cluster, &backed_up).await;
}

/// A restore that has failed in between and holds the controller, which ran; its id, and what was live before.
async fn paused() -> (Cluster, String, Snapshot, Snapshot) {
    let cluster = Cluster::start().await;
    let (id, backed_up, live) = changed(&cluster).await;
    let cluster = valkey_fails_once(cluster).await;
    cluster.set_controller_running(true);
    let said = cluster.ctl(&["restore", &id, "--on-failure", "hold", "--yes"]);
    assert_ne!(said.code, 0, "{said:?}");
    let job = last_job(&cluster);
    let job_id = job["id"].as_str().expect("an id").to_owned();
    assert_eq!(job["state"], "paused", "{job}");
    assert!(said.err.contains("no memory") && said.err.contains(&format!("prexorctl job resume {job_id}")), "{said:?}");
    assert!(!cluster.controller_runs() && cluster.dir().join("agent/hold").exists());
    (cluster, job_id, backed_up, live)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_is_paused_keeps_everything_to_itself_until_it_goes_on() {
    let (mut cluster, job, backed_up, _) = paused().await;
    // It is paused over a restart too.
    cluster.kill_coordinator();
    cluster.start_coordinator().await;
    assert_eq!(last_job(&cluster)["state"], "paused");
    let status = cluster.ctl(&["status", "--json"]).json();
    assert!(status["problems"][0].as_str().is_some_and(|p| p.contains(&format!("{job} is paused"))), "{status}");
    let refused = cluster.ctl(&["backup", "create", "--no-queue"]);
    assert!(refused.code != 0 && refused.err.contains(&job), "{refused:?}");

    let saved = cluster.backups().into_iter().find(|b| b["safety_of"] == job.as_str()).expect("what was saved");
    let saved = saved["id"].as_str().expect("an id");
    let refused = cluster.ctl(&["backup", "prune", "--keep-days", "1"]).failed(3);
    assert!(refused.err.contains(&format!("{job} is a restore that has not ended")), "{refused:?}");
    cluster.ctl(&["backup", "prune", "--keep-days", "1", "--dry-run"]).ok();
    let refused = cluster.ctl(&["backup", "delete", saved, "--yes"]).failed(3);
    assert!(refused.err.contains(&format!("{job} uses {saved}")), "{refused:?}");

    let ready = cluster.answer_readiness().await;
    a_controller_that_nobody_knows_is_found_by_its_session(&cluster, &job).await;
    let said = cluster.ctl(&["job", "resume", &job]).ok();
    assert!(said.out.contains("RestoreExecutor: replace valkey RDB... OK"), "{said:?}");
    ready.abort();
    assert_eq!(last_job(&cluster)["state"], "succeeded");
    assert!(cluster.controller_runs() && !cluster.dir().join("agent/hold").exists());
    is_as(&cluster, &backed_up).await;
    cluster.ctl(&["job", "resume", &job]).failed(2);
    cluster.backup();
}

/// It says what PrexorCloud's driver says and logs in as it does (law L14). What only does one of both keeps nobody from going on.
async fn a_controller_that_nobody_knows_is_found_by_its_session(cluster: &Cluster, job: &str) {
    let connect = async |driver: &str, application: Option<&str>| {
        let mut options = ClientOptions::parse(cluster.mongod.uri()).await.expect("a URI");
        options.driver_info = Some(DriverInfo::builder().name(driver.to_owned()).build());
        options.app_name = application.map(str::to_owned);
        let client = Client::with_options(options).expect("a client");
        client.database(DATABASE).list_collection_names().await.expect("names");
        client
    };
    let reports = connect("mongo-java-driver|sync", Some("reports")).await;
    let exporter = connect("mongo-go-driver", None).await;
    let controller = connect("mongo-java-driver|sync", None).await;
    let refused = cluster.ctl(&["job", "resume", job]).failed(3);
    assert!(refused.err.contains("is connected to database prexorcloud on"), "{refused:?}");
    assert!(refused.err.contains("127.0.0.1:") && refused.err.contains("mongo-java-driver|sync"), "{refused:?}");
    assert!(!refused.err.contains("reports"), "{refused:?}");
    assert_eq!(last_job(cluster)["state"], "paused", "it goes on being held");
    controller.shutdown().await;
    drop((reports, exporter));
}

#[tokio::test]
async fn a_restore_that_is_paused_can_be_taken_back() {
    let (cluster, job, _, live) = paused().await;
    cluster.ctl(&["job", "cancel", &job]).ok();
    let ended = job_has_ended(&cluster).await;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    assert!(cluster.controller_runs() && !cluster.dir().join("agent/hold").exists());
    is_as(&cluster, &live).await;
    assert_eq!(cluster.backups().len(), 1, "what was saved is live again");
}
