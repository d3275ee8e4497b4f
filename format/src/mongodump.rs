//! The directory that `mongodump --gzip --out` writes: names of files, metadata, and the check of a whole dump.
//!
//! What is kept compatible here was observed with mongodump 100.18: `mongorestore --gzip` restores what we write, and
//! we read what it writes. Knows nothing of servers.

mod definition;
mod extjson;
mod foreign;
mod ids;
mod json;
mod metadata;
mod names;
mod plausible;
mod ttl;
mod verify;

pub use definition::{as_created, definition_digest, without_expiry};
pub use extjson::{ExtJsonError, document_to_json};
pub use foreign::{Survey, SurveyError, survey};
pub use metadata::{Metadata, MetadataError};
pub use names::{
    ALL_ACCOUNTS, BUCKETS_PREFIX, FUNCTIONS, accounts_of, accounts_path, accounts_version_path, data_path, file_stem,
    metadata_path, prelude_path, unescape_stem,
};
pub use ttl::{Expiry, collection_expiries};
pub(crate) use verify::MAX_METADATA;
pub use verify::{DumpReport, Figures, Problem, plain, verify_collection, verify_dump};

/// The artifact's format in the manifest.
pub const FORMAT: &str = "mongodump-directory+gzip";

/// The artifact's format when its files are not compressed, as another tool may have written them.
pub const PLAIN_FORMAT: &str = "mongodump-directory";

/// The artifact's path within a backup.
pub const ROOT: &str = "mongo";

/// What `prelude.json` holds: the versions of the server and of the tool that wrote the dump.
pub fn prelude(server_version: &str, tool_version: &str) -> Vec<u8> {
    serde_json::json!({ "ServerVersion": server_version, "ToolVersion": tool_version }).to_string().into_bytes()
}
