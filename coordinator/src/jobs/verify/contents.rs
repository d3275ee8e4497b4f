//! Reads one artifact: every file once, with the reader of its format.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead, BufReader},
    sync::Arc,
};

use prexor_format::{
    bson::DocumentReader,
    gzip,
    id::BackupId,
    laws::modules::{self, Record},
    manifest::{Artifact, Collection, Contents, FilesContents, MongoContents, ValkeyContents},
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
    /// Whether any of it was read.
    pub(super) walked: bool,
    /// Modules that a dump records.
    pub(super) modules: Vec<Record>,
    /// Jars of modules that a tar holds.
    pub(super) jars: Vec<String>,
}

/// Reads an artifact on a blocking thread; only these files of it where some are chosen. What is compared with other
/// artifacts is gathered when it is `deep`.
pub(super) async fn read(
    ctx: &Arc<Context>,
    job: &JobHandle,
    id: &BackupId,
    mut artifact: Artifact,
    chosen: Option<Arc<BTreeSet<String>>>,
    deep: bool,
) -> Result<Read, Error> {
    if let Some(chosen) = chosen {
        restrict(&mut artifact, &chosen);
    }
    let ledger = Arc::new(Ledger::new(&artifact.id, artifact.size_bytes));
    let opener = Opener {
        store: ctx.store.clone(),
        job: job.clone(),
        id: id.clone(),
        runtime: Handle::current(),
        ledger: ledger.clone(),
    };
    let read = tokio::task::spawn_blocking(move || {
        let (mut notes, mut modules, mut jars) = (Vec::new(), Vec::new(), Vec::new());
        let walked = !artifact.files.is_empty();
        let (detail, problems) = match &artifact.contents {
            _ if !walked => Default::default(),
            Contents::Mongo(contents) => {
                let found = dump(&opener, contents);
                if deep {
                    modules = records(&opener, contents);
                }
                found
            }
            Contents::Valkey(contents) => snapshot(&opener, &artifact.path, contents, &mut notes),
            Contents::Filesystem(contents) => archive(&opener, &artifact.path, contents, &mut jars),
        };
        // What no reader asked for counts in the checksums too.
        for file in &artifact.files {
            if !ledger.has(&file.path) {
                drop(opener.open(&file.path));
            }
        }
        Read { detail, problems, notes, files: ledger.take(), walked, modules, jars }
    });
    let read = read.await.map_err(|_| Error::internal("a reader hit a defect: see the log"))?;
    job.check_cancelled().map(|()| read)
}

/// Leaves of an artifact what these files are and what they hold.
fn restrict(artifact: &mut Artifact, chosen: &BTreeSet<String>) {
    if let Contents::Mongo(mongo) = &mut artifact.contents {
        let is = |path: &String| chosen.contains(path);
        mongo.collections.retain(|c| is(&c.metadata_path) || c.data_path.as_ref().is_some_and(is));
        mongo.accounts.retain(|a| is(&a.data_path));
        // A dump's other files are read with them: they are small.
        let with = |c: &Collection| c.data_path.iter().chain([&c.metadata_path]).cloned().collect::<Vec<_>>();
        let also: BTreeSet<String> = mongo.collections.iter().flat_map(with).collect();
        let some = artifact.files.iter().any(|f| is(&f.path));
        artifact.files.retain(|f| some && (is(&f.path) || also.contains(&f.path)));
    } else {
        artifact.files.retain(|f| chosen.contains(&f.path));
    }
}

/// What the dump records of modules (law L20). What cannot be read is told elsewhere.
fn records(opener: &Opener, contents: &MongoContents) -> Vec<Record> {
    let of_modules = contents.collections.iter().filter(|c| c.name == modules::COLLECTION);
    let mut records = Vec::new();
    for path in of_modules.filter_map(|c| c.data_path.as_ref()) {
        let Ok(stored) = opener.open(path) else { continue };
        let mut documents = DocumentReader::new(mongodump::plain(path, stored));
        while let Ok(Some((document, _))) = documents.read() {
            records.extend(Record::of(document));
        }
    }
    records
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

fn archive(opener: &Opener, path: &str, contents: &FilesContents, jars: &mut Vec<String>) -> (String, Vec<String>) {
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
        Ok(summary) => {
            let differences = summary.differences(contents).iter().map(|d| named(path, d)).collect();
            *jars = summary.modules;
            (String::new(), differences)
        }
        Err(e) => (String::new(), vec![named(path, &e.to_string())]),
    }
}
