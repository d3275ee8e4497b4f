//! Verifies a backup without restoring it: every file is read once, and what is read is hashed and walked by the same
//! readers that a restore uses (law L23).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use prexor_format::{
    artifact::ArtifactKind,
    id::BackupId,
    laws::modules,
    manifest::{Artifact, CHECKSUMS_FILE, MANIFEST_FILE, Manifest},
    marks::{Depth, Mark},
    text,
    tree::MAX_LISTED as MAX_MODULE_JARS,
};
use prexor_proto::{
    backup::{Check, JobResult, VerifyBackupRequest, VerifyReport, job_result},
    convert::depth_from_wire,
    reason::Reason,
};

use super::{JobHandle, Outcome};
use crate::{backups, context::Context, error::Error, prune};

mod contents;
mod reader;
mod sample;

use contents::Read;

/// The names of the checks, as the guide shows them.
const CHECKSUMS: &str = "checksums";
const SCHEMA: &str = "manifest schema";
const MONGO: &str = "mongo dump bson";
const VALKEY: &str = "valkey rdb";
const FILES: &str = "filesystem tar";
const MODULES: &str = "module jars";

/// Artifacts that are read at once.
const ARTIFACTS_AT_ONCE: usize = 2;

/// Problems that are listed of one check: enough to see what happened.
const MAX_PROBLEMS: usize = 100;

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Every file.
    Full,
    /// Every file, and what they say is compared with each other.
    Deep,
    /// Files with at least so many of a hundred bytes; other jobs read other files.
    Sample(u32),
}

impl Reading {
    /// What a request asks for.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn asked(request: &VerifyBackupRequest) -> Result<Self, Error> {
        let depth = depth_from_wire(request.depth).map_err(|e| Error::invalid(e.to_string()))?;
        match (depth.unwrap_or(Depth::Full), request.sample_percent) {
            (Depth::Full, 0) => Ok(Self::Full),
            (Depth::Deep, 0) => Ok(Self::Deep),
            (Depth::Sample, percent @ 1..=100) => Ok(Self::Sample(percent)),
            (Depth::Sample, _) => Err(Error::invalid("a sample has between 1 and 100 percent")),
            (Depth::Full | Depth::Deep, _) => Err(Error::invalid("all of a backup is no sample of it")),
        }
    }

    pub(super) fn depth(self) -> Depth {
        match self {
            Self::Full => Depth::Full,
            Self::Deep => Depth::Deep,
            Self::Sample(_) => Depth::Sample,
        }
    }

    pub(super) fn percent(self) -> u32 {
        if let Self::Sample(percent) = self { percent } else { 0 }
    }
}

/// Verifies a backup. One that is damaged gives both a report and an error.
pub(super) async fn run(ctx: &Arc<Context>, job: &JobHandle, id: &BackupId, reading: Reading) -> Outcome {
    let report = tokio::select! {
        report = report(ctx, job, id, reading) => report,
        () = job.cancel().cancelled() => Err(Error::cancelled()),
    };
    let report = match report {
        Ok(report) => report,
        Err(e) => return Err(e).into(),
    };
    // What never was in the backup cannot be missing from it: it is told, and the backup is as good as it was.
    let damage = first_problem(report.checks.iter().filter(|c| c.name != MODULES));
    let error = match (&damage, first_problem(report.checks.iter())) {
        (Some(what), _) => Some(Error::new(Reason::Damaged, format!("{id} is damaged: {what}"))),
        (None, Some(what)) => Some(Error::new(Reason::Damaged, format!("{id} is not damaged, but {what}"))),
        (None, None) => None,
    };
    if let Err(e) = note(ctx, job, id, reading.depth(), damage).await {
        return Err(e).into();
    }
    let result = Some(JobResult { result: Some(job_result::Result::Verify(report)) });
    Outcome { result, error, is_paused: false }
}

