//! MongoDB: capture against the driver's drain of the same collections over one connection; restore against an inserter
//! that only sends the same batches and builds the same indexes.

use anyhow::{Context, Result, bail};
use mongodb::bson::doc;
use prexor_format::{
    artifact::ArtifactKind,
    manifest::{Contents, MANIFEST_FILE, Manifest},
};

use super::{Bench, data, floors};
use crate::dataset::DATABASE;

const SCOPE: &str = "mongo";
const DRAIN: &str = "drain, one connection";
const BARE: &str = "bare inserter and indexes";
const RESTORE: &str = "restore";
const COMPARED: &str = "restore less two drains";

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
        let manifest = std::fs::read(bench.cluster.backup_dir(&id).join(MANIFEST_FILE))?;
        let manifest: Manifest = serde_json::from_slice(&manifest)?;
        let artifact = manifest.artifact(ArtifactKind::Mongo, None).context("a dump")?;
        let Contents::Mongo(dump) = &artifact.contents else { bail!("no dump") };
        let bare = floors::Bare::of(dump, &bench.cluster.backup_dir(&id))?;
        let beside = client.database("bare_inserter");
        beside.drop().await?;
        bench.floor(SCOPE, BARE, bare.load(&beside)).await?;
        drop(bare);
        beside.drop().await?;
        bench.restore(SCOPE, RESTORE, &id).await?;
        bench.delete(&id);
    }
    bench.report.ratio(SCOPE, "capture", DRAIN, Some(2.0));
    bench.report.ratio(SCOPE, RESTORE, BARE, None);
    // What was restored is read back before the swap, and once more after it: comparing is no part of the goal.
    bench.report.ratio_less(SCOPE, (RESTORE, COMPARED), (DRAIN, 2.0), BARE, Some(1.25));
    Ok(())
}
