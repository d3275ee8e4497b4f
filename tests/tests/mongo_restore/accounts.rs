//! Users and roles: captured where they may be read, restored on request only, and never the agent's own.

use std::{collections::BTreeMap, fs, io::Read as _};

use futures::TryStreamExt as _;
use mongodb::{
    Client,
    bson::{Document, RawDocumentBuf, doc},
};
use prexor_agent::source::{Source as _, SourceError, mongo::Databases};
use prexor_format::{gzip, manifest::AccountKind, selection::Selection};
use prexor_tests::{
    dataset::DATABASE,
    equality::Things,
    mongo::{Rig, contents, namespaces, numbered, same},
    servers::{Mongod, mongo_uri},
};

fn with_accounts() -> Selection {
    Selection { users_and_roles: true, ..Selection::default() }
}

/// Users and roles, byte by byte, as the server keeps them, and what a restore has beside them.
async fn accounts(client: &Client) -> Things {
    let admin = client.database("admin");
    let mut things = Things::new();
    for name in ["system.users", "system.roles"] {
        let found: Vec<RawDocumentBuf> =
            admin.collection(name).find(doc! {}).await.unwrap().try_collect().await.unwrap();
        let one = |d: RawDocumentBuf| (d.get_str("_id").unwrap().to_owned(), format!("{:?}", d.as_bytes()));
        things.insert(name.to_owned(), found.into_iter().map(one).collect());
    }
    for name in admin.list_collection_names().await.unwrap().into_iter().filter(|n| n.starts_with("_prexor")) {
        things.insert(name, BTreeMap::new());
    }
    things
}

async fn can_log_in(mongod: &Mongod, user: &str, password: &str) -> bool {
    let uri = mongo_uri(mongod.port(), Some((user, password)), true)
        .replace("authSource=admin", &format!("authSource={DATABASE}"));
    let client = Client::with_uri_str(uri).await.unwrap();
    client.database(DATABASE).run_command(doc! { "ping": 1 }).await.is_ok()
        && client.database(DATABASE).run_command(doc! { "connectionStatus": 1 }).await.is_ok()
}

