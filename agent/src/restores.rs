//! The restore units of this host: where they are, and which verb is allowed in which phase.
//!
//! The phase is written before a verb begins and after it has ended, so a restarted agent knows what is in doubt; the
//! sources' verbs finish what was begun. Knows nothing of RPCs.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use prexor_format::{manifest::Artifact, selection::Selection};
use tokio::sync::OwnedMutexGuard;

use crate::{
    restore_unit::{Phase, RestoreUnit},
    source::{Source, SourceError},
};

/// How long the record of a finished unit answers probes.
const KEEP_FINISHED: Duration = Duration::from_secs(30 * 24 * 3600);

/// What the coordinator may ask of a unit once it is staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the verbs of the agent's API")]
pub enum Verb {
    Prepare,
    Swap,
    Check,
    Revert,
    Commit,
}

/// What a verb came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out.
    Done,
    /// Its effect was there already.
    AlreadyDone,
    /// [`Verb::Check`]: what differs from the manifest; empty when equal.
    Compared(Vec<String>),
}

/// All units of this host.
#[derive(Debug)]
pub struct Restores {
    dir: PathBuf,
    busy: Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>,
}

impl Restores {
    /// The units under `<state_dir>/restores`. Records of units that ended long ago are removed.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let dir = state_dir.join("restores");
        fs::create_dir_all(&dir)?;
        for job in fs::read_dir(&dir)? {
            let job = job?.path();
            if let Err(error) = remove_if_long_finished(&job) {
                tracing::warn!(path = %job.display(), %error, "an old restore's record cannot be looked at");
            }
        }
        Ok(Self { dir, busy: Mutex::default() })
    }

    /// Waits until nobody else works on the unit and keeps it so until the guard is dropped. Two calls for one unit, such
    /// as a repeated one after a lost connection, come one after the other.
    pub async fn lock(&self, job_id: &str, artifact_id: &str) -> Result<OwnedMutexGuard<()>, SourceError> {
        let dir = self.unit_dir(job_id, artifact_id)?;
        let lock = self.busy.lock().unwrap_or_else(PoisonError::into_inner).entry(dir).or_default().clone();
        Ok(lock.lock_owned().await)
    }

    /// Makes the unit, or opens it when it is there already.
    pub fn create(&self, job_id: &str, artifact: &Artifact, selection: &Selection) -> Result<RestoreUnit, SourceError> {
        let dir = self.unit_dir(job_id, &artifact.id)?;
        match RestoreUnit::open(&dir, job_id).map_err(|e| record_error(&dir, &e))? {
            Some(unit) if unit.artifact == *artifact && unit.selection == *selection => Ok(unit),
            Some(_) => Err(SourceError::Invalid(format!("{job_id} has another artifact {} staged here", artifact.id))),
            None => RestoreUnit::create(&dir, job_id, artifact, selection).map_err(|e| record_error(&dir, &e)),
        }
    }

    /// The unit, if it was ever staged here.
    pub fn find(&self, job_id: &str, artifact_id: &str) -> Result<Option<RestoreUnit>, SourceError> {
        let dir = self.unit_dir(job_id, artifact_id)?;
        RestoreUnit::open(&dir, job_id).map_err(|e| record_error(&dir, &e))
    }

    /// The units that are neither committed nor reverted, one line each, for people.
    pub fn unfinished(&self) -> Vec<String> {
        let jobs = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let units =
            jobs.flat_map(|job| fs::read_dir(job.path()).into_iter().flatten().flatten().map(move |u| (job.path(), u)));
        let mut lines: Vec<String> = units
            .filter_map(|(job, unit)| {
                let job_id = job.file_name()?.to_string_lossy().into_owned();
                let phase = RestoreUnit::open(&unit.path(), &job_id).ok()??.phase().ok()?;
                let artifact = unit.file_name();
                (!matches!(phase, Phase::Reverted | Phase::Committed)).then(|| {
                    format!(
                        "the restore of {} by {job_id} is not finished here ({}): the coordinator finishes it or takes \
                         it back",
                        artifact.to_string_lossy(),
                        format!("{phase:?}").to_lowercase()
                    )
                })
            })
            .collect();
        lines.sort();
        lines
    }

    fn unit_dir(&self, job_id: &str, artifact_id: &str) -> Result<PathBuf, SourceError> {
        let safe = |s: &str| {
            !s.is_empty()
                && s.len() <= 128
                && !s.starts_with('.')
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if safe(job_id) && safe(artifact_id) {
            Ok(self.dir.join(job_id).join(artifact_id))
        } else {
            Err(SourceError::Invalid(format!("'{job_id}' and '{artifact_id}' cannot name a job and an artifact")))
        }
    }
}

