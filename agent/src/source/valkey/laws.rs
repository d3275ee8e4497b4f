//! Laws L1, L4, L5 and L6 on a server: what its keys say to them, and their corrections carried out.
//!
//! What follows from what is `prexor_format::laws::valkey`'s to say. A value of a revocation is kept as `DUMP` gives it.

use std::collections::BTreeMap;

use bytes::Bytes;
use fred::types::Value;
use prexor_format::laws::{
    Lease, Leases,
    valkey::{Correction, KEPT_MAX, PATTERNS, Place, Role, State, removes, role, weight},
};
use serde::{Deserialize, Serialize};

use super::{SourceError, client::Connection};

/// Keys that a server is asked to look at in one go.
const AT_ONCE: &str = "2000";

/// Bytes that are kept for each of a revocation's value, in hex.
const PER_BYTE: u64 = 2;

/// What is live, with what is needed to bring revocations back.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Live {
    pub(super) state: State,
    /// Of each revocation: what `DUMP` answers, in hex.
    values: BTreeMap<Place, String>,
    /// Leases that expire.
    #[serde(skip)]
    pub(super) leases: Leases,
    /// What is kept in mind, in bytes.
    #[serde(skip)]
    kept: u64,
}

/// Adds to what is kept in mind of the keys of `whose`.
///
/// # Errors
/// When it becomes too much.
pub(super) fn keep(kept: &mut u64, key: &[u8], whose: &str) -> Result<(), SourceError> {
    *kept += weight(key);
    within(*kept, whose)
}

fn within(kept: u64, whose: &str) -> Result<(), SourceError> {
    if kept <= KEPT_MAX {
        return Ok(());
    }
    Err(SourceError::NoSpace(format!(
        "{whose} has more fencing counters, leases and revocations than a restore keeps in mind ({} MiB of them): let \
         revocations that are no longer needed expire, or restore with --keys what is needed of the rest",
        KEPT_MAX >> 20
    )))
}

impl Live {
    /// Takes in what was seen at another time; nothing that either knew is forgotten.
    pub(super) fn merge(&mut self, other: Self) {
        self.state.merge(&other.state);
        self.values.extend(other.values);
    }
}

/// All keys of one logical database that the laws are about, some at a time.
struct Walk<'a> {
    connection: &'a Connection,
    /// The pattern and those to come.
    patterns: &'static [&'static str],
    cursor: String,
}

impl<'a> Walk<'a> {
    async fn of(connection: &'a Connection, db: u64) -> Result<Self, SourceError> {
        connection.must::<()>("SELECT", &[&db.to_string()]).await?;
        Ok(Self { connection, patterns: &PATTERNS, cursor: "0".to_owned() })
    }

    async fn next(&mut self) -> Result<Option<Vec<Bytes>>, SourceError> {
        let Some((pattern, rest)) = self.patterns.split_first() else { return Ok(None) };
        let (next, keys): (String, Vec<Bytes>) =
            self.connection.must("SCAN", &[&self.cursor, "MATCH", pattern, "COUNT", AT_ONCE]).await?;
        if next == "0" {
            self.patterns = rest;
        }
        self.cursor = next;
        Ok(Some(keys))
    }
}

/// Looks at all keys.
pub(super) async fn read(connection: &Connection) -> Result<Live, SourceError> {
    let info = connection.info().await?;
    let mut live = Live::default();
    for db in info.databases() {
        let mut walk = Walk::of(connection, db).await?;
        while let Some(keys) = walk.next().await? {
            take(connection, db, keys, &mut live).await?;
        }
    }
    live.state.keys = info.keys();
    Ok(live)
}

async fn take(connection: &Connection, db: u64, keys: Vec<Bytes>, live: &mut Live) -> Result<(), SourceError> {
    let whose = || format!("Valkey at {}", connection.address());
    for key in &keys {
        keep(&mut live.kept, key, &whose())?;
    }
    let of = |wanted: fn(Role) -> bool| keys.iter().filter(move |k| role(k).is_some_and(wanted));
    let asked = of(|r| matches!(r, Role::Counter | Role::Lease)).map(|k| ("GET", vec![k.clone()]));
    let values = connection.many(asked.collect()).await?;
    for (key, value) in of(|r| matches!(r, Role::Counter | Role::Lease)).zip(values) {
        // One of another type says nothing; it is a key all the same.
        let value = value.ok().and_then(|v| v.into_bytes());
        live.state.add(db, key, value.as_deref(), None);
    }
    live.leases.extend(leases(connection, of(|r| r == Role::Lease).cloned().collect()).await?);
    let revocations = || of(|r| r == Role::Revocation);
    let dumps = connection.many(revocations().map(|k| ("DUMP", vec![k.clone()])).collect()).await?;
    let expiries = expiries(connection, revocations().cloned().collect()).await?;
    for ((key, dump), expires) in revocations().zip(dumps).zip(expiries) {
        let dump = dump.map_err(|said| connection.refused("DUMP", &said))?;
        // Expired between two commands.
        let (Some(dump), Some(expires)) = (dump.into_bytes(), expires) else { continue };
        live.state.add(db, key, None, expires);
        live.kept += PER_BYTE * dump.len() as u64;
        within(live.kept, &whose())?;
        live.values.insert(Place { db, key: key.to_vec() }, hex::encode(dump));
    }
    of(|r| matches!(r, Role::Ownership | Role::Login)).for_each(|key| live.state.add(db, key, None, None));
    Ok(())
}

