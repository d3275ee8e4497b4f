//! The files of a controller: its root directory, captured as one tar.gz and restored, as a whole or in parts, by exchanging
//! directories.
//!
//! Knows directories and archives; nothing of services, jobs or the coordinator.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use prexor_format::{artifact::ArtifactKind, id::NodeName, manifest::Controller, tree::Pattern};
use prexor_proto::facts;
use tokio_util::sync::CancellationToken;

use super::{Captured, Inspection, Source, SourceError};
use crate::{arriving::Arriving, discover::discover, restore_unit::RestoreUnit, sink::ArtifactSink};

mod archive;
mod capture;
mod carry;
mod compare;
mod exchange;
mod holes;
mod index;
mod os;
mod owners;
mod part;
mod place;
mod platform_ca;
mod policy;
mod restore;
mod space;
mod unpack;
mod walk;

use policy::Rules;
use restore::Restore;

/// What a [`FilesSource`] captures.
#[derive(Debug, Clone, PartialEq)]
pub struct FilesConfig {
    /// This host's name; the archive lies under it.
    pub node: NodeName,
    /// The controller's root directory. It may be a symbolic link to it.
    pub root: PathBuf,
    /// What is left out besides `logs`.
    pub exclude: Vec<Pattern>,
    /// What is known of the controller, for when its `controller.yml` cannot be read.
    pub controller: Option<Controller>,
}

/// See the module's text.
#[derive(Debug)]
pub struct FilesSource {
    node: NodeName,
    root: PathBuf,
    rules: Rules,
    controller: Option<Controller>,
    /// Held by a verb of a restore until its thread has ended, also when the caller went away.
    busy: Arc<tokio::sync::Mutex<()>>,
}

impl FilesSource {
    /// A source for the tree at `config.root`, which need not be there yet.
    pub fn new(config: FilesConfig) -> Self {
        let FilesConfig { node, root, exclude, controller } = config;
        Self { node, root, rules: Rules::with_logs(exclude), controller, busy: Arc::default() }
    }

    async fn verb<T: Send + 'static>(
        &self,
        unit: &RestoreUnit,
        verb: impl FnOnce(&Restore<'_>) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let held = self.busy.clone().lock_owned().await;
        let (root, unit, stop) = (self.root.clone(), unit.clone(), CancellationToken::new());
        let excluded = self.rules.patterns().to_vec();
        let _stop_when_dropped = stop.clone().drop_guard();
        blocking(move || {
            let _held = held;
            verb(&Restore { root: &root, unit: &unit, excluded: &excluded, stop: &stop })
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(SourceError::Failed(format!("the work on the files ended abnormally: {e}"))))
}

#[async_trait]
impl Source for FilesSource {
    fn kind(&self) -> ArtifactKind {
        ArtifactKind::Filesystem
    }

    async fn inspect(&self) -> Inspection {
        let (root, rules) = (self.root.clone(), self.rules.clone());
        let target = format!("files of {}", root.display());
        blocking(move || Ok(inspect(&root, &rules)))
            .await
            .map(|(problem, facts)| Inspection { target: target.clone(), problem, facts })
            .unwrap_or_else(|e| Inspection { target, problem: Some(e.to_string()), facts: BTreeMap::new() })
    }

    async fn inspect_laws(&self) -> BTreeMap<String, String> {
        let root = self.root.clone();
        blocking(move || Ok(who_trusts(&root))).await.unwrap_or_default()
    }

    async fn capture(&self, sink: ArtifactSink, cancel: CancellationToken) -> Result<Captured, SourceError> {
        let (node, root, rules) = (self.node.clone(), self.root.clone(), self.rules.clone());
        let known = self.controller.clone();
        blocking(move || capture::capture(&node, &root, &rules, known, &sink, &cancel)).await
    }

    async fn prepare(&self, unit: &RestoreUnit) -> Result<(), SourceError> {
        self.verb(unit, |r| r.prepare()).await
    }

    async fn takes_arriving(&self, unit: &RestoreUnit) -> bool {
        self.verb(unit, |r| Ok(r.takes_arriving())).await.unwrap_or(false)
    }

    async fn prepare_arriving(&self, unit: &RestoreUnit, file: Arriving) -> Result<(), SourceError> {
        self.verb(unit, |r| r.prepare_arriving(file)).await
    }

    async fn swap(&self, unit: &RestoreUnit) -> Result<(), SourceError> {
        self.verb(unit, |r| r.swap()).await
    }

    async fn revert(&self, unit: &RestoreUnit) -> Result<(), SourceError> {
        self.verb(unit, |r| r.revert()).await
    }

    async fn commit(&self, unit: &RestoreUnit) -> Result<(), SourceError> {
        self.verb(unit, |r| r.commit()).await
    }

    async fn check(&self, unit: &RestoreUnit) -> Result<Vec<String>, SourceError> {
        self.verb(unit, |r| r.check()).await
    }
}

fn inspect(root: &Path, rules: &Rules) -> (Option<String>, BTreeMap<String, String>) {
    let mut facts = BTreeMap::from([(facts::ROOT.to_owned(), root.display().to_string())]);
    let real = match capture::readable_root(root) {
        Ok(real) => real,
        Err(e) => return (Some(e.to_string()), facts),
    };
    if let Some((entries, bytes)) = capture::glance(&real, rules, &CancellationToken::new()) {
        facts.insert(facts::ENTRIES.to_owned(), entries.to_string());
        facts.insert(facts::BYTES.to_owned(), bytes.to_string());
    }
    (None, facts)
}

/// What daemons' certificates and users' sessions hang on (law L10), where it can be read.
fn who_trusts(root: &Path) -> BTreeMap<String, String> {
    let ca = platform_ca::fingerprints(root);
    let ca = serde_json::to_string(&ca).ok().filter(|_| !ca.is_empty());
    let secret = discover(&[root]).ok().flatten().and_then(|found| found.jwt_secret);
    let told = [(facts::PLATFORM_CA, ca), (facts::JWT_SECRET, secret)];
    told.into_iter().filter_map(|(fact, value)| Some((fact.to_owned(), value?))).collect()
}
