//! Which part of a backup a restore takes: paths of the files, namespaces of the dump, keys of the RDB.
//!
//! Pure matching and checking; what a part means for a source is the source's business.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    artifact::ArtifactKind,
    glob,
    manifest::{Artifact, Collection, CollectionType, Contents, MongoContents, StoredFile},
    mongodump::BUCKETS_PREFIX,
    tree::TreePath,
};

/// The longest name of a namespace, its database included, in bytes.
const MAX_NAMESPACE: usize = 255;

/// A part of a backup. The default is everything.
///
/// As soon as one of its lists is not empty, kinds without a list are not restored at all: who asks for one file does
/// not want a database replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// Paths relative to the controller's root, without `.` and `..`; a directory stands for all that is below it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Collections, and the names they get.
    #[serde(skip_serializing_if = "Namespaces::is_empty")]
    pub namespaces: Namespaces,
    /// Patterns of Valkey keys, as `KEYS` and `SCAN MATCH` understand them: `prexor:v1:platform:chat:*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// Short-lived logins and lockouts of Valkey come back too; by default they are left out (law L5).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub logins: bool,
    /// MongoDB's users and roles come back too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub users_and_roles: bool,
    /// Paths of files that stay as they are now whatever is selected, relative to the controller's root (law L9). A plan decides
    /// it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<String>,
}

/// A part of the namespaces of a dump, as mongorestore's `--nsInclude`, `--nsExclude`, `--nsFrom` and `--nsTo`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Namespaces {
    /// What is restored; empty for all.
    pub include: Vec<String>,
    /// What is left out of that.
    pub exclude: Vec<String>,
    /// New names; the first that matches counts.
    pub rename: Vec<Rename>,
}

/// A namespace pattern and the pattern of the new name: the text of each `*` of the first comes in the place of the
/// same `*` of the second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    /// What is renamed.
    pub from: String,
    /// To what.
    pub to: String,
}

/// What is wrong with a [`Selection`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSelection(String);

impl Selection {
    /// Whether it is all of the backup.
    pub fn is_everything(&self) -> bool {
        self.kinds().is_empty()
    }

    /// Whether it takes this key of Valkey.
    pub fn covers_key(&self, key: &[u8]) -> bool {
        self.keys.is_empty() || self.keys.iter().any(|pattern| glob::matches(pattern.as_bytes(), key))
    }

    /// The kinds of which it takes a part; empty when it is everything.
    pub fn kinds(&self) -> Vec<ArtifactKind> {
        let named = |kind: &ArtifactKind| match kind {
            ArtifactKind::Mongo => !self.namespaces.is_empty(),
            ArtifactKind::Valkey => !self.keys.is_empty(),
            ArtifactKind::Filesystem => !self.paths.is_empty(),
        };
        ArtifactKind::ALL.into_iter().filter(named).collect()
    }

    /// The same selection in its normal form: paths without `./` and a `/` at the end, nothing twice.
    ///
    /// # Errors
    /// When a path leads outside the root or is the root, or a pattern cannot be one.
    pub fn checked(mut self) -> Result<Self, InvalidSelection> {
        for path in &mut self.paths {
            let parsed = TreePath::parse(path.trim_end_matches('/').as_bytes()).ok().filter(|p| !p.is_root());
            let parsed = parsed.ok_or_else(|| {
                InvalidSelection(format!(
                    "'{path}' is not a path below the controller's root: say it relative to the root, such as \
                     'config/controller.yml'"
                ))
            })?;
            *path = parsed.display().into_owned();
        }
        self.paths.sort();
        self.paths.dedup();
        let namespaces = &self.namespaces;
        let renames = namespaces.rename.iter().flat_map(|r| [&r.from, &r.to]);
        for pattern in namespaces.include.iter().chain(&namespaces.exclude).chain(renames) {
            Wildcard::parse(pattern)?;
        }
        for Rename { from, to } in &namespaces.rename {
            let (f, t) = (Wildcard::parse(from)?, Wildcard::parse(to)?);
            if f.stars() != t.stars() || qualified(from) != qualified(to) {
                return Err(InvalidSelection(format!(
                    "'{from}' cannot become '{to}': both need the same number of '*', and a database or none"
                )));
            }
        }
        if let Some(pattern) = self.keys.iter().find(|k| k.is_empty() || k.contains('\0')) {
            return Err(InvalidSelection(format!(
                "'{pattern}' is not a key pattern, such as 'prexor:v1:platform:chat:*'"
            )));
        }
        Ok(self)
    }