/// What was found stays known.
async fn note(
    ctx: &Arc<Context>,
    job: &JobHandle,
    id: &BackupId,
    depth: Depth,
    damage: Option<String>,
) -> Result<(), Error> {
    backups::note_verified(ctx, id, depth, damage, job.id()).await?;
    prune::watch_upgrades(ctx).await
}

fn first_problem<'c>(checks: impl Iterator<Item = &'c Check> + Clone) -> Option<String> {
    let mut problems = checks.flat_map(|c| &c.problems);
    let first = problems.next()?;
    Some(match problems.count() {
        0 => first.clone(),
        n => format!("{first} (and {n} more)"),
    })
}

async fn report(ctx: &Arc<Context>, job: &JobHandle, id: &BackupId, reading: Reading) -> Result<VerifyReport, Error> {
    let manifest = match backups::manifest(ctx, id).await {
        Ok(manifest) => manifest,
        Err(e) if e.reason == Reason::Damaged => {
            // Without it there is nothing to compare with, and no knowing what the backup holds.
            return Ok(VerifyReport {
                ok: false,
                checks: vec![check(SCHEMA, "", vec![named(MANIFEST_FILE, &e.message)])],
            });
        }
        Err(e) => return Err(e),
    };
    let mut checksums = listing(ctx, id, &manifest, !matches!(reading, Reading::Sample(_))).await?;
    let chosen = match reading {
        Reading::Sample(percent) => {
            Some(Arc::new(sample::sample(manifest.artifacts.iter().flat_map(|a| &a.files), percent, job.id())))
        }
        Reading::Full | Reading::Deep => None,
    };
    let deep = reading == Reading::Deep;
    let reads = manifest.artifacts.iter();
    let reads = reads.map(|artifact| contents::read(ctx, job, id, artifact.clone(), chosen.clone(), deep));
    let reads: Vec<Read> = stream::iter(reads.collect::<Vec<_>>()).buffered(ARTIFACTS_AT_ONCE).try_collect().await?;
    for (artifact, read) in manifest.artifacts.iter().zip(&reads) {
        checksums.extend(compare(artifact, read));
    }
    let read = chosen.as_ref().map(|chosen| in_words(&manifest, chosen)).unwrap_or_default();
    let mut checks = vec![check(CHECKSUMS, &read, checksums), check(SCHEMA, "", Vec::new())];
    for (name, kind) in
        [(MONGO, ArtifactKind::Mongo), (VALKEY, ArtifactKind::Valkey), (FILES, ArtifactKind::Filesystem)]
    {
        let of_kind: Vec<&Read> =
            manifest.artifacts.iter().zip(&reads).filter(|(a, r)| a.kind == kind && r.walked).map(|(_, r)| r).collect();
        if !of_kind.is_empty() {
            let details: Vec<&str> = of_kind.iter().map(|r| r.detail.as_str()).filter(|d| !d.is_empty()).collect();
            let problems = of_kind.iter().flat_map(|r| r.problems.clone()).collect();
            let notes = of_kind.iter().flat_map(|r| r.notes.clone()).collect();
            checks.push(Check { notes, ..check(name, &details.join("; "), problems) });
        }
    }
    if deep {
        checks.extend(module_jars(&manifest, &reads));
    }
    Ok(VerifyReport { ok: checks.iter().all(|c| c.ok), checks })
}

/// Law L20, where a backup holds both what is recorded and the files.
fn module_jars(manifest: &Manifest, reads: &[Read]) -> Option<Check> {
    [ArtifactKind::Mongo, ArtifactKind::Filesystem].iter().all(|k| manifest.scope.contains(k)).then_some(())?;
    let records: Vec<_> = reads.iter().flat_map(|r| r.modules.clone()).collect();
    let jars: BTreeSet<String> = reads.iter().flat_map(|r| r.jars.clone()).collect();
    if jars.len() >= MAX_MODULE_JARS {
        let notes = vec!["there are too many jars to compare them with what is recorded".to_owned()];
        return Some(Check { notes, ..check(MODULES, "not compared", Vec::new()) });
    }
    let detail = text::things(records.len() as u64, "module");
    Some(check(MODULES, &detail, modules::missing(&records, &jars)))
}

