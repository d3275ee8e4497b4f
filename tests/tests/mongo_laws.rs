//! Laws L2, L6 and L7 on a real MongoDB: epochs, revocations and join tokens do not go back in time when the rest does.

#![allow(clippy::unwrap_used, reason = "a test that panics says what it needs to")]

use futures::TryStreamExt as _;
use mongodb::{
    Database,
    bson::{Bson, DateTime, Document, doc},
};
use prexor_agent::source::Source as _;
use prexor_tests::{mongo::Rig, servers::Mongod};

const GAP: i64 = 1_000_000;

async fn one_member() -> (Mongod, Rig) {
    let mongod = Mongod::builder().replica_set().arg("--setParameter").arg("enableTestCommands=1").start().await;
    let rig = Rig::new(mongod.client().await, mongod.uri());
    (mongod, rig)
}

async fn put(db: &Database, collection: &str, documents: Vec<Document>) {
    let collection = db.collection::<Document>(collection);
    collection.drop().await.unwrap();
    collection.insert_many(documents).await.unwrap();
}

async fn all(db: &Database, collection: &str) -> Vec<Document> {
    let found = db.collection::<Document>(collection).find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
    found.try_collect().await.unwrap()
}

fn leader(epoch: impl Into<Bson>, holder: &str) -> Document {
    doc! { "_id": "leader", "holder": holder, "epoch": epoch.into(), "renewedAt": DateTime::from_millis(7) }
}

fn revoked(serial: &str, reason: &str) -> Document {
    doc! { "_id": serial, "reason": reason }
}

fn token(id: &str, redeemed: Option<DateTime>) -> Document {
    doc! { "_id": id, "redeemedAt": redeemed }
}

/// A backup of epoch 41, one revocation, a token that is open and one that was used.
async fn back_up(rig: &Rig) -> prexor_format::manifest::Artifact {
    let db = rig.db();
    put(&db, "cluster_leadership", vec![leader(41_i64, "controller-1")]).await;
    put(&db, "node_cert_revocations", vec![revoked("0a", "lost"), revoked("0b", "old")]).await;
    put(&db, "cluster_join_tokens", vec![token("open", None), token("used", Some(DateTime::from_millis(5)))]).await;
    put(&db, "nodes", vec![doc! { "_id": "n1", "ownerEpoch": 40 }]).await;
    rig.capture().await
}

