//! An RDB file that is read through while it arrives, and what is left when it does not arrive whole.

use std::{fs, sync::Arc};

use bytes::Bytes;
use prexor_agent::{
    restore_unit::{Phase, RestoreUnit},
    restores::{Verb, carry_out},
    source::{Source as _, SourceError, valkey::ValkeySource},
    staging::Staging,
};
use prexor_format::{manifest::Artifact, selection::Selection};
use prexor_tests::{
    equality::corrected,
    servers::Valkey,
    valkey::{Bench, remote},
};
use tokio::sync::Mutex;

use super::same;

/// A unit that nothing was sent to yet.
fn unit(bench: &Bench, job: &str, artifact: &Artifact, selection: &Selection) -> Arc<RestoreUnit> {
    let dir = bench.dir.path().join("state").join(job).join(&artifact.id);
    Arc::new(RestoreUnit::create(&dir, job, artifact, selection).unwrap())
}

/// Sends these bytes as the unit's file.
async fn send(source: &ValkeySource, unit: &Arc<RestoreUnit>, bytes: &[u8]) -> Result<(), SourceError> {
    let lock = Arc::new(Mutex::new(())).lock_owned().await;
    let mut staging = Staging::begin(unit.clone(), Arc::new(source.clone()), lock).await?;
    staging.file_begin(&unit.artifact.files[0].path).await?;
    for chunk in bytes.chunks(10_000) {
        staging.chunk(Bytes::copy_from_slice(chunk)).await?;
    }
    staging.file_end().await?;
    staging.finish().await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_for_a_running_server_is_read_while_it_arrives() {
    let bench = Bench::filled(Valkey::builder()).await;
    // More of a key than a reader holds.
    bench.server.cli(&["SET", &"k".repeat(70_000), "of a long key"]);
    let before = bench.live().await;
    let artifact = bench.capture().await;
    bench.destroy().await;
    let old = bench.live().await;
    let bytes = fs::read(bench.backup().join(&artifact.files[0].path)).unwrap();
    let source = remote(bench.server.uri());

    let whole = unit(&bench, "job-1", &artifact, &Selection::default());
    assert!(source.takes_arriving(&whole).await);
    send(&source, &whole, &bytes).await.unwrap();
    assert_eq!(whole.phase().unwrap(), Phase::Staged);
    same(&old, &bench.live().await);
    // It was read through: nobody needs to see it again before it is put in.
    assert!(!source.takes_arriving(&whole).await);
    assert!(whole.dir().join("valkey-backup.json").exists());
    for verb in [Verb::Prepare, Verb::Swap] {
        carry_out(verb, &whole, &source).await.unwrap();
    }
    same(&corrected(&before, &old), &bench.live().await);
    assert_eq!(source.check(&whole).await.unwrap(), Vec::<String>::new());
    carry_out(Verb::Revert, &whole, &source).await.unwrap();
    same(&old, &bench.live().await);

    // The files' way lays the file beside the live one, out of the place where it was staged.
    let files = unit(&bench, "job-2", &artifact, &Selection::default());
    assert!(!bench.source.takes_arriving(&files).await);
    // A server that does not run is said when it is asked to prepare, as ever.
    let nobody = remote("redis://127.0.0.1:1".to_owned());
    let unreachable = unit(&bench, "job-3", &artifact, &Selection::default());
    assert!(!nobody.takes_arriving(&unreachable).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_arrive_whole_is_not_restored() {
    let bench = Bench::filled(Valkey::builder()).await;
    let artifact = bench.capture().await;
    let bytes = fs::read(bench.backup().join(&artifact.files[0].path)).unwrap();
    let source = remote(bench.server.uri());
    let live = bench.live().await;
    let (mut flipped, mut late) = (bytes.clone(), bytes.clone());
    flipped[bytes.len() / 2] ^= 1;
    *late.last_mut().unwrap() ^= 1;
    for (job, sent) in [("cut", &bytes[..bytes.len() - 9]), ("flipped", &flipped), ("late", &late), ("none", b"")] {
        let unit = unit(&bench, job, &artifact, &Selection::default());
        let error = send(&source, &unit, sent).await.unwrap_err();
        assert!(matches!(error, SourceError::Invalid(_)), "{job}: {error:?}");
        assert!(!unit.dir().join("valkey-backup.json").exists(), "{job}");
        assert_eq!(unit.phase().unwrap(), Phase::Staging, "{job}");
        // A second try with the right bytes is as good as a first.
        send(&source, &unit, &bytes).await.unwrap();
        carry_out(Verb::Revert, &unit, &source).await.unwrap();
        let mut left: Vec<_> = fs::read_dir(unit.dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["artifact.json", "phase.json", "selection.json"], "{job}");
        same(&live, &bench.live().await);
    }
}
