//! An archive that is unpacked while it arrives, and what is left when it does not arrive whole.

use std::{fs, sync::Arc};

use bytes::Bytes;
use prexor_agent::{
    restore_unit::{Phase, RestoreUnit},
    restores::{Outcome, Verb, carry_out},
    source::{
        SourceError,
        files::{FilesConfig, FilesSource},
    },
    staging::Staging,
};
use prexor_format::{manifest::Artifact, selection::Selection};
use tokio::sync::Mutex;

use super::{
    NOTHING, Rig, UUID, archive_of, destroy, hostile,
    mounts::Mount,
    trees::{self, differences, list},
    without_sockets,
};

struct Sending<'a> {
    rig: &'a Rig,
    source: Arc<FilesSource>,
    unit: Arc<RestoreUnit>,
    lock: Arc<Mutex<()>>,
}

impl<'a> Sending<'a> {
    fn new(rig: &'a Rig, artifact: &Artifact, job: &str) -> Self {
        let dir = rig.dir.path().join("state").join(job).join(&artifact.id);
        let unit = Arc::new(RestoreUnit::create(&dir, job, artifact, &Selection::default()).unwrap());
        let config = FilesConfig { node: rig.node.clone(), root: rig.root(), exclude: Vec::new(), controller: None };
        Self { rig, source: Arc::new(FilesSource::new(config)), unit, lock: Arc::default() }
    }

    async fn begin(&self) -> Staging {
        let lock = self.lock.clone().lock_owned().await;
        Staging::begin(self.unit.clone(), self.source.clone(), lock).await.unwrap()
    }

    /// Sends the whole file.
    async fn send(&self, bytes: &[u8]) -> Result<(), SourceError> {
        let mut staging = self.begin().await;
        staging.file_begin(&self.unit.artifact.files[0].path).await?;
        for chunk in bytes.chunks(10_000) {
            staging.chunk(Bytes::copy_from_slice(chunk)).await?;
        }
        staging.file_end().await?;
        staging.finish().await.map(|_| ())
    }

    /// Waits until nobody works on the unit: nothing of the new tree is left then.
    async fn is_clean(&self, what: &str) {
        let _lock = self.lock.lock().await;
        let left: Vec<_> = self.rig.leftovers();
        assert!(left.is_empty(), "{what}: {left:?}");
        assert!(!self.unit.is_whole(&self.unit.artifact.files[0]), "{what}");
        assert_eq!(self.unit.phase().unwrap(), Phase::Staging, "{what}");
    }

