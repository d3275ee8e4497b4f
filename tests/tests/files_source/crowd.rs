//! A hundred thousand files: memory does not grow with them. Measured in a process of its own, as the other tests share
//! theirs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use prexor_agent::source::Source as _;

use super::{NOTHING, Rig, UUID, archive_of, contents, destroy, trees, verify};

/// Tells the process that measures to do so.
const MEASURED: &str = "PREXOR_TEST_FILES_CROWD";

pub(super) const FILES: u64 = 100_000;

/// A fifth of them in one directory, and a few with a second name.
pub(super) fn crowd(root: &Path) {
    let mut dir = PathBuf::new();
    for n in 0..FILES {
        if n == 0 || (n >= FILES / 5 && n % 1000 == 0) {
            dir = root.join(format!("crowd/{n}"));
            fs::create_dir_all(&dir).unwrap();
        }
        let file = dir.join(format!("{n}-with-a-name-that-takes-some-memory"));
        // Most are empty: to free the blocks of a hundred thousand takes minutes where the disk is told of each.
        let len = if n % 16 == 0 { n % 9 } else { 0 };
        fs::write(&file, &n.to_le_bytes()[..len as usize]).unwrap();
        if n % 100 == 0 {
            fs::hard_link(&file, dir.join(format!("{n}-second"))).unwrap();
        }
    }
}

/// The most memory this process has used, in KiB (proc(5), `VmHWM`).
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Not a test by itself: what the test below starts.
#[tokio::test]
async fn measured() {
    if std::env::var_os(MEASURED).is_none() {
        return;
    }
    let rig = Rig::new(&[]);
    trees::plain(&rig.root(), UUID);
    crowd(&rig.root());
    let before = peak();
    let artifact = rig.capture().await;
    assert!(contents(&artifact).files > FILES);
    assert_eq!(verify(&archive_of(&rig, &artifact)).differences(contents(&artifact)), NOTHING);
    destroy(&rig.root());
    let unit = rig.stage(&artifact, "job-1");
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), NOTHING);
    rig.source.commit(&unit).await.unwrap();
    assert_eq!(fs::read_dir(rig.root().join("crowd")).unwrap().count(), 81);
    let grown = (peak() - before) >> 10;
    // The names of the largest directory, those of files with two names, and buffers.
    assert!(grown < 48, "{grown} MiB");
}

#[test]
fn memory_does_not_grow_with_the_number_of_files() {
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crowd::measured", "--nocapture"])
        .env(MEASURED, "1")
        .output()
        .unwrap();
    let said = [run.stdout, run.stderr].concat();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&said));
    assert!(String::from_utf8_lossy(&said).contains("1 passed"));
}
