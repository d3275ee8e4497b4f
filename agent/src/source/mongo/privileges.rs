//! What the agent's account must be allowed to do, and what of that it lacks.
//!
//! `deploy/mongodb-role.json` is a role of exactly these privileges.

use std::fmt;

use bson::{Bson, Document, doc};
use prexor_format::mongodump::FUNCTIONS;

use super::Server;
use crate::source::SourceError;

/// On what an action is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    /// Every ordinary collection of the database, those included that a restore makes.
    Database,
    /// The buckets of its time series.
    Buckets,
    /// Its stored functions.
    Functions,
    /// The server as a whole.
    Cluster,
}

/// For what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// A capture; a restore reads too.
    Capture,
    /// A restore.
    Restore,
    /// Better checks and messages; everything works without.
    Helpful,
}

const NEEDED: [(Need, On, &[&str]); 6] = [
    (Need::Capture, On::Database, &["find", "listCollections", "listIndexes", "dbStats"]),
    (Need::Capture, On::Buckets, &["find"]),
    (
        Need::Restore,
        On::Database,
        &[
            "insert",
            "update",
            "remove",
            "createCollection",
            // Asked for by create when the collection is capped.
            "convertToCapped",
            "dropCollection",
            "createIndex",
            "dropIndex",
            "collMod",
            "renameCollectionSameDB",
            "bypassDocumentValidation",
        ],
    ),
    (Need::Restore, On::Buckets, &["insert", "bypassDocumentValidation"]),
    // Where there are any: they are left out of a backup without.
    (Need::Helpful, On::Functions, &["find", "insert", "createIndex", "dropCollection"]),
    // featureCompatibilityVersion (law L19), which member is down (law L18), and who is connected (law L14).
    (Need::Helpful, On::Cluster, &["getParameter", "replSetGetStatus", "inprog"]),
];

/// An action that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) need: Need,
    action: &'static str,
    on: On,
    database: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.on {
            On::Database => write!(f, "{} on {}.*", self.action, self.database),
            On::Buckets => write!(f, "{} on {}.system.buckets.*", self.action, self.database),
            On::Functions => write!(f, "{} on {}.{FUNCTIONS}", self.action, self.database),
            On::Cluster => write!(f, "{} on the cluster", self.action),
        }
    }
}

/// What the account lacks; empty where the server asks for no account.
pub(super) async fn missing(server: &Server) -> Result<Vec<Missing>, SourceError> {
    let status = server.ask(doc! { "connectionStatus": 1, "showPrivileges": true }).await?;
    Ok(missing_of(&status, server.database()))
}

/// `authInfo`'s documents under this key.
fn listed_in<'a>(status: &'a Document, key: &str) -> impl Iterator<Item = &'a Document> + use<'a> {
    let info = status.get_document("authInfo").ok();
    let list = info.and_then(|i| i.get_array(key).ok()).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Bson::as_document)
}

fn missing_of(status: &Document, database: &str) -> Vec<Missing> {
    if listed_in(status, "authenticatedUsers").next().is_none() {
        return Vec::new();
    }
    let privileges: Vec<_> = listed_in(status, "authenticatedUserPrivileges").collect();
    let allowed = |on: On, action: &str| {
        privileges.iter().any(|p| {
            let on_it = p.get_document("resource").is_ok_and(|r| covers(r, on, database));
            let actions = p.get_array("actions");
            on_it && actions.is_ok_and(|a| a.iter().any(|a| matches!(a.as_str(), Some(a) if a == action)))
        })
    };
    let mut out = Vec::new();
    for (need, on, actions) in NEEDED {
        for action in actions.iter().filter(|a| !allowed(on, a)) {
            out.push(Missing { need, action, on, database: database.to_owned() });
        }
    }
    out
}

/// Whether stored functions are out of the account's reach, for reading or, with `to_restore`, for restoring them.
pub(super) fn lack_functions(missing: &[Missing], to_restore: bool) -> bool {
    missing.iter().any(|m| m.on == On::Functions && (to_restore || m.action == "find"))
}

