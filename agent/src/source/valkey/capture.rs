//! A capture: the best way that the server and this host allow, and the bytes on their way, read once, checked and summed
//! up while they stream into the sink.

use std::{
    fmt,
    io::{self, Read, Write},
};

use futures::future::BoxFuture;
use prexor_format::{
    manifest::{Contents, KeyConsistency, ValkeyContents},
    rdb::{Checksum, RdbError, RdbSummary, Reader, Summary},
};
use tokio_util::sync::CancellationToken;

use super::{
    CaptureWay, Captured, SourceError, ValkeySource,
    address::Address,
    blocking,
    client::{Connection, Info},
    replication, save, scan,
    site::Site,
    wire::Wire,
};
use crate::sink::{ArtifactSink, Progress};

/// Where the file lies within a backup.
pub(super) const PATH: &str = "valkey/dump.rdb";

/// Keys between two looks at the progress.
const KEYS_AT_ONCE: u64 = 4096;

/// How the bytes are obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    BgsaveFile,
    Replication,
    Scan,
}

impl Way {
    /// Best first.
    const ALL: [Self; 3] = [Self::BgsaveFile, Self::Replication, Self::Scan];

    /// As the manifest names it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::BgsaveFile => "bgsave-file",
            Self::Replication => "replication",
            Self::Scan => "scan",
        }
    }

    /// What may be tried, in this order.
    fn choices(wanted: CaptureWay) -> Vec<Self> {
        match wanted {
            CaptureWay::Auto => Self::ALL.to_vec(),
            CaptureWay::Bgsave => vec![Self::BgsaveFile],
            CaptureWay::Replication => vec![Self::Replication],
            CaptureWay::Scan => vec![Self::Scan],
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A capture that has begun.
struct Begun {
    bytes: Box<dyn Read + Send>,
    /// Bytes to come, where that is known.
    total: Option<u64>,
    /// What must end well for the bytes to be good.
    meanwhile: BoxFuture<'static, Result<(), SourceError>>,
    warnings: Vec<String>,
}

/// One server, one capture.
struct Capture<'a> {
    source: &'a ValkeySource,
    info: Info,
    cancel: &'a CancellationToken,
}

/// Captures by the first way that the server does not refuse. A way that *fails* is not covered up by another.
pub(super) async fn run(
    source: &ValkeySource,
    sink: ArtifactSink,
    cancel: CancellationToken,
) -> Result<Captured, SourceError> {
    let begin = async {
        let info = source.connect().await?.info().await?;
        if info.loading() {
            return Err(source.address()?.loading());
        }
        let capture = Capture { source, info, cancel: &cancel };
        let (way, begun, refusals) = capture.begin(&sink).await?;
        Ok((way, begun, refusals, capture.info))
    };
    // A save goes on after a cancellation: before Valkey 8.1 nothing ends one but killing the child, and what does from
    // there on (BGSAVE CANCEL) would end another client's too. Its file is as good as any that the server saves.
    let (way, begun, refusals, info) = tokio::select! {
        begun = begin => begun?,
        () = cancel.cancelled() => return Err(SourceError::Cancelled),
    };
    let Begun { bytes, total, meanwhile, mut warnings } = begun;
    if way != Way::BgsaveFile && !refusals.is_empty() {
        warnings.insert(0, format!("captured by {way}, because {}", refusals.join("; ")));
    }
    let stopped = cancel.clone();
    let copying = blocking(move || copy(bytes, total, way, &sink, &cancel));
    let watching = async {
        tokio::select! {
            outcome = meanwhile => outcome,
            () = stopped.cancelled() => Err(SourceError::Cancelled),
        }
    };
    let (summary, watched) = tokio::join!(copying, watching);
    watched?;
    let (contents, more) = describe(summary?, way, &info);
    warnings.extend(more);
    Ok(Captured { contents: Contents::Valkey(contents), path: PATH.into(), format: "rdb", warnings })
}

/// The way that a capture would take now, as far as that can be told without taking it; an error where there is none.
pub(super) async fn foreseen(source: &ValkeySource, connection: &Connection) -> Result<Way, SourceError> {
    let sight = sight(source, connection).await?.map(drop);
    let (address, ways) = (source.address()?, Way::choices(source.config.capture));
    blocking(move || {
        let mut wire = Wire::connect(&address, &CancellationToken::new())?;
        let mut may = |command: &[&[u8]]| wire.may(command);
        let mut refusals = Vec::new();
        for way in ways {
            let refusal = match way {
                Way::BgsaveFile => match &sight {
                    Ok(()) if may(&[b"BGSAVE"])? => None,
                    Ok(()) => Some("BGSAVE is not allowed"),
                    Err(why) => Some(why.as_str()),
                },
                Way::Replication if may(&[b"SYNC"])? || may(&[b"PSYNC", b"?", b"-1"])? => None,
                Way::Replication => Some("neither SYNC nor PSYNC is allowed"),
                Way::Scan if may(&[b"SCAN", b"0"])? && may(&[b"DUMP", b"prexor-absent"])? => None,
                Way::Scan => Some("SCAN or DUMP is not allowed"),
            };
            match refusal {
                None => return Ok(way),
                Some(why) => refusals.push(format!("{way}: {why}")),
            }
        }
        Err(none_left(&address, &refusals))
    })
    .await
}

fn none_left(address: &Address, refusals: &[String]) -> SourceError {
    SourceError::Denied(format!("Valkey at {address} cannot be captured: {}", refusals.join("; ")))
}

/// Where the files are, if this host sees them.
async fn sight(source: &ValkeySource, connection: &Connection) -> Result<Result<Site, String>, SourceError> {
    let seen = async {
        let site = source.site(connection).await?;
        site.accessible().map(|()| site)
    };
    match seen.await {
        Err(SourceError::Denied(why)) => Ok(Err(why)),
        other => other.map(Ok),
    }
}

impl Capture<'_> {
    async fn begin(&self, sink: &ArtifactSink) -> Result<(Way, Begun, Vec<String>), SourceError> {
        let mut refusals = Vec::new();
        for way in Way::choices(self.source.config.capture) {
            let subject = match way {
                Way::BgsaveFile => "BGSAVE",
                Way::Replication => "waiting for the replication stream",
                Way::Scan => "SCAN",
            };
            sink.progress().set_subject(subject);
            let begun = match way {
                Way::BgsaveFile => self.bgsave().await?,
                Way::Replication => self.replication().await?,
                Way::Scan => self.scan().await?,
            };
            match begun {
                Ok(begun) => return Ok((way, begun, refusals)),
                Err(why) => {
                    tracing::info!(%way, why, "Valkey cannot be captured this way");
                    refusals.push(format!("{way}: {why}"));
                }
            }
        }
        Err(none_left(&self.source.address()?, &refusals))
    }

    async fn bgsave(&self) -> Result<Result<Begun, String>, SourceError> {
        let connection = self.source.connect().await?;
        let site = match sight(self.source, &connection).await? {
            Ok(site) => site,
            Err(why) => return Ok(Err(why)),
        };
        Ok(save::begin(&connection, &site).await?.map(|(save, growing)| Begun {
            bytes: Box::new(growing),
            total: None,
            meanwhile: Box::pin(save.finish()),
            warnings: Vec::new(),
        }))
    }

    async fn replication(&self) -> Result<Result<Begun, String>, SourceError> {
        let (address, cancel) = (self.source.address()?, self.cancel.clone());
        let snapshot = blocking(move || replication::open(&address, &cancel)).await?;
        Ok(snapshot.map(|snapshot| Begun {
            total: snapshot.length(),
            bytes: Box::new(snapshot),
            meanwhile: Box::pin(async { Ok(()) }),
            warnings: Vec::new(),
        }))
    }

    async fn scan(&self) -> Result<Result<Begun, String>, SourceError> {
        let (address, info, cancel) = (self.source.address()?, self.info.clone(), self.cancel.clone());
        let scan = blocking(move || scan::open(&address, &info, scan::Wanted::default(), &cancel)).await?;
        Ok(scan.map(|(scan, warnings)| Begun {
            total: None,
            bytes: Box::new(scan),
            meanwhile: Box::pin(async { Ok(()) }),
            warnings,
        }))
    }
}

