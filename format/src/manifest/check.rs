//! Reading a manifest strictly: the published schema first, then what a schema cannot say.

use std::{collections::HashSet, sync::LazyLock};

use jsonschema::Validator;

use super::{Artifact, Contents, FORMAT_VERSION, Manifest};
use crate::artifact::ArtifactKind;

/// The published JSON Schema (draft 2020-12) of the manifest.
pub const SCHEMA: &str = include_str!("../../manifest.schema.json");

static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
    let schema = serde_json::from_str(SCHEMA).expect("the schema in the source tree is JSON, a test reads it");
    jsonschema::validator_for(&schema).expect("the schema in the source tree is a schema, a test reads it")
});

/// Why bytes are no manifest of a usable backup.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or JSON of another shape.
    #[error("the manifest cannot be read: {0}")]
    Malformed(String),
    /// Written by a newer version of this product.
    #[error(
        "the manifest has format version {0}, this version reads up to {FORMAT_VERSION}: update prexor-coordinator"
    )]
    TooNew(u64),
    /// Of the right shape, but contradicting itself.
    #[error("the manifest contradicts itself: {0}")]
    Inconsistent(String),
}

impl Manifest {
    /// Reads a manifest and checks it as a whole.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        let malformed = |e: serde_json::Error| ManifestError::Malformed(e.to_string());
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(malformed)?;
        match value.get("format_version").and_then(serde_json::Value::as_u64) {
            Some(v) if v > u64::from(FORMAT_VERSION) => return Err(ManifestError::TooNew(v)),
            _ => {}
        }
        if let Some(e) = VALIDATOR.iter_errors(&value).next() {
            return Err(ManifestError::Malformed(format!("{}: {e}", e.instance_path())));
        }
        let manifest: Self = serde_json::from_value(value).map_err(malformed)?;
        manifest.check().map_err(ManifestError::Inconsistent)?;
        Ok(manifest)
    }

    /// The manifest as it is stored.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = serde_json::to_vec_pretty(self).expect("a manifest has only string keys and finite numbers");
        out.push(b'\n');
        out
    }

    fn check(&self) -> Result<(), String> {
        let (mut ids, mut paths) = (HashSet::new(), HashSet::new());
        for artifact in &self.artifacts {
            if !ids.insert(&artifact.id) {
                return Err(format!("two artifacts are called {}", artifact.id));
            }
            if !self.scope.contains(&artifact.kind) {
                return Err(format!("{} is of a kind that is not in the scope", artifact.id));
            }
            if !self.hosts.iter().any(|h| h.node == artifact.node) {
                return Err(format!("{} comes from {}, which is not among the hosts", artifact.id, artifact.node));
            }
            artifact.check()?;
            if let Some(twice) = artifact.files.iter().find(|f| !paths.insert(&f.path)) {
                return Err(format!("{} is listed twice", twice.path));
            }
        }
        if let Some(kind) = self.scope.iter().find(|k| self.artifact(**k, None).is_none()) {
            return Err(format!("{kind} is in the scope, but there is no such artifact"));
        }
        if sum(self.artifacts.iter().map(|a| a.size_bytes)) != Some(self.size_bytes) {
            return Err("size_bytes is not the sum of the artifacts' sizes".into());
        }
        Ok(())
    }
}

impl Artifact {
    /// Checks one artifact's entry on its own; agents do so with what a coordinator sends them.
    ///
    /// # Errors
    /// In words, naming the artifact.
    pub fn check(&self) -> Result<(), String> {
        let kind = match self.contents {
            Contents::Mongo(_) => ArtifactKind::Mongo,
            Contents::Valkey(_) => ArtifactKind::Valkey,
            Contents::Filesystem(_) => ArtifactKind::Filesystem,
        };
        if kind != self.kind {
            return Err(format!("{} is a {} artifact with {kind} contents", self.id, self.kind));
        }
        let prefix = match self.kind {
            ArtifactKind::Filesystem => format!("filesystem/{}", self.node),
            kind => kind.to_string(),
        };
        for file in &self.files {
            let inside = file.path.strip_prefix(&prefix).is_some_and(|rest| rest.starts_with('/'));
            if !inside || !is_plain_path(&file.path) {
                return Err(format!("{} does not belong under {prefix}/", file.path));
            }
        }
        if let Contents::Mongo(mongo) = &self.contents {
            let there: HashSet<&str> = self.files.iter().map(|f| f.path.as_str()).collect();
            let named = mongo.collections.iter().flat_map(|c| c.data_path.iter().chain([&c.metadata_path]));
            let named = named.chain(mongo.accounts.iter().map(|a| &a.data_path));
            if let Some(missing) = named.map(String::as_str).find(|path| !there.contains(path)) {
                return Err(format!("{missing} is among the contents of {}, but not among its files", self.id));
            }
        }
        if sum(self.files.iter().map(|f| f.size_bytes)) != Some(self.size_bytes) {
            return Err(format!("the size of {} is not the sum of its files' sizes", self.id));
        }
        Ok(())
    }
}

