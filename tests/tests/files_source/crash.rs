//! Verbs that are killed with SIGKILL anywhere, and called again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use prexor_agent::{
    restore_unit::RestoreUnit,
    source::{
        Source as _,
        files::{FilesConfig, FilesSource},
    },
};

use prexor_tests::capture;

use super::{
    NOTHING, Rig, UUID, destroy,
    mounts::Mount,
    part,
    trees::{self, differences, list},
};

/// Names the temporary directory for the process that is killed.
const VICTIM: &str = "PREXOR_TEST_FILES_VICTIM";

fn existing_rig(dir: &Path) -> FilesSource {
    let root = dir.join("etc/prexorcloud");
    let exclude = vec!["data/cache".parse().unwrap()];
    FilesSource::new(FilesConfig { node: "h1".parse().unwrap(), root, exclude, controller: None })
}

/// Not a test by itself: what [`killed`] starts and kills.
#[tokio::test]
async fn victim() {
    let Some(dir) = std::env::var_os(VICTIM).map(PathBuf::from) else { return };
    let source = existing_rig(&dir);
    let unit = RestoreUnit::open(&dir.join("state/job-1/filesystem-h1"), "job-1").unwrap().unwrap();
    loop {
        source.prepare(&unit).await.unwrap();
        source.swap(&unit).await.unwrap();
        source.revert(&unit).await.unwrap();
    }
}

#[tokio::test]
async fn verbs_are_finished_after_kill_9() {
    killed(&Rig::new(&["data/cache"]), &[]).await;
}

#[tokio::test]
async fn verbs_of_a_part_are_finished_after_kill_9() {
    killed(&Rig::new(&["data/cache"]), &["config/controller.yml", "data", "templates/lobby"]).await;
}

#[tokio::test]
async fn verbs_that_exchange_entry_by_entry_are_finished_after_kill_9() {
    let rig = Rig::new(&["data/cache"]);
    let Some(_mount) = Mount::tmpfs(&rig.root().join("logs"), "1m") else { return };
    killed(&rig, &[]).await;
}

/// Restores these paths, or everything, and is killed again and again.
async fn killed(rig: &Rig, paths: &[&str]) {
    trees::plain(&rig.root(), UUID);
    let saved = list(&rig.root());
    let artifact = rig.capture().await;
    destroy(&rig.root());
    fs::create_dir_all(rig.root().join("data/cache/deep")).unwrap();
    fs::write(rig.root().join("data/cache/deep/kept"), "k").unwrap();
    trees::touch(&rig.root().join("data"), 5, 5);
    let before = list(&rig.root());
    let selected = part::selection(paths);
    let state = rig.dir.path().join("state");
    let unit = capture::stage_part(&state, "job-1", &artifact, &rig.store(), &selected).unwrap();
    let saved = if paths.is_empty() { saved } else { part::replaced(&before, &saved, paths) };
    let counts = |p: &Path| !p.starts_with("data/cache") && !p.starts_with(".prexor-job-1-new");
    for round in 0u64..50 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::victim", "--test-threads=1"])
            .env(VICTIM, rig.dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_micros(4_000 + round * 7919 % 40_000)).await;
        assert_eq!(victim.try_wait().unwrap(), None, "it runs until it is killed");
        victim.kill().unwrap();
        victim.wait().unwrap();
        if round % 2 == 0 {
            rig.source.revert(&unit).await.unwrap();
            let mut now = list(&rig.root());
            // Where the shelter lies in the root, a kill between its removal and the next call leaves the root's time.
            now.insert("".into(), before[Path::new("")].clone());
            assert_eq!(differences(&before, &now), NOTHING, "round {round}");
            assert_eq!(rig.leftovers(), [] as [PathBuf; 0], "round {round}");
        } else {
            // A verb that was begun may be called again, as a coordinator does that does not know how far it came.
            rig.source.prepare(&unit).await.unwrap();
            rig.source.swap(&unit).await.unwrap();
            assert_eq!(rig.source.check(&unit).await.unwrap(), NOTHING, "round {round}");
            let mut now = list(&rig.root());
            now.retain(|p, _| counts(p));
            let mut saved = saved.clone();
            saved.retain(|p, _| counts(p));
            assert_eq!(differences(&saved, &now), NOTHING, "round {round}");
        }
        assert_eq!(fs::read_to_string(rig.root().join("data/cache/deep/kept")).unwrap(), "k", "round {round}");
    }
}
