//! Jobs that are in each other's way take turns, in the order in which they were asked for, and say so.

use std::{fs, process::Child};

use jiff::Timestamp;
use prexor_tests::{
    cluster::{Cluster, Said, Setup},
    servers::{PATIENCE, wait_until},
};
use serde_json::Value;

fn said(child: Child) -> Said {
    child.wait_with_output().expect("prexorctl ends").into()
}

async fn queued(cluster: &Cluster, count: usize) -> Vec<Value> {
    let waiting = || cluster.jobs().into_iter().filter(|j| j["state"] == "queued").collect::<Vec<_>>();
    wait_until("jobs to queue", PATIENCE, async || waiting().len() == count).await;
    waiting()
}

fn id(job: &Value) -> String {
    job["id"].as_str().expect("an id").to_owned()
}

fn time(value: &Value) -> Timestamp {
    value.as_str().expect("a time").parse().expect("a time in RFC 3339")
}

#[tokio::test]
async fn backups_of_the_same_take_turns_and_others_run_beside() {
    let cluster = Cluster::start().await;
    cluster.ballast(256);
    let first = cluster.capture_has_begun("filesystem").await;
    cluster.pause_agent();
    let holder = id(&cluster.jobs()[0]);

    let refused = cluster.ctl(&["backup", "create", "--scope", "filesystem", "--no-queue"]).failed(3);
    assert!(
        refused.err.contains(&holder) && refused.err.contains("backup of filesystem, running for"),
        "{}",
        refused.err
    );
    let detached = cluster.ctl(&["backup", "create", "--scope", "filesystem", "--detach"]).ok().out;
    assert!(detached.contains("makes the backup when it is its turn"), "{detached}");
    let waiting = cluster.ctl_command(&["backup", "create", "--scope", "filesystem,mongo"]);
    let last = spawn(waiting);
    let jobs = queued(&cluster, 2).await;
    let (second, third) = (id(&jobs[1]), id(&jobs[0]));
    let shown = cluster.ctl(&["job", "show", &third]).ok().out;
    assert!(shown.contains(&format!("waits:   for {holder} (backup of filesystem, running for ")), "{shown}");
    assert!(shown.contains(" and 1 other job"), "{shown}");
    let list = cluster.ctl(&["job", "list"]).ok().out;
    assert_eq!(list.lines().filter(|l| l.contains(" queued ")).count(), 2, "{list}");

    cluster.resume_agent();
    assert_eq!(said(first).code, 0);
    let last = said(last).ok();
    assert!(last.err.contains(&format!("queued behind {holder} (backup of filesystem, running for ")), "{}", last.err);
    assert!(last.err.contains("it is its turn"), "{}", last.err);
    assert!(last.out.starts_with("-> Backup bk-"), "what is printed is what the guide shows: {}", last.out);
    // Ended in the order in which they were asked for, and none began before the one in front had ended.
    let jobs = cluster.jobs();
    assert_eq!(jobs.iter().map(id).collect::<Vec<_>>(), [third, second, holder]);
    for pair in jobs.windows(2) {
        assert_eq!(pair[0]["state"], "succeeded");
        // As times: of their texts "1.5Z" would come after "1.501Z".
        assert!(time(&pair[0]["started_at"]) >= time(&pair[1]["finished_at"]), "{pair:?}");
    }
    assert_eq!(cluster.backups().len(), 3);
}

fn spawn(mut command: std::process::Command) -> Child {
    use std::process::Stdio;
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("prexorctl can be started")
}

#[tokio::test]
async fn verify_and_list_run_beside_a_backup() {
    let cluster = Cluster::start().await;
    cluster.ctl(&["backup", "verify", "latest"]).failed(4);
    let id = cluster.backup();
    cluster.ballast(256);
    let backup = cluster.capture_has_begun("filesystem").await;
    cluster.pause_agent();
    let verified = cluster.ctl(&["backup", "verify", "latest", "--json"]).ok().json();
    assert_eq!((&verified["backup_id"], &verified["ok"]), (&id.as_str().into(), &true.into()));
    assert_eq!(cluster.ctl(&["backup", "show", "latest", "--json"]).ok().json()["id"], id.as_str());
    assert_eq!(cluster.backups().len(), 1);
    cluster.resume_agent();
    said(backup).ok();
}

