//! The database of a controller: its own collections, and those of modules with every option and index there is.

use anyhow::{Context, Result};
use mongodb::{
    Client, Database,
    bson::{Bson, DateTime, Document, RawDocumentBuf, Timestamp, doc, oid::ObjectId},
};

use super::{
    Numbers, Size,
    raw_bson::{Raw, oddities},
};

const DAY: i64 = 86_400_000;

/// Fills a database with all kinds of collections.
///
/// # Errors
/// When the server refuses.
pub async fn mongo(client: &Client, database: &str, size: Size) -> Result<()> {
    let db = client.database(database);
    let mut numbers = Numbers::new(0x5eed);
    platform(&db, &mut numbers).await?;
    large(&db, &mut numbers, size).await?;
    kinds(&db, &mut numbers).await?;
    indexes(&db, &mut numbers).await?;
    odd(&db).await
}

/// Drops every collection; leaves one that no backup knows, one that lost its options, and one with other documents.
///
/// # Errors
/// When the server refuses.
pub async fn destroy_mongo(client: &Client, database: &str) -> Result<()> {
    let db = client.database(database);
    db.drop().await?;
    insert(&db, "born_after_the_backup", vec![doc! { "n": 1 }]).await?;
    insert(&db, "users", vec![doc! { "_id": "intruder" }]).await?;
    insert(&db, "console_lines", vec![doc! { "no longer": "capped" }]).await
}

async fn create(db: &Database, name: &str, options: Document) -> Result<()> {
    let mut command = doc! { "create": name };
    command.extend(options);
    db.run_command(command).await.with_context(|| format!("create {name}"))?;
    Ok(())
}

async fn index(db: &Database, collection: &str, name: &str, key: Document, options: Document) -> Result<()> {
    let mut spec = doc! { "name": name, "key": key };
    spec.extend(options);
    let command = doc! { "createIndexes": collection, "indexes": [spec] };
    db.run_command(command).await.with_context(|| format!("createIndexes {collection} {name}"))?;
    Ok(())
}

async fn insert(db: &Database, collection: &str, documents: Vec<Document>) -> Result<()> {
    for batch in documents.chunks(1_000) {
        db.collection::<Document>(collection)
            .insert_many(batch)
            .await
            .with_context(|| format!("insert {collection}"))?;
    }
    Ok(())
}

/// Inserts documents as they are; the driver sees only the command around them.
async fn insert_raw(db: &Database, collection: &str, documents: Vec<Vec<u8>>) -> Result<()> {
    let array = documents.iter().enumerate().fold(Raw::new(), |a, (n, d)| a.put(0x03, &n.to_string(), d)).finish();
    let command = Raw::new().string("insert", collection.as_bytes()).put(0x04, "documents", &array).finish();
    let reply = db.run_raw_command(RawDocumentBuf::from_bytes(command)?).await?;
    anyhow::ensure!(!reply.contains_key("writeErrors"), "insert {collection}: {reply:?}");
    Ok(())
}

fn ago(milliseconds: i64) -> DateTime {
    DateTime::from_millis(DateTime::now().timestamp_millis() - milliseconds)
}

fn id(numbers: &mut Numbers) -> ObjectId {
    ObjectId::from_bytes(numbers.bytes())
}

