//! A save that was made for us (law L13): begun after we asked, known to have succeeded, and the very file that it wrote.
//!
//! Trusted are the server's counter of saves, its verdict on the last one, its run id, and the identity of the file; never
//! the time of the last save, which a failed one does not touch and whose seconds are too coarse.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    SourceError,
    client::{Connection, Info},
    site::Site,
};

/// How long a save, ours or another's, may show no progress at all.
const STALLED: Duration = Duration::from_secs(180);

/// How often another's save may come before ours.
const TRIES: u32 = 50;

/// The RDB file of a save made for the caller, open: whatever the server saves next, this handle stays on it.
pub(super) struct Saved {
    pub(super) file: File,
    pub(super) site: Site,
    pub(super) info: Info,
}

/// Device, inode, time of the last change in nanoseconds: tells one save's file from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64, i128);

impl Identity {
    fn of(m: &fs::Metadata) -> Self {
        Self(m.dev(), m.ino(), i128::from(m.mtime()) * 1_000_000_000 + i128::from(m.mtime_nsec()))
    }
}

/// Has the server save and opens the outcome.
pub(super) async fn fresh(connection: &Connection, site: &Site) -> Result<Saved, SourceError> {
    let at = connection.address();
    for _ in 0..TRIES {
        let before = idle(connection, site).await?;
        let file_before = fs::metadata(site.rdb_path()).ok().map(|m| Identity::of(&m));
        match connection.ask::<String>("BGSAVE", &[]).await? {
            Ok(_) => {}
            // Somebody else's save or rewrite began in between: theirs is not ours, wait and ask again.
            Err(said) if said.contains("in progress") || said.contains("child process is active") => continue,
            Err(said) => return Err(SourceError::Failed(format!("Valkey at {at} refuses BGSAVE: {said}"))),
        }
        let after = idle(connection, site).await?;
        if after.text("run_id") != before.text("run_id") {
            return Err(SourceError::Unavailable(format!("Valkey at {at} was restarted while it saved: try again")));
        }
        let more_saves = match (before.number("rdb_saves"), after.number("rdb_saves")) {
            (Some(before), Some(after)) => after > before,
            _ => true, // before Redis 7 there is no counter; the verdict and the file decide
        };
        if after.text("rdb_last_bgsave_status") != "ok" || !more_saves {
            return Err(failed(connection, site));
        }
        let file = open(&site.rdb_path())?;
        let metadata = file.metadata().map_err(|e| unreadable(&site.rdb_path(), &e))?;
        if file_before == Some(Identity::of(&metadata)) {
            return Err(SourceError::Failed(format!(
                "Valkey at {at} has saved, but {} did not change: it is another server's. Run the agent on the server's host, or set \
                 valkey.data_dir to the server's directory",
                site.rdb_path().display()
            )));
        }
        return Ok(Saved { file, site: site.clone(), info: after });
    }
    Err(SourceError::Failed(format!("Valkey at {at} is always busy with saves that others began: try again later")))
}

/// Waits until the server neither saves nor rewrites.
async fn idle(connection: &Connection, site: &Site) -> Result<Info, SourceError> {
    let mut patience = Patience::new(STALLED);
    let mut pause = Duration::from_millis(10);
    loop {
        let info = connection.info().await?;
        if info.loading() {
            return Err(connection.address().loading());
        }
        if info.text("rdb_bgsave_in_progress") != "1" && info.text("aof_rewrite_in_progress") != "1" {
            return Ok(info);
        }
        // Keys tell of progress, and for a huge key, or on servers that do not count, the file that grows.
        let moved = patience.goes_on((info.number("current_save_keys_processed").unwrap_or(0), growing(&site.dir)));
        if !moved {
            return Err(SourceError::Failed(format!(
                "a save of Valkey at {} has not moved for {} s: see its log",
                connection.address(),
                STALLED.as_secs()
            )));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}

fn failed(connection: &Connection, site: &Site) -> SourceError {
    let what = format!(
        "Valkey at {} could not save to {} (rdb_last_bgsave_status is not ok)",
        connection.address(),
        site.rdb_path().display()
    );
    match site.free_bytes() {
        Some(free) if free < 16 << 20 => {
            SourceError::NoSpace(format!("{what}: {free} bytes are left on its disk; make room and try again"))
        }
        _ => SourceError::Failed(format!("{what}: its log says why; older saves were left alone")),
    }
}

/// Bytes in the files that saves and rewrites write before they rename them.
fn growing(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_name().as_encoded_bytes().starts_with(b"temp-"))
        .filter_map(|e| e.metadata().ok())
        .map(|m| m.len())
        .sum()
}

fn open(path: &Path) -> Result<File, SourceError> {
    File::open(path).map_err(|e| unreadable(path, &e))
}

fn unreadable(path: &Path, e: &io::Error) -> SourceError {
    let what = format!("the RDB file {} cannot be read: {e}", path.display());
    if e.kind() == io::ErrorKind::PermissionDenied {
        SourceError::Denied(format!("{what}; run the agent as root or as the server's user"))
    } else {
        SourceError::Failed(what)
    }
}

/// Waiting that ends when nothing moves any more.
pub(super) struct Patience<T> {
    limit: Duration,
    last: Option<T>,
    since: Instant,
}

impl<T: PartialEq> Patience<T> {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, last: None, since: Instant::now() }
    }

    /// Whether to wait on, given the present figures.
    pub(super) fn goes_on(&mut self, figures: T) -> bool {
        let moved = self.last.as_ref() != Some(&figures);
        if moved {
            self.last = Some(figures);
            self.since = Instant::now();
        }
        moved || self.since.elapsed() < self.limit
    }
}
