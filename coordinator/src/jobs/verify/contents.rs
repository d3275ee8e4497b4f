//! Reads one artifact: every file once, with the reader of its format.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader},
    sync::Arc,
};

use prexor_format::{
    gzip,
    id::BackupId,
    manifest::{Artifact, Contents, FilesContents, MongoContents, ValkeyContents},
    mongodump, rdb, text, tree,
};
use tokio::runtime::Handle;

use super::{
    named,
    reader::{FileOutcome, Ledger, Opener},
};
use crate::{context::Context, error::Error, jobs::JobHandle};

/// What was found in an artifact.
pub(super) struct Read {
    /// In words, for a check that passed.
    pub(super) detail: String,
    /// Each names its file.
    pub(super) problems: Vec<String>,
    /// More of what was found, in words.
    pub(super) notes: Vec<String>,
    /// What was read of every file.
    pub(super) files: BTreeMap<String, FileOutcome>,
}

/// Reads an artifact on a blocking thread.
pub(super) async fn read(
    ctx: &Arc<Context>,
    job: &JobHandle,
    id: &BackupId,
    artifact: Artifact,
) -> Result<Read, Error> {
    let ledger = Arc::new(Ledger::new(&artifact.id, artifact.size_bytes));
    let opener = Opener {
        store: ctx.store.clone(),
        job: job.clone(),
        id: id.clone(),
        runtime: Handle::current(),
        ledger: ledger.clone(),
    };
    let read = tokio::task::spawn_blocking(move || {
        let mut notes = Vec::new();
        let (detail, problems) = match &artifact.contents {
            Contents::Mongo(contents) => dump(&opener, contents),
            Contents::Valkey(contents) => snapshot(&opener, &artifact.path, contents, &mut notes),
            Contents::Filesystem(contents) => archive(&opener, &artifact.path, contents),
        };
        // What no reader asked for counts in the checksums too.
        for file in &artifact.files {
            if !ledger.has(&file.path) {
                drop(opener.open(&file.path));
            }
        }
        Read { detail, problems, notes, files: ledger.take() }
    });
    let read = read.await.map_err(|_| Error::internal("a reader hit a defect: see the log"))?;
    job.check_cancelled().map(|()| read)
}

fn dump(opener: &Opener, contents: &MongoContents) -> (String, Vec<String>) {
    let report = mongodump::verify_dump(contents, |path| opener.open(path));
    let detail = format!("{}, {} docs", text::things(report.collections, "collection"), text::count(report.documents));
    (detail, report.problems.iter().map(|p| named(&p.path, &p.what)).collect())
}

fn snapshot(opener: &Opener, path: &str, contents: &ValkeyContents, notes: &mut Vec<String>) -> (String, Vec<String>) {
    let (summary, end) = match opener.open(path).map(rdb::survey) {
        Ok(Ok(found)) => found,
        Ok(Err(e)) => return (String::new(), vec![named(path, &e.to_string())]),
        Err(e) => return (String::new(), vec![named(path, &e.to_string())]),
    };
    if let Err(e) = end {
        let sound = text::things(summary.keys, "key");
        return (String::new(), vec![named(path, &format!("{e}; {sound} could be read before that"))]);
    }
    notes.extend(summary.lines());
    let mut problems = Vec::new();
    for (what, found, expected) in [
        ("RDB version", u64::from(summary.version), u64::from(contents.rdb_version)),
        ("number of keys", summary.keys, contents.keys),
        ("number of expiring keys", summary.expiring_keys, contents.expiring_keys),
    ] {
        if found != expected {
            problems.push(named(path, &format!("its {what} is {found}, the manifest says {expected}")));
        }
    }
    let families = |families: &[prexor_format::manifest::KeyFamily]| {
        families.iter().map(|f| (f.name.clone(), (f.keys, f.content.sha256.0))).collect::<BTreeMap<_, _>>()
    };
    let (found, expected) = (families(&summary.families), families(&contents.families));
    for name in found.keys().chain(expected.keys()).collect::<std::collections::BTreeSet<_>>() {
        if found.get(name) != expected.get(name) {
            let name = if name.is_empty() { "(others)" } else { name };
            problems
                .push(named(path, &format!("the keys {name} are not those that the manifest's digest was taken of")));
        }
    }
    (format!("preamble version {}", summary.version), problems)
}

fn archive(opener: &Opener, path: &str, contents: &FilesContents) -> (String, Vec<String>) {
    let walk = || {
        let mut tar = BufReader::new(gzip::reader(opener.open(path)?));
        let summary = tree::verify_tar(&mut tar).map_err(io::Error::other)?;
        // After the end of the archive only its padding may come; reading it checks the last checksum of gzip's.
        while let n @ 1.. = tar.fill_buf()?.len() {
            if tar.buffer().iter().any(|b| *b != 0) {
                return Err(io::Error::other("something follows the end of the archive"));
            }
            tar.consume(n);
        }
        Ok(summary)
    };
    match walk() {
        Ok(summary) => (String::new(), summary.differences(contents).iter().map(|d| named(path, d)).collect()),
        Err(e) => (String::new(), vec![named(path, &e.to_string())]),
    }
}
