//! `<collection>.metadata.json`: options, indexes, UUID, name and type, in mongodump's order of keys.

use super::{
    extjson::{self, ExtJsonError},
    json::Json,
};
use crate::{
    bson::{EMPTY_DOCUMENT, Elements},
    manifest::CollectionType,
};

/// What a metadata file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// `options` of listCollections, a BSON document; [`EMPTY_DOCUMENT`] when there are none.
    pub options: Vec<u8>,
    /// The documents of listIndexes, in its order.
    pub indexes: Vec<Vec<u8>>,
    /// 32 hexadecimal digits; views and time series have none.
    pub uuid: Option<String>,
    /// The name, unescaped.
    pub collection: String,
    /// What it is.
    pub kind: CollectionType,
}

/// Why a metadata file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// A value that is no Extended JSON.
    #[error("the metadata cannot be read: {0}")]
    ExtJson(#[from] ExtJsonError),
    /// A key that is missing or holds something else.
    #[error("the metadata's '{0}' is missing or no {1}")]
    Key(&'static str, &'static str),
}

impl Metadata {
    /// The file's content.
    ///
    /// # Errors
    /// When options or indexes are malformed or hold text that JSON cannot.
    pub fn to_json(&self) -> Result<Vec<u8>, MetadataError> {
        let mut out = String::from("{");
        if self.options != EMPTY_DOCUMENT {
            out.push_str("\"options\":");
            extjson::write(&self.options, false, &mut out)?;
            out.push(',');
        }
        out.push_str("\"indexes\":[");
        for (i, index) in self.indexes.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            extjson::write(index, false, &mut out)?;
        }
        out.push(']');
        let mut rest = serde_json::Map::new();
        if let Some(uuid) = &self.uuid {
            rest.insert("uuid".to_owned(), uuid.as_str().into());
        }
        rest.insert("collectionName".to_owned(), self.collection.as_str().into());
        rest.insert("type".to_owned(), type_name(self.kind).into());
        let rest = serde_json::Value::Object(rest).to_string();
        out.push(',');
        out.push_str(&rest[1..]);
        Ok(out.into_bytes())
    }

    /// Reads a file's content; also that of older tools, which wrote no `type` or no `collectionName`: then the type
    /// follows from the options and the name from the file's.
    ///
    /// # Errors
    /// See [`MetadataError`].
    pub fn from_json(json: &[u8], stem: &str) -> Result<Self, MetadataError> {
        let Json::Object(members) = serde_json::from_slice(json).map_err(ExtJsonError::from)? else {
            return Err(MetadataError::Key("whole", "object"));
        };
        let get = |key: &str| members.iter().find(|(k, _)| k == key).map(|(_, v)| v);
        let options = match get("options") {
            None | Some(Json::Null) => EMPTY_DOCUMENT.to_vec(),
            Some(Json::Object(options)) => extjson::document(options)?,
            Some(_) => return Err(MetadataError::Key("options", "object")),
        };
        let indexes = match get("indexes") {
            None | Some(Json::Null) => Vec::new(),
            Some(Json::Array(all)) => all
                .iter()
                .map(|i| match i {
                    Json::Object(index) => Ok(extjson::document(index)?),
                    _ => Err(MetadataError::Key("indexes", "list of objects")),
                })
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(MetadataError::Key("indexes", "list of objects")),
        };
        let has = |option| Elements::find(&options, option).is_some();
        let kind = match get("type") {
            Some(Json::String(s)) if s == "collection" => CollectionType::Collection,
            Some(Json::String(s)) if s == "view" => CollectionType::View,
            Some(Json::String(s)) if s == "timeseries" => CollectionType::Timeseries,
            None if has("viewOn") => CollectionType::View,
            None if has("timeseries") => CollectionType::Timeseries,
            None => CollectionType::Collection,
            Some(_) => return Err(MetadataError::Key("type", "type of collection")),
        };
        let collection = match get("collectionName") {
            Some(Json::String(s)) if !s.is_empty() => s.clone(),
            None => super::unescape_stem(stem).ok_or(MetadataError::Key("collectionName", "name"))?,
            Some(_) => return Err(MetadataError::Key("collectionName", "name")),
        };
        let uuid = get("uuid").and_then(Json::as_str).filter(|s| !s.is_empty()).map(str::to_owned);
        Ok(Self { options, indexes, uuid, collection, kind })
    }

    /// Whether documents have a natural order that must be kept.
    pub fn is_capped(&self) -> bool {
        Elements::find(&self.options, "capped").and_then(|e| e.as_bool()).unwrap_or(false)
    }
}

fn type_name(kind: CollectionType) -> &'static str {
    match kind {
        CollectionType::Collection => "collection",
        CollectionType::View => "view",
        CollectionType::Timeseries => "timeseries",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As mongodump 100.18 wrote them for mongod 6.0.5.
    const WRITTEN: [&str; 4] = [
        r#"{"indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"},{"v":{"$numberInt":"2"},"key":{"createdAt":{"$numberInt":"-1"}},"name":"audit_ttl","expireAfterSeconds":{"$numberInt":"7776000"}}],"uuid":"36cd8f3e1015447aa4df5c9fab2c4ba0","collectionName":"audit_log","type":"collection"}"#,
        r#"{"options":{"capped":true,"size":{"$numberInt":"268435456"}},"indexes":[],"uuid":"36cd8f3e1015447aa4df5c9fab2c4ba0","collectionName":"console_lines","type":"collection"}"#,
        r#"{"options":{"viewOn":"audit_log","pipeline":[{"$match":{"level":{"$regex":"^W"}}}]},"indexes":[],"collectionName":"warnings","type":"view"}"#,
        r#"{"options":{"timeseries":{"timeField":"ts","metaField":"meta","granularity":"minutes","bucketMaxSpanSeconds":{"$numberInt":"86400"}}},"indexes":[],"collectionName":"samples","type":"timeseries"}"#,
    ];

    #[test]
    fn what_mongodump_writes_is_read_and_written_alike() {
        for text in WRITTEN {
            let metadata = Metadata::from_json(text.as_bytes(), "unused").unwrap();
            assert_eq!(String::from_utf8(metadata.to_json().unwrap()).unwrap(), text);
        }
        assert!(Metadata::from_json(WRITTEN[1].as_bytes(), "x").unwrap().is_capped());
    }

    #[test]
    fn older_files_get_their_name_from_the_file() {
        let m = Metadata::from_json(br#"{"indexes":[{"v":1,"key":{"_id":1},"name":"_id_"}]}"#, "a+b").unwrap();
        assert_eq!((m.collection.as_str(), m.kind, m.indexes.len()), ("a b", CollectionType::Collection, 1));
    }

    #[test]
    fn what_is_no_metadata_is_refused() {
        for bad in [
            &b""[..],
            b"[]",
            b"{\"options\":1}",
            b"{\"indexes\":[1]}",
            b"{\"type\":\"x\"}",
            b"{\"collectionName\":\"\"}",
            b"\x1f\x8b",
        ] {
            assert!(Metadata::from_json(bad, "x").is_err(), "{bad:?}");
        }
    }
}
