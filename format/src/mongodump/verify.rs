//! Checks a dump against what the manifest says of it, without a server, in constant memory.

use std::io::{self, BufRead, BufReader, Read};

use super::{
    Metadata, definition_digest, file_stem,
    ids::{Ids, duplicates},
    plausible, prelude_path,
};
use crate::{
    bson::{DocumentReader, Elements, ReadError},
    digest::{ContentDigest, ContentHasher, Order},
    gzip,
    manifest::{Accounts, Collection, MongoContents},
};

/// What a metadata file may hold at most; real ones stay below a few hundred KiB (64 indexes of a collection).
pub(crate) const MAX_METADATA: u64 = 64 << 20;

/// What a walk through a data file found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Documents.
    pub documents: u64,
    /// Bytes of BSON.
    pub bytes: u64,
    /// Over the documents.
    pub content: ContentDigest,
    /// Names and strings that are no UTF-8; kept as they are.
    pub invalid_utf8: u64,
}

/// Something in a dump that is not as the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, relative to the backup's directory.
    pub path: String,
    /// What is wrong with it.
    pub what: String,
}

/// What [`verify_dump`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DumpReport {
    /// Namespaces looked at.
    pub collections: u64,
    /// Documents walked.
    pub documents: u64,
    /// Bytes of BSON walked.
    pub bytes: u64,
    /// Empty when the dump is what the manifest says.
    pub problems: Vec<Problem>,
}

/// Walks every document of a data file (uncompressed) to its leaves.
///
/// # Errors
/// At the first document that is damaged; see [`ReadError`].
pub fn verify_collection(reader: impl Read, order: Order) -> Result<Figures, ReadError> {
    walk_collection(reader, order, |_| ())
}

fn walk_collection(reader: impl Read, order: Order, mut see: impl FnMut(&[u8])) -> Result<Figures, ReadError> {
    let mut docs = DocumentReader::new(reader);
    let mut hasher = ContentHasher::new(order);
    let (mut documents, mut invalid_utf8) = (0, 0);
    while let Some((doc, walked)) = docs.read()? {
        hasher.add(doc);
        see(doc);
        documents += 1;
        invalid_utf8 += walked.invalid_utf8;
    }
    Ok(Figures { documents, bytes: docs.offset(), content: hasher.finish(), invalid_utf8 })
}

/// Checks every file of a dump: documents, counts, content digests, metadata, definitions, and that no two documents of
/// a collection have the same `_id`. `open` hands
/// over the stored bytes of the file with the given path (relative to the backup's directory); of very large collections more than
/// once.
///
/// Everything that is wrong is in the report; one bad file does not keep the others from being looked at.
pub fn verify_dump<R: BufRead>(contents: &MongoContents, mut open: impl FnMut(&str) -> io::Result<R>) -> DumpReport {
    let mut report = DumpReport::default();
    // Without a server's version the dump is another tool's, and had no prelude.
    let prelude = prelude_path();
    let there = !contents.server_version.is_empty();
    let uncompressed = prelude.trim_end_matches(".gz").to_owned();
    let prelude = if there && open(&prelude).is_err() && open(&uncompressed).is_ok() { uncompressed } else { prelude };
    if there
        && let Err(what) = read_small(&mut open, &prelude).and_then(|json| {
            serde_json::from_slice::<serde_json::Value>(&json).map(drop).map_err(|e| format!("no JSON: {e}"))
        })
    {
        report.problems.push(Problem { path: prelude, what });
    }
    for collection in &contents.collections {
        report.collections += 1;
        let unique_ids = match check_metadata(collection, &mut open) {
            Ok(metadata) => plausible::has_unique_ids(&metadata),
            Err(what) => {
                report.problems.push(Problem { path: collection.metadata_path.clone(), what });
                false
            }
        };
        let Some(path) = &collection.data_path else { continue };
        match check_data(collection, path, unique_ids, &mut open) {
            Ok(figures) => {
                report.documents += figures.documents;
                report.bytes += figures.bytes;
            }
            Err(what) => report.problems.push(Problem { path: path.clone(), what }),
        }
    }
    for accounts in &contents.accounts {
        if let Err(what) = check_accounts(accounts, &mut open) {
            report.problems.push(Problem { path: accounts.data_path.clone(), what });
        }
    }
    report
}

