//! Captures every namespace of one database or several, as they were at one time, into the files of a mongodump
//! directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::StreamExt as _;
use prexor_format::{
    digest::Order,
    gzip::Level,
    manifest::{Collection, CollectionType, Consistency, Contents, MongoContents},
    mongodump::{self, BUCKETS_PREFIX, FUNCTIONS, Metadata, definition_digest},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::{
    MongoConfig, ReadFrom, Server,
    catalog::{self, Namespace},
    databases,
    drain::panicked,
    inspect, privileges,
    server::CursorError,
};
use crate::{
    sink::ArtifactSink,
    source::{Captured, SourceError},
};

mod accounts;
mod capped;
mod history;
mod moment;
mod oplog;
mod output;
mod ranges;
mod scan;

use capped::Capped;
use history::Longer;
use moment::{Listed, Moment, Part};
use output::{Output, write_file};
use scan::{Budget, Scan, View};

/// What is told in `prelude.json` where mongodump tells its own version.
const TOOL_VERSION: &str = concat!("prexor-", env!("CARGO_PKG_VERSION"));
/// Collections that are captured side by side.
const SIDE_BY_SIDE: usize = 3;
/// Bytes of a collection that is read in no time.
const SMALL: u64 = 1 << 20;
/// How often a capture begins anew because what it reads was dropped, renamed or overwritten under it.
const RESTARTS: u32 = 5;

/// How a capture is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CaptureOptions {
    /// How hard to compress.
    pub compression: Level,
    /// The member of the set that is read from.
    pub read_from: ReadFrom,
}

/// What an attempt must put up with.
#[derive(Debug, Clone, Default)]
struct What {
    /// Why capped collections are read as they are, if they are.
    inexact_capped: Option<String>,
    /// Databases whose stored functions the account may not read.
    without_functions: BTreeSet<String>,
}

/// Why an attempt failed.
#[derive(Debug)]
enum Failure {
    /// What is captured changed under it: another attempt may succeed.
    Again(String),
    /// The server let go of the history that this collection was to be read from.
    TooLate(String),
    /// The account may not do it.
    Denied(String),
    /// Anything else.
    Source(SourceError),
}

impl Failure {
    fn of(error: CursorError, server: &Server, collection: &str, view: View) -> Self {
        let at_a_time = matches!(view, View::At(_));
        if error.is_too_late() {
            return Self::TooLate(collection.to_owned());
        }
        if error.is_overrun() || error.is_gone() || (at_a_time && error.is_without_history()) {
            let what =
                if error.is_overrun() { "was overwritten faster than it was read" } else { "was dropped or replaced" };
            return Self::Again(format!("{collection} {what}"));
        }
        let denied = error.is_denied();
        let error = error.explain(server, &format!("read {collection}"));
        if denied { Self::Denied(error.to_string()) } else { Self::Source(error) }
    }

    fn into_source(self, server: &Server) -> SourceError {
        match self {
            Self::TooLate(collection) => SourceError::Failed(format!(
                "{}: the server let go of the history that {collection} was to be read from, because the capture took \
                 too long: let it keep more, as with db.adminCommand({{setParameter: 1, \
                 minSnapshotHistoryWindowInSeconds: 3600}}), and in mongod.conf; or grant the agent's account \
                 getParameter and setParameter on the cluster, and it does so while it captures",
                server.target()
            )),
            Self::Again(why) => SourceError::Failed(why),
            Self::Denied(why) => SourceError::Denied(why),
            Self::Source(e) => e,
        }
    }
}

/// One attempt.
struct Run {
    server: Arc<Server>,
    sink: ArtifactSink,
    view: View,
    budget: Budget,
    level: Level,
    tracker: TaskTracker,
}

/// See [`crate::source::Source::capture`].
pub(super) async fn capture(
    config: &MongoConfig,
    options: CaptureOptions,
    sink: ArtifactSink,
) -> Result<Captured, SourceError> {
    let server = Arc::new(Server::open_to_read(config, options.read_from).await?);
    let mut what = What::default();
    let mut bytes = 0;
    for database in databases::present(&server, config).await? {
        let server = server.on_database(&database);
        bytes += inspect::stats(&server).await?.bytes;
        if privileges::lack_functions(&privileges::missing(&server).await?, false) {
            what.without_functions.insert(database);
        }
    }
    sink.progress().set_total_bytes(bytes);
    let mut history = None;
    let captured = attempts(&server, config, options, &sink, what, &mut history).await;
    if let Some(history) = history {
        Longer::put_back(history).await;
    }
    captured
}

