//! Domain types to wire types and back, each pair in one place.

use jiff::{SignedDuration, Timestamp};
use prexor_format::{
    artifact::ArtifactKind,
    class::Class,
    digest::Sha256Digest,
    gzip::Level,
    manifest::{Controller, StoredFile},
    marks::Depth,
    selection::{Namespaces, Rename, Selection},
};

use crate::{agent, backup};

/// A wire value that no correct peer sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent {0}: are both ends of the same version?")]
pub struct BadWire(pub String);

/// The wire value of a kind.
pub fn kind_to_wire(kind: ArtifactKind) -> backup::ArtifactKind {
    match kind {
        ArtifactKind::Mongo => backup::ArtifactKind::Mongo,
        ArtifactKind::Valkey => backup::ArtifactKind::Valkey,
        ArtifactKind::Filesystem => backup::ArtifactKind::Filesystem,
    }
}

/// The kind of a wire value.
///
/// # Errors
/// When it is unspecified or of a newer version.
pub fn kind_from_wire(kind: i32) -> Result<ArtifactKind, BadWire> {
    match backup::ArtifactKind::try_from(kind) {
        Ok(backup::ArtifactKind::Mongo) => Ok(ArtifactKind::Mongo),
        Ok(backup::ArtifactKind::Valkey) => Ok(ArtifactKind::Valkey),
        Ok(backup::ArtifactKind::Filesystem) => Ok(ArtifactKind::Filesystem),
        Ok(backup::ArtifactKind::Unspecified) | Err(_) => Err(BadWire(format!("the artifact kind {kind}"))),
    }
}

/// The kinds of a scope, without repeats, in the order of [`ArtifactKind::ALL`].
///
/// # Errors
/// As [`kind_from_wire`].
pub fn scope_from_wire(scope: &[i32]) -> Result<Vec<ArtifactKind>, BadWire> {
    let asked = scope.iter().map(|k| kind_from_wire(*k)).collect::<Result<Vec<_>, _>>()?;
    Ok(ArtifactKind::ALL.into_iter().filter(|k| asked.contains(k)).collect())
}

/// The wire form of a selection.
pub fn selection_to_wire(s: &Selection) -> backup::Selection {
    let rename = |r: &Rename| backup::NamespaceRename { from: r.from.clone(), to: r.to.clone() };
    backup::Selection {
        paths: s.paths.clone(),
        namespaces_include: s.namespaces.include.clone(),
        namespaces_exclude: s.namespaces.exclude.clone(),
        namespaces_rename: s.namespaces.rename.iter().map(rename).collect(),
        keys: s.keys.clone(),
        logins: s.logins,
        users_and_roles: s.users_and_roles,
        keep: s.keep.clone(),
    }
}

/// The wire form of a compression that was asked for, if any was.
pub fn compression_to_wire(level: Option<Level>) -> backup::Compression {
    match level {
        None => backup::Compression::Unspecified,
        Some(Level::Fast) => backup::Compression::Fast,
        Some(Level::Balanced) => backup::Compression::Balanced,
        Some(Level::Small) => backup::Compression::Small,
    }
}

/// The compression that a wire value asks for.
///
/// # Errors
/// When it is of a newer version.
pub fn compression_from_wire(level: i32) -> Result<Option<Level>, BadWire> {
    match backup::Compression::try_from(level) {
        Ok(backup::Compression::Unspecified) => Ok(None),
        Ok(backup::Compression::Fast) => Ok(Some(Level::Fast)),
        Ok(backup::Compression::Balanced) => Ok(Some(Level::Balanced)),
        Ok(backup::Compression::Small) => Ok(Some(Level::Small)),
        Err(_) => Err(BadWire(format!("the compression {level}"))),
    }
}

/// The wire form of a class, if there is one.
pub fn class_to_wire(class: Option<Class>) -> backup::BackupClass {
    match class {
        None => backup::BackupClass::Unspecified,
        Some(Class::Hourly) => backup::BackupClass::Hourly,
        Some(Class::Daily) => backup::BackupClass::Daily,
        Some(Class::Weekly) => backup::BackupClass::Weekly,
        Some(Class::PreUpgrade) => backup::BackupClass::PreUpgrade,
    }
}