/// What the account lacks that restoring users and roles needs; with `to_read`, that reading them needs.
pub(super) async fn missing_for_accounts(server: &Server, to_read: bool) -> Result<Vec<String>, SourceError> {
    let status = server.ask(doc! { "connectionStatus": 1, "showPrivileges": true }).await?;
    Ok(missing_for_accounts_of(&status, to_read))
}

fn missing_for_accounts_of(status: &Document, to_read: bool) -> Vec<String> {
    const READ: [(&str, &str, &str); 2] = [("admin", "system.users", "find"), ("admin", "system.roles", "find")];
    // On every database, which the server asks for whosever they are; and on the collections that they go through.
    const RESTORE: [(&str, &str, &str); 10] = [
        ("", "", "createUser"),
        ("", "", "createRole"),
        ("", "", "grantRole"),
        ("", "", "revokeRole"),
        ("", "", "dropUser"),
        ("", "", "dropRole"),
        ("admin", "", "find"),
        ("admin", "", "createCollection"),
        ("admin", "", "insert"),
        ("admin", "", "dropCollection"),
    ];
    if listed_in(status, "authenticatedUsers").next().is_none() {
        return Vec::new();
    }
    let allowed = |database: &str, collection: &str, action: &str| {
        listed_in(status, "authenticatedUserPrivileges").any(|p| {
            let on_it = p.get_document("resource").is_ok_and(|r| {
                let is = |key: &str, wanted: &str| r.get_str(key).is_ok_and(|found| found == wanted);
                let of_database = is("db", "") || is("db", database);
                r.get_bool("anyResource").unwrap_or(false) || of_database && is("collection", collection)
            });
            on_it && p.get_array("actions").is_ok_and(|a| a.iter().any(|a| a.as_str() == Some(action)))
        })
    };
    let place = |database: &str, collection: &str| match (database, collection) {
        ("", _) => "every database".to_owned(),
        (database, "") => format!("{database}.*"),
        (database, collection) => format!("{database}.{collection}"),
    };
    let needed = READ.into_iter().chain(RESTORE.into_iter().filter(|_| !to_read));
    let lacking = needed.filter(|(d, c, a)| !allowed(d, c, a));
    lacking.map(|(database, collection, action)| format!("{action} on {}", place(database, collection))).collect()
}

/// Who the agent is, and what it is by: `database.name` of its users and of all their roles.
pub(super) async fn own_accounts(server: &Server) -> Result<[Vec<String>; 2], SourceError> {
    let status = server.ask(doc! { "connectionStatus": 1 }).await?;
    let named = |list: &str, key: &str| {
        let name = |d: &Document| Some(format!("{}.{}", d.get_str("db").ok()?, d.get_str(key).ok()?));
        listed_in(&status, list).filter_map(name).collect()
    };
    Ok([named("authenticatedUsers", "user"), named("authenticatedUserRoles", "role")])
}

fn covers(resource: &Document, on: On, database: &str) -> bool {
    let flag = |key| resource.get_bool(key).unwrap_or(false);
    let text = |key| resource.get_str(key).ok();
    let of_database = matches!(text("db"), None | Some("")) || text("db") == Some(database);
    flag("anyResource")
        || match on {
            On::Database => of_database && text("collection") == Some(""),
            On::Buckets => of_database && text("system_buckets") == Some(""),
            On::Functions => of_database && text("collection") == Some(FUNCTIONS),
            On::Cluster => flag("cluster"),
        }
}

/// Fails when anything is missing that `need` cannot do without; with `functions` also when stored functions are out of
/// reach.
pub(super) async fn demand(server: &Server, need: Need, functions: bool) -> Result<(), SourceError> {
    let missing = missing(server).await?;
    demand_of(server, &missing, need)?;
    if functions && lack_functions(&missing, true) {
        let all: Vec<_> = missing.into_iter().filter(|m| m.on == On::Functions).collect();
        return Err(SourceError::Denied(format!(
            "the backup holds stored functions (system.js), and the account in the MongoDB URI lacks privileges for them: \
             {}; grant it the role in deploy/mongodb-role.json, or leave them out with --ns-exclude '*.{FUNCTIONS}'",
            listed(&all).unwrap_or_default()
        )));
    }
    Ok(())
}