/// Captures, and begins anew when what is captured changes under it or the server's history is too short.
async fn attempts(
    server: &Arc<Server>,
    config: &MongoConfig,
    options: CaptureOptions,
    sink: &ArtifactSink,
    mut what: What,
    history: &mut Option<Longer>,
) -> Result<Captured, SourceError> {
    for restarts in 0..=RESTARTS {
        let tracker = TaskTracker::new();
        let failure = match attempt(server, config, options, sink, &what, &tracker).await {
            Ok(captured) => return Ok(captured),
            Err(failure) => failure,
        };
        // Threads that still write must not write into the next attempt.
        tracker.close();
        tracker.wait().await;
        let why = match failure {
            Failure::Again(why) => why,
            Failure::TooLate(collection) if restarts < RESTARTS && longer(server, history).await => {
                tracing::warn!(collection, "the capture begins anew: it took longer than the server's history");
                sink.restart().await.map_err(|_| SourceError::Cancelled)?;
                continue;
            }
            failure => return Err(failure.into_source(server)),
        };
        if restarts == RESTARTS {
            return Err(SourceError::Failed(format!(
                "{}: {why} while it was captured, {RESTARTS} times in a row: try again when that is over",
                server.target()
            )));
        }
        tracing::warn!("the capture begins anew: {why}");
        if restarts + 1 == RESTARTS {
            // Where capped collections are in the way, all else is still worth having.
            what.inexact_capped = Some(why);
        }
        sink.restart().await.map_err(|_| SourceError::Cancelled)?;
    }
    Err(SourceError::Failed("the capture came to no end".to_owned()))
}

/// Whether the server keeps a longer history from now on.
async fn longer(server: &Arc<Server>, history: &mut Option<Longer>) -> bool {
    match history {
        Some(history) => history.still().await,
        None => {
            *history = Longer::arrange(server).await;
            history.is_some()
        }
    }
}

async fn attempt(
    server: &Arc<Server>,
    config: &MongoConfig,
    options: CaptureOptions,
    sink: &ArtifactSink,
    what: &What,
    tracker: &TaskTracker,
) -> Result<Captured, Failure> {
    let budget = Budget::new();
    let Moment { parts, view, consistency, mut warnings } = moment::choose(server, config, &budget, what).await?;
    for database in &what.without_functions {
        let functions = server.on_database(database);
        if catalog::list(&functions).await.map_err(Failure::Source)?.live.contains_key(FUNCTIONS) {
            warnings.push(format!(
                "the stored functions of {database} (system.js) are not captured: the account may not read them"
            ));
        }
    }
    let run = |server: &Arc<Server>| {
        let (server, sink, tracker) = (server.clone(), sink.clone(), tracker.clone());
        Arc::new(Run { server, sink, view, budget: budget.clone(), level: options.compression, tracker })
    };
    let prelude = mongodump::prelude(&server.version, TOOL_VERSION);
    write_file(sink, mongodump::prelude_path(), prelude, tracker).await.map_err(Failure::Source)?;

    let names: Vec<String> = parts.iter().map(|p| p.listed.server.database().to_owned()).collect();
    let (mut sized, mut before) = (Vec::new(), BTreeMap::new());
    for part in parts {
        let Part { listed: Listed { server, catalog }, mut capped } = part;
        let run = run(&server);
        before.insert(server.database().to_owned(), catalog.live.keys().cloned().collect::<BTreeSet<_>>());
        for (name, namespace) in catalog.live {
            let size = server.estimate(&source_of(&name, namespace.kind)).await.bytes;
            let capped = capped.remove(&name);
            sized.push((size, run.clone(), name, namespace, capped));
        }
    }
    // Capped ones first, for they run away; then the small ones, which come and go more than others and are soon done;
    // then the biggest, so that none is left over at the end.
    sized.sort_by_key(|(size, _, name, namespace, _)| {
        (!namespace.is_capped(), *size >= SMALL, u64::MAX - size, name.clone())
    });
    let tasks: Vec<_> = sized
        .into_iter()
        .map(|(size, run, name, namespace, capped)| {
            let tracker = run.tracker.clone();
            let task = async move { (run.collection(&name, &namespace, size, capped).await, name) };
            // Tracked as well: an aborted task goes on to its next pause, and must not write into the next attempt.
            let task = tracker.track_future(task);
            async move { AbortOnDropHandle::new(tokio::spawn(task)).await }
        })
        .collect();
    let mut collections = Vec::new();
    let mut done = futures::stream::iter(tasks).buffer_unordered(SIDE_BY_SIDE);
    while let Some(ended) = done.next().await {
        let (entry, name) = ended.map_err(|e| Failure::Source(panicked(&e)))?;
        match entry? {
            Some(entry) => collections.push(entry),
            None => warnings.push(format!("{name} was dropped during the capture and is not part of it")),
        }
    }
    drop(done);
    if consistency == Consistency::Fuzzy && view == View::Latest {
        for part in moment::list(server, config, what).await.map_err(Failure::Source)? {
            let before = before.remove(part.server.database()).unwrap_or_default();
            for name in part.catalog.live.keys().filter(|n| !before.contains(*n)) {
                warnings.push(format!("{name} was created during the capture and is not part of it"));
            }
        }
    }
    let accounts = accounts::capture(&run(server), config, &names).await?;
    collections.sort_by(|a, b| (&a.database, &a.name).cmp(&(&b.database, &b.name)));
    warnings.sort();
    let contents = MongoContents {
        server_version: server.version.clone(),
        feature_compatibility_version: inspect::feature_compatibility_version(server).await,
        replica_set: server.replica_set.clone(),
        databases: names,
        consistency,
        collections,
        accounts,
    };
    Ok(Captured {
        contents: Contents::Mongo(contents),
        path: mongodump::ROOT.to_owned(),
        format: mongodump::FORMAT,
        warnings,
    })
}

