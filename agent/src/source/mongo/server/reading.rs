//! What a capture needs of a server: one member to read from, its cluster time, and which errors pass.

use bson::{Bson, Document, Timestamp, doc};
use mongodb::{
    Client,
    error::ErrorKind,
    options::{ReadPreference, SelectionCriteria, ServerAddress},
    raw_batch_cursor::RawBatchCursor,
};
use serde::{Deserialize, Serialize};

use super::{
    super::MongoConfig, CAPPED_POSITION_LOST, CursorError, KEY_NOT_FOUND, NAMESPACE_NOT_FOUND, QUERY_PLAN_KILLED,
    SNAPSHOT_TOO_OLD, SNAPSHOT_UNAVAILABLE, Server, code, options, raw,
};
use crate::source::SourceError;

/// The wire version of MongoDB 5.0, the first that reads at a cluster time outside transactions.
const SNAPSHOT_READS: i32 = 13;

/// Which member of a replica set a capture reads from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadFrom {
    /// The one that takes writes.
    #[default]
    Primary,
    /// Another one, if there is one: it spares the primary the work.
    Secondary,
}

/// How much is in a collection, about: kept by the server beside it, and wrong after it crashed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::source::mongo) struct Estimate {
    pub(in crate::source::mongo) documents: u64,
    pub(in crate::source::mongo) bytes: u64,
}

impl Server {
    /// Connects to one member of the set and stays with it, whatever role it gets: records and cursors are its own.
    pub(in crate::source::mongo) async fn open_to_read(
        config: &MongoConfig,
        from: ReadFrom,
    ) -> Result<Self, SourceError> {
        let mut options = options(config).await?;
        if options.direct_connection != Some(true) {
            let client = Client::with_options(options.clone()).map_err(|e| super::bad_uri(&e))?;
            let any = Self::on(client, config, &options);
            let first = match from {
                ReadFrom::Primary => ReadPreference::Primary,
                ReadFrom::Secondary => ReadPreference::PrimaryPreferred { options: None },
            };
            let hello = any.greeted(first).await?;
            let others = hello.get_array("hosts").is_ok_and(|hosts| hosts.len() > 1);
            let hello = match from {
                // SecondaryPreferred would take the primary as long as the driver has not met another member.
                ReadFrom::Secondary if others => match any.greeted(ReadPreference::Secondary { options: None }).await {
                    Err(SourceError::Unavailable(_)) => hello,
                    greeted => greeted?,
                },
                ReadFrom::Primary | ReadFrom::Secondary => hello,
            };
            if let Some(member) = hello.get_str("me").ok().and_then(|me| ServerAddress::parse(me).ok()) {
                options.hosts = vec![member];
                options.repl_set_name = None;
                options.direct_connection = Some(true);
            }
        }
        let client = Client::with_options(options.clone()).map_err(|e| super::bad_uri(&e))?;
        Self::on(client, config, &options).introduced().await
    }

    async fn greeted(&self, preference: ReadPreference) -> Result<Document, SourceError> {
        let criteria = SelectionCriteria::ReadPreference(preference);
        let hello = self.client.database("admin").run_command(doc! { "hello": 1 }).selection_criteria(criteria).await;
        hello.map_err(|e| self.explain(&e, "hello"))
    }

    /// As [`Server::cursor`], with the size of the batches behind the first.
    pub(in crate::source::mongo) async fn cursor_by(
        &self,
        command: Vec<u8>,
        batch: Option<i32>,
    ) -> Result<RawBatchCursor, CursorError> {
        let cursor = self.db.run_raw_cursor_command(raw(command).map_err(CursorError::Source)?);
        let cursor = match batch.and_then(|b| u32::try_from(b).ok()) {
            Some(batch) => cursor.batch_size(batch),
            None => cursor,
        };
        cursor.batch().await.map_err(CursorError::Driver)
    }

