//! The saved file on its way: read once, checked and summed up while it streams into the sink.

use std::{
    fs::File,
    io::{self, Read, Write},
};

use prexor_format::{
    manifest::{KeyConsistency, ValkeyContents},
    rdb::{Checksum, RdbError, RdbSummary, Reader, Summary},
};
use tokio_util::sync::CancellationToken;

use super::{SourceError, save::Saved};
use crate::sink::{ArtifactSink, Progress};

/// Where the file lies within a backup.
pub(super) const PATH: &str = "valkey/dump.rdb";

/// Keys between two looks at the progress.
const KEYS_AT_ONCE: u64 = 4096;

/// Reads from one side and writes the same bytes to the other.
pub(super) struct Tee<'a, W> {
    pub(super) file: File,
    pub(super) out: W,
    pub(super) progress: &'a Progress,
    pub(super) cancel: &'a CancellationToken,
}

impl<W: Write> Read for Tee<'_, W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let n = self.file.read(buf)?;
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

/// Streams the saved file to the sink.
pub(super) fn stream(
    saved: Saved,
    sink: &ArtifactSink,
    cancel: &CancellationToken,
) -> Result<(ValkeyContents, Vec<String>), SourceError> {
    let Saved { file, site, info } = saved;
    let progress = sink.progress();
    progress.set_subject(&site.rdb);
    progress.set_total_bytes(file.metadata().map_or(0, |m| m.len()));
    let gone = |_: io::Error| SourceError::Cancelled; // the sink fails only when nobody listens any more
    let mut writer = sink.create(PATH).map_err(gone)?;
    let tee = Tee { file, out: &mut writer, progress, cancel };
    let summary = sum_up(tee, Summary::new(), progress).map_err(|e| match e {
        _ if cancel.is_cancelled() => SourceError::Cancelled,
        RdbError::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => SourceError::Cancelled,
        e => SourceError::Failed(format!(
            "the file that Valkey saved, {}, cannot be used: {e}",
            site.rdb_path().display()
        )),
    })?;
    writer.finish().map_err(gone)?;
    let mut warnings = Vec::new();
    if summary.checksum != Checksum::Verified {
        warnings.push("the server writes RDB files without a checksum (rdbchecksum no)".to_owned());
    }
    if info.role() == "replica" {
        warnings.push("captured from a replica, which may lag behind its primary".to_owned());
    }
    let used_memory = summary.used_memory();
    let contents = ValkeyContents {
        server_version: site.server_version,
        server_name: site.server_name,
        rdb_version: summary.version,
        way: "bgsave-file".to_owned(),
        consistency: KeyConsistency::Snapshot,
        role: Some(info.role().to_owned()),
        append_only: site.append_only,
        keys: summary.keys,
        expiring_keys: summary.expiring_keys,
        families: summary.families,
        used_memory,
        fencing: Some(summary.fencing),
    };
    Ok((contents, warnings))
}
