//! Names of the collections that a restore has beside the live ones.

use prexor_format::digest::Sha256Digest;

/// What all of them begin with: never captured, never counted as live.
pub(super) const PREFIX: &str = "_prexor_";

/// Stored functions on their way out, of whatever job.
pub(super) const FUNCTIONS_ASIDE: &str = "_prexor_functions";

/// The names of one restore job.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) fn of(job_id: &str) -> Self {
        // A job's id may be long or hold anything; eight digits keep the names short and apart.
        let digest = Sha256Digest::of(job_id.as_bytes()).to_string();
        Self { prefix: format!("{PREFIX}{}_", &digest[..8]) }
    }

    /// Whether a collection belongs to this job, or is one that any job removes.
    pub(super) fn owns(&self, collection: &str) -> bool {
        collection.starts_with(&self.prefix) || collection == FUNCTIONS_ASIDE
    }

    /// The `n`th collection to become live.
    pub(super) fn staged(&self, n: usize) -> String {
        format!("{}{n}", self.prefix)
    }

    /// The `n`th collection that was live.
    pub(super) fn kept(&self, n: usize) -> String {
        format!("{}k{n}", self.prefix)
    }

    /// Where users or roles are on their way, in `admin`.
    pub(super) fn accounts(&self, what: &str) -> String {
        format!("{}{what}", self.prefix)
    }

    /// The copy in the making of the `n`th time series that is live.
    pub(super) fn copying(&self, n: usize) -> String {
        format!("{}c{n}", self.prefix)
    }
}
