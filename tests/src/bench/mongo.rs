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
const MONGODUMP: &str = "mongodump --gzip";
const MONGORESTORE: &str = "mongorestore --gzip --drop";

/// A level of compression, and what its captures and sizes are called, and the drain that goes before it.
const LEVELS: [(&str, &str, &str, Option<&str>); 3] = [
    ("fast", "capture, fast", "size, fast", Some("drain, once more")),
    ("small", "capture, small", "size, small", None),
    ("balanced", "capture", "size", Some(DRAIN)),
];

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
        let mut id = String::new();
        for (level, name, size, drain) in LEVELS {
            if let Some(drain) = drain {
                bench.floor(SCOPE, drain, floors::drain(&uri, DATABASE)).await?;
            }
            if !id.is_empty() {
                bench.delete(&id);
            }
            configure(bench, level).await?;
            id = bench.capture_as(SCOPE, name).await?;
            if turn == 0 {
                sizes(bench, &id, size).await?;
            }
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
        tools(bench, &uri).await?;
    }
    bench.report.ratio(SCOPE, "capture", DRAIN, Some(2.0));
    bench.report.ratio(SCOPE, "capture, fast", "drain, once more", Some(1.4));
    bench.report.ratio(SCOPE, "capture, small", DRAIN, None);
    bench.report.ratio(SCOPE, "capture", MONGODUMP, None);
    bench.report.ratio(SCOPE, RESTORE, MONGORESTORE, None);
    bench.report.ratio(SCOPE, RESTORE, BARE, None);
    // What was restored is read back before the swap, and once more after it: comparing is no part of the goal.
    bench.report.ratio_less(SCOPE, (RESTORE, COMPARED), (DRAIN, 2.0), BARE, Some(1.25));
    Ok(())
}

/// Lets the agent compress at this level.
async fn configure(bench: &mut Bench<'_>, level: &str) -> Result<()> {
    let path = bench.cluster.dir().join("agent.yml");
    let text = std::fs::read_to_string(&path)?;
    let old = text.lines().find(|line| line.trim_start().starts_with("compression:"));
    let new = format!("  compression: {level}");
    let text = match old {
        Some(old) => text.replace(old, &new),
        None => format!("{text}\nmongo:\n{new}\n"),
    };
    std::fs::write(&path, text)?;
    bench.cluster.kill_agent();
    bench.cluster.start_agent().await;
    Ok(())
}

async fn sizes(bench: &mut Bench<'_>, id: &str, name: &'static str) -> Result<()> {
    let dir = bench.cluster.backup_dir(id).join("mongo").display().to_string();
    let ours = floors::bash("find \"$1\" -name '*.bson.gz' -exec cat {} + | wc -c", &[&dir]).await?;
    // File by file, as mongodump would compress them.
    let gzip = "find \"$1\" -name '*.bson.gz' -exec sh -c 'gzip -dc \"$1\" | gzip -6' sh {} \\; | wc -c";
    let gzip = floors::bash(gzip, &[&dir]).await?;
    bench.report.sizes_of(SCOPE, name, ours.trim().parse()?, gzip.trim().parse()?);
    Ok(())
}

/// The tools that people use, where they are on PATH.
async fn tools(bench: &mut Bench<'_>, uri: &str) -> Result<()> {
    if floors::bash("command -v mongodump mongorestore", &[]).await.is_err() {
        return Ok(());
    }
    let dir = bench.cluster.dir().join("mongodump").display().to_string();
    let dump = "mongodump --quiet --gzip --uri=\"$1\" --db=\"$2\" --out=\"$3\"";
    bench.floor(SCOPE, MONGODUMP, floors::bash(dump, &[uri, DATABASE, &dir])).await?;
    let restore = "mongorestore --quiet --gzip --drop --uri=\"$1\" --nsInclude=\"$2.*\" \"$3\"; rm -rf \"$3\"";
    bench.floor(SCOPE, MONGORESTORE, floors::bash(restore, &[uri, DATABASE, &dir])).await?;
    Ok(())
}
