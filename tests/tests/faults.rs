//! The faults of the main job. Each leaves either the old state or nothing, and says what happened.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::PathBuf,
    process::{Child, Stdio},
};

use prexor_tests::{
    cluster::{Cluster, Said},
    servers::{PATIENCE, wait_until},
};
use serde_json::Value;

fn said(child: Child) -> Said {
    child.wait_with_output().expect("prexorctl ends").into()
}

fn last_job(cluster: &Cluster) -> Value {
    cluster.jobs()[0].clone()
}

#[tokio::test]
async fn ids_that_do_not_exist_or_are_none() {
    let cluster = Cluster::start().await;
    for verb in [&["backup", "show"][..], &["backup", "verify"], &["restore"]] {
        let with = |id| [verb, &[id, "--json"]].concat();
        let said = cluster.ctl(&with("bk-2020-01-01-001")).failed(4);
        assert!(said.err.contains("bk-2020-01-01-001"), "{}", said.err);
        for bad in ["../../etc", "bk-2020-01-01-001/..", "..", "bk-1"] {
            let said = cluster.ctl(&with(bad)).failed(2);
            assert!(said.err.contains(bad), "{}", said.err);
        }
    }
    cluster.ctl(&["backup", "delete", "..", "--yes"]).failed(2);
    cluster.ctl(&["restore", "latest", "--yes"]).failed(4);
    cluster.ctl(&["job", "watch", "job-000000000000"]).failed(4);
}

#[tokio::test]
async fn a_damaged_manifest_hides_nothing_else() {
    let cluster = Cluster::start().await;
    let (good, torn, gone) = (cluster.backup(), cluster.backup(), cluster.backup());
    let manifest = |id: &str| cluster.backup_dir(id).join("manifest.json");
    fs::write(manifest(&torn), "{\"format_version\": 1,").expect("a torn manifest");
    fs::remove_file(manifest(&gone)).expect("a missing manifest");
    let all = cluster.backups();
    let state = |id: &str| all.iter().find(|b| b["id"] == id).map(|b| b["state"].clone());
    assert_eq!(state(&good).unwrap(), "complete");
    assert_eq!(state(&torn).unwrap(), "damaged");
    assert!(state(&gone).is_none_or(|s| s == "damaged"), "{all:?}");
    let said = cluster.ctl(&["backup", "verify", &torn]);
    assert_ne!(said.code, 0);
    assert!((said.out + &said.err).contains("manifest"));
    assert_ne!(cluster.ctl(&["restore", &torn, "--yes"]).code, 0);
    // `latest` is the newest that can be restored.
    let plan = cluster.ctl(&["restore", "latest", "--dry-run", "--json"]).ok().json();
    assert_eq!(plan["backup_id"], good.as_str());
}

#[tokio::test]
async fn a_flipped_byte_in_any_artifact_is_named() {
    let cluster = Cluster::start().await;
    let id = cluster.backup();
    let dir = cluster.backup_dir(&id);
    let before = cluster.snapshot().await;
    for path in [
        "mongo/prexorcloud/audit_log.bson.gz",
        "mongo/prexorcloud/audit_log.metadata.json.gz",
        "valkey/dump.rdb",
        "filesystem/h1/etc-prexorcloud.tar.gz",
    ] {
        let flip = || {
            let mut file = fs::File::options().read(true).write(true).open(dir.join(path)).expect(path);
            let middle = file.metadata().expect("metadata").len() / 2;
            let mut byte = [0];
            file.seek(SeekFrom::Start(middle)).expect("seek");
            file.read_exact(&mut byte).expect("read");
            file.seek(SeekFrom::Start(middle)).expect("seek");
            file.write_all(&[byte[0] ^ 0x10]).expect("write");
        };
        flip();
        let said = cluster.ctl(&["backup", "verify", &id]).failed(1);
        assert!(said.out.contains("checksums FAILED") && said.out.contains(path), "{path}\n{}", said.out);
        // A restore finds it as well, and leaves everything as it was.
        assert_ne!(cluster.ctl(&["restore", &id, "--yes"]).code, 0, "{path}");
        assert_eq!(before.differences(&cluster.snapshot().await), [] as [String; 0], "{path}");
        flip();
    }
    cluster.ctl(&["backup", "verify", &id]).ok();
    fs::remove_file(dir.join("valkey/dump.rdb")).expect("remove");
    let said = cluster.ctl(&["backup", "verify", &id]).failed(1);
    assert!(said.out.contains("valkey/dump.rdb"), "{}", said.out);
}