/// Whether a path is relative, and free of `.`, `..`, empty components, backslashes and control characters.
pub fn is_plain_path(path: &str) -> bool {
    path.split('/').all(|c| !matches!(c, "" | "." | ".."))
        && path.len() <= 1024
        && !path.contains(|c: char| c.is_control() || c == '\\')
}

fn sum(mut sizes: impl Iterator<Item = u64>) -> Option<u64> {
    sizes.try_fold(0u64, u64::checked_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        digest::{ContentHasher, Order, Sha256Digest},
        manifest::{FilesContents, Host, StoredFile},
    };

    fn manifest() -> Manifest {
        let node: crate::id::NodeName = "h1".parse().unwrap();
        let content = ContentHasher::new(Order::Multiset).finish();
        let contents = FilesContents {
            root: "/etc/prexorcloud".into(),
            controller: None,
            entries: 1,
            files: 0,
            bytes: 0,
            excluded: vec!["logs".into()],
            notes: vec![],
            platform_ca: vec![],
            jwt_secret_mark: Some("0a1b".into()),
            content,
        };
        let path = "filesystem/h1/etc-prexorcloud.tar.gz".to_owned();
        let artifact = Artifact {
            id: "filesystem-h1".into(),
            kind: ArtifactKind::Filesystem,
            node: node.clone(),
            path: path.clone(),
            format: "tar+gzip".into(),
            started_at: "2026-05-10T08:00:00Z".parse().unwrap(),
            completed_at: "2026-05-10T08:00:01.5Z".parse().unwrap(),
            size_bytes: 7,
            files: vec![StoredFile { path, size_bytes: 7, sha256: Sha256Digest::of(b"x") }],
            contents: Contents::Filesystem(contents),
            warnings: vec![],
        };
        Manifest {
            format_version: FORMAT_VERSION,
            id: "bk-2026-05-10-001".parse().unwrap(),
            cluster: "prexorcloud".into(),
            description: Some("nightly".into()),
            safety_of: None,
            class: None,
            scope: vec![ArtifactKind::Filesystem],
            started_at: artifact.started_at,
            completed_at: artifact.completed_at,
            product_version: "0.1.0".into(),
            hosts: vec![Host { node, hostname: "h1".into(), agent_version: "0.1.0".into(), controller: None }],
            size_bytes: 7,
            artifacts: vec![artifact],
            warnings: vec![],
        }
    }

    #[test]
    fn a_manifest_reads_back_and_fits_its_schema() {
        let m = manifest();
        assert_eq!(Manifest::from_json(&m.to_json()).unwrap(), m);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut v = serde_json::to_value(manifest()).unwrap();
            change(&mut v);
            Manifest::from_json(v.to_string().as_bytes()).unwrap_err()
        };
        assert!(matches!(refused(&|v| v["format_version"] = 2.into()), ManifestError::TooNew(2)));
        assert!(matches!(refused(&|v| v["more"] = 1.into()), ManifestError::Malformed(_)));
        assert!(matches!(refused(&|v| v["id"] = "bk-1".into()), ManifestError::Malformed(_)));
        assert!(matches!(refused(&|v| v["size_bytes"] = 8.into()), ManifestError::Inconsistent(_)));
        assert!(matches!(refused(&|v| v["hosts"][0]["node"] = "h2".into()), ManifestError::Inconsistent(_)));
        for path in ["/etc/passwd", "filesystem/h1/../../x", "filesystem/h2/x", "mongo/x", "filesystem/h1//x"] {
            let e = refused(&|v| v["artifacts"][0]["files"][0]["path"] = path.into());
            assert!(matches!(e, ManifestError::Inconsistent(_) | ManifestError::Malformed(_)), "{path}");
        }
        assert!(matches!(Manifest::from_json(b"{"), Err(ManifestError::Malformed(_))));
        assert!(matches!(Manifest::from_json(b"[]"), Err(ManifestError::Malformed(_))));
    }
}
