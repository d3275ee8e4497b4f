//! This host as the agent sees it: who it is, what it cares for, and the one place where restores may touch it.

use std::{io, path::Path, sync::Arc};

use prexor_format::{artifact::ArtifactKind, gzip::Level, id::NodeName, manifest::Artifact, selection::Selection};

use crate::{
    config::AgentConfig,
    fence::{Fence, FenceError},
    restore_unit::RestoreUnit,
    restores::{self, Outcome, Restores, Verb},
    services::{self, Holds, Role, ServiceError, ServiceState, Services},
    source::{
        Source, SourceError,
        files::{FilesConfig, FilesSource},
        mongo::{CaptureOptions, MongoConfig, MongoSource},
        valkey::{ValkeyConfig, ValkeySource},
    },
    targets::{self, Targets},
};

/// The note of a unit that says what it is restored onto.
const TARGETS_NOTE: &str = "targets";

/// See the module's text.
pub struct Host {
    config: AgentConfig,
    hostname: String,
    fence: Fence,
    restores: Restores,
    services: Arc<dyn Services>,
    holds: Holds,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("node", &self.config.node).finish_non_exhaustive()
    }
}

/// Why the agent cannot start on this host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Its state directory cannot be used.
    #[error("{path}: {source}")]
    State {
        /// The directory.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The epoch's record is damaged.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// The services' configuration is wrong.
    #[error(transparent)]
    Services(#[from] ServiceError),
}

impl Host {
    /// This host with this configuration.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn open(config: AgentConfig) -> Result<Self, HostError> {
        let state = |source| HostError::State { path: config.state_dir.display().to_string(), source };
        std::fs::create_dir_all(&config.state_dir).map_err(state)?;
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self {
            hostname,
            fence: Fence::open(&config.state_dir, &config.cluster)?,
            restores: Restores::open(&config.state_dir).map_err(state)?,
            services: services::from_config(&config.services)?,
            holds: Holds::new(&config.state_dir),
            config,
        })
    }

    /// Its name in the backup system.
    pub fn node(&self) -> &NodeName {
        &self.config.node
    }

    /// The backup cluster that it belongs to.
    pub fn cluster(&self) -> &str {
        &self.config.cluster
    }

    /// Its name as the system reports it.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// Where the agent keeps what it must not forget.
    pub fn state_dir(&self) -> &Path {
        &self.config.state_dir
    }

    /// The fence that every changing call passes.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Its restore units.
    pub fn restores(&self) -> &Restores {
        &self.restores
    }

    /// What starts and stops services here.
    pub fn services(&self) -> &dyn Services {
        &*self.services
    }

    /// What keeps this host's controller stopped during a restore.
    pub fn holds(&self) -> &Holds {
        &self.holds
    }

    /// Where this host's controller says whether it is ready.
    pub fn ready_url(&self) -> String {
        self.config.services.ready_url(self.targets().http_port)
    }

    /// What restores left under way when the agent ended: says it in the log, and enforces a hold that is in force.
    pub async fn take_up(&self) {
        for line in self.restores.unfinished() {
            tracing::warn!("{line}");
        }
        match self.holds.in_force() {
            Ok(None) => {}
            Ok(Some(hold)) => {
                tracing::warn!(job = hold.job_id, since = %hold.since, "the controller on this host is held: only the end \
                    of its restore or `prexor-agent release --local` lets it start");
                if let Err(e) = self.holds.enforce(self.services(), &hold).await {
                    tracing::error!(job = hold.job_id, "the hold of the controller could not be enforced: {e}");
                }
            }
            Err(e) => tracing::error!("{e}; the controller on this host stays held"),
        }
    }

    /// What there is to capture now.
    pub fn targets(&self) -> Targets {
        targets::resolve(&self.config)
    }

    /// As [`Host::targets`], with the controller's version where a command tells it.
    pub async fn targets_and_version(&self) -> Targets {
        let mut targets = self.targets();
        if let Some(controller) = &mut targets.controller {
            controller.version = services::version_of(&self.config.controller.version_command).await;
        }
        targets
    }

    /// The sources of these targets.
    pub fn sources(&self, targets: &Targets) -> Vec<Arc<dyn Source>> {
        ArtifactKind::ALL.into_iter().filter_map(|kind| self.source(kind, targets, None)).collect()
    }

    /// The source of this kind as of now, to be captured with this compression where it has any and one is asked for.
    ///
    /// # Errors
    /// When this host has none.
    pub async fn live_source(
        &self,
        kind: ArtifactKind,
        compression: Option<Level>,
    ) -> Result<Arc<dyn Source>, SourceError> {
        // Only the files' artifact names the controller.
        let targets = match kind {
            ArtifactKind::Filesystem => self.targets_and_version().await,
            ArtifactKind::Mongo | ArtifactKind::Valkey => self.targets(),
        };
        self.state_is_outside(&targets)?;
        self.source(kind, &targets, compression).ok_or_else(|| self.no_source(kind))
    }

    /// Law L22: our key is not captured with the controller's files, and no restore carries our journals away.
    fn state_is_outside(&self, targets: &Targets) -> Result<(), SourceError> {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let state = real(&self.config.state_dir);
        match &targets.files {
            Some(files) if state.starts_with(real(&files.root)) => Err(SourceError::Invalid(format!(
                "the agent's state_dir {} lies inside {}, which is captured and replaced as a whole: move it elsewhere",
                state.display(),
                files.root.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Makes or opens a unit. What it is restored onto is settled now: the restore itself may change `controller.yml`.
    ///
    /// # Errors
    /// When the unit's record cannot be kept, or this host has nothing of that kind.
    pub fn begin_unit(
        &self,
        job_id: &str,
        artifact: &Artifact,
        selection: &Selection,
    ) -> Result<RestoreUnit, SourceError> {
        let targets = self.targets();
        if self.source(artifact.kind, &targets, None).is_none() {
            return Err(self.no_source(artifact.kind));
        }
        self.state_is_outside(&targets)?;
        let unit = self.restores.create(job_id, artifact, selection)?;
        let noted: Option<Targets> = unit.load_note(TARGETS_NOTE).map_err(note_error)?;
        if noted.is_none() {
            unit.save_note(TARGETS_NOTE, &targets).map_err(note_error)?;
        }
        Ok(unit)
    }

    /// Carries out a restore verb on a unit.
    ///
    /// # Errors
    /// What the source says; and a swap is refused while this host's controller runs (law L14).
    pub async fn carry_out(&self, verb: Verb, unit: &RestoreUnit) -> Result<Outcome, SourceError> {
        if verb == Verb::Swap {
            self.refuse_while_controller_runs().await?;
        }
        restores::carry_out(verb, unit, &*self.unit_source(unit)?).await
    }

    /// The source that restores a unit, onto what was there when it began.
    ///
    /// # Errors
    /// When the unit's record cannot be read, or this host has nothing of that kind.
    pub fn unit_source(&self, unit: &RestoreUnit) -> Result<Arc<dyn Source>, SourceError> {
        let targets: Targets = unit.load_note(TARGETS_NOTE).map_err(note_error)?.unwrap_or_else(|| self.targets());
        let kind = unit.artifact.kind;
        self.source(kind, &targets, None).ok_or_else(|| self.no_source(kind))
    }

    /// Whether this host's controller runs. Where there is a controller and nobody has said how to ask for it, that is
    /// unknown, which is not the same as stopped (law L14).
    ///
    /// # Errors
    /// When it cannot be found out.
    pub async fn controller_state(&self, targets: &Targets) -> Result<ServiceState, ServiceError> {
        if targets.controller.is_some() && !self.services.knows(Role::Controller) {
            return Err(ServiceError(
                "the agent does not know how to ask for the controller here: set services.controller.hooks in agent.yml"
                    .to_owned(),
            ));
        }
        self.services.state(Role::Controller).await
    }

    async fn refuse_while_controller_runs(&self) -> Result<(), SourceError> {
        match self.controller_state(&self.targets()).await {
            Ok(ServiceState::Inactive | ServiceState::Absent) => Ok(()),
            Ok(ServiceState::Active) => Err(SourceError::Invalid(format!(
                "the controller on {} is running and would write into half-restored stores: stop it first (law L14)",
                self.node()
            ))),
            Err(e) => Err(SourceError::Failed(format!("it is unknown whether the controller runs: {e}"))),
        }
    }

    fn source(&self, kind: ArtifactKind, targets: &Targets, compression: Option<Level>) -> Option<Arc<dyn Source>> {
        match kind {
            ArtifactKind::Mongo => {
                let t = targets.mongo.clone()?;
                let source = MongoSource::new(MongoConfig { uri: t.uri, database: t.database, databases: t.databases });
                let source = source.beside_controllers(targets.logins.mongo.clone());
                Some(Arc::new(source.capturing(CaptureOptions {
                    compression: compression.unwrap_or(self.config.mongo.compression),
                    read_from: self.config.mongo.read_from,
                })))
            }
            ArtifactKind::Valkey => {
                let t = targets.valkey.clone()?;
                let config = ValkeyConfig { uri: t.uri, data_dir: t.data_dir, capture: t.capture, tls: t.tls };
                let source = ValkeySource::new(config, self.services.clone());
                Some(Arc::new(source.beside_controllers(targets.logins.valkey.clone())))
            }
            ArtifactKind::Filesystem => {
                let t = targets.files.clone()?;
                let node = self.config.node.clone();
                let controller = targets.controller.clone();
                Some(Arc::new(FilesSource::new(FilesConfig { node, root: t.root, exclude: t.exclude, controller })))
            }
        }
    }

    fn no_source(&self, kind: ArtifactKind) -> SourceError {
        SourceError::Unavailable(format!(
            "{} has no {kind} to care for: there is no controller.yml that names one, and agent.yml does not either",
            self.node()
        ))
    }
}

fn note_error(e: io::Error) -> SourceError {
    SourceError::Failed(format!("the unit's record cannot be kept: {e}"))
}
