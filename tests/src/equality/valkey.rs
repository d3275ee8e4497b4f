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
