//! The manifest: what a backup holds and how it was made. It is written last; without it there is no backup (law L21).
//!
//! The JSON form is described by `manifest.schema.json` beside this crate's `Cargo.toml`. Times are UTC, RFC 3339;
//! sizes are bytes.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    artifact::ArtifactKind,
    class::Class,
    digest::{ContentDigest, Sha256Digest},
    id::{BackupId, NodeName},
    laws::valkey::Fencing,
    text,
};

mod check;
pub use check::{ManifestError, SCHEMA, is_plain_path};

/// The version of the manifest's layout that this code writes, and the highest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The manifest's file name within a backup.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The name of the file with all checksums within a backup, in the form that `sha256sum -c` takes.
pub const CHECKSUMS_FILE: &str = "SHA256SUMS";

/// A whole backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// The backup's id, equal to its directory's name.
    pub id: BackupId,
    /// The name of the backup cluster (the one in our certificates, not PrexorCloud's `cluster.id`).
    pub cluster: String,
    /// What the operator said at creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The restore job that saved the live state here before it replaced it (law L24).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety_of: Option<String>,
    /// How long it is to be kept, where that was said at creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// The kinds that were asked for, in the order of [`ArtifactKind::ALL`].
    pub scope: Vec<ArtifactKind>,
    /// When the job started.
    pub started_at: Timestamp,
    /// When the last artifact was stored.
    pub completed_at: Timestamp,
    /// Version of this product that wrote the backup.
    pub product_version: String,
    /// Every host that contributed.
    pub hosts: Vec<Host>,
    /// What was captured.
    pub artifacts: Vec<Artifact>,
    /// Sum of the sizes of all artifacts' files as stored.
    pub size_bytes: u64,
    /// What an operator should know: partial consistency, skipped files.
    pub warnings: Vec<String>,
}

/// A host that contributed to a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its name in this system.
    pub node: NodeName,
    /// Its host name as the system reports it.
    pub hostname: String,
    /// The version of its agent.
    pub agent_version: String,
    /// The controller installed there, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<Controller>,
}

/// A PrexorCloud controller as its `controller.yml` describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Controller {
    /// `uuid` of `controller.yml` (law L3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// `cluster.id` of `controller.yml` (law L11).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The controller's version, where it could be found out (law L19).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The root directory on that host.
    pub root: String,
}

/// One artifact: one file, or one directory of files, captured by one agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Unique within the backup: `mongo`, `valkey`, `filesystem-<node>`.
    pub id: String,
    /// Its kind.
    pub kind: ArtifactKind,
    /// The node whose agent captured it.
    pub node: NodeName,
    /// Where it is within the backup: a directory for `mongo`, a file otherwise.
    pub path: String,
    /// Its format: `mongodump-directory+gzip`, `rdb`, `tar+gzip`.
    pub format: String,
    /// When capture began.
    pub started_at: Timestamp,
    /// When its last byte was stored.
    pub completed_at: Timestamp,
    /// Sum of its files' sizes as stored.
    pub size_bytes: u64,
    /// Its files; paths are relative to the backup's directory.
    pub files: Vec<StoredFile>,
    /// What its contents are.
    pub contents: Contents,
    /// What an operator should know about this artifact.
    pub warnings: Vec<String>,
}

/// A file as it lies in the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredFile {
    /// Relative to the backup's directory, `/` between components, no `.` or `..`.
    pub path: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Of the bytes as stored.
    pub sha256: Sha256Digest,
}

/// What is inside an artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Contents {
    /// See [`MongoContents`].
    Mongo(MongoContents),
    /// See [`ValkeyContents`].
    Valkey(ValkeyContents),
    /// See [`FilesContents`].
    Filesystem(FilesContents),
}

/// What a MongoDB dump holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MongoContents {
    /// `version` of `buildInfo`.
    pub server_version: String,
    /// `featureCompatibilityVersion`, where the account may read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_compatibility_version: Option<String>,
    /// Replica set name; absent on a standalone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_set: Option<String>,
    /// The databases that were captured whole.
    pub databases: Vec<String>,
    /// How the collections relate to one point in time.
    pub consistency: Consistency,
    /// Every collection and view, sorted by database and name.
    pub collections: Vec<Collection>,
    /// Users and roles, where the account may read them; restored on request only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<Accounts>,
}

/// The users, or the roles, of a database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accounts {
    /// Whose they are; of `admin`: those of all databases, as in a dump of all of them.
    pub database: String,
    /// Which of the two.
    pub what: AccountKind,
    /// Documents.
    pub documents: u64,
    /// Bytes of BSON, uncompressed.
    pub bson_bytes: u64,
    /// The data file, relative to the backup's directory.
    pub data_path: String,
    /// Over the documents.
    pub content: ContentDigest,
}

/// What [`Accounts`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccountKind {
    /// `admin.system.users`: with their credentials, which are hashes.
    Users,
    /// `admin.system.roles`: those that somebody made.
    Roles,
}

/// Whether all collections show one point in time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Consistency {
    /// Each collection was read at its own time while writes went on.
    Fuzzy,
    /// All collections were read at one cluster time.
    Snapshot {
        /// Seconds since the epoch (first half of a BSON timestamp).
        seconds: u32,
        /// The increment (second half of a BSON timestamp).
        increment: u32,
    },
    /// All collections show one cluster time: most were read at it; capped collections, of which MongoDB keeps no
    /// history, were brought to it with the oplog.
    #[serde(rename = "snapshot+oplog")]
    SnapshotOplog {
        /// See [`Consistency::Snapshot`].
        seconds: u32,
        /// See [`Consistency::Snapshot`].
        increment: u32,
    },
}