    /// The files of an artifact that a restore of this part needs: of a dump those of the selected collections, of the
    /// others all.
    pub fn files<'a>(&self, artifact: &'a Artifact) -> Vec<&'a StoredFile> {
        match &artifact.contents {
            Contents::Mongo(dump) => {
                let chosen: Vec<_> = self.namespaces.of(dump).collect();
                let needed = |f: &&StoredFile| {
                    let is = |path: &String| *path == f.path;
                    // Credentials travel only where they are wanted.
                    if dump.accounts.iter().any(|a| is(&a.data_path)) {
                        return self.users_and_roles;
                    }
                    // What belongs to no collection, such as the prelude, is small and describes the whole.
                    let of_any =
                        dump.collections.iter().any(|c| is(&c.metadata_path) || c.data_path.as_ref().is_some_and(is));
                    !of_any || chosen.iter().any(|c| is(&c.metadata_path) || c.data_path.as_ref().is_some_and(is))
                };
                artifact.files.iter().filter(needed).collect()
            }
            Contents::Valkey(_) | Contents::Filesystem(_) => artifact.files.iter().collect(),
        }
    }

    /// What it takes of an artifact, one line each, for people; empty when it takes all of it.
    pub fn words(&self, artifact: &Artifact) -> Vec<String> {
        match &artifact.contents {
            Contents::Mongo(dump) if !self.namespaces.is_empty() => {
                let line = |c: &Collection| {
                    let (was, is) =
                        (format!("{}.{}", c.database, c.name), self.namespaces.target(&c.database, &c.name));
                    let is = format!("{}.{}", is.0, is.1);
                    if was == is { was } else { format!("{was} as {is}") }
                };
                self.namespaces.of(dump).map(line).collect()
            }
            Contents::Mongo(_) => Vec::new(),
            Contents::Valkey(_) => self.keys.clone(),
            Contents::Filesystem(_) => self.paths.clone(),
        }
    }
}

impl Namespaces {
    /// Whether it says nothing: all namespaces, under their own names.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether this collection is restored. A pattern with a `.` is compared with `database.collection`, one without
    /// with the collection's name alone.
    pub fn covers(&self, database: &str, collection: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|p| captures(p, database, collection).is_some());
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }

    /// The collections of a dump that are restored, in the manifest's order.
    pub fn of<'a>(&'a self, dump: &'a MongoContents) -> impl Iterator<Item = &'a Collection> {
        dump.collections.iter().filter(|c| self.covers(&c.database, &c.name))
    }

    /// Whether a namespace that is live now gives way to the restored ones: as one of them takes its name, or because it
    /// is of the part that is restored and the backup does not hold it (law L16).
    pub fn replaces(&self, dump: &MongoContents, database: &str, collection: &str) -> bool {
        let itself = || (database.to_owned(), collection.to_owned());
        self.of(dump).any(|c| self.target(&c.database, &c.name) == itself())
            || self.covers(database, collection) && self.target(database, collection) == itself()
    }

    /// Why the selected namespaces of a dump cannot be restored under the names that they are to get; empty when they
    /// can.
    pub fn problems(&self, dump: &MongoContents) -> Vec<String> {
        let mut out = Vec::new();
        let mut taken: BTreeMap<(String, String), &Collection> = BTreeMap::new();
        for c in self.of(dump) {
            let (database, name) = self.target(&c.database, &c.name);
            let full = format!("{database}.{name}");
            let was = format!("{}.{}", c.database, c.name);
            // A time series has its data in `system.buckets.<name>`.
            let prefix = if c.kind == CollectionType::Timeseries { BUCKETS_PREFIX.len() } else { 0 };
            if database != c.database {
                out.push(format!("{was} cannot become {full}: a rename stays within its database"));
            } else if name.is_empty() || name.starts_with('.') || name.contains(['\0', '$']) {
                out.push(format!("{was} cannot become {full}, which is no name of a collection"));
            } else if (name.starts_with("system.") && name != c.name) || name.starts_with("_prexor_") {
                out.push(format!("{was} cannot become {full}: names that begin with system. or _prexor_ are not free"));
            } else if full.len() + prefix > MAX_NAMESPACE {
                out.push(format!(
                    "{was} cannot become {full}: with its database a name has at most {MAX_NAMESPACE} bytes"
                ));
            }
            if let Some(other) = taken.insert((database, name), c) {
                out.push(format!("{}.{} and {was} would both become {full}", other.database, other.name));
            }
        }
        out
    }

    /// The database and the name under which a collection is restored.
    pub fn target(&self, database: &str, collection: &str) -> (String, String) {
        let renamed = self.rename.iter().find_map(|r| {
            let captured = captures(&r.from, database, collection)?;
            let to = Wildcard::parse(&r.to).ok()?.filled(&captured);
            Some(match to.split_once('.').filter(|_| qualified(&r.to)) {
                Some((database, collection)) => (database.to_owned(), collection.to_owned()),
                None => (database.to_owned(), to),
            })
        });
        renamed.unwrap_or_else(|| (database.to_owned(), collection.to_owned()))
    }
}

