//! The dump that was staged in a unit.

use std::{
    fs::File,
    io::{BufReader, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use prexor_format::{
    bson::DocumentReader,
    laws::mongo::{LEADERSHIP, REVOCATIONS},
    manifest::{Collection, Contents, MongoContents},
    mongodump::{FUNCTIONS, Metadata, as_created, file_stem, plain, verify_dump},
};

use super::{
    MongoConfig, Server,
    drain::panicked,
    insert::{Room, insert},
};
use crate::{restore_unit::RestoreUnit, sink::Progress, source::SourceError};

/// Bytes read from disk, and from gzip, at once.
const BUFFER: usize = 256 << 10;
/// Bytes of a document that is inserted before the next is read.
const LARGE: usize = 4 << 20;

/// A namespace as the dump has it.
#[derive(Debug, Clone)]
pub(super) struct Definition {
    pub(super) entry: Collection,
    /// As it is to be made on this server.
    pub(super) metadata: Metadata,
    /// The name that it is going to have.
    pub(super) target: String,
    /// Where the data lie on this host.
    pub(super) data: Option<PathBuf>,
}

/// What of the unit's contents is restored, when it is a dump of databases that this agent is configured for. Only these
/// are among its databases.
pub(super) fn contents(unit: &RestoreUnit, config: &MongoConfig) -> Result<MongoContents, SourceError> {
    let Contents::Mongo(dump) = &unit.artifact.contents else {
        return Err(SourceError::Invalid(format!("artifact {} is no MongoDB dump", unit.artifact.id)));
    };
    let selected = &unit.selection.namespaces;
    if let Some(problem) = selected.problems(dump).first() {
        return Err(SourceError::Invalid(problem.clone()));
    }
    let collections: Vec<_> = selected.of(dump).cloned().collect();
    match collections.iter().find(|c| !config.covers(&c.database)) {
        Some(other) => Err(SourceError::Invalid(format!(
            "the backup holds database {}, this agent is configured for {}: set database.database in controller.yml, or \
             mongo.database or mongo.databases in the agent's config",
            other.database,
            config.named()
        ))),
        None => {
            let databases = databases(unit, config);
            Ok(MongoContents { collections, databases, ..dump.clone() })
        }
    }
}

/// The databases of the dump that this agent is configured for.
pub(super) fn databases(unit: &RestoreUnit, config: &MongoConfig) -> Vec<String> {
    match &unit.artifact.contents {
        Contents::Mongo(dump) => dump.databases.iter().filter(|d| config.covers(d)).cloned().collect(),
        Contents::Valkey(_) | Contents::Filesystem(_) => Vec::new(),
    }
}

/// Whether a live namespace gives way to what is restored.
pub(super) fn gives_way(unit: &RestoreUnit, database: &str, name: &str) -> bool {
    match &unit.artifact.contents {
        // Where a backup has no stored functions they may have been out of the account's reach.
        Contents::Mongo(dump)
            if name == FUNCTIONS && !dump.collections.iter().any(|c| c.database == database && c.name == name) =>
        {
            false
        }
        // Where the backup knows nothing of them, nothing takes their place.
        Contents::Mongo(dump)
            if [LEADERSHIP, REVOCATIONS].contains(&name)
                && !dump.collections.iter().any(|c| c.database == database && c.name == name) =>
        {
            false
        }
        Contents::Mongo(dump) => unit.selection.namespaces.replaces(dump, database, name),
        Contents::Valkey(_) | Contents::Filesystem(_) => false,
    }
}

/// Walks every staged file and compares it with the manifest.
pub(super) async fn verify(unit: &RestoreUnit, contents: &MongoContents) -> Result<(), SourceError> {
    let (unit, mut contents) = (unit.clone(), contents.clone());
    if !unit.selection.users_and_roles {
        // They were not sent.
        contents.accounts.clear();
    }
    let walk = move || {
        verify_dump(&contents, |path| Ok(BufReader::with_capacity(BUFFER, File::open(unit.staged_path(path))?)))
    };
    let report = tokio::task::spawn_blocking(walk).await.map_err(|e| panicked(&e))?;
    match &report.problems[..] {
        [] => Ok(()),
        [first, rest @ ..] => Err(SourceError::Invalid(format!(
            "{} of the staged dump: {}{}; nothing was changed",
            first.path,
            first.what,
            if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) }
        ))),
    }
}

/// Reads all metadata files.
pub(super) async fn definitions(unit: &RestoreUnit, contents: &MongoContents) -> Result<Vec<Definition>, SourceError> {
    let (unit, collections) = (unit.clone(), contents.collections.clone());
    let read = move || {
        let one = |entry: Collection| {
            let mut json = Vec::new();
            open(&unit.staged_path(&entry.metadata_path))
                .and_then(|mut f| f.read_to_end(&mut json))
                .map_err(|e| unreadable(&entry.metadata_path, &e))?;
            let metadata = Metadata::from_json(&json, &file_stem(&entry.name))
                .map_err(|e| unreadable(&entry.metadata_path, &e))?;
            let metadata = as_created(&metadata).map_err(|e| unreadable(&entry.metadata_path, &e))?;
            let data = entry.data_path.as_ref().map(|p| unit.staged_path(p));
            let (_, target) = unit.selection.namespaces.target(&entry.database, &entry.name);
            Ok(Definition { entry, metadata, target, data })
        };
        collections.into_iter().map(one).collect()
    };
    tokio::task::spawn_blocking(read).await.map_err(|e| panicked(&e))?
}

/// Inserts the staged documents of `definition` into `target`.
pub(super) async fn load(
    server: &Server,
    definition: &Definition,
    target: &str,
    room: &Room,
    progress: &Arc<Progress>,
) -> Result<(), SourceError> {
    let Some(path) = definition.data.clone() else { return Ok(()) };
    let name = definition.entry.name.clone();
    insert(server, target, definition.metadata.is_capped(), room, progress, |mut batcher| async move {
        let read = move || {
            let mut documents = DocumentReader::new(open(&path).map_err(|e| unreadable(&name, &e))?);
            while let Some((document, walked)) = documents.read().map_err(|e| unreadable(&name, &e))? {
                if document.len() > LARGE {
                    batcher.add_alone(documents.take(), walked)?;
                } else {
                    batcher.add(document, walked)?;
                }
            }
            batcher.finish()
        };
        tokio::task::spawn_blocking(read).await.map_err(|e| panicked(&e))?
    })
    .await
}

/// A staged file's content, uncompressed.
pub(super) fn open(path: &Path) -> std::io::Result<impl std::io::Read + use<>> {
    let stored = BufReader::with_capacity(BUFFER, File::open(path)?);
    Ok(plain(&path.to_string_lossy(), stored))
}

fn unreadable(what: &str, error: &dyn std::fmt::Display) -> SourceError {
    SourceError::Invalid(format!("the staged {what} cannot be read: {error}"))
}
