//! A digest of what a collection is besides its documents: equal before a backup and after a restore.

use crate::{
    bson::{BsonError, DocBuilder, Element, Elements},
    digest::{Hasher, Sha256Digest},
    manifest::CollectionType,
};

/// What an index's document says that a restore neither can nor needs to keep: its format's version, and the namespace
/// that servers before 4.4 repeated in it.
const NOT_KEPT: [&[u8]; 2] = [b"v", b"ns"];

/// Numbers whose type a server chooses by itself (`collMod` stores an Int64 where there was an Int32).
const COUNTS: [&[u8]; 3] = [b"expireAfterSeconds", b"size", b"max"];

/// The SHA-256 over type, options and indexes in a normal form: indexes sorted by name; the top-level fields of
/// options and indexes sorted by name; counts as Int64; nested documents byte for byte. UUIDs have no part in it.
///
/// # Errors
/// When options or an index are no BSON.
pub fn definition_digest<I: AsRef<[u8]>>(
    options: &[u8],
    indexes: &[I],
    kind: CollectionType,
) -> Result<Sha256Digest, BsonError> {
    let mut hasher = Hasher::default();
    hasher.update(match kind {
        CollectionType::Collection => b"collection\0",
        CollectionType::View => b"view\0",
        CollectionType::Timeseries => b"timeseries\0",
    });
    hasher.update(&normal(options, &[])?);
    let mut indexes = indexes
        .iter()
        .map(|i| {
            let name = Elements::find(i.as_ref(), "name").map(|e| e.value.to_vec());
            Ok((name, normal(i.as_ref(), &NOT_KEPT)?))
        })
        .collect::<Result<Vec<_>, BsonError>>()?;
    indexes.sort();
    indexes.iter().for_each(|(_, i)| hasher.update(i));
    Ok(hasher.finish())
}

/// `doc` (options or an index) without its `expireAfterSeconds`, and what that was: what a collection must be like
/// while nothing in it may expire (law L17).
///
/// # Errors
/// When `doc` is no BSON.
pub fn without_expiry(doc: &[u8]) -> Result<(Vec<u8>, Option<i64>), BsonError> {
    let mut out = DocBuilder::new();
    let mut expiry = None;
    for e in Elements::of(doc)? {
        let e = e?;
        if e.name == b"expireAfterSeconds" {
            expiry = e.as_integer();
        } else {
            out.raw(e.kind, e.name, e.value);
        }
    }
    Ok((out.finish(), expiry))
}

fn normal(doc: &[u8], leave_out: &[&[u8]]) -> Result<Vec<u8>, BsonError> {
    let mut fields: Vec<Element<'_>> = Elements::of(doc)?.collect::<Result<_, _>>()?;
    fields.retain(|e| !leave_out.contains(&e.name));
    fields.sort_by_key(|e| e.name);
    let mut out = DocBuilder::new();
    for e in fields {
        match e.as_integer().filter(|_| COUNTS.contains(&e.name)) {
            Some(n) => out.raw(crate::bson::kind::INT64, e.name, &n.to_le_bytes()),
            None => out.raw(e.kind, e.name, e.value),
        };
    }
    Ok(out.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bson::EMPTY_DOCUMENT;

    fn index(name: &str, v: i32, ttl: Option<i64>) -> Vec<u8> {
        let mut key = DocBuilder::new();
        key.int32("a", 1);
        let mut b = DocBuilder::new();
        b.int32("v", v).document("key", &key.finish()).string("name", name);
        if let Some(ttl) = ttl {
            b.int64("expireAfterSeconds", ttl);
        }
        b.finish()
    }

    fn digest(indexes: &[Vec<u8>]) -> Sha256Digest {
        definition_digest(EMPTY_DOCUMENT, indexes, CollectionType::Collection).unwrap()
    }

    #[test]
    fn versions_order_and_number_types_do_not_count() {
        assert_eq!(
            digest(&[index("a", 1, None), index("b", 2, None)]),
            digest(&[index("b", 2, None), index("a", 2, None)])
        );
        let mut int = DocBuilder::new();
        int.elements_of(&index("a", 2, None)).int32("expireAfterSeconds", 60);
        assert_eq!(digest(&[int.finish()]), digest(&[index("a", 2, Some(60))]));
    }

    #[test]
    fn what_matters_counts() {
        let plain = digest(&[index("a", 2, None)]);
        assert_ne!(plain, digest(&[index("a", 2, Some(60))]));
        assert_ne!(digest(&[index("a", 2, Some(61))]), digest(&[index("a", 2, Some(60))]));
        assert_ne!(plain, digest(&[]));
        assert_ne!(
            definition_digest::<Vec<u8>>(EMPTY_DOCUMENT, &[], CollectionType::View),
            definition_digest::<Vec<u8>>(EMPTY_DOCUMENT, &[], CollectionType::Collection)
        );
        let (stripped, expiry) = without_expiry(&index("a", 2, Some(60))).unwrap();
        assert_eq!((digest(&[stripped]), expiry), (plain, Some(60)));
    }
}
