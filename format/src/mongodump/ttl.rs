//! Which documents a server may have deleted because their time was over (law L17).
//!
//! TTL monitors run from the moment a restored collection is live. To compare it exactly all the same, documents that
//! may have expired are left out on both sides.

use super::{Metadata, MetadataError};
use crate::bson::{Element, Elements, kind};

/// One rule by which documents expire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    path: String,
    seconds: i64,
}

impl Expiry {
    /// Whether the rule allows `doc` to be deleted at `now` (milliseconds since the epoch). Partial filters are not
    /// looked at: a document that they would spare counts as one that may go.
    pub fn may_have_taken(&self, doc: &[u8], now: i64) -> bool {
        let before = now.saturating_sub(self.seconds.saturating_mul(1000));
        let parts: Vec<_> = self.path.split('.').collect();
        any_date(doc, &parts, &|date| date <= before)
    }
}

/// The rules of a collection: its TTL indexes, and `expireAfterSeconds` of a clustered collection or a time series
/// (whose documents are buckets).
///
/// # Errors
/// When an index or the options are no BSON.
pub fn collection_expiries(metadata: &Metadata) -> Result<Vec<Expiry>, MetadataError> {
    let mut out = Vec::new();
    let malformed = |e| MetadataError::ExtJson(super::ExtJsonError::Bson(e));
    if let (_, Some(seconds)) = super::without_expiry(&metadata.options).map_err(malformed)? {
        let time_field = Elements::find(&metadata.options, "timeseries")
            .and_then(|t| Elements::find(t.as_document()?, "timeField")?.as_str());
        out.push(Expiry { path: time_field.map_or("_id".to_owned(), |f| format!("control.min.{f}")), seconds });
    }
    for index in &metadata.indexes {
        if let (_, Some(seconds)) = super::without_expiry(index).map_err(malformed)? {
            let field = Elements::find(index, "key").and_then(|k| Elements::of(k.as_document()?).ok()?.next()?.ok());
            if let Some(path) = field.and_then(|f| std::str::from_utf8(f.name).ok()) {
                out.push(Expiry { path: path.to_owned(), seconds });
            }
        }
    }
    Ok(out)
}

fn any_date(doc: &[u8], path: &[&str], matches: &dyn Fn(i64) -> bool) -> bool {
    let Some((name, rest)) = path.split_first() else { return false };
    let Ok(elements) = Elements::of(doc) else { return false };
    elements.map_while(Result::ok).filter(|e| e.name == name.as_bytes()).any(|e| dates_of(&e, rest, matches))
}

fn dates_of(e: &Element<'_>, rest: &[&str], matches: &dyn Fn(i64) -> bool) -> bool {
    match (e.kind, e.as_document()) {
        (kind::DATE, _) => rest.is_empty() && e.as_date().is_some_and(matches),
        (kind::ARRAY, Some(items)) => {
            // As an index does: every item, or the item of that number.
            any_date(items, rest, matches)
                || Elements::of(items).is_ok_and(|i| {
                    i.map_while(Result::ok).any(|i| i.kind != kind::ARRAY && dates_of(&i, rest, matches))
                })
        }
        (_, Some(nested)) => any_date(nested, rest, matches),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bson::DocBuilder, manifest::CollectionType};

    fn date(name: &str, millis: i64) -> Vec<u8> {
        let mut b = DocBuilder::new();
        b.raw(kind::DATE, name.as_bytes(), &millis.to_le_bytes());
        b.finish()
    }

    #[test]
    fn dates_are_found_where_an_index_finds_them() {
        let rule = |path: &str| Expiry { path: path.to_owned(), seconds: 10 };
        assert!(rule("at").may_have_taken(&date("at", 5_000), 15_000));
        assert!(!rule("at").may_have_taken(&date("at", 5_001), 15_000));
        assert!(!rule("other").may_have_taken(&date("at", 0), i64::MAX));
        let mut list = DocBuilder::new();
        list.array_of("list", [date("at", 90_000), date("at", 1)]);
        assert!(rule("list.at").may_have_taken(&list.finish(), 15_000));
        let mut plain = DocBuilder::new();
        plain.raw(kind::ARRAY, b"at", &date("0", 1));
        assert!(rule("at").may_have_taken(&plain.finish(), 15_000));
    }

    #[test]
    fn rules_come_from_indexes_and_options() {
        let text = r#"{"options":{"timeseries":{"timeField":"ts"},"expireAfterSeconds":{"$numberLong":"60"}},
            "indexes":[{"key":{"at":1},"name":"at_1","expireAfterSeconds":5},{"key":{"b":1},"name":"b_1"}]}"#;
        let metadata = Metadata::from_json(text.as_bytes(), "x").unwrap();
        assert_eq!(metadata.kind, CollectionType::Timeseries);
        let all = collection_expiries(&metadata).unwrap();
        assert_eq!(
            all,
            [Expiry { path: "control.min.ts".to_owned(), seconds: 60 }, Expiry { path: "at".to_owned(), seconds: 5 }]
        );
    }
}
