//! A restore onto a server whose disk is too small, or fills up under way.

use std::time::Duration;

use mongodb::bson::{Binary, Document, doc, spec::BinarySubtype};
use prexor_agent::source::{Source as _, SourceError};
use prexor_tests::{
    mongo::{Rig, namespaces, same},
    servers::{Mongod, PATIENCE, SmallDisk, wait_until},
};

/// Documents that do not compress.
async fn noise(rig: &Rig, name: &str, mib: u32) {
    let mut state = 1_u64;
    let mut words = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state ^ state >> 31).to_le_bytes()
    };
    let collection = rig.db().collection::<Document>(name);
    for n in 0..mib {
        let bytes = std::iter::repeat_with(&mut words).take(1 << 17).flatten().collect();
        let noise = Binary { subtype: BinarySubtype::Generic, bytes };
        collection.insert_one(doc! { "_id": n, "noise": noise }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_too_small_or_fills_up_costs_nothing_and_the_server_lives_on() {
    let disk = SmallDisk::new(2_000).await;
    let mongod = Mongod::builder().replica_set().disk(&disk).start().await;
    let rig = Rig::new(mongod.client().await, mongod.uri());
    noise(&rig, "large", 160).await;
    rig.db().collection("users").insert_one(doc! { "_id": 1 }).await.unwrap();
    let new = rig.everything().await;
    let artifact = rig.capture().await;
    rig.db().collection("users").insert_one(doc! { "_id": 2 }).await.unwrap();
    let old = rig.everything().await;

    wait_until("a disk that is nearly full", PATIENCE, async || {
        // The server gives back journals now and then.
        disk.leave_free(150);
        let room: u64 = rig.source.inspect().await.facts["room_bytes"].parse().unwrap();
        room < 160 << 20
    })
    .await;
    match rig.source.prepare(&rig.unit("job-1", &artifact)).await {
        Err(SourceError::NoSpace(message)) => assert!(message.contains("second copy"), "{message}"),
        other => panic!("{other:?}"),
    }
    same(&old, &rig.everything().await);
    rig.restore(&rig.part("job-2", &artifact, &namespaces(&["users"], &[], &[]))).await.unwrap();
    same(&new, &rig.everything().await);
    disk.empty();

    // A checkpoint that begins on the full disk would end the server, whoever filled it: none has much to write.
    rig.client.database("admin").run_command(doc! { "fsync": 1 }).await.unwrap();
    let unit = rig.unit("job-3", &artifact);
    let fill = async {
        wait_until("the load to begin", PATIENCE, async || {
            let staged = async |name: String| rig.db().collection::<Document>(&name).estimated_document_count().await;
            let names = rig.db().list_collection_names().await.unwrap();
            for name in names.into_iter().filter(|n| n.starts_with("_prexor_")) {
                if staged(name).await.unwrap() > 20 {
                    return true;
                }
            }
            false
        })
        .await;
        loop {
            disk.leave_free(80);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let prepared = tokio::select! {
        prepared = rig.source.prepare(&unit) => prepared,
        () = fill => unreachable!("it fills for ever"),
    };
    match prepared {
        Err(SourceError::NoSpace(message)) => assert!(message.contains("nearly full"), "{message}"),
        other => panic!("{other:?}"),
    }
    same(&new, &rig.live().await);
    rig.source.revert(&unit).await.unwrap();
    same(&new, &rig.everything().await);
    disk.empty();
    // The server keeps what was dropped for some minutes, so there must be room for it too.
    rig.restore(&rig.unit("job-4", &artifact)).await.unwrap();
    same(&new, &rig.everything().await);
}
