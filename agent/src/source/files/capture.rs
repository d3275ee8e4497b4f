//! Streams a live tree into a tar.gz. Whatever the tree does meanwhile, the tar stays whole and the capture goes on:
//! a file is cut or padded to the size that was announced, and named in a note.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use prexor_format::{
    gzip::GzipWriter,
    id::NodeName,
    manifest::{Contents, Controller, FileNote, FilesContents},
    tree::{Entry, EntryKind, Extent, TreePath, TreeWriter},
};
use tokio_util::sync::CancellationToken;

use super::{
    holes, os, owners, platform_ca,
    policy::Rules,
    walk::{Found, Walk},
};
use crate::{
    discover::discover,
    sink::{ArtifactSink, FileWriter},
    source::{Captured, SourceError},
};

/// Notes that the manifest lists; the rest is counted.
const MAX_NOTES: usize = 1000;

/// Paths that a warning names.
const NAMED: usize = 5;

const CHUNK: usize = 256 << 10;

/// Counting the entries of a tree beforehand may take this long.
const GLANCE: Duration = Duration::from_secs(5);

/// Captures the tree at `root`. Blocking.
pub(super) fn capture(
    node: &NodeName,
    root: &Path,
    rules: &Rules,
    known: Option<Controller>,
    sink: &ArtifactSink,
    cancel: &CancellationToken,
) -> Result<Captured, SourceError> {
    let real = readable_root(root)?;
    if let Some((_, bytes)) = glance(&real, rules, cancel) {
        sink.progress().set_total_bytes(bytes);
    }
    let path = format!("filesystem/{node}/etc-prexorcloud.tar.gz");
    let gone = |e: io::Error| match e.kind() {
        io::ErrorKind::BrokenPipe => SourceError::Cancelled,
        _ => SourceError::Failed(format!("writing the tar of {}: {e}", root.display())),
    };
    let file = sink.create(&path).map_err(gone)?;
    let mut job = Job {
        sink,
        cancel,
        tar: TreeWriter::with_owners(GzipWriter::new(file), owners::read()),
        notes: Notes::default(),
        buf: vec![0; CHUNK],
    };
    let walk = Walk::new(&real, rules).map_err(|e| unreadable(root, &e))?;
    for found in walk {
        if cancel.is_cancelled() {
            return Err(SourceError::Cancelled);
        }
        match found {
            Found::Note { path, note } => job.notes.add(&path, note),
            Found::Entry { entry, file } => job.entry(&entry, file).map_err(gone)?,
        }
    }
    if cancel.is_cancelled() {
        return Err(SourceError::Cancelled);
    }
    let Job { tar, mut notes, .. } = job;
    let (gzip, totals) = tar.finish().map_err(gone)?;
    gzip.finish().and_then(FileWriter::finish).map_err(gone)?;

    // The files name the controller, but not its version.
    let version = known.as_ref().and_then(|c| c.version.clone());
    let mut jwt_secret_mark = None;
    let controller = match discover(&[&real]) {
        Ok(Some(found)) => {
            jwt_secret_mark.clone_from(&found.jwt_secret);
            Some(found.controller())
        }
        Ok(None) => known,
        Err(e) => {
            notes.warnings.push(format!("the controller is named as it was last known: {e}"));
            known
        }
    };
    let warnings = notes.warnings();
    let contents = Contents::Filesystem(FilesContents {
        root: root.display().to_string(),
        controller: controller.map(|c| Controller { root: root.display().to_string(), version, ..c }),
        entries: totals.entries,
        files: totals.files,
        bytes: totals.bytes,
        excluded: rules.patterns().iter().map(ToString::to_string).collect(),
        notes: notes.list,
        platform_ca: platform_ca::fingerprints(&real),
        jwt_secret_mark,
        content: totals.content,
    });
    Ok(Captured { contents, path, format: "tar+gzip", warnings })
}

/// The root with no symbolic link left in its path; an error when it cannot be captured.
pub(super) fn readable_root(root: &Path) -> Result<PathBuf, SourceError> {
    let real = root.canonicalize().map_err(|e| unreadable(root, &e))?;
    os::open_dir_path(&real).and_then(|dir| Ok(os::names(&dir)?)).map_err(|e| unreadable(root, &e))?;
    Ok(real)
}

fn unreadable(root: &Path, e: &io::Error) -> SourceError {
    let root = root.display();
    match e.kind() {
        io::ErrorKind::NotFound => SourceError::Unavailable(format!(
            "{root} does not exist: set filesystem.root in agent.yml to the controller's root directory"
        )),
        io::ErrorKind::PermissionDenied => SourceError::Denied(format!(
            "{root} cannot be read by prexor-agent: run it as root, or with CAP_DAC_READ_SEARCH"
        )),
        _ => SourceError::Unavailable(format!("{root} cannot be read: {e}")),
    }
}