/// Reads from one side and writes the same bytes to the other.
pub(super) struct Tee<'a, R, W> {
    pub(super) from: R,
    pub(super) out: W,
    pub(super) progress: &'a Progress,
    pub(super) cancel: &'a CancellationToken,
}

impl<R: Read, W: Write> Read for Tee<'_, R, W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other(SourceError::Cancelled));
        }
        let n = self.from.read(buf)?;
        self.out.write_all(&buf[..n])?;
        self.progress.add(n as u64, 0);
        Ok(n)
    }
}

/// Reads what `inner` has to its end, adding keys up.
pub(super) fn sum_up<R: Read>(inner: R, mut summary: Summary, progress: &Progress) -> Result<RdbSummary, RdbError> {
    let mut reader = Reader::new(inner)?;
    let mut unreported = 0;
    while let Some(entry) = reader.next_entry()? {
        summary.add(&entry);
        unreported += 1;
        if unreported == KEYS_AT_ONCE {
            progress.add(0, unreported);
            unreported = 0;
        }
    }
    progress.add(0, unreported);
    Ok(summary.finish(&reader))
}

/// Streams the bytes to the sink.
fn copy(
    from: Box<dyn Read + Send>,
    total: Option<u64>,
    way: Way,
    sink: &ArtifactSink,
    cancel: &CancellationToken,
) -> Result<RdbSummary, SourceError> {
    let progress = sink.progress();
    progress.set_subject(PATH);
    progress.set_total_bytes(total.unwrap_or(0));
    let gone = |_: io::Error| SourceError::Cancelled; // the sink fails only when nobody listens any more
    let mut writer = sink.create(PATH).map_err(gone)?;
    let tee = Tee { from, out: &mut writer, progress, cancel };
    let summary = sum_up(tee, Summary::new(), progress).map_err(|e| match e {
        _ if cancel.is_cancelled() => SourceError::Cancelled,
        RdbError::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => SourceError::Cancelled,
        RdbError::Io { source, offset } => source.downcast().unwrap_or_else(|source| {
            SourceError::Failed(format!("reading what Valkey saved failed at byte {offset}: {source}"))
        }),
        e => SourceError::Failed(format!("what Valkey gave ({way}) is no sound RDB file: {e}")),
    })?;
    writer.finish().map_err(gone)?;
    Ok(summary)
}

