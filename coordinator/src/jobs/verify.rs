//! Verifies a backup without restoring it: every file is read once, and what is read is hashed and walked by the same
//! readers that a restore uses (law L23).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use prexor_format::{
    artifact::ArtifactKind,
    id::BackupId,
    manifest::{Artifact, CHECKSUMS_FILE, MANIFEST_FILE, Manifest},
};
use prexor_proto::{
    backup::{Check, JobResult, VerifyReport, job_result},
    reason::Reason,
};

use super::{JobHandle, Outcome};
use crate::{backups, context::Context, error::Error};

mod contents;
mod reader;

use contents::Read;

/// The names of the checks, as the guide shows them.
const CHECKSUMS: &str = "checksums";
const SCHEMA: &str = "manifest schema";
const MONGO: &str = "mongo dump bson";
const VALKEY: &str = "valkey rdb";
const FILES: &str = "filesystem tar";

/// Artifacts that are read at once.
const ARTIFACTS_AT_ONCE: usize = 2;

/// Problems that are listed of one check: enough to see what happened.
const MAX_PROBLEMS: usize = 100;

/// Verifies a backup. One that is damaged gives both a report and an error.
pub(super) async fn run(ctx: &Arc<Context>, job: &JobHandle, id: &BackupId) -> Outcome {
    let report = tokio::select! {
        report = report(ctx, job, id) => report,
        () = job.cancel().cancelled() => Err(Error::cancelled()),
    };
    let report = match report {
        Ok(report) => report,
        Err(e) => return Err(e).into(),
    };
    let problems = || report.checks.iter().flat_map(|c| &c.problems);
    let error = problems().next().map(|first| {
        let more = match problems().count() - 1 {
            0 => String::new(),
            n => format!(" (and {n} more)"),
        };
        Error::new(Reason::Damaged, format!("{id} is damaged: {first}{more}"))
    });
    if error.is_none()
        && let Err(e) = ctx.catalog.set_verified(id, Timestamp::now()).await
    {
        return Err(e).into();
    }
    let result = Some(JobResult { result: Some(job_result::Result::Verify(report)) });
    Outcome { result, error, is_paused: false }
}

async fn report(ctx: &Arc<Context>, job: &JobHandle, id: &BackupId) -> Result<VerifyReport, Error> {
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
    let mut checksums = listing(ctx, id, &manifest).await?;
    let reads = manifest.artifacts.iter().map(|artifact| contents::read(ctx, job, id, artifact.clone()));
    let reads: Vec<Read> = stream::iter(reads.collect::<Vec<_>>()).buffered(ARTIFACTS_AT_ONCE).try_collect().await?;
    for (artifact, read) in manifest.artifacts.iter().zip(&reads) {
        checksums.extend(compare(artifact, read));
    }
    let mut checks = vec![check(CHECKSUMS, "", checksums), check(SCHEMA, "", Vec::new())];
    for (name, kind) in
        [(MONGO, ArtifactKind::Mongo), (VALKEY, ArtifactKind::Valkey), (FILES, ArtifactKind::Filesystem)]
    {
        let of_kind: Vec<&Read> =
            manifest.artifacts.iter().zip(&reads).filter(|(a, _)| a.kind == kind).map(|(_, r)| r).collect();
        if !of_kind.is_empty() {
            let details: Vec<&str> = of_kind.iter().map(|r| r.detail.as_str()).filter(|d| !d.is_empty()).collect();
            let problems = of_kind.iter().flat_map(|r| r.problems.clone()).collect();
            let notes = of_kind.iter().flat_map(|r| r.notes.clone()).collect();
            checks.push(Check { notes, ..check(name, &details.join("; "), problems) });
        }
    }
    Ok(VerifyReport { ok: checks.iter().all(|c| c.ok), checks })
}

/// What the backup's directory holds against what the manifest lists, and `SHA256SUMS` against the manifest.
async fn listing(ctx: &Context, id: &BackupId, manifest: &Manifest) -> Result<Vec<String>, Error> {
    let mut problems = Vec::new();
    match ctx.store.read(id, CHECKSUMS_FILE).await {
        Ok(sums) if sums == manifest.checksums() => {}
        Ok(_) => problems.push(named(CHECKSUMS_FILE, "does not say what the manifest says")),
        Err(e) if e.reason == Reason::NotFound => problems.push(named(CHECKSUMS_FILE, "is missing")),
        Err(e) => return Err(e),
    }
    let listed: BTreeSet<&str> = manifest.artifacts.iter().flat_map(|a| &a.files).map(|f| f.path.as_str()).collect();
    for found in ctx.store.files(id).await? {
        let ours = [MANIFEST_FILE, CHECKSUMS_FILE].contains(&found.path.as_str());
        if !ours && !listed.contains(found.path.as_str()) {
            problems.push(named(&found.path, "is not in the manifest"));
        } else if !found.regular {
            problems.push(named(&found.path, "is not a plain file"));
        }
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
