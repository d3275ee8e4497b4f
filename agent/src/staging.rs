//! Receives an artifact's files into its unit, or lets its source use them as they come, and lets none count that
//! differs from the manifest.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use prexor_format::{
    digest::Hasher,
    manifest::{Artifact, StoredFile},
};
use tokio::{fs, io::AsyncWriteExt as _, sync::OwnedMutexGuard, task::JoinHandle};

use crate::{
    arriving::{Feed, NotRead, arriving},
    restore_unit::{Phase, RestoreUnit},
    source::{Source, SourceError},
};

/// After so many bytes of a file the disk is set to work: at its end only the last of them are waited for.
const SYNC_EVERY: u64 = 32 << 20;

/// A unit that files are coming in for. Dropping it in the middle leaves whole files and one partial, which the next
/// attempt overwrites.
pub struct Staging {
    unit: Arc<RestoreUnit>,
    source: Arc<dyn Source>,
    /// Keeps other calls for the unit waiting, also while a source finishes with a file whose transfer broke off.
    lock: Arc<OwnedMutexGuard<()>>,
    /// Whether the source uses the file as it comes.
    arrives: bool,
    open: Option<Incoming>,
}

struct Incoming {
    expected: StoredFile,
    to: To,
    hasher: Hasher,
    size: u64,
}

/// Where the bytes go.
enum To {
    Disk(Part),
    Source { feed: Feed, preparing: JoinHandle<Result<(), SourceError>> },
}

/// A file that is being staged.
struct Part {
    path: PathBuf,
    file: fs::File,
    /// Bytes that the disk was not yet told to take, and its taking of those before.
    waiting: u64,
    syncing: Option<JoinHandle<io::Result<()>>>,
}

impl Part {
    async fn create(unit: &RestoreUnit, expected: &StoredFile) -> Result<Self, SourceError> {
        let target = unit.staged(expected);
        // Not beside the target: its name may be as long as a name can be.
        let path = unit.dir().join("incoming");
        let made = async {
            fs::create_dir_all(target.parent().unwrap_or(unit.dir())).await?;
            fs::File::create(&path).await
        };
        let file = made.await.map_err(|e| write_error(&path, &e))?;
        Ok(Self { path, file, waiting: 0, syncing: None })
    }

    /// Gives it its name.
    async fn finish(mut self, target: &Path) -> Result<(), SourceError> {
        let done = async {
            self.file.flush().await?;
            self.synced().await?;
            self.file.sync_all().await?;
            fs::rename(&self.path, target).await
        };
        done.await.map_err(|e| write_error(&self.path, &e))
    }

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
    /// Begins to receive for a unit that nobody else works on. Refuses when the disk has not room for what is still
    /// missing.
    ///
    /// # Errors
    /// [`SourceError::NoSpace`], or what went wrong with the unit's directory.
    pub async fn begin(
        unit: Arc<RestoreUnit>,
        source: Arc<dyn Source>,
        lock: OwnedMutexGuard<()>,
    ) -> Result<Self, SourceError> {
        let missing: u64 = unit.files().into_iter().filter(|f| !unit.is_whole(f)).map(|f| f.size_bytes).sum();
        let arrives = missing > 0 && unit.files().len() == 1 && source.takes_arriving(&unit).await;
        let free = free_bytes(&unit)?;
        if missing > free && !arrives {
            return Err(SourceError::NoSpace(format!(
                "{} needs {missing} bytes in {}, where {free} are free: make room or move the agent's state_dir",
                unit.artifact.id,
                unit.dir().display()
            )));
        }
        Ok(Self { unit, source, lock: Arc::new(lock), arrives, open: None })
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
        let to = if self.arrives { self.to_source()? } else { To::Disk(Part::create(&self.unit, &expected).await?) };
        self.open = Some(Incoming { expected, to, hasher: Hasher::default(), size: 0 });
        Ok(())
    }

    fn to_source(&self) -> Result<To, SourceError> {
        let unit = self.unit.clone();
        unit.set_arriving(false).map_err(|e| write_error(unit.dir(), &e))?;
        let (feed, file) = arriving();
        let (source, lock) = (self.source.clone(), self.lock.clone());
        let preparing = tokio::spawn(async move {
            let _lock = lock;
            source.prepare_arriving(&unit, file).await
        });
        Ok(To::Source { feed, preparing })
    }

    /// The next bytes of the file that has begun.
    ///
    /// # Errors
    /// When there are more of them than the manifest says, or the disk refuses them.
    pub async fn chunk(&mut self, data: Bytes) -> Result<(), SourceError> {
        let artifact = &self.unit.artifact;
        let open = self.open.as_mut().ok_or_else(|| invalid(artifact, "bytes came outside a file".into()))?;
        open.size += data.len() as u64;
        if open.size > open.expected.size_bytes {
            return Err(invalid(artifact, format!("{} is longer than the manifest says", open.expected.path)));
        }
        open.hasher.update(&data);
        match &mut open.to {
            To::Disk(part) => part.write(&data).await.map_err(|e| write_error(&part.path, &e)),
            To::Source { feed, preparing } => match feed.data(data).await {
                Ok(()) => Ok(()),
                Err(NotRead) => Err(ended(preparing).await.err().unwrap_or_else(|| not_read(artifact))),
            },
        }
    }

    /// The file has ended: it counts when its size and digest are the manifest's.
    ///
    /// # Errors
    /// [`SourceError::Invalid`] names the file.
    pub async fn file_end(&mut self) -> Result<(), SourceError> {
        let artifact = &self.unit.artifact;
        let open = self.open.take().ok_or_else(|| invalid(artifact, "a file ends that has not begun".into()))?;
        let (size, digest) = (open.size, open.hasher.finish());
        if (size, digest) != (open.expected.size_bytes, open.expected.sha256) {
            if let To::Source { feed, mut preparing } = open.to {
                drop(feed);
                // It fails for want of the rest, and takes back what it made.
                let _ = ended(&mut preparing).await;
            }
            let what = format!("{} arrived with other bytes than the manifest's checksum says", open.expected.path);
            return Err(invalid(artifact, format!("{what}: run `prexorctl backup verify`")));
        }
        self.unit.progress.add(size, 1);
        match open.to {
            To::Disk(part) => part.finish(&self.unit.staged(&open.expected)).await,
            To::Source { feed, mut preparing } => {
                let read = feed.verified().await;
                ended(&mut preparing).await?;
                read.map_err(|NotRead| not_read(artifact))?;
                self.unit.set_arriving(true).map_err(|e| write_error(self.unit.dir(), &e))
            }
        }
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
        if let Some(missing) = self.unit.files().into_iter().find(|f| !self.unit.is_whole(f)) {
            return Err(invalid(artifact, format!("{} was not sent", missing.path)));
        }
        // The names too must survive a power cut before the unit counts as staged.
        let (top, mut dirs) = (self.unit.dir().to_owned(), BTreeSet::new());
        for file in self.unit.files().into_iter().filter(|f| self.unit.staged(f).exists()) {
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

async fn ended(preparing: &mut JoinHandle<Result<(), SourceError>>) -> Result<(), SourceError> {
    preparing.await.unwrap_or_else(|e| Err(SourceError::Failed(format!("the restore ended abnormally: {e}"))))
}

fn not_read(artifact: &Artifact) -> SourceError {
    SourceError::Failed(format!("artifact {}: nobody read it to its end", artifact.id))
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
