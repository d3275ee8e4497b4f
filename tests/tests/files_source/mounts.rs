//! Roots that cannot simply be renamed, and disks without room. Where mounting is not allowed, as in many containers,
//! these tests prove nothing and say so.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use prexor_agent::source::{Source as _, SourceError};
use prexor_format::manifest::Artifact;

use super::{
    NOTHING, Rig, UUID, destroy,
    trees::{self, Listing, differences, list},
    without_sockets,
};

/// A file system that is there until this is dropped.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// `None` where mounting is not allowed, as in many containers.
    #[expect(clippy::print_stderr, reason = "a test that proves nothing must say so")]
    pub(crate) fn tmpfs(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={size},mode=0755");
        let run = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(at).output().unwrap();
        let mounted = run.status.success();
        if !mounted {
            eprintln!("skipped: mounting is not allowed here: {}", String::from_utf8_lossy(&run.stderr));
        }
        mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Prepares, swaps, reverts, and then restores for good; equality is checked at each end.
async fn there_and_back_and_there(rig: &Rig, artifact: &Artifact, saved: &Listing) {
    destroy(&rig.root());
    let before = list(&rig.root());
    let unit = rig.stage(artifact, "job-1");
    for _ in 0..2 {
        rig.source.prepare(&unit).await.unwrap();
        rig.source.swap(&unit).await.unwrap();
        rig.source.swap(&unit).await.unwrap();
        rig.source.revert(&unit).await.unwrap();
        assert_eq!(differences(&before, &list(&rig.root())), NOTHING);
    }
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), NOTHING);
    rig.source.commit(&unit).await.unwrap();
    rig.source.commit(&unit).await.unwrap();
    assert_eq!(differences(saved, &list(&rig.root())), NOTHING);
    assert_eq!(fs::read_to_string(rig.root().join("logs/controller.log")).unwrap(), "new log\n");
    assert_eq!(rig.leftovers(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_root_that_is_a_mount_point_is_exchanged_entry_by_entry() {
    let rig = Rig::new(&["data/cache"]);
    let Some(_mount) = Mount::tmpfs(&rig.root(), "100m") else { return };
    trees::plain(&rig.root(), UUID);
    let saved = list(&rig.root());
    let artifact = rig.capture().await;
    there_and_back_and_there(&rig, &artifact, &saved).await;
}

#[tokio::test]
async fn logs_on_a_file_system_of_their_own_stay_where_they_are() {
    let rig = Rig::new(&[]);
    let Some(_mount) = Mount::tmpfs(&rig.root().join("logs"), "1m") else { return };
    trees::rich(&rig.root(), UUID);
    let saved = without_sockets(list(&rig.root()), &rig.root());
    let artifact = rig.capture().await;
    there_and_back_and_there(&rig, &artifact, &saved).await;
}

#[tokio::test]
async fn a_mount_below_what_is_excluded_stays_and_one_deeper_is_refused() {
    let rig = Rig::new(&["data/cache"]);
    let Some(_logs) = Mount::tmpfs(&rig.root().join("logs/archive"), "1m") else { return };
    trees::plain(&rig.root(), UUID);
    let saved = list(&rig.root());
    let artifact = rig.capture().await;
    there_and_back_and_there(&rig, &artifact, &saved).await;
    // It would have to be carried from one tree to the other, which no rename can.
    let _cache = Mount::tmpfs(&rig.root().join("data/cache"), "1m").unwrap();
    let error = rig.source.prepare(&rig.stage(&artifact, "job-2")).await.unwrap_err().to_string();
    assert!(error.contains("data/cache is a mount point"), "{error}");
}

#[tokio::test]
async fn a_mount_within_the_tree_and_a_full_disk_are_refused_beforehand() {
    let rig = Rig::new(&[]);
    trees::plain(&rig.root(), UUID);
    let artifact = rig.capture().await;
    let Some(mount) = Mount::tmpfs(&rig.root().join("data/certs"), "1m") else { return };
    let error = rig.source.prepare(&rig.stage(&artifact, "job-1")).await.unwrap_err().to_string();
    assert!(error.contains("data/certs is a mount point"), "{error}");
    drop(mount);

    fs::rename(rig.root(), rig.dir.path().join("elsewhere")).unwrap();
    fs::remove_dir(rig.dir.path().join("etc")).unwrap();
    let _small = Mount::tmpfs(&rig.dir.path().join("etc"), "64k").unwrap();
    let error = rig.source.prepare(&rig.stage(&artifact, "job-2")).await.unwrap_err();
    assert!(matches!(&error, SourceError::NoSpace(m) if m.contains("bytes free")), "{error}");
    assert_eq!(rig.leftovers(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_disk_that_fills_up_while_unpacking_leaves_everything_as_it_was() {
    let rig = Rig::new(&[]);
    let Some(_mount) = Mount::tmpfs(&rig.dir.path().join("etc"), "200m") else { return };
    fs::create_dir(rig.root()).unwrap();
    trees::plain(&rig.root(), UUID);
    fs::write(rig.root().join("large.jar"), trees::pseudo_random(64 << 20, 1)).unwrap();
    let artifact = rig.capture().await;
    destroy(&rig.root());
    let before = list(&rig.root());
    let unit = rig.stage(&artifact, "job-1");
    let etc = rig.dir.path().join("etc");
    // Somebody else takes the room as soon as it was looked at.
    let filler = std::thread::spawn(move || {
        while !etc.join(".prexor-job-1-new").exists() {
            std::thread::yield_now();
        }
        let file = fs::File::create(etc.join("filler")).unwrap();
        // As much as there is, while the unpacking takes some of it too.
        let mut end = 0;
        for mib in [128, 64, 32, 16, 8, 4, 2, 1].map(|mib| mib << 20) {
            while rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), end, mib).is_ok() {
                end += mib;
            }
        }
        etc.join("filler")
    });
    let error = rig.source.prepare(&unit).await.unwrap_err();
    let filler = filler.join().unwrap();
    assert!(matches!(&error, SourceError::NoSpace(m) if m.contains("no space left while unpacking")), "{error}");
    assert_eq!(rig.leftovers(), [] as [PathBuf; 0]);
    rig.source.revert(&unit).await.unwrap();
    assert_eq!(differences(&before, &list(&rig.root())), NOTHING);
    // With room again the same unit goes on.
    fs::remove_file(filler).unwrap();
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), NOTHING);
    rig.source.commit(&unit).await.unwrap();
    assert_eq!(fs::metadata(rig.root().join("large.jar")).unwrap().len(), 64 << 20);
}
