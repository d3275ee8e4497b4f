//! Where the server keeps its data: directory, RDB file, append-only files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{SourceError, client::Connection};

/// What the server's settings say. Kept with a restore, since the server may be down when it is needed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Site {
    /// The data directory, as this host sees it.
    pub(super) dir: PathBuf,
    /// `dbfilename`, within the directory.
    pub(super) rdb: String,
    /// Whether the server loads the append-only files and ignores the RDB file (law L12).
    pub(super) append_only: bool,
    /// The append-only files.
    pub(super) aof: Aof,
    /// `valkey` or `redis`.
    pub(super) server_name: String,
    /// The server's version.
    pub(super) server_version: String,
}

/// How the append-only files lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Aof {
    /// From Redis 7 on: a directory with a manifest, a base file and increments.
    Directory {
        /// `appenddirname`.
        dir: String,
        /// `appendfilename`, with which all names in it begin.
        prefix: String,
    },
    /// Up to Redis 6: one file.
    File(String),
}

impl Site {
    /// Asks the server; `data_dir` goes before what it says of its directory.
    pub(super) async fn ask(connection: &Connection, data_dir: Option<&Path>) -> Result<Self, SourceError> {
        let info = connection.info().await?;
        let dir = match (data_dir, connection.setting("dir").await?) {
            (Some(dir), _) => dir.to_owned(),
            (None, Some(dir)) => PathBuf::from(dir),
            (None, None) => {
                return Err(SourceError::Denied(format!(
                    "Valkey at {} does not say where its data is: allow CONFIG GET to this account, or set valkey.data_dir in the \
                     agent's configuration",
                    connection.address()
                )));
            }
        };
        let or = |found: Option<String>, default: &str| found.unwrap_or_else(|| default.to_owned());
        let rdb = or(connection.setting("dbfilename").await?, "dump.rdb");
        let file = or(connection.setting("appendfilename").await?, "appendonly.aof");
        let major: u32 = info.server_version().split('.').next().and_then(|m| m.parse().ok()).unwrap_or(0);
        let aof = match connection.setting("appenddirname").await? {
            Some(dir) => Aof::Directory { dir, prefix: file },
            None if major >= 7 => Aof::Directory { dir: "appendonlydir".into(), prefix: file },
            None => Aof::File(file),
        };
        let site = Self {
            dir,
            rdb,
            append_only: info.append_only(),
            aof,
            server_name: info.server_name().to_owned(),
            server_version: info.server_version().to_owned(),
        };
        // The server allows plain names only; a name that leads elsewhere must not lead us there.
        if [&site.rdb, site.aof_name()].into_iter().any(|n| n.is_empty() || n.contains('/') || n == "." || n == "..") {
            return Err(SourceError::Invalid(format!(
                "Valkey at {} names its files in no usable way",
                connection.address()
            )));
        }
        Ok(site)
    }

    /// The RDB file.
    pub(super) fn rdb_path(&self) -> PathBuf {
        self.dir.join(&self.rdb)
    }

    /// Name of the append-only directory or file.
    pub(super) fn aof_name(&self) -> &str {
        match &self.aof {
            Aof::Directory { dir, .. } => dir,
            Aof::File(file) => file,
        }
    }

    /// Whether this host, and this process, can read what the server writes.
    pub(super) fn accessible(&self) -> Result<(), SourceError> {
        let refused = |e: std::io::Error| {
            SourceError::Denied(format!(
                "Valkey keeps its data in {}, which cannot be read here ({e}): run the agent on the server's host, as root or as the \
                 server's user, or set valkey.data_dir where that directory is mounted",
                self.dir.display()
            ))
        };
        fs::read_dir(&self.dir).map_err(refused)?;
        match fs::File::open(self.rdb_path()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(refused(e)),
            _ => Ok(()),
        }
    }

    /// Bytes that this process may still write to the directory's file system; `None` where that cannot be told.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let fs = rustix::fs::statvfs(&self.dir).ok()?;
        fs.f_bavail.checked_mul(fs.f_frsize)
    }
}
