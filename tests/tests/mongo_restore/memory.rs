//! The agent's memory while the largest documents there are go through it.

use mongodb::bson::{Binary, Document, doc, spec::BinarySubtype};
use prexor_tests::{
    cluster::Cluster,
    dataset::DATABASE,
    equality::{self, differences},
};

/// Highest resident memory of a process in its life, in bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_16_mib_are_restored_in_less_than_128_mib() {
    let mut cluster = Cluster::empty().await;
    let client = cluster.mongod.client().await;
    // Such documents need more than the small cache that the tests' servers have.
    let cache = doc! { "setParameter": 1, "wiredTigerEngineRuntimeConfig": "cache_size=1G" };
    client.database("admin").run_command(cache).await.expect("a larger cache");
    let db = client.database(DATABASE);
    for (name, size, count) in [("largest", (16 << 20) - 100, 20), ("middling", 10 << 10, 8_000)] {
        let bytes =
            |n: u32| (0..size as u32).map(|i| ((i / 64).wrapping_mul(2_654_435_761) >> 24) as u8 ^ n as u8).collect();
        let large = |n: u32| doc! { "_id": n, "x": Binary { subtype: BinarySubtype::Generic, bytes: bytes(n) } };
        for n in 0..count {
            db.collection::<Document>(name).insert_one(large(n)).await.expect("room");
        }
    }
    let before = equality::mongo(&client, DATABASE).await.expect("a snapshot");
    let said = cluster.ctl(&["backup", "create", "--scope", "mongo", "--json"]).ok();
    let id = said.json()["id"].as_str().expect("an id").to_owned();
    db.drop().await.expect("a drop");
    cluster.kill_agent();
    cluster.start_agent().await;
    cluster.ctl(&["restore", &id, "--ns", "*", "--yes"]).ok();
    let peak = peak(cluster.agent_pid());
    let after = equality::mongo(&client, DATABASE).await.expect("a snapshot");
    assert_eq!(differences("mongo", &before, &after), Vec::<String>::new());
    println!("peak {} MiB", peak >> 20);
    assert!(peak < 128 << 20, "{} MiB", peak >> 20);
}
