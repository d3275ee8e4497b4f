//! The backups that there are: the store's manifests, seen through the catalog's index of them.

use std::collections::HashMap;

use jiff::{Timestamp, tz::TimeZone};
use prexor_format::{
    id::BackupId,
    manifest::{MANIFEST_FILE, Manifest},
};
use prexor_proto::{
    backup::{Backup, BackupState},
    convert::{kind_to_wire, time_to_wire},
    reason::Reason,
};

use crate::{
    catalog::IndexedBackup,
    context::Context,
    error::Error,
    store::{Store, Survey},
};

/// Brings the index up to date with the store: manifests that are new or have changed are read, others not.
///
/// # Errors
/// When the store or the catalog cannot be used. A manifest that cannot be read makes its backup a damaged one.
pub async fn refresh_index(ctx: &Context) -> Result<(), Error> {
    // In this order: what is completed in between is seen in the store or is doomed still, and comes next time.
    let doomed = ctx.catalog.doomed_backups().await?;
    let found: Vec<Survey> =
        ctx.store.survey().await?.into_iter().filter(|s| doomed.iter().all(|d| d.id != s.id)).collect();
    let mut known: HashMap<BackupId, String> = ctx.catalog.indexed_stamps().await?.into_iter().collect();
    let mut put = Vec::new();
    for survey in found {
        let stamp = survey.stamp.clone().unwrap_or_default();
        if known.remove(&survey.id).is_none_or(|s| s != stamp || s.is_empty()) {
            put.push(look_at(&ctx.store, &survey).await?);
        }
    }
    let gone: Vec<BackupId> = known.into_keys().collect();
    ctx.catalog.update_index(&put, &gone).await
}

async fn look_at(store: &Store, survey: &Survey) -> Result<IndexedBackup, Error> {
    let id = &survey.id;
    let manifest = match store.read(id, MANIFEST_FILE).await {
        Ok(bytes) => parse(id, &bytes),
        Err(e) if e.reason == Reason::NotFound => {
            Err("it has no manifest: its capture never ended, or somebody removed it; `prexorctl backup delete` it"
                .to_owned())
        }
        Err(e) if e.reason == Reason::Damaged => Err(e.message),
        Err(e) => return Err(e),
    };
    let created_at = match &manifest {
        Ok(manifest) => manifest.started_at,
        Err(_) => id.day().to_zoned(TimeZone::UTC).map_or(Timestamp::UNIX_EPOCH, |day| day.timestamp()),
    };
    let backup = match manifest {
        Ok(manifest) => describe(store, &manifest),
        Err(problem) => {
            tracing::warn!(backup = %id, "a backup is damaged: {problem}");
            Backup {
                id: id.to_string(),
                state: BackupState::Damaged as i32,
                created_at: Some(time_to_wire(created_at)),
                path: store.location(id),
                problem,
                ..Backup::default()
            }
        }
    };
    // A damaged one is looked at again each time: a newer version may read it, or somebody may have put it right.
    let stamp =
        if backup.state() == BackupState::Damaged { String::new() } else { survey.stamp.clone().unwrap_or_default() };
    Ok(IndexedBackup { id: id.clone(), stamp, order: created_at, backup })
}

fn parse(id: &BackupId, bytes: &[u8]) -> Result<Manifest, String> {
    let manifest = Manifest::from_json(bytes).map_err(|e| e.to_string())?;
    if manifest.id == *id {
        return Ok(manifest);
    }
    Err(format!("its manifest is that of {}: the directory was renamed, or the manifest copied", manifest.id))
}

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

/// A complete backup as clients see it.
pub fn describe(store: &Store, manifest: &Manifest) -> Backup {
    let warnings = manifest.artifacts.iter().flat_map(|a| a.warnings.iter().map(move |w| format!("{}: {w}", a.id)));
    Backup {
        id: manifest.id.to_string(),
        state: BackupState::Complete as i32,
        created_at: Some(time_to_wire(manifest.started_at)),
        completed_at: Some(time_to_wire(manifest.completed_at)),
        size_bytes: manifest.size_bytes,
        scope: manifest.scope.iter().map(|k| kind_to_wire(*k) as i32).collect(),
        path: store.location(&manifest.id),
        description: manifest.description.clone().unwrap_or_default(),
        warnings: manifest.warnings.iter().cloned().chain(warnings).collect(),
        nodes: manifest.hosts.iter().map(|h| h.node.to_string()).collect(),
        problem: String::new(),
        verified_at: None,
        safety_of: manifest.safety_of.clone().unwrap_or_default(),
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

/// The newest complete backup, or the newest that was completed before this time; what restores saved of the state before
/// them is passed over.
///
/// # Errors
/// When the store or the catalog cannot be used.
pub async fn latest(ctx: &Context, before: Option<Timestamp>) -> Result<Option<Backup>, Error> {
    let limit = before.map(time_to_wire);
    first(ctx, |b| {
        let completed = b.completed_at.map(|t| (t.seconds, t.nanos));
        b.state() == BackupState::Complete
            && b.safety_of.is_empty()
            && limit.is_none_or(|l| completed < Some((l.seconds, l.nanos)))
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

/// Removes a backup from the store and the index. Refused while a job uses it.
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
