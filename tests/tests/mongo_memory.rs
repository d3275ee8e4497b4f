//! The agent's memory while big collections go through it, captured and restored: of small documents, and of the largest
//! that MongoDB takes. `PREXOR_MEMORY_MIB` says how much of each; without, it is enough to see that memory does not grow
//! with the data.

#![allow(clippy::unwrap_used, reason = "a test that panics says what it needs to")]

use std::fs;

use mongodb::{
    Database,
    bson::{Binary, Document, doc, spec::BinarySubtype},
};
use prexor_tests::{cluster::Cluster, dataset::DATABASE};

/// What the agent may hold at most, in bytes.
const LIMIT: u64 = 128 << 20;

/// The most that a document of MongoDB may have, less what stands around its bytes here.
const LARGEST: usize = (16 << 20) - 64;

fn mebibytes() -> usize {
    std::env::var("PREXOR_MEMORY_MIB").ok().and_then(|n| n.parse().ok()).unwrap_or(160)
}

/// Documents of this size, half of each noise and half of it repeats, as data are that compress two to one.
async fn fill(db: &Database, name: &str, size: usize) {
    let mut state = 1_u64;
    let mut noise = |bytes: usize| -> Vec<u8> {
        let word = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state ^ state >> 29).to_le_bytes()
        };
        let mut out: Vec<u8> = std::iter::repeat_with(word).take(bytes / 16).flatten().collect();
        out.resize(bytes, b'x');
        out
    };
    let collection = db.collection::<Document>(name);
    let count = (mebibytes() << 20) / size;
    // Commands of 16 MiB at most.
    let at_once = ((16 << 20) / size).max(1);
    for first in (0..count).step_by(at_once) {
        let document = |n: usize| {
            let bytes = noise(size - 64);
            doc! { "_id": n as i64, "x": Binary { subtype: BinarySubtype::Generic, bytes } }
        };
        let batch: Vec<Document> = (first..count.min(first + at_once)).map(document).collect();
        collection.insert_many(batch).await.unwrap();
    }
}

/// Forgets the peak so far; where the kernel cannot, the peak is that of the process's whole life, which is no less.
fn reset_peak(pid: u32) {
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// The largest resident memory since, in bytes.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_memory_does_not_grow_with_what_goes_through() {
    let cluster = Cluster::empty().await;
    let client = cluster.mongod.client().await;
    // The tests' servers have small caches, which cannot hold the largest documents.
    let cache = doc! { "setParameter": 1, "wiredTigerEngineRuntimeConfig": "cache_size=1G" };
    client.database("admin").run_command(cache).await.unwrap();
    let db = client.database(DATABASE);
    let mut told = Vec::new();
    for (name, size) in [("small_documents", 10 << 10), ("largest_documents", LARGEST)] {
        fill(&db, name, size).await;
        reset_peak(cluster.agent_pid());
        let said = cluster.ctl(&["backup", "create", "--scope", "mongo", "--json"]).ok().json();
        told.push((format!("{name}, captured"), peak(cluster.agent_pid())));
        reset_peak(cluster.agent_pid());
        cluster.ctl(&["restore", said["id"].as_str().unwrap(), "--ns", name, "--yes"]).ok();
        told.push((format!("{name}, restored"), peak(cluster.agent_pid())));
        db.collection::<Document>(name).drop().await.unwrap();
    }
    for (what, peak) in &told {
        println!("{what}: {} MiB at most, while {} MiB went through", peak >> 20, mebibytes());
    }
    let over: Vec<_> = told.iter().filter(|(_, peak)| *peak >= LIMIT).collect();
    assert!(over.is_empty(), "more bytes than allowed: {over:?}");
}
