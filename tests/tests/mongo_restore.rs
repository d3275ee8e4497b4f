//! Restores into MongoDB that are not plain: parts and renames, elections, data that expire under way.

#![allow(clippy::unwrap_used, reason = "a test that panics says what it needs to")]

#[path = "mongo_restore/accounts.rs"]
mod accounts;
#[path = "mongo_restore/databases.rs"]
mod databases;
#[path = "mongo_restore/disk.rs"]
mod disk;
#[path = "mongo_restore/foreign.rs"]
mod foreign;
#[path = "mongo_restore/kills.rs"]
mod kills;
#[path = "mongo_restore/privileges.rs"]
mod privileges;

use std::time::Duration;

use mongodb::{
    Client,
    bson::{Binary, Bson, Document, doc, spec::BinarySubtype},
};
use prexor_agent::source::{Source as _, SourceError};
use prexor_format::selection::Selection;
use prexor_tests::{
    dataset::{self, DATABASE, Size},
    equality::Things,
    mongo::{Rig, namespaces, numbered, python, same, series},
    servers::{Mongod, PATIENCE, ReplicaSet, wait_until},
};

async fn one_member() -> (Mongod, Rig) {
    let mongod = Mongod::builder().replica_set().arg("--setParameter").arg("enableTestCommands=1");
    let mongod = mongod.arg("--setParameter").arg("ttlMonitorSleepSecs=1").start().await;
    let rig = Rig::new(mongod.client().await, mongod.uri());
    (mongod, rig)
}

/// A part of what is there, under new names.
fn renamed(things: &Things, names: &[(&str, &str)]) -> Things {
    let pick = |(from, to): &(&str, &str)| ((*to).to_owned(), things[*from].clone());
    names.iter().map(pick).collect()
}

