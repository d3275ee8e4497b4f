//! Whether a file system has the room for a tree that is to be unpacked there.

use std::{io, os::unix::ffi::OsStrExt as _, path::Path};

use prexor_format::manifest::FilesContents;

use super::archive::{Archive, Survey};
use crate::source::SourceError;

/// Whether everything has room beyond doubt, holes counted as if they were written.
pub(super) fn is_plenty(beside: &Path, contents: &FilesContents) -> io::Result<bool> {
    let fs = rustix::fs::statvfs(beside)?;
    let needed = contents.bytes.saturating_add(contents.entries.saturating_mul(fs.f_frsize));
    let inodes = fs.f_files == 0 || fs.f_favail >= contents.entries;
    Ok(inodes && fs.f_bavail.saturating_mul(fs.f_frsize) >= needed)
}

/// Refuses early when the file system of `beside` has not the room for what is unpacked. `survey` tells of a part; for
/// everything the manifest does.
pub(super) fn check(beside: &Path, archive: &Archive<'_>, survey: &Survey) -> Result<(), SourceError> {
    let fs = rustix::fs::statvfs(beside)
        .map_err(|e| SourceError::Failed(format!("{}: {}", beside.display(), io::Error::from(e))))?;
    let whole = archive.part.paths().is_none();
    let (entries, mut bytes) = match archive.contents {
        contents if whole => (contents.entries, contents.bytes),
        _ => (survey.entries, survey.bytes),
    };
    // Every entry takes a block, and the last block of a file is half empty on average.
    let blocks = entries.saturating_mul(fs.f_frsize);
    let free = fs.f_bavail.saturating_mul(fs.f_frsize);
    if whole && free < bytes.saturating_add(blocks) {
        // The manifest counts holes too. Only now is it worth to read the archive once more.
        bytes = archive.survey()?.bytes;
    }
    let needed = bytes.saturating_add(blocks);
    let short_of_inodes = fs.f_files > 0 && fs.f_favail < entries;
    if free < needed || short_of_inodes {
        let what = if short_of_inodes {
            format!("{} free inodes, {entries} are needed", fs.f_favail)
        } else {
            format!("{free} bytes free, {needed} are needed")
        };
        let beside = String::from_utf8_lossy(beside.as_os_str().as_bytes()).into_owned();
        return Err(SourceError::NoSpace(format!(
            "{beside} has {what} to keep the new tree beside the old one: free some space and start the restore again"
        )));
    }
    Ok(())
}
