//! Restores of a part: what is selected comes back, and everything else stays as it is, byte for byte.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
};

use prexor_agent::{
    restore_unit::RestoreUnit,
    source::{Source as _, SourceError},
};
use prexor_format::{manifest::Artifact, selection::Selection};
use prexor_tests::capture;

use super::{
    NOTHING, Rig, UUID, archive_of, destroy, gnu,
    mounts::Mount,
    trees::{self, Listing, differences, list},
    without_sockets,
};

pub(crate) fn selection(paths: &[&str]) -> Selection {
    let paths = paths.iter().map(|p| (*p).to_owned()).collect();
    Selection { paths, ..Selection::default() }.checked().unwrap()
}

fn stage(rig: &Rig, artifact: &Artifact, job: &str, paths: &[&str]) -> RestoreUnit {
    capture::stage_part(&rig.dir.path().join("state"), job, artifact, &rig.store(), &selection(paths)).unwrap()
}

/// `live` with everything at and below `paths` as in `saved`, and the directories above them that are not live.
pub(crate) fn replaced(live: &Listing, saved: &Listing, paths: &[&str]) -> Listing {
    let selected = |p: &Path| paths.iter().any(|s| p.starts_with(s));
    let mut out = live.clone();
    out.retain(|p, _| !selected(p));
    let above = |p: &Path| !live.contains_key(p) && paths.iter().any(|s| Path::new(s).starts_with(p));
    let back = saved.iter().filter(|(p, _)| selected(p) || above(p));
    out.extend(back.map(|(p, line)| (p.clone(), line.clone())));
    out
}

/// There, back and there again; compared at each end.
async fn restored(rig: &Rig, artifact: &Artifact, paths: &[&str], expected: &Listing) {
    // Where the root is a mount point the new tree lies in it.
    let list = |root: &Path| {
        let mut listing = list(root);
        listing.retain(|p, _| !p.starts_with(".prexor-job-1-new"));
        listing
    };
    let before = list(&rig.root());
    let unit = stage(rig, artifact, "job-1", paths);
    for _ in 0..2 {
        rig.source.prepare(&unit).await.unwrap();
        assert_eq!(differences(&before, &list(&rig.root())), NOTHING, "before the swap nothing changes");
        rig.source.swap(&unit).await.unwrap();
        rig.source.swap(&unit).await.unwrap();
        assert_eq!(rig.source.check(&unit).await.unwrap(), NOTHING);
        rig.source.revert(&unit).await.unwrap();
        assert_eq!(differences(&before, &list(&rig.root())), NOTHING);
        assert_eq!(rig.leftovers(), [] as [PathBuf; 0]);
    }
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), NOTHING);
    rig.source.commit(&unit).await.unwrap();
    rig.source.commit(&unit).await.unwrap();
    assert_eq!(differences(expected, &list(&rig.root())), NOTHING);
    assert_eq!(rig.leftovers(), [] as [PathBuf; 0]);
}

