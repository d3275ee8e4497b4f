//! The store on a real directory.

use std::{fs, os::unix::fs::PermissionsExt as _};

use futures::TryStreamExt as _;

use super::*;

async fn scratch() -> (Store, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Store::open(&dir.path().join("store")).await.unwrap(), dir)
}

fn id() -> BackupId {
    "bk-2026-05-10-001".parse().unwrap()
}

async fn put(store: &Store, path: &str, content: &'static [u8]) -> prexor_format::manifest::StoredFile {
    let mut upload = store.begin(&id(), path).await.unwrap();
    upload.write(Bytes::from_static(content)).await.unwrap();
    upload.finish().await.unwrap()
}

fn paths(files: Vec<FoundFile>) -> Vec<String> {
    files.into_iter().map(|f| f.path).collect()
}

#[tokio::test]
async fn names_of_dumps_come_out_as_they_went_in() {
    let (store, _dir) = scratch().await;
    let longest = format!("mongo/db/{}", "x".repeat(255));
    let names =
        ["mongo/prexorcloud/a%2Fb.bson.gz", "mongo/db/a+b%25c.bson.gz", "mongo/db/a:b ä.metadata.json.gz", &longest];
    for name in names {
        let stored = put(&store, name, b"abc").await;
        assert_eq!((stored.path.as_str(), stored.size_bytes), (name, 3));
        assert_eq!(fs::read(store.root().join(id().to_string()).join(name)).unwrap(), b"abc");
        let pieces: Vec<Bytes> = store.open_file(&id(), name).await.unwrap().try_collect().await.unwrap();
        assert_eq!(pieces.concat(), b"abc");
    }
    assert_eq!(store.files(&id()).await.unwrap().len(), names.len());
}

#[tokio::test]
async fn big_files_arrive_whole_and_are_hashed() {
    let (store, _dir) = scratch().await;
    let mut upload = store.begin(&id(), "valkey/dump.rdb").await.unwrap();
    let piece = Bytes::from(vec![7; 700_000]);
    for _ in 0..5 {
        upload.write(piece.clone()).await.unwrap();
    }
    let stored = upload.finish().await.unwrap();
    let whole = store.read(&id(), "valkey/dump.rdb").await.unwrap();
    assert_eq!((stored.size_bytes, whole.len()), (3_500_000, 3_500_000));
    assert_eq!(stored.sha256, prexor_format::digest::Sha256Digest::of(&whole));
}

#[tokio::test]
async fn a_file_that_is_not_finished_is_not_there() {
    let (store, _dir) = scratch().await;
    let mut upload = store.begin(&id(), "valkey/dump.rdb").await.unwrap();
    upload.write(Bytes::from_static(b"half")).await.unwrap();
    assert_eq!(store.read(&id(), "valkey/dump.rdb").await.unwrap_err().reason, Reason::NotFound);
    // Its temporary file is seen: verify would name it, and `remove` takes it along.
    assert_eq!(paths(store.files(&id()).await.unwrap()), ["valkey/dump.rdb#1"]);
    std::mem::forget(upload);
    store.remove(&id()).await.unwrap();
    assert!(store.survey().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_manifest_makes_the_backup_and_is_never_replaced() {
    let (store, _dir) = scratch().await;
    assert!(store.reserve(&id()).await.unwrap());
    assert!(!store.reserve(&id()).await.unwrap());
    assert_eq!(store.survey().await.unwrap(), [Survey { id: id(), stamp: None }]);
    store.commit(&id(), String::new(), b"{}".to_vec()).await.unwrap();
    let first = store.survey().await.unwrap();
    assert!(first[0].stamp.is_some());
    assert!(store.commit(&id(), String::new(), b"[]".to_vec()).await.is_err());
    assert_eq!(store.read(&id(), MANIFEST_FILE).await.unwrap(), "{}");
    fs::write(store.root().join(id().to_string()).join(MANIFEST_FILE), "{ }").unwrap();
    assert_ne!(store.survey().await.unwrap(), first);
}

#[tokio::test]
async fn a_delete_that_was_killed_leaves_no_manifest_and_can_be_repeated() {
    let (store, _dir) = scratch().await;
    put(&store, "valkey/dump.rdb", b"x").await;
    store.commit(&id(), String::new(), b"{}".to_vec()).await.unwrap();
    // As far as a killed delete gets at least:
    store.objects.delete(&layout::key(&id(), MANIFEST_FILE).unwrap()).await.unwrap();
    assert_eq!(store.survey().await.unwrap()[0].stamp, None);
    store.remove(&id()).await.unwrap();
    store.remove(&id()).await.unwrap();
    assert!(store.survey().await.unwrap().is_empty());
}

#[tokio::test]
async fn numbers_in_the_store_count_whatever_the_directory_holds() {
    let (store, _dir) = scratch().await;
    for name in ["bk-2026-05-10-002", "bk-2026-05-10-1000", "bk-2026-05-11-007", "lost+found"] {
        fs::create_dir(store.root().join(name)).unwrap();
    }
    fs::write(store.root().join("bk-2026-05-10-1001"), "a file").unwrap();
    let highest = async |day: &str| store.highest_number(day.parse().unwrap()).await.unwrap();
    assert_eq!((highest("2026-05-10").await, highest("2026-05-12").await), (1000, 0));
    assert_eq!(store.survey().await.unwrap().len(), 3, "what is not ours is left alone");
    assert!(store.free_bytes().await.unwrap() > 0);
}

#[tokio::test]
async fn a_store_that_cannot_be_written_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a-file");
    fs::write(&file, "").unwrap();
    let e = Store::open(&file.join("store")).await.unwrap_err();
    assert_eq!(e.reason, Reason::StoreUnavailable);
    assert!(e.message.contains("a-file/store"), "{e}");

    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
    // Root writes everywhere: there the directory can be used after all.
    assert_eq!(Store::open(&closed).await.is_ok(), rustix::process::geteuid().is_root());
}

#[tokio::test]
async fn hostile_paths_never_reach_the_disk() {
    let (store, dir) = scratch().await;
    for path in ["../escape", "/etc/x", "a/../../escape", "a#1"] {
        assert_eq!(store.begin(&id(), path).await.unwrap_err().reason, Reason::Damaged);
    }
    assert!(!dir.path().join("escape").exists());
}