/// Carries out a verb, unless its effect is there already or the unit's phase forbids it.
///
/// # Errors
/// What the source says, and [`SourceError::Invalid`] when the phase forbids the verb.
pub async fn carry_out(verb: Verb, unit: &RestoreUnit, source: &dyn Source) -> Result<Outcome, SourceError> {
    use Phase::*;
    let phase = unit.phase().map_err(|e| record_error(unit.dir(), &e))?;
    let enter = |p| unit.set_phase(p).map_err(|e| record_error(unit.dir(), &e));
    match (verb, phase) {
        (Verb::Prepare, Staged | Preparing) => {
            enter(Preparing)?;
            source.prepare(unit).await?;
            enter(Prepared)?;
        }
        (Verb::Prepare, Prepared | Swapping | Swapped) => return Ok(Outcome::AlreadyDone),
        (Verb::Swap, Prepared | Swapping) => {
            enter(Swapping)?;
            source.swap(unit).await?;
            enter(Swapped)?;
        }
        (Verb::Swap, Swapped | Committing | Committed) => return Ok(Outcome::AlreadyDone),
        (Verb::Check, Swapped) => return source.check(unit).await.map(Outcome::Compared),
        (Verb::Revert, Staging | Staged) if !unit.is_arriving().map_err(|e| record_error(unit.dir(), &e))? => {
            end(unit, Reverted).await?;
        }
        (Verb::Revert, Staging | Staged | Preparing | Prepared | Swapping | Swapped | Reverting) => {
            enter(Reverting)?;
            source.revert(unit).await?;
            end(unit, Reverted).await?;
        }
        (Verb::Revert, Reverted) | (Verb::Commit, Committed) => {
            // A crash may have come between the phase and the removal.
            end(unit, phase).await?;
            return Ok(Outcome::AlreadyDone);
        }
        (Verb::Commit, Swapped | Committing) => {
            enter(Committing)?;
            source.commit(unit).await?;
            end(unit, Committed).await?;
        }
        (verb, phase) => {
            let what = format!("{} of {} is {phase:?}, it cannot {verb:?} now", unit.artifact.id, unit.job_id);
            return Err(SourceError::Invalid(what));
        }
    }
    Ok(Outcome::Done)
}

/// Records the last phase and removes what is no longer needed: staged files and notes (they hold connection strings).
async fn end(unit: &RestoreUnit, phase: Phase) -> Result<(), SourceError> {
    let ending = unit.clone();
    let ended =
        tokio::task::spawn_blocking(move || ending.set_phase(phase).and_then(|()| ending.discard_staged())).await;
    ended.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(|e| record_error(unit.dir(), &e))
}

fn record_error(dir: &Path, e: &io::Error) -> SourceError {
    match e.kind() {
        io::ErrorKind::StorageFull => SourceError::NoSpace(format!("{}: the agent's disk is full", dir.display())),
        _ => SourceError::Failed(format!("the agent's record in {} cannot be kept: {e}", dir.display())),
    }
}

fn remove_if_long_finished(job: &Path) -> io::Result<()> {
    for unit in fs::read_dir(job)? {
        let unit = unit?.path();
        let finished = RestoreUnit::open(&unit, "")?
            .map(|u| u.phase())
            .transpose()?
            .is_some_and(|p| matches!(p, Phase::Reverted | Phase::Committed));
        let modified = fs::metadata(&unit)?.modified()?;
        if !finished || SystemTime::now().duration_since(modified).unwrap_or_default() < KEEP_FINISHED {
            return Ok(());
        }
    }
    fs::remove_dir_all(job)
}