/// Nothing is restored, for this reason, and nothing is changed.
async fn refused(rig: &Rig, artifact: &Artifact, paths: &[&str], reason: &str) {
    let before = list(&rig.root());
    let unit = stage(rig, artifact, "job-refused", paths);
    let error = rig.source.prepare(&unit).await.unwrap_err();
    assert!(matches!(error, SourceError::Invalid(_)) && error.to_string().contains(reason), "{reason}: {error}");
    rig.source.revert(&unit).await.unwrap();
    assert_eq!(differences(&before, &list(&rig.root())), NOTHING);
    assert_eq!(rig.leftovers(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn only_what_is_selected_is_replaced() {
    let rig = Rig::new(&["data/cache"]);
    trees::rich(&rig.root(), UUID);
    let saved = without_sockets(list(&rig.root()), &rig.root());
    let artifact = rig.capture().await;
    destroy(&rig.root());
    fs::create_dir(rig.root().join("data/cache")).unwrap();
    fs::write(rig.root().join("data/modules/new.jar"), "in no backup").unwrap();
    fs::write(rig.root().join("odd/size-300000"), "changed").unwrap();
    trees::touch(&rig.root().join("odd"), 7, 7);
    let live = list(&rig.root());
    for paths in [
        &["config/controller.yml"][..],
        &["templates/"],
        &["config/controller.yml", "odd/size-300000", "data/modules", "data/modules/stats.jar", "templates"],
        &["odd/deep", "odd/dangling"],
    ] {
        let names: Vec<&str> = paths.iter().map(|p| p.trim_end_matches('/')).collect();
        let mut expected = replaced(&live, &saved, &names);
        // A file that was one with others outside the part is one of its own now.
        if paths.contains(&"odd/deep") {
            let bottom = Path::new("odd/deep/hard");
            let line = expected[bottom].split(" links ").next().unwrap().to_owned();
            expected.insert(bottom.into(), line);
            for (other, first) in [("data/first name of size-513", "data/first"), ("odd/size-513", "data/first")] {
                let line = expected[Path::new(other)].replace("links 3", "links 2");
                assert!(line.contains(first), "{line}");
                expected.insert(other.into(), line);
            }
        }
        let copy = rig.dir.path().join("copy");
        let cp = |from: &Path, to: &Path| {
            let run = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
            assert!(run.success());
        };
        cp(&rig.root(), &copy);
        restored(&rig, &artifact, paths, &expected).await;
        fs::remove_dir_all(rig.root()).unwrap();
        fs::rename(&copy, rig.root()).unwrap();
        fs::remove_dir_all(rig.dir.path().join("state")).unwrap();
    }
}

#[tokio::test]
async fn directories_that_are_gone_come_back_with_their_attributes() {
    let rig = Rig::new(&[]);
    trees::plain(&rig.root(), UUID);
    for (name, mode) in [("config", 0o2750), ("templates", 0o1777)] {
        let dir = rig.root().join(name);
        chown(&dir, Some(1234), Some(5678)).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
        xattr::set(&dir, "user.note", name.as_bytes()).unwrap();
        trees::touch(&dir, 1_234_567_890, 5);
    }
    let saved = list(&rig.root());
    let artifact = rig.capture().await;
    fs::remove_dir_all(rig.root().join("config")).unwrap();
    let paths = ["config/controller.yml", "config/security", "data/modules"];
    let expected = replaced(&list(&rig.root()), &saved, &paths);
    restored(&rig, &artifact, &paths, &expected).await;

    fs::remove_dir_all(rig.dir.path().join("etc")).unwrap();
    fs::remove_dir_all(rig.dir.path().join("state")).unwrap();
    let unit = stage(&rig, &artifact, "job-1", &["config/controller.yml"]);
    for _ in 0..2 {
        rig.source.prepare(&unit).await.unwrap();
        rig.source.swap(&unit).await.unwrap();
        assert_eq!(rig.source.check(&unit).await.unwrap(), NOTHING);
        rig.source.revert(&unit).await.unwrap();
        assert!(!rig.root().exists());
    }
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    rig.source.commit(&unit).await.unwrap();
    let mut expected = saved.clone();
    expected.retain(|p, _| ["", "config", "config/controller.yml"].iter().any(|kept| p == Path::new(kept)));
    assert_eq!(differences(&expected, &list(&rig.root())), NOTHING);
}

#[tokio::test]
async fn links_out_of_the_part_are_cut_and_links_within_it_stay() {
    let rig = Rig::new(&[]);
    trees::rich(&rig.root(), UUID);
    let artifact = rig.capture().await;
    let at = |name: &str| rig.root().join(name);
    let content = fs::read(at("odd/size-513")).unwrap();
    // Further names of `data/first name of size-513`, which is live another file by now.
    fs::write(at("data/first name of size-513"), "live").unwrap();
    let unit = stage(&rig, &artifact, "job-1", &["odd/size-513", "odd/deep"]);
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), NOTHING);
    rig.source.commit(&unit).await.unwrap();
    assert_eq!(fs::read(at("data/first name of size-513")).unwrap(), b"live");
    assert_eq!(fs::metadata(at("data/first name of size-513")).unwrap().nlink(), 1);
    let (a, b) = (fs::metadata(at("odd/size-513")).unwrap(), fs::metadata(at("odd/deep/hard")).unwrap());
    assert_eq!((a.ino(), a.nlink(), b.nlink()), (b.ino(), 2, 2));
    assert_eq!(fs::read(at("odd/deep/hard")).unwrap(), content);
}

#[tokio::test]
async fn what_the_backup_has_not_is_refused_by_name() {
    let rig = Rig::new(&["data/cache"]);
    trees::plain(&rig.root(), UUID);
    fs::create_dir(rig.root().join("data/cache")).unwrap();
    symlink("modules", rig.root().join("data/link")).unwrap();
    let artifact = rig.capture().await;
    for (paths, reason) in [
        (&["config/controller.yml", "config/controller.yaml"][..], "the backup has no 'config/controller.yaml'"),
        (&["logs"], "the backup has no 'logs'"),
        (&["data/cache"], "the backup has no 'data/cache'"),
        (&["nothing", "config/controller.yml/x"], "no 'config/controller.yml/x' and no 'nothing'"),
        // Through a symbolic link there is nothing.
        (&["data/link/stats.jar"], "the backup has no 'data/link/stats.jar'"),
        (&["data/pending-join-token"], "law L8"),
    ] {
        refused(&rig, &artifact, paths, reason).await;
    }
    let whole = fs::read(archive_of(&rig, &artifact)).unwrap();
    fs::write(archive_of(&rig, &artifact), &whole[..whole.len() / 2]).unwrap();
    refused(&rig, &artifact, &["config/controller.yml"], "etc-prexorcloud.tar.gz").await;
}

#[tokio::test]
async fn live_symbolic_links_are_replaced_or_refused_and_never_followed() {
    let rig = Rig::new(&[]);
    trees::plain(&rig.root(), UUID);
    let saved = list(&rig.root());
    let artifact = rig.capture().await;
    let outside = rig.dir.path().join("outside");
    fs::rename(rig.root().join("data"), &outside).unwrap();
    symlink(&outside, rig.root().join("data")).unwrap();
    fs::write(outside.join("modules/stats.jar"), "not ours").unwrap();
    let untouched = list(&outside);
    refused(&rig, &artifact, &["data/modules"], "'data' is a directory in the backup and is none here").await;
    refused(&rig, &artifact, &["config/controller.yml", "data/modules/stats.jar"], "select 'data'").await;

    let expected = replaced(&list(&rig.root()), &saved, &["data"]);
    restored(&rig, &artifact, &["data"], &expected).await;
    assert_eq!(differences(&untouched, &list(&outside)), NOTHING);

    // It becomes one after everything is prepared.
    let unit = stage(&rig, &artifact, "job-2", &["data/modules"]);
    rig.source.prepare(&unit).await.unwrap();
    fs::remove_dir_all(rig.root().join("data")).unwrap();
    symlink(&outside, rig.root().join("data")).unwrap();
    let before = list(&rig.root());
    rig.source.swap(&unit).await.unwrap_err();
    rig.source.revert(&unit).await.unwrap();
    assert_eq!(differences(&before, &list(&rig.root())), NOTHING);
    assert_eq!(differences(&untouched, &list(&outside)), NOTHING);
    assert_eq!(rig.leftovers(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_check_looks_at_the_part_and_at_nothing_else() {
    let rig = Rig::new(&[]);
    trees::plain(&rig.root(), UUID);
    let artifact = rig.capture().await;
    let unit = stage(&rig, &artifact, "job-1", &["templates", "config/controller.yml"]);
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    fs::remove_dir_all(rig.root().join("data")).unwrap();
    fs::write(rig.root().join("config/other"), "x").unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), NOTHING);
    fs::write(rig.root().join("templates/lobby/extra"), "x").unwrap();
    // The same size, and the time put back.
    let yml = rig.root().join("config/controller.yml");
    let (m, text) = (fs::metadata(&yml).unwrap(), fs::read_to_string(&yml).unwrap());
    fs::write(&yml, text.replace("c-1", "c-2")).unwrap();
    trees::touch(&yml, m.mtime(), m.mtime_nsec());
    let said = rig.source.check(&unit).await.unwrap().join("\n");
    for part in ["'config/controller.yml' differs in content", "'templates/lobby/extra' is not in the backup"] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    assert!(!said.contains("data") && !said.contains("config/other"), "{said}");
}

#[tokio::test]
async fn mounts_matter_only_where_the_part_is() {
    let rig = Rig::new(&[]);
    let Some(_root) = Mount::tmpfs(&rig.root(), "100m") else { return };
    trees::plain(&rig.root(), UUID);
    let saved = list(&rig.root());
    let artifact = rig.capture().await;
    let _worlds = Mount::tmpfs(&rig.root().join("data/worlds"), "1m").unwrap();
    let _lobby = Mount::tmpfs(&rig.root().join("templates/lobby"), "1m").unwrap();
    fs::write(rig.root().join("data/worlds/r.0.0.mca"), "live").unwrap();
    fs::write(rig.root().join("config/controller.yml"), format!("uuid: {UUID}\nchanged: true\n")).unwrap();
    for paths in [&["data"][..], &["templates"], &["templates/lobby/server.properties"]] {
        refused(&rig, &artifact, paths, "is a mount point").await;
    }
    let paths = ["config/controller.yml", "data/modules"];
    let expected = replaced(&list(&rig.root()), &saved, &paths);
    restored(&rig, &artifact, &paths, &expected).await;
}

#[tokio::test]
async fn holes_of_a_part_stay_holes() {
    let rig = Rig::new(&[]);
    gnu::with_holes(&rig.root());
    let before = gnu::described(&rig.root());
    let artifact = rig.capture().await;
    for large in ["8 gib", "several"] {
        fs::write(rig.root().join("holes").join(large), "changed").unwrap();
    }
    let unit = stage(&rig, &artifact, "job-1", &["holes"]);
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), NOTHING);
    rig.source.commit(&unit).await.unwrap();
    assert_eq!(gnu::described(&rig.root()), before);
}