/// What a controller keeps of itself and its cluster.
async fn platform(db: &Database, numbers: &mut Numbers) -> Result<()> {
    insert(
        db,
        "users",
        vec![
            doc! { "_id": id(numbers), "username": "admin", "email": "admin@example.org", "passwordHash": numbers.hex::<32>(), "createdAt": ago(90 * DAY) },
            doc! { "_id": id(numbers), "username": "björn", "email": "b@example.org", "totp": null, "createdAt": ago(DAY) },
            // Two without an address, which only a sparse index allows.
            doc! { "_id": id(numbers), "username": "service-1" },
            doc! { "_id": id(numbers), "username": "service-2" },
        ],
    )
    .await?;
    index(db, "users", "email_1", doc! { "email": 1 }, doc! { "unique": true, "sparse": true }).await?;
    index(db, "users", "username_1", doc! { "username": 1 }, doc! { "unique": true }).await?;
    insert(
        db,
        "roles",
        vec![
            doc! { "_id": "admin", "permissions": ["*"] },
            doc! { "_id": "viewer", "permissions": ["group.list", "node.list"] },
        ],
    )
    .await?;
    let groups = ["lobby", "bedwars", "skywars", "proxy", "survival"];
    insert(db, "groups", groups.iter().enumerate().map(|(n, g)| doc! { "_id": *g, "type": if *g == "proxy" { "PROXY" } else { "SERVER" }, "min": 1, "max": n as i32 * 4 + 2, "memory": 2_048_i64, "currentRevision": 3, "desiredRevision": 3, "startedAt": ago(DAY) }).collect()).await?;
    let revisions = groups.iter().flat_map(|g| (1..=3).map(move |revision| (*g, revision)));
    let deployments = revisions.map(|(group, revision)| doc! { "_id": id(numbers), "groupName": group, "revision": revision, "state": "DONE", "spec": { "image": numbers.hex::<20>(), "env": { "JAVA_OPTS": "-Xmx2G" } }, "ownerEpoch": Bson::Int64(7) });
    insert(db, "deployments", deployments.collect()).await?;
    index(db, "deployments", "group_revision", doc! { "groupName": 1, "revision": -1 }, doc! { "unique": true })
        .await?;
    insert(
        db,
        "templates",
        groups
            .iter()
            .map(|g| doc! { "_id": *g, "version": 4_i64, "hash": numbers.hex::<32>(), "files": 300 })
            .collect(),
    )
    .await?;
    insert(db, "catalog", (0..40).map(|n| doc! { "_id": format!("paper-{n}"), "url": format!("https://example.org/paper-{n}.jar"), "sha256": numbers.hex::<32>() }).collect()).await?;
    insert(db, "nodes", (1..=4).map(|n| doc! { "_id": format!("node-{n}"), "address": format!("10.0.0.{n}"), "labels": { "zone": if n % 2 == 0 { "a" } else { "b" } }, "certSerial": numbers.hex::<8>(), "lastSeen": ago(5_000) }).collect()).await?;
    insert(
        db,
        "user_preferences",
        vec![doc! { "_id": "admin", "theme": "dark", "columns": [1, 2, 3], "nested": { "a": [{ "b": [] }, {}] } }],
    )
    .await?;
    insert(db, "workflow_instances", (0..25).map(|n| doc! { "_id": id(numbers), "kind": "deploy", "step": n, "intent": { "group": numbers.pick(&["lobby", "proxy"]), "replicas": n }, "updatedAt": ago(i64::from(n) * 1_000) }).collect()).await?;
    insert(
        db,
        "workflow_steps",
        (0..60).map(|n| doc! { "_id": { "workflow": n / 3, "step": n % 3 }, "state": "DONE" }).collect(),
    )
    .await?;
    insert(db, "instance_composition_plans", (0..10).map(|n| doc! { "_id": id(numbers), "instance": format!("lobby-{n}"), "layers": ["base", "lobby"], "plan": mongodb::bson::Binary { subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes: numbers.bytes::<256>().to_vec() } }).collect()).await?;
    insert(db, "crashes", (0..120).map(|n| doc! { "_id": id(numbers), "instance": format!("bedwars-{}", n % 9), "at": ago(i64::from(n) * DAY / 10), "trace": numbers.words(80) }).collect()).await?;
    index(db, "crashes", "at_ttl", doc! { "at": 1 }, doc! { "expireAfterSeconds": 2_592_000 }).await?;
    insert(db, "shares", vec![doc! { "_id": numbers.hex::<8>(), "at": ago(DAY), "body": numbers.words(30) }]).await?;
    index(db, "shares", "at_ttl", doc! { "at": 1 }, doc! { "expireAfterSeconds": 2_592_000 }).await?;
    insert(db, "networks", vec![doc! { "_id": "main", "proxies": ["proxy"], "fallback": "lobby" }]).await?;
    insert(
        db,
        "counters",
        vec![doc! { "_id": "instance", "value": 4_711_i64 }, doc! { "_id": "deployment", "value": 15 }],
    )
    .await?;
    insert(
        db,
        "cluster_identity",
        vec![doc! { "_id": "self", "clusterId": super::files::CLUSTER_ID, "createdAt": ago(200 * DAY) }],
    )
    .await?;
    insert(
        db,
        "cluster_config",
        vec![doc! { "_id": "config", "version": 12_i64, "yaml": "scheduler:\n  spread: true\n" }],
    )
    .await?;
    insert(
        db,
        "cluster_members",
        vec![doc! { "_id": super::files::CONTROLLER_UUID, "address": "127.0.0.1:9190", "state": "ACTIVE" }],
    )
    .await?;
    insert(
        db,
        "cluster_join_tokens",
        vec![
            doc! { "_id": numbers.hex::<16>(), "createdAt": ago(DAY), "redeemedAt": null },
            doc! { "_id": numbers.hex::<16>(), "createdAt": ago(2 * DAY), "redeemedAt": ago(DAY) },
        ],
    )
    .await?;
    insert(db, "cluster_files", vec![doc! { "_id": "ca.pem", "pem": "-----BEGIN CERTIFICATE-----\nbm90IGEgcmVhbCBvbmU=\n-----END CERTIFICATE-----\n" }]).await?;
    insert(db, "cluster_leadership", vec![doc! { "_id": "leader", "holder": super::files::CONTROLLER_UUID, "epoch": Bson::Int64(41), "renewedAt": ago(2_000) }]).await?;
    insert(
        db,
        "modules",
        vec![
            doc! { "_id": "stats", "version": "1.4.0", "state": "ACTIVE", "jar": "stats-1.4.0.jar" },
            doc! { "_id": "economy", "version": "0.9.2", "state": "ACTIVE", "jar": "economy-0.9.2.jar" },
        ],
    )
    .await?;
    insert(db, "module_packages", vec![doc! { "_id": "stats@1.4.0", "sha256": numbers.hex::<32>() }]).await?;
    create(db, "node_cert_revocations", doc! {}).await
}