fn describe(summary: RdbSummary, way: Way, info: &Info) -> (ValkeyContents, Vec<String>) {
    let mut warnings = Vec::new();
    if summary.checksum != Checksum::Verified {
        warnings.push("the server writes RDB files without a checksum (rdbchecksum no)".to_owned());
    }
    if summary.fencing.is_none() {
        warnings
            .push("there are too many fencing counters to list them: a plan cannot tell how each goes on".to_owned());
    }
    if info.role() == "replica" {
        warnings.push("captured from a replica, which may lag behind its primary".to_owned());
    }
    if info.text("cluster_enabled") == "1" {
        warnings
            .push("the server is one node of a cluster: the slots of other nodes are not in this backup".to_owned());
    }
    // A scan's file says nothing of the server that the keys were in.
    let used_memory = summary.used_memory().or_else(|| info.number("used_memory"));
    let contents = ValkeyContents {
        server_version: info.server_version().to_owned(),
        server_name: info.server_name().to_owned(),
        rdb_version: summary.version,
        way: way.as_str().to_owned(),
        consistency: if way == Way::Scan { KeyConsistency::Fuzzy } else { KeyConsistency::Snapshot },
        role: Some(info.role().to_owned()),
        append_only: info.append_only(),
        keys: summary.keys,
        expiring_keys: summary.expiring_keys,
        families: summary.families,
        used_memory,
        fencing: summary.fencing,
        modules: summary.modules,
    };
    (contents, warnings)
}
