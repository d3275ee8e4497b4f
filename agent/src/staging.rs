//! Receives an artifact's files into its unit and lets none count that differs from the manifest.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use prexor_format::{
    digest::Hasher,
    manifest::{Artifact, StoredFile},
};
use tokio::{fs, io::AsyncWriteExt as _, task::JoinHandle};

use crate::{
    restore_unit::{Phase, RestoreUnit},
    source::SourceError,
};

/// After so many bytes of a file the disk is set to work: at its end only the last of them are waited for.
const SYNC_EVERY: u64 = 32 << 20;

/// A unit that files are coming in for. Dropping it in the middle leaves whole files and one partial, which the next
/// attempt overwrites.
#[derive(Debug)]
pub struct Staging {
    unit: Arc<RestoreUnit>,
    open: Option<Incoming>,
}

#[derive(Debug)]
struct Incoming {
    expected: StoredFile,
    part: PathBuf,
    file: fs::File,
    hasher: Hasher,
    size: u64,
    /// Bytes that the disk was not yet told to take, and its taking of those before.
    waiting: u64,
    syncing: Option<JoinHandle<io::Result<()>>>,
}

impl Incoming {
    async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all(data).await?;
        self.waiting += data.len() as u64;
        if self.waiting >= SYNC_EVERY && self.syncing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.synced().await?;
            let file = self.file.try_clone().await?;
            self.waiting = 0;
            self.syncing = Some(tokio::spawn(async move { file.sync_data().await }));
        }
        Ok(())
    }

    /// What came of the last early sync: the kernel tells of a failed write only once.
    async fn synced(&mut self) -> io::Result<()> {
        match self.syncing.take() {
            Some(syncing) => syncing.await.unwrap_or_else(|e| Err(io::Error::other(e))),
            None => Ok(()),
        }
    }
}

impl Staging {
    /// Begins to receive. Refuses when the disk has not room for what is still missing.
    ///
    /// # Errors
    /// [`SourceError::NoSpace`], or what went wrong with the unit's directory.
    pub fn begin(unit: Arc<RestoreUnit>) -> Result<Self, SourceError> {
        let missing: u64 = unit.files().into_iter().filter(|f| !is_whole(&unit, f)).map(|f| f.size_bytes).sum();
        let free = free_bytes(&unit)?;
        if missing > free {
            return Err(SourceError::NoSpace(format!(
                "{} needs {missing} bytes in {}, where {free} are free: make room or move the agent's state_dir",
                unit.artifact.id,
                unit.dir().display()
            )));
        }
        Ok(Self { unit, open: None })
    }

    /// A file begins.
    ///
    /// # Errors
    /// When the manifest's entry does not list it, or the one before was not ended.
    pub async fn file_begin(&mut self, path: &str) -> Result<(), SourceError> {
        if let Some(open) = &self.open {
            return Err(invalid(&self.unit.artifact, format!("{path} begins before {} has ended", open.expected.path)));
        }
        let listed = self.unit.files().into_iter().find(|f| f.path == path);
        let expected = listed.cloned().ok_or_else(|| invalid(&self.unit.artifact, format!("it has no file {path}")))?;
        let target = self.unit.staged(&expected);
        // Not beside the target: its name may be as long as a name can be.
        let part = self.unit.dir().join("incoming");
        let dir = target.parent().unwrap_or(self.unit.dir());
        fs::create_dir_all(dir).await.map_err(|e| write_error(&part, &e))?;
        let file = fs::File::create(&part).await.map_err(|e| write_error(&part, &e))?;
        self.open =
            Some(Incoming { expected, part, file, hasher: Hasher::default(), size: 0, waiting: 0, syncing: None });
        Ok(())
    }

