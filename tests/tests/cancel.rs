//! A cancelled backup ends at once, whatever its source is doing, and leaves nothing behind: on the servers, in the agent,
//! in the store.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Child,
};

use mongodb::bson::{Bson, Document, doc};
use prexor_tests::{
    cluster::{Cluster, Said, Setup},
    dataset::DATABASE,
    servers::{PATIENCE, wait_until},
};

/// Everything below the agent's state directory, but what it remembers of coordinators.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path.clone());
            }
            found.push(path);
        }
    }
    found.retain(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("epoch")));
    found.sort();
    found
}

/// What the agent has open below a directory.
fn open_below(cluster: &Cluster, dir: &Path) -> Vec<PathBuf> {
    let links = fs::read_dir(format!("/proc/{}/fd", cluster.agent_pid())).expect("the agent runs");
    let targets = links.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    targets.filter(|target| target.starts_with(dir)).collect()
}

/// Cancels the job that runs, and proves that nothing is left of it but its record.
async fn cancel(cluster: &Cluster, create: Child, state_before: &[PathBuf]) {
    let job = cluster.jobs()[0]["id"].as_str().expect("an id").to_owned();
    cluster.ctl(&["job", "cancel", &job]).ok();
    wait_until("the job to end", PATIENCE, async || cluster.jobs()[0]["state"] != "running").await;
    assert_eq!(cluster.jobs()[0]["state"], "cancelled");
    let said: Said = create.wait_with_output().expect("prexorctl ends").into();
    assert!(said.code == 1 && said.err.contains("was cancelled"), "{said:?}");
    assert_eq!((cluster.backups(), cluster.backup_dirs()), (vec![], vec![]));
    // Threads that were in the middle of a read let go a moment later.
    wait_until("the agent to close what it read", PATIENCE, async || open_below(cluster, &cluster.root()).is_empty())
        .await;
    wait_until("the agent's state to be as before", PATIENCE, async || tree(&cluster.agent_state()) == state_before)
        .await;
}

#[tokio::test]
async fn files_that_are_being_read_are_closed() {
    let cluster = Cluster::start().await;
    cluster.ballast(512);
    let state = tree(&cluster.agent_state());
    let create = cluster.capture_has_begun("filesystem").await;
    wait_until("the agent to read", PATIENCE, async || !open_below(&cluster, &cluster.root()).is_empty()).await;
    cancel(&cluster, create, &state).await;
}

/// What the agent does on the server, cursors that wait included.
async fn operations(admin: &mongodb::Database, idle_connections: bool) -> Vec<Document> {
    use futures::TryStreamExt as _;
    let stage = doc! { "$currentOp": { "allUsers": true, "idleCursors": true, "idleConnections": idle_connections } };
    let ours = doc! { "$match": { "appName": "prexor-agent" } };
    admin.aggregate([stage, ours]).await.expect("currentOp").try_collect().await.expect("operations")
}

async fn cursors(admin: &mongodb::Database) -> (Option<Bson>, Option<Bson>) {
    let status = admin.run_command(doc! { "serverStatus": 1 }).await.expect("serverStatus");
    let cursors = status.get_document("metrics").and_then(|m| m.get_document("cursor")).expect("cursors");
    let open = cursors.get_document("open").expect("open cursors");
    (open.get("total").cloned(), open.get("noTimeout").cloned())
}

#[tokio::test]
async fn no_cursor_stays_open_on_mongodb() {
    let cluster = Cluster::start().await;
    let client = cluster.mongod.client().await;
    let admin = client.database("admin");
    let many: Vec<Document> = (0..5000).map(|n| doc! { "_id": n, "text": "x".repeat(1000) }).collect();
    client.database(DATABASE).collection("many").insert_many(many).await.expect("documents");
    let (state, before) = (tree(&cluster.agent_state()), cursors(&admin).await);
    // No batch after the first ever comes. The server stops where it would read documents, and there as it does
    // between any two: when its client goes away or kills the cursor, it ends.
    let stop = |mode: &str| {
        let data = doc! { "nss": format!("{DATABASE}.many"), "shouldCheckForInterrupt": true };
        doc! { "configureFailPoint": "waitWithPinnedCursorDuringGetMoreBatch", "mode": mode, "data": data }
    };
    admin.run_command(stop("alwaysOn")).await.expect("a server that stops");
    let create = cluster.ctl_spawn(&["backup", "create", "--scope", "mongo", "--json"]);
    let reads = |op: &Document| op.get_document("command").is_ok_and(|c| c.contains_key("getMore"));
    wait_until("the capture to wait for a batch", PATIENCE, async || operations(&admin, false).await.iter().any(reads))
        .await;
    cancel(&cluster, create, &state).await;
    wait_until("the server to be idle", PATIENCE, async || {
        operations(&admin, false).await.is_empty() && cursors(&admin).await == before
    })
    .await;
    wait_until("the agent to hang up", PATIENCE, async || operations(&admin, true).await.is_empty()).await;
    admin.run_command(stop("off")).await.expect("a server that goes on");
    cluster.backup();
}

#[tokio::test]
async fn no_connection_stays_open_on_valkey() {
    // A tenth of a second for each key: the server saves for longer than a cancelled job may last.
    let valkey = vec!["rdb-key-save-delay 100000".to_owned()];
    let cluster = Cluster::start_as(Setup { valkey, ..Setup::default() }).await;
    let mut resp = cluster.resp().await.expect("Valkey");
    let mut info = async |what: &str| {
        let text = resp.call(&["INFO"]).await.expect("INFO").text();
        let line = text.lines().find_map(|l| l.strip_prefix(what)).unwrap_or_else(|| panic!("{what} is not in {text}"));
        line.trim_start_matches(':').to_owned()
    };
    let clients = info("connected_clients").await;
    let state = tree(&cluster.agent_state());
    let create = cluster.ctl_spawn(&["backup", "create", "--scope", "valkey", "--json"]);
    wait_until("the server to save", PATIENCE, async || info("rdb_bgsave_in_progress").await == "1").await;
    cancel(&cluster, create, &state).await;
    assert_eq!(info("rdb_bgsave_in_progress").await, "1", "the job has not waited for the save");
    wait_until("the agent to hang up", PATIENCE, async || info("connected_clients").await == clients).await;
    // A save cannot be taken back; its child ends by itself, and the next backup has one of its own.
    wait_until("the server's child to end", PATIENCE, async || info("rdb_bgsave_in_progress").await == "0").await;
    cluster.ctl(&["backup", "create", "--scope", "valkey"]).ok();
}
