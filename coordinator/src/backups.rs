//! The backups that there are: the store's manifests, seen through the catalog's index of them.

use jiff::{Timestamp, tz::TimeZone};
use prexor_format::{
    id::BackupId,
    manifest::{MANIFEST_FILE, Manifest},
};
use prexor_proto::{
    backup::{Backup, BackupState},
    convert::time_to_wire,
    reason::Reason,
};

use crate::{catalog::IndexedBackup, context::Context, error::Error, store::Survey};

mod index;
mod marks;

use index::parse;
pub use index::{describe, measure, rebuild_index, refresh_index};
pub use marks::{accept, in_words as pin_in_words, note_verified, pin, superseded, unpin};

/// A directory of its own for a new backup, remembered as one that must go unless it is completed.
///
/// # Errors
/// When the store or the catalog cannot be written.
pub async fn reserve(ctx: &Context, at: Timestamp, job: Option<&str>) -> Result<BackupId, Error> {
    let day = at.to_zoned(TimeZone::UTC).date();
    loop {
        let highest = ctx.store.highest_number(day).await?;
        let id = ctx.catalog.next_backup_id(at, highest).await?;
        if ctx.store.reserve(&id).await? {
            ctx.catalog.doom_backup(&id, job).await?;
            return Ok(id);
        }
    }
}

/// Lists a backup whose manifest has just been written.
pub async fn completed(ctx: &Context, manifest: &Manifest) -> Backup {
    let indexed = async {
        ctx.catalog.spare_backup(&manifest.id).await?;
        refresh_index(ctx).await
    };
    if let Err(e) = indexed.await {
        // The manifest is there, so the backup is: the next start puts the catalog right.
        tracing::error!(backup = %manifest.id, "a new backup could not be indexed yet: {e}");
    }
    describe(&ctx.store, manifest)
}

/// Removes what a backup that came to nothing has left.
pub async fn discard(ctx: &Context, id: &BackupId) {
    let removed = async {
        ctx.store.remove(id).await?;
        ctx.catalog.forget_backup(id).await
    };
    if let Err(e) = removed.await {
        tracing::error!(backup = %id, "what a failed backup has left is removed at the next start: {e}");
    }
}

/// The manifest of a backup, as it lies in the store now.
///
/// # Errors
/// `NOT_FOUND` when there is no such backup; `DAMAGED` when its manifest cannot be read.
pub async fn manifest(ctx: &Context, id: &BackupId) -> Result<Manifest, Error> {
    let found = find(ctx, id).await?;
    let damaged = |problem: &str| Error::new(Reason::Damaged, format!("{id} is damaged: {problem}"));
    let Some(_) = found.stamp else {
        return Err(damaged("it has no manifest"));
    };
    let bytes = ctx.store.read(id, MANIFEST_FILE).await?;
    parse(id, &bytes).map_err(|problem| damaged(&problem))
}

/// A backup's entry in the index, brought up to date, and its manifest's bytes as stored (empty when it has none).
///
/// # Errors
/// `NOT_FOUND` when there is no such backup.
pub async fn show(ctx: &Context, id: &BackupId) -> Result<(Backup, Vec<u8>), Error> {
    refresh_index(ctx).await?;
    let indexed = ctx.catalog.backup(id).await?.ok_or_else(|| unknown(id))?;
    let manifest = match ctx.store.read(id, MANIFEST_FILE).await {
        Ok(bytes) => bytes.to_vec(),
        Err(e) if e.reason == Reason::NotFound => Vec::new(),
        Err(e) => return Err(e),
    };
    Ok((indexed.backup, manifest))
}

/// Up to `limit` backups, newest first, after this one (its order in milliseconds and id).
///
/// # Errors
/// When the store or the catalog cannot be used.
pub async fn list(ctx: &Context, after: Option<(i64, &str)>, limit: u32) -> Result<Vec<IndexedBackup>, Error> {
    if after.is_none() {
        refresh_index(ctx).await?;
    }
    ctx.catalog.backups(after, limit).await
}

