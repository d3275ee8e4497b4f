//! `backup prune`: what has had its time goes, and never the last good one.

use std::{collections::BTreeMap, fs, path::PathBuf};

use prexor_tests::cluster::Cluster;
use serde_json::Value;

/// Backups of other days than today: copies of one under other ids, as if they had been brought in from elsewhere.
fn of_the_past(cluster: &Cluster, id: &str, day: &str) -> String {
    let old = format!("bk-{day}-001");
    let (from, to) = (directory(cluster, id), directory(cluster, &old));
    copy(&from, &to);
    let path = to.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).expect("a manifest")).expect("JSON");
    manifest["id"] = old.as_str().into();
    manifest["started_at"] = format!("{day}T08:00:00Z").into();
    fs::write(path, serde_json::to_vec(&manifest).expect("JSON")).expect("a manifest");
    old
}

fn directory(cluster: &Cluster, id: &str) -> PathBuf {
    cluster.dir().join("store").join(id)
}

fn copy(from: &PathBuf, to: &PathBuf) {
    fs::create_dir(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy(&from, &to) } else { fs::copy(&from, &to).map(drop).expect("a copy") }
    }
}

/// By id, why each stays or goes.
fn reasons(pruned: &Value, which: &str) -> BTreeMap<String, String> {
    let text = |v: &Value| v.as_str().expect("text").to_owned();
    pruned[which].as_array().expect("a list").iter().map(|b| (text(&b["id"]), text(&b["reason"]))).collect()
}

#[tokio::test]
async fn what_has_had_its_time_goes_and_the_last_good_one_stays() {
    let cluster = Cluster::start().await;
    let today = cluster.backup();
    let old = ["2026-01-01", "2026-01-02"].map(|day| of_the_past(&cluster, &today, day));
    let damaged = of_the_past(&cluster, &today, "2026-01-03");
    fs::write(directory(&cluster, &damaged).join("manifest.json"), "{").expect("damage");
    let prune = |more: &[&str]| {
        let args = [&["backup", "prune", "--keep-days", "14", "--json"], more].concat();
        cluster.ctl(&args).ok().json()
    };

    let dry = prune(&["--dry-run"]);
    assert_eq!(reasons(&dry, "removed").keys().collect::<Vec<_>>(), old.iter().collect::<Vec<_>>());
    let kept = reasons(&dry, "kept");
    assert_eq!(kept[&today], "not older than 14 days");
    assert!(kept[&damaged].starts_with("damaged"), "{kept:?}");
    assert_eq!(cluster.backups().len(), 4, "a dry run removes nothing");

    let done = prune(&[]);
    assert_eq!(reasons(&done, "removed"), reasons(&dry, "removed"));
    let left: Vec<Value> = cluster.backups().iter().map(|b| b["id"].clone()).collect();
    assert_eq!(left, [today.as_str(), damaged.as_str()]);
    assert!(old.iter().all(|id| !directory(&cluster, id).exists()));
    cluster.ctl(&["backup", "verify", &today]).ok();
    assert!(reasons(&prune(&[]), "removed").is_empty(), "again");

    // However old it is, while there is no newer one.
    let last = of_the_past(&cluster, &today, "2026-01-04");
    cluster.ctl(&["backup", "delete", &today, "--yes"]).ok();
    assert_eq!(reasons(&prune(&[]), "kept")[&last], "the newest good one of what it holds");

    // What a restore has saved of the state before it stands in for no backup.
    cluster.ctl(&["restore", &last, "--yes"]).ok();
    let kept = reasons(&prune(&[]), "kept");
    assert_eq!(kept[&last], "the newest good one of what it holds", "{kept:?}");
    assert_eq!(kept.len(), 3, "{kept:?}");
    cluster.ctl(&["backup", "prune", "--keep-days", "0"]).failed(2);
}
