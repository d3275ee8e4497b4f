//! Odd trees through the whole product: agent, mTLS, store, and back.

use std::{
    fs::{self, File},
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use prexor_tests::{
    cluster::Cluster,
    equality::{differences, files},
};
use rustix::fs::{CWD, Mode, OFlags};

use super::{NOTHING, crowd, gnu::extents, trees, verify};

const GIB: u64 = 1 << 30;

/// Components of the deepest path: each 100 bytes, together more than `PATH_MAX`, which is 4096.
const DEPTH: usize = 60;

fn archive(cluster: &Cluster, id: &str) -> PathBuf {
    cluster.backup_dir(id).join("filesystem/h1/etc-prexorcloud.tar.gz")
}

fn backup(cluster: &Cluster) -> String {
    let said = cluster.ctl(&["backup", "create", "--scope", "filesystem", "--json"]).ok();
    said.json()["id"].as_str().unwrap().to_owned()
}

fn notes(cluster: &Cluster, id: &str) -> String {
    let manifest = fs::read_to_string(cluster.backup_dir(id).join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let contents = &manifest["artifacts"][0]["contents"];
    assert!(contents.to_string().contains("notes"), "{manifest}");
    contents.to_string()
}

/// The directory at the bottom of a path that no call takes as a whole; made on the way when `make` says so.
fn bottom(root: &Path, make: bool) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let mut dir = rustix::fs::openat(CWD, root, flags, Mode::empty()).unwrap();
    for n in 0..DEPTH {
        let name = format!("{n:0>100}");
        if make {
            rustix::fs::mkdirat(&dir, &name, Mode::RWXU).unwrap();
        }
        dir = rustix::fs::openat(&dir, &name, flags, Mode::empty()).unwrap();
    }
    dir
}

#[tokio::test]
async fn a_sparse_file_long_names_and_deep_paths() {
    let cluster = Cluster::start().await;
    let odd = cluster.root().join("odd");
    fs::create_dir(&odd).unwrap();
    let sparse = odd.join("sparse");
    let file = File::create(&sparse).unwrap();
    file.set_len(8 * GIB).unwrap();
    for at in [0, 5 * GIB + 7, 8 * GIB - 10] {
        file.write_all_at(b"0123456789", at).unwrap();
    }
    drop(file);
    let long = odd.join("n".repeat(255)).join("\u{fc}".repeat(127));
    fs::create_dir(long.parent().unwrap()).unwrap();
    fs::write(&long, "long").unwrap();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let deep = rustix::fs::openat(bottom(&odd, true), "file", flags, Mode::RUSR).unwrap();
    rustix::io::write(deep, b"deep").unwrap();
    let before = extents(&sparse);

    let id = backup(&cluster);
    let stored = fs::metadata(archive(&cluster, &id)).unwrap().len();
    assert!(stored < 4 << 20, "{stored} bytes for 30 bytes and holes");
    cluster.ctl(&["backup", "verify", &id]).ok();

    fs::remove_dir_all(&odd).unwrap();
    cluster.ctl(&["restore", &id, "--yes"]).ok();
    assert_eq!(fs::metadata(&sparse).unwrap().len(), 8 * GIB);
    assert!(fs::metadata(&sparse).unwrap().blocks() * 512 < 1 << 20, "it stays sparse");
    assert_eq!(extents(&sparse), before);
    assert_eq!(fs::read_to_string(&long).unwrap(), "long");
    let deep = rustix::fs::openat(bottom(&odd, false), "file", OFlags::RDONLY, Mode::empty()).unwrap();
    let mut buf = [0; 10];
    let n = rustix::io::read(deep, &mut buf).unwrap();
    assert_eq!(&buf[..n], b"deep");

    // The deep tree alone, as a part; the rest stays as it is.
    fs::remove_dir_all(odd.join(format!("{:0>100}", 0))).unwrap();
    fs::write(&long, "changed").unwrap();
    cluster.ctl(&["restore", &id, "--paths", &format!("odd/{:0>100}", 0), "--yes"]).ok();
    rustix::fs::statat(bottom(&odd, false), "file", rustix::fs::AtFlags::empty()).unwrap();
    assert_eq!(fs::read_to_string(&long).unwrap(), "changed");
}

#[tokio::test]
async fn a_tree_that_changes_all_the_time() {
    let cluster = Cluster::start().await;
    let root = cluster.root();
    // Large enough to be read for a while, and growing all that time.
    let log = root.join("growing.log");
    fs::write(&log, trees::pseudo_random(48 << 20, 1)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let until = |stop: &Arc<AtomicBool>| {
        let stop = stop.clone();
        move || stop.load(Ordering::Relaxed)
    };
    let (done, dir) = (until(&stop), root.clone());
    let restless = std::thread::spawn(move || trees::unrest(&dir, done));
    let done = until(&stop);
    let growing = std::thread::spawn(move || {
        let file = File::options().append(true).open(log).unwrap();
        while !done() {
            std::io::Write::write_all(&mut &file, b"one more line\n").unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    });
    for _ in 0..3 {
        let id = backup(&cluster);
        assert!(verify(&archive(&cluster, &id)).findings.is_empty());
        let listed = Command::new("tar").arg("-tzf").arg(archive(&cluster, &id)).output().unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        cluster.ctl(&["backup", "verify", &id]).ok();
        let notes = notes(&cluster, &id);
        assert!(notes.contains("growing.log") && notes.contains("grew while it was read"), "{notes}");
    }
    stop.store(true, Ordering::Relaxed);
    restless.join().unwrap();
    growing.join().unwrap();
}

#[tokio::test]
async fn a_truncated_artifact_is_named_and_nothing_changes() {
    let cluster = Cluster::start().await;
    let id = backup(&cluster);
    let before = cluster.snapshot().await;
    let whole = fs::read(archive(&cluster, &id)).unwrap();
    for len in [whole.len() - 1, whole.len() / 2, 0] {
        fs::write(archive(&cluster, &id), &whole[..len]).unwrap();
        let said = cluster.ctl(&["backup", "verify", &id]).failed(1);
        assert!(said.out.contains("filesystem/h1/etc-prexorcloud.tar.gz"), "{len}: {}", said.out);
        for part in [&["--yes"][..], &["--yes", "--paths", "config/controller.yml"]] {
            let said = cluster.ctl(&[&["restore", &id], part].concat());
            assert_ne!(said.code, 0, "{len}");
            assert!(said.err.contains("etc-prexorcloud.tar.gz"), "{len}: {}", said.err);
            assert_eq!(before.differences(&cluster.snapshot().await), NOTHING, "{len}");
        }
    }
    fs::write(archive(&cluster, &id), &whole).unwrap();
    cluster.ctl(&["restore", &id, "--yes"]).ok();
}

#[tokio::test]
async fn a_hundred_thousand_files() {
    let cluster = Cluster::start().await;
    crowd::crowd(&cluster.root());
    let before = files(&cluster.root(), &["logs"]).unwrap();
    assert!(before.len() as u64 > crowd::FILES);
    let id = backup(&cluster);
    cluster.ctl(&["backup", "verify", &id]).ok();
    fs::remove_dir_all(cluster.root().join("crowd/0")).unwrap();
    fs::write(cluster.root().join("crowd/20000/20000-second"), "another").unwrap();
    cluster.ctl(&["restore", &id, "--filesystem", "--yes"]).ok();
    assert_eq!(differences("files", &before, &files(&cluster.root(), &["logs"]).unwrap()), NOTHING);
}
