//! A save that was made for us (law L13): begun after we asked, known to have succeeded, and the very file that it wrote.
//!
//! The file is opened under the name that the server's child gives it while it writes, and read as it grows; it is good when
//! the server says that the save succeeded and has given that same file its final name. Trusted are the server's counter of
//! saves, its verdict on the last one, its run id, and the identity of the file; never the time of the last save, which a
//! failed one does not touch and whose seconds are too coarse.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
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

/// Between two questions to a server that saves: a part of the time that it has been saving, within these.
const POLL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// Between two looks for bytes that the server's child may have written.
const GROWTH: Duration = Duration::from_millis(2);

/// Device, inode: which file it is, whatever its name.
type FileId = (u64, u64);

/// A file and what was last changed in it, in nanoseconds: tells one save's file from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity(FileId, u64, i128);

impl Identity {
    fn of(m: &fs::Metadata) -> Self {
        Self(id(m), m.len(), i128::from(m.mtime()) * 1_000_000_000 + i128::from(m.mtime_nsec()))
    }
}

fn id(m: &fs::Metadata) -> FileId {
    (m.dev(), m.ino())
}

const GROWING: u8 = 0;
const COMPLETE: u8 = 1;
const SPOILT: u8 = 2;

/// Reads a file that may still grow; its end is the end only when [`Save::finish`] has said so.
#[derive(Debug)]
pub(super) struct Growing {
    file: File,
    state: Arc<AtomicU8>,
    read: u64,
}

impl Read for Growing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            // The state before the read: what was complete then has no bytes that this read could miss.
            let state = self.state.load(Ordering::Acquire);
            let n = self.file.read(buf)?;
            self.read += n as u64;
            match state {
                SPOILT => return Err(io::Error::other("the save failed")),
                COMPLETE if n == 0 => return self.unchanged(),
                _ if n > 0 => return Ok(n),
                _ => std::thread::sleep(GROWTH),
            }
        }
    }
}

impl Growing {
    fn unchanged(&self) -> io::Result<usize> {
        match self.file.metadata()?.len() {
            len if len == self.read => Ok(0),
            len => {
                Err(io::Error::other(format!("it has {len} bytes, {} were read: it was changed meanwhile", self.read)))
            }
        }
    }
}

/// A save that was begun for the caller.
pub(super) struct Save {
    connection: Connection,
    site: Site,
    /// Before it began.
    before: Info,
    rdb_before: Option<Identity>,
    file: Option<FileId>,
    state: Arc<AtomicU8>,
}

/// Has the server begin a save and opens the file that is written. The inner error tells why this way is not ours to take.
pub(super) async fn begin(
    connection: &Connection,
    site: &Site,
) -> Result<Result<(Save, Growing), String>, SourceError> {
    let at = connection.address();
    for _ in 0..TRIES {
        let before = idle(connection, site).await?;
        let rdb_before = fs::metadata(site.rdb_path()).ok().map(|m| Identity::of(&m));
        let old: BTreeSet<FileId> = written(&site.dir).map(|(_, m)| id(&m)).collect();
        match connection.ask::<String>("BGSAVE", &[]).await {
            Ok(Ok(_)) => {}
            // Somebody else's save or rewrite began in between: theirs is not ours, wait and ask again.
            Ok(Err(said)) if said.contains("in progress") || said.contains("child process is active") => continue,
            Ok(Err(said)) if said.contains("unknown command") => return Ok(Err(said)),
            Err(SourceError::Denied(said)) => return Ok(Err(said)),
            Ok(Err(said)) => return Err(SourceError::Failed(format!("Valkey at {at} refuses BGSAVE: {said}"))),
            Err(e) => return Err(e),
        }
        let state = Arc::new(AtomicU8::new(GROWING));
        let mut save = Save {
            site: site.clone(),
            before,
            rdb_before,
            file: None,
            state: state.clone(),
            connection: connection.clone(),
        };
        let path = loop {
            let info = save.connection.info().await?;
            let young = written(&site.dir).find(|(name, m)| !old.contains(&id(m)) && is_save(name));
            if let Some((name, _)) = young {
                break site.dir.join(name);
            }
            if info.text("rdb_bgsave_in_progress") != "1" {
                break site.rdb_path();
            }
            tokio::time::sleep(GROWTH).await;
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            // Complete, and renamed, between the look and the opening.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                save.verdict().await?;
                match File::open(site.rdb_path()) {
                    Ok(file) => file,
                    Err(e) => {
                        return Ok(Err(elsewhere(site, &format!("there is no {} ({e})", site.rdb_path().display()))));
                    }
                }
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(Err(format!(
                    "the RDB file {} cannot be read ({e}): run the agent as root or as the server's user",
                    path.display()
                )));
            }
            Err(e) => return Err(unreadable(&path, &e)),
        };
        let metadata = file.metadata().map_err(|e| unreadable(&path, &e))?;
        if save.rdb_before.is_some_and(|before| before.0 == id(&metadata)) {
            // Nothing was written here. Either the save failed at once, or it went elsewhere.
            save.verdict().await?;
            return Ok(Err(elsewhere(site, &format!("{} did not change", site.rdb_path().display()))));
        }
        save.file = Some(id(&metadata));
        return Ok(Ok((save, Growing { file, state, read: 0 })));
    }
    Err(SourceError::Failed(format!("Valkey at {at} is always busy with saves that others began: try again later")))
}

