//! Restores users and roles, where that was asked for, and never touches the agent's own.
//!
//! The way is stock mongorestore's: they are inserted into collections of `admin`, from which the server takes them over
//! and removes all others of the same database. What was there before is noted first, so that it can come back.

use std::collections::BTreeMap;

use bson::doc;
use prexor_format::{
    bson::{DocBuilder, DocumentReader, Elements},
    manifest::{AccountKind, Accounts, MongoContents},
    mongodump::ALL_ACCOUNTS,
};
use serde::{Deserialize, Serialize};

use super::{Server, catalog::all_of, privileges, staged, swap, temporary::Names};
use crate::{restore_unit::RestoreUnit, source::SourceError};

/// What there was before, see [`Before`]. Holds credentials: it goes with the unit's other notes when the restore ends.
const NOTE: &str = "mongo-accounts";

/// Documents per insert.
const BATCH: usize = 1_000;

/// The users, or the roles, of a database, by `_id`.
type Documents = BTreeMap<String, Vec<u8>>;

/// The accounts of one database, or with [`ALL_ACCOUNTS`] those of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Set {
    users: Documents,
    roles: Documents,
}

/// A [`Set`] as it is noted: documents in hexadecimal digits.
#[derive(Serialize, Deserialize)]
struct Before {
    database: String,
    users: Vec<String>,
    roles: Vec<String>,
}

/// Fails when users and roles are to be restored and cannot be.
pub(super) async fn demand(server: &Server, unit: &RestoreUnit, contents: &MongoContents) -> Result<(), SourceError> {
    if !unit.selection.users_and_roles {
        return Ok(());
    }
    if contents.accounts.is_empty() {
        return Err(SourceError::Invalid(
            "the backup holds no users and roles: its agent's account could not read any, see README.md".to_owned(),
        ));
    }
    match &privileges::missing_for_accounts(server, false).await?[..] {
        [] => Ok(()),
        missing => Err(SourceError::Denied(format!(
            "the account in the MongoDB URI may not restore users and roles, it lacks {}: grant it the roles backup and \
             restore on admin, or leave users and roles as they are",
            missing.join(", ")
        ))),
    }
}

/// Puts the backup's users and roles in the place of the live ones. What was there before is noted once.
pub(super) async fn swap(server: &Server, unit: &RestoreUnit, contents: &MongoContents) -> Result<(), SourceError> {
    if !unit.selection.users_and_roles {
        return Ok(());
    }
    unit.progress.set_subject("users and roles");
    let wanted = wanted(server, unit, contents).await?;
    if noted(unit)?.is_none() {
        let mut before = Vec::new();
        for database in wanted.keys() {
            let live = live(server, database).await?;
            let digits = |documents: Documents| documents.values().map(hex::encode).collect();
            before.push(Before { database: database.clone(), users: digits(live.users), roles: digits(live.roles) });
        }
        unit.save_note(NOTE, &before).map_err(|e| swap::note_failed(&e))?;
    }
    for (database, set) in &wanted {
        put(server, unit, database, set).await?;
    }
    Ok(())
}

/// Brings back what there was before, if anything was changed.
pub(super) async fn revert(server: &Server, unit: &RestoreUnit) -> Result<(), SourceError> {
    for before in noted(unit)?.unwrap_or_default() {
        let documents = |digits: &[String]| -> Result<Documents, SourceError> {
            let decoded = digits.iter().map(hex::decode).collect::<Result<Vec<_>, _>>();
            let decoded =
                decoded.map_err(|e| SourceError::Failed(format!("the restore's own notes are damaged: {e}")))?;
            Ok(by_id(decoded))
        };
        let set = Set { users: documents(&before.users)?, roles: documents(&before.roles)? };
        put(server, unit, &before.database, &set).await?;
    }
    Ok(())
}

/// How the live users and roles differ from what was restored.
pub(super) async fn check(
    server: &Server,
    unit: &RestoreUnit,
    contents: &MongoContents,
) -> Result<Vec<String>, SourceError> {
    if !unit.selection.users_and_roles {
        return Ok(Vec::new());
    }
    let mut out = Vec::new();
    for (database, wanted) in wanted(server, unit, contents).await? {
        let live = live(server, &database).await?;
        for (what, wanted, live) in [("user", &wanted.users, &live.users), ("role", &wanted.roles, &live.roles)] {
            let differs = |id: &&String| wanted.get(*id) != live.get(*id);
            let all = wanted.keys().chain(live.keys().filter(|id| !wanted.contains_key(*id)));
            out.extend(all.filter(differs).map(|id| format!("the {what} {id} is not as in the backup")));
        }
    }
    Ok(out)
}

/// What the backup holds, by database, with the agent's own account and all that it is by as they are now.
async fn wanted(
    server: &Server,
    unit: &RestoreUnit,
    contents: &MongoContents,
) -> Result<BTreeMap<String, Set>, SourceError> {
    let mut sets: BTreeMap<String, Set> = BTreeMap::new();
    for accounts in &contents.accounts {
        let documents = read(unit, accounts)?;
        let set = sets.entry(accounts.database.clone()).or_default();
        match accounts.what {
            AccountKind::Users => set.users = documents,
            AccountKind::Roles => set.roles = documents,
        }
    }
    let [own_users, own_roles] = privileges::own_accounts(server).await?;
    for (database, set) in &mut sets {
        let now = live(server, database).await?;
        keep_own(&mut set.users, now.users, &own_users);
        keep_own(&mut set.roles, now.roles, &own_roles);
    }
    Ok(sets)
}

