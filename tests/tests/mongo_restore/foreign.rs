//! Dumps that other tools wrote, restored by ours.

use std::{fs, io::BufReader, path::Path};

use prexor_agent::source::Source as _;
use prexor_format::{
    digest::Sha256Digest,
    manifest::{Artifact, Contents, StoredFile},
    mongodump::{self, Survey, survey},
};
use prexor_tests::{
    cluster::Cluster,
    dataset::{self, DATABASE, Size},
    equality,
    mongo::{Rig, python, same},
    servers::Mongod,
};

fn files_below(dir: &Path, prefix: &str, out: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        match entry.file_type().unwrap().is_dir() {
            true => files_below(&entry.path(), &format!("{name}/"), out),
            false => out.push(name),
        }
    }
}

fn look(dump: &Path) -> Survey {
    let mut paths = Vec::new();
    files_below(dump, "", &mut paths);
    survey(&paths, |path| Ok(BufReader::new(fs::File::open(dump.join(path))?))).unwrap()
}

/// The dump as an artifact, laid out as a backup.
fn adopt(rig: &Rig, dump: &Path, like: &Artifact) -> Artifact {
    let found = look(dump);
    let _ = fs::remove_dir_all(rig.backup());
    let stored = found.files.iter().map(|path| {
        let (bytes, path) = (fs::read(dump.join(path)).unwrap(), format!("{}/{path}", mongodump::ROOT));
        let to = rig.backup().join(&path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, &bytes).unwrap();
        StoredFile { path, size_bytes: bytes.len() as u64, sha256: Sha256Digest::of(&bytes) }
    });
    Artifact { files: stored.collect(), contents: Contents::Mongo(found.contents), ..like.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_tool_dumped_comes_back_byte_by_byte_compressed_or_not() {
    let mongod = Mongod::replica_set().await;
    let rig = Rig::new(mongod.client().await, mongod.uri());
    dataset::mongo(&rig.client, DATABASE, Size::SMALL).await.unwrap();
    let before = rig.everything().await;
    let like = rig.capture().await;
    let port = mongod.port().to_string();
    for (n, gzip) in [&[][..], &["--gzip"]].into_iter().enumerate() {
        let dump = rig.dir().join(format!("dump-{n}"));
        python("dump.py", &[&[&port, DATABASE, dump.to_str().unwrap()], gzip].concat());
        let ours = prexor_tests::mongo::contents(&like);
        let found = look(&dump);
        // Nothing tells the two dumps apart but the times at which collections were read.
        assert_eq!(found.contents.collections.len(), ours.collections.len());
        // Restored by then: the restore laws have corrected these two.
        let corrected = |name: &str| n > 0 && ["cluster_leadership", "cluster_join_tokens"].contains(&name);
        let both = found.contents.collections.iter().zip(&ours.collections);
        for (theirs, ours) in both.filter(|(theirs, _)| !corrected(&theirs.name)) {
            assert_eq!(
                (&theirs.name, &theirs.content, &theirs.definition),
                (&ours.name, &ours.content, &ours.definition)
            );
        }
        assert!(found.notes.iter().any(|n| n.contains("oplog.bson is not replayed")), "{:?}", found.notes);
        if n == 0 {
            fs::remove_file(dump.join("prelude.json")).unwrap();
            // As older servers and tools describe a collection.
            let users = dump.join(DATABASE).join("users.metadata.json");
            let text = fs::read_to_string(&users).unwrap();
            let id = r#"{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"},"#;
            assert!(text.contains(id), "{text}");
            let text = text.replace(id, "").replace(r#","collectionName":"users","type":"collection""#, "");
            fs::write(&users, text.replacen('{', r#"{"options":{"temp":true,"autoIndexId":false},"#, 1)).unwrap();
        }
        dataset::destroy_mongo(&rig.client, DATABASE).await.unwrap();
        let artifact = adopt(&rig, &dump, &like);
        let unit = rig.unit(&format!("job-{n}"), &artifact);
        rig.source.prepare(&unit).await.unwrap();
        rig.source.swap(&unit).await.unwrap();
        assert_eq!(rig.source.check(&unit).await.unwrap(), Vec::<String>::new());
        rig.source.commit(&unit).await.unwrap();
        same(&before, &rig.everything().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_another_tool_is_checked_imported_and_restored_by_what_a_user_types() {
    let elsewhere = Mongod::replica_set().await;
    let client = elsewhere.client().await;
    dataset::mongo(&client, DATABASE, Size::SMALL).await.unwrap();
    let original = equality::mongo(&client, DATABASE).await.unwrap();
    let cluster = Cluster::empty().await;
    let (port, scratch) = (elsewhere.port().to_string(), tempfile::tempdir().unwrap());
    for gzip in [false, true] {
        let dump = scratch.path().join(if gzip { "packed" } else { "plain" });
        let dir = dump.to_str().unwrap();
        python("dump.py", &[&[port.as_str(), DATABASE, dir][..], if gzip { &["--gzip"] } else { &[] }].concat());

        let said = cluster.ctl(&["backup", "verify-dump", dir]).ok();
        assert!(said.out.starts_with("mongo dump bson OK ("), "{}", said.out);
        assert!(said.out.contains("oplog.bson is not replayed"), "{}", said.out);
        let checked = cluster.ctl(&["backup", "verify-dump", dir, "--json"]).ok().json();
        assert_eq!((&checked["ok"], &checked["databases"][0]), (&true.into(), &DATABASE.into()));

        let imported = cluster.ctl(&["backup", "import", dir, "--description", "from elsewhere", "--json"]).ok().json();
        let id = imported["id"].as_str().unwrap();
        assert_eq!(imported["scope"][0], "mongo");
        cluster.ctl(&["backup", "verify", id]).ok();
        let listed = cluster.ctl(&["backup", "list", "--json"]).ok().json();
        assert_eq!((&listed[0]["id"], &listed[0]["description"]), (&id.into(), &"from elsewhere".into()));
        let live = cluster.mongod.client().await;
        live.database(DATABASE).drop().await.unwrap();
        live.database(DATABASE).collection("since").insert_one(mongodb::bson::doc! {}).await.unwrap();
        cluster.ctl(&["restore", id, "--ns", "*", "--yes"]).ok();
        same(&original, &equality::mongo(&live, DATABASE).await.unwrap());
    }

    // What is damaged is neither called good nor sent.
    let dump = scratch.path().join("packed");
    let users = dump.join(DATABASE).join("users.bson.gz");
    let sound = fs::read(&users).unwrap();
    let mut bytes = sound.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&users, bytes).unwrap();
    for verb in ["verify-dump", "import"] {
        let said = cluster.ctl(&["backup", verb, dump.to_str().unwrap()]).failed(1);
        assert!(said.err.contains("users.bson.gz"), "{}", said.err);
    }
    // A document that is there twice: sound BSON, and no server takes both.
    let twice = gunzip(&sound);
    let first = i32::from_le_bytes(twice[..4].try_into().unwrap()) as usize;
    fs::remove_file(&users).unwrap();
    fs::write(dump.join(DATABASE).join("users.bson"), [&twice[..], &twice[..first]].concat()).unwrap();
    let said = cluster.ctl(&["backup", "verify-dump", dump.to_str().unwrap()]).failed(1);
    assert!(said.out.contains("more than one document has the _id"), "{}", said.out);
    let archive = scratch.path().join("archive");
    fs::write(&archive, [0x6d, 0xe2, 0x99, 0x81, 0, 0, 0, 0]).unwrap();
    let said = cluster.ctl(&["backup", "import", archive.to_str().unwrap()]).failed(2);
    assert!(said.err.contains("mongodump --archive"), "{}", said.err);
    let made = cluster.backups().into_iter().filter(|b| b["safety_of"].is_null()).count();
    assert_eq!(made, 2);
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    std::io::Read::read_to_end(&mut prexor_format::gzip::reader(bytes), &mut out).unwrap();
    out
}
