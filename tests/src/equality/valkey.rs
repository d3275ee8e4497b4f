//! Valkey's keys with type, value and expiry, in all its databases, and its functions.

use anyhow::{Context, Result};

use super::{Aspects, Things, show};
use crate::resp::{Reply, Resp};

/// Reads every key. Values are read by commands of their type, so that encodings do not count; the order of sets and
/// hashes does not either.
///
/// # Errors
/// When the server refuses or goes away.
pub async fn valkey(resp: &mut Resp) -> Result<Things> {
    let mut things = Things::new();
    let databases = resp.call(&["CONFIG", "GET", "databases"]).await?.items().pop().map(Reply::text);
    let databases: u32 = databases.context("the server tells the number of its databases")?.parse()?;
    for db in 0..databases {
        resp.call(&["SELECT", &db.to_string()]).await?;
        let mut cursor = b"0".to_vec();
        loop {
            let mut reply = resp.call(&[b"SCAN".to_vec(), cursor, b"COUNT".to_vec(), b"1000".to_vec()]).await?.items();
            let keys = reply.pop().context("SCAN answers with keys")?.items();
            cursor = reply.pop().context("SCAN answers with a cursor")?.bytes();
            for key in keys {
                let key = key.bytes();
                // It may have expired since.
                if let Some(aspects) = one(resp, &key).await? {
                    things.insert(format!("db{db} {}", key.escape_ascii()), aspects);
                }
            }
            if cursor == b"0" {
                break;
            }
        }
    }
    resp.call(&["SELECT", "0"]).await?;
    for library in resp.call(&["FUNCTION", "LIST", "WITHCODE"]).await?.items() {
        let mut canonical = Vec::new();
        library.canonical(&mut canonical);
        let name = library.items().into_iter().nth(1).map(Reply::text).unwrap_or_default();
        things.insert(format!("function {name}"), Aspects::from([("code".into(), show(&canonical))]));
    }
    Ok(things)
}

async fn one(resp: &mut Resp, key: &[u8]) -> Result<Option<Aspects>> {
    let kind = resp.call(&[b"TYPE".as_slice(), key]).await?.text();
    let expires = resp.call(&[b"PEXPIRETIME".as_slice(), key]).await?.integer();
    let read = async |resp: &mut Resp, command: &[&str]| {
        let mut args = vec![command[0].as_bytes(), key];
        args.extend(command[1..].iter().map(|arg| arg.as_bytes()));
        resp.call(&args).await
    };
    let mut canonical = Vec::new();
    match kind.as_str() {
        "none" => return Ok(None),
        "string" => canonical = read(resp, &["GET"]).await?.bytes(),
        "list" => read(resp, &["LRANGE", "0", "-1"]).await?.canonical(&mut canonical),
        "set" => sorted(read(resp, &["SMEMBERS"]).await?.items(), 1).canonical(&mut canonical),
        "zset" => read(resp, &["ZRANGE", "0", "-1", "WITHSCORES"]).await?.canonical(&mut canonical),
        "hash" => sorted(read(resp, &["HGETALL"]).await?.items(), 2).canonical(&mut canonical),
        "stream" => stream(resp, key).await?.canonical(&mut canonical),
        other => anyhow::bail!("key {} has the type {other}, which this comparison does not know", key.escape_ascii()),
    }
    let expires = if expires < 0 { "never".to_owned() } else { expires.to_string() };
    Ok(Some(Aspects::from([("type".into(), kind), ("expires at".into(), expires), ("value".into(), show(&canonical))])))
}

/// Entries, groups, consumers and pending entries; without what is about memory, not content.
async fn stream(resp: &mut Resp, key: &[u8]) -> Result<Reply> {
    let full = resp.call(&[b"XINFO".as_slice(), b"STREAM", key, b"FULL", b"COUNT", b"0"]).await?.items();
    let mut kept = Vec::new();
    for pair in full.chunks(2) {
        if !pair[0].clone().text().starts_with("radix-tree") {
            kept.extend(pair.iter().cloned());
        }
    }
    Ok(Reply::Array(Some(kept)))
}

/// The same items in an order of their own, in groups of `width`.
fn sorted(items: Vec<Reply>, width: usize) -> Reply {
    let mut groups: Vec<Vec<Vec<u8>>> =
        items.chunks(width).map(|group| group.iter().cloned().map(Reply::bytes).collect()).collect();
    groups.sort();
    Reply::Array(Some(groups.into_iter().flatten().map(|bytes| Reply::Bulk(Some(bytes))).collect()))
}

/// What is left of a backup's keys when it is restored over live ones, by the restore laws L1, L4, L5 and L6.
pub fn corrected(backup: &Things, live: &Things) -> Things {
    const GONE: [&str; 10] = [
        "lease:",
        "nodeowner:",
        "node:",
        "instance:",
        "player:",
        "sse:",
        "login:fail:",
        "login:lock:",
        "pwreset:",
        "plugintoken:",
    ];
    // Database and what follows `prexor:v1:`.
    let ours = |name: &str| name.split_once(" prexor:v1:").map(|(db, key)| (db.to_owned(), key.to_owned()));
    let is = |name: &str, prefixes: &[&str]| ours(name).is_some_and(|(_, k)| prefixes.iter().any(|p| k.starts_with(p)));
    let mut out: Things =
        backup.iter().filter(|(name, _)| !is(name, &GONE)).map(|(n, a)| (n.clone(), a.clone())).collect();
    for (name, aspects) in live.iter().filter(|(name, _)| is(name, &["jwt:revoked:", "nodecert:revoked:"])) {
        let end = |a: &Aspects| a.get("expires at").and_then(|e| e.parse::<i64>().ok()).unwrap_or(i64::MAX);
        if out.get(name).is_none_or(|known| end(known) < end(aspects)) {
            out.insert(name.clone(), aspects.clone());
        }
    }
    let mut issued: std::collections::BTreeMap<String, i64> = std::collections::BTreeMap::new();
    for (name, aspects) in backup.iter().chain(live) {
        let Some((db, key)) = ours(name) else { continue };
        let value = aspects.get("value").map(String::as_str).unwrap_or_default();
        let (resource, number) = match (key.strip_prefix("lease-token:"), key.strip_prefix("lease:")) {
            (Some(resource), _) => (resource, value),
            (_, Some(resource)) => (resource, value.rsplit('|').next().unwrap_or_default()),
            _ => continue,
        };
        if let Ok(number) = number.parse() {
            let highest = issued.entry(format!("{db} prexor:v1:lease-token:{resource}")).or_insert(number);
            *highest = number.max(*highest);
        }
    }
    for (name, highest) in issued {
        let value = (highest.max(0) + 1_000_000).to_string();
        let aspects = [("type", "string".to_owned()), ("expires at", "never".to_owned()), ("value", value)];
        out.insert(name, aspects.map(|(k, v)| (k.to_owned(), v)).into());
    }
    out
}