    async fn carry_out(&self, verb: Verb) -> Outcome {
        carry_out(verb, &self.unit, &*self.source).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_unpacked_while_it_arrives() {
    let rig = Rig::new(&[]);
    trees::rich(&rig.root(), UUID);
    let before = without_sockets(list(&rig.root()), &rig.root());
    let artifact = rig.capture().await;
    let archive = fs::read(archive_of(&rig, &artifact)).unwrap();
    destroy(&rig.root());
    let live = list(&rig.root());

    for end in [Verb::Revert, Verb::Commit] {
        let sending = Sending::new(&rig, &artifact, &format!("job-{end:?}"));
        sending.send(&archive).await.unwrap();
        let file = &sending.unit.artifact.files[0];
        assert!(sending.unit.is_whole(file) && !sending.unit.staged(file).exists(), "no copy of it was kept");
        assert_eq!(sending.unit.phase().unwrap(), Phase::Staged);
        assert_eq!(differences(&live, &list(&rig.root())), NOTHING, "{end:?}");
        if end == Verb::Commit {
            sending.carry_out(Verb::Prepare).await;
            sending.carry_out(Verb::Swap).await;
            assert_eq!(sending.carry_out(Verb::Check).await, Outcome::Compared(Vec::new()));
        }
        sending.carry_out(end).await;
        assert!(rig.leftovers().is_empty(), "{end:?}: {:?}", rig.leftovers());
    }
    let mut after = without_sockets(list(&rig.root()), &rig.root());
    after.retain(|path, _| !path.starts_with("logs"));
    let mut expected = before;
    expected.retain(|path, _| !path.starts_with("logs"));
    assert_eq!(differences(&expected, &after), NOTHING);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_arrive_whole_leaves_nothing_and_can_be_sent_again() {
    let rig = Rig::new(&[]);
    trees::plain(&rig.root(), UUID);
    let artifact = rig.capture().await;
    let archive = fs::read(archive_of(&rig, &artifact)).unwrap();
    let live = list(&rig.root());
    let sending = Sending::new(&rig, &artifact, "job-1");

    for at in (0..archive.len()).step_by(archive.len() / 20) {
        let mut staging = sending.begin().await;
        staging.file_begin(&artifact.files[0].path).await.unwrap();
        staging.chunk(Bytes::copy_from_slice(&archive[..at])).await.unwrap();
        // The connection is lost.
        drop(staging);
        sending.is_clean(&format!("cut after {at} bytes")).await;

        let mut flipped = archive.clone();
        flipped[at] ^= 1;
        let error = sending.send(&flipped).await.unwrap_err();
        assert!(matches!(error, SourceError::Invalid(_)), "{at}: {error}");
        sending.is_clean(&format!("byte {at} changed")).await;
    }
    let error = sending.send(&archive[..archive.len() - 1]).await.unwrap_err().to_string();
    assert!(error.contains("other bytes than the manifest's checksum"), "{error}");
    sending.is_clean("the last byte is missing").await;
    assert_eq!(differences(&live, &list(&rig.root())), NOTHING);

    sending.send(&archive).await.unwrap();
    sending.carry_out(Verb::Prepare).await;
    sending.carry_out(Verb::Swap).await;
    assert_eq!(sending.carry_out(Verb::Check).await, Outcome::Compared(Vec::new()));
    sending.carry_out(Verb::Commit).await;
    assert_eq!(differences(&live, &list(&rig.root())), NOTHING);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_archive_is_refused_while_it_arrives() {
    let rig = Rig::new(&[]);
    trees::plain(&rig.root(), UUID);
    let artifact = rig.capture().await;
    let live = list(&rig.root());
    for (number, (finding, blocks)) in hostile::archives().into_iter().enumerate() {
        let (artifact, archive) = hostile::artifact(&artifact, finding, &blocks);
        let sending = Sending::new(&rig, &artifact, &format!("job-{number}"));
        let error = sending.send(&archive).await.unwrap_err();
        assert!(matches!(error, SourceError::Invalid(_)) && error.to_string().contains(finding), "{finding}: {error}");
        sending.is_clean(finding).await;
        sending.carry_out(Verb::Revert).await;
        assert_eq!(differences(&live, &list(&rig.root())), NOTHING, "{finding}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_find_room_is_staged_first_and_holes_need_none() {
    let rig = Rig::new(&[]);
    // Beside the root there is room; in it, where the new tree goes since a mount point cannot be renamed, only for what
    // is written, not for what the file's length promises.
    let Some(_mount) = Mount::tmpfs(&rig.root(), "16m") else { return };
    trees::plain(&rig.root(), UUID);
    fs::File::create(rig.root().join("sparse.mca")).unwrap().set_len(64 << 20).unwrap();
    let saved = list(&rig.root());
    let artifact = rig.capture().await;
    let archive = fs::read(archive_of(&rig, &artifact)).unwrap();
    destroy(&rig.root());

    let sending = Sending::new(&rig, &artifact, "job-1");
    sending.send(&archive).await.unwrap();
    let file = &sending.unit.artifact.files[0];
    assert!(sending.unit.staged(file).exists(), "it was unpacked where its room was in doubt");
    for verb in [Verb::Prepare, Verb::Swap, Verb::Check] {
        let outcome = sending.carry_out(verb).await;
        assert!(verb != Verb::Check || outcome == Outcome::Compared(Vec::new()), "{outcome:?}");
    }
    sending.carry_out(Verb::Commit).await;
    assert_eq!(differences(&saved, &list(&rig.root())), NOTHING);
    assert!(rig.leftovers().is_empty(), "{:?}", rig.leftovers());
}
