//! Law L20: a module that is recorded as installed and whose jar is not among the files shows `LOAD_FAILED` after a restore.
//!
//! A pure comparison of what a dump records with what a tar holds. Records name their jar in one way or another, by version of
//! PrexorCloud: a field with its file name, its SHA-256 (which is then its name), or nothing but the module's id.

use std::collections::BTreeSet;

use crate::bson::Elements;

/// The collection with a record for each module.
pub const COLLECTION: &str = "modules";

/// Fields that name a jar.
const NAMED_BY: [&str; 4] = ["jar", "jarFile", "fileName", "file"];

/// Fields with a module's id, the first that is there.
const ID: [&str; 3] = ["_id", "moduleId", "id"];

/// States in which no jar is needed.
const GONE: [&str; 3] = ["UNINSTALLED", "REMOVED", "DISABLED"];

/// A module that is recorded as installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// The jar's file name, where the record has it.
    pub jar: Option<String>,
    /// The jar's SHA-256 in hex, where the record has it.
    pub sha256: Option<String>,
}

impl Record {
    /// Out of a document of [`COLLECTION`]; `None` when it has no id that is text, or needs no jar.
    pub fn of(document: &[u8]) -> Option<Self> {
        let text = |name: &str| Elements::find(document, name).and_then(|e| e.as_str()).filter(|t| !t.is_empty());
        if text("state").is_some_and(|state| GONE.contains(&state)) {
            return None;
        }
        let jar = NAMED_BY.into_iter().find_map(text).and_then(|path| path.rsplit('/').next()).map(str::to_owned);
        Some(Self { id: ID.into_iter().find_map(text)?.to_owned(), jar, sha256: text("sha256").map(str::to_owned) })
    }

    /// Whether a jar of this name may be its.
    fn is_of(&self, jar: &str) -> bool {
        let stem = jar.strip_suffix(".jar").unwrap_or(jar);
        if self.sha256.as_deref() == Some(stem) || self.jar.as_deref() == Some(jar) {
            return true;
        }
        // Another version of it would be the wrong one, so that only a record without a name is content with the id.
        self.jar.is_none()
            && stem.strip_prefix(self.id.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

/// What is missing of these modules, in words, where there are these jars.
pub fn missing(records: &[Record], jars: &BTreeSet<String>) -> Vec<String> {
    let without = records.iter().filter(|record| !jars.iter().any(|jar| record.is_of(jar)));
    without
        .map(|Record { id, jar, .. }| {
            let jar = jar.as_ref().map_or_else(|| "its jar".to_owned(), |jar| jar.clone());
            format!(
                "module {id}: {jar} is not among the files: after a restore it shows LOAD_FAILED until `prexorctl module \
                 install` brings it back"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bson::DocBuilder;

    fn document(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut doc = DocBuilder::new();
        for (name, value) in fields {
            doc.string(name, value);
        }
        doc.finish()
    }

    #[test]
    fn a_module_without_its_jar_is_named() {
        let sha256 = "ab".repeat(32);
        let all = [
            document(&[("_id", "stats"), ("state", "ACTIVE"), ("jar", "stats-1.4.0.jar")]),
            document(&[("_id", "shop"), ("jar", "modules/shop-2.jar")]),
            document(&[("moduleId", "economy"), ("version", "0.9.2")]),
            document(&[("_id", "chat"), ("sha256", &sha256)]),
            document(&[("_id", "old"), ("state", "UNINSTALLED")]),
            document(&[("name", "no id")]),
        ];
        let records: Vec<_> = all.iter().filter_map(|doc| Record::of(doc)).collect();
        assert_eq!(records.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["stats", "shop", "economy", "chat"]);
        let missing = |jars: &[&str]| {
            let found = missing(&records, &jars.iter().map(|j| (*j).to_owned()).collect());
            found.iter().map(|line| line.split(": ").next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        let stored = format!("{sha256}.jar");
        assert!(missing(&["stats-1.4.0.jar", "shop-2.jar", "economy-0.9.2.jar", &stored]).is_empty());
        assert_eq!(missing(&["stats-1.4.1.jar", "shop-2.jar", "economy.jar", &stored]), ["module stats"]);
        assert_eq!(missing(&["stats-1.4.0.jar", "economyplus.jar"]), ["module shop", "module economy", "module chat"]);
        assert_eq!(missing(&[]).len(), 4);
    }
}
