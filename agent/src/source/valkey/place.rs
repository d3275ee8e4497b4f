//! Moving files in the server's data directory while the server is down: what it loads aside, ours in its place, and back.
//!
//! Everything happens by renames within one directory of our own beside the data, `.prexor-<job>/`: `incoming` holds
//! what was prepared, `kept` what was live, `dropped` what came up in between. Each call may be repeated after a crash
//! at any point; the two notes it keeps and the places of the files say what is left to do.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{SourceError, site::Site};
use crate::restore_unit::RestoreUnit;

/// Note: the names that were there when the exchange began.
const HAD: &str = "valkey-had";
/// Note: everything is back where it was.
const BACK: &str = "valkey-back";

/// The data directory and the work directory in it.
pub(super) struct Place<'a> {
    site: &'a Site,
    unit: &'a RestoreUnit,
    work: PathBuf,
}

impl<'a> Place<'a> {
    pub(super) fn new(site: &'a Site, unit: &'a RestoreUnit) -> Self {
        // The job's id comes from outside; here it must be one name.
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
        let job: String = unit.job_id.chars().map(plain).collect();
        Self { site, unit, work: site.dir.join(format!(".prexor-{job}")) }
    }

    /// Our directory beside the data.
    pub(super) fn work(&self) -> &Path {
        &self.work
    }

    /// Where what will be live under this name is prepared.
    pub(super) fn incoming(&self, name: &str) -> PathBuf {
        self.work.join("incoming").join(name)
    }

    fn names(&self) -> [&str; 2] {
        [&self.site.rdb, self.site.aof_name()]
    }

    fn live(&self, name: &str) -> PathBuf {
        self.site.dir.join(name)
    }

    fn kept(&self, name: &str) -> PathBuf {
        self.work.join("kept").join(name)
    }

    /// Puts what was prepared in the place of what is live. The server is down.
    pub(super) fn exchange(&self) -> Result<(), SourceError> {
        let had: Vec<String> = match self.note(HAD)? {
            Some(had) => had,
            None => {
                let mut had = Vec::new();
                for name in self.names() {
                    if self.exists(&self.live(name))? {
                        had.push(name.to_owned());
                    }
                }
                self.keep_note(HAD, &had)?;
                had
            }
        };
        for name in self.names() {
            let (live, incoming, kept) = (self.live(name), self.incoming(name), self.kept(name));
            if had.iter().any(|h| h == name) && !self.exists(&kept)? {
                self.rename(&live, &kept)?;
            }
            if self.exists(&incoming)? {
                self.drop_live(name)?;
                self.rename(&incoming, &live)?;
            }
        }
        Ok(())
    }

    /// Whether [`Place::exchange`] was ever begun.
    pub(super) fn begun(&self) -> Result<bool, SourceError> {
        Ok(self.note::<Vec<String>>(HAD)?.is_some())
    }

    /// Puts back what was live. The server is down.
    pub(super) fn put_back(&self) -> Result<(), SourceError> {
        let Some(had) = self.note::<Vec<String>>(HAD)? else { return Ok(()) };
        if self.is_back()? {
            return Ok(());
        }
        for name in self.names() {
            let kept = self.kept(name);
            if !had.iter().any(|h| h == name) {
                self.drop_live(name)?;
            } else if self.exists(&kept)? {
                self.drop_live(name)?;
                self.rename(&kept, &self.live(name))?;
            }
        }
        self.keep_note(BACK, &true)
    }

    /// Whether [`Place::put_back`] has done its work.
    pub(super) fn is_back(&self) -> Result<bool, SourceError> {
        Ok(self.note::<bool>(BACK)?.unwrap_or(false))
    }

    /// Removes our directory with all that is in it.
    pub(super) fn discard(&self) -> Result<(), SourceError> {
        match fs::remove_dir_all(&self.work) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.failed("removing", &self.work, &e)),
            _ => Ok(()),
        }
    }

    /// Gets what is live under this name out of the way, if there is anything; it is not needed any more.
    fn drop_live(&self, name: &str) -> Result<(), SourceError> {
        let (live, dropped) = (self.live(name), self.work.join("dropped").join(name));
        if !self.exists(&live)? {
            return Ok(());
        }
        let earlier = if dropped.is_dir() { fs::remove_dir_all(&dropped) } else { fs::remove_file(&dropped) };
        match earlier {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.failed("removing", &dropped, &e)),
            _ => self.rename(&live, &dropped),
        }
    }

    /// Renames, and has both directories on the disk before it returns.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), SourceError> {
        let durably = || {
            let parent = |p: &Path| p.parent().map(Path::to_owned).ok_or_else(|| io::Error::other("no directory"));
            fs::create_dir_all(parent(to)?)?;
            fs::rename(from, to)?;
            sync(&parent(to)?)?;
            sync(&parent(from)?)
        };
        durably().map_err(|e| self.failed("moving", from, &e))
    }

    fn exists(&self, path: &Path) -> Result<bool, SourceError> {
        match fs::symlink_metadata(path) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.failed("looking at", path, &e)),
        }
    }

    fn note<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, SourceError> {
        self.unit.load_note(name).map_err(|e| self.failed("reading the notes in", self.unit.dir(), &e))
    }

    fn keep_note<T: serde::Serialize>(&self, name: &str, note: &T) -> Result<(), SourceError> {
        self.unit.save_note(name, note).map_err(|e| self.failed("keeping notes in", self.unit.dir(), &e))
    }

    /// The error for a failure of the system.
    pub(super) fn failed(&self, doing: &str, path: &Path, e: &io::Error) -> SourceError {
        let what = format!("{doing} {} failed: {e}", path.display());
        match e.kind() {
            io::ErrorKind::PermissionDenied => SourceError::Denied(format!(
                "{what}; the agent must run as root or as the server's user to restore Valkey"
            )),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SourceError::NoSpace(what),
            _ => SourceError::Failed(what),
        }
    }
}

/// Has a file or directory on the disk.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}