fn check_accounts<R: BufRead>(accounts: &Accounts, open: &mut impl FnMut(&str) -> io::Result<R>) -> Result<(), String> {
    let path = &accounts.data_path;
    let stored = open(path).map_err(|e| format!("cannot be read: {e}"))?;
    let mut nameless = 0_u64;
    let name = |document: &[u8]| {
        let text = |key| Elements::find(document, key).and_then(|e| e.as_str()).is_some();
        nameless += u64::from(!(text("_id") && text("db")));
    };
    let found = walk_collection(plain(path, stored), accounts.content.order, name).map_err(|e| e.to_string())?;
    if (found.documents, found.bytes, found.content) != (accounts.documents, accounts.bson_bytes, accounts.content) {
        return Err("its documents are not those that the manifest's content digest was taken of".to_owned());
    }
    if nameless > 0 { Err(format!("{nameless} of its documents are no users or roles")) } else { Ok(()) }
}

fn check_data<R: BufRead>(
    collection: &Collection,
    path: &str,
    unique_ids: bool,
    open: &mut impl FnMut(&str) -> io::Result<R>,
) -> Result<Figures, String> {
    let mut reader = || Ok::<_, String>(plain(path, open(path).map_err(|e| format!("cannot be read: {e}"))?));
    let expected = collection.content.ok_or("the manifest has no content digest for it")?;
    let mut ids = Ids::first(collection.documents);
    let see = |document: &[u8]| {
        if unique_ids {
            ids.add(document);
        }
    };
    let found = walk_collection(reader()?, expected.order, see).map_err(|e| e.to_string())?;
    if found.documents != collection.documents || found.bytes != collection.bson_bytes {
        return Err(format!(
            "holds {} documents in {} bytes, the manifest says {} in {}",
            found.documents, found.bytes, collection.documents, collection.bson_bytes
        ));
    }
    if found.content != expected {
        return Err("its documents are not those that the manifest's content digest was taken of".to_owned());
    }
    let twice = duplicates(ids, reader)?;
    if !twice.is_empty() {
        return Err(format!("more than one document has the _id {} (its bytes)", twice.join(", ")));
    }
    Ok(found)
}

fn check_metadata<R: BufRead>(
    collection: &Collection,
    open: &mut impl FnMut(&str) -> io::Result<R>,
) -> Result<Metadata, String> {
    let json = read_small(open, &collection.metadata_path)?;
    let metadata = Metadata::from_json(&json, &file_stem(&collection.name)).map_err(|e| e.to_string())?;
    if metadata.collection != collection.name || metadata.kind != collection.kind {
        return Err(format!("describes '{}', not '{}'", metadata.collection, collection.name));
    }
    if metadata.indexes.len() as u64 != u64::from(collection.indexes) {
        return Err(format!("has {} indexes, the manifest says {}", metadata.indexes.len(), collection.indexes));
    }
    let definition =
        definition_digest(&metadata.options, &metadata.indexes, metadata.kind).map_err(|e| e.to_string())?;
    if definition != collection.definition {
        return Err("its options and indexes are not those that the manifest's digest was taken of".to_owned());
    }
    plausible::check(&metadata)?;
    Ok(metadata)
}

fn read_small<R: BufRead>(open: &mut impl FnMut(&str) -> io::Result<R>, path: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let stored = open(path).map_err(|e| format!("cannot be read: {e}"))?;
    plain(path, stored).take(MAX_METADATA).read_to_end(&mut out).map_err(|e| format!("cannot be read: {e}"))?;
    Ok(out)
}