/// All backups, newest first.
///
/// # Errors
/// When the store or the catalog cannot be used.
pub async fn all(ctx: &Context) -> Result<Vec<IndexedBackup>, Error> {
    const PAGE: u32 = 1000;
    let mut all = list(ctx, None, PAGE).await?;
    let mut last = all.len();
    while last == PAGE as usize
        && let Some(end) = all.last().map(|b| (b.order.as_millisecond(), b.id.to_string()))
    {
        let page = list(ctx, Some((end.0, &end.1)), PAGE).await?;
        last = page.len();
        all.extend(page);
    }
    Ok(all)
}

/// Whether it is one to rely on: complete, not suspect, not found damaged, and not what a restore saved of a state that was
/// about to go.
pub fn is_good(backup: &Backup) -> bool {
    backup.state() == BackupState::Complete
        && backup.safety_of.is_empty()
        && backup.suspect.is_empty()
        && backup.verify_problem.is_empty()
}

/// The newest good backup, or the newest that was completed before this time.
///
/// # Errors
/// When the store or the catalog cannot be used.
pub async fn latest(ctx: &Context, before: Option<Timestamp>) -> Result<Option<Backup>, Error> {
    let limit = before.map(time_to_wire);
    first(ctx, |b| {
        let completed = b.completed_at.map(|t| (t.seconds, t.nanos));
        is_good(b) && limit.is_none_or(|l| completed < Some((l.seconds, l.nanos)))
    })
    .await
}

/// The backup of the state before a restore, if that made one.
///
/// # Errors
/// When the store or the catalog cannot be used.
pub async fn safety_of(ctx: &Context, job: &str) -> Result<Option<Backup>, Error> {
    first(ctx, |b| b.safety_of == job).await
}

/// The newest backup that fits.
///
/// # Errors
/// When the store or the catalog cannot be used.
pub async fn first(ctx: &Context, fits: impl Fn(&Backup) -> bool) -> Result<Option<Backup>, Error> {
    const PAGE: u32 = 100;
    let mut page = list(ctx, None, PAGE).await?;
    while let Some(last) = page.last().map(|b| (b.order.as_millisecond(), b.id.to_string())) {
        if let Some(found) = page.into_iter().map(|b| b.backup).find(&fits) {
            return Ok(Some(found));
        }
        page = list(ctx, Some((last.0, &last.1)), PAGE).await?;
    }
    Ok(None)
}

/// Removes a backup from the store and the index. Refused while a job uses it, or it is pinned.
///
/// # Errors
/// `NOT_FOUND`, `BUSY`, or when the store cannot be written; a delete that was begun is finished at the next start.
pub async fn delete(ctx: &Context, id: &BackupId) -> Result<(), Error> {
    let _gate = ctx.jobs.hold_submissions().await;
    let open = ctx.catalog.active_jobs().await?;
    let saves = ctx.catalog.backup(id).await?.map(|known| known.backup.safety_of).unwrap_or_default();
    let user = open.into_iter().find(|row| row.job.backup_id == id.to_string() || row.job.id == saves);
    if let Some(row) = user {
        let job = row.job.id;
        return Err(Error::new(
            Reason::Busy,
            format!("{job} uses {id}: wait for it, or cancel it with `prexorctl job cancel {job}`"),
        ));
    }
    find(ctx, id).await?;
    let pin = ctx.catalog.backup(id).await?.and_then(|indexed| indexed.marks.pin);
    if let Some(pin) = pin {
        let why = marks::in_words(&pin);
        return Err(Error::new(Reason::Busy, format!("{id} is pinned {why}: `prexorctl backup unpin {id}` first")));
    }
    ctx.catalog.doom_backup(id, None).await?;
    ctx.store.remove(id).await?;
    ctx.catalog.update_index(&[], std::slice::from_ref(id)).await?;
    ctx.catalog.forget_backup(id).await
}

/// Whether there is such a backup, damaged or not.
///
/// # Errors
/// `NOT_FOUND` when there is none.
pub async fn exists(ctx: &Context, id: &BackupId) -> Result<(), Error> {
    find(ctx, id).await.map(drop)
}

async fn find(ctx: &Context, id: &BackupId) -> Result<Survey, Error> {
    let all = ctx.store.survey().await?;
    all.into_iter().find(|s| s.id == *id).ok_or_else(|| unknown(id))
}

fn unknown(id: &BackupId) -> Error {
    Error::not_found(format!("there is no backup {id}: `prexorctl backup list` shows them"))
}
