//! The names of the facts that agents report about their sources (`Source.facts`). Values are plain text; numbers are
//! decimal without separators.

/// All kinds: the server's version (`6.0.5`).
pub const SERVER_VERSION: &str = "server_version";
/// All kinds: size of the live data in bytes, before compression.
pub const BYTES: &str = "bytes";
/// Mongo: `featureCompatibilityVersion`, where the account may read it.
pub const FEATURE_COMPATIBILITY_VERSION: &str = "feature_compatibility_version";
/// Mongo: the replica set's name; absent on a standalone.
pub const REPLICA_SET: &str = "replica_set";
/// Mongo: what the account may not do and a restore of users and roles needs; absent when it may do everything.
pub const MISSING_ACCOUNT_PRIVILEGES: &str = "accounts_lack";
/// Mongo: the configured database, or the databases that are captured, with commas.
pub const DATABASE: &str = "database";
/// Mongo: number of collections.
pub const COLLECTIONS: &str = "collections";
/// Mongo: number of documents, as the server estimates it.
pub const DOCUMENTS: &str = "documents";
/// Mongo: bytes of BSON for which the server's disk has room beside the live data, about.
pub const ROOM_BYTES: &str = "room_bytes";
/// Mongo: what the agent's account may not do and a restore needs; absent when it may do everything.
pub const MISSING_PRIVILEGES: &str = "missing_privileges";
/// Mongo: what the account may not do and everything works without, with poorer checks and messages.
pub const HELPFUL_PRIVILEGES: &str = "helpful_privileges";
/// Valkey: `valkey` or `redis`.
pub const SERVER_NAME: &str = "server_name";
/// Valkey: number of keys in all logical databases.
pub const KEYS: &str = "keys";
/// Valkey: `yes` or `no`.
pub const APPEND_ONLY: &str = "appendonly";
/// All kinds, where it was asked for: what the restore laws need to know of the live data, as JSON. Valkey: a
/// `prexor_format::laws::valkey::State` without revocations.
pub const LAWS: &str = "laws";
/// Mongo and Valkey, where it was asked for: who leads, as JSON: `prexor_format::laws::Leases`.
pub const LEASES: &str = "leases";
/// Valkey: how a capture would obtain the bytes: `bgsave-file`, `replication` or `scan`.
pub const CAPTURE: &str = "capture";
/// Valkey: `files` when a whole restore exchanges the server's files, `live` when it replaces keys in a running server.
pub const RESTORE_WAY: &str = "restore_way";
/// Valkey: why it is not the files' way; empty where it is.
pub const RESTORE_WAY_BECAUSE: &str = "restore_way_because";
/// Valkey: `maxmemory` in bytes; 0 for no limit.
pub const MAX_MEMORY: &str = "maxmemory";
/// Valkey: how many modules are loaded; absent where that is not told.
pub const MODULES: &str = "modules";
/// Valkey: how many replicas are connected; absent without any.
pub const REPLICAS: &str = "replicas";
/// Mongo and Valkey: what the server is to the others: `primary`, `secondary`, `replica`, `standalone` or `router`.
pub const ROLE: &str = "role";
/// Mongo and Valkey: whom it should replicate with and does not, by name, with commas; absent when there is nobody.
pub const CUT_OFF: &str = "cut_off";
/// Mongo and Valkey: seconds by which the slowest of those that replicate is behind; absent without any.
pub const LAG: &str = "lag_s";
/// Files: the root directory.
pub const ROOT: &str = "root";
/// Files: number of entries below the root.
pub const ENTRIES: &str = "entries";
/// Mongo, where it was asked for: what a plan tells of PrexorCloud's records, as JSON: `prexor_format::platform::Records`.
pub const RECORDS: &str = "records";
/// Files, where it was asked for: fingerprints of PrexorCloud's CA, as JSON: a list of
/// `prexor_format::manifest::CaFingerprint`.
pub const PLATFORM_CA: &str = "platform_ca";
/// Files, where it was asked for: the `prexor_format::platform::mark` of `security.jwtSecret`; absent without one.
pub const JWT_SECRET: &str = "jwt_secret_mark";
/// Mongo and Valkey, where it was asked for: who is connected, as JSON: a list of `prexor_format::laws::Session`.
pub const SESSIONS: &str = "sessions";
/// Mongo and Valkey, where it was asked for: why it cannot be told who is connected.
pub const SESSIONS_HIDDEN: &str = "sessions_hidden";
