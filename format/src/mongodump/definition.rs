//! A digest of what a collection is besides its documents: equal before a backup and after a restore.

use super::Metadata;
use crate::{
    bson::{BsonError, DocBuilder, Element, Elements},
    digest::{Hasher, Sha256Digest},
    manifest::CollectionType,
};

/// What an index's document says that a restore neither can nor needs to keep: its format's version, and the namespace
/// that servers before 4.4 repeated in it.
const NOT_KEPT: [&[u8]; 2] = [b"v", b"ns"];

/// Options of a collection that a restore does not repeat: one that is `temp` vanishes at the next restart,
/// `autoIndexId` is no longer taken, and the UUID is the server's own.
const NOT_REPEATED: [&[u8]; 3] = [b"temp", b"autoIndexId", b"uuid"];

const EXPIRY: &[u8] = b"expireAfterSeconds";

/// Numbers whose type a server chooses by itself (`collMod` stores an Int64 where there was an Int32).
const COUNTS: [&[u8]; 3] = [EXPIRY, b"size", b"max"];

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

/// What a collection is like that was made anew from `metadata`: without the options that are not repeated, and with
/// the index on `_id` that every ordinary collection has today.
///
/// # Errors
/// When the options are no BSON.
pub fn as_created(metadata: &Metadata) -> Result<Metadata, BsonError> {
    let mut options = DocBuilder::new();
    for e in Elements::of(&metadata.options)? {
        let e = e?;
        if !NOT_REPEATED.contains(&e.name) {
            options.raw(e.kind, e.name, e.value);
        }
    }
    let options = options.finish();
    let mut indexes = metadata.indexes.clone();
    let has_id = indexes.iter().any(|i| Elements::find(i, "name").and_then(|n| n.as_str()) == Some("_id_"));
    let ordinary = metadata.kind == CollectionType::Collection && Elements::find(&options, "clusteredIndex").is_none();
    if ordinary && !has_id {
        let (mut key, mut index) = (DocBuilder::new(), DocBuilder::new());
        key.int32("_id", 1);
        index.int32("v", 2).document("key", &key.finish()).string("name", "_id_");
        if let Some(collation) = Elements::find(&options, "collation") {
            index.raw(collation.kind, collation.name, collation.value);
        }
        indexes.insert(0, index.finish());
    }
    Ok(Metadata { options, indexes, ..metadata.clone() })
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
        if e.name == EXPIRY {
            expiry = as_seconds(&e);
        } else {
            out.raw(e.kind, e.name, e.value);
        }
    }
    Ok((out.finish(), expiry))
}

/// As servers take an expiry: fractions are cut off, and what is no number is the longest time there is.
fn as_seconds(e: &Element<'_>) -> Option<i64> {
    let double = || Some(f64::from_le_bytes(e.value.try_into().ok()?));
    match (e.as_integer(), e.kind) {
        (None, crate::bson::kind::DOUBLE) => {
            double().map(|d| if d.is_nan() { i32::MAX.into() } else { d.trunc() as i64 })
        }
        (seconds, _) => seconds,
    }
}

fn normal(doc: &[u8], leave_out: &[&[u8]]) -> Result<Vec<u8>, BsonError> {
    let mut fields: Vec<Element<'_>> = Elements::of(doc)?.collect::<Result<_, _>>()?;
    fields.retain(|e| !leave_out.contains(&e.name));
    fields.sort_by_key(|e| e.name);
    let mut out = DocBuilder::new();
    for e in fields {
        let count = if e.name == EXPIRY { as_seconds(&e) } else { e.as_integer() };
        match count.filter(|_| COUNTS.contains(&e.name)) {
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
    fn an_expiry_that_is_no_whole_number_counts_as_servers_take_it() {
        for (double, seconds) in [(3600.5, 3600), (f64::NAN, i64::from(i32::MAX)), (60.0, 60)] {
            let mut spec = index("a", 2, None);
            spec = DocBuilder::new()
                .elements_of(&spec)
                .raw(crate::bson::kind::DOUBLE, EXPIRY, &f64::to_le_bytes(double))
                .clone()
                .finish();
            assert_eq!(without_expiry(&spec).unwrap().1, Some(seconds));
            assert_eq!(digest(&[spec]), digest(&[index("a", 2, Some(seconds))]));
        }
    }

    #[test]
    fn what_is_not_repeated_is_left_out_and_what_always_comes_is_there() {
        let of = |json: &str| as_created(&Metadata::from_json(json.as_bytes(), "c").unwrap()).unwrap();
        let same = |a: &Metadata, b: &Metadata| {
            definition_digest(&a.options, &a.indexes, a.kind) == definition_digest(&b.options, &b.indexes, b.kind)
        };
        let id = r#"{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}"#;
        let plain = of(&format!(r#"{{"indexes":[{id}]}}"#));
        assert!(same(&of(r#"{"options":{"temp":true,"autoIndexId":false},"indexes":[]}"#), &plain));
        assert!(!same(&of(r#"{"options":{"capped":true},"indexes":[]}"#), &plain));
        let clustered = of(r#"{"options":{"clusteredIndex":{"key":{"_id":1}}},"indexes":[]}"#);
        assert_eq!(clustered.indexes.len(), 0);
        let collated = of(r#"{"options":{"collation":{"locale":"sv"}},"indexes":[]}"#);
        assert!(Elements::find(&collated.indexes[0], "collation").is_some());
        assert_eq!(of(r#"{"type":"view","options":{"viewOn":"a"}}"#).indexes.len(), 0);
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
