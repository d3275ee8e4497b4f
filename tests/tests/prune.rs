//! How long backups stay: by age, class and count, pinned or not, whole or not, and whatever becomes of the catalog.

use std::{collections::BTreeMap, fs, path::PathBuf};

use mongodb::bson::{Document, doc};
use prexor_tests::{
    cluster::{Cluster, Setup},
    dataset::DATABASE,
};
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

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

/// `backup create` with these further arguments.
fn create(cluster: &Cluster, args: &[&str]) -> String {
    let made = cluster.ctl(&[&["backup", "create", "--json"], args].concat()).ok().json();
    text(&made["id"]).to_owned()
}

fn shown(cluster: &Cluster, id: &str) -> Value {
    cluster.ctl(&["backup", "show", id, "--json"]).ok().json()
}

#[tokio::test]
async fn classes_pins_and_doubts_outlive_the_catalog() {
    let rules = "retention:\n  rules: [{class: hourly, scope: [mongo]}]";
    let mut cluster = Cluster::start_as(Setup { coordinator: rules, ..Setup::default() }).await;
    let whole = cluster.backup();
    let mongo = create(&cluster, &["--scope", "mongo"]);
    let weekly = create(&cluster, &["--class", "weekly"]);
    assert_eq!(
        [&whole, &mongo, &weekly].map(|id| shown(&cluster, id)["class"].clone()),
        [Value::Null, "hourly".into(), "weekly".into()]
    );
    let hourly = of_the_past(&cluster, &mongo, "2025-02-01");
    let quarter = of_the_past(&cluster, &weekly, "2025-02-02");
    let pinned = of_the_past(&cluster, &weekly, "2025-02-03");
    let other = of_the_past(&cluster, &whole, "2025-02-04");
    cluster.ctl(&["backup", "pin", &pinned, "--reason", "for the audit"]).ok();
    let e = cluster.ctl(&["backup", "delete", &pinned, "--yes"]).failed(3).err;
    assert!(e.contains("is pinned by root since") && e.contains("backup unpin"), "{e}");
    let prune =
        |cluster: &Cluster, more: &[&str]| cluster.ctl(&[&["backup", "prune", "--json"], more].concat()).ok().json();

    let dry = prune(&cluster, &["--dry-run"]);
    let (goes, stays) = (reasons(&dry, "removed"), reasons(&dry, "kept"));
    assert_eq!(goes[&hourly], "hourly, older than 1 day");
    assert_eq!(goes[&quarter], "weekly, older than 90 days");
    assert_eq!(goes.len(), 2, "{goes:?}");
    assert!(
        stays[&pinned].starts_with("pinned by root since") && stays[&pinned].ends_with("(for the audit)"),
        "{stays:?}"
    );
    assert_eq!(stays[&other], "no rule is about it");
    assert_eq!(stays[&weekly], "weekly, not older than 90 days");
    let counted = reasons(&prune(&cluster, &["--keep-last", "1", "--keep-monthly", "2", "--dry-run"]), "kept");
    assert_eq!(counted[&other], "the newest of the month 2025-02");
    assert!(!counted.contains_key(&whole), "a newer one holds the same: {counted:?}");

    // All of it is read, what it says is compared, and a part is read.
    let deep = cluster.ctl(&["backup", "verify", &weekly, "--deep"]).ok().out;
    assert!(deep.lines().any(|l| l == "module jars OK (2 modules)"), "{deep}");
    let sample = cluster.ctl(&["backup", "verify", &weekly, "--sample", "10%"]).ok().out;
    assert!(sample.starts_with("checksums OK (sample: "), "{sample}");
    assert_eq!(shown(&cluster, &weekly)["verified_depth"], "deep");
    fs::remove_file(cluster.root().join("data/modules/economy-0.9.2.jar")).expect("a jar");
    let without = cluster.backup();
    let said = cluster.ctl(&["backup", "verify", &without, "--deep"]).failed(1);
    assert!(said.out.contains("module jars FAILED\n  module economy: economy-0.9.2.jar"), "{said:?}");
    assert_eq!(shown(&cluster, &without)["verify_problem"], Value::Null, "it is as good as what it was made of");
    cluster.ctl(&["backup", "delete", &without, "--yes"]).ok();

    // A backup that has lost most of what was there counts as no good one until somebody says so.
    let db = cluster.mongod.client().await.database(DATABASE);
    for name in db.list_collection_names().await.expect("collections") {
        if !name.starts_with("system.") {
            let _ = db.collection::<Document>(&name).delete_many(doc! {}).await;
        }
    }
    let emptied = create(&cluster, &["--scope", "mongo"]);
    let lost = shown(&cluster, &emptied)["suspect"].clone();
    assert!(text(&lost).contains(&format!("in {mongo}")) || text(&lost).contains(&format!("in {weekly}")), "{lost}");
    let list = cluster.ctl(&["backup", "list"]).ok();
    assert!(list.out.contains("mongo (suspect)") && list.err.contains(&format!("{emptied} is suspect")), "{list:?}");
    let status = cluster.ctl(&["status", "--json"]).ok().json();
    let alerts = status["problems"].as_array().expect("problems").iter().filter(|p| text(p).contains("backup accept"));
    assert_eq!(alerts.count(), 1, "{status}");
    assert_eq!(shown(&cluster, "latest")["id"], weekly.as_str());
    let good = status["last_good"].as_array().expect("a list").iter().find(|g| g["kind"] == "mongo").expect("mongo");
    assert_eq!(good["backup_id"], weekly.as_str());
    cluster.ctl(&["backup", "accept", &emptied]).ok();
    assert_eq!(shown(&cluster, "latest")["id"], emptied.as_str());

    // What was never a backup is collected by itself; what may be one is not.
    let debris = cluster.store().join("bk-2025-02-05-001");
    fs::create_dir_all(debris.join("mongo")).expect("a directory");
    fs::write(debris.join("mongo/half.bson.gz#1"), "half").expect("a file");
    let headless = PathBuf::from(of_the_past(&cluster, &mongo, "2025-02-06"));
    fs::remove_file(cluster.store().join(&headless).join("manifest.json")).expect("a manifest");
    let pruned = prune(&cluster, &[]);
    assert_eq!(reasons(&pruned, "removed"), goes);
    assert_eq!(reasons(&pruned, "leftovers_removed").into_keys().collect::<Vec<_>>(), ["bk-2025-02-05-001"]);
    let left = reasons(&pruned, "leftovers_kept");
    assert!(left[&headless.display().to_string()].contains("no manifest"), "{left:?}");
    assert!(!debris.exists());

    // The store alone knows it all, whether the catalog is read again or gone. What cannot be read is a line.
    fs::write(directory(&cluster, &other).join("manifest.json"), "{").expect("damage");
    let before = cluster.ctl(&["backup", "list", "--json"]).ok().json();
    let rebuilt = cluster.ctl(&["catalog", "rebuild"]).ok();
    assert_eq!(rebuilt.err.lines().filter(|l| l.contains(&other)).count(), 1, "{rebuilt:?}");
    assert_eq!(cluster.ctl(&["backup", "list", "--json"]).ok().json(), before);
    cluster.kill_coordinator();
    for file in fs::read_dir(cluster.dir().join("coordinator")).expect("the state").flatten() {
        if file.file_name().to_string_lossy().starts_with("catalog.sqlite") {
            fs::remove_file(file.path()).expect("a lost catalog");
        }
    }
    cluster.start_coordinator().await;
    assert_eq!(cluster.ctl(&["backup", "list", "--json"]).ok().json(), before);
    assert!(shown(&cluster, &weekly)["verified_at"].is_string());
    assert_eq!(shown(&cluster, &pinned)["pin_reason"], "for the audit");
    cluster.ctl(&["backup", "unpin", &pinned]).ok();
    cluster.ctl(&["backup", "delete", &pinned, "--yes"]).ok();
}
