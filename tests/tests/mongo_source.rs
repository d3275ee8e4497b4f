//! The MongoDB source against a real replica set with authentication: capture, and every verb of a restore.

#![allow(clippy::unwrap_used, reason = "a test that panics says what it needs to")]

use std::{fs, time::Duration};

use anyhow::Result;
use mongodb::{
    Client, Database,
    bson::{Binary, DateTime, Document, Timestamp, doc, spec::BinarySubtype},
};
use prexor_agent::{
    restore_unit::RestoreUnit,
    sink::ArtifactSink,
    source::{
        Source, SourceError,
        mongo::{Databases, MongoConfig, MongoSource},
    },
};
use prexor_format::{
    id::NodeName,
    manifest::{Artifact, Consistency, Contents, MongoContents},
    mongodump::verify_dump,
};
use prexor_tests::{
    capture::{stage, to_directory},
    dataset::{self, DATABASE, Size},
    equality::{Things, differences},
    servers::{Mongod, mongo_uri},
};
use tokio_util::sync::CancellationToken;

/// What a test has at hand.
struct Bench {
    mongod: Mongod,
    client: Client,
    source: MongoSource,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn start(parameters: &[&str]) -> Self {
        let mut mongod = Mongod::builder().auth();
        for parameter in parameters {
            mongod = mongod.arg("--setParameter").arg(*parameter);
        }
        let mongod = mongod.start().await;
        let client = mongod.client().await;
        // The roles that our own error message asks for, and no more.
        let roles = vec![
            doc! { "role": "backup", "db": "admin" },
            doc! { "role": "restore", "db": "admin" },
            doc! { "role": "readWrite", "db": DATABASE },
        ];
        let user = doc! { "createUser": "agent", "pwd": "pw", "roles": roles };
        client.database("admin").run_command(user).await.unwrap();
        let uri = mongo_uri(mongod.port(), Some(("agent", "pw")), true);
        let source = MongoSource::new(MongoConfig {
            uri: uri.into(),
            database: DATABASE.to_owned(),
            databases: Databases::default(),
        });
        Self { client, mongod, source, dir: tempfile::tempdir().unwrap() }
    }

    fn db(&self) -> Database {
        self.client.database(DATABASE)
    }

    fn backup(&self) -> std::path::PathBuf {
        self.dir.path().join("backup")
    }

    async fn capture(&self) -> Artifact {
        let _ = fs::remove_dir_all(self.backup());
        to_directory(&self.source, &"h1".parse::<NodeName>().unwrap(), &self.backup()).await.unwrap()
    }

    fn unit(&self, job: &str, artifact: &Artifact) -> RestoreUnit {
        stage(&self.dir.path().join("state"), job, artifact, &self.backup()).unwrap()
    }

    /// Everything in the database but what a restore has there for a while.
    async fn live(&self) -> Things {
        let mut things = self.everything().await;
        things.retain(|name, _| !name.starts_with("_prexor_"));
        things
    }

    async fn everything(&self) -> Things {
        prexor_tests::equality::mongo(&self.client, DATABASE).await.unwrap()
    }
}

fn contents(artifact: &Artifact) -> &MongoContents {
    match &artifact.contents {
        Contents::Mongo(contents) => contents,
        other => panic!("{other:?}"),
    }
}