    /// A cursor on another database.
    pub(in crate::source::mongo) async fn cursor_on(
        &self,
        database: &str,
        command: Vec<u8>,
    ) -> Result<RawBatchCursor, CursorError> {
        let command = raw(command).map_err(CursorError::Source)?;
        self.client.database(database).run_raw_cursor_command(command).batch().await.map_err(CursorError::Driver)
    }

    /// The cluster time up to which a majority has everything, as this member knows it: seconds since the epoch in the
    /// upper half, the increment in the lower. `None` where data cannot be read at a cluster time.
    pub(in crate::source::mongo) async fn committed(&self) -> Result<Option<u64>, SourceError> {
        let hello = self.ask(doc! { "hello": 1 }).await?;
        if hello.get_i32("maxWireVersion").unwrap_or(0) < SNAPSHOT_READS {
            return Ok(None);
        }
        let time = |hello: &Document| -> Option<Timestamp> {
            hello.get_document("lastWrite").ok()?.get_document("majorityOpTime").ok()?.get_timestamp("ts").ok()
        };
        Ok(time(&hello).filter(|t| t.time > 0).map(|t| u64::from(t.time) << 32 | u64::from(t.increment)))
    }

    /// What the server believes to be in a collection; nothing when it does not say.
    pub(in crate::source::mongo) async fn estimate(&self, collection: &str) -> Estimate {
        let command = doc! { "dataSize": format!("{}.{collection}", self.database()), "estimate": true };
        let reply = self.db.run_command(command).await.unwrap_or_default();
        let number = |name| match reply.get(name) {
            Some(Bson::Int32(n)) => u64::try_from(*n).unwrap_or(0),
            Some(Bson::Int64(n)) => u64::try_from(*n).unwrap_or(0),
            Some(Bson::Double(n)) => *n as u64,
            _ => 0,
        };
        Estimate { documents: number("numObjects"), bytes: number("size") }
    }
}

impl CursorError {
    /// Whether the same may succeed in a moment: a connection broke, a member changed its role, a cursor was killed.
    pub(in crate::source::mongo) fn is_passing(&self) -> bool {
        let Self::Driver(e) = self else { return false };
        match e.kind.as_ref() {
            ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. } | ErrorKind::ServerSelection { .. } => true,
            ErrorKind::Command(e) => matches!(
                e.code,
                // HostUnreachable, HostNotFound, CursorNotFound, NetworkTimeout, ShutdownInProgress, PrimarySteppedDown
                6 | 7 | 43 | 89 | 91 | 189
                // CursorKilled, ExceededTimeLimit, SocketException, NotWritablePrimary, Interrupted...
                | 237 | 262 | 9001 | 10107 | 11600 | 11602 | 13435 | 13436
            ),
            _ => false,
        }
    }

    /// Whether the server has no history of the collection, or none of that time any more.
    pub(in crate::source::mongo) fn is_without_history(&self) -> bool {
        matches!(self.code(), Some(SNAPSHOT_TOO_OLD | SNAPSHOT_UNAVAILABLE))
    }

    /// Whether the server let go of the history: the capture took too long.
    pub(in crate::source::mongo) fn is_too_late(&self) -> bool {
        self.code() == Some(SNAPSHOT_TOO_OLD)
    }

    /// Whether documents were overwritten before they could be read (capped collections), or a record to go on from.
    pub(in crate::source::mongo) fn is_overrun(&self) -> bool {
        matches!(self.code(), Some(CAPPED_POSITION_LOST | KEY_NOT_FOUND))
    }

    /// Whether it says that the collection is gone.
    pub(in crate::source::mongo) fn is_gone(&self) -> bool {
        matches!(self.code(), Some(NAMESPACE_NOT_FOUND | QUERY_PLAN_KILLED))
    }

    /// Whether the account may not do it.
    pub(in crate::source::mongo) fn is_denied(&self) -> bool {
        self.code() == Some(super::UNAUTHORIZED)
    }

    fn code(&self) -> Option<i32> {
        match self {
            Self::Driver(e) => code(e),
            Self::Source(_) => None,
        }
    }
}
