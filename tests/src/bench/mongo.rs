//! MongoDB: capture against the driver's drain of the same collections over one connection.

use anyhow::Result;
use mongodb::bson::doc;

use super::{Bench, data, floors};
use crate::dataset::DATABASE;

const SCOPE: &str = "mongo";
const DRAIN: &str = "drain, one connection";

pub(super) async fn measure(bench: &mut Bench<'_>, mib: u32, seed: u64) -> Result<()> {
    let client = bench.cluster.mongod.client().await;
    // The tests' servers have small caches; the one that is measured is set as on a machine of its own.
    let cache = doc! { "setParameter": 1, "wiredTigerEngineRuntimeConfig": "cache_size=2G" };
    client.database("admin").run_command(cache).await?;
    bench.say(&format!("generating {mib} MiB of BSON"));
    let made = data::mongo(&client.database(DATABASE), mib, seed).await?;
    bench.report.note(format!("mongo: {} documents, {} MiB of BSON", made.count, made.bytes >> 20));
    let uri = bench.cluster.mongod.uri();
    for turn in 0..bench.repeat {
        bench.floor(SCOPE, DRAIN, floors::drain(&uri, DATABASE)).await?;
        let id = bench.capture(SCOPE).await?;
        if turn == 0 {
            let dir = bench.cluster.backup_dir(&id).join("mongo").display().to_string();
            let ours = floors::bash("find \"$1\" -name '*.bson.gz' -exec cat {} + | wc -c", &[&dir]).await?;
            // File by file, as mongodump would compress them.
            let gzip = "find \"$1\" -name '*.bson.gz' -exec sh -c 'gzip -dc \"$1\" | gzip -6' sh {} \\; | wc -c";
            let gzip = floors::bash(gzip, &[&dir]).await?;
            bench.report.sizes(SCOPE, ours.trim().parse()?, gzip.trim().parse()?);
        }
        bench.restore(SCOPE, "restore", &id).await?;
        bench.delete(&id);
    }
    bench.report.ratio(SCOPE, "capture", DRAIN, Some(2.0));
    Ok(())
}
