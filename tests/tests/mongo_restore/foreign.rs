//! Dumps that other tools wrote, restored by ours.

use std::{fs, io::BufReader, path::Path};

use prexor_agent::source::Source as _;
use prexor_format::{
    digest::Sha256Digest,
    manifest::{Artifact, Contents, StoredFile},
    mongodump::{self, Survey, survey},
};
use prexor_tests::{
    dataset::{self, DATABASE, Size},
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
        for (theirs, ours) in found.contents.collections.iter().zip(&ours.collections) {
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
