//! Marks of backups: files beside their manifests, which the catalog's index repeats. The file is written first: what is in
//! the index alone would be gone with it.

use jiff::Timestamp;
use prexor_format::{
    digest::Sha256Digest,
    id::BackupId,
    manifest::MANIFEST_FILE,
    marks::{self, Depth, FORMAT_VERSION, Mark, Marks, Pin, Says, Statement},
};
use prexor_proto::{backup::Backup, reason::Reason};

use super::{measure, unknown};
use crate::{context::Context, error::Error, store::Store};

/// Who says what nobody asked for.
const BY: &str = "coordinator";

/// What the marks beside this manifest say. One that cannot be read says nothing, but for a pin: that holds.
pub(super) async fn read(store: &Store, id: &BackupId, manifest: &Sha256Digest) -> Result<Marks, Error> {
    let mut found = Marks::default();
    for mark in Mark::ALL {
        let bytes = match store.read(id, mark.path()).await {
            Ok(bytes) => bytes,
            Err(e) if e.reason == Reason::NotFound => continue,
            Err(e) => return Err(e),
        };
        match marks::read(&bytes, mark, id, manifest, |_, _| Ok(())) {
            Ok(statement) => found.take(statement),
            Err(e) => {
                tracing::warn!(backup = %id, "{} says nothing: {e}", mark.path());
                if mark == Mark::Pin {
                    let reason = format!("{} is there, but {e}", mark.path());
                    found.pin = Some(Pin { at: Timestamp::now(), by: String::new(), reason });
                }
            }
        }
    }
    Ok(found)
}

async fn say(ctx: &Context, id: &BackupId, at: Timestamp, by: &str, says: Says) -> Result<(), Error> {
    let manifest = ctx.store.read(id, MANIFEST_FILE).await?;
    let statement = Statement {
        format_version: FORMAT_VERSION,
        backup: id.clone(),
        manifest_sha256: Sha256Digest::of(&manifest),
        at,
        by: by.to_owned(),
        says,
    };
    ctx.store.put(id, statement.says.mark().path(), marks::write(&statement, |_| None)).await?;
    ctx.catalog.mark(id, at, by, &statement.says).await
}

/// Nobody removes this backup before it is unpinned.
///
/// # Errors
/// `NOT_FOUND`, `DAMAGED`, or when the store or the catalog cannot be written.
pub async fn pin(ctx: &Context, id: &BackupId, reason: String, by: &str) -> Result<Backup, Error> {
    let _gate = ctx.jobs.hold_submissions().await;
    super::manifest(ctx, id).await?;
    say(ctx, id, Timestamp::now(), by, Says::Pin { reason }).await?;
    indexed(ctx, id).await
}

/// It goes like others again.
///
/// # Errors
/// As [`pin`]; also when it is not pinned.
pub async fn unpin(ctx: &Context, id: &BackupId) -> Result<Backup, Error> {
    let _gate = ctx.jobs.hold_submissions().await;
    if indexed(ctx, id).await?.pin.is_none() {
        return Err(Error::invalid(format!("{id} is not pinned")));
    }
    match ctx.store.remove_file(id, Mark::Pin.path()).await {
        Ok(()) => {}
        Err(e) if e.reason == Reason::NotFound => {}
        Err(e) => return Err(e),
    }
    ctx.catalog.unmark(id, Mark::Pin).await?;
    indexed(ctx, id).await
}

/// What this backup has lost was meant to go.
///
/// # Errors
/// As [`pin`]; also when it is not suspect.
pub async fn accept(ctx: &Context, id: &BackupId, by: &str) -> Result<Backup, Error> {
    let _gate = ctx.jobs.hold_submissions().await;
    if indexed(ctx, id).await?.suspect.is_empty() {
        return Err(Error::invalid(format!("{id} is not suspect: there is nothing to accept")));
    }
    say(ctx, id, Timestamp::now(), by, Says::Accept).await?;
    measure(ctx).await?;
    indexed(ctx, id).await
}

/// Takes note of what a verify has found; `None`: nothing.
///
/// # Errors
/// When the catalog cannot be written.
pub async fn note_verified(
    ctx: &Context,
    id: &BackupId,
    depth: Depth,
    found: Option<String>,
    by: &str,
) -> Result<(), Error> {
    let _gate = ctx.jobs.hold_submissions().await;
    let Some(indexed) = ctx.catalog.backup(id).await? else { return Ok(()) };
    let now = Timestamp::now();
    let verified = indexed.marks.verified.and(now, depth, found);
    if verified == indexed.marks.verified {
        return Ok(());
    }
    let said = say(ctx, id, now, by, Says::Verify(verified.clone())).await;
    if let Err(e) = said {
        // A store that is full, read-only or without the manifest can be verified too: the index alone knows then.
        tracing::warn!(backup = %id, "what a verify found is not in the store: {e}");
        ctx.catalog.mark(id, now, by, &Says::Verify(verified)).await?;
    }
    Ok(())
}

/// Takes note that a backup of a newer version was verified, and when.
///
/// # Errors
/// When the catalog cannot be written.
pub async fn superseded(ctx: &Context, id: &BackupId, at: Timestamp, version: String) -> Result<(), Error> {
    let says = Says::Upgrade { version };
    if let Err(e) = say(ctx, id, at, BY, says.clone()).await {
        tracing::warn!(backup = %id, "that a newer version was verified is not in the store: {e}");
        ctx.catalog.mark(id, at, BY, &says).await?;
    }
    Ok(())
}

async fn indexed(ctx: &Context, id: &BackupId) -> Result<Backup, Error> {
    super::refresh_index(ctx).await?;
    ctx.catalog.backup(id).await?.map(|indexed| indexed.backup).ok_or_else(|| unknown(id))
}

/// `by root since 2026-05-10T08:00:00Z (before the audit)`
pub fn in_words(pin: &Pin) -> String {
    let by = pin.by.rsplit('/').next().unwrap_or_default();
    let why = if pin.reason.is_empty() { String::new() } else { format!(" ({})", pin.reason) };
    format!("by {} since {:.0}{why}", if by.is_empty() { "somebody" } else { by }, pin.at)
}
