//! What a capture of MongoDB holds, as an independent reader sees it, however odd; and the memory that it takes.

#![allow(clippy::unwrap_used, reason = "a test that panics says what it needs to")]

use std::{collections::BTreeMap, fs, io::BufReader, process::Command};

use futures::TryStreamExt as _;
use mongodb::{
    Database,
    bson::{Binary, RawDocumentBuf, doc, oid::ObjectId, spec::BinarySubtype},
};
use prexor_agent::source::mongo::{Databases, MongoConfig, MongoSource};
use prexor_format::{
    digest::Sha256Digest,
    manifest::{Artifact, Contents},
    mongodump::verify_dump,
};
use prexor_tests::{
    capture::to_directory,
    cluster::Said,
    dataset::{self, DATABASE, Size},
    servers::Mongod,
};

/// Reads every data file with PyMongo and prints, by file, the sorted SHA-256 of its documents.
const READER: &str = r#"
import bson, glob, gzip, hashlib, json
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
raw = CodecOptions(document_class=RawBSONDocument)
out = {}
for path in glob.glob('mongo/*/*.bson.gz'):
    with gzip.open(path) as f:
        out[path.split('/')[-1][:-8]] = sorted(
            hashlib.sha256(d.raw).hexdigest() for d in bson.decode_file_iter(f, raw))
print(json.dumps(out))
"#;

/// Sorted digests of all documents of a collection, read with the driver.
async fn live(db: &Database, name: &str) -> Vec<String> {
    let documents = db.collection::<RawDocumentBuf>(name).find(doc! {}).await.unwrap();
    let digest = |d: RawDocumentBuf| async move { Ok(Sha256Digest::of(d.as_bytes()).to_string()) };
    let mut all: Vec<String> = documents.and_then(digest).try_collect().await.unwrap();
    all.sort();
    all
}

fn sound(artifact: &Artifact, dir: &std::path::Path) -> usize {
    let Contents::Mongo(contents) = &artifact.contents else { panic!("{artifact:?}") };
    let report = verify_dump(contents, |path| Ok(BufReader::new(fs::File::open(dir.join(path))?)));
    assert_eq!(report.problems, []);
    contents.collections.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_reader_finds_every_document_that_the_server_has() {
    let mongod = Mongod::replica_set().await;
    let client = mongod.client().await;
    let db = client.database(DATABASE);
    dataset::mongo(&client, DATABASE, Size::SMALL).await.unwrap();
    // The largest document that there can be: 16 MiB with its `_id` and framing.
    let filler = vec![7; (16 << 20) - 30];
    let largest = doc! { "_id": ObjectId::new(), "x": Binary { subtype: BinarySubtype::Generic, bytes: filler } };
    assert_eq!(mongodb::bson::serialize_to_vec(&largest).unwrap().len(), 16 << 20);
    db.collection("largest").insert_many([largest, doc! { "_id": 1 }]).await.unwrap();
    let deep = (0..178).fold(doc! { "end": 1 }, |inner, _| doc! { "d": inner });
    db.collection("deep").insert_one(deep).await.unwrap();
    let names = ["grüße 漢字", "with space", "50% off", "a/b\\c", "plus+dot.dash-~", "😀"];
    for name in names {
        db.collection(name).insert_one(doc! { "name": name }).await.unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let source = MongoSource::new(MongoConfig {
        uri: mongod.uri().into(),
        database: DATABASE.to_owned(),
        databases: Databases::default(),
    });
    let artifact = to_directory(&source, &"h1".parse().unwrap(), dir.path()).await.unwrap();
    sound(&artifact, dir.path());

    let mut python = Command::new("python3");
    python.arg("-c").arg(READER).current_dir(dir.path());
    if let Some(path) = std::env::var_os("PREXOR_PYTHONPATH") {
        python.env("PYTHONPATH", path);
    }
    let read = Said::from(python.output().expect("python3 can be started")).ok().json();
    let read: BTreeMap<String, Vec<String>> = serde_json::from_value(read).unwrap();
    let Contents::Mongo(contents) = &artifact.contents else { panic!("{artifact:?}") };
    let with_data: Vec<_> = contents.collections.iter().filter(|c| c.data_path.is_some()).collect();
    assert_eq!(read.len(), with_data.len());
    for collection in with_data {
        let path = collection.data_path.as_deref().unwrap();
        let stem = path.rsplit_once('/').unwrap().1.trim_end_matches(".bson.gz");
        let buckets = if stem.starts_with("system.buckets.") { "system.buckets." } else { "" };
        let expected = live(&db, &format!("{buckets}{}", collection.name)).await;
        assert_eq!(read[stem], expected, "{}", collection.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_collections_are_captured() {
    let mongod = Mongod::replica_set().await;
    let db = mongod.client().await.database(DATABASE);
    for n in 0..1_000 {
        db.collection(&format!("c{n}")).insert_one(doc! { "n": n }).await.unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let source = MongoSource::new(MongoConfig {
        uri: mongod.uri().into(),
        database: DATABASE.to_owned(),
        databases: Databases::default(),
    });
    let artifact = to_directory(&source, &"h1".parse().unwrap(), dir.path()).await.unwrap();
    assert_eq!(sound(&artifact, dir.path()), 1_000);
    assert_eq!(artifact.files.len(), 2_001);
    assert_eq!(artifact.warnings, Vec::<String>::new());
}