/// What sort of namespace a [`Collection`] is. The words are those of mongodump's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CollectionType {
    /// Holds documents.
    Collection,
    /// Computed from another; no data file.
    View,
    /// Time series; its data file holds the buckets.
    Timeseries,
}

/// One namespace of a dump.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collection {
    /// Database.
    pub database: String,
    /// Collection, unescaped.
    pub name: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: CollectionType,
    /// Documents (buckets for time series).
    pub documents: u64,
    /// Bytes of BSON, uncompressed.
    pub bson_bytes: u64,
    /// Number of indexes, `_id_` included.
    pub indexes: u32,
    /// The data file, relative to the backup's directory; absent for views.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_path: Option<String>,
    /// The metadata file, relative to the backup's directory.
    pub metadata_path: String,
    /// Over the documents' BSON: in natural order for capped collections, as a multiset otherwise; absent for views.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentDigest>,
    /// Over options and indexes, without what a restore cannot keep (UUIDs); see `mongodump::definition_digest`.
    pub definition: Sha256Digest,
}

/// What an RDB file holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValkeyContents {
    /// `valkey_version` or `redis_version` of INFO.
    pub server_version: String,
    /// `valkey` or `redis`.
    pub server_name: String,
    /// The number after `REDIS` in the file's first bytes.
    pub rdb_version: u32,
    /// How the bytes were obtained: `bgsave-file`, `replication` or `scan`.
    pub way: String,
    /// How the keys relate to one point in time. Absent in manifests of the first version: all were snapshots.
    #[serde(default)]
    pub consistency: KeyConsistency,
    /// `primary` or `replica`, where it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Whether the server ran with `appendonly yes` (law L12).
    pub append_only: bool,
    /// Keys in all logical databases.
    pub keys: u64,
    /// Those with an expiry.
    pub expiring_keys: u64,
    /// One entry for each family of keys, sorted by name.
    pub families: Vec<KeyFamily>,
    /// Bytes of memory that the server used for its data when it wrote the file, where that says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_memory: Option<u64>,
    /// Fencing numbers in it (law L1), by the place of their counter; absent where nobody has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fencing: Option<Fencing>,
    /// Types of modules that have data in it, by name: a server loads it only with the modules that know them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<ModuleType>,
}

impl ValkeyContents {
    /// What modules have in it, for people; empty where there is nothing of them.
    pub fn modules_in_words(&self) -> String {
        self.modules.iter().map(ModuleType::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// A type of data that a module brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleType {
    /// Nine characters that the module's author chose, such as `ReJSON-RL`; not the module's name.
    pub name: String,
    /// Keys of this type; 0 where the module only keeps something of its own beside the keys.
    pub keys: u64,
}

impl fmt::Display for ModuleType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.keys {
            0 => write!(f, "{} beside the keys", self.name),
            keys => write!(f, "{} of type {}", text::things(keys, "key"), self.name),
        }
    }
}

/// Whether all keys show one point in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyConsistency {
    /// All keys as they were when the server forked.
    #[default]
    Snapshot,
    /// Each key was read at its own time while writes went on.
    Fuzzy,
}

/// Keys that belong together by name, such as `prexor:v1:lease:`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFamily {
    /// The common prefix; empty for keys that follow no known pattern.
    pub name: String,
    /// Keys.
    pub keys: u64,
    /// Over database, key, type, value (independent of its encoding) and expiry of each.
    pub content: ContentDigest,
}

/// What a tar of a controller's root holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilesContents {
    /// The root directory as it was on that host; names in the tar are relative to it.
    pub root: String,
    /// The controller whose files these are (law L3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<Controller>,
    /// Everything in the tar, the root itself included.
    pub entries: u64,
    /// Regular files, further hard links to the same file excepted.
    pub files: u64,
    /// Sum of the regular files' sizes.
    pub bytes: u64,
    /// Patterns that were left out.
    pub excluded: Vec<String>,
    /// What could not be captured faithfully, by name.
    pub notes: Vec<FileNote>,
    /// SHA-256 fingerprints of the platform CA certificates found (law L10), by path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platform_ca: Vec<CaFingerprint>,
    /// The [`crate::platform::mark`] of `security.jwtSecret` in `controller.yml`: with another one every session ends. Absent
    /// where there is none, and in manifests from before it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt_secret_mark: Option<String>,
    /// Over name, type, mode, owner, group, modification time, link target, extended attributes and bytes of each
    /// entry; see `tree::entry_digest_input`.
    pub content: ContentDigest,
}

/// Something a reader of the tar should know about one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileNote {
    /// Relative to the root; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// What happened: `socket skipped`, `changed while it was read`.
    pub note: String,
}

/// A certificate of PrexorCloud's own CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaFingerprint {
    /// Relative to the root.
    pub path: String,
    /// Of the certificate's DER bytes (of the file where the format is not PEM).
    pub sha256: Sha256Digest,
}

impl Manifest {
    /// The artifact of this kind captured by this node, or by any when `node` is `None`.
    pub fn artifact(&self, kind: ArtifactKind, node: Option<&NodeName>) -> Option<&Artifact> {
        self.artifacts.iter().find(|a| a.kind == kind && node.is_none_or(|n| *n == a.node))
    }

    /// The lines of `SHA256SUMS`: `<hex>  <path>`, in the order of the artifacts.
    pub fn checksums(&self) -> String {
        self.artifacts.iter().flat_map(|a| &a.files).map(|f| format!("{}  {}\n", f.sha256, f.path)).collect()
    }
}
