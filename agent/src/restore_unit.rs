//! One artifact of one restore job on this host: its staged files, its phase, and what its source noted.
//!
//! Everything is in one directory, `<state>/restores/<job>/<artifact>/`, and written durably (write, fsync, rename,
//! fsync of the directory), so that a restarted agent goes on where it stopped.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use prexor_format::{
    manifest::{Artifact, StoredFile},
    selection::Selection,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::sink::Progress;

/// Whether the file that its source uses while it arrives came whole.
const ARRIVING: &str = "arriving";

/// How far a unit has come. The `-ing` phases say that a verb was begun and may be half done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the verbs of the agent's API")]
pub enum Phase {
    Staging,
    Staged,
    Preparing,
    Prepared,
    Swapping,
    Swapped,
    Reverting,
    Reverted,
    Committing,
    Committed,
}

/// See the module's text.
#[derive(Debug, Clone)]
pub struct RestoreUnit {
    dir: PathBuf,
    /// The restore job.
    pub job_id: String,
    /// The artifact's entry in the manifest.
    pub artifact: Artifact,
    /// Which part of it is restored.
    pub selection: Selection,
    /// The figures that people watch.
    pub progress: Arc<Progress>,
}

impl RestoreUnit {
    /// The unit whose directory is `dir`, made (mode 0700) if it is not there.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn create(dir: &Path, job_id: &str, artifact: &Artifact, selection: &Selection) -> io::Result<Self> {
        fs::create_dir_all(dir.join("staged"))?;
        let unit = Self {
            dir: dir.to_owned(),
            job_id: job_id.to_owned(),
            artifact: artifact.clone(),
            selection: selection.clone(),
            progress: Arc::default(),
        };
        // The one whose presence makes the unit comes last.
        unit.save_note("selection", selection)?;
        unit.save_note("artifact", artifact)?;
        Ok(unit)
    }

    /// The unit that an earlier [`RestoreUnit::create`] made, or `None`.
    ///
    /// # Errors
    /// When what is there cannot be read.
    pub fn open(dir: &Path, job_id: &str) -> io::Result<Option<Self>> {
        let Some(artifact) = read_note(dir, "artifact")? else { return Ok(None) };
        let selection = read_note(dir, "selection")?.unwrap_or_default();
        let (dir, job_id) = (dir.to_owned(), job_id.to_owned());
        Ok(Some(Self { dir, job_id, artifact, selection, progress: Arc::default() }))
    }

    /// The unit's own directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a staged file lies.
    pub fn staged(&self, file: &StoredFile) -> PathBuf {
        self.staged_path(&file.path)
    }

    /// The files that are staged: those that the selection needs.
    pub fn files(&self) -> Vec<&StoredFile> {
        self.selection.files(&self.artifact)
    }

    /// Records, durably, that its source uses the file while it arrives ([`crate::source::Source::prepare_arriving`]):
    /// from now on there may be something to revert. `whole` says that it is through with it.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn set_arriving(&self, whole: bool) -> io::Result<()> {
        self.save_note(ARRIVING, &whole)
    }

    /// Whether its source used the file while it arrived, be it in part.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn is_arriving(&self) -> io::Result<bool> {
        Ok(self.load_note::<bool>(ARRIVING)?.is_some())
    }

    /// Whether this file came whole: it has its name only after its digest was compared, or its source is through with
    /// it.
    pub fn is_whole(&self, file: &StoredFile) -> bool {
        self.load_note(ARRIVING).is_ok_and(|whole| whole == Some(true))
            || fs::metadata(self.staged(file)).is_ok_and(|m| m.len() == file.size_bytes)
    }

    /// Where the staged file with this path (relative to the backup's directory) lies.
    pub fn staged_path(&self, path: &str) -> PathBuf {
        self.dir.join("staged").join(path)
    }

    /// How far the unit has come.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn phase(&self) -> io::Result<Phase> {
        Ok(self.load_note("phase")?.unwrap_or(Phase::Staging))
    }

    /// Records how far the unit has come, durably.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn set_phase(&self, phase: Phase) -> io::Result<()> {
        self.save_note("phase", &phase)
    }

    /// Keeps what a source must know after a crash, durably, under a name of its own.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_note<T: Serialize + ?Sized>(&self, name: &str, note: &T) -> io::Result<()> {
        write_durably(&self.dir.join(format!("{name}.json")), &serde_json::to_vec(note)?)
    }

    /// What [`RestoreUnit::save_note`] kept.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn load_note<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        read_note(&self.dir, name)
    }

    /// Keeps, durably, what people must know of this restore beside its outcome, one line each.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn tell(&self, lines: &[String]) -> io::Result<()> {
        self.save_note("told", lines)
    }

    /// What [`RestoreUnit::tell`] kept.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn told(&self) -> io::Result<Vec<String>> {
        Ok(self.load_note("told")?.unwrap_or_default())
    }

    /// Removes the staged files and every note but the phase and the manifest's entry, which answer later probes.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn discard_staged(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            match path.file_name().and_then(|n| n.to_str()) {
                Some("phase.json" | "artifact.json" | "selection.json") => {}
                Some("staged") => fs::remove_dir_all(&path)?,
                _ => fs::remove_file(&path)?,
            }
        }
        Ok(())
    }
}

fn read_note<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<Option<T>> {
    match fs::read(dir.join(format!("{name}.json"))) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes a file so that after a crash either the old or the whole new content is there.
///
/// # Errors
/// When it cannot be written.
pub fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::other("a file without a directory"))?;
    let mut tmp = tempfile::NamedTempFile::new_in(dir)?;
    io::Write::write_all(&mut tmp, content)?;
    tmp.as_file().sync_all()?;
    tmp.persist(path)?;
    fs::File::open(dir)?.sync_all()
}