#[tokio::test]
async fn an_agent_that_dies_in_a_capture_leaves_nothing() {
    let mut cluster = Cluster::start().await;
    cluster.ballast(512);
    let create = cluster.capture_has_begun("mongo,valkey,filesystem").await;
    cluster.kill_agent();
    let said = said(create);
    assert_ne!(said.code, 0, "{said:?}");
    assert!(said.err.contains("h1"), "{}", said.err);
    assert_eq!(last_job(&cluster)["state"], "failed");
    assert_eq!((cluster.backups(), cluster.backup_dirs()), (vec![], vec![]));
    cluster.start_agent().await;
    fs::remove_file(cluster.root().join("ballast.bin")).expect("remove");
    let id = cluster.backup();
    cluster.ctl(&["backup", "verify", &id]).ok();
}

#[tokio::test]
async fn a_coordinator_that_dies_in_a_capture_cleans_up_when_it_is_back() {
    let mut cluster = Cluster::start().await;
    cluster.ballast(512);
    let mut create = cluster.capture_has_begun("mongo,valkey,filesystem").await;
    cluster.kill_coordinator();
    assert_eq!(cluster.backup_dirs().len(), 1, "the kill came in the middle");
    cluster.start_coordinator().await;
    let job = last_job(&cluster);
    assert_eq!((&job["state"], &job["failure"]["reason"]), (&"failed".into(), &"INTERRUPTED".into()), "{job}");
    assert_eq!((cluster.backups(), cluster.backup_dirs()), (vec![], vec![]));
    // The prexorctl that watched comes to know it too; it must not hang.
    let waited = wait_until("prexorctl to end", PATIENCE, async || create.try_wait().expect("a child").is_some());
    waited.await;
    assert_ne!(said(create).code, 0);
}

#[tokio::test]
async fn a_cli_that_goes_away_cancels_nothing() {
    let cluster = Cluster::start().await;
    cluster.ballast(512);
    let mut create = cluster.capture_has_begun("mongo,valkey,filesystem").await;
    create.kill().expect("kill");
    create.wait().expect("wait");
    wait_until("the backup to complete", PATIENCE, async || cluster.backups().len() == 1).await;
    let job = last_job(&cluster);
    assert_eq!(job["state"], "succeeded");
    // Whoever comes later sees everything that happened, from the first event to the last.
    let events = cluster.ctl(&["job", "watch", job["id"].as_str().unwrap(), "--json"]).ok().out;
    let events: Vec<Value> = events.lines().map(|l| serde_json::from_str(l).expect("an event")).collect();
    assert!(events.windows(2).all(|pair| pair[0]["seq"].as_u64() < pair[1]["seq"].as_u64()), "{events:?}");
    assert_eq!((&events[0]["seq"], &events[0]["state"]), (&1.into(), &"running".into()));
    assert!(events[1]["message"]["text"].as_str().is_some_and(|t| t.contains("capturing mongo from h1")), "{events:?}");
    assert_eq!(events.last().unwrap()["state"], "succeeded");
    let figures: Vec<_> =
        events.iter().filter(|e| e["progress"].is_object()).map(|e| &e["progress"]["artifact_id"]).collect();
    assert_eq!(figures.len(), 3, "the newest figures of each artifact are kept, and no others: {figures:?}");
    let watched = cluster.ctl(&["job", "watch", job["id"].as_str().unwrap()]).ok();
    assert!(watched.out.contains(cluster.backups()[0]["id"].as_str().unwrap()), "{}", watched.out);
}

