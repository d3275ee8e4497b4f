//! A dump that another tool wrote: what there is, taken from the files themselves, as a manifest would say it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, Read as _},
};

use super::{
    ALL_ACCOUNTS, BUCKETS_PREFIX, FUNCTIONS, MAX_METADATA, Metadata, ROOT, accounts_of, as_created, definition_digest,
    file_stem, plain, unescape_stem, verify_collection,
};
use crate::{
    digest::Order,
    manifest::{Accounts, Collection, CollectionType, Consistency, MongoContents},
};

/// What [`survey`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    /// As in a manifest; paths begin with [`ROOT`].
    pub contents: MongoContents,
    /// The files that belong to it, relative to the dump's directory.
    pub files: Vec<String>,
    /// What is left out, and why.
    pub notes: Vec<String>,
}

/// Why a directory is no dump that can be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {what}")]
pub struct SurveyError {
    /// Relative to the dump's directory.
    pub path: String,
    /// What is wrong with it.
    pub what: String,
}

/// Reads every file of a dump, gzip or not. `paths` are relative to the directory that mongodump was given as `--out`;
/// `open` hands over a file's stored bytes.
///
/// # Errors
/// At the first file that is missing or damaged: half a dump is not restored.
pub fn survey<R: BufRead>(
    paths: &[String],
    mut open: impl FnMut(&str) -> std::io::Result<R>,
) -> Result<Survey, SurveyError> {
    let all: BTreeSet<&str> = paths.iter().map(String::as_str).collect();
    let mut left: BTreeSet<&str> = all.clone();
    let mut found = Survey {
        contents: MongoContents {
            server_version: String::new(),
            feature_compatibility_version: None,
            replica_set: None,
            databases: Vec::new(),
            consistency: Consistency::Fuzzy,
            collections: Vec::new(),
            accounts: Vec::new(),
        },
        files: Vec::new(),
        notes: Vec::new(),
    };
    for path in ["prelude.json", "prelude.json.gz"].into_iter().filter(|p| all.contains(p)) {
        let json: serde_json::Value = serde_json::from_slice(&small(path, &mut open)?).map_err(|e| bad(path, &e))?;
        found.contents.server_version = json["ServerVersion"].as_str().unwrap_or_default().to_owned();
        found.files.push(path.to_owned());
        left.remove(path);
    }
    for path in &all {
        let Some((database, what)) = accounts_of(path) else { continue };
        left.remove(path);
        let stored = open(path).map_err(|e| bad(path, &e))?;
        let figures = verify_collection(plain(path, stored), Order::Multiset).map_err(|e| bad(path, &e))?;
        found.files.push((*path).to_owned());
        found.contents.accounts.push(Accounts {
            database: database.to_owned(),
            what,
            documents: figures.documents,
            bson_bytes: figures.bytes,
            data_path: format!("{ROOT}/{path}"),
            content: figures.content,
        });
    }
    // What describes them and says how they are laid out.
    left.retain(|path| {
        let name = path.strip_suffix(".gz").unwrap_or(path);
        ![
            "system.users.metadata.json",
            "system.roles.metadata.json",
            "system.version.bson",
            "system.version.metadata.json",
        ]
        .iter()
        .any(|n| name == format!("{ALL_ACCOUNTS}/{n}") || name.ends_with(&format!("/$admin.{n}")))
    });
    let mut by_name = BTreeMap::new();
    for path in &all {
        let Some((database, stem)) = path.split_once('/').filter(|(d, _)| !is_internal(d, "")) else { continue };
        let Some(stem) = stem.strip_suffix(".gz").unwrap_or(stem).strip_suffix(".metadata.json") else { continue };
        left.remove(path);
        let metadata = Metadata::from_json(&small(path, &mut open)?, stem).map_err(|e| bad(path, &e))?;
        if is_internal(database, &metadata.collection) {
            found.notes.push(format!("{database}.{} is left out: it belongs to the server", metadata.collection));
            left.retain(|p| !p.starts_with(&format!("{database}/{stem}.bson")));
            continue;
        }
        let data = data_of(path, database, stem, &metadata, &all)?;
        let mut collection = collection(path, database, &metadata)?;
        found.files.push((*path).to_owned());
        if let Some(data) = data {
            left.remove(data);
            found.files.push(data.to_owned());
            let order = if metadata.is_capped() { Order::Sequence } else { Order::Multiset };
            let stored = open(data).map_err(|e| bad(data, &e))?;
            let figures = verify_collection(plain(data, stored), order).map_err(|e| bad(data, &e))?;
            (collection.documents, collection.bson_bytes) = (figures.documents, figures.bytes);
            (collection.content, collection.data_path) = (Some(figures.content), Some(format!("{ROOT}/{data}")));
        }
        if by_name.insert((database.to_owned(), metadata.collection), collection).is_some() {
            return Err(bad(path, &"another file describes the same collection"));
        }
    }
    found.notes.extend(left_out(&left)?);
    found.contents.collections = by_name.into_values().collect();
    let databases: BTreeSet<String> = found.contents.collections.iter().map(|c| c.database.clone()).collect();
    found.contents.databases = databases.into_iter().collect();
    Ok(found)
}