fn keep_own(wanted: &mut Documents, mut now: Documents, own: &[String]) {
    for id in own {
        match now.remove(id) {
            Some(document) => drop(wanted.insert(id.clone(), document)),
            // Of another database, or one of the server's own.
            None => drop(wanted.remove(id)),
        }
    }
}

fn read(unit: &RestoreUnit, accounts: &Accounts) -> Result<Documents, SourceError> {
    let path = &accounts.data_path;
    let unreadable = |e: &dyn std::fmt::Display| SourceError::Invalid(format!("the staged {path} cannot be read: {e}"));
    let mut reader = DocumentReader::new(staged::open(&unit.staged_path(path)).map_err(|e| unreadable(&e))?);
    let mut all = Vec::new();
    while let Some((document, _)) = reader.read().map_err(|e| unreadable(&e))? {
        let of = Elements::find(document, "db").and_then(|e| e.as_str());
        // The server would take in whatever is in the file.
        if accounts.database != ALL_ACCOUNTS && of != Some(&accounts.database) {
            return Err(unreadable(&format!("it holds accounts of {}", of.unwrap_or("no database"))));
        }
        all.push(document.to_vec());
    }
    Ok(by_id(all))
}

fn by_id(documents: Vec<Vec<u8>>) -> Documents {
    let id = |d: &[u8]| Elements::find(d, "_id").and_then(|e| e.as_str()).unwrap_or_default().to_owned();
    documents.into_iter().map(|d| (id(&d), d)).collect()
}

/// The live accounts of a database.
async fn live(server: &Server, database: &str) -> Result<Set, SourceError> {
    let of = async |collection: &str| {
        let command = command(collection, database);
        let found = async { all_of(server.cursor_on("admin", command.finish()).await?).await }.await;
        found.map(by_id).map_err(|e| e.explain(server, &format!("read admin.{collection}")))
    };
    Ok(Set { users: of("system.users").await?, roles: of("system.roles").await? })
}

/// A `find` of the accounts of one database.
pub(super) fn command(collection: &str, database: &str) -> DocBuilder {
    let (mut filter, mut command) = (DocBuilder::new(), DocBuilder::new());
    if database != ALL_ACCOUNTS {
        filter.string("db", database);
    }
    command.string("find", collection).document("filter", &filter.finish());
    command
}

fn noted(unit: &RestoreUnit) -> Result<Option<Vec<Before>>, SourceError> {
    unit.load_note(NOTE).map_err(|e| swap::note_failed(&e))
}

/// Makes the accounts of a database exactly these.
async fn put(server: &Server, unit: &RestoreUnit, database: &str, set: &Set) -> Result<(), SourceError> {
    let names = Names::of(&unit.job_id);
    let (users, roles) = (names.accounts("users"), names.accounts("roles"));
    let discard = async || {
        for temporary in [&users, &roles] {
            // Most often it is not there.
            server.ask_admin(doc! { "drop": temporary, "writeConcern": { "w": "majority", "wtimeout": 60_000 } }).await;
        }
    };
    discard().await;
    for (temporary, documents) in [(&users, &set.users), (&roles, &set.roles)] {
        for batch in documents.values().cloned().collect::<Vec<_>>().chunks(BATCH) {
            let mut command = DocBuilder::new();
            command.string("insert", temporary).array_of("documents", batch.to_vec());
            server.write_admin(command, "prepare users and roles").await?;
        }
    }
    let mut merge = DocBuilder::new();
    merge
        .int32("_mergeAuthzCollections", 1)
        .string("tempUsersCollection", &format!("admin.{users}"))
        .string("tempRolesCollection", &format!("admin.{roles}"))
        .boolean("drop", true);
    // Of all databases when it is empty.
    merge.string("db", if database == ALL_ACCOUNTS { "" } else { database });
    server.write_admin(merge, "restore users and roles").await?;
    discard().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_own_account_stays_as_it_is_now() {
        let documents =
            |all: &[(&str, &[u8])]| -> Documents { all.iter().map(|(id, d)| ((*id).to_owned(), d.to_vec())).collect() };
        let own = ["db.agent".to_owned(), "admin.root".to_owned()];
        let mut wanted = documents(&[("db.agent", b"old"), ("db.app", b"old"), ("admin.root", b"old")]);
        keep_own(&mut wanted, documents(&[("db.agent", b"now"), ("db.born since", b"now")]), &own);
        assert_eq!(wanted, documents(&[("db.agent", b"now"), ("db.app", b"old")]));
        let mut without = documents(&[("db.app", b"old")]);
        keep_own(&mut without, documents(&[("db.agent", b"now")]), &own);
        assert_eq!(without, documents(&[("db.agent", b"now"), ("db.app", b"old")]));
    }
}
