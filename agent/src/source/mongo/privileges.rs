//! What the agent's account must be allowed to do, and what of that it lacks.
//!
//! `deploy/mongodb-role.json` is a role of exactly these privileges.

use std::fmt;

use bson::{Bson, Document, doc};

use super::Server;
use crate::source::SourceError;

/// On what an action is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    /// Every ordinary collection of the database, those included that a restore makes.
    Database,
    /// The buckets of its time series.
    Buckets,
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

const NEEDED: [(Need, On, &[&str]); 5] = [
    (Need::Capture, On::Database, &["find", "listCollections", "listIndexes", "dbStats"]),
    (Need::Capture, On::Buckets, &["find"]),
    (
        Need::Restore,
        On::Database,
        &[
            "insert",
            "update",
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
    // featureCompatibilityVersion (law L19), and which member is down (law L18).
    (Need::Helpful, On::Cluster, &["getParameter", "replSetGetStatus"]),
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
            On::Cluster => write!(f, "{} on the cluster", self.action),
        }
    }
}

/// What the account lacks; empty where the server asks for no account.
pub(super) async fn missing(server: &Server) -> Result<Vec<Missing>, SourceError> {
    let status = server.ask(doc! { "connectionStatus": 1, "showPrivileges": true }).await?;
    Ok(missing_of(&status, server.database()))
}

fn missing_of(status: &Document, database: &str) -> Vec<Missing> {
    let info = status.get_document("authInfo");
    let list = |key| info.as_ref().ok().and_then(|i| i.get_array(key).ok()).map(Vec::as_slice).unwrap_or_default();
    if list("authenticatedUsers").is_empty() {
        return Vec::new();
    }
    let privileges: Vec<_> = list("authenticatedUserPrivileges").iter().filter_map(Bson::as_document).collect();
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

fn covers(resource: &Document, on: On, database: &str) -> bool {
    let flag = |key| resource.get_bool(key).unwrap_or(false);
    let text = |key| resource.get_str(key).ok();
    let of_database = matches!(text("db"), None | Some("")) || text("db") == Some(database);
    flag("anyResource")
        || match on {
            On::Database => of_database && text("collection") == Some(""),
            On::Buckets => of_database && text("system_buckets") == Some(""),
            On::Cluster => flag("cluster"),
        }
}

/// Fails when anything is missing that `need` cannot do without.
pub(super) async fn demand(server: &Server, need: Need) -> Result<(), SourceError> {
    demand_of(server, &missing(server).await?, need)
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
        assert_eq!(named(vec![cluster.clone(), buckets.clone(), database.clone()]), [""; 0]);
        let found = named(vec![cluster.clone(), database.clone()]);
        assert_eq!(found[0], "find on db.system.buckets.*");
        assert_eq!(found.len(), all(On::Buckets).len());
        let other = doc! { "resource": { "db": "other", "collection": "" }, "actions": all(On::Database) };
        let one = doc! { "resource": { "db": "db", "collection": "users" }, "actions": all(On::Database) };
        assert_eq!(named(vec![cluster, buckets, other, one]).len(), all(On::Database).len());
        let everything = [all(On::Database), all(On::Buckets), all(On::Cluster)].concat();
        assert_eq!(named(vec![doc! { "resource": { "anyResource": true }, "actions": everything }]), [""; 0]);
    }

    #[test]
    fn a_server_without_accounts_asks_for_nothing() {
        let open = doc! { "authInfo": { "authenticatedUsers": [], "authenticatedUserPrivileges": [] } };
        assert_eq!(missing_of(&open, "db"), []);
    }
}