/// What a server keeps for itself.
fn is_internal(database: &str, collection: &str) -> bool {
    matches!(database, "admin" | "config" | "local")
        || collection.starts_with("system.") && !collection.starts_with(BUCKETS_PREFIX) && collection != FUNCTIONS
}

/// The data file that goes with a metadata file; none of a view.
fn data_of<'a>(
    path: &str,
    database: &str,
    stem: &str,
    metadata: &Metadata,
    all: &BTreeSet<&'a str>,
) -> Result<Option<&'a str>, SurveyError> {
    let stem = match metadata.kind {
        CollectionType::View => return Ok(None),
        CollectionType::Collection => stem.to_owned(),
        CollectionType::Timeseries => file_stem(&format!("{BUCKETS_PREFIX}{}", metadata.collection)),
    };
    let names = [format!("{database}/{stem}.bson"), format!("{database}/{stem}.bson.gz")];
    match names.iter().filter_map(|n| all.get(n.as_str()).copied()).collect::<Vec<_>>()[..] {
        [data] => Ok(Some(data)),
        [] => Err(bad(path, &format!("its data file {} is missing", names[0]))),
        _ => Err(bad(path, &"its data are there twice, compressed and not")),
    }
}

fn collection(path: &str, database: &str, metadata: &Metadata) -> Result<Collection, SurveyError> {
    let made = as_created(metadata).map_err(|e| bad(path, &e))?;
    definition_digest(&made.options, &made.indexes, made.kind).map_err(|e| bad(path, &e))?;
    Ok(Collection {
        database: database.to_owned(),
        name: metadata.collection.clone(),
        kind: metadata.kind,
        documents: 0,
        bson_bytes: 0,
        indexes: u32::try_from(metadata.indexes.len()).unwrap_or(u32::MAX),
        data_path: None,
        metadata_path: format!("{ROOT}/{path}"),
        content: None,
        definition: definition_digest(&metadata.options, &metadata.indexes, metadata.kind)
            .map_err(|e| bad(path, &e))?,
    })
}

/// Says what becomes of files that belong to no collection.
fn left_out(left: &BTreeSet<&str>) -> Result<Vec<String>, SurveyError> {
    let mut notes = Vec::new();
    for path in left {
        let (database, name) = path.split_once('/').unwrap_or(("", path));
        if *path == "oplog.bson" {
            notes.push(
                "oplog.bson is not replayed: every collection comes back as it was when it was dumped, not all at one time"
                    .to_owned(),
            );
        } else if is_internal(database, "") {
            notes.push(format!("{path} is left out: it belongs to the server"));
        } else if let Some(stem) = name.strip_suffix(".gz").unwrap_or(name).strip_suffix(".bson") {
            let what = unescape_stem(stem).unwrap_or_else(|| stem.to_owned());
            match is_internal(database, &what) {
                true => notes.push(format!("{path} is left out: it belongs to the server")),
                false => {
                    return Err(bad(path, &"its metadata file is missing, so its options and indexes are unknown"));
                }
            }
        } else {
            notes.push(format!("{path} is left out: it is no part of a dump"));
        }
    }
    Ok(notes)
}

