//! One artifact on its way from its agent into the store. What the agent says is checked, never believed: where its
//! files go, how long they are, what their digests are.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use prexor_format::{
    artifact::ArtifactKind,
    digest::Sha256Digest,
    gzip::Level,
    id::{BackupId, NodeName},
    manifest::{Artifact, Contents, StoredFile},
};
use prexor_proto::{agent::CaptureEnd, backup::Progress, reason::Reason};
use tokio_util::sync::CancellationToken;

use super::select::Choice;
use crate::{
    agents::CaptureFrame,
    context::Context,
    error::Error,
    jobs::JobHandle,
    store::{Store, Upload, check_path},
};

/// Files of one capture that may be open at once: each holds a megabyte of memory at most.
const MAX_OPEN: usize = 32;

/// Captures one artifact. Ends soon after `stop` has fired; what was stored until then is the caller's to remove.
pub(super) async fn receive(
    ctx: Arc<Context>,
    job: JobHandle,
    id: BackupId,
    choice: Choice,
    compression: Option<Level>,
    stop: CancellationToken,
) -> Result<Artifact, Error> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(Error::cancelled()),
        artifact = stream(&ctx, &job, &id, &choice, compression) => artifact.map_err(|e| match e.reason {
            // What came was wrong. The other errors are the agent's, which name it, or our own store's.
            Reason::Damaged => e.on(choice.node.as_str()),
            _ => e,
        }),
    }
}

async fn stream(
    ctx: &Context,
    job: &JobHandle,
    id: &BackupId,
    choice: &Choice,
    compression: Option<Level>,
) -> Result<Artifact, Error> {
    let started_at = Timestamp::now();
    let artifact_id = match choice.kind {
        ArtifactKind::Filesystem => format!("{}-{}", choice.kind, choice.node),
        ArtifactKind::Mongo | ArtifactKind::Valkey => choice.kind.to_string(),
    };
    let record = ctx.catalog.node(&choice.node).await?;
    let mut capture = ctx.agents.connect(&record).await?.capture(job.fence(), choice.kind, compression).await?;
    let mut files = Files::new(&ctx.store, id, choice);
    let end = loop {
        match capture.next().await? {
            CaptureFrame::Begin { file, path } => files.begin(file, &path).await?,
            CaptureFrame::Chunk { file, data } => files.upload(file)?.write(data).await?,
            CaptureFrame::FileEnd { file, size_bytes, sha256 } => files.end(file, size_bytes, sha256).await?,
            CaptureFrame::Restart => files.restart().await?,
            CaptureFrame::Progress(p) => job.progress(Progress { artifact_id: artifact_id.clone(), ..p }),
            CaptureFrame::End(end) => break end,
        }
    };
    describe(choice, artifact_id, end, files.finish()?, started_at)
}

fn describe(
    choice: &Choice,
    id: String,
    end: CaptureEnd,
    files: Vec<StoredFile>,
    started_at: Timestamp,
) -> Result<Artifact, Error> {
    let contents: Contents = serde_json::from_str(&end.contents_json)
        .map_err(|e| broken(format!("the contents of {id} are not described as they should be: {e}")))?;
    let (path, kind) = (end.path, choice.kind);
    let is_there = match kind {
        ArtifactKind::Mongo => path == prefix(kind, &choice.node).trim_end_matches('/'),
        ArtifactKind::Valkey | ArtifactKind::Filesystem => files.iter().any(|f| f.path == path),
    };
    if !is_there {
        return Err(broken(format!("{id} is said to be at '{}', where nothing was sent to", path.escape_default())));
    }
    let artifact = Artifact {
        id,
        kind,
        node: choice.node.clone(),
        path,
        format: end.format,
        started_at,
        completed_at: Timestamp::now(),
        size_bytes: files.iter().map(|f| f.size_bytes).sum(),
        files,
        contents,
        warnings: end.warnings,
    };
    artifact.check().map_err(broken)?;
    Ok(artifact)
}

/// Removes what a capture that failed has stored.
pub(super) async fn forget(store: &Store, id: &BackupId, choice: &Choice) -> Result<(), Error> {
    let prefix = prefix(choice.kind, &choice.node);
    for file in store.files(id).await?.iter().filter(|f| f.path.starts_with(&prefix)) {
        store.remove_file(id, &file.path).await?;
    }
    Ok(())
}

/// Where all files of an artifact must lie.
fn prefix(kind: ArtifactKind, node: &NodeName) -> String {
    match kind {
        ArtifactKind::Filesystem => format!("{kind}/{node}/"),
        ArtifactKind::Mongo | ArtifactKind::Valkey => format!("{kind}/"),
    }
}

fn broken(what: String) -> Error {
    Error::new(Reason::Damaged, format!("{what}: are agent and coordinator of the same version?"))
}

/// The files of one capture.
struct Files<'a> {
    store: &'a Store,
    id: &'a BackupId,
    prefix: String,
    open: HashMap<u32, Upload>,
    seen: HashSet<String>,
    stored: Vec<StoredFile>,
}

impl<'a> Files<'a> {
    fn new(store: &'a Store, id: &'a BackupId, choice: &Choice) -> Self {
        let prefix = prefix(choice.kind, &choice.node);
        Self { store, id, prefix, open: HashMap::new(), seen: HashSet::new(), stored: Vec::new() }
    }

