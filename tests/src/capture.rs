//! Drives an agent's source without an agent: a capture drained into a directory, and a restore unit staged from it.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use prexor_agent::{
    restore_unit::RestoreUnit,
    sink::{ArtifactSink, Frame},
    source::{Captured, Source, SourceError},
};
use prexor_format::{
    id::NodeName,
    manifest::{Artifact, StoredFile},
    selection::Selection,
};
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

/// Captures `source` into `dir`, laid out as in a store, and returns the artifact's entry in a manifest.
///
/// # Errors
/// What the source says; [`SourceError::Failed`] when `dir` cannot be written.
pub async fn to_directory(source: &dyn Source, node: &NodeName, dir: &Path) -> Result<Artifact, SourceError> {
    let (sink, frames, _) = ArtifactSink::new();
    let (captured, files) = tokio::join!(source.capture(sink, CancellationToken::new()), drain(frames, dir));
    let files = files.map_err(|e| SourceError::Failed(format!("{}: {e}", dir.display())))?;
    Ok(artifact(source, node, captured?, files))
}

/// Writes the files of a capture below `dir` until its sink is gone; returns those that were finished.
///
/// # Errors
/// When they cannot be written.
pub async fn drain(mut frames: Receiver<Frame>, dir: &Path) -> io::Result<Vec<StoredFile>> {
    let (mut open, mut stored) = (HashMap::new(), Vec::new());
    while let Some(frame) = frames.recv().await {
        match frame {
            Frame::Begin { file, path } => {
                let path = dir.join(path);
                fs::create_dir_all(path.parent().unwrap_or(dir))?;
                let created = File::create_new(&path);
                let created = created.map_err(|e| io::Error::other(format!("{}: {e}", path.display())))?;
                open.insert(file, (created, path));
            }
            Frame::Chunk { file, data } => {
                let (writer, _) =
                    open.get_mut(&file).ok_or_else(|| io::Error::other("a chunk of a file that is not open"))?;
                writer.write_all(&data)?;
            }
            Frame::End { file, stored: done } => {
                open.remove(&file);
                stored.push(done);
            }
            Frame::Restart => {
                let paths = stored.drain(..).map(|file: StoredFile| dir.join(file.path));
                for path in paths.chain(open.drain().map(|(_, (_, path))| path)) {
                    fs::remove_file(path)?;
                }
            }
        }
    }
    Ok(stored)
}

/// What a manifest says about this capture. The times are those of now.
pub fn artifact(source: &dyn Source, node: &NodeName, captured: Captured, files: Vec<StoredFile>) -> Artifact {
    let now = jiff::Timestamp::now();
    Artifact {
        id: format!("{}-{node}", source.kind()),
        kind: source.kind(),
        node: node.clone(),
        path: captured.path,
        format: captured.format.to_owned(),
        started_at: now,
        completed_at: now,
        size_bytes: files.iter().map(|f| f.size_bytes).sum(),
        files,
        contents: captured.contents,
        warnings: captured.warnings,
    }
}

/// A restore unit in `state`, with the artifact's files of `backup` staged in it.
///
/// # Errors
/// When they cannot be copied.
pub fn stage(state: &Path, job_id: &str, artifact: &Artifact, backup: &Path) -> io::Result<RestoreUnit> {
    stage_part(state, job_id, artifact, backup, &Selection::default())
}

/// As [`stage`], for a restore of a part.
///
/// # Errors
/// When the files cannot be copied.
pub fn stage_part(
    state: &Path,
    job_id: &str,
    artifact: &Artifact,
    backup: &Path,
    selection: &Selection,
) -> io::Result<RestoreUnit> {
    let unit = RestoreUnit::create(&state.join(job_id).join(&artifact.id), job_id, artifact, selection)?;
    for file in unit.files() {
        let staged = unit.staged(file);
        fs::create_dir_all(staged.parent().unwrap_or(state))?;
        fs::copy(backup.join(&file.path), staged)?;
    }
    Ok(unit)
}