/// Whether a pattern names a database too.
fn qualified(pattern: &str) -> bool {
    pattern.contains('.')
}

fn captures(pattern: &str, database: &str, collection: &str) -> Option<Vec<String>> {
    let wildcard = Wildcard::parse(pattern).ok()?;
    if qualified(pattern) {
        wildcard.captures(&format!("{database}.{collection}"))
    } else {
        wildcard.captures(collection)
    }
}

/// Text in which `*` stands for any characters, `\*` for a star and `\\` for a backslash.
struct Wildcard {
    /// What is between the stars: one more than there are stars.
    literals: Vec<String>,
}

impl Wildcard {
    fn parse(pattern: &str) -> Result<Self, InvalidSelection> {
        let bad = |why: &str| InvalidSelection(format!("'{pattern}' is not a namespace pattern: {why}"));
        if pattern.is_empty() {
            return Err(bad("it is empty; say '*' for everything"));
        }
        let mut literals = vec![String::new()];
        let mut characters = pattern.chars();
        while let Some(c) = characters.next() {
            let literal = match c {
                '*' => {
                    literals.push(String::new());
                    continue;
                }
                '\\' => match characters.next() {
                    Some(c @ ('*' | '\\')) => c,
                    _ => return Err(bad("after '\\' comes '*' or '\\'")),
                },
                '\0' => return Err(bad("no name holds a NUL")),
                c => c,
            };
            literals.last_mut().map(|l| l.push(literal)).unwrap_or_default();
        }
        Ok(Self { literals })
    }

    fn stars(&self) -> usize {
        self.literals.len() - 1
    }

    /// What each star stands for, the first as short as can be; `None` when the text does not match.
    fn captures(&self, text: &str) -> Option<Vec<String>> {
        let (first, rest) = self.literals.split_first()?;
        let mut text = text.strip_prefix(first.as_str())?;
        let Some((last, middle)) = rest.split_last() else { return text.is_empty().then(Vec::new) };
        let mut captured = Vec::with_capacity(rest.len());
        for literal in middle {
            let at = text.find(literal.as_str())?;
            captured.push(text[..at].to_owned());
            text = &text[at + literal.len()..];
        }
        captured.push(text.strip_suffix(last.as_str())?.to_owned());
        Some(captured)
    }