async fn fail_point(client: &Client, mode: impl Into<Bson>, data: Document) {
    let command = doc! { "configureFailPoint": "failCommand", "mode": mode.into(), "data": data };
    client.database("admin").run_command(command).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_replaces_that_part_and_a_rename_leaves_the_original_alone() {
    let (_mongod, rig) = one_member().await;
    let db = rig.db();
    for name in ["mod_chat_log", "mod_chat_rooms", "mod_shop_items", "users"] {
        db.collection(name).insert_many(numbered(50, "new")).await.unwrap();
    }
    db.run_command(doc! { "create": "mod_chat_recent", "viewOn": "mod_chat_log", "pipeline": [] }).await.unwrap();
    series(&db, "mod_chat_load", "new", Some(864_000)).await.unwrap();
    let index = doc! { "key": { "with": 1 }, "name": "w", "expireAfterSeconds": 60 };
    db.run_command(doc! { "createIndexes": "mod_chat_log", "indexes": [index] }).await.unwrap();
    let backed_up = rig.everything().await;
    let artifact = rig.capture().await;

    db.drop().await.unwrap();
    for name in ["mod_chat_log", "mod_chat_since", "mod_shop_items", "users", "mod_chat_load"] {
        db.collection(name).insert_many(numbered(9, "old")).await.unwrap();
    }
    let old = rig.everything().await;
    let part = namespaces(&["mod_chat_*"], &["*_rooms"], &[]);
    let unit = rig.part("job-1", &artifact, &part);
    rig.source.prepare(&unit).await.unwrap();
    same(&old, &rig.live().await);
    rig.source.swap(&unit).await.unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), Vec::<String>::new());

    let restored = ["mod_chat_log", "mod_chat_recent", "mod_chat_load", "system.buckets.mod_chat_load"];
    let mut expected = renamed(&backed_up, &restored.map(|n| (n, n)));
    // Law L16 within the part: what was born since is gone. Outside of it nothing was touched.
    expected.extend(renamed(&old, &["mod_shop_items", "users"].map(|n| (n, n))));
    same(&expected, &rig.live().await);
    rig.source.revert(&unit).await.unwrap();
    same(&old, &rig.everything().await);

    // Beside the live ones, under other names.
    let part = namespaces(&["mod_chat_*"], &["*_recent"], &[("mod_chat_*", "was %_*"), ("users", "never")]);
    let unit = rig.part("job-2", &artifact, &part);
    rig.restore(&unit).await.unwrap();
    let mut expected = old.clone();
    expected.extend(renamed(
        &backed_up,
        &[
            ("mod_chat_log", "was %_log"),
            ("mod_chat_rooms", "was %_rooms"),
            ("mod_chat_load", "was %_load"),
            ("system.buckets.mod_chat_load", "system.buckets.was %_load"),
        ],
    ));
    same(&expected, &rig.everything().await);

    // A name that is taken: what has it gives way, and the check knows what belongs there.
    let unit = rig.part("job-3", &artifact, &namespaces(&["mod_chat_rooms"], &[], &[("mod_chat_rooms", "users")]));
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), Vec::<String>::new());
    expected.extend(renamed(&backed_up, &[("mod_chat_rooms", "users")]));
    same(&expected, &rig.live().await);
    db.collection::<Document>("users").delete_one(doc! { "_id": 1 }).await.unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), ["users: 49 documents instead of 50"]);

    for (bad, why) in [
        (namespaces(&[], &[], &[("mod_chat_*", "users"), ("users", "users")]), "same number of '*'"),
        (namespaces(&["users"], &[], &[("users", "system.js")]), "system."),
        (namespaces(&["users", "mod_shop_items"], &[], &[("mod_shop_items", "users")]), "both become"),
    ] {
        let refused = bad.clone().checked().err().map(|e| e.to_string());
        let refused = match refused {
            Some(refused) => refused,
            None => rig.source.prepare(&rig.part("job-4", &artifact, &bad)).await.unwrap_err().to_string(),
        };
        assert!(refused.contains(why), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_series_that_loses_buckets_while_it_is_kept_aside_is_no_obstacle() {
    let (_mongod, rig) = one_member().await;
    series(&rig.db(), "samples", "new", None).await.unwrap();
    let artifact = rig.capture().await;
    let new = rig.everything().await;
    rig.db().drop().await.unwrap();
    series(&rig.db(), "samples", "old", None).await.unwrap();

    let unit = rig.unit("job", &artifact);
    rig.source.prepare(&unit).await.unwrap();
    let slow =
        doc! { "failCommands": ["insert"], "appName": "prexor-agent", "blockConnection": true, "blockTimeMS": 3_000 };
    fail_point(&rig.client, doc! { "times": 1 }, slow).await;
    // While the copy of the buckets is under way they expire, all of them.
    let expire = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        rig.db().run_command(doc! { "collMod": "samples", "expireAfterSeconds": 1 }).await.unwrap();
    };
    let (swapped, ()) = tokio::join!(rig.source.swap(&unit), expire);
    swapped.unwrap();
    same(&new, &rig.live().await);
    rig.source.commit(&unit).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_election_during_prepare_and_during_swap_does_not_end_a_restore() {
    let set = ReplicaSet::start(3).await;
    let rig = Rig::new(set.client().await, set.uri());
    dataset::mongo(&rig.client, DATABASE, Size::SMALL).await.unwrap();
    let noise: Vec<Document> = (0..200)
        .map(|n| doc! { "_id": n, "x": Binary { subtype: BinarySubtype::Generic, bytes: vec![n as u8; 200_000] } })
        .collect();
    rig.db().collection::<Document>("mod_big_data").insert_many(noise).await.unwrap();
    let artifact = rig.capture().await;
    let new = rig.everything().await;
    dataset::destroy_mongo(&rig.client, DATABASE).await.unwrap();
    let old = rig.everything().await;
    let has = async |part: &str| {
        let names = rig.db().list_collection_names().await;
        names.is_ok_and(|names| names.iter().any(|n| n.starts_with("_prexor_") && n.contains(part)))
    };

    let unit = rig.unit("job", &artifact);
    let elect = async {
        wait_until("the load to begin", PATIENCE, async || has("_").await).await;
        set.step_down().await;
    };
    let (prepared, ()) = tokio::join!(rig.source.prepare(&unit), elect);
    prepared.unwrap();
    same(&old, &rig.live().await);

    let elect = async {
        wait_until("the swap to begin", PATIENCE, async || has("_k").await).await;
        set.step_down().await;
    };
    let (swapped, ()) = tokio::join!(rig.source.swap(&unit), elect);
    swapped.unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), Vec::<String>::new());
    same(&new, &rig.live().await);

    let elect = async {
        wait_until("the revert to begin", PATIENCE, async || !has("_k1").await).await;
        set.step_down().await;
    };
    let (reverted, ()) = tokio::join!(rig.source.revert(&unit), elect);
    reverted.unwrap();
    same(&old, &rig.everything().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_majority_does_not_confirm_ends_a_restore_but_not_its_way_back() {
    let (_mongod, rig) = one_member().await;
    rig.db().collection("users").insert_many(numbered(10, "new")).await.unwrap();
    let artifact = rig.capture().await;
    rig.db().collection("users").insert_one(doc! { "_id": "since" }).await.unwrap();
    let old = rig.everything().await;
    let unconfirmed = doc! {
        "failCommands": ["create", "insert", "renameCollection", "drop"], "appName": "prexor-agent",
        "writeConcernError": { "code": 64, "errmsg": "waiting for replication timed out" },
    };
    let unit = rig.unit("job", &artifact);
    fail_point(&rig.client, "alwaysOn", unconfirmed.clone()).await;
    match rig.source.prepare(&unit).await {
        Err(SourceError::Failed(message)) => assert!(message.contains("not confirmed by a majority"), "{message}"),
        other => panic!("{other:?}"),
    }
    fail_point(&rig.client, "off", doc! {}).await;
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    fail_point(&rig.client, "alwaysOn", unconfirmed).await;
    rig.source.revert(&unit).await.unwrap();
    fail_point(&rig.client, "off", doc! {}).await;
    same(&old, &rig.everything().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn pymongo_finds_in_the_restored_database_what_the_files_hold() {
    let (mongod, rig) = one_member().await;
    dataset::mongo(&rig.client, DATABASE, Size::SMALL).await.unwrap();
    let artifact = rig.capture().await;
    dataset::destroy_mongo(&rig.client, DATABASE).await.unwrap();
    rig.restore(&rig.part("job", &artifact, &Selection::default())).await.unwrap();
    let backup = rig.backup().join("mongo").display().to_string();
    let out = python("restored.py", &[&mongod.port().to_string(), DATABASE, &backup]);
    let kinds = ["collection", "view", "timeseries"].map(|kind| out.matches(&format!(": {kind}, equal")).count());
    assert!(kinds[0] > 30 && kinds[1] == 3 && kinds[2] == 1, "{kinds:?}\n{out}");
}