/// Who holds what until when.
async fn leases(connection: &Connection, keys: Vec<Bytes>) -> Result<Leases, SourceError> {
    let ask = |command: &'static str| keys.iter().map(move |k| (command, vec![k.clone()])).collect();
    let (holders, remaining) = (connection.many(ask("GET")).await?, connection.many(ask("PTTL")).await?);
    let ends = expiries(connection, keys.clone()).await?;
    let told = keys.iter().zip(holders).zip(remaining).zip(ends).filter_map(|(((key, holder), remaining), end)| {
        let holder = holder.ok()?.into_bytes()?;
        let (mark, renewed_within) = (end??, remaining.ok()?.as_i64()?);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some((text(key), Lease { holder: text(&holder), mark, renewed_within }))
    });
    Ok(told.collect())
}

/// When keys expire, in milliseconds since the epoch: `Some(None)` for never, `None` for a key that is gone.
async fn expiries(connection: &Connection, keys: Vec<Bytes>) -> Result<Vec<Option<Option<i64>>>, SourceError> {
    let ask = |command: &'static str| keys.iter().map(move |k| (command, vec![k.clone()])).collect();
    let mut answers = connection.many(ask("PEXPIRETIME")).await?;
    let mut base = 0;
    if answers.iter().any(Result::is_err) {
        // Before Redis 7. The clock is the server's, and looked at last: too late by the way of an answer, never too early.
        answers = connection.many(ask("PTTL")).await?;
        let (seconds, micros): (i64, i64) = connection.must("TIME", &[]).await?;
        base = seconds.saturating_mul(1000).saturating_add(micros / 1000);
    }
    let read = |answer: Result<Value, String>| match answer.map_err(|said| connection.refused("PTTL", &said))?.as_i64()
    {
        Some(-1) => Ok(Some(None)),
        Some(ms @ 0..) => Ok(Some(Some(base + ms))),
        _ => Ok(None),
    };
    answers.into_iter().map(read).collect()
}

/// Carries corrections out. Safe to repeat. Where `covers` says no, nothing is taken away.
pub(super) async fn apply(
    connection: &Connection,
    corrections: &[Correction],
    live: &Live,
    covers: impl Fn(&[u8]) -> bool,
) -> Result<(), SourceError> {
    if corrections.iter().any(|c| matches!(c, Correction::Remove { .. })) {
        for db in connection.info().await?.databases() {
            let mut walk = Walk::of(connection, db).await?;
            while let Some(keys) = walk.next().await? {
                let gone: Vec<_> = keys.into_iter().filter(|k| removes(corrections, k) && covers(k)).collect();
                if !gone.is_empty() {
                    connection.all(vec![("UNLINK", gone)]).await?;
                }
            }
        }
    }
    let mut by_db: BTreeMap<u64, Vec<(&'static str, Vec<Bytes>)>> = BTreeMap::new();
    for correction in corrections {
        let (place, command) = match correction {
            Correction::Counter { place, to, .. } => {
                (place, ("SET", vec![Bytes::copy_from_slice(&place.key), to.to_string().into()]))
            }
            Correction::Revocation { place, expires_at_ms } => {
                let value = live.values.get(place).and_then(|value| hex::decode(value).ok()).ok_or_else(|| {
                    SourceError::Failed(format!(
                        "the value of the revocation {place} was not kept, the restore cannot go on"
                    ))
                })?;
                let expires = expires_at_ms.unwrap_or(0).to_string();
                let key = Bytes::copy_from_slice(&place.key);
                (place, ("RESTORE", vec![key, expires.into(), value.into(), "REPLACE".into(), "ABSTTL".into()]))
            }
            Correction::Remove { .. } => continue,
        };
        by_db.entry(place.db).or_default().push(command);
    }
    for (db, commands) in by_db {
        connection.must::<()>("SELECT", &[&db.to_string()]).await?;
        connection.all(commands).await?;
    }
    Ok(())
}

/// What of the corrections' single keys is not as it must be, in words.
pub(super) async fn differences(
    connection: &Connection,
    corrections: &[Correction],
    now_ms: i64,
) -> Result<Vec<String>, SourceError> {
    let mut out = Vec::new();
    for correction in corrections {
        let Some(place) = correction.place() else { continue };
        connection.must::<()>("SELECT", &[&place.db.to_string()]).await?;
        let key = Bytes::copy_from_slice(&place.key);
        match correction {
            Correction::Counter { to, .. } => {
                let found = connection.many(vec![("GET", vec![key])]).await?.pop();
                let found = found.and_then(Result::ok).and_then(|v| v.into_string());
                if found.as_deref() != Some(&to.to_string()) {
                    out.push(format!("{place} is {} instead of {to}", found.as_deref().unwrap_or("missing")));
                }
            }
            Correction::Revocation { expires_at_ms, .. } => {
                let in_force = match (expiries(connection, vec![key]).await?.pop().flatten(), expires_at_ms) {
                    (Some(None), _) => true,
                    (Some(Some(found)), Some(end)) => found >= *end,
                    // One that has run out by now may be gone.
                    (None, Some(end)) => *end <= now_ms,
                    (_, None) => false,
                };
                if !in_force {
                    out.push(format!("the revocation {place} is not in force"));
                }
            }
            Correction::Remove { .. } => {}
        }
    }
    Ok(out)
}