fn small<R: BufRead>(path: &str, open: &mut impl FnMut(&str) -> std::io::Result<R>) -> Result<Vec<u8>, SurveyError> {
    let mut out = Vec::new();
    let stored = open(path).map_err(|e| bad(path, &e))?;
    plain(path, stored).take(MAX_METADATA).read_to_end(&mut out).map_err(|e| bad(path, &e))?;
    Ok(out)
}

fn bad(path: &str, what: &dyn std::fmt::Display) -> SurveyError {
    SurveyError { path: path.to_owned(), what: what.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bson::DocBuilder, manifest::AccountKind};

    const ID: &str =
        r#"{"indexes":[{"v":2,"key":{"_id":1},"name":"_id_"}],"collectionName":"NAME","type":"collection"}"#;

    fn of(files: &[(&str, &[u8])]) -> Result<Survey, SurveyError> {
        let files: BTreeMap<String, Vec<u8>> = files.iter().map(|(p, b)| ((*p).to_owned(), b.to_vec())).collect();
        let paths: Vec<String> = files.keys().cloned().collect();
        survey(&paths, |path| {
            files.get(path).map(|b| std::io::Cursor::new(b.clone())).ok_or_else(|| std::io::ErrorKind::NotFound.into())
        })
    }

    fn document() -> Vec<u8> {
        let mut b = DocBuilder::new();
        b.int32("_id", 1);
        b.finish()
    }

    #[test]
    fn a_dump_is_told_from_what_lies_beside_it() {
        let (named, one) = (ID.replace("NAME", "a b"), document());
        let found = of(&[
            ("oplog.bson", b""),
            ("prelude.json", br#"{"ServerVersion":"7.0.1","ToolVersion":"100.9"}"#),
            ("admin/system.users.bson", &one),
            ("admin/system.users.metadata.json", b"{}"),
            ("admin/other.bson", &one),
            ("db/a+b.metadata.json", named.as_bytes()),
            ("db/a+b.bson", &one),
            ("db/system.profile.bson", &one),
            ("README", b"ours"),
        ])
        .unwrap();
        let c = &found.contents.collections[0];
        assert_eq!((found.contents.collections.len(), c.name.as_str(), c.documents), (1, "a b", 1));
        assert_eq!(
            (c.data_path.as_deref(), found.contents.server_version.as_str()),
            (Some("mongo/db/a+b.bson"), "7.0.1")
        );
        assert_eq!(found.contents.databases, ["db"]);
        let [users] = &found.contents.accounts[..] else { panic!("{:?}", found.contents.accounts) };
        assert_eq!((users.database.as_str(), users.what, users.documents), ("admin", AccountKind::Users, 1));
        assert_eq!(found.files, ["prelude.json", "admin/system.users.bson", "db/a+b.metadata.json", "db/a+b.bson"]);
        assert!(found.notes.iter().any(|n| n.contains("not replayed")), "{:?}", found.notes);
        assert_eq!(found.notes.len(), 4, "{:?}", found.notes);
    }

    #[test]
    fn half_a_dump_is_refused_with_the_files_name() {
        let (named, one) = (ID.replace("NAME", "a"), document());
        let metadata = ("db/a.metadata.json", named.as_bytes());
        for (files, path) in [
            (vec![metadata], "db/a.metadata.json"),
            (vec![("db/a.bson", &one[..])], "db/a.bson"),
            (vec![metadata, ("db/a.bson", &one[..9])], "db/a.bson"),
            (vec![metadata, ("db/a.bson", &one[..]), ("db/a.bson.gz", &one[..])], "db/a.metadata.json"),
            (vec![("db/a.metadata.json", &b"{"[..]), ("db/a.bson", &one[..])], "db/a.metadata.json"),
            (
                vec![
                    metadata,
                    ("db/a.bson", &one[..]),
                    ("db/b.metadata.json", named.as_bytes()),
                    ("db/b.bson", &one[..]),
                ],
                "db/b.metadata.json",
            ),
        ] {
            assert_eq!(of(&files).unwrap_err().path, path);
        }
    }
}