/// The collections that grow: the audit log and the console.
async fn large(db: &Database, numbers: &mut Numbers, size: Size) -> Result<()> {
    create(db, "console_lines", doc! { "capped": true, "size": 268_435_456 }).await?;
    let lines = (0..size.console)
        .map(|n| doc! { "_id": id(numbers), "instance": "lobby-1", "seq": i64::from(n), "line": numbers.words(9) });
    insert(db, "console_lines", lines.collect()).await?;
    for from in (0..size.audit).step_by(4_000) {
        let records = (from..size.audit.min(from + 4_000)).map(|n| {
            doc! {
                "_id": id(numbers),
                "createdAt": ago(i64::from(n % 60) * DAY / 2),
                "actor": { "user": numbers.pick(&["admin", "björn", "service-1"]), "ip": format!("192.0.2.{}", n % 250) },
                "action": numbers.pick(&["group.update", "deployment.create", "node.drain", "module.install", "user.login"]),
                "target": format!("group/{}", n % 40),
                "requestId": numbers.hex::<16>(),
                "before": { "replicas": n as i32 % 7, "note": numbers.words(25) },
                "after": { "replicas": n as i32 % 9, "note": numbers.words(25) },
                "durationMs": f64::from(n % 1_000) / 8.0,
                "ok": n % 50 != 0,
            }
        });
        insert(db, "audit_log", records.collect()).await?;
    }
    index(db, "audit_log", "audit_ttl", doc! { "createdAt": -1 }, doc! { "expireAfterSeconds": 7_776_000 }).await?;
    index(db, "audit_log", "actor_action", doc! { "actor.user": 1, "action": 1, "createdAt": -1 }, doc! {}).await
}

