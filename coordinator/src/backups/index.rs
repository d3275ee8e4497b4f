//! The catalog's index of the backups: brought up to date with the store, which alone knows what there is.

use std::collections::HashMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::{Timestamp, tz::TimeZone};
use prexor_format::{
    digest::Sha256Digest,
    id::BackupId,
    laws::valkey::is_of_the_moment,
    manifest::{Contents, MANIFEST_FILE, Manifest},
    marks::Marks,
};
use prexor_proto::{
    backup::{Backup, BackupState},
    convert::{class_to_wire, kind_to_wire, time_to_wire},
    reason::Reason,
};

use super::marks;
use crate::{
    catalog::IndexedBackup,
    context::Context,
    error::Error,
    import, retention,
    store::{Store, Survey},
};

/// Manifests that are read at once.
const LOOKS_AT_ONCE: usize = 16;

/// Brings the index up to date with the store: manifests that are new or have changed are read, others not.
///
/// # Errors
/// When the store or the catalog cannot be used. A manifest that cannot be read makes its backup a damaged one.
pub async fn refresh_index(ctx: &Context) -> Result<(), Error> {
    let found = surveyed(ctx).await?;
    let mut known: HashMap<BackupId, String> = ctx.catalog.indexed_stamps().await?.into_iter().collect();
    let mut fresh = Vec::new();
    for survey in found {
        let stamp = survey.stamp.clone().unwrap_or_default();
        if known.remove(&survey.id).is_none_or(|s| s != stamp || s.is_empty()) {
            fresh.push(survey);
        }
    }
    let gone: Vec<BackupId> = known.into_keys().collect();
    let looks = look_at_all(&ctx.store, fresh).await?;
    let mut put = Vec::new();
    for look in looks {
        if !is_old_news(ctx, &look).await? {
            put.push(look);
        }
    }
    if put.is_empty() && gone.is_empty() {
        return Ok(());
    }
    ctx.catalog.update_index(&put, &gone).await?;
    measure(ctx).await
}

/// Reads everything that the index says from the store again, whatever it said before, and returns what there is.
///
/// # Errors
/// When the store or the catalog cannot be used: the index stays as it was.
pub async fn rebuild_index(ctx: &Context) -> Result<Vec<Backup>, Error> {
    // Nothing is pinned, deleted or begun meanwhile.
    let _gate = ctx.jobs.hold_submissions().await;
    let found = surveyed(ctx).await?;
    let looks = look_at_all(&ctx.store, found).await?;
    ctx.catalog.replace_index(&looks).await?;
    measure(ctx).await?;
    tracing::info!(backups = looks.len(), "the index of backups was read from the store again");
    Ok(looks.into_iter().map(|look| look.backup).collect())
}

/// What the store has that is not about to go, or not complete yet.
async fn surveyed(ctx: &Context) -> Result<Vec<Survey>, Error> {
    // In this order: what is completed in between is seen in the store or is doomed still, and comes next time.
    let doomed = ctx.catalog.doomed_backups().await?;
    Ok(ctx.store.survey().await?.into_iter().filter(|s| doomed.iter().all(|d| d.id != s.id)).collect())
}

/// Whether the index says so already: of what is damaged, which is looked at each time.
async fn is_old_news(ctx: &Context, look: &IndexedBackup) -> Result<bool, Error> {
    if look.backup.state() != BackupState::Damaged {
        return Ok(false);
    }
    let known = ctx.catalog.backup(&look.id).await?;
    Ok(known.is_some_and(|known| known.backup == look.backup))
}

/// Finds out which backups of the index are suspect: each is measured against those before it.
///
/// # Errors
/// When the catalog cannot be used.
pub async fn measure(ctx: &Context) -> Result<(), Error> {
    let suspects = retention::suspects(&ctx.catalog.figures().await?);
    for (id, lost) in ctx.catalog.set_suspects(&suspects).await? {
        tracing::warn!(backup = %id, "a backup is suspect: {lost}");
    }
    Ok(())
}

