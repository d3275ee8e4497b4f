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
            let keys: Vec<Vec<u8>> = keys.into_iter().map(Reply::bytes).collect();
            for (key, aspects) in some(resp, keys).await? {
                things.insert(format!("db{db} {}", key.escape_ascii()), aspects);
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

/// What these keys hold; without those that have expired since.
async fn some(resp: &mut Resp, keys: Vec<Vec<u8>>) -> Result<Vec<(Vec<u8>, Aspects)>> {
    let ask = |command: &'static str| keys.iter().map(move |key| [command.as_bytes().to_vec(), key.clone()]);
    let kinds = resp.pipeline(&ask("TYPE").collect::<Vec<_>>()).await?;
    let expiries = resp.pipeline(&ask("PEXPIRETIME").collect::<Vec<_>>()).await?;
    let kinds: Vec<String> = kinds.into_iter().map(Reply::text).collect();
    let read = keys.iter().zip(&kinds).map(|(key, kind)| {
        let words: &[&str] = match kind.as_str() {
            "string" => &["GET"],
            "list" => &["LRANGE", "0", "-1"],
            "set" => &["SMEMBERS"],
            "zset" => &["ZRANGE", "0", "-1", "WITHSCORES"],
            "hash" => &["HGETALL"],
            // Asked for by themselves; this keeps the answers in step.
            _ => &["EXISTS"],
        };
        let mut args = vec![words[0].as_bytes().to_vec(), key.clone()];
        args.extend(words[1..].iter().map(|word| word.as_bytes().to_vec()));
        args
    });
    let values = resp.pipeline(&read.collect::<Vec<_>>()).await?;
    let mut out = Vec::new();
    for (((key, kind), expires), value) in keys.into_iter().zip(kinds).zip(expiries).zip(values) {
        let mut canonical = Vec::new();
        match (kind.as_str(), value) {
            ("none", _) | (_, Reply::Bulk(None)) => continue,
            ("string", value) => canonical = value.bytes(),
            ("list" | "set" | "zset" | "hash", Reply::Array(Some(items))) if items.is_empty() => continue,
            ("list" | "zset", value) => value.canonical(&mut canonical),
            ("set", value) => sorted(value.items(), 1).canonical(&mut canonical),
            ("hash", value) => sorted(value.items(), 2).canonical(&mut canonical),
            ("stream", _) => stream(resp, &key).await?.canonical(&mut canonical),
            (other, _) => {
                anyhow::bail!("key {} has the type {other}, which this comparison does not know", key.escape_ascii())
            }
        }
        let expires = expires.integer();
        let expires = if expires < 0 { "never".to_owned() } else { expires.to_string() };
        let aspects = [("type".into(), kind), ("expires at".into(), expires), ("value".into(), show(&canonical))];
        out.push((key, Aspects::from(aspects)));
    }
    Ok(out)
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