/// Entries and bytes of the tree's files; `None` when counting takes too long.
pub(super) fn glance(root: &Path, rules: &Rules, cancel: &CancellationToken) -> Option<(u64, u64)> {
    let (mut entries, mut bytes, begin) = (0, 0, Instant::now());
    for found in Walk::glance(root, rules).ok()? {
        if begin.elapsed() > GLANCE || cancel.is_cancelled() {
            return None;
        }
        if let Found::Entry { entry, .. } = found {
            entries += 1;
            if let EntryKind::File { size } = entry.kind {
                bytes += size;
            }
        }
    }
    Some((entries, bytes))
}

struct Job<'a> {
    sink: &'a ArtifactSink,
    cancel: &'a CancellationToken,
    tar: TreeWriter<GzipWriter<FileWriter>>,
    notes: Notes,
    buf: Vec<u8>,
}

impl Job<'_> {
    fn entry(&mut self, entry: &Entry, file: Option<File>) -> io::Result<()> {
        self.sink.progress().set_subject(entry.path.display());
        match (&entry.kind, file) {
            (EntryKind::File { size }, Some(file)) => self.file(entry, *size, file)?,
            _ => self.tar.entry(entry)?,
        }
        self.sink.progress().add(0, 1);
        Ok(())
    }

    /// A file of exactly `size` bytes, whatever it holds by now. Its holes are those it had a moment ago.
    fn file(&mut self, entry: &Entry, size: u64, mut file: File) -> io::Result<()> {
        let mut extents = vec![Extent { offset: 0, len: size }];
        if let Some(map) = holes::map(&file, size) {
            self.sink.progress().add(size - map.data(), 0);
            extents = map.extents().to_vec();
            self.tar.sparse(entry, map)?;
        } else {
            self.tar.entry(entry)?;
        }
        let mut padding = false;
        for extent in extents {
            padding = self.data(entry, extent, &mut file, padding)?;
        }
        if padding {
            return Ok(());
        }
        match rustix::fs::fstat(&file) {
            Ok(now) if u64::try_from(now.st_size).is_ok_and(|s| s > size) => {
                self.notes.add(&entry.path, "grew while it was read: cut");
            }
            Ok(now) if os::mtime(&now) != entry.attributes.mtime => {
                self.notes.add(&entry.path, "changed while it was read");
            }
            _ => {}
        }
        Ok(())
    }

    /// Exactly the bytes of an extent, zeros when there are no more; then `true`, as it was handed over when there were
    /// none before.
    fn data(&mut self, entry: &Entry, extent: Extent, file: &mut File, mut padding: bool) -> io::Result<bool> {
        // Fails only for what cannot be read either.
        let _ = file.seek(SeekFrom::Start(extent.offset));
        let mut left = extent.len;
        while left > 0 {
            if self.cancel.is_cancelled() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let n = match if padding { Ok(0) } else { file.read(&mut self.buf[..want]) } {
                Ok(0) => {
                    if !padding {
                        self.notes.add(&entry.path, "shrank while it was read: padded with zeros");
                        padding = true;
                    }
                    self.buf[..want].fill(0);
                    want
                }
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    self.notes.add(&entry.path, format!("could not be read on ({e}): padded with zeros"));
                    padding = true;
                    continue;
                }
            };
            self.tar.data(&self.buf[..n])?;
            self.sink.progress().add(n as u64, 0);
            left -= n as u64;
        }
        Ok(padding)
    }
}

/// What happened to which path, and the same for people in a few lines.
#[derive(Debug, Default)]
struct Notes {
    list: Vec<FileNote>,
    left_out: u64,
    kinds: BTreeMap<String, (u64, Vec<String>)>,
    warnings: Vec<String>,
}

impl Notes {
    fn add(&mut self, path: &TreePath, note: impl Into<String>) {
        let note = note.into();
        // Sockets are made anew by whoever serves on them: no reason to warn.
        if note != "socket skipped" {
            let (count, named) = self.kinds.entry(note.clone()).or_default();
            *count += 1;
            if named.len() < NAMED {
                named.push(path.display().into_owned());
            }
        }
        if self.list.len() < MAX_NOTES {
            self.list.push(FileNote { path: path.display().into_owned(), note });
        } else {
            self.left_out += 1;
        }
    }

    fn warnings(&mut self) -> Vec<String> {
        let mut out = std::mem::take(&mut self.warnings);
        for (note, (count, named)) in &self.kinds {
            let more = count - named.len() as u64;
            let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
            out.push(format!("{note}: {}{rest}", named.join(", ")));
        }
        if self.left_out > 0 {
            out.push(format!("{} further notes about single files are not listed", self.left_out));
        }
        out
    }
}
