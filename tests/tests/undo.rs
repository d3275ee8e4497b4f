//! The way back from a restore that succeeded: what it saved of the state before it, and `restore --undo`.

use prexor_tests::{cluster::Cluster, equality::Snapshot};
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
    assert_eq!(backed_up.differences(&cluster.snapshot().await), NOTHING);

    let saved = text(&restored, "safety_backup");
    let shown = cluster.ctl(&["backup", "show", &saved, "--json"]).ok().json();
    let job = text(&restored, "job_id");
    assert_eq!(shown["safety_of"].as_str(), Some(job.as_str()), "{shown}");
    cluster.ctl(&["backup", "verify", &saved]).ok();
    let latest = cluster.ctl(&["restore", "latest", "--dry-run", "--json"]).ok().json();
    assert_eq!(text(&latest, "backup_id"), id, "what was saved is not what an operator backed up");

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