    fn filled(&self, captured: &[String]) -> String {
        let between = captured.iter().map(String::as_str).chain(std::iter::repeat(""));
        self.literals.iter().zip(between).flat_map(|(literal, star)| [literal.as_str(), star]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces(include: &[&str], exclude: &[&str], rename: &[(&str, &str)]) -> Namespaces {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        let rename = rename.iter().map(|(f, t)| Rename { from: (*f).into(), to: (*t).into() }).collect();
        Namespaces { include: owned(include), exclude: owned(exclude), rename }
    }

    #[test]
    fn a_module_is_its_collections() {
        let n = namespaces(&["mod_chat_*", "prexorcloud.platform_chat_*"], &["*_cache"], &[]);
        for (name, covered) in [
            ("mod_chat_log", true),
            ("mod_chat_", true),
            ("mod_chat", false),
            ("xmod_chat_log", false),
            ("mod_chat_cache", false),
            ("platform_chat_rooms", true),
            ("users", false),
        ] {
            assert_eq!(n.covers("prexorcloud", name), covered, "{name}");
        }
        assert!(!n.covers("other", "platform_chat_rooms"), "a pattern with a database is of that database");
        assert!(n.covers("other", "mod_chat_log"));
        assert!(namespaces(&[], &[], &[]).covers("any", "thing"));
    }

    #[test]
    fn names_with_dots_stars_and_backslashes_can_be_said() {
        assert!(namespaces(&["db.fs.chunks"], &[], &[]).covers("db", "fs.chunks"));
        let n = namespaces(&[r"a\*b\\c"], &[], &[]);
        assert!(n.covers("db", r"a*b\c") && !n.covers("db", r"axb\c"));
        assert!(namespaces(&["*.*"], &[], &[]).covers("db", "x"));
        assert!(
            namespaces(&["a*b*a"], &[], &[]).covers("db", "abba")
                && !namespaces(&["ab*ba"], &[], &[]).covers("db", "aba")
        );
    }

    #[test]
    fn stars_carry_over_into_the_new_name() {
        let n = namespaces(&[], &[], &[("mod_*_log", "old_*_log"), ("shop.*", "shop.was_*"), ("*", "never_*")]);
        let target = |database, collection| n.target(database, collection);
        assert_eq!(target("prexorcloud", "mod_chat_log"), ("prexorcloud".into(), "old_chat_log".into()));
        assert_eq!(target("shop", "a.b"), ("shop".into(), "was_a.b".into()));
        assert_eq!(
            target("prexorcloud", "users"),
            ("prexorcloud".into(), "never_users".into()),
            "the first match counts"
        );
        assert_eq!(Namespaces::default().target("db", "x"), ("db".into(), "x".into()));
    }

    fn dump(names: &[&str]) -> MongoContents {
        let collections = names.iter().map(|name| Collection {
            database: "db".to_owned(),
            name: (*name).to_owned(),
            kind: CollectionType::Collection,
            documents: 0,
            bson_bytes: 0,
            indexes: 0,
            data_path: None,
            metadata_path: String::new(),
            content: None,
            definition: crate::digest::Sha256Digest::of(b""),
        });
        MongoContents {
            server_version: String::new(),
            feature_compatibility_version: None,
            replica_set: None,
            databases: vec!["db".to_owned()],
            consistency: crate::manifest::Consistency::Fuzzy,
            collections: collections.collect(),
            accounts: Vec::new(),
        }
    }

    #[test]
    fn what_is_live_gives_way_to_what_is_restored_and_nothing_else() {
        let dump = dump(&["mod_a", "mod_b", "users"]);
        let all = Namespaces::default();
        assert!(all.replaces(&dump, "db", "users") && all.replaces(&dump, "db", "born since"));
        let module = namespaces(&["mod_*"], &["mod_b"], &[]);
        for (live, gives_way) in [("mod_a", true), ("mod_since", true), ("mod_b", false), ("users", false)] {
            assert_eq!(module.replaces(&dump, "db", live), gives_way, "{live}");
        }
        let copy = namespaces(&["mod_*"], &[], &[("mod_*", "old_*")]);
        for (live, gives_way) in [("mod_a", false), ("old_a", true), ("old_z", false), ("mod_since", false)] {
            assert_eq!(copy.replaces(&dump, "db", live), gives_way, "{live}");
        }
    }

    #[test]
    fn names_that_cannot_be_given_are_told() {
        let dump = dump(&["mod_a", "mod_b"]);
        let long = "x".repeat(254);
        for (from, to, count) in [
            ("mod_*", "old_*", 0),
            ("mod_*", "users*", 0),
            ("db.mod_*", "other.mod_*", 2),
            ("mod_a", "mod_b", 1),
            ("mod_a", "system.js", 1),
            ("mod_*", "_prexor_*", 2),
            ("mod_a", "a$b", 1),
            ("mod_a", &long, 1),
        ] {
            let found = namespaces(&[], &[], &[(from, to)]).problems(&dump);
            assert_eq!(found.len(), count, "{from} {to}: {found:?}");
        }
    }

    #[test]
    fn paths_get_one_form_and_stay_below_the_root() {
        let paths =
            |p: &[&str]| Selection { paths: p.iter().map(|s| (*s).to_owned()).collect(), ..Selection::default() };
        let checked = paths(&["./templates/", "config/controller.yml", "templates"]).checked().unwrap();
        assert_eq!(checked.paths, ["config/controller.yml", "templates"]);
        assert_eq!(checked.kinds(), [ArtifactKind::Filesystem]);
        for bad in ["", "/", ".", "../x", "/etc/passwd", "a/../../b"] {
            assert!(paths(&[bad]).checked().is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_that_cannot_be_meant_are_refused() {
        for n in [
            namespaces(&[""], &[], &[]),
            namespaces(&[], &[r"x\"], &[]),
            namespaces(&[], &[r"\x"], &[]),
            namespaces(&[], &[], &[("a*", "b")]),
            namespaces(&[], &[], &[("db.a", "b")]),
        ] {
            assert!(Selection { namespaces: n.clone(), ..Selection::default() }.checked().is_err(), "{n:?}");
        }
        assert!(Selection { keys: vec![String::new()], ..Selection::default() }.checked().is_err());
    }
}
