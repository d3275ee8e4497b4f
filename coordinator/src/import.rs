//! Takes in a dump of MongoDB that another tool made: its files go into the store, a manifest says what they are. Whoever
//! sends it has read it all (`prexorctl backup import`); what it says is checked as an agent's word is, and `verify` reads
//! the files again.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use jiff::Timestamp;
use prexor_format::{
    artifact::ArtifactKind,
    digest::Sha256Digest,
    id::{BackupId, NodeName},
    manifest::{Artifact, Contents, FORMAT_VERSION, Host, Manifest, StoredFile},
    mongodump,
};
use prexor_proto::{backup::Backup, reason::Reason};

use crate::{
    backups,
    context::Context,
    error::Error,
    store::{Upload, check_path},
};

/// In place of a node's name: no agent captured it.
pub const NODE: &str = "imported";

/// The longest description of what a dump holds, in bytes: enough for a hundred thousand collections.
const MAX_CONTENTS: usize = 64 << 20;

/// An import under way. It must be ended by [`Import::finish`] or [`Import::discard`].
#[derive(Debug)]
pub struct Import {
    ctx: Arc<Context>,
    id: BackupId,
    started_at: Timestamp,
    description: Option<String>,
    hostname: String,
    format: String,
    notes: Vec<String>,
    contents: String,
    open: Option<Upload>,
    seen: HashSet<String>,
    files: Vec<StoredFile>,
}

/// What is said of a dump before its files come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// What the operator said.
    pub description: Option<String>,
    /// Where the dump lay.
    pub hostname: String,
    /// Whether it is compressed: [`mongodump::FORMAT`] or [`mongodump::PLAIN_FORMAT`].
    pub format: String,
    /// What of it is left out.
    pub notes: Vec<String>,
}

impl Import {
    /// Begins a backup of its own.
    ///
    /// # Errors
    /// When the store cannot be written, or the dump is of another format.
    pub async fn begin(ctx: &Arc<Context>, about: About) -> Result<Self, Error> {
        if ![mongodump::FORMAT, mongodump::PLAIN_FORMAT].contains(&about.format.as_str()) {
            return Err(Error::invalid(format!("'{}' is no format that can be imported", about.format)));
        }
        let started_at = Timestamp::now();
        let id = backups::reserve(ctx, started_at, None).await?;
        let About { description, hostname, format, notes } = about;
        Ok(Self {
            ctx: ctx.clone(),
            id,
            started_at,
            description,
            hostname,
            format,
            notes,
            contents: String::new(),
            open: None,
            seen: HashSet::new(),
            files: Vec::new(),
        })
    }

    /// The next piece of what the manifest will say.
    ///
    /// # Errors
    /// When it becomes far too long to be real.
    pub fn contents(&mut self, piece: &str) -> Result<(), Error> {
        if self.contents.len() + piece.len() > MAX_CONTENTS {
            return Err(Error::invalid("the dump's description is too long to be real"));
        }
        self.contents.push_str(piece);
        Ok(())
    }

    /// Begins a file.
    ///
    /// # Errors
    /// When its path is none of a dump's, or was there already, or the store cannot be written.
    pub async fn file(&mut self, path: &str) -> Result<(), Error> {
        check_path(path)?;
        let inside = path.strip_prefix(mongodump::ROOT).is_some_and(|rest| rest.starts_with('/'));
        if !inside || self.open.is_some() || !self.seen.insert(path.to_owned()) {
            return Err(Error::invalid(format!("{path} was sent out of turn")));
        }
        self.open = Some(self.ctx.store.begin(&self.id, path).await?);
        Ok(())
    }

    /// The next bytes of the file.
    ///
    /// # Errors
    /// When none is open, or the store cannot be written.
    pub async fn data(&mut self, data: Bytes) -> Result<(), Error> {
        match &mut self.open {
            Some(upload) => upload.write(data).await,
            None => Err(Error::invalid("data came for no file")),
        }
    }

    /// Ends the file, which must be what was read where it came from.
    ///
    /// # Errors
    /// When it is not, or none is open, or the store cannot be written.
    pub async fn end_of_file(&mut self, sha256: Sha256Digest) -> Result<(), Error> {
        let upload = self.open.take().ok_or_else(|| Error::invalid("no file is open"))?;
        let stored = upload.finish().await?;
        if stored.sha256 != sha256 {
            return Err(Error::new(Reason::Damaged, format!("{} arrived as something else", stored.path)));
        }
        self.files.push(stored);
        Ok(())
    }

    /// Writes the manifest: from here on there is a backup.
    ///
    /// # Errors
    /// When something is missing, or the store cannot be written. Nothing is left then.
    pub async fn finish(mut self) -> Result<Backup, Error> {
        match self.commit().await {
            Ok(manifest) => Ok(backups::completed(&self.ctx, &manifest).await),
            Err(e) => {
                self.discard().await;
                Err(e)
            }
        }
    }

    /// Gives the import up; nothing is left of it.
    pub async fn discard(self) {
        drop(self.open);
        backups::discard(&self.ctx, &self.id).await;
    }

    async fn commit(&mut self) -> Result<Manifest, Error> {
        if self.open.is_some() {
            return Err(Error::invalid("the last file has no end"));
        }
        let unfit = |e: &dyn std::fmt::Display| Error::invalid(format!("the dump cannot be described: {e}"));
        let contents: Contents = serde_json::from_str(&self.contents).map_err(|e| unfit(&e))?;
        let node: NodeName = NODE.parse().map_err(|e| unfit(&e))?;
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        let completed_at = Timestamp::now();
        let size_bytes = self.files.iter().map(|f| f.size_bytes).sum();
        let artifact = Artifact {
            id: ArtifactKind::Mongo.to_string(),
            kind: ArtifactKind::Mongo,
            node: node.clone(),
            path: mongodump::ROOT.to_owned(),
            format: self.format.clone(),
            started_at: self.started_at,
            completed_at,
            size_bytes,
            files: std::mem::take(&mut self.files),
            contents,
            warnings: std::mem::take(&mut self.notes),
        };
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            id: self.id.clone(),
            cluster: self.ctx.config.cluster.clone(),
            safety_of: None,
            class: None,
            description: self.description.clone(),
            scope: vec![ArtifactKind::Mongo],
            started_at: self.started_at,
            completed_at,
            product_version: env!("CARGO_PKG_VERSION").to_owned(),
            hosts: vec![Host { node, hostname: self.hostname.clone(), agent_version: String::new(), controller: None }],
            artifacts: vec![artifact],
            size_bytes,
            warnings: Vec::new(),
        };
        Manifest::from_json(&manifest.to_json()).map_err(|e| unfit(&e))?;
        self.ctx.store.commit(&self.id, manifest.checksums(), manifest.to_json()).await?;
        Ok(manifest)
    }
}