fn same(before: &Things, after: &Things) {
    assert_eq!(differences("mongo", before, after), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_is_what_was_captured_byte_by_byte() {
    let bench = Bench::start(&[]).await;
    dataset::mongo(&bench.client, DATABASE, Size::SMALL).await.unwrap();
    varied(&bench.db()).await.unwrap();
    let before = bench.everything().await;

    let inspection = bench.source.inspect().await;
    assert_eq!(inspection.problem, None);
    assert_eq!(inspection.target, format!("database {DATABASE} on 127.0.0.1:{}", bench.mongod.port()));
    assert!(inspection.facts["bytes"].parse::<u64>().unwrap() > 100_000, "{inspection:?}");

    let artifact = bench.capture().await;
    let mongo = contents(&artifact);
    assert_eq!(mongo.replica_set.as_deref(), Some("rs0"));
    // Capped collections too: the account may read the oplog.
    assert!(matches!(mongo.consistency, Consistency::SnapshotOplog { .. }), "{:?}", artifact.warnings);
    assert!(mongo.server_version.starts_with("6."));
    let open = |path: &str| Ok(std::io::BufReader::new(fs::File::open(bench.backup().join(path))?));
    let report = verify_dump(mongo, open);
    assert_eq!(report.problems, []);
    assert_eq!(report.documents, mongo.collections.iter().map(|c| c.documents).sum::<u64>());
    for name in [
        "mongo/prelude.json.gz",
        "mongo/prexorcloud/mod_web%2Fpages.bson.gz",
        "mongo/prexorcloud/mod_web+100%25.metadata.json.gz",
        "mongo/prexorcloud/system.buckets.mod_stats_samples.bson.gz",
        "mongo/prexorcloud/recent_failures.metadata.json.gz",
    ] {
        assert!(bench.backup().join(name).is_file(), "{name}");
    }

    dataset::destroy_mongo(&bench.client, DATABASE).await.unwrap();
    let destroyed = bench.everything().await;
    let unit = bench.unit("job-1", &artifact);
    bench.source.prepare(&unit).await.unwrap();
    bench.source.prepare(&unit).await.unwrap();
    same(&destroyed, &bench.live().await);
    bench.source.swap(&unit).await.unwrap();
    bench.source.swap(&unit).await.unwrap();
    same(&before, &bench.live().await);
    assert_eq!(bench.source.check(&unit).await.unwrap(), Vec::<String>::new());

    bench.source.revert(&unit).await.unwrap();
    same(&destroyed, &bench.everything().await);
    bench.source.revert(&unit).await.unwrap();
    same(&destroyed, &bench.everything().await);

    let unit = bench.unit("job-2", &artifact);
    bench.source.prepare(&unit).await.unwrap();
    assert!(matches!(bench.source.commit(&unit).await, Err(SourceError::Failed(_))), "nothing was swapped");
    bench.source.swap(&unit).await.unwrap();
    bench.source.commit(&unit).await.unwrap();
    bench.source.commit(&unit).await.unwrap();
    same(&before, &bench.everything().await);

    // What is not as in the backup is found.
    bench.db().collection::<Document>("users").delete_one(doc! {}).await.unwrap();
    bench.db().collection::<Document>("roles").drop().await.unwrap();
    bench.db().collection::<Document>("stranger").insert_one(doc! {}).await.unwrap();
    bench.db().run_command(doc! { "dropIndexes": "audit_log", "index": "audit_ttl" }).await.unwrap();
    let found = bench.source.check(&unit).await.unwrap();
    assert_eq!(found.len(), 4, "{found:?}");
    for name in ["users", "roles", "stranger", "audit_log"] {
        assert!(found.iter().any(|f| f.starts_with(name)), "{name} is not in {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_or_revert_cut_short_anywhere_ends_all_new_or_all_old() {
    let bench = Bench::start(&["enableTestCommands=1"]).await;
    varied(&bench.db()).await.unwrap();
    let new = bench.everything().await;
    let artifact = bench.capture().await;
    bench.db().drop().await.unwrap();
    changed(&bench.db()).await.unwrap();
    let old = bench.everything().await;

    let mut points = 0;
    for executed in [false, true] {
        for skip in 0.. {
            let job = format!("job-{executed}-{skip}");
            let unit = bench.unit(&job, &artifact);
            bench.source.prepare(&unit).await.unwrap();
            fail_after(&bench, skip, executed).await;
            let first = bench.source.swap(&unit).await;
            heal(&bench).await;
            if first.is_ok() {
                assert!(skip > 10, "a swap takes more than {skip} commands");
                bench.source.revert(&unit).await.unwrap();
                points += skip;
                break;
            }
            if skip % 2 == 0 {
                // On to all new, and back again with a stop on the way.
                bench.source.swap(&unit).await.unwrap();
                same(&new, &bench.live().await);
                assert_eq!(bench.source.check(&unit).await.unwrap(), Vec::<String>::new());
            }
            fail_after(&bench, skip / 2, executed).await;
            let _ = bench.source.revert(&unit).await;
            heal(&bench).await;
            bench.source.revert(&unit).await.unwrap();
            same(&old, &bench.everything().await);
        }
    }
    assert!(points > 40, "{points}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_touched_when_a_staged_file_is_damaged() {
    let bench = Bench::start(&[]).await;
    varied(&bench.db()).await.unwrap();
    let artifact = bench.capture().await;
    let before = bench.everything().await;
    for (n, file) in artifact.files.iter().enumerate() {
        let unit = bench.unit(&format!("job-{n}"), &artifact);
        let mut bytes = fs::read(unit.staged(file)).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        fs::write(unit.staged(file), bytes).unwrap();
        match bench.source.prepare(&unit).await {
            Err(SourceError::Invalid(message)) => assert!(message.contains(&file.path), "{message}"),
            other => panic!("{}: {other:?}", file.path),
        }
    }
    same(&before, &bench.everything().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_is_neither_lost_while_staged_nor_called_a_difference_afterwards() {
    let bench = Bench::start(&["ttlMonitorSleepSecs=1"]).await;
    let soon = |ms: i64| DateTime::from_millis(DateTime::now().timestamp_millis() + ms);
    let shares = bench.db().collection::<Document>("shares");
    let ttl =
        doc! { "createIndexes": "shares", "indexes": [{ "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 0 }] };
    bench.db().run_command(ttl).await.unwrap();
    shares
        .insert_many((0..20).map(|n| doc! { "_id": n, "at": soon(if n < 10 { 4_000 } else { 86_400_000 }) }))
        .await
        .unwrap();
    let artifact = bench.capture().await;
    assert_eq!(contents(&artifact).collections[0].documents, 20);
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(shares.count_documents(doc! {}).await.unwrap(), 10);

    let unit = bench.unit("job", &artifact);
    bench.source.prepare(&unit).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    bench.source.swap(&unit).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(shares.count_documents(doc! {}).await.unwrap(), 10, "the restored index expires documents");
    assert_eq!(bench.source.check(&unit).await.unwrap(), Vec::<String>::new());
    shares.delete_one(doc! { "_id": 15 }).await.unwrap();
    assert_eq!(bench.source.check(&unit).await.unwrap().len(), 1, "a document that had time left is missed");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_the_place_and_the_remedy_and_no_secret() {
    let mut bench = Bench::start(&[]).await;
    varied(&bench.db()).await.unwrap();
    let port = bench.mongod.port();
    let config = MongoConfig {
        uri: bench.mongod.uri_with_wrong_password().into(),
        database: DATABASE.to_owned(),
        databases: Databases::default(),
    };
    let wrong = MongoSource::new(config);
    let problem = wrong.inspect().await.problem.unwrap();
    assert!(problem.contains("database.uri in controller.yml") && problem.contains(&port.to_string()), "{problem}");
    let capture = to_directory(&wrong, &"h1".parse().unwrap(), &bench.dir.path().join("x")).await;
    assert!(matches!(capture, Err(SourceError::Denied(_))), "{capture:?}");

    bench
        .db()
        .run_command(doc! { "createUser": "reader", "pwd": "pw", "roles": [{ "role": "read", "db": "other" }] })
        .await
        .unwrap();
    let uri = format!("mongodb://reader:pw@127.0.0.1:{port}/?authSource={DATABASE}&replicaSet=rs0");
    let reader = MongoSource::new(MongoConfig {
        uri: uri.into(),
        database: DATABASE.to_owned(),
        databases: Databases::default(),
    });
    let problem = reader.inspect().await.problem.unwrap();
    assert!(problem.contains("backup, restore and readWrite"), "{problem}");

    bench.mongod.stop().await;
    let problem = bench.source.inspect().await.problem.unwrap();
    assert!(problem.contains(&format!("127.0.0.1:{port}")), "{problem}");
    let capture = to_directory(&bench.source, &"h1".parse().unwrap(), &bench.dir.path().join("y")).await;
    assert!(matches!(capture, Err(SourceError::Unavailable(_))), "{capture:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_capture_ends_soon_and_a_receiver_that_is_gone_ends_it_too() {
    let bench = Bench::start(&[]).await;
    let big = bench.db().collection::<Document>("big");
    // Bytes that do not compress, far more than may wait in the sink.
    let mut state = 1u64;
    let mut noise = || {
        let word = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 32).to_le_bytes()
        };
        let bytes = (0..8_000).flat_map(word).collect();
        doc! { "x": Binary { subtype: BinarySubtype::Generic, bytes } }
    };
    for _ in 0..8 {
        big.insert_many((0..100).map(|_| noise())).await.unwrap();
    }
    let (sink, frames, _) = ArtifactSink::new();
    let cancel = CancellationToken::new();
    let stop = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cancel.cancel();
    };
    // Nobody reads the frames: the capture is held up until it is cancelled.
    let (captured, ()) = tokio::join!(bench.source.capture(sink, cancel.clone()), stop);
    assert!(matches!(captured, Err(SourceError::Cancelled)), "{captured:?}");
    drop(frames);

    let (sink, frames, _) = ArtifactSink::new();
    drop(frames);
    let captured = bench.source.capture(sink, CancellationToken::new()).await;
    assert!(matches!(captured, Err(SourceError::Cancelled)), "{captured:?}");
}

/// Lets every writing command of the agent after the first `skip` fail: unexecuted, or executed all the same.
async fn fail_after(bench: &Bench, skip: i32, executed: bool) {
    let mut data = doc! {
        "failCommands": ["renameCollection", "drop", "create", "insert", "update", "createIndexes", "collMod"],
        "appName": "prexor-agent",
    };
    if executed {
        data.insert("writeConcernError", doc! { "code": 64, "errmsg": "waiting for replication timed out" });
    } else {
        data.insert("closeConnection", true);
    }
    let command = doc! { "configureFailPoint": "failCommand", "mode": { "skip": skip }, "data": data };
    bench.client.database("admin").run_command(command).await.unwrap();
}

async fn heal(bench: &Bench) {
    let command = doc! { "configureFailPoint": "failCommand", "mode": "off" };
    bench.client.database("admin").run_command(command).await.unwrap();
}

/// A little of every kind. `x`, `y` and `z` are of other kinds in [`changed`].
async fn varied(db: &Database) -> Result<()> {
    let create = async |name: &str, options: Document| {
        let mut command = doc! { "create": name };
        command.extend(options);
        db.run_command(command).await.map(drop)
    };
    let numbered = |count: i32, with: &'static str| (0..count).map(move |n| doc! { "_id": n, "with": with });
    let now = DateTime::now();

    db.collection("a")
        .insert_many(
            numbered(200, "a new").map(|d| [d, doc! { "at": now }].into_iter().flatten().collect::<Document>()),
        )
        .await?;
    db.run_command(doc! { "createIndexes": "a", "indexes": [
        { "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 86_400 },
        { "key": { "with": 1, "_id": -1 }, "name": "pair", "unique": true },
    ] })
    .await?;
    create("b", doc! { "capped": true, "size": 8192, "max": 20 }).await?;
    db.collection("b").insert_many(numbered(50, "b new")).await?;
    create("c", doc! { "clusteredIndex": { "key": { "_id": 1 }, "unique": true }, "expireAfterSeconds": 864_000 })
        .await?;
    db.collection("c")
        .insert_many((0..30).map(|n| doc! { "_id": DateTime::from_millis(now.timestamp_millis() - n) }))
        .await?;
    series(db, "s", "new", Some(864_000)).await?;
    create("v", doc! { "viewOn": "a", "pipeline": [{ "$match": { "with": { "$regex": "^a", "$options": "i" } } }] })
        .await?;
    db.collection("x").insert_many(numbered(10, "x new")).await?;
    create("y", doc! { "viewOn": "v", "pipeline": [] }).await?;
    series(db, "z", "new", None).await?;
    db.collection("only new").insert_many(numbered(5, "new")).await?;
    create("empty", doc! {}).await?;
    // Top-level zero timestamps, among others and in a document whose _id is one.
    let zero = Timestamp { time: 0, increment: 0 };
    db.collection("zero").insert_many((0..3).map(|n| doc! { "_id": n, "t": 1, "u": 2 })).await?;
    let pipeline =
        |id: i32| vec![doc! { "$replaceWith": { "$literal": { "_id": id, "t": zero, "u": { "t": zero } } } }];
    db.collection::<Document>("zero").update_one(doc! { "_id": 1 }, pipeline(1)).await?;
    Ok(())
}

/// What is live when the backup of [`varied`] comes back.
async fn changed(db: &Database) -> Result<()> {
    let numbered = |count: i32, with: &'static str| (0..count).map(move |n| doc! { "_id": n, "with": with });
    db.collection("a").insert_many(numbered(30, "a old")).await?;
    db.run_command(doc! { "createIndexes": "a", "indexes": [{ "key": { "other": 1 }, "name": "pair" }] }).await?;
    db.collection("b").insert_many(numbered(5, "b old, not capped")).await?;
    series(db, "s", "old", None).await?;
    db.run_command(doc! { "createIndexes": "s", "indexes": [{ "key": { "meta": 1, "ts": 1 }, "name": "by meta" }] })
        .await?;
    db.run_command(doc! { "create": "v", "viewOn": "b", "pipeline": [] }).await?;
    db.run_command(doc! { "create": "x", "viewOn": "a", "pipeline": [{ "$limit": 1 }] }).await?;
    series(db, "y", "old", Some(1_000_000)).await?;
    db.collection("z").insert_many(numbered(7, "z old")).await?;
    db.collection("only old").insert_many(numbered(4, "old")).await?;
    series(db, "only old series", "old", None).await?;
    db.run_command(doc! { "create": "only old view", "viewOn": "only old", "pipeline": [] }).await?;
    Ok(())
}

async fn series(db: &Database, name: &str, with: &str, expire: Option<i64>) -> Result<()> {
    let mut command = doc! { "create": name, "timeseries": { "timeField": "ts", "metaField": "meta" } };
    if let Some(seconds) = expire {
        command.insert("expireAfterSeconds", seconds);
    }
    db.run_command(command).await?;
    let now = DateTime::now().timestamp_millis();
    let documents =
        (0..100).map(|n| doc! { "ts": DateTime::from_millis(now - n * 50_000), "meta": n % 3, "with": with });
    db.collection(name).insert_many(documents).await?;
    Ok(())
}