async fn look_at_all(store: &Store, all: Vec<Survey>) -> Result<Vec<IndexedBackup>, Error> {
    let look = |survey: Survey| {
        let store = store.clone();
        async move { look_at(&store, &survey).await }
    };
    let looks: Vec<_> = all.into_iter().map(look).collect();
    stream::iter(looks).buffered(LOOKS_AT_ONCE).try_collect().await
}

async fn look_at(store: &Store, survey: &Survey) -> Result<IndexedBackup, Error> {
    let id = &survey.id;
    let manifest = match store.read(id, MANIFEST_FILE).await {
        Ok(bytes) => parse(id, &bytes).map(|manifest| (manifest, Sha256Digest::of(&bytes))),
        Err(e) if e.reason == Reason::NotFound => {
            Err("it has no manifest: its capture never ended, or somebody removed it; `prexorctl backup delete` it"
                .to_owned())
        }
        Err(e) if e.reason == Reason::Damaged => Err(e.message),
        Err(e) => return Err(e),
    };
    let created_at = match &manifest {
        Ok((manifest, _)) => manifest.started_at,
        Err(_) => id.day().to_zoned(TimeZone::UTC).map_or(Timestamp::UNIX_EPOCH, |day| day.timestamp()),
    };
    let mut found = Marks::default();
    let backup = match manifest {
        Ok((manifest, digest)) => {
            found = marks::read(store, id, &digest).await?;
            describe(store, &manifest)
        }
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
    Ok(IndexedBackup { id: id.clone(), stamp, order: created_at, backup, marks: found })
}

pub(super) fn parse(id: &BackupId, bytes: &[u8]) -> Result<Manifest, String> {
    let manifest = Manifest::from_json(bytes).map_err(|e| e.to_string())?;
    if manifest.id == *id {
        return Ok(manifest);
    }
    Err(format!("its manifest is that of {}: the directory was renamed, or the manifest copied", manifest.id))
}

/// A complete backup as clients see it.
pub fn describe(store: &Store, manifest: &Manifest) -> Backup {
    let warnings = manifest.artifacts.iter().flat_map(|a| a.warnings.iter().map(move |w| format!("{}: {w}", a.id)));
    let measured = manifest.safety_of.is_none() && manifest.hosts.iter().all(|h| h.node.to_string() != import::NODE);
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
        class: class_to_wire(manifest.class).into(),
        documents: measured.then(|| documents(manifest)).flatten(),
        keys: measured.then(|| keys(manifest)).flatten(),
        controller_version: lowest_version(manifest),
        nodes: manifest.hosts.iter().map(|h| h.node.to_string()).collect(),
        safety_of: manifest.safety_of.clone().unwrap_or_default(),
        ..Backup::default()
    }
}

/// Documents of MongoDB; `None` when it holds no MongoDB.
fn documents(manifest: &Manifest) -> Option<u64> {
    let of = |contents: &Contents| match contents {
        Contents::Mongo(mongo) => Some(mongo.collections.iter().map(|c| c.documents).sum::<u64>()),
        Contents::Valkey(_) | Contents::Filesystem(_) => None,
    };
    manifest.artifacts.iter().filter_map(|a| of(&a.contents)).reduce(|a, b| a + b)
}

/// Keys of Valkey that mean something tomorrow; `None` when it holds no Valkey.
fn keys(manifest: &Manifest) -> Option<u64> {
    let of = |contents: &Contents| match contents {
        Contents::Valkey(valkey) => {
            let lasting = valkey.families.iter().filter(|f| !is_of_the_moment(&f.name));
            Some(lasting.map(|f| f.keys).sum::<u64>())
        }
        Contents::Mongo(_) | Contents::Filesystem(_) => None,
    };
    manifest.artifacts.iter().filter_map(|a| of(&a.contents)).reduce(|a, b| a + b)
}

/// In the middle of an upgrade the old version counts.
fn lowest_version(manifest: &Manifest) -> String {
    let versions = manifest.hosts.iter().filter_map(|h| h.controller.as_ref()?.version.as_deref());
    versions.min_by(|a, b| retention::compare_versions(a, b)).unwrap_or_default().to_owned()
}
