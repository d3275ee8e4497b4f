//! The role that we document is enough, and whatever of it is missing is named.

use mongodb::bson::{Document, doc};
use prexor_agent::source::{Source as _, SourceError};
use prexor_tests::{
    dataset::DATABASE,
    mongo::{Rig, same, variety},
    servers::{Mongod, mongo_uri, repository},
};

/// `deploy/mongodb-role.json`
fn role() -> Document {
    let text = std::fs::read_to_string(repository().join("deploy/mongodb-role.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_role_is_enough_and_each_action_that_is_missing_is_named() {
    let mongod = Mongod::builder().auth().start().await;
    let client = mongod.client().await;
    let admin = client.database("admin");
    admin.run_command(role()).await.unwrap();
    admin.run_command(doc! { "createUser": "agent", "pwd": "pw", "roles": ["prexorAgent"] }).await.unwrap();
    let rig = Rig::new(client, mongo_uri(mongod.port(), Some(("agent", "pw")), true));
    variety(&rig.db(), "new").await.unwrap();
    let new = rig.everything().await;
    let inspection = rig.source.inspect().await;
    assert_eq!(inspection.problem, None);
    assert_eq!(inspection.facts.keys().find(|k| k.ends_with("_privileges")), None);
    let artifact = rig.capture().await;
    rig.db().drop().await.unwrap();
    variety(&rig.db(), "old").await.unwrap();
    let old = rig.everything().await;
    let unit = rig.unit("job-1", &artifact);
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), Vec::<String>::new());
    same(&new, &rig.live().await);
    rig.source.revert(&unit).await.unwrap();
    same(&old, &rig.everything().await);

    let whole = role().get_array("privileges").unwrap().clone();
    for (n, privilege) in whole.iter().enumerate() {
        let privilege = privilege.as_document().unwrap();
        let resource = privilege.get_document("resource").unwrap();
        for action in privilege.get_array("actions").unwrap() {
            let action = action.as_str().unwrap();
            let mut less = whole.clone();
            less[n].as_document_mut().unwrap().get_array_mut("actions").unwrap().retain(|a| a.as_str() != Some(action));
            admin.run_command(doc! { "updateRole": "prexorAgent", "privileges": less }).await.unwrap();
            let (place, helpful) = match resource.get_str("collection") {
                Ok("system.js") => (format!("{DATABASE}.system.js"), true),
                Ok(_) => (format!("{DATABASE}.*"), false),
                Err(_) if resource.contains_key("cluster") => ("the cluster".to_owned(), true),
                Err(_) => (format!("{DATABASE}.system.buckets.*"), false),
            };
            let missing = format!("{action} on {place}");
            let facts = rig.source.inspect().await.facts;
            let fact = if helpful { "helpful_privileges" } else { "missing_privileges" };
            assert_eq!(facts.get(fact), Some(&missing), "{facts:?}");
            let unit = rig.unit(&format!("job-{n}-{action}"), &artifact);
            match rig.source.prepare(&unit).await {
                Ok(()) if helpful => rig.source.revert(&unit).await.unwrap(),
                Err(SourceError::Denied(message)) if !helpful => assert!(message.contains(&missing), "{message}"),
                other => panic!("{missing}: {other:?}"),
            }
        }
    }
    same(&old, &rig.everything().await);
}