/// Collections that are more than a bag of documents.
async fn kinds(db: &Database, numbers: &mut Numbers) -> Result<()> {
    create(db, "recent_failures", doc! { "viewOn": "audit_log", "pipeline": [{ "$match": { "ok": false } }, { "$project": { "before": 0, "after": 0 } }] }).await?;
    create(
        db,
        "recent_failures_by_user",
        doc! { "viewOn": "recent_failures", "pipeline": [{ "$sortByCount": "$actor.user" }] },
    )
    .await?;
    create(
        db,
        "users_in_german",
        doc! { "viewOn": "users", "pipeline": [{ "$sort": { "username": 1 } }], "collation": { "locale": "de" } },
    )
    .await?;

    let schema = doc! { "$jsonSchema": { "bsonType": "object", "required": ["owner", "balance"], "properties": { "balance": { "bsonType": "long", "minimum": Bson::Int64(0) } } } };
    create(
        db,
        "mod_economy_accounts",
        doc! { "validator": schema, "validationLevel": "moderate", "validationAction": "error" },
    )
    .await?;
    insert(
        db,
        "mod_economy_accounts",
        (0..50)
            .map(|n| doc! { "_id": n, "owner": format!("player-{n}"), "balance": Bson::Int64(i64::from(n) * 100) })
            .collect(),
    )
    .await?;
    // Older than the validator: it would be rejected today.
    let old = vec![doc! { "_id": 1_000, "owner": "ghost" }];
    db.collection::<Document>("mod_economy_accounts").insert_many(old).bypass_document_validation(true).await?;

    create(
        db,
        "mod_stats_samples",
        doc! { "timeseries": { "timeField": "ts", "metaField": "meta", "granularity": "minutes" } },
    )
    .await?;
    insert(db, "mod_stats_samples", (0..300).map(|n| doc! { "ts": ago(i64::from(n) * 60_000), "meta": { "node": n % 4 }, "tps": 20.0 - f64::from(n % 10) / 10.0, "players": n % 100 }).collect()).await?;
    index(db, "mod_stats_samples", "by_node", doc! { "meta.node": 1, "ts": -1 }, doc! {}).await?;

    create(db, "mod_chat_recent", doc! { "capped": true, "size": 65_536, "max": 200 }).await?;
    // More than fit, so that it has gone round.
    insert(db, "mod_chat_recent", (0..500).map(|n| doc! { "_id": n, "text": numbers.words(6) }).collect()).await?;

    create(db, "mod_shop_names", doc! { "collation": { "locale": "sv", "strength": 2 } }).await?;
    insert(
        db,
        "mod_shop_names",
        ["Äpple", "apple", "Zebra", "åka", "Öl"].iter().map(|n| doc! { "name": *n }).collect(),
    )
    .await?;
    index(db, "mod_shop_names", "name_default", doc! { "name": 1 }, doc! {}).await?;
    index(
        db,
        "mod_shop_names",
        "name_simple",
        doc! { "name": 1, "_id": 1 },
        doc! { "collation": { "locale": "simple" } },
    )
    .await?;

    create(
        db,
        "mod_geo_clustered",
        doc! { "clusteredIndex": { "key": { "_id": 1 }, "unique": true, "name": "clustered pk" } },
    )
    .await?;
    insert(db, "mod_geo_clustered", (0..40).rev().map(|n| doc! { "_id": n, "x": numbers.hex::<4>() }).collect())
        .await?;

    create(db, "mod_feed_events", doc! { "changeStreamPreAndPostImages": { "enabled": true } }).await?;
    insert(db, "mod_feed_events", vec![doc! { "_id": 1, "e": "x" }]).await?;
    create(
        db,
        "mod_feed_archive",
        doc! { "storageEngine": { "wiredTiger": { "configString": "block_compressor=zlib" } } },
    )
    .await?;
    insert(db, "mod_feed_archive", (0..20).map(|n| doc! { "_id": n, "body": numbers.words(50) }).collect()).await
}