async fn run(client: &Client, database: &str, command: Document) {
    client.database(database).run_command(command).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_roles_come_back_on_request_and_the_agents_own_account_stays_as_it_is() {
    let mongod = Mongod::builder().auth().start().await;
    let client = mongod.client().await;
    // The agent's account is one of the very database, with a role of its own beside the built-in ones.
    let own = doc! { "createRole": "extra", "privileges": [], "roles": [] };
    run(&client, DATABASE, own).await;
    let roles = vec![
        doc! { "role": "extra", "db": DATABASE },
        doc! { "role": "backup", "db": "admin" },
        doc! { "role": "restore", "db": "admin" },
        doc! { "role": "readWrite", "db": DATABASE },
    ];
    run(&client, DATABASE, doc! { "createUser": "agent", "pwd": "pw", "roles": roles }).await;
    let uri = mongo_uri(mongod.port(), Some(("agent", "pw")), true)
        .replace("authSource=admin", &format!("authSource={DATABASE}"));
    let rig = Rig::new(client.clone(), uri);
    rig.db().collection("a").insert_many(numbered(20, "new")).await.unwrap();
    let reader = doc! { "resource": { "db": DATABASE, "collection": "a" }, "actions": ["find"] };
    run(&client, DATABASE, doc! { "createRole": "reader", "privileges": [reader], "roles": [] }).await;
    run(&client, DATABASE, doc! { "createUser": "app", "pwd": "first", "roles": ["reader"] }).await;
    run(&client, DATABASE, doc! { "createUser": "gone", "pwd": "x", "roles": ["readWrite"] }).await;
    let then = accounts(&client).await;
    assert_eq!(rig.source.inspect().await.facts.get("accounts_lack"), None);
    let artifact = rig.capture().await;

    // As mongodump writes those of a database: without the other databases' (the test's own root is in admin).
    let found = &contents(&artifact).accounts;
    let told: Vec<_> = found.iter().map(|a| (a.database.as_str(), a.what, a.documents)).collect();
    assert_eq!(told, [(DATABASE, AccountKind::Users, 3), (DATABASE, AccountKind::Roles, 2)]);
    assert_eq!(found[0].data_path, format!("mongo/{DATABASE}/$admin.system.users.bson.gz"));
    let mut version = Vec::new();
    let path = rig.backup().join(format!("mongo/{DATABASE}/$admin.system.version.bson.gz"));
    gzip::reader(std::io::BufReader::new(fs::File::open(path).unwrap())).read_to_end(&mut version).unwrap();
    assert_eq!(Document::from_reader(&version[..]).unwrap().get_i32("currentVersion").ok(), Some(5));

    run(&client, DATABASE, doc! { "dropUser": "gone" }).await;
    run(&client, DATABASE, doc! { "updateUser": "app", "pwd": "second", "roles": [] }).await;
    run(&client, DATABASE, doc! { "createUser": "since", "pwd": "x", "roles": [] }).await;
    run(&client, DATABASE, doc! { "updateRole": "reader", "privileges": [] }).await;
    run(&client, DATABASE, doc! { "createRole": "since", "privileges": [], "roles": [] }).await;
    // The agent got another role since: it keeps it.
    let granted = vec![doc! { "role": "read", "db": "config" }];
    run(&client, DATABASE, doc! { "grantRolesToUser": "agent", "roles": granted }).await;
    let now = accounts(&client).await;

    rig.restore(&rig.unit("job-1", &artifact)).await.unwrap();
    same(&now, &accounts(&client).await);
    let unit = rig.part("job-2", &artifact, &with_accounts());
    rig.source.prepare(&unit).await.unwrap();
    same(&now, &accounts(&client).await);
    rig.source.swap(&unit).await.unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), Vec::<String>::new());
    // But for the agent's own account everything is byte by byte as it was then, and that is as it is now.
    let mut expected = then.clone();
    let agent = format!("{DATABASE}.agent");
    expected.get_mut("system.users").unwrap().insert(agent.clone(), now["system.users"][&agent].clone());
    assert_ne!(then, expected);
    same(&expected, &accounts(&client).await);
    assert!(can_log_in(&mongod, "app", "first").await && !can_log_in(&mongod, "app", "second").await);
    assert!(can_log_in(&mongod, "gone", "x").await && !can_log_in(&mongod, "since", "x").await);
    // A swap that is done again changes nothing, and does not take what it made for what was there before.
    rig.source.swap(&unit).await.unwrap();
    rig.source.revert(&unit).await.unwrap();
    same(&now, &accounts(&client).await);

    let unit = rig.part("job-3", &artifact, &with_accounts());
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    run(&client, DATABASE, doc! { "updateUser": "app", "pwd": "third" }).await;
    assert_eq!(rig.source.check(&unit).await.unwrap(), [format!("the user {DATABASE}.app is not as in the backup")]);
    rig.source.commit(&unit).await.unwrap();
    let left = accounts(&client).await;
    assert_eq!(left.keys().collect::<Vec<_>>(), ["system.roles", "system.users"], "nothing of the restore's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_may_not_read_users_leaves_them_out_and_one_that_may_not_restore_them_is_told_what_it_lacks() {
    let mongod = Mongod::builder().auth().start().await;
    let client = mongod.client().await;
    run(&client, DATABASE, doc! { "createUser": "app", "pwd": "x", "roles": [] }).await;
    let log_in = |name| mongo_uri(mongod.port(), Some((name, "pw")), true);
    run(&client, "admin", doc! { "createUser": "rw", "pwd": "pw", "roles": [{ "role": "readWrite", "db": DATABASE }, { "role": "dbAdmin", "db": DATABASE }] }).await;
    run(&client, "admin", doc! { "createUser": "half", "pwd": "pw", "roles": ["backup", { "role": "readWrite", "db": DATABASE }, { "role": "dbAdmin", "db": DATABASE }] }).await;
    let without = Rig::new(client.clone(), log_in("rw"));
    without.db().collection("a").insert_many(numbered(5, "new")).await.unwrap();
    let artifact = without.capture().await;
    assert!(contents(&artifact).accounts.is_empty() && artifact.warnings.is_empty(), "{:?}", artifact.warnings);
    let refused = without.source.prepare(&without.part("job", &artifact, &with_accounts())).await;
    assert!(matches!(&refused, Err(SourceError::Invalid(m)) if m.contains("no users and roles")), "{refused:?}");

    let with = Rig::new(client.clone(), log_in("half"));
    let missing = with.source.inspect().await.facts["accounts_lack"].clone();
    assert!(missing.starts_with("createUser on every database"), "{missing}");
    let artifact = with.capture().await;
    assert_eq!(contents(&artifact).accounts.len(), 2);
    let before = accounts(&client).await;
    let unit = with.part("job", &artifact, &with_accounts());
    let refused = with.source.prepare(&unit).await;
    assert!(matches!(&refused, Err(SourceError::Denied(m)) if m.contains("dropUser on every database")), "{refused:?}");
    same(&before, &accounts(&client).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_all_databases_holds_everybodys_accounts_and_stored_functions_come_back() {
    let mongod = Mongod::builder().auth().start().await;
    let client = mongod.client().await;
    let rig = Rig::of(client.clone(), mongod.uri(), Databases::All);
    for database in [DATABASE, "other"] {
        client.database(database).collection("a").insert_many(numbered(5, "new")).await.unwrap();
        run(&client, database, doc! { "createUser": "app", "pwd": "x", "roles": [] }).await;
    }
    let function = |body: &str| doc! { "_id": "f", "value": mongodb::bson::Bson::JavaScriptCode(body.to_owned()) };
    rig.db().collection("system.js").insert_one(function("function() { return 1; }")).await.unwrap();
    let (then, data) = (accounts(&client).await, rig.everything().await);
    assert!(data.contains_key("system.js"));
    let artifact = rig.capture().await;
    let told: Vec<_> = contents(&artifact).accounts.iter().map(|a| (a.data_path.as_str(), a.documents)).collect();
    assert_eq!(told, [("mongo/admin/system.users.bson.gz", 3), ("mongo/admin/system.roles.bson.gz", 0)]);
    run(&client, "other", doc! { "dropUser": "app" }).await;
    run(&client, "admin", doc! { "createUser": "since", "pwd": "x", "roles": ["root"] }).await;
    rig.db().collection::<Document>("system.js").delete_many(doc! {}).await.unwrap();
    rig.db().collection("system.js").insert_one(function("function() { return 2; }")).await.unwrap();
    let old = rig.everything().await;

    let unit = rig.part("job-1", &artifact, &with_accounts());
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), Vec::<String>::new());
    same(&then, &accounts(&client).await);
    same(&data, &rig.live().await);
    rig.source.revert(&unit).await.unwrap();
    same(&old, &rig.everything().await);
    rig.restore(&rig.part("job-2", &artifact, &namespaces(&[], &["*.system.js"], &[]))).await.unwrap();
    assert_eq!(rig.everything().await["system.js"], old["system.js"], "left out, it stays as it is");
}
