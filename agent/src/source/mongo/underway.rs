//! Commands of an agent that died: the server goes on with them, and they must not meddle with what comes next.

use std::time::{Duration, Instant};

use bson::{Bson, Document, doc};

use super::{Server, server::APP_NAME};
use crate::source::SourceError;

/// Commands that change something.
const CHANGING: [&str; 7] = ["insert", "update", "create", "createIndexes", "collMod", "drop", "renameCollection"];

/// How long a command may take to end once it is told to.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Ends what an agent of ours that is gone left running in this database, and waits until it has ended. The caller has
/// nothing under way itself.
pub(super) async fn end(server: &Server) -> Result<(), SourceError> {
    end_those(server, &|command| changes(command, server.database())).await
}

/// The same of one collection, while others are worked on.
pub(super) async fn end_on(server: &Server, collection: &str) -> Result<(), SourceError> {
    let on_it = |command: &Document| command.iter().next().is_some_and(|(_, c)| c.as_str() == Some(collection));
    end_those(server, &|command| changes(command, server.database()) && on_it(command)).await
}

async fn end_those(server: &Server, which: &(dyn Fn(&Document) -> bool + Sync)) -> Result<(), SourceError> {
    let begun = Instant::now();
    loop {
        let Some(running) = running(server, which).await else { return Ok(()) };
        if running.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > ENDS_WITHIN {
            return Err(SourceError::Unavailable(format!(
                "{} is still busy with commands of an agent that is gone: try again",
                server.target()
            )));
        }
        for op in running {
            server.ask_admin(doc! { "killOp": 1, "op": op }).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The account's own operations can be listed and ended without any privilege.
async fn running(server: &Server, which: &(dyn Fn(&Document) -> bool + Sync)) -> Option<Vec<Bson>> {
    let pipeline = vec![doc! { "$currentOp": {} }, doc! { "$match": { "appName": APP_NAME, "active": true } }];
    let reply =
        server.ask_admin(doc! { "aggregate": 1, "pipeline": pipeline, "cursor": { "batchSize": 1000 } }).await?;
    let ops = reply.get_document("cursor").ok()?.get_array("firstBatch").ok()?;
    let meant = |op: &&Document| op.get_document("command").is_ok_and(which);
    Some(ops.iter().filter_map(Bson::as_document).filter(meant).filter_map(|op| op.get("opid").cloned()).collect())
}

fn changes(command: &Document, database: &str) -> bool {
    let Some((name, target)) = command.iter().next() else { return false };
    let here = command.get_str("$db").is_ok_and(|db| db == database);
    let renames = target.as_str().and_then(|t| t.split_once('.')).is_some_and(|(db, _)| db == database);
    CHANGING.contains(&name.as_str()) && (here || renames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_this_database_is_ended() {
        assert!(changes(&doc! { "insert": "a", "$db": "db" }, "db"));
        assert!(changes(&doc! { "renameCollection": "db.a", "$db": "admin" }, "db"));
        assert!(!changes(&doc! { "renameCollection": "db2.a", "$db": "admin" }, "db"));
        assert!(!changes(&doc! { "insert": "a", "$db": "other" }, "db"));
        assert!(!changes(&doc! { "find": "a", "$db": "db" }, "db"));
    }
}