    async fn begin(&mut self, file: u32, path: &str) -> Result<(), Error> {
        check_path(path)?;
        if !path.starts_with(&self.prefix) {
            return Err(broken(format!("{path} does not belong under {}", self.prefix)));
        }
        if self.open.len() == MAX_OPEN || self.open.contains_key(&file) || !self.seen.insert(path.to_owned()) {
            return Err(broken(format!("{path} was begun out of turn")));
        }
        let upload = self.store.begin(self.id, path).await?;
        self.open.insert(file, upload);
        Ok(())
    }

    fn upload(&mut self, file: u32) -> Result<&mut Upload, Error> {
        self.open.get_mut(&file).ok_or_else(|| broken(format!("data came for file {file}, which is not open")))
    }

    /// The file is in the store, and is what the agent read: nothing was lost or changed on the way.
    async fn end(&mut self, file: u32, size_bytes: u64, sha256: Sha256Digest) -> Result<(), Error> {
        let upload = self.open.remove(&file);
        let upload = upload.ok_or_else(|| broken(format!("file {file} ended, which is not open")))?;
        let stored = upload.finish().await?;
        if stored.size_bytes != size_bytes || stored.sha256 != sha256 {
            let what = format!(
                "{} arrived with {} bytes, {:?}; its agent read {size_bytes} bytes, {sha256:?}",
                stored.path, stored.size_bytes, stored.sha256
            );
            return Err(Error::new(Reason::Damaged, what));
        }
        self.stored.push(stored);
        Ok(())
    }

    /// The agent begins anew: what came so far goes.
    async fn restart(&mut self) -> Result<(), Error> {
        self.open.clear();
        self.seen.clear();
        for file in self.stored.drain(..) {
            self.store.remove_file(self.id, &file.path).await?;
        }
        Ok(())
    }

    /// All files, by path. One that was begun and not ended does not count: its source went away while it was read, and
    /// the agent has left it out of the contents.
    fn finish(mut self) -> Result<Vec<StoredFile>, Error> {
        self.stored.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(self.stored)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    async fn with_files(test: impl AsyncFnOnce(Files<'_>, &Store)) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let id = "bk-2026-05-10-001".parse().unwrap();
        let choice = Choice { kind: ArtifactKind::Filesystem, node: "h1".parse().unwrap() };
        test(Files::new(&store, &id, &choice), &store).await;
    }

    #[tokio::test]
    async fn an_artifact_keeps_to_its_own_place() {
        with_files(async |mut files, store| {
            for bad in [
                "mongo/x",
                "filesystem/h2/etc-prexorcloud.tar.gz",
                "filesystem/h1",
                "filesystem/h1/../h2/x",
                "/etc/passwd",
                "manifest.json",
                "filesystem/h1/a\0b",
            ] {
                assert_eq!(files.begin(1, bad).await.unwrap_err().reason, Reason::Damaged, "{bad}");
            }
            assert!(std::fs::read_dir(store.root()).unwrap().next().is_none());
        })
        .await;
    }

    #[tokio::test]
    async fn what_arrives_is_compared_with_what_was_read() {
        with_files(async |mut files, _| {
            let path = "filesystem/h1/etc-prexorcloud.tar.gz";
            files.begin(1, path).await.unwrap();
            assert!(files.begin(1, "filesystem/h1/other").await.is_err());
            assert!(files.begin(2, path).await.is_err());
            assert!(files.upload(7).is_err());
            files.upload(1).unwrap().write(Bytes::from_static(b"abc")).await.unwrap();
            let e = files.end(1, 3, Sha256Digest::of(b"abd")).await.unwrap_err();
            assert!(e.message.contains(path), "{e}");
        })
        .await;
    }

    #[tokio::test]
    async fn what_came_before_a_restart_is_gone() {
        with_files(async |mut files, store| {
            let (id, sha256) = (files.id, Sha256Digest::of(b"abc"));
            for (n, path) in ["filesystem/h1/a", "filesystem/h1/b", "filesystem/h1/c"].iter().enumerate() {
                files.begin(n as u32, path).await.unwrap();
                files.upload(n as u32).unwrap().write(Bytes::from_static(b"abc")).await.unwrap();
            }
            files.end(0, 3, sha256).await.unwrap();
            files.end(1, 3, sha256).await.unwrap();
            files.restart().await.unwrap();
            files.begin(3, "filesystem/h1/b").await.unwrap();
            files.upload(3).unwrap().write(Bytes::from_static(b"abc")).await.unwrap();
            files.end(3, 3, sha256).await.unwrap();
            let paths: Vec<String> = files.finish().unwrap().into_iter().map(|f| f.path).collect();
            assert_eq!(paths, ["filesystem/h1/b"]);
            let dir = store.root().join(id.to_string()).join("filesystem/h1");
            assert!(dir.join("b").exists() && !dir.join("a").exists());
        })
        .await;
    }

    #[tokio::test]
    async fn a_file_that_never_ends_does_not_count() {
        with_files(async |mut files, store| {
            let id = files.id;
            files.begin(1, "filesystem/h1/a").await.unwrap();
            files.upload(1).unwrap().write(Bytes::from_static(b"abc")).await.unwrap();
            assert_eq!(files.finish().unwrap(), []);
            // The upload removes what it wrote in the background.
            for _ in 0..500 {
                if store.files(id).await.unwrap().is_empty() {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            panic!("something is left of it: {:?}", store.files(id).await);
        })
        .await;
    }
}
