//! The way back from a restore that succeeded: what it saved of the state before it, and `restore --undo`.

use mongodb::bson::{Document, doc};
use prexor_tests::{cluster::Cluster, dataset::DATABASE, equality::Snapshot};
use serde_json::Value;

const NOTHING: [String; 0] = [];

/// Some other data than what is in the backup.
async fn changed(cluster: &Cluster) -> (String, Snapshot, Snapshot) {
    let backed_up = cluster.snapshot().await;
    let id = cluster.backup();
    cluster.destroy().await;
    cluster.write_controller_yml();
    let live = cluster.snapshot().await;
    (id, backed_up.restored_over(&live), live)
}

fn restore(cluster: &Cluster, args: &[&str]) -> Value {
    cluster.ctl(&[&["restore", "--yes", "--json"], args].concat()).ok().json()
}

fn text(document: &Value, key: &str) -> String {
    document[key].as_str().unwrap_or_else(|| panic!("{key} in {document}")).to_owned()
}

#[tokio::test]
async fn what_a_restore_replaced_comes_back() {
    let cluster = Cluster::start().await;
    let (id, backed_up, live) = changed(&cluster).await;
    let restored = restore(&cluster, &[&id]);
    assert!(restored["took_seconds"].as_f64().is_some_and(|s| s > 0.0), "{restored}");
    assert_eq!(backed_up.differences(&cluster.snapshot().await), NOTHING);

    let saved = text(&restored, "safety_backup");
    let shown = cluster.ctl(&["backup", "show", &saved, "--json"]).ok().json();
    let job = text(&restored, "job_id");
    assert_eq!(shown["safety_of"].as_str(), Some(job.as_str()), "{shown}");
    cluster.ctl(&["backup", "verify", &saved]).ok();
    let latest = cluster.ctl(&["restore", "latest", "--dry-run", "--json"]).ok().json();
    assert_eq!(text(&latest, "backup_id"), id, "what was saved is not what an operator backed up");

    says_what_it_does_to_those_who_use_the_cluster(&cluster, &id).await;

    let undone = restore(&cluster, &["--undo", &job]);
    assert_eq!(text(&undone, "backup_id"), saved);
    let expected = live.restored_over(&backed_up);
    assert_eq!(expected.differences(&cluster.snapshot().await), NOTHING);
    // And forth again.
    let again = restore(&cluster, &["--undo", &text(&undone, "job_id")]);
    let expected = backed_up.restored_over(&expected);
    assert_eq!(expected.differences(&cluster.snapshot().await), NOTHING);

    let before = restore(&cluster, &[&id, "--safety", "before-stop"]);
    assert_ne!(text(&before, "safety_backup"), text(&again, "safety_backup"));
    let backups = cluster.backups().len();
    let none = restore(&cluster, &[&id, "--safety", "none"]);
    assert!(none["safety_backup"].is_null() && cluster.backups().len() == backups, "{none}");
    let refused = cluster.ctl(&["restore", "--undo", &text(&none, "job_id"), "--yes"]).failed(3);
    assert!(refused.err.contains("it saved nothing of the state before it"), "{refused:?}");
    let backup_job = cluster.jobs().pop().expect("the first job of all");
    let refused = cluster.ctl(&["restore", "--undo", &text(&backup_job, "id"), "--yes"]).failed(3);
    assert!(refused.err.contains("it is no restore"), "{refused:?}");
}

