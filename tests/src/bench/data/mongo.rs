//! A controller's database: the audit log holds two thirds, a capped collection of small documents a sixth.

use anyhow::{Context, Result};
use mongodb::{
    Database,
    bson::{DateTime, Document, RawDocumentBuf, doc, oid::ObjectId},
};

use super::Made;
use crate::dataset::Numbers;

/// Bytes per `insert` command, about.
const BATCH: usize = 4 << 20;
/// Small collections beside the two large ones.
const OTHERS: &[&str] = &[
    "users",
    "roles",
    "groups",
    "templates",
    "catalog",
    "deployments",
    "crashes",
    "metrics_samples",
    "instance_history",
    "mod_stats_players",
    "mod_economy_accounts",
    "mod_economy_transfers",
];

/// Fills the database with `mib` MiB of BSON.
pub(in crate::bench) async fn mongo(db: &Database, mib: u32, seed: u64) -> Result<Made> {
    let mut numbers = Numbers::new(seed ^ 0x0f00d);
    let mut made = Made::default();
    let total = u64::from(mib) << 20;
    insert(db, "audit_log", total * 67 / 100, &mut made, || audit(&mut numbers)).await?;
    index(db, "audit_log", doc! { "at": 1 }, doc! { "expireAfterSeconds": 90 * 86_400 }).await?;
    index(db, "audit_log", doc! { "actor.name": 1, "at": -1 }, doc! {}).await?;
    let capped = total * 17 / 100;
    let options = doc! { "create": "console_lines", "capped": true, "size": (capped * 2 + (1 << 20)) as i64 };
    db.run_command(options).await.context("create console_lines")?;
    insert(db, "console_lines", capped, &mut made, || line(&mut numbers)).await?;
    let each = total.saturating_sub(made.bytes) / OTHERS.len() as u64;
    for name in OTHERS {
        insert(db, name, each, &mut made, || other(&mut numbers)).await?;
        index(db, name, doc! { "group": 1, "revision": -1 }, doc! {}).await?;
    }
    Ok(made)
}

async fn index(db: &Database, collection: &str, key: Document, options: Document) -> Result<()> {
    let name = key.keys().cloned().collect::<Vec<_>>().join("_");
    let mut spec = doc! { "name": name, "key": key };
    spec.extend(options);
    let command = doc! { "createIndexes": collection, "indexes": [spec] };
    db.run_command(command).await.with_context(|| format!("createIndexes {collection}"))?;
    Ok(())
}

async fn insert(
    db: &Database,
    name: &str,
    bytes: u64,
    made: &mut Made,
    mut document: impl FnMut() -> Document,
) -> Result<()> {
    let collection = db.collection::<RawDocumentBuf>(name);
    let until = made.bytes + bytes;
    while made.bytes < until {
        let (mut batch, mut size) = (Vec::new(), 0);
        while size < BATCH && made.bytes < until {
            let raw = RawDocumentBuf::try_from(document())?;
            let length = raw.as_bytes().len();
            made.add(length);
            size += length;
            batch.push(raw);
        }
        collection.insert_many(batch).await.with_context(|| format!("insert {name}"))?;
    }
    Ok(())
}

fn id(numbers: &mut Numbers) -> ObjectId {
    ObjectId::from_bytes(numbers.bytes())
}

/// Within the last month, so that no TTL index removes it while we measure.
fn recently(numbers: &mut Numbers) -> DateTime {
    DateTime::from_millis(DateTime::now().timestamp_millis() - numbers.below(30 * 86_400_000) as i64)
}

/// About 900 bytes.
fn audit(numbers: &mut Numbers) -> Document {
    let group = numbers.pick(&["lobby", "bedwars", "skywars", "proxy", "survival"]);
    let instance = format!("{group}-{}", numbers.below(400));
    let action = numbers.pick(&["GROUP_UPDATE", "INSTANCE_START", "INSTANCE_STOP", "TEMPLATE_UPLOAD", "LOGIN"]);
    let revision = numbers.below(90) as i32;
    doc! {
        "_id": id(numbers),
        "at": recently(numbers),
        "action": action,
        "actor": { "type": "USER", "name": format!("operator{}", numbers.below(60)), "ip": format!("192.0.2.{}", numbers.below(255)) },
        "target": { "type": "INSTANCE", "group": group, "instance": &instance, "node": format!("node-{}", numbers.below(12)) },
        "request": {
            "method": "POST",
            "path": format!("/api/v1/groups/{group}/instances/{instance}"),
            "traceId": numbers.hex::<16>(),
            "userAgent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        },
        "before": { "revision": revision, "state": "RUNNING", "memory": 2_048_i64, "players": numbers.below(80) as i32 },
        "after": { "revision": revision + 1, "state": "STOPPED", "memory": 4_096_i64, "players": 0 },
        "message": numbers.words(32),
        "outcome": "SUCCESS",
        "durationMs": numbers.below(5_000) as f64 / 8.0,
        "node": null,
    }
}

/// About 170 bytes.
fn line(numbers: &mut Numbers) -> Document {
    doc! {
        "_id": id(numbers),
        "at": recently(numbers),
        "instance": format!("lobby-{}", numbers.below(400)),
        "level": "INFO",
        "text": numbers.words(8),
    }
}

fn other(numbers: &mut Numbers) -> Document {
    doc! {
        "_id": id(numbers),
        "group": numbers.pick(&["lobby", "bedwars", "skywars", "proxy", "survival"]),
        "revision": numbers.below(1_000_000) as i32,
        "createdAt": recently(numbers),
        "owner": numbers.hex::<16>(),
        "spec": { "image": numbers.hex::<20>(), "env": { "JAVA_OPTS": "-Xmx2G -XX:+UseG1GC" }, "ports": [25_565, 25_575] },
        "notes": numbers.words(12),
    }
}