/// Law L9: what a plan says is kept stays as it is live, whatever the backup has there, and comes back with the rest on the way back.
#[tokio::test]
async fn what_is_kept_stays_as_it_is_live() {
    let rig = Rig::new(&[]);
    trees::plain(&rig.root(), UUID);
    let log = rig.root().join("data/raft");
    fs::create_dir_all(log.join("segments")).unwrap();
    fs::write(log.join("segments/1"), "of then").unwrap();
    let artifact = rig.capture().await;
    let saved = list(&rig.root());
    fs::write(log.join("segments/1"), "of now").unwrap();
    fs::write(log.join("segments/2"), "of now").unwrap();
    destroy(&rig.root());
    let live = list(&rig.root());
    let is_kept = |p: &Path| p.starts_with("data/raft") || p.starts_with("logs");
    for (job, paths) in [("job-1", &[][..]), ("job-2", &["data"])] {
        let keep = vec!["data/raft".to_owned()];
        let part = Selection { keep, ..selection(paths) };
        let state = rig.dir.path().join("state");
        let unit = capture::stage_part(&state, job, &artifact, &rig.store(), &part).unwrap();
        rig.source.prepare(&unit).await.unwrap();
        rig.source.swap(&unit).await.unwrap();
        assert_eq!(rig.source.check(&unit).await.unwrap(), NOTHING);
        let expected: Listing = if paths.is_empty() {
            let back = saved.iter().filter(|(p, _)| !is_kept(p)).chain(live.iter().filter(|(p, _)| is_kept(p)));
            back.map(|(p, line)| (p.clone(), line.clone())).collect()
        } else {
            let mut expected = replaced(&live, &saved, paths);
            expected.retain(|p, _| !p.starts_with("data/raft"));
            expected
                .extend(live.iter().filter(|(p, _)| p.starts_with("data/raft")).map(|(p, l)| (p.clone(), l.clone())));
            expected
        };
        assert_eq!(differences(&expected, &list(&rig.root())), NOTHING, "{job}");
        assert_eq!(fs::read_to_string(log.join("segments/1")).unwrap(), "of now");
        rig.source.revert(&unit).await.unwrap();
        assert_eq!(differences(&live, &list(&rig.root())), NOTHING, "{job}");
        assert_eq!(rig.leftovers(), [] as [PathBuf; 0]);
    }
}
