//! The epoch that keeps a coordinator of the past from changing anything: an agent remembers the highest it has seen.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
};

use crate::restore_unit::write_durably;

/// The highest epoch seen, kept in a file.
#[derive(Debug)]
pub struct Fence {
    path: PathBuf,
    cluster: String,
    highest: Mutex<u64>,
}

/// Why a call was refused, or the record could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// Somebody else's coordinator.
    #[error("the call is for cluster '{asked}', this agent belongs to '{own}'")]
    OtherCluster {
        /// The cluster of the call.
        asked: String,
        /// The agent's own.
        own: String,
    },
    /// A coordinator of the past.
    #[error(
        "epoch {asked} is older than {highest}: another coordinator has taken over, this one must not change anything"
    )]
    Stale {
        /// The epoch of the call.
        asked: u64,
        /// The highest epoch seen.
        highest: u64,
    },
    /// The record could not be read or written.
    #[error("the epoch in {path} cannot be kept: {source}")]
    Io {
        /// The record.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Fence {
    /// The fence of an agent that belongs to `cluster`; its record is `<state_dir>/epoch`.
    ///
    /// # Errors
    /// When the record is there and cannot be read: going on would forget it.
    pub fn open(state_dir: &Path, cluster: &str) -> Result<Self, FenceError> {
        let path = state_dir.join("epoch");
        let highest = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(io::Error::other),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(e),
        };
        match highest {
            Ok(highest) => Ok(Self { path, cluster: cluster.to_owned(), highest: Mutex::new(highest) }),
            Err(source) => Err(FenceError::Io { path, source }),
        }
    }

    /// Lets a call pass, or refuses it. A higher epoch is recorded durably before the call passes.
    ///
    /// # Errors
    /// See [`FenceError`].
    pub fn pass(&self, cluster: &str, epoch: u64) -> Result<(), FenceError> {
        if cluster != self.cluster {
            return Err(FenceError::OtherCluster { asked: cluster.to_owned(), own: self.cluster.clone() });
        }
        let mut highest = self.highest.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if epoch < *highest {
            return Err(FenceError::Stale { asked: epoch, highest: *highest });
        }
        if epoch > *highest {
            write_durably(&self.path, epoch.to_string().as_bytes())
                .map_err(|source| FenceError::Io { path: self.path.clone(), source })?;
            *highest = epoch;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_epoch_is_refused_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let fence = Fence::open(dir.path(), "c").unwrap();
        fence.pass("c", 3).unwrap();
        fence.pass("c", 3).unwrap();
        fence.pass("c", 7).unwrap();
        assert!(matches!(fence.pass("c", 6), Err(FenceError::Stale { asked: 6, highest: 7 })));
        let fence = Fence::open(dir.path(), "c").unwrap();
        assert!(matches!(fence.pass("c", 6), Err(FenceError::Stale { .. })));
        assert!(matches!(fence.pass("other", 9), Err(FenceError::OtherCluster { .. })));
    }

    #[test]
    fn a_damaged_record_is_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("epoch"), "seven").unwrap();
        assert!(matches!(Fence::open(dir.path(), "c"), Err(FenceError::Io { .. })));
    }
}