/// The same of what was found [`missing`].
pub(super) fn demand_of(server: &Server, missing: &[Missing], need: Need) -> Result<(), SourceError> {
    let lacking: Vec<_> = missing.iter().filter(|m| m.need <= need).cloned().collect();
    listed(&lacking).map_or(Ok(()), |all| {
        Err(SourceError::Denied(format!(
            "the account in the MongoDB URI lacks privileges on {}: {all}; grant it the roles backup, restore and \
             readWrite, or the role in deploy/mongodb-role.json",
            server.target()
        )))
    })
}

/// `insert on prexorcloud.*, find on prexorcloud.system.buckets.*`; `None` when there is nothing.
pub(super) fn listed(missing: &[Missing]) -> Option<String> {
    let all: Vec<_> = missing.iter().map(ToString::to_string).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(privileges: Vec<Document>) -> Document {
        doc! { "authInfo": { "authenticatedUsers": [{ "user": "agent" }], "authenticatedUserPrivileges": privileges } }
    }

    fn named(privileges: Vec<Document>) -> Vec<String> {
        missing_of(&status(privileges), "db").iter().map(ToString::to_string).collect()
    }

    fn all(on: On) -> Vec<&'static str> {
        NEEDED.iter().filter(|n| n.1 == on).flat_map(|n| n.2).copied().collect()
    }

    #[test]
    fn each_missing_action_is_named_with_its_place() {
        let cluster = doc! { "resource": { "cluster": true }, "actions": all(On::Cluster) };
        let buckets = doc! { "resource": { "system_buckets": "" }, "actions": all(On::Buckets) };
        let database = doc! { "resource": { "db": "db", "collection": "" }, "actions": all(On::Database) };
        let functions = doc! { "resource": { "db": "", "collection": "system.js" }, "actions": all(On::Functions) };
        assert_eq!(named(vec![cluster.clone(), buckets.clone(), functions.clone(), database.clone()]), [""; 0]);
        assert_eq!(named(vec![cluster.clone(), buckets.clone(), database.clone()])[0], "find on db.system.js");
        let found = named(vec![cluster.clone(), functions.clone(), database.clone()]);
        assert_eq!(found[0], "find on db.system.buckets.*");
        assert_eq!(found.len(), all(On::Buckets).len());
        let other = doc! { "resource": { "db": "other", "collection": "" }, "actions": all(On::Database) };
        let one = doc! { "resource": { "db": "db", "collection": "users" }, "actions": all(On::Database) };
        assert_eq!(named(vec![cluster, buckets, functions, other, one]).len(), all(On::Database).len());
        let everything = [all(On::Database), all(On::Buckets), all(On::Functions), all(On::Cluster)].concat();
        assert_eq!(named(vec![doc! { "resource": { "anyResource": true }, "actions": everything }]), [""; 0]);
    }

    #[test]
    fn users_and_roles_ask_for_what_the_roles_backup_and_restore_have() {
        let backup = [
            doc! { "resource": { "db": "", "collection": "" }, "actions": ["find"] },
            doc! { "resource": { "db": "", "collection": "system.users" }, "actions": ["find"] },
            doc! { "resource": { "db": "admin", "collection": "system.roles" }, "actions": ["find"] },
        ];
        assert_eq!(missing_for_accounts_of(&status(backup.to_vec()), true), [""; 0]);
        let missing = missing_for_accounts_of(&status(backup.to_vec()), false);
        assert_eq!((missing.len(), missing[0].as_str()), (9, "createUser on every database"));
        let missing = missing_for_accounts_of(&status(backup[..2].to_vec()), true);
        assert_eq!(missing, ["find on admin.system.roles"]);
    }

    #[test]
    fn a_server_without_accounts_asks_for_nothing() {
        let open = doc! { "authInfo": { "authenticatedUsers": [], "authenticatedUserPrivileges": [] } };
        assert_eq!(missing_of(&open, "db"), []);
        assert_eq!(missing_for_accounts_of(&open, false), [""; 0]);
    }
}