impl Run {
    /// Captures one namespace; `None` when it is gone and that matters to no other.
    async fn collection(
        &self,
        name: &str,
        namespace: &Namespace,
        size: u64,
        capped: Option<Capped>,
    ) -> Result<Option<Collection>, Failure> {
        self.sink.progress().set_subject(name);
        let server = &self.server;
        let Some((options, indexes)) = catalog::definition(server, name, namespace).await.map_err(Failure::Source)?
        else {
            return self.gone(name);
        };
        let kind = namespace.kind;
        let definition = definition_digest(&options, &indexes, kind).map_err(|e| unfit(name, &e))?;
        let metadata = Metadata {
            options,
            indexes,
            uuid: namespace.uuid.clone().filter(|_| kind == CollectionType::Collection),
            collection: name.to_owned(),
            kind,
        };
        let json = metadata.to_json().map_err(|e| unfit(name, &e))?;
        // What does not read back as it is now could not be restored as it is now.
        if Metadata::from_json(&json, "").ok().as_ref() != Some(&metadata) {
            return Err(unfit(name, &"they do not survive the way through Extended JSON"));
        }
        let mut entry = Collection {
            database: server.database().to_owned(),
            name: name.to_owned(),
            kind,
            documents: 0,
            bson_bytes: 0,
            indexes: u32::try_from(metadata.indexes.len()).unwrap_or(u32::MAX),
            data_path: None,
            metadata_path: mongodump::metadata_path(server.database(), name),
            content: None,
            definition,
        };
        if kind != CollectionType::View {
            let path = mongodump::data_path(server.database(), name, kind == CollectionType::Timeseries);
            let order = if namespace.is_capped() { Order::Sequence } else { Order::Multiset };
            let output = Output::new(&self.sink, path.clone(), order, self.level, &self.tracker);
            let read = self.read(name, namespace, size, capped, &output).await;
            let there = match &read {
                Ok(()) => catalog::is_still(server, name, namespace).await.map_err(Failure::Source)?,
                Err(_) => false,
            };
            let written = match read {
                Ok(()) if there => output.finish().await.map_err(Failure::Source)?,
                // A collection that was dropped reads as an empty one, without an error.
                Ok(()) => return self.gone(name),
                Err(Failure::Again(_)) if self.view == View::Latest => return self.gone(name),
                // The writer met something, and its reader could only see it go.
                Err(Failure::Source(SourceError::Cancelled)) => {
                    return Err(Failure::Source(output.failure().await.err().unwrap_or(SourceError::Cancelled)));
                }
                Err(failure) => return Err(failure),
            };
            (entry.documents, entry.bson_bytes) = (written.documents, written.bytes);
            (entry.content, entry.data_path) = (Some(written.content), Some(path));
        }
        let path = entry.metadata_path.clone();
        write_file(&self.sink, path, json, &self.tracker).await.map_err(Failure::Source)?;
        Ok(Some(entry))
    }

    async fn read(
        &self,
        name: &str,
        namespace: &Namespace,
        size: u64,
        capped: Option<Capped>,
        output: &Output,
    ) -> Result<(), Failure> {
        if let Some(capped) = capped {
            return capped.read(&self.server, &self.budget, name, output).await;
        }
        if !namespace.is_capped() {
            return ranges::read(self, &source_of(name, namespace.kind), size, output).await;
        }
        let view = if self.view == View::Latest { View::Latest } else { View::Majority };
        let mut scan = Scan::new(&self.server, &self.budget, name, view).of_size(size);
        while let Some(block) = scan.next().await? {
            output.add(block).await.map_err(Failure::Source)?;
        }
        Ok(())
    }

    /// At one time all collections belong together; otherwise one may be missing.
    fn gone(&self, name: &str) -> Result<Option<Collection>, Failure> {
        match self.view {
            View::Latest => Ok(None),
            View::At(_) | View::Majority => Err(Failure::Again(format!("{name} was dropped or replaced"))),
        }
    }
}

/// The collection that holds the documents.
fn source_of(name: &str, kind: CollectionType) -> String {
    match kind {
        CollectionType::Timeseries => format!("{BUCKETS_PREFIX}{name}"),
        CollectionType::Collection | CollectionType::View => name.to_owned(),
    }
}

fn unfit(name: &str, why: &dyn std::fmt::Display) -> Failure {
    let why = format!("the options and indexes of {name} cannot be written to a dump: {why}");
    Failure::Source(SourceError::Failed(why))
}
