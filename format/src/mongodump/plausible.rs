//! Whether options and indexes are such as a server could have had them.

use std::collections::BTreeSet;

use super::Metadata;
use crate::{
    bson::{Element, Elements, kind},
    manifest::CollectionType,
};

/// Indexes that a collection may have (MongoDB's limit).
const MAX_INDEXES: usize = 64;
/// The kinds of index that a key names in place of a direction.
const KINDS: [&str; 5] = ["text", "2d", "2dsphere", "hashed", "geoHaystack"];

/// What no server would have written, in words.
///
/// # Errors
/// With the first offence.
pub(super) fn check(metadata: &Metadata) -> Result<(), String> {
    let option = |name| Elements::find(&metadata.options, name);
    if metadata.kind == CollectionType::View && option("viewOn").and_then(|v| v.as_str()).is_none() {
        return Err("a view of nothing: its options name no collection".to_owned());
    }
    if metadata.kind == CollectionType::Timeseries && option("timeseries").is_none() {
        return Err("a time series whose options do not say so".to_owned());
    }
    if metadata.is_capped() && option("size").and_then(|s| s.as_integer()).is_none_or(|size| size <= 0) {
        return Err("a capped collection without a size".to_owned());
    }
    if metadata.indexes.len() > MAX_INDEXES {
        return Err(format!("{} indexes, where a collection may have {MAX_INDEXES}", metadata.indexes.len()));
    }
    let mut names = BTreeSet::new();
    for index in &metadata.indexes {
        let name = Elements::find(index, "name").and_then(|n| n.as_str()).unwrap_or_default();
        if name.is_empty() {
            return Err("an index without a name".to_owned());
        }
        index_is_sound(index).map_err(|what| format!("the index {name} {what}"))?;
        if !names.insert(name) {
            return Err(format!("two indexes named {name}"));
        }
    }
    let plain = metadata.kind == CollectionType::Collection && !metadata.indexes.is_empty();
    if plain && !metadata.indexes.iter().any(|i| keeps_ids_unique(i)) && option("autoIndexId").is_none() {
        return Err("indexes, but none on _id".to_owned());
    }
    Ok(())
}

/// Whether no two documents can have the same `_id`.
pub(super) fn has_unique_ids(metadata: &Metadata) -> bool {
    metadata.kind == CollectionType::Timeseries
        || Elements::find(&metadata.options, "clusteredIndex").is_some()
        || metadata.indexes.iter().any(|i| keeps_ids_unique(i))
}

fn keeps_ids_unique(index: &[u8]) -> bool {
    let key = Elements::find(index, "key").and_then(|k| k.as_document());
    let mut fields = key.and_then(|k| Elements::of(k).ok()).into_iter().flatten().flatten();
    fields.next().is_some_and(|f| f.name == b"_id" && f.as_integer().is_some()) && fields.next().is_none()
}

fn index_is_sound(index: &[u8]) -> Result<(), String> {
    let fields = Elements::of(index).and_then(Iterator::collect::<Result<Vec<Element<'_>>, _>>);
    let fields = fields.map_err(|e| format!("cannot be read: {e}"))?;
    let key = Elements::find(index, "key").and_then(|k| k.as_document()).ok_or("has no key")?;
    let mut fields_of_key = 0;
    for field in Elements::of(key).map_err(|e| format!("has no key: {e}"))? {
        let field = field.map_err(|e| format!("has no key: {e}"))?;
        let direction = matches!(field.kind, kind::INT32 | kind::INT64 | kind::DOUBLE | kind::DECIMAL128);
        if !direction && !field.as_str().is_some_and(|k| KINDS.contains(&k)) {
            let name = String::from_utf8_lossy(field.name).into_owned();
            return Err(format!("has '{name}' in its key, with neither a direction nor a kind"));
        }
        fields_of_key += 1;
    }
    if fields_of_key == 0 {
        return Err("has an empty key".to_owned());
    }
    for field in fields {
        let sound = match field.name {
            b"partialFilterExpression" | b"collation" | b"wildcardProjection" | b"weights" => {
                field.as_document().is_some()
            }
            // Servers of old stored whatever they were given; a number that is odd is not.
            b"unique" | b"sparse" | b"hidden" => {
                matches!(field.kind, kind::BOOLEAN | kind::INT32 | kind::INT64 | kind::DOUBLE)
            }
            b"v" => field.as_integer().is_some_and(|v| (0..=2).contains(&v)),
            b"expireAfterSeconds" => matches!(field.kind, kind::INT32 | kind::INT64 | kind::DOUBLE),
            _ => true,
        };
        if !sound {
            return Err(format!("has a {} that cannot be", String::from_utf8_lossy(field.name)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(json: &str) -> Result<(), String> {
        check(&Metadata::from_json(json.as_bytes(), "c").unwrap())
    }

    const ID: &str = r#"{"v":2,"key":{"_id":1},"name":"_id_"}"#;

    #[test]
    fn what_servers_write_passes() {
        for index in [
            ID.to_owned(),
            format!(r#"{ID},{{"v":2,"key":{{"a":-1.0,"b":"text"}},"name":"x","sparse":true,"weights":{{"b":1}}}}"#),
            format!(r#"{ID},{{"v":2,"key":{{"$**":1}},"name":"w","wildcardProjection":{{"a":0}},"hidden":true}}"#),
            format!(r#"{ID},{{"v":2,"key":{{"a":1}},"name":"t","expireAfterSeconds":{{"$numberDouble":"NaN"}}}}"#),
        ] {
            assert_eq!(checked(&format!(r#"{{"indexes":[{index}]}}"#)), Ok(()), "{index}");
        }
        assert_eq!(checked(r#"{"options":{"viewOn":"a","pipeline":[]},"type":"view"}"#), Ok(()));
    }

    #[test]
    fn what_no_server_would_have_is_named() {
        for (json, what) in [
            (format!(r#"{{"indexes":[{ID},{ID}]}}"#), "two indexes named _id_"),
            (r#"{"indexes":[{"v":2,"key":{"a":1},"name":"a_1"}]}"#.to_owned(), "none on _id"),
            (r#"{"indexes":[{"v":2,"key":{},"name":"a_1"}]}"#.to_owned(), "an empty key"),
            (r#"{"indexes":[{"v":2,"name":"a_1"}]}"#.to_owned(), "has no key"),
            (r#"{"indexes":[{"v":2,"key":{"a":1}}]}"#.to_owned(), "without a name"),
            (r#"{"indexes":[{"v":2,"key":{"a":"x"},"name":"a_1"}]}"#.to_owned(), "neither a direction nor a kind"),
            (r#"{"indexes":[{"v":9,"key":{"a":1},"name":"a_1"}]}"#.to_owned(), "a v that cannot be"),
            (r#"{"indexes":[{"key":{"a":1},"name":"a_1","collation":"sv"}]}"#.to_owned(), "a collation that cannot be"),
            (r#"{"options":{"capped":true}}"#.to_owned(), "without a size"),
            (r#"{"type":"view"}"#.to_owned(), "a view of nothing"),
        ] {
            let found = checked(&json).unwrap_err();
            assert!(found.contains(what), "{json}: {found}");
        }
    }
}
