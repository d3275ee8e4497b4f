//! The files source on real trees: what comes back equals what was there, whatever is in the tree, in the archive or
//! in the way. Run as root.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it as the test itself does")]

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use prexor_agent::{
    restore_unit::RestoreUnit,
    sink::{ArtifactSink, Frame},
    source::{
        Source as _, SourceError,
        files::{FilesConfig, FilesSource},
    },
};
use prexor_format::{
    gzip,
    id::NodeName,
    manifest::{Artifact, Contents, FilesContents},
    tree::verify_tar,
};
use prexor_tests::capture;
use tokio_util::sync::CancellationToken;

#[path = "files_source/arriving.rs"]
mod arriving;
#[path = "files_source/crash.rs"]
mod crash;
#[path = "files_source/crowd.rs"]
mod crowd;
#[path = "files_source/gnu.rs"]
mod gnu;
#[path = "files_source/hostile.rs"]
mod hostile;
#[path = "files_source/mounts.rs"]
mod mounts;
#[path = "files_source/part.rs"]
mod part;
#[path = "files_source/trees.rs"]
mod trees;
#[path = "files_source/whole_loop.rs"]
mod whole_loop;

use trees::{Listing, differences, list};

const UUID: &str = "6f1c2f5e-0b1a-4a7e-9a53-0d9d1d1c8f10";
const NOTHING: [String; 0] = [];

/// A root, a store and an agent's state in one temporary directory.
struct Rig {
    dir: tempfile::TempDir,
    source: FilesSource,
    node: NodeName,
}

impl Rig {
    fn new(exclude: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let root = dir.path().join("etc/prexorcloud");
        fs::create_dir(&root).unwrap();
        let node: NodeName = "h1".parse().unwrap();
        let exclude = exclude.iter().map(|p| p.parse().unwrap()).collect();
        let source = FilesSource::new(FilesConfig { node: node.clone(), root, exclude, controller: None });
        Self { dir, source, node }
    }

