//! Which file of a dump holds what.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use sha1::{Digest as _, Sha1};

use crate::manifest::AccountKind;

/// The prefix of the collection in which a time series keeps its buckets.
pub const BUCKETS_PREFIX: &str = "system.buckets.";

/// The database whose accounts are those of all databases.
pub const ALL_ACCOUNTS: &str = "admin";

/// The collection of stored functions: the only one that MongoDB calls its own and that belongs to its users.
pub const FUNCTIONS: &str = "system.js";

/// The longest escaped name that mongodump uses as it is: 255 less `.metadata.json.gz`.
const LONGEST: usize = 238;
/// Of a longer one, this many bytes are kept before the hash.
const KEPT: usize = 208;
/// What stands between the two: an escaped `$`.
const DELIMITER: &str = "%24";

/// The name of a collection's files, without extension: Go's `url.QueryEscape`, shortened when it is too long.
///
/// The cut may fall into an escape, so a reader takes the collection's name from the metadata.
pub fn file_stem(collection: &str) -> String {
    let escaped = escape(collection);
    if escaped.len() <= LONGEST {
        return escaped;
    }
    let hash = BASE64_URL_SAFE_NO_PAD.encode(Sha1::digest(collection.as_bytes()));
    format!("{}{DELIMITER}{hash}", &escaped[..KEPT])
}

/// The collection whose files have this stem, or `None` when it was shortened or is no escaped name.
pub fn unescape_stem(stem: &str) -> Option<String> {
    if is_shortened(stem) {
        return None;
    }
    let mut out = Vec::with_capacity(stem.len());
    let mut bytes = stem.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                hex::decode(digits).ok()?[0]
            }
            _ => b,
        });
    }
    String::from_utf8(out).ok()
}

/// Whether a stem ends in a hash. An escaped name can only look like that with a `$` right in front of 27 characters that need
/// no escape, and MongoDB's collections have no `$` in their names.
fn is_shortened(stem: &str) -> bool {
    let end = stem.get(KEPT..).and_then(|end| end.strip_prefix(DELIMITER));
    let hash = end.and_then(|hash| BASE64_URL_SAFE_NO_PAD.decode(hash).ok());
    hash.is_some_and(|hash| hash.len() == Sha1::output_size())
}

/// The data file of a collection (of a time series: of its buckets), relative to the backup's directory.
pub fn data_path(database: &str, collection: &str, timeseries: bool) -> String {
    let stem = if timeseries { file_stem(&format!("{BUCKETS_PREFIX}{collection}")) } else { file_stem(collection) };
    format!("{}/{database}/{stem}.bson.gz", super::ROOT)
}

/// The metadata file of a collection or view, relative to the backup's directory.
pub fn metadata_path(database: &str, collection: &str) -> String {
    format!("{}/{database}/{}.metadata.json.gz", super::ROOT, file_stem(collection))
}

/// The data file of the users or roles of a database, relative to the backup's directory: as `--dumpDbUsersAndRoles`
/// writes them; of `admin` those of all databases, as a dump of all of them has them.
pub fn accounts_path(database: &str, what: AccountKind) -> String {
    let name = match what {
        AccountKind::Users => "system.users",
        AccountKind::Roles => "system.roles",
    };
    format!("{}/{}.bson.gz", super::ROOT, beside(database, name))
}

/// The file with the version of the accounts' layout, which stock mongorestore looks for beside them.
pub fn accounts_version_path(database: &str) -> String {
    format!("{}/{}.bson.gz", super::ROOT, beside(database, "system.version"))
}

fn beside(database: &str, name: &str) -> String {
    let special = if database == ALL_ACCOUNTS { "" } else { "$admin." };
    format!("{database}/{special}{name}")
}

/// Whose accounts the data file of a dump holds, and which; `path` is relative to the dump's directory.
pub fn accounts_of(path: &str) -> Option<(&str, AccountKind)> {
    let (database, name) = path.split_once('/')?;
    let name = name.strip_suffix(".gz").unwrap_or(name).strip_suffix(".bson")?;
    [("system.users", AccountKind::Users), ("system.roles", AccountKind::Roles)].into_iter().find_map(|(n, what)| {
        (beside(database, n).strip_prefix(database) == Some(&format!("/{name}"))).then_some((database, what))
    })
}

/// The file with the versions that made the dump, relative to the backup's directory.
pub fn prelude_path() -> String {
    format!("{}/prelude.json.gz", super::ROOT)
}

fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for b in name.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(b.into()),
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_escaped_as_mongodump_does() {
        for (name, stem) in [
            ("audit_log", "audit_log"),
            ("a b/c%d\\e", "a+b%2Fc%25d%5Ce"),
            ("mod_x-1.~", "mod_x-1.~"),
            ("größe+", "gr%C3%B6%C3%9Fe%2B"),
        ] {
            assert_eq!(file_stem(name), stem);
            assert_eq!(unescape_stem(stem).as_deref(), Some(name));
        }
    }

    #[test]
    fn long_names_end_in_a_hash() {
        assert_eq!(file_stem(&"x".repeat(238)), "x".repeat(238));
        let stem = file_stem(&"x".repeat(239));
        assert_eq!(stem, format!("{}%24Nq75d-cu3iRxNs-ce3Tvf9gagoU", "x".repeat(208)));
        assert_eq!(stem.len(), LONGEST);
        assert_eq!(unescape_stem(&stem), None);
        assert!(file_stem(&"ä".repeat(100)).len() <= LONGEST);
    }

    #[test]
    fn a_dollar_where_the_hash_would_begin_does_not_make_a_name_a_shortened_one() {
        let name = format!("{}${}", "x".repeat(KEPT), "é!".repeat(3));
        assert_eq!(file_stem(&name).len(), LONGEST);
        assert_eq!(unescape_stem(&file_stem(&name)), Some(name));
    }

    #[test]
    fn paths_lie_under_the_artifact() {
        assert_eq!(data_path("db", "a b", false), "mongo/db/a+b.bson.gz");
        assert_eq!(data_path("db", "ts", true), "mongo/db/system.buckets.ts.bson.gz");
        assert_eq!(metadata_path("db", "ts"), "mongo/db/ts.metadata.json.gz");
        assert_eq!(accounts_path("db", AccountKind::Users), "mongo/db/$admin.system.users.bson.gz");
        assert_eq!(accounts_path("admin", AccountKind::Roles), "mongo/admin/system.roles.bson.gz");
        for (path, of) in [
            ("db/$admin.system.users.bson", Some(("db", AccountKind::Users))),
            ("admin/system.roles.bson.gz", Some(("admin", AccountKind::Roles))),
            // In another database these are no accounts, whatever they pretend.
            ("db/system.users.bson", None),
            ("admin/$admin.system.users.bson", None),
            ("db/$admin.system.version.bson", None),
        ] {
            assert_eq!(accounts_of(path), of, "{path}");
        }
    }

    proptest! {
        #[test]
        fn short_names_come_back(name in ".{0,60}") {
            let stem = file_stem(&name);
            prop_assert!(stem.len() <= LONGEST && !stem.contains('/'));
            if escape(&name).len() <= LONGEST {
                prop_assert_eq!(unescape_stem(&stem), Some(name));
            }
        }

        #[test]
        fn no_stem_makes_it_panic(stem in ".*") {
            let _ = unescape_stem(&stem);
        }
    }
}
