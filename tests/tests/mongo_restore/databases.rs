//! Backups of several databases.

use mongodb::bson::{Document, doc};
use prexor_agent::source::{Source as _, SourceError, mongo::Databases};
use prexor_format::manifest::Consistency;
use prexor_tests::{
    dataset::DATABASE,
    equality::{self, Things},
    mongo::{Rig, contents, namespaces, same, variety},
    servers::Mongod,
};

/// Everything in these databases, by `database.name`.
async fn all(rig: &Rig, databases: &[&str]) -> Things {
    let mut out = Things::new();
    for database in databases {
        let things = equality::mongo(&rig.client, database).await.unwrap();
        out.extend(things.into_iter().map(|(name, aspects)| (format!("{database}.{name}"), aspects)));
    }
    out
}

fn live(mut things: Things) -> Things {
    things.retain(|name, _| !name.contains("._prexor_"));
    things
}

#[tokio::test(flavor = "multi_thread")]
async fn several_databases_are_captured_at_one_time_and_swapped_together() {
    const THREE: [&str; 3] = [DATABASE, "chat", "shop"];
    let mongod = Mongod::replica_set().await;
    let rig = Rig::of(mongod.client().await, mongod.uri(), Databases::All);
    for database in THREE {
        variety(&rig.client.database(database), "new").await.unwrap();
    }
    let new = all(&rig, &THREE).await;
    let artifact = rig.capture().await;
    let found = contents(&artifact);
    assert_eq!(found.databases, ["chat", DATABASE, "shop"]);
    assert!(matches!(found.consistency, Consistency::SnapshotOplog { .. }), "{:?}", found.consistency);
    for database in THREE {
        assert!(rig.backup().join(format!("mongo/{database}/a.bson.gz")).exists());
        assert!(rig.backup().join(format!("mongo/{database}/s.metadata.json.gz")).exists());
    }

    for database in THREE {
        rig.client.database(database).drop().await.unwrap();
        variety(&rig.client.database(database), "old").await.unwrap();
    }
    rig.client.database("since").collection("a").insert_one(doc! {}).await.unwrap();
    let since = all(&rig, &["since"]).await;
    let old = all(&rig, &THREE).await;
    let unit = rig.unit("job-1", &artifact);
    rig.source.prepare(&unit).await.unwrap();
    same(&old, &live(all(&rig, &THREE).await));
    // An attempt before came to its end: nothing is loaded twice.
    let staged = all(&rig, &THREE).await;
    rig.source.prepare(&unit).await.unwrap();
    same(&staged, &all(&rig, &THREE).await);
    rig.source.swap(&unit).await.unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), Vec::<String>::new());
    same(&new, &live(all(&rig, &THREE).await));
    rig.source.revert(&unit).await.unwrap();
    same(&old, &all(&rig, &THREE).await);

    // One of them alone, and then all; a database that the backup does not know stays.
    rig.restore(&rig.part("job-2", &artifact, &namespaces(&["chat.*"], &[], &[]))).await.unwrap();
    same(&all(&rig, &["chat"]).await, &new.clone().into_iter().filter(|(n, _)| n.starts_with("chat.")).collect());
    same(&all(&rig, &["shop"]).await, &old.clone().into_iter().filter(|(n, _)| n.starts_with("shop.")).collect());
    rig.restore(&rig.unit("job-3", &artifact)).await.unwrap();
    same(&new, &all(&rig, &THREE).await);
    same(&since, &all(&rig, &["since"]).await);

    // An agent that is configured for one database restores that one only.
    let one = Rig::new(rig.client.clone(), mongod.uri());
    match one.source.prepare(&rig.unit("job-4", &artifact)).await {
        Err(SourceError::Invalid(message)) => assert!(message.contains("mongo.databases"), "{message}"),
        other => panic!("{other:?}"),
    }
    let part = rig.part("job-5", &artifact, &namespaces(&[&format!("{DATABASE}.*")], &[], &[]));
    rig.client.database(DATABASE).collection::<Document>("a").drop().await.unwrap();
    one.restore(&part).await.unwrap();
    same(&new, &all(&rig, &THREE).await);

    // A list of names, one of which has nothing in it.
    let names = ["chat", "nothing"].map(str::to_owned).to_vec();
    let two = Rig::of(rig.client.clone(), mongod.uri(), Databases::These(names));
    let artifact = two.capture().await;
    assert_eq!(contents(&artifact).databases, ["chat", "nothing"]);
    assert!(contents(&artifact).collections.iter().all(|c| c.database == "chat"));
    two.client.database("nothing").collection("born since").insert_one(doc! {}).await.unwrap();
    two.restore(&two.unit("job-6", &artifact)).await.unwrap();
    same(&Things::new(), &all(&two, &["nothing"]).await);
}