/// The class of a wire value.
///
/// # Errors
/// When it is of a newer version.
pub fn class_from_wire(class: i32) -> Result<Option<Class>, BadWire> {
    match backup::BackupClass::try_from(class) {
        Ok(backup::BackupClass::Unspecified) => Ok(None),
        Ok(backup::BackupClass::Hourly) => Ok(Some(Class::Hourly)),
        Ok(backup::BackupClass::Daily) => Ok(Some(Class::Daily)),
        Ok(backup::BackupClass::Weekly) => Ok(Some(Class::Weekly)),
        Ok(backup::BackupClass::PreUpgrade) => Ok(Some(Class::PreUpgrade)),
        Err(_) => Err(BadWire(format!("the class {class}"))),
    }
}

/// The wire form of how much a verify has read, if there was one.
pub fn depth_to_wire(depth: Option<Depth>) -> backup::VerifyDepth {
    match depth {
        None => backup::VerifyDepth::Unspecified,
        Some(Depth::Sample) => backup::VerifyDepth::Sample,
        Some(Depth::Full) => backup::VerifyDepth::Full,
        Some(Depth::Deep) => backup::VerifyDepth::Deep,
    }
}

/// How much a wire value asks a verify to read.
///
/// # Errors
/// When it is of a newer version.
pub fn depth_from_wire(depth: i32) -> Result<Option<Depth>, BadWire> {
    match backup::VerifyDepth::try_from(depth) {
        Ok(backup::VerifyDepth::Unspecified) => Ok(None),
        Ok(backup::VerifyDepth::Sample) => Ok(Some(Depth::Sample)),
        Ok(backup::VerifyDepth::Full) => Ok(Some(Depth::Full)),
        Ok(backup::VerifyDepth::Deep) => Ok(Some(Depth::Deep)),
        Err(_) => Err(BadWire(format!("the depth {depth}"))),
    }
}

/// The selection of a wire value, absent meaning everything. It is not checked, see [`Selection::checked`].
pub fn selection_from_wire(s: Option<&backup::Selection>) -> Selection {
    let Some(s) = s else { return Selection::default() };
    let rename = |r: &backup::NamespaceRename| Rename { from: r.from.clone(), to: r.to.clone() };
    Selection {
        paths: s.paths.clone(),
        namespaces: Namespaces {
            include: s.namespaces_include.clone(),
            exclude: s.namespaces_exclude.clone(),
            rename: s.namespaces_rename.iter().map(rename).collect(),
        },
        keys: s.keys.clone(),
        logins: s.logins,
        users_and_roles: s.users_and_roles,
        keep: s.keep.clone(),
    }
}

/// The wire form of a point in time.
pub fn time_to_wire(t: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: t.as_second(), nanos: t.subsec_nanosecond() }
}

/// The point in time of a wire value.
///
/// # Errors
/// When it is out of range.
pub fn time_from_wire(t: &prost_types::Timestamp) -> Result<Timestamp, BadWire> {
    Timestamp::new(t.seconds, t.nanos).map_err(|_| BadWire(format!("the time {}.{}", t.seconds, t.nanos)))
}

/// The wire form of a span of time.
pub fn duration_to_wire(d: SignedDuration) -> prost_types::Duration {
    prost_types::Duration { seconds: d.as_secs(), nanos: d.subsec_nanos() }
}

/// The span of time of a wire value.
pub fn duration_from_wire(d: &prost_types::Duration) -> SignedDuration {
    SignedDuration::from_secs(d.seconds).saturating_add(SignedDuration::from_nanos(i64::from(d.nanos)))
}

/// The digest in a wire value.
///
/// # Errors
/// When it has not 32 bytes.
pub fn digest_from_wire(bytes: &[u8]) -> Result<Sha256Digest, BadWire> {
    bytes.try_into().map(Sha256Digest).map_err(|_| BadWire(format!("a digest of {} bytes", bytes.len())))
}

/// The end of a file on the wire.
pub fn file_end_to_wire(file: u32, stored: &StoredFile) -> agent::FileEnd {
    agent::FileEnd { file, size_bytes: stored.size_bytes, sha256: stored.sha256.0.to_vec() }
}

/// The wire form of a controller.
pub fn controller_to_wire(c: &Controller) -> backup::Controller {
    let c = c.clone();
    backup::Controller { uuid: c.uuid, cluster_id: c.cluster_id, version: c.version, root: c.root }
}

/// The controller of a wire value.
pub fn controller_from_wire(c: &backup::Controller) -> Controller {
    let c = c.clone();
    Controller { uuid: c.uuid, cluster_id: c.cluster_id, version: c.version, root: c.root }
}