    /// The next bytes of the file that has begun.
    ///
    /// # Errors
    /// When there are more of them than the manifest says, or the disk refuses them.
    pub async fn chunk(&mut self, data: &[u8]) -> Result<(), SourceError> {
        let artifact = &self.unit.artifact;
        let open = self.open.as_mut().ok_or_else(|| invalid(artifact, "bytes came outside a file".into()))?;
        open.size += data.len() as u64;
        if open.size > open.expected.size_bytes {
            return Err(invalid(artifact, format!("{} is longer than the manifest says", open.expected.path)));
        }
        open.hasher.update(data);
        open.write(data).await.map_err(|e| write_error(&open.part, &e))
    }

    /// The file has ended: it counts when its size and digest are the manifest's.
    ///
    /// # Errors
    /// [`SourceError::Invalid`] names the file.
    pub async fn file_end(&mut self) -> Result<(), SourceError> {
        let artifact = &self.unit.artifact;
        let mut open = self.open.take().ok_or_else(|| invalid(artifact, "a file ends that has not begun".into()))?;
        let (size, digest) = (open.size, std::mem::take(&mut open.hasher).finish());
        if (size, digest) != (open.expected.size_bytes, open.expected.sha256) {
            let what = format!("{} arrived with other bytes than the manifest's checksum says", open.expected.path);
            return Err(invalid(artifact, format!("{what}: run `prexorctl backup verify`")));
        }
        let done = async {
            open.file.flush().await?;
            open.synced().await?;
            open.file.sync_all().await?;
            fs::rename(&open.part, self.unit.staged(&open.expected)).await
        };
        self.unit.progress.add(size, 1);
        done.await.map_err(|e| write_error(&open.part, &e))
    }

    /// Everything was sent.
    ///
    /// # Errors
    /// When a file is missing.
    pub async fn finish(self) -> Result<u64, SourceError> {
        let artifact = &self.unit.artifact;
        if let Some(open) = &self.open {
            return Err(invalid(artifact, format!("the stream ended within {}", open.expected.path)));
        }
        if let Some(missing) = self.unit.files().into_iter().find(|f| !is_whole(&self.unit, f)) {
            return Err(invalid(artifact, format!("{} was not sent", missing.path)));
        }
        // The names too must survive a power cut before the unit counts as staged.
        let (top, mut dirs) = (self.unit.dir().to_owned(), BTreeSet::new());
        for file in self.unit.files() {
            dirs.extend(
                self.unit.staged(file).ancestors().skip(1).take_while(|d| d.starts_with(&top)).map(Path::to_owned),
            );
        }
        let sync = move || dirs.iter().try_for_each(|dir| std::fs::File::open(dir)?.sync_all());
        let synced = tokio::task::spawn_blocking(sync).await.unwrap_or_else(|e| Err(io::Error::other(e)));
        synced.map_err(|e| write_error(self.unit.dir(), &e))?;
        if self.unit.phase().map_err(|e| write_error(self.unit.dir(), &e))? == Phase::Staging {
            self.unit.set_phase(Phase::Staged).map_err(|e| write_error(self.unit.dir(), &e))?;
        }
        Ok(self.unit.files().iter().map(|f| f.size_bytes).sum())
    }
}

/// Whether a file is there whole: it gets its name only after its digest was compared.
pub fn is_whole(unit: &RestoreUnit, file: &StoredFile) -> bool {
    std::fs::metadata(unit.staged(file)).is_ok_and(|m| m.len() == file.size_bytes)
}

fn free_bytes(unit: &RestoreUnit) -> Result<u64, SourceError> {
    let stat = rustix::fs::statvfs(unit.dir());
    stat.map(|s| s.f_bavail * s.f_frsize).map_err(|e| SourceError::Failed(format!("{}: {e}", unit.dir().display())))
}

fn invalid(artifact: &Artifact, what: String) -> SourceError {
    SourceError::Invalid(format!("artifact {}: {what}", artifact.id))
}

fn write_error(path: &Path, e: &io::Error) -> SourceError {
    match e.kind() {
        io::ErrorKind::StorageFull => {
            SourceError::NoSpace(format!("{}: the disk is full; make room and restore again", path.display()))
        }
        _ => SourceError::Failed(format!("{} cannot be written: {e}", path.display())),
    }
}
