//! Captures of MongoDB while it is written to, changed and interrupted: what they hold is one moment's.

#![allow(clippy::unwrap_used, reason = "a test that panics says what it needs to")]

use std::{
    collections::BTreeMap,
    fs,
    io::BufReader,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, TryStreamExt as _};
use mongodb::{
    Client, Database,
    bson::{Binary, Document, doc, spec::BinarySubtype},
};
use prexor_agent::{
    sink::{ArtifactSink, Frame},
    source::{
        Captured, Source, SourceError,
        mongo::{CaptureOptions, Databases, MongoConfig, MongoSource, ReadFrom},
    },
};
use prexor_format::{
    bson::DocumentReader,
    gzip,
    manifest::{Artifact, Consistency, Contents, MongoContents},
    mongodump::verify_dump,
};
use prexor_tests::{
    capture::{self, to_directory},
    dataset::DATABASE,
    servers::{Mongod, ReplicaSet, StandInMongos},
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

const ACCOUNTS: i32 = 300;
const CAPPED_BYTES: i32 = 64 << 10;

struct Bench {
    mongod: Mongod,
    client: Client,
    source: MongoSource,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn start() -> Self {
        Self::on(Mongod::builder().replica_set().arg("--setParameter").arg("enableTestCommands=1").start().await).await
    }

    async fn on(mongod: Mongod) -> Self {
        let config =
            MongoConfig { uri: mongod.uri().into(), database: DATABASE.to_owned(), databases: Databases::default() };
        let (client, dir) = (mongod.client().await, tempfile::tempdir().unwrap());
        Self { mongod, client, source: MongoSource::new(config), dir }
    }

    fn db(&self) -> Database {
        self.client.database(DATABASE)
    }

    async fn capture(&self, name: &str) -> (Artifact, Dump) {
        let dir = self.dir.path().join(name);
        let artifact = to_directory(&self.source, &"h1".parse().unwrap(), &dir).await.unwrap();
        let dump = Dump::read(contents(&artifact.contents), &dir);
        (artifact, dump)
    }

    async fn admin(&self, command: Document) {
        self.client.database("admin").run_command(command).await.unwrap();
    }
}

/// The documents of a capture, by collection, in the order of its files.
struct Dump(BTreeMap<String, Vec<Document>>);

impl Dump {
    fn read(contents: &MongoContents, dir: &Path) -> Self {
        let open = |path: &str| Ok(BufReader::new(fs::File::open(dir.join(path))?));
        assert_eq!(verify_dump(contents, open).problems, []);
        let mut all = BTreeMap::new();
        for collection in &contents.collections {
            let Some(path) = &collection.data_path else { continue };
            let file = gzip::reader(BufReader::new(fs::File::open(dir.join(path)).unwrap()));
            let (mut reader, mut documents) = (DocumentReader::new(BufReader::new(file)), Vec::new());
            while let Some((document, _)) = reader.read().unwrap() {
                documents.push(Document::from_reader(document).unwrap());
            }
            all.insert(collection.name.clone(), documents);
        }
        Self(all)
    }

    fn of(&self, name: &str) -> &[Document] {
        &self.0[name]
    }
}

fn contents(contents: &Contents) -> &MongoContents {
    match contents {
        Contents::Mongo(contents) => contents,
        other => panic!("{other:?}"),
    }
}

/// What is wrong with these accounts: money that came or went, or a sequence that only one side has seen.
fn broken(left: &[Document], right: &[Document]) -> Option<String> {
    let sum = |side: &[Document]| side.iter().map(|d| d.get_i64("amount").unwrap()).sum::<i64>();
    let last = |side: &[Document]| side.iter().map(|d| d.get_i64("sequence").unwrap()).max();
    let total = sum(left) + sum(right);
    if left.len() != ACCOUNTS as usize || right.len() != ACCOUNTS as usize || total != i64::from(ACCOUNTS) * 2_000 {
        return Some(format!("{} and {} accounts hold {total}", left.len(), right.len()));
    }
    (last(left) != last(right)).then(|| format!("one side has seen {:?}, the other {:?}", last(left), last(right)))
}

/// Writers that never rest: transfers between two collections, each one a transaction, and lines in a capped collection
/// that overflows, each one counted in another collection afterwards.
struct Load {
    stop: Arc<AtomicBool>,
    writers: JoinSet<()>,
}

impl Load {
    async fn begin(client: &Client) -> Self {
        let db = client.database(DATABASE);
        for side in ["left", "right"] {
            let filler = "f".repeat(600);
            let account = |n| doc! { "_id": n, "amount": 1_000_i64, "sequence": 0_i64, "filler": &filler };
            db.collection(side).insert_many((0..ACCOUNTS).map(account)).await.unwrap();
        }
        db.run_command(doc! { "create": "lines", "capped": true, "size": CAPPED_BYTES }).await.unwrap();
        db.collection("counter").insert_one(doc! { "_id": 0, "n": 0_i64 }).await.unwrap();
        let (stop, mut writers) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        let (client, stopped) = (client.clone(), stop.clone());
        writers.spawn(async move {
            let mut sequence = 0;
            while !stopped.load(Ordering::Relaxed) {
                sequence += 1;
                transfer(&client, sequence).await;
            }
        });
        let stopped = stop.clone();
        writers.spawn(async move {
            let mut n = 0;
            while !stopped.load(Ordering::Relaxed) {
                n += 1;
                db.collection("lines").insert_one(line(n)).await.unwrap();
                db.collection::<Document>("counter").update_one(doc! {}, doc! { "$set": { "n": n } }).await.unwrap();
            }
        });
        Self { stop, writers }
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.writers.join_next().await {
            ended.unwrap();
        }
    }
}

fn line(n: i64) -> Document {
    doc! { "_id": n, "text": "l".repeat(200) }
}

/// Begun anew where the server asks for it: a transaction that waits 5 ms for a lock, as one may for a database in which
/// collections come and go, is aborted.
async fn transfer(client: &Client, sequence: i64) {
    let db = client.database(DATABASE);
    let account = (sequence * 7_919) as i32 % ACCOUNTS;
    let mut session = client.start_session().await.unwrap();
    let transaction = session.start_transaction();
    let both = transaction.and_run((), |session, ()| {
        let db = db.clone();
        async move {
            for (side, sign, id) in [("left", 1, account), ("right", -1, ACCOUNTS - 1 - account)] {
                let change = doc! { "$inc": { "amount": sign * (sequence % 90) }, "$set": { "sequence": sequence } };
                let collection = db.collection::<Document>(side);
                collection.update_one(doc! { "_id": id }, change).session(&mut *session).await?;
            }
            Ok(())
        }
        .boxed()
    });
    both.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_captures_under_load_each_show_one_moment_where_a_plain_scan_does_not() {
    let bench = Bench::start().await;
    let load = Load::begin(&bench.client).await;

    // What the invariant is worth: reading one collection after the other breaks it.
    let mut seen = None;
    for _ in 0..2_000 {
        let read = async |side: &str| -> Vec<Document> {
            bench.db().collection(side).find(doc! {}).await.unwrap().try_collect().await.unwrap()
        };
        let left = read("left").await;
        seen = broken(&left, &read("right").await);
        if seen.is_some() {
            break;
        }
    }
    assert!(seen.is_some(), "2,000 plain scans have all met a quiet moment: the load is none");

    let mut times = Vec::new();
    for n in 0..50 {
        let (artifact, dump) = bench.capture(&n.to_string()).await;
        assert_eq!(broken(dump.of("left"), dump.of("right")), None, "capture {n}");
        match contents(&artifact.contents).consistency {
            Consistency::SnapshotOplog { seconds, increment } => times.push((seconds, increment)),
            ref other => panic!("{other:?}: {:?}", artifact.warnings),
        }
        // The capped collection shows the same moment, from its first line to its last.
        let lines: Vec<i64> = dump.of("lines").iter().map(|d| d.get_i64("_id").unwrap()).collect();
        let (first, last) = (*lines.first().unwrap_or(&1), *lines.last().unwrap_or(&0));
        assert_eq!(lines, (first..=last).collect::<Vec<_>>(), "capture {n}");
        let counted = dump.of("counter")[0].get_i64("n").unwrap();
        assert!(last == counted || last == counted + 1, "capture {n}: the last line is {last}, {counted} are counted");
        let size = |lines: i64| lines * mongodb::bson::serialize_to_vec(&line(1)).unwrap().len() as i64;
        let (held, cap) = (last - first + 1, i64::from(CAPPED_BYTES));
        assert!(size(held) <= cap && (first == 1 || size(held + 1) > cap), "capture {n}: {held} lines since {first}");
    }
    assert!(times.is_sorted() && times.first() < times.last(), "{times:?}");
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_that_come_and_go_are_no_trouble() {
    let bench = Bench::start().await;
    let load = Load::begin(&bench.client).await;
    let (stop, db, admin) = (CancellationToken::new(), bench.db(), bench.client.database("admin"));
    let stopped = stop.clone();
    let churn = tokio::spawn(async move {
        let mut n = 0;
        while !stopped.is_cancelled() {
            n += 1;
            let out = doc! { "aggregate": "left", "pipeline": [{ "$out": "summary" }], "cursor": {} };
            db.run_command(out).await.unwrap();
            let name = format!("passing_{}", n % 7);
            // Renamed when it has its document: a collection that an insert makes is empty for a moment.
            db.collection("coming").insert_one(doc! { "n": n }).await.unwrap();
            let [from, to] = ["coming", &name].map(|name| format!("{}.{name}", db.name()));
            admin.run_command(doc! { "renameCollection": from, "to": to, "dropTarget": true }).await.unwrap();
            tokio::time::sleep(Duration::from_millis(400)).await;
            db.collection::<Document>(&format!("passing_{}", (n + 3) % 7)).drop().await.unwrap();
        }
    });
    for n in 0..10 {
        let (artifact, dump) = bench.capture(&n.to_string()).await;
        assert_eq!(broken(dump.of("left"), dump.of("right")), None, "capture {n}");
        let names: Vec<&String> = dump.0.keys().collect();
        assert!(!names.iter().any(|n| n.starts_with("tmp")), "{names:?}");
        // Whatever is in the capture was there with all that it held.
        for (name, documents) in dump.0.iter().filter(|(name, _)| name.starts_with("passing_")) {
            assert_eq!(documents.len(), 1, "{name} in capture {n}: {:?}", artifact.warnings);
        }
        assert_eq!(dump.0.get("summary").map_or(ACCOUNTS as usize, Vec::len), ACCOUNTS as usize, "capture {n}");
    }
    stop.cancel();
    churn.await.unwrap();
    load.end().await;
}

/// Runs a capture into `dir` that is held up as soon as its first data come, until `meanwhile` is done. Returns also how
/// often it began anew.
async fn held_up(
    source: &MongoSource,
    dir: &Path,
    meanwhile: impl Future<Output = ()>,
) -> (Result<Captured, SourceError>, usize) {
    let (sink, mut frames, _) = ArtifactSink::new();
    let (tx, rx) = mpsc::channel(1);
    let forward = async {
        let (mut meanwhile, mut restarts) = (Some(meanwhile), 0);
        while let Some(frame) = frames.recv().await {
            restarts += usize::from(matches!(frame, Frame::Restart));
            let data = matches!(&frame, Frame::Chunk { data, .. } if data.len() > 1_000);
            tx.send(frame).await.unwrap();
            if data && let Some(meanwhile) = meanwhile.take() {
                meanwhile.await;
            }
        }
        drop(tx);
        restarts
    };
    let capture = source.capture(sink, CancellationToken::new());
    let (captured, restarts, stored) = tokio::join!(capture, forward, capture::drain(rx, dir));
    stored.unwrap();
    (captured, restarts)
}

/// Collections of bytes that do not compress, more of them than may be under way.
async fn noise(db: &Database, names: &[&str], megabytes: usize) {
    let mut state = 1_u64;
    for name in names {
        for _ in 0..megabytes {
            let mut document = || {
                let bytes = (0..16_000).flat_map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 32).to_le_bytes()
                });
                doc! { "x": Binary { subtype: BinarySubtype::Generic, bytes: bytes.collect() } }
            };
            db.collection(name).insert_many((0..8).map(|_| document())).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_is_dropped_before_it_is_read_begins_the_capture_anew() {
    let bench = Bench::start().await;
    noise(&bench.db(), &["a", "b", "c", "d"], 16).await;
    // Of the big ones the smallest is read last.
    noise(&bench.db(), &["z"], 8).await;
    bench.db().collection("y").insert_one(doc! { "_id": 1 }).await.unwrap();
    let dir = bench.dir.path().join("dump");
    let drop_it = async { bench.db().collection::<Document>("z").drop().await.unwrap() };
    let (captured, restarts) = held_up(&bench.source, &dir, drop_it).await;
    let captured = captured.unwrap();
    assert_eq!(restarts, 1);
    let dump = Dump::read(contents(&captured.contents), &dir);
    assert_eq!(dump.0.keys().collect::<Vec<_>>(), ["a", "b", "c", "d", "y"]);
    assert!(!dir.join("mongo/prexorcloud/z.bson.gz").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_and_a_primary_that_steps_down_are_survived() {
    let bench = Bench::start().await;
    noise(&bench.db(), &["a", "b", "c", "d"], 12).await;
    let (_, quiet) = bench.capture("quiet").await;
    let data = doc! { "failCommands": ["find", "getMore"], "appName": "prexor-agent", "closeConnection": true };
    bench.admin(doc! { "configureFailPoint": "failCommand", "mode": { "times": 5 }, "data": data }).await;
    let (_, cut) = bench.capture("cut").await;
    let same = |other: &Dump| {
        for (name, documents) in &quiet.0 {
            let sorted = |documents: &[Document]| {
                let mut ids: Vec<_> = documents.iter().map(|d| d.get_object_id("_id").unwrap()).collect();
                ids.sort();
                ids
            };
            assert_eq!(sorted(documents), sorted(other.of(name)), "{name}");
        }
    };
    same(&cut);

    let dir = bench.dir.path().join("stepped");
    let step_down = async {
        let down = bench.client.database("admin").run_command(doc! { "replSetStepDown": 1, "force": true }).await;
        down.unwrap();
    };
    let (captured, restarts) = held_up(&bench.source, &dir, step_down).await;
    assert_eq!(restarts, 0);
    same(&Dump::read(contents(&captured.unwrap().contents), &dir));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_is_too_short_is_made_longer_for_the_capture_or_named_with_its_remedy() {
    const WINDOW: &str = "minSnapshotHistoryWindowInSeconds";
    let bench = Bench::start().await;
    bench.admin(doc! { "setParameter": 1, WINDOW: 1 }).await;
    noise(&bench.db(), &["a", "b", "c", "d"], 12).await;
    let wait = async || {
        for n in 0..60 {
            bench.db().collection("a").insert_one(doc! { "n": n }).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    // An account that may not set parameters.
    let refused = doc! { "failCommands": ["setParameter"], "errorCode": 13 };
    bench.admin(doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": refused }).await;
    let (captured, restarts) = held_up(&bench.source, &bench.dir.path().join("refused"), wait()).await;
    let message = captured.unwrap_err().to_string();
    assert!(message.contains(WINDOW) && message.contains("grant"), "{message}");
    assert_eq!(restarts, 0);

    bench.admin(doc! { "configureFailPoint": "failCommand", "mode": "off" }).await;
    let dir = bench.dir.path().join("made");
    let (captured, restarts) = held_up(&bench.source, &dir, wait()).await;
    let captured = captured.unwrap();
    assert!(matches!(contents(&captured.contents).consistency, Consistency::Snapshot { .. }));
    assert!(restarts > 0, "the server's history was long enough");
    let now = bench.client.database("admin").run_command(doc! { "getParameter": 1, WINDOW: 1 }).await.unwrap();
    assert_eq!(now.get_i32(WINDOW).unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capped_collection_that_is_changed_in_place_is_captured_all_the_same_and_said_to_be() {
    let bench = Bench::start().await;
    // So many that reading them takes longer than a change: what a majority has stands still only in between.
    const LINES: i64 = 60_000;
    bench.db().run_command(doc! { "create": "lines", "capped": true, "size": 64 << 20 }).await.unwrap();
    bench.db().collection("lines").insert_many((0..LINES).map(line)).await.unwrap();
    bench.db().collection("others").insert_one(doc! {}).await.unwrap();
    let (stop, db) = (CancellationToken::new(), bench.db());
    let stopped = stop.clone();
    let changes = tokio::spawn(async move {
        while !stopped.is_cancelled() {
            let lines = db.collection::<Document>("lines");
            lines.update_one(doc! { "_id": 500 }, doc! { "$inc": { "n": 1 } }).await.unwrap();
        }
    });
    let (artifact, dump) = bench.capture("dump").await;
    stop.cancel();
    changes.await.unwrap();
    assert_eq!(contents(&artifact.contents).consistency, Consistency::Fuzzy);
    assert!(
        artifact.warnings.iter().any(|w| w.contains("lines was changed in another way")),
        "{:?}",
        artifact.warnings
    );
    assert_eq!(dump.of("lines").len() as i64, LINES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_is_captured_as_it_runs_and_said_to_be() {
    let bench = Bench::on(Mongod::standalone().await).await;
    bench.db().collection("a").insert_many((0..1_000).map(|n| doc! { "_id": n })).await.unwrap();
    let (artifact, dump) = bench.capture("dump").await;
    assert_eq!(contents(&artifact.contents).consistency, Consistency::Fuzzy);
    assert!(artifact.warnings.iter().any(|w| w.contains("no replica set")), "{:?}", artifact.warnings);
    assert_eq!(dump.of("a").len(), 1_000);
    drop(bench.mongod);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secondary_that_is_asked_for_is_read_and_shows_one_moment_even_when_it_is_elected_meanwhile() {
    let set = ReplicaSet::start(3).await;
    let client = set.client().await;
    let config = MongoConfig { uri: set.uri().into(), database: DATABASE.to_owned(), databases: Databases::default() };
    let options = CaptureOptions { read_from: ReadFrom::Secondary, ..CaptureOptions::default() };
    let source = MongoSource::new(config).capturing(options);
    let load = Load::begin(&client).await;
    // Every member writes down what it is asked, for itself.
    let primary = set.primary().await;
    for n in 0..3 {
        set.direct(n).await.database(DATABASE).run_command(doc! { "profile": 2 }).await.unwrap();
    }
    let scratch = tempfile::tempdir().unwrap();
    for n in 0..5 {
        let dir = scratch.path().join(n.to_string());
        let artifact = to_directory(&source, &"h1".parse().unwrap(), &dir).await.unwrap();
        let dump = Dump::read(contents(&artifact.contents), &dir);
        assert_eq!(broken(dump.of("left"), dump.of("right")), None, "capture {n}");
        let consistency = &contents(&artifact.contents).consistency;
        assert!(matches!(consistency, Consistency::SnapshotOplog { .. }), "{consistency:?}: {:?}", artifact.warnings);
    }
    load.end().await;
    let mut asked = Vec::new();
    for n in 0..3 {
        let db = set.direct(n).await.database(DATABASE);
        db.run_command(doc! { "profile": 0 }).await.unwrap();
        let profile = db.collection::<Document>("system.profile");
        let ours =
            doc! { "appName": "prexor-agent", "op": { "$in": ["query", "getmore"] }, "ns": format!("{DATABASE}.left") };
        asked.push(profile.count_documents(ours).selection_criteria(nearest()).await.unwrap());
    }
    assert!(asked[primary] == 0 && asked.iter().sum::<u64>() >= 5, "member {primary} is primary: {asked:?}");

    noise(&client.database(DATABASE), &["a", "b", "c", "d"], 12).await;
    let dir = scratch.path().join("elected");
    let (captured, restarts) = held_up(&source, &dir, set.step_down()).await;
    assert_eq!(restarts, 0);
    let dump = Dump::read(contents(&captured.unwrap().contents), &dir);
    assert_eq!(["a", "b", "c", "d"].map(|name| dump.of(name).len()), [96; 4]);
}

fn nearest() -> mongodb::options::SelectionCriteria {
    mongodb::options::SelectionCriteria::ReadPreference(mongodb::options::ReadPreference::Nearest { options: None })
}

/// There is no mongos to test with: a stand-in answers the first question as one does, which is all that the refusal
/// looks at.
#[tokio::test(flavor = "multi_thread")]
async fn a_mongos_is_refused_by_name() {
    let mongos = StandInMongos::start();
    let uri = format!("mongodb://127.0.0.1:{}/", mongos.port());
    let config = MongoConfig { uri: uri.into(), database: DATABASE.to_owned(), databases: Databases::default() };
    let source = MongoSource::new(config);
    let problem = source.inspect().await.problem.unwrap();
    assert!(problem.contains("is a mongos") && problem.contains("point the agent at a replica set"), "{problem}");
    let scratch = tempfile::tempdir().unwrap();
    let capture = to_directory(&source, &"h1".parse().unwrap(), scratch.path()).await;
    assert!(matches!(&capture, Err(SourceError::Failed(m)) if m.contains("is a mongos")), "{capture:?}");
}