/// What has changed since the backup is named in its plan; afterwards everything is as it was.
async fn says_what_it_does_to_those_who_use_the_cluster(cluster: &Cluster, id: &str) {
    let plan = || cluster.ctl(&["restore", id, "--dry-run", "--json"]).ok().json();
    let names = |plan: &Value, what: &str| -> Vec<String> {
        let all = plan["consequences"].as_array().expect("a list").iter().filter(|c| c["what"] == what);
        let names = all.flat_map(|c| c["names"].as_array().expect("names").iter());
        names.map(|n| n.as_str().expect("a name").to_owned()).collect()
    };
    let before = plan();
    assert_eq!(before["consequences"], Value::Array(vec![]), "nothing has changed since");
    assert!(before["prediction"]["total_seconds"].as_f64().is_some_and(|s| s > 0.0), "one was measured: {before}");
    assert_eq!(before["options"]["safety"], "after-stop");

    let db = cluster.mongod.client().await.database(DATABASE);
    let (users, plans) = (db.collection::<Document>("users"), db.collection::<Document>("instance_composition_plans"));
    let admin = doc! { "username": "admin" };
    let hash = users
        .find_one(admin.clone())
        .await
        .expect("users")
        .expect("an admin")
        .get_str("passwordHash")
        .map(str::to_owned);
    let hash = hash.expect("a password");
    users
        .insert_one(doc! { "_id": "dora", "passwordHash": "h", "email": "d@example.org", "username": "dora" })
        .await
        .expect("a user");
    let set = |hash: &str| doc! { "$set": { "passwordHash": hash } };
    users.update_one(admin.clone(), set("another")).await.expect("a password");
    plans.insert_one(doc! { "_id": "lobby-77", "nodeId": "node-2" }).await.expect("an instance");
    let ca = cluster.root().join("data/certs/ca.pem");
    let (own, times) = (std::fs::read(&ca).expect("a CA"), std::fs::metadata(&ca).expect("a CA"));
    std::fs::write(&ca, "-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n").expect("another CA");

    let changed = plan();
    assert_eq!(names(&changed, "account-lost"), ["dora"], "{changed}");
    assert_eq!(names(&changed, "account-changed"), ["admin"]);
    assert_eq!(names(&changed, "instance-ends"), ["lobby-77"]);
    assert_eq!(changed["rejoin"], serde_json::json!(["node-1", "node-2", "node-3", "node-4"]));
    assert_ne!(changed["digest"], before["digest"], "who must rejoin is agreed to");
    let said = cluster.ctl(&["restore", id, "--dry-run"]).ok().out;
    for words in ["lobby-77 on node-2", "`prexorctl setup --rejoin`", "accounts made since the backup are lost: dora"] {
        assert!(said.contains(words), "{said}");
    }
    assert!(!said.contains(&hash), "no secret is shown");

    users.delete_one(doc! { "_id": "dora" }).await.expect("no user");
    users.update_one(admin, set(&hash)).await.expect("the password");
    plans.delete_one(doc! { "_id": "lobby-77" }).await.expect("no instance");
    std::fs::write(&ca, own).expect("the CA");
    let file = std::fs::File::options().write(true).open(&ca).expect("the CA");
    file.set_modified(times.modified().expect("a time")).expect("the time of before");
    assert_eq!(plan()["digest"], before["digest"]);
}

/// What is broken already cannot be saved, and is what a restore is for.
#[tokio::test]
async fn what_cannot_be_read_is_named_and_blocks_nothing() {
    let cluster = Cluster::start().await;
    let (id, backed_up, live) = changed(&cluster).await;
    std::fs::remove_dir_all(cluster.root()).expect("the controller's files to remove");

    let restored = restore(&cluster, &[&id]);
    let saved = text(&restored, "safety_backup");
    let shown = cluster.ctl(&["backup", "show", &saved, "--json"]).ok().json();
    assert!(shown["warnings"].to_string().contains("filesystem cannot be captured"), "{shown}");
    let kinds: Vec<_> = shown["scope"].as_array().expect("kinds").iter().filter_map(Value::as_str).collect();
    assert_eq!(kinds, ["mongo", "valkey"]);
    cluster.ctl(&["backup", "verify", &saved]).ok();

    restore(&cluster, &["--undo", &text(&restored, "job_id")]);
    let now = cluster.snapshot().await;
    let expected = Snapshot { files: now.files.clone(), ..live.restored_over(&backed_up) };
    assert_eq!(expected.differences(&now), NOTHING);
    assert!(now.files.len() > 100, "the files stay as they were restored");
}