/// The RDB file of a save made for the caller, open at its beginning: whatever the server saves next, this handle stays
/// on it.
pub(super) struct Saved {
    pub(super) file: File,
}

/// Has the server save, and waits for the outcome.
pub(super) async fn fresh(connection: &Connection, site: &Site) -> Result<Saved, SourceError> {
    match begin(connection, site).await? {
        Ok((save, growing)) => save.finish().await.map(|()| Saved { file: growing.file }),
        Err(why) => Err(SourceError::Denied(format!("Valkey at {} cannot save for us: {why}", connection.address()))),
    }
}

impl Save {
    /// Waits for the end of the save, and lets the reader know of it.
    pub(super) async fn finish(self) -> Result<(), SourceError> {
        let outcome = self.outcome().await;
        self.state.store(if outcome.is_ok() { COMPLETE } else { SPOILT }, Ordering::Release);
        outcome
    }

    async fn outcome(&self) -> Result<(), SourceError> {
        let saves = self.verdict().await?;
        let path = self.site.rdb_path();
        let named = fs::metadata(&path).map_err(|e| unreadable(&path, &e))?;
        // Where another save has followed within a moment, its file has taken the name.
        if Some(id(&named)) != self.file && saves.is_none_or(|n| n == 1) {
            return Err(SourceError::Failed(format!(
                "Valkey at {} has saved, but {} is not the file that it was seen writing: another program moves files there, or it \
                 is another server's. See valkey.data_dir, and try again",
                self.connection.address(),
                path.display()
            )));
        }
        Ok(())
    }

    /// Waits for the end of the save. How many succeeded since we asked, where the server counts them; an error when none
    /// did.
    async fn verdict(&self) -> Result<Option<u64>, SourceError> {
        let after = idle(&self.connection, &self.site).await?;
        if after.text("run_id") != self.before.text("run_id") {
            return Err(SourceError::Unavailable(format!(
                "Valkey at {} was restarted while it saved: try again",
                self.connection.address()
            )));
        }
        // Before Redis 7 there is no counter; the verdict and the file decide.
        let saves = self.before.number("rdb_saves").zip(after.number("rdb_saves")).map(|(b, a)| a.saturating_sub(b));
        if after.text("rdb_last_bgsave_status") != "ok" || saves == Some(0) {
            return Err(self.failed());
        }
        Ok(saves)
    }

    fn failed(&self) -> SourceError {
        failed(&self.connection, &self.site)
    }
}

/// A capture that ends early must not leave its reader waiting.
impl Drop for Save {
    fn drop(&mut self) {
        let _ = self.state.compare_exchange(GROWING, SPOILT, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// Waits until the server neither saves nor rewrites.
async fn idle(connection: &Connection, site: &Site) -> Result<Info, SourceError> {
    let (mut patience, begun) = (Patience::new(STALLED), Instant::now());
    loop {
        let info = connection.info().await?;
        if info.loading() {
            return Err(connection.address().loading());
        }
        if info.text("rdb_bgsave_in_progress") != "1" && info.text("aof_rewrite_in_progress") != "1" {
            return Ok(info);
        }
        // Keys tell of progress, and for a huge key, or on servers that do not count, the file that grows.
        let written: u64 = written(&site.dir).map(|(_, m)| m.len()).sum();
        if !patience.goes_on((info.number("current_save_keys_processed").unwrap_or(0), written)) {
            return Err(SourceError::Failed(format!(
                "a save of Valkey at {} has not moved for {} s: see its log",
                connection.address(),
                STALLED.as_secs()
            )));
        }
        tokio::time::sleep((begun.elapsed() / 64).clamp(POLL.0, POLL.1)).await;
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

fn elsewhere(site: &Site, what: &str) -> String {
    format!(
        "it has saved, but {what}: {} is another server's. Run the agent on the server's host, or set valkey.data_dir to the \
         server's directory",
        site.dir.display()
    )
}

/// Whether this is what `BGSAVE` calls its file; replicas that receive a snapshot and rewrites use other names.
fn is_save(name: &str) -> bool {
    let pid = name.strip_prefix("temp-").and_then(|rest| rest.strip_suffix(".rdb"));
    pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()))
}

/// The files that saves and rewrites write before they rename them.
fn written(dir: &Path) -> impl Iterator<Item = (String, fs::Metadata)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|e| {
        let name = e.file_name().into_string().ok().filter(|n| n.starts_with("temp-"))?;
        Some((name, e.metadata().ok()?))
    })
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