#[tokio::test]
async fn the_queue_is_bounded_and_a_job_that_waits_can_be_cancelled() {
    let cluster = Cluster::start_as(Setup { coordinator: "jobs: {max_queued: 1}", ..Setup::default() }).await;
    cluster.ballast(256);
    let first = cluster.capture_has_begun("filesystem").await;
    cluster.pause_agent();
    let second = cluster.ctl_spawn(&["backup", "create"]);
    let waiting = id(&queued(&cluster, 1).await[0]);
    let refused = cluster.ctl(&["backup", "create", "--scope", "mongo"]).failed(3);
    assert!(refused.err.contains("the queue is full (1 job)") && refused.err.contains(&waiting), "{}", refused.err);
    let cancelled = cluster.ctl(&["job", "cancel", &waiting]).ok().out;
    assert_eq!(cancelled, format!("{waiting} cancelled\n"));
    let second = said(second).failed(1);
    assert!(second.err.contains("was cancelled"), "{}", second.err);
    cluster.resume_agent();
    said(first).ok();
    assert_eq!(cluster.backups().len(), 1);
}

#[tokio::test]
async fn a_job_that_waits_outlives_its_coordinator() {
    let mut cluster = Cluster::start().await;
    cluster.ballast(256);
    let first = cluster.capture_has_begun("filesystem").await;
    let second = cluster.ctl_spawn(&["backup", "create", "--scope", "filesystem", "--json"]);
    queued(&cluster, 1).await;
    cluster.kill_coordinator();
    cluster.start_coordinator().await;
    assert_ne!(said(first).code, 0, "what ran is interrupted");
    let made = said(second).ok().json();
    assert_eq!(cluster.backups().len(), 1, "what waited has had its turn, and whoever watched saw it");
    cluster.ctl(&["backup", "verify", made["id"].as_str().expect("an id")]).ok();
}

#[tokio::test]
async fn a_restore_that_waited_looks_again_before_it_touches_anything() {
    let cluster = Cluster::start().await;
    let backup = cluster.backup();
    let before = cluster.snapshot().await;
    let yml = cluster.root().join("config/controller.yml");
    let good = fs::read_to_string(&yml).expect("controller.yml");
    cluster.ballast(256);
    for moved in ["the target", "a running controller"] {
        let capture = cluster.capture_has_begun("mongo,filesystem").await;
        let restore = cluster.ctl_spawn(&["restore", &backup, "--datastores", "--yes"]);
        queued(&cluster, 1).await;
        cluster.pause_agent();
        if moved == "the target" {
            fs::write(&yml, good.replace("database: prexorcloud", "database: elsewhere")).expect(moved);
            assert_ne!(fs::read_to_string(&yml).expect("controller.yml"), good);
        } else {
            cluster.set_controller_running(true);
        }
        cluster.resume_agent();
        said(capture);
        let restore = said(restore).failed(3);
        assert!(restore.err.contains("queued behind job-"), "{}", restore.err);
        let job = cluster.jobs()[0].clone();
        let reason = job["failure"]["reason"].as_str().expect("a reason").to_owned();
        assert_eq!((job["kind"].as_str(), job["state"].as_str()), (Some("restore"), Some("failed")));
        assert_eq!(reason, "PLAN_CHANGED", "{moved}: {job}");
        if moved == "the target" {
            fs::write(&yml, &good).expect("controller.yml");
        } else {
            cluster.set_controller_running(false);
        }
        let now = cluster.snapshot().await;
        assert!(before.mongo == now.mongo && before.valkey == now.valkey, "{moved}: {:?}", before.differences(&now));
    }
    cluster.ctl(&["restore", &backup, "--yes"]).ok();
}