/// `sample: 3 of 31 files, 12 MiB of 120 MiB`
fn in_words(manifest: &Manifest, chosen: &BTreeSet<String>) -> String {
    let files = || manifest.artifacts.iter().flat_map(|a| &a.files);
    let bytes = files().filter(|f| chosen.contains(&f.path)).map(|f| f.size_bytes).sum();
    let (some, all) = (text::count(chosen.len() as u64), text::things(files().count() as u64, "file"));
    format!("sample: {some} of {all}, {} of {}", text::bytes(bytes), text::bytes(manifest.size_bytes))
}

/// What the backup's directory holds against what the manifest lists, and `SHA256SUMS` against the manifest. Sizes and what
/// is missing too, where not every file is read.
async fn listing(ctx: &Context, id: &BackupId, manifest: &Manifest, all_is_read: bool) -> Result<Vec<String>, Error> {
    let mut problems = Vec::new();
    match ctx.store.read(id, CHECKSUMS_FILE).await {
        Ok(sums) if sums == manifest.checksums() => {}
        Ok(_) => problems.push(named(CHECKSUMS_FILE, "does not say what the manifest says")),
        Err(e) if e.reason == Reason::NotFound => problems.push(named(CHECKSUMS_FILE, "is missing")),
        Err(e) => return Err(e),
    }
    let mut listed: BTreeMap<&str, u64> =
        manifest.artifacts.iter().flat_map(|a| &a.files).map(|f| (f.path.as_str(), f.size_bytes)).collect();
    for found in ctx.store.files(id).await? {
        let ours = [MANIFEST_FILE, CHECKSUMS_FILE].contains(&found.path.as_str()) || Mark::is_path(&found.path);
        let size = listed.remove(found.path.as_str());
        if !ours && size.is_none() {
            problems.push(named(&found.path, "is not in the manifest"));
        } else if !found.regular {
            problems.push(named(&found.path, "is not a plain file"));
        } else if let Some(size) = size.filter(|size| *size != found.size_bytes && !all_is_read) {
            problems.push(named(&found.path, &format!("has {} bytes, the manifest says {size}", found.size_bytes)));
        }
    }
    if !all_is_read {
        problems.extend(listed.keys().map(|path| named(path, "is missing")));
    }
    Ok(problems)
}

/// What was read of an artifact's files against what the manifest says of them.
fn compare(artifact: &Artifact, read: &Read) -> Vec<String> {
    let found: BTreeMap<&str, _> = read.files.iter().map(|(path, outcome)| (path.as_str(), outcome)).collect();
    let differs = |file: &prexor_format::manifest::StoredFile| match found.get(file.path.as_str())? {
        Err(e) => Some(named(&file.path, e)),
        Ok((size, _)) if *size != file.size_bytes => {
            Some(named(&file.path, &format!("has {size} bytes, the manifest says {}", file.size_bytes)))
        }
        Ok((_, sha256)) if *sha256 != file.sha256 => Some(named(&file.path, "does not have the manifest's SHA-256")),
        Ok(_) => None,
    };
    artifact.files.iter().filter_map(differs).collect()
}

fn named(path: &str, what: &str) -> String {
    format!("{path}: {what}")
}

fn check(name: &str, detail: &str, mut problems: Vec<String>) -> Check {
    let ok = problems.is_empty();
    if problems.len() > MAX_PROBLEMS {
        let more = problems.len() - MAX_PROBLEMS;
        problems.truncate(MAX_PROBLEMS);
        problems.push(format!("and {more} more"));
    }
    let detail = if ok { detail.to_owned() } else { String::new() };
    Check { name: name.to_owned(), ok, detail, problems, notes: Vec::new() }
}
