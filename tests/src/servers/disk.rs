//! A disk of few MiB that can be filled up: a file system in memory, in a mount namespace of its own, so that no
//! privilege is needed and nothing is left when it goes.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Child, Command},
};

use tempfile::TempDir;

use super::{PATIENCE, process, wait_until};

/// It is there until it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    point: TempDir,
    /// Keeps the namespace alive.
    holder: Option<Child>,
}

impl SmallDisk {
    /// An empty one.
    ///
    /// # Panics
    /// When this system lets nobody make user namespaces.
    pub async fn new(mib: u32) -> Self {
        let point = tempfile::Builder::new().prefix("prexor-disk-").tempdir().expect("a temporary directory");
        let script = "mount -t tmpfs -o size=\"$1\"m tmpfs \"$2\" && mkdir \"$2/data\" && exec sleep 86400";
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", script, "disk", &mib.to_string()]).arg(point.path());
        let log = tempfile::NamedTempFile::new().expect("a temporary file");
        let holder = process::spawn(&mut command, log.path()).expect("unshare is there (util-linux)");
        let disk = Self { point, holder: Some(holder) };
        wait_until("a file system in memory", PATIENCE, async || disk.outside().join("data").is_dir()).await;
        disk
    }

    /// Where it is, for processes that are [within](Self::enter).
    pub(super) fn dir(&self) -> PathBuf {
        self.point.path().join("data")
    }

    /// The words before a command that is to see it.
    pub(super) fn enter(&self) -> Vec<String> {
        let target = self.pid().to_string();
        let words = ["nsenter", "--target", &target, "--user", "--preserve-credentials", "--mount", "--"];
        words.map(str::to_owned).to_vec()
    }

    /// Fills it up, or empties it, to so many MiB that are free.
    ///
    /// # Panics
    /// When it holds more than that besides.
    pub fn leave_free(&self, mib: u64) {
        let path = self.outside().join("ballast");
        let mut ballast = fs::File::options().create(true).append(true).open(path).expect("a file");
        loop {
            let free = rustix::fs::statvfs(self.outside()).map(|s| s.f_bavail * s.f_frsize).expect("it tells its size");
            match free.checked_sub(mib << 20) {
                Some(0) => return,
                // Bit by bit: a server writes meanwhile.
                Some(more) => {
                    ballast.write_all(&vec![0_u8; more.min(8 << 20) as usize]).expect("there is room");
                }
                None => {
                    let length = ballast.metadata().expect("it is there").len();
                    return ballast.set_len(length.saturating_sub((mib << 20) - free)).expect("it can be cut");
                }
            }
        }
    }

    /// Takes away what filled it.
    ///
    /// # Panics
    /// When nothing did.
    pub fn empty(&self) {
        fs::remove_file(self.outside().join("ballast")).expect("it was filled");
    }

    /// Where [`SmallDisk::dir`] is for processes that are not within.
    pub(super) fn seen_from_outside(&self) -> PathBuf {
        self.outside().join("data")
    }

    /// As this process sees it.
    fn outside(&self) -> PathBuf {
        let point = self.point.path().strip_prefix("/").expect("a temporary directory is absolute");
        PathBuf::from(format!("/proc/{}/root", self.pid())).join(point)
    }

    fn pid(&self) -> u32 {
        self.holder.as_ref().map(Child::id).expect("it is held until it is dropped")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Some(holder) = self.holder.take() {
            process::kill_now(holder);
        }
    }
}
