//! The tools and calls that the product is compared with.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use futures::StreamExt as _;
use mongodb::{
    Client,
    bson::{Document, doc},
    options::{ClientOptions, Hint},
};

use crate::resp::Resp;

/// Runs a command to its end and returns what it printed.
pub(super) async fn output(mut command: Command) -> Result<Vec<u8>> {
    let shown = format!("{:?}", command.get_program());
    command.stdin(Stdio::null());
    let done = tokio::task::spawn_blocking(move || command.output()).await?.context(shown.clone())?;
    if !done.status.success() {
        bail!("{shown}: {}\n{}", done.status, String::from_utf8_lossy(&done.stderr));
    }
    Ok(done.stdout)
}

/// Runs a script with arguments `$1`, `$2`, ...; a failure anywhere in a pipe is one.
pub(super) async fn bash(script: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script, "floor"]).args(args);
    Ok(String::from_utf8(output(command).await?)?)
}

/// Reads all collections to their ends, one after the other on one connection, and returns how many bytes of batches
/// came.
pub(super) async fn drain(uri: &str, database: &str) -> Result<u64> {
    let mut options = ClientOptions::parse(uri).await?;
    options.max_pool_size = Some(1);
    let db = Client::with_options(options)?.database(database);
    let mut bytes = 0;
    for name in db.list_collection_names().await? {
        let mut batches =
            db.collection::<Document>(&name).find(doc! {}).hint(Hint::Keys(doc! { "$natural": 1 })).batch().await?;
        while let Some(batch) = batches.next().await {
            bytes += batch?.as_raw_document().as_bytes().len() as u64;
        }
    }
    Ok(bytes)
}

/// Has the server save, and waits for the end of it.
pub(super) async fn bgsave(resp: &mut Resp) -> Result<()> {
    resp.call(&["BGSAVE"]).await?;
    while persistence(resp, "rdb_bgsave_in_progress").await? != "0" {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    match persistence(resp, "rdb_last_bgsave_status").await?.as_str() {
        "ok" => Ok(()),
        other => bail!("BGSAVE ended as {other}"),
    }
}

/// One value of `INFO persistence`.
pub(super) async fn persistence(resp: &mut Resp, name: &str) -> Result<String> {
    let info = resp.call(&["INFO", "persistence"]).await?.text();
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("INFO says nothing of {name}"))?.trim().to_owned())
}