#[tokio::test(flavor = "multi_thread")]
async fn epochs_revocations_and_tokens_do_not_go_back() {
    let (_mongod, rig) = one_member().await;
    let (db, artifact) = (rig.db(), back_up(&rig).await);
    put(&db, "cluster_leadership", vec![leader(57, "controller-2")]).await;
    // A daemon has seen more than the leader's record says.
    put(&db, "deployments", vec![doc! { "_id": 1, "ownerEpoch": 60.5 }, doc! { "_id": 2 }]).await;
    put(&db, "node_cert_revocations", vec![revoked("0b", "stolen"), revoked("0c", "stolen")]).await;
    put(&db, "cluster_join_tokens", vec![token("open", Some(DateTime::from_millis(9)))]).await;

    let unit = rig.unit("job-1", &artifact);
    rig.restore(&unit).await.unwrap();
    let epoch = 61 + GAP;
    assert_eq!(
        all(&db, "cluster_leadership").await,
        [doc! { "_id": "leader", "holder": null, "epoch": epoch, "renewedAt": DateTime::from_millis(7) }]
    );
    let expected = [revoked("0a", "lost"), revoked("0b", "stolen"), revoked("0c", "stolen")];
    assert_eq!(all(&db, "node_cert_revocations").await, expected);
    assert_eq!(all(&db, "cluster_join_tokens").await, [token("used", Some(DateTime::from_millis(5)))]);
    assert_eq!(all(&db, "nodes").await, [doc! { "_id": "n1", "ownerEpoch": 40 }], "nothing else is touched");
    let told = unit.told().unwrap().join("\n");
    for part in
        [format!("goes on at {epoch} (in the backup 41, live 57, highest ownerEpoch 61)"), "1 revocation".into()]
    {
        assert!(told.contains(&part), "{told}");
    }

    // Once more, from the corrected state: above that, too.
    rig.restore(&rig.unit("job-2", &artifact)).await.unwrap();
    assert_eq!(all(&db, "cluster_leadership").await[0].get_i64("epoch").unwrap(), epoch + GAP);
    assert_eq!(all(&db, "node_cert_revocations").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_backup_alone_knows_is_enough_where_the_live_data_is_lost() {
    let (_mongod, rig) = one_member().await;
    let (db, artifact) = (rig.db(), back_up(&rig).await);
    db.drop().await.unwrap();
    rig.restore(&rig.unit("job-1", &artifact)).await.unwrap();
    assert_eq!(all(&db, "cluster_leadership").await[0].get_i64("epoch").unwrap(), 41 + GAP);
    assert_eq!(all(&db, "node_cert_revocations").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_backup_does_not_know_of_stays() {
    let (_mongod, rig) = one_member().await;
    let db = rig.db();
    put(&db, "users", vec![doc! { "_id": 1 }]).await;
    let artifact = rig.capture().await;
    put(&db, "cluster_leadership", vec![leader(57_i64, "controller-2")]).await;
    put(&db, "node_cert_revocations", vec![revoked("0c", "stolen")]).await;
    put(&db, "cluster_join_tokens", vec![token("open", None)]).await;
    rig.restore(&rig.unit("job-1", &artifact)).await.unwrap();
    assert_eq!(all(&db, "cluster_leadership").await[0].get_i64("epoch").unwrap(), 57);
    assert_eq!(all(&db, "node_cert_revocations").await, [revoked("0c", "stolen")]);
    assert_eq!(all(&db, "cluster_join_tokens").await, [] as [Document; 0]);
}

/// A restore is taken back after a controller was started.
#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_gives_back_no_epoch_and_no_revocation() {
    let (_mongod, rig) = one_member().await;
    let (db, artifact) = (rig.db(), back_up(&rig).await);
    put(&db, "cluster_leadership", vec![leader(57_i64, "controller-2")]).await;
    put(&db, "node_cert_revocations", vec![revoked("0c", "stolen")]).await;
    let swapped = async |job: &str| {
        let unit = rig.unit(job, &artifact);
        rig.source.prepare(&unit).await.unwrap();
        rig.source.swap(&unit).await.unwrap();
        unit
    };
    rig.source.revert(&swapped("job-1").await).await.unwrap();
    assert_eq!(all(&db, "cluster_leadership").await, [leader(57_i64, "controller-2")], "nobody has done anything");
    assert_eq!(all(&db, "node_cert_revocations").await, [revoked("0c", "stolen")]);

    let unit = swapped("job-2").await;
    let issued = 57 + GAP + 1;
    let leads = doc! { "$set": { "epoch": issued, "holder": "controller-3" } };
    db.collection::<Document>("cluster_leadership").update_one(doc! {}, leads).await.unwrap();
    db.collection("node_cert_revocations").insert_one(revoked("0d", "lost")).await.unwrap();
    for _ in 0..2 {
        rig.source.revert(&unit).await.unwrap();
        let now = all(&db, "cluster_leadership").await;
        assert_eq!((now[0].get_i64("epoch").unwrap(), now[0].get("holder")), (issued + GAP, Some(&Bson::Null)));
        assert_eq!(all(&db, "node_cert_revocations").await, [revoked("0c", "stolen"), revoked("0d", "lost")]);
        assert_eq!(all(&db, "nodes").await.len(), 1);
    }
}

/// The agent's connection breaks at each of the commands that correct.
#[tokio::test(flavor = "multi_thread")]
async fn a_correction_that_was_cut_short_is_made_whole() {
    let (_mongod, rig) = one_member().await;
    let (db, artifact) = (rig.db(), back_up(&rig).await);
    for (n, cut) in ["update", "update", "delete"].into_iter().enumerate() {
        put(&db, "cluster_leadership", vec![leader(57_i64, "controller-2")]).await;
        let later = format!("{n}0");
        put(&db, "node_cert_revocations", vec![revoked(&later, "stolen")]).await;
        let unit = rig.unit(&format!("job-{n}"), &artifact);
        rig.source.prepare(&unit).await.unwrap();
        let mode = if n == 1 {
            doc! { "skip": 1 }
        } else {
            doc! { "times": 1 }
        };
        let data = doc! { "failCommands": [cut], "errorCode": 11_602 };
        let set = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
        rig.client.database("admin").run_command(set).await.unwrap();
        // It may be tried again by itself, or by whoever called.
        let first = tokio::time::timeout(std::time::Duration::from_secs(3), rig.source.swap(&unit)).await;
        let off = doc! { "configureFailPoint": "failCommand", "mode": "off" };
        rig.client.database("admin").run_command(off).await.unwrap();
        if !matches!(first, Ok(Ok(()))) {
            rig.source.swap(&unit).await.unwrap();
        }
        assert_eq!(rig.source.check(&unit).await.unwrap(), [] as [String; 0]);
        rig.source.commit(&unit).await.unwrap();
        assert!(all(&db, "cluster_leadership").await[0].get_i64("epoch").unwrap() >= 57 + GAP);
        let revocations = all(&db, "node_cert_revocations").await;
        assert!(revocations.contains(&revoked(&later, "stolen")) && revocations.contains(&revoked("0a", "lost")));
        assert_eq!(all(&db, "cluster_join_tokens").await.len(), 1, "{n}");
    }
}