#[tokio::test]
async fn datastores_that_are_down_fail_the_backup_and_are_named() {
    let mut cluster = Cluster::start().await;
    cluster.mongod.stop().await;
    let said = cluster.ctl(&["backup", "create"]);
    assert_ne!(said.code, 0);
    assert!(said.err.contains("mongo") && said.err.contains("h1"), "{}", said.err);
    cluster.mongod.start().await;
    cluster.valkey.as_mut().unwrap().stop().await;
    let said = cluster.ctl(&["backup", "create"]);
    assert_ne!(said.code, 0);
    assert!(said.err.contains("alkey") && said.err.contains("h1"), "{}", said.err);
    cluster.valkey.as_mut().unwrap().start().await;
    assert_eq!((cluster.backups(), cluster.backup_dirs()), (vec![], vec![]));
    cluster.backup();
}

#[tokio::test]
async fn wrong_credentials_are_told_without_showing_them() {
    let cluster = Cluster::start().await;
    let yml = cluster.root().join("config/controller.yml");
    let good = fs::read_to_string(&yml).expect("controller.yml");
    let valkey = cluster.valkey.as_ref().unwrap();
    for (right, wrong, kind) in [
        (cluster.mongod.uri(), cluster.mongod.uri_with_wrong_password(), "mongo"),
        (valkey.uri(), valkey.uri_with_wrong_password(), "alkey"),
    ] {
        assert!(good.contains(&right));
        fs::write(&yml, good.replace(&right, &wrong)).expect("controller.yml");
        let said = cluster.ctl(&["backup", "create"]);
        assert_ne!(said.code, 0);
        assert!(said.err.contains(kind), "{}", said.err);
        for secret in [&right, &wrong] {
            let logs = [said.err.clone(), cluster.log("prexor-agent"), cluster.log("prexor-coordinator")].concat();
            assert!(!logs.contains(secret.as_str()), "{secret} was logged");
        }
    }
    fs::write(&yml, good).expect("controller.yml");
    assert_eq!(cluster.backup_dirs(), [] as [PathBuf; 0]);
    cluster.backup();
}

#[tokio::test]
async fn two_creates_at_once_do_not_disturb_each_other() {
    let cluster = Cluster::start().await;
    let start = || {
        let mut command = cluster.ctl_command(&["backup", "create", "--json"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("prexorctl can be started")
    };
    let (a, b) = (start(), start());
    let (a, b) = (said(a), said(b));
    let done: Vec<_> = [&a, &b].into_iter().filter(|s| s.code == 0).map(|s| s.json()["id"].clone()).collect();
    assert!(!done.is_empty(), "{a:?} {b:?}");
    for refused in [&a, &b].into_iter().filter(|s| s.code != 0) {
        assert!(refused.err.contains("job-"), "it names the job in the way: {}", refused.err);
    }
    let mut ids: Vec<_> = cluster.backups().iter().map(|b| b["id"].clone()).collect();
    ids.dedup();
    assert_eq!(ids.len(), done.len());
    for id in ids {
        cluster.ctl(&["backup", "verify", id.as_str().unwrap()]).ok();
    }
}

/// Hooks in place of systemd: the suite `ha` has that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_controller_is_stopped_for_a_restore_and_started_again() {
    let cluster = Cluster::start().await;
    let id = cluster.backup();
    let before = cluster.snapshot().await;
    cluster.set_controller_running(true);
    let dry = cluster.ctl(&["restore", &id, "--dry-run"]).ok();
    assert!(dry.out.contains("stopped, held, and started again"), "{dry:?}");
    assert!(cluster.controller_runs());
    // Nobody is there to ask.
    cluster.ctl(&["restore", &id]).failed(2);
    let held = cluster.dir().join("agent/hold");
    let restore = cluster.ctl_spawn(&["restore", &id, "--yes"]);
    wait_until("the controller to be held", PATIENCE, async || held.exists()).await;
    let ready = cluster.answer_readiness().await;
    assert!(said(restore).ok().out.contains("run again."), "the last line says so");
    assert!(cluster.controller_runs() && !held.exists());
    ready.abort();
    let expected = before.restored_over(&before);
    assert_eq!(expected.differences(&cluster.snapshot().await), [] as [String; 0]);
    // Stopped, it is left so.
    cluster.set_controller_running(false);
    let said = cluster.ctl(&["restore", &id, "--yes"]).ok();
    assert!(said.out.contains("to bring the cluster back."), "{said:?}");
    assert!(!cluster.controller_runs() && !held.exists());
}