/// Every kind of index, with every option.
async fn indexes(db: &Database, numbers: &mut Numbers) -> Result<()> {
    let places = (0..60).map(|n| {
        doc! { "_id": n, "name": numbers.words(3), "at": { "type": "Point", "coordinates": [f64::from(n) / 2.0, 50.0] }, "flat": [n, n], "tags": ["a", "b"], "attributes": { "k": n }, "kind": if n % 2 == 0 { "shop" } else { "farm" }, "expires": DateTime::from_millis(DateTime::now().timestamp_millis() + 30 * DAY) }
    });
    insert(db, "platform_map_places", places.collect()).await?;
    let index =
        async |name: &str, key: Document, options: Document| index(db, "platform_map_places", name, key, options).await;
    index("compound", doc! { "kind": 1, "name": -1, "_id": 1 }, doc! {}).await?;
    index("multikey", doc! { "tags": 1 }, doc! {}).await?;
    index(
        "partial",
        doc! { "name": 1 },
        doc! { "unique": false, "partialFilterExpression": { "kind": "shop", "flat.0": { "$gt": 3 } } },
    )
    .await?;
    index(
        "text",
        doc! { "name": "text", "kind": "text" },
        doc! { "weights": { "name": 10 }, "default_language": "german", "language_override": "lang" },
    )
    .await?;
    index("sphere", doc! { "at": "2dsphere" }, doc! { "2dsphereIndexVersion": 3 }).await?;
    index("flat", doc! { "flat": "2d" }, doc! { "bits": 24, "min": -500.0, "max": 500.0 }).await?;
    index("hashed", doc! { "name": "hashed" }, doc! {}).await?;
    index("wildcard", doc! { "$**": 1 }, doc! { "wildcardProjection": { "attributes": 1, "tags": 1 } }).await?;
    index("hidden", doc! { "kind": -1 }, doc! { "hidden": true }).await?;
    index("collated", doc! { "name": -1 }, doc! { "collation": { "locale": "fr", "caseLevel": true } }).await?;
    index("at a date", doc! { "expires": 1 }, doc! { "expireAfterSeconds": 0 }).await?;
    // An option written as a double stays one.
    index("sparse and true as a number", doc! { "missing": 1.0 }, doc! { "sparse": 1.0, "background": true }).await?;
    create(db, "platform_map_empty", doc! {}).await?;
    self::index(db, "platform_map_empty", "waiting", doc! { "x": 1 }, doc! { "unique": true }).await
}

/// Documents and names that careless tools change.
async fn odd(db: &Database) -> Result<()> {
    insert_raw(db, "mod_stats_odd", oddities()).await?;
    // The server replaces an empty timestamp at the top level of an inserted document, but not of an updated one.
    insert(db, "mod_stats_odd", vec![doc! { "_id": "zero", "t": Timestamp { time: 1, increment: 1 } }]).await?;
    let literal = doc! { "_id": "zero", "t": Timestamp { time: 0, increment: 0 } };
    let replace = vec![doc! { "$replaceRoot": { "newRoot": { "$literal": literal } } }];
    db.collection::<Document>("mod_stats_odd").update_one(doc! { "_id": "zero" }, replace).await?;
    for name in ["mod_web/pages", "mod_web 100%", "mod_web\\back", "mod_wéb.ünïcode.日本", "mod_Case", "mod_case"]
    {
        insert(db, name, vec![doc! { "_id": 1, "name": name }]).await?;
    }
    // Escaped it is longer than a file name may be.
    let long = format!("mod_long_{}", "ä".repeat(80));
    insert(db, &long, vec![doc! { "_id": 1 }]).await
}