    /// As if agent.yml had been changed and the agent restarted.
    fn exclude(&mut self, patterns: &[&str]) {
        let (node, exclude) = (self.node.clone(), patterns.iter().map(|p| p.parse().unwrap()).collect());
        self.source = FilesSource::new(FilesConfig { node, root: self.root(), exclude, controller: None });
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("etc/prexorcloud")
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    async fn capture(&self) -> Artifact {
        let _ = fs::remove_dir_all(self.store());
        capture::to_directory(&self.source, &self.node, &self.store()).await.unwrap()
    }

    fn stage(&self, artifact: &Artifact, job: &str) -> RestoreUnit {
        capture::stage(&self.dir.path().join("state"), job, artifact, &self.store()).unwrap()
    }

    /// Names beside the root and in it that a restore left.
    fn leftovers(&self) -> Vec<PathBuf> {
        [self.dir.path().join("etc"), self.root()]
            .iter()
            .filter_map(|d| fs::read_dir(d).ok())
            .flatten()
            .map(|e| e.unwrap().path())
            .filter(|p| p.file_name().unwrap().as_encoded_bytes().starts_with(b".prexor"))
            .collect()
    }
}

fn contents(artifact: &Artifact) -> &FilesContents {
    match &artifact.contents {
        Contents::Filesystem(contents) => contents,
        other => panic!("{other:?}"),
    }
}

fn archive_of(rig: &Rig, artifact: &Artifact) -> PathBuf {
    rig.store().join(&artifact.files[0].path)
}

fn verify(archive: &Path) -> prexor_format::tree::TarSummary {
    verify_tar(gzip::reader(std::io::BufReader::new(fs::File::open(archive).unwrap()))).unwrap()
}

/// Makes the live tree another one.
fn destroy(root: &Path) {
    fs::remove_dir_all(root.join("templates")).unwrap();
    fs::write(root.join("config/controller.yml"), format!("uuid: {UUID}\nchanged: true\n")).unwrap();
    fs::write(root.join("new file"), "not in the backup").unwrap();
    fs::write(root.join("logs/controller.log"), "new log\n").unwrap();
    fs::create_dir_all(root.join("logs/2026")).unwrap();
}

fn without_sockets(mut listing: Listing, root: &Path) -> Listing {
    listing.retain(|p, _| !fs::symlink_metadata(root.join(p)).unwrap().file_type().is_socket());
    listing
}

#[tokio::test]
async fn everything_comes_back_and_logs_survive() {
    let rig = Rig::new(&[]);
    trees::rich(&rig.root(), UUID);
    let before = without_sockets(list(&rig.root()), &rig.root());
    fs::write(rig.root().join(".cluster-left"), "").unwrap();
    fs::write(rig.root().join("data/pending-join-token"), "t").unwrap();
    trees::touch(&rig.root(), 1_234_567_891, 0);
    let data = fs::metadata(rig.root().join("data")).unwrap();
    let artifact = rig.capture().await;
    let c = contents(&artifact);
    assert_eq!(artifact.path, "filesystem/h1/etc-prexorcloud.tar.gz");
    assert_eq!(c.controller.as_ref().unwrap().uuid.as_deref(), Some(UUID));
    assert_eq!(c.excluded, ["logs"]);
    assert_eq!(
        c.notes.iter().map(|n| (n.path.as_str(), n.note.as_str())).collect::<Vec<_>>(),
        [("odd/socket", "socket skipped")]
    );
    assert!(artifact.warnings.is_empty(), "{:?}", artifact.warnings);
    assert_eq!(c.entries, before.len() as u64);

    let summary = verify(&archive_of(&rig, &artifact));
    assert_eq!(summary.differences(c), NOTHING);
    assert_eq!(summary.modules, ["stats.jar"]);

    destroy(&rig.root());
    let unit = rig.stage(&artifact, "job-1");
    for _ in 0..2 {
        rig.source.prepare(&unit).await.unwrap();
    }
    assert!(rig.root().join("new file").exists(), "before the swap nothing changes");
    for _ in 0..2 {
        rig.source.swap(&unit).await.unwrap();
    }
    assert_eq!(rig.source.check(&unit).await.unwrap(), NOTHING);
    for _ in 0..2 {
        rig.source.commit(&unit).await.unwrap();
    }
    let mut after = list(&rig.root());
    // The marker changed its directory's time when it was made; the tar holds that time.
    let seen = fs::metadata(rig.root().join("data")).unwrap();
    assert_eq!((seen.mtime(), seen.mtime_nsec()), (data.mtime(), data.mtime_nsec()));
    after.insert("data".into(), before[Path::new("data")].clone());
    assert_eq!(differences(&before, &after), NOTHING);
    assert_eq!(fs::read_to_string(rig.root().join("logs/controller.log")).unwrap(), "new log\n");
    assert!(rig.root().join("logs/2026").is_dir());
    assert_eq!(rig.leftovers(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn gnu_tar_unpacks_the_same_tree() {
    let rig = Rig::new(&[]);
    trees::rich(&rig.root(), UUID);
    let before = without_sockets(list(&rig.root()), &rig.root());
    let archive = archive_of(&rig, &rig.capture().await);
    for (options, xattrs) in [(&["--xattrs", "--xattrs-include=*"][..], true), (&[], false)] {
        let out = rig.dir.path().join(format!("gnu-{xattrs}"));
        fs::create_dir(&out).unwrap();
        let run = Command::new("tar").args(options).arg("-xzf").arg(&archive).arg("-C").arg(&out).output().unwrap();
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{said}");
        let mut after = list(&out);
        if !xattrs {
            // Only what GNU tar leaves out without its options may be missing.
            for (path, line) in &mut after {
                if before.get(path).is_some_and(|b| b.contains('=')) {
                    line.clone_from(&before[path]);
                }
            }
        }
        assert_eq!(differences(&before, &after), NOTHING, "{said}");
    }
}

#[tokio::test]
async fn hostile_archives_are_refused_and_touch_nothing() {
    let rig = Rig::new(&[]);
    trees::plain(&rig.root(), UUID);
    let artifact = rig.capture().await;
    let before = list(&rig.root());
    let outside = Path::new("/tmp/prexor-hostile");
    for (number, (finding, blocks)) in hostile::archives().into_iter().enumerate() {
        let (artifact, gz) = hostile::artifact(&artifact, finding, &blocks);
        fs::write(archive_of(&rig, &artifact), &gz).unwrap();
        let unit = rig.stage(&artifact, &format!("job-{number}"));
        let error = rig.source.prepare(&unit).await.unwrap_err();
        assert!(matches!(error, SourceError::Invalid(_)) && error.to_string().contains(finding), "{finding}: {error}");
        rig.source.revert(&unit).await.unwrap();
        assert_eq!(rig.leftovers(), [] as [PathBuf; 0], "{finding}");
        assert!(!outside.exists(), "{finding}");
        assert_eq!(differences(&before, &list(&rig.root())), NOTHING, "{finding}");
    }
}

#[tokio::test]
async fn damaged_archives_are_refused() {
    let rig = Rig::new(&[]);
    trees::plain(&rig.root(), UUID);
    let artifact = rig.capture().await;
    let archive = archive_of(&rig, &artifact);
    let sound = fs::read(&archive).unwrap();
    let mut number = 0;
    let mut refused = async |bytes: Vec<u8>, what: &str| {
        fs::write(&archive, bytes).unwrap();
        number += 1;
        let error = rig.source.prepare(&rig.stage(&artifact, &format!("job-{number}"))).await.unwrap_err();
        assert!(matches!(error, SourceError::Invalid(_)), "{what}: {error}");
        assert_eq!(rig.leftovers(), [] as [PathBuf; 0], "{what}");
    };
    for at in (0..sound.len()).step_by(sound.len() / 40) {
        let mut flipped = sound.clone();
        flipped[at] ^= 1;
        refused(flipped, &format!("byte {at} flipped")).await;
    }
    refused(sound[..sound.len() / 2].to_vec(), "cut").await;
    refused(Vec::new(), "empty").await;
    refused([sound.as_slice(), b"more"].concat(), "longer").await;
    refused([sound.as_slice(), &sound].concat(), "twice").await;
}

#[tokio::test]
async fn another_controllers_files_are_refused() {
    let rig = Rig::new(&[]);
    trees::plain(&rig.root(), UUID);
    let artifact = rig.capture().await;
    fs::write(rig.root().join("config/controller.yml"), "uuid: another\n").unwrap();
    let unit = rig.stage(&artifact, "job-1");
    let error = rig.source.prepare(&unit).await.unwrap_err().to_string();
    for part in [UUID, "another", "split brain", "--datastores"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    fs::write(rig.root().join("config/controller.yml"), "uuid: [broken").unwrap();
    rig.source.prepare(&unit).await.unwrap();
}

#[tokio::test]
async fn what_is_excluded_since_the_backup_is_not_lost() {
    let mut rig = Rig::new(&[]);
    trees::rich(&rig.root(), UUID);
    let artifact = rig.capture().await;
    fs::create_dir_all(rig.root().join("data/worlds")).unwrap();
    fs::write(rig.root().join("data/worlds/r.0.0.mca"), "in no backup").unwrap();
    rig.exclude(&["data/worlds"]);
    let unit = rig.stage(&artifact, "job-1");
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), [] as [String; 0]);
    rig.source.commit(&unit).await.unwrap();
    assert_eq!(fs::read_to_string(rig.root().join("data/worlds/r.0.0.mca")).unwrap(), "in no backup");

    // Where the archive holds it too, only a person knows which of both is wanted.
    rig.exclude(&["templates"]);
    let refused = rig.source.prepare(&rig.stage(&artifact, "job-2")).await.unwrap_err();
    assert!(matches!(&refused, SourceError::Invalid(m) if m.contains("templates")), "{refused}");
}

#[tokio::test]
async fn revert_leads_back_from_everywhere() {
    let rig = Rig::new(&["data/cache", "templates/*/tmp"]);
    trees::rich(&rig.root(), UUID);
    let artifact = rig.capture().await;
    destroy(&rig.root());
    fs::create_dir_all(rig.root().join("templates/new/tmp")).unwrap();
    fs::write(rig.root().join("templates/new/tmp/kept"), "k").unwrap();
    trees::touch(&rig.root().join("templates/new"), 77, 7);
    let before = list(&rig.root());
    for (number, verbs) in ["", "p", "pp", "ps", "pss", "psc"].into_iter().enumerate() {
        let unit = rig.stage(&artifact, &format!("job-{number}"));
        for verb in verbs.chars() {
            match verb {
                'p' => rig.source.prepare(&unit).await.unwrap(),
                's' => rig.source.swap(&unit).await.unwrap(),
                _ => assert_eq!(rig.source.check(&unit).await.unwrap(), NOTHING),
            }
        }
        if verbs.contains('s') {
            assert_eq!(fs::read_to_string(rig.root().join("templates/new/tmp/kept")).unwrap(), "k");
            assert!(!rig.root().join("new file").exists());
        } else {
            let error = rig.source.commit(&unit).await.unwrap_err().to_string();
            assert!(error.contains("nothing to let go"), "{error}");
        }
        for _ in 0..2 {
            rig.source.revert(&unit).await.unwrap();
        }
        assert_eq!(differences(&before, &list(&rig.root())), NOTHING, "{verbs}");
        assert_eq!(rig.leftovers(), [] as [PathBuf; 0], "{verbs}");
        assert!(fs::read_to_string(rig.root().join("logs/controller.log")).unwrap() == "new log\n", "{verbs}");
    }
}

#[tokio::test]
async fn differences_are_named() {
    let rig = Rig::new(&[]);
    trees::plain(&rig.root(), UUID);
    let unit = rig.stage(&rig.capture().await, "job-1");
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    fs::write(rig.root().join("extra"), "").unwrap();
    fs::remove_file(rig.root().join("data/modules/stats.jar")).unwrap();
    let yml = rig.root().join("config/controller.yml");
    let text = fs::read_to_string(&yml).unwrap().replace("c-1", "c-2");
    fs::write(&yml, text).unwrap();
    let said = rig.source.check(&unit).await.unwrap().join("\n");
    for part in [
        "'extra' is not in the backup",
        "'data/modules/stats.jar' is missing",
        "'config/controller.yml' differs in content",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
}

#[tokio::test]
async fn a_root_that_is_gone_is_made_again() {
    let rig = Rig::new(&[]);
    trees::rich(&rig.root(), UUID);
    let before = without_sockets(list(&rig.root()), &rig.root());
    let artifact = rig.capture().await;
    fs::remove_dir_all(rig.dir.path().join("etc")).unwrap();
    let problem = rig.source.inspect().await.problem.unwrap();
    assert!(problem.contains("does not exist"), "{problem}");
    let unit = rig.stage(&artifact, "job-1");
    rig.source.prepare(&unit).await.unwrap();
    assert!(!rig.root().exists());
    rig.source.swap(&unit).await.unwrap();
    rig.source.revert(&unit).await.unwrap();
    assert!(!rig.root().exists());
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), NOTHING);
    rig.source.commit(&unit).await.unwrap();
    assert_eq!(differences(&before, &list(&rig.root())), NOTHING);
    assert_eq!(rig.leftovers(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_root_behind_a_symbolic_link_is_exchanged_where_it_is() {
    let mut rig = Rig::new(&[]);
    let link = rig.dir.path().join("link");
    symlink(rig.root(), &link).unwrap();
    trees::plain(&rig.root(), UUID);
    let before = list(&rig.root());
    rig.source =
        FilesSource::new(FilesConfig { node: rig.node.clone(), root: link.clone(), exclude: vec![], controller: None });
    let artifact = rig.capture().await;
    destroy(&rig.root());
    let unit = rig.stage(&artifact, "job-1");
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    rig.source.commit(&unit).await.unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(differences(&before, &list(&rig.root())), NOTHING);
}

#[tokio::test]
async fn a_capture_survives_a_restless_tree() {
    let rig = Rig::new(&[]);
    trees::plain(&rig.root(), UUID);
    let (root, stop) = (rig.root(), Arc::new(AtomicBool::new(false)));
    let until = stop.clone();
    let other = std::thread::spawn(move || trees::unrest(&root, || until.load(Ordering::Relaxed)));
    for _ in 0..15 {
        let artifact = rig.capture().await;
        let archive = archive_of(&rig, &artifact);
        assert_eq!(verify(&archive).differences(contents(&artifact)), NOTHING);
        let listed = Command::new("tar").arg("-tzf").arg(&archive).output().unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    }
    stop.store(true, Ordering::Relaxed);
    other.join().unwrap();
}

#[tokio::test]
async fn files_that_change_while_they_are_read_are_named() {
    let rig = Rig::new(&[]);
    trees::plain(&rig.root(), UUID);
    // Names that sort first are on their way while those behind still wait for the channel to drain.
    for name in ["b-shrinks", "c-grows", "d-vanishes", "e-changes"] {
        fs::write(rig.root().join(name), trees::pseudo_random(300_000, 1)).unwrap();
    }
    fs::write(rig.root().join("a-large"), trees::pseudo_random(12 << 20, 1)).unwrap();
    fs::write(rig.root().join("a-larger"), trees::pseudo_random(12 << 20, 2)).unwrap();
    let (sink, mut frames, _) = ArtifactSink::new();
    let (root, store) = (rig.root(), rig.store());
    let drained = async {
        // The channel holds 4 MiB: both large files are open or to come when the first chunk is here.
        let first = frames.recv().await.unwrap();
        assert!(matches!(first, Frame::Begin { .. }));
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        fs::OpenOptions::new().write(true).open(root.join("a-large")).unwrap().set_len(9 << 20).unwrap();
        fs::OpenOptions::new().write(true).open(root.join("a-large")).unwrap().set_len(5 << 20).unwrap();
        fs::remove_file(root.join("d-vanishes")).unwrap();
        let (tx, rx) = tokio::sync::mpsc::channel(1);
        let forward = async move {
            tx.send(first).await.unwrap();
            while let Some(frame) = frames.recv().await {
                tx.send(frame).await.unwrap();
            }
        };
        tokio::join!(forward, capture::drain(rx, &store)).1.unwrap()
    };
    let (captured, files) = tokio::join!(rig.source.capture(sink, CancellationToken::new()), drained);
    let artifact = capture::artifact(&rig.source, &rig.node, captured.unwrap(), files);
    let notes = &contents(&artifact).notes;
    let said = |path: &str| notes.iter().find(|n| n.path == path).map(|n| n.note.as_str());
    assert_eq!(said("a-large"), Some("shrank while it was read: padded with zeros"), "{notes:?}");
    assert_eq!(said("d-vanishes"), Some("vanished before it was read"), "{notes:?}");
    assert!(artifact.warnings.iter().any(|w| w.contains("a-large")), "{:?}", artifact.warnings);
    assert_eq!(verify(&archive_of(&rig, &artifact)).differences(contents(&artifact)), NOTHING);
}

#[tokio::test]
async fn a_cancelled_capture_ends_at_once_and_finishes_no_file() {
    let rig = Rig::new(&[]);
    trees::plain(&rig.root(), UUID);
    fs::write(rig.root().join("large"), trees::pseudo_random(64 << 20, 1)).unwrap();
    let (sink, mut frames, _) = ArtifactSink::new();
    let cancel = CancellationToken::new();
    let stopped = async {
        for _ in 0..3 {
            frames.recv().await.unwrap();
        }
        cancel.cancel();
        let mut last = None;
        while let Some(frame) = frames.recv().await {
            last = Some(frame);
        }
        assert!(!matches!(last, Some(Frame::End { .. })));
    };
    let begin = std::time::Instant::now();
    let (captured, ()) = tokio::join!(rig.source.capture(sink, cancel.clone()), stopped);
    assert!(matches!(captured, Err(SourceError::Cancelled)));
    assert!(begin.elapsed().as_secs() < 1);
}