/// The bytes of a file as they were before compression, which its name tells of.
pub fn plain<'r>(path: &str, stored: impl BufRead + 'r) -> Box<dyn Read + 'r> {
    if path.ends_with(".gz") {
        Box::new(BufReader::with_capacity(256 << 10, gzip::reader(stored)))
    } else {
        Box::new(stored)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Write};

    use super::*;
    use crate::{
        bson::{DocBuilder, EMPTY_DOCUMENT},
        manifest::{CollectionType, Consistency},
        mongodump::{data_path, metadata_path, prelude},
    };

    fn pack(data: &[u8]) -> Vec<u8> {
        let mut w = gzip::GzipWriter::new(Vec::new());
        w.write_all(data).unwrap();
        w.finish().unwrap()
    }

    fn dump() -> (MongoContents, BTreeMap<String, Vec<u8>>) {
        dump_of(0..100)
    }

    fn dump_of(ids: impl IntoIterator<Item = i32>) -> (MongoContents, BTreeMap<String, Vec<u8>>) {
        let mut key = DocBuilder::new();
        key.int32("_id", 1);
        let mut index = DocBuilder::new();
        index.int32("v", 2).document("key", &key.finish()).string("name", "_id_");
        let indexes = vec![index.finish()];
        let definition = definition_digest(EMPTY_DOCUMENT, &indexes, CollectionType::Collection).unwrap();
        let data: Vec<u8> = ids
            .into_iter()
            .flat_map(|i| {
                let mut b = DocBuilder::new();
                b.int32("_id", i);
                b.finish()
            })
            .collect();
        let figures = verify_collection(&data[..], Order::Multiset).unwrap();
        let metadata = Metadata {
            options: EMPTY_DOCUMENT.to_vec(),
            indexes,
            uuid: None,
            collection: "c/1".to_owned(),
            kind: CollectionType::Collection,
        };
        let collection = Collection {
            database: "db".to_owned(),
            name: "c/1".to_owned(),
            kind: CollectionType::Collection,
            documents: figures.documents,
            bson_bytes: figures.bytes,
            indexes: 1,
            data_path: Some(data_path("db", "c/1", false)),
            metadata_path: metadata_path("db", "c/1"),
            content: Some(figures.content),
            definition,
        };
        let files = BTreeMap::from([
            (prelude_path(), pack(&prelude("6.0.5", "test"))),
            (data_path("db", "c/1", false), pack(&data)),
            (metadata_path("db", "c/1"), pack(&metadata.to_json().unwrap())),
        ]);
        let contents = MongoContents {
            server_version: "6.0.5".to_owned(),
            feature_compatibility_version: None,
            replica_set: None,
            databases: vec!["db".to_owned()],
            consistency: Consistency::Fuzzy,
            collections: vec![collection],
            accounts: Vec::new(),
        };
        (contents, files)
    }

    fn verify(contents: &MongoContents, files: &BTreeMap<String, Vec<u8>>) -> DumpReport {
        verify_dump(contents, |path| files.get(path).map(|b| &b[..]).ok_or(io::ErrorKind::NotFound.into()))
    }

    #[test]
    fn a_sound_dump_has_no_problems() {
        let (contents, files) = dump();
        let report = verify(&contents, &files);
        assert_eq!((report.collections, report.documents, report.bytes), (1, 100, 1400));
        assert_eq!(report.problems, []);
    }

    #[test]
    fn any_flipped_byte_or_missing_file_is_named() {
        let (contents, files) = dump();
        for path in files.keys() {
            let mut damaged = files.clone();
            // Past gzip's header, whose time and flags carry nothing.
            for at in [12, files[path].len() / 2, files[path].len() - 6] {
                damaged.get_mut(path).unwrap()[at] ^= 0x10;
                let report = verify(&contents, &damaged);
                assert_eq!(report.problems.iter().map(|p| &p.path).collect::<Vec<_>>(), [path], "{at}");
                damaged.get_mut(path).unwrap()[at] ^= 0x10;
            }
            damaged.remove(path);
            assert_eq!(verify(&contents, &damaged).problems.len(), 1);
        }
    }

    #[test]
    fn documents_with_the_same_id_are_found() {
        let (contents, files) = dump_of((0..100).chain([7]));
        let problems = verify(&contents, &files).problems;
        assert!(matches!(&problems[..], [p] if p.what.contains("_id 0700000000000000")), "{problems:?}");
    }

    #[test]
    fn what_is_sound_but_not_what_the_manifest_says_is_found() {
        let (mut contents, files) = dump();
        contents.collections[0].documents = 99;
        assert_eq!(verify(&contents, &files).problems.len(), 1);
        let (contents, mut files) = dump();
        let path = contents.collections[0].data_path.clone().unwrap();
        let mut data: Vec<u8> = Vec::new();
        gzip::reader(&files[&path][..]).read_to_end(&mut data).unwrap();
        data[8] = 77; // another _id, still BSON
        files.insert(path, pack(&data));
        assert_eq!(verify(&contents, &files).problems.len(), 1);
    }
}
