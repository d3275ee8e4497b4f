//! A store that is cut short, full, write-protected or gone. The job fails and says why, nothing that is not whole is
//! listed, and the next backup works.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use prexor_tests::{
    cluster::Cluster,
    servers::{PATIENCE, wait_until},
};

/// A file system of this size in place of the store, until this is dropped. `None` where mounting is not allowed, as in
/// many containers: the test proves nothing then, and says so.
struct Tmpfs(PathBuf);

impl Tmpfs {
    #[expect(clippy::print_stderr, reason = "a test that proves nothing must say so")]
    fn mount(at: &Path, size: &str) -> Option<Self> {
        let options = format!("size={size},mode=0700");
        let run = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(at).output().expect("mount");
        if run.status.success() {
            return Some(Self(at.to_owned()));
        }
        eprintln!("skipped: mounting is not allowed here: {}", String::from_utf8_lossy(&run.stderr));
        None
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        assert!(Command::new("mount").args(["-o", &options]).arg(&self.0).status().expect("mount").success());
    }

    /// Bytes that are used, and free.
    fn space(&self) -> (u64, u64) {
        let stat = rustix::fs::statvfs(&self.0).expect("the store's file system");
        ((stat.f_blocks - stat.f_bfree) * stat.f_frsize, stat.f_bavail * stat.f_frsize)
    }

    /// Leaves exactly this much free.
    fn leave(&self, bytes: u64) {
        let filler = self.0.join("filler");
        fs::remove_file(&filler).ok();
        let (_, free) = self.space();
        let file = fs::File::create(&filler).expect("a filler");
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free - bytes).expect("a full store");
        assert_eq!(self.space().1, bytes);
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

const PAGE: u64 = 4096;

#[tokio::test]
async fn a_store_that_becomes_full_at_any_byte() {
    let cluster = Cluster::start().await;
    let Some(store) = Tmpfs::mount(&cluster.store(), "64m") else { return };
    for (scope, dense) in [("filesystem", true), ("mongo,valkey,filesystem", false)] {
        let (before, _) = store.space();
        let made = cluster.ctl(&["backup", "create", "--scope", scope, "--json"]).ok().json();
        let needs = store.space().0 - before;
        cluster.ctl(&["backup", "delete", made["id"].as_str().expect("an id"), "--yes"]).ok();
        assert_eq!(store.space().0, before, "a delete gives everything back");

        // Here and there, and every page near the end, where the listing and the manifest are written.
        let last = if dense { 12 } else { 4 };
        let mut positions: BTreeSet<u64> = (0..6).map(|n| needs * n / 6 / PAGE * PAGE).collect();
        positions.extend((1..=last).map(|n| needs - n * PAGE));
        let mut full_at = String::new();
        for free in positions {
            store.leave(free);
            let said = cluster.ctl(&["backup", "create", "--scope", scope]);
            if said.code == 0 {
                // Directories and compression are not the same to the page each time.
                assert!(free + 16 * PAGE > needs, "{free} of {needs}");
                let id = cluster.backups()[0]["id"].as_str().expect("an id").to_owned();
                cluster.ctl(&["backup", "verify", &id]).ok();
                fs::remove_file(cluster.store().join("filler")).expect("remove");
                cluster.ctl(&["backup", "delete", &id, "--yes"]).ok();
                continue;
            }
            assert_eq!(said.code, 1, "{free}: {said:?}");
            let job = cluster.jobs()[0].clone();
            assert_eq!(
                (&job["state"], &job["failure"]["reason"]),
                (&"failed".into(), &"NO_SPACE".into()),
                "{free}: {job}"
            );
            let told = said.err.contains("the store is full (") && said.err.contains("make room");
            assert!(told, "{free}: {}", said.err);
            full_at.push_str(&said.err);
            assert_eq!((cluster.backups(), cluster.backup_dirs()), (vec![], vec![]), "{free}: {}", said.err);
            let left = || store.space().1 == free;
            wait_until("all that was written to be gone", PATIENCE, async || left()).await;
        }
        if dense {
            for file in ["etc-prexorcloud.tar.gz", "SHA256SUMS", "manifest.json"] {
                assert!(full_at.contains(&format!("{file})")), "it never became full at {file}:\n{full_at}");
            }
        }
        fs::remove_file(cluster.store().join("filler")).ok();
        let id = cluster.backup();
        cluster.ctl(&["backup", "verify", &id]).ok();
        cluster.ctl(&["backup", "delete", &id, "--yes"]).ok();
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_written_or_is_gone() {
    let cluster = Cluster::start().await;
    let Some(store) = Tmpfs::mount(&cluster.store(), "64m") else { return };
    let id = cluster.backup();
    store.remount("ro");
    let said = cluster.ctl(&["backup", "create"]).failed(5);
    assert!(said.err.contains("store") && said.err.contains("Read-only"), "{}", said.err);
    // What is there can still be read.
    cluster.ctl(&["backup", "verify", &id]).ok();
    let deleted = cluster.ctl(&["backup", "delete", &id, "--yes"]).failed(5);
    assert!(deleted.err.contains("Read-only"), "{}", deleted.err);
    store.remount("rw");
    cluster.ctl(&["backup", "create"]).ok();

    // Somebody unmounts it and takes the mount point away as well.
    drop(store);
    fs::remove_dir_all(cluster.store()).expect("remove");
    let said = cluster.ctl(&["backup", "create"]);
    assert!(said.code == 5 && said.err.contains(&cluster.store().display().to_string()), "{said:?}");
    let status = cluster.ctl(&["status", "--json"]).ok().json();
    let first = status["problems"][0].as_str().expect("a problem");
    assert!(first.contains("the store") && first.contains(&cluster.store().display().to_string()), "{status}");
    assert_eq!(status["nodes"][0]["reachable"], true, "the rest is still told");
    fs::create_dir(cluster.store()).expect("a new store");
    let id = cluster.backup();
    cluster.ctl(&["backup", "verify", &id]).ok();
}

#[tokio::test]
async fn an_artifact_that_is_cut_short_is_found_at_any_length() {
    let cluster = Cluster::start().await;
    let id = cluster.backup();
    let before = cluster.snapshot().await;
    for path in [
        "mongo/prexorcloud/audit_log.bson.gz",
        "mongo/prexorcloud/audit_log.metadata.json.gz",
        "valkey/dump.rdb",
        "filesystem/h1/etc-prexorcloud.tar.gz",
    ] {
        let file = cluster.backup_dir(&id).join(path);
        let whole = fs::read(&file).expect(path);
        for length in [0, 1, whole.len() / 3, whole.len() - 1] {
            fs::write(&file, &whole[..length]).expect(path);
            let said = cluster.ctl(&["backup", "verify", &id]).failed(1);
            let found = format!("{path}: has {length} bytes, the manifest says {}", whole.len());
            assert!(said.out.contains(&found), "{found}\n{}", said.out);
        }
        let said = cluster.ctl(&["restore", &id, "--yes"]);
        assert!(said.code != 0 && said.err.contains(path), "{path}: {said:?}");
        assert_eq!(before.differences(&cluster.snapshot().await), [] as [String; 0], "{path}");
        fs::write(&file, &whole).expect(path);
    }
    cluster.ctl(&["backup", "verify", &id]).ok();
    cluster.ctl(&["restore", &id, "--yes"]).ok();
}
