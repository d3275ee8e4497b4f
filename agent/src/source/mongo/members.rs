//! The other members of the replica set: who is absent, who lags, and waiting for a primary (law L18).

use std::time::{Duration, Instant};

use bson::{Bson, DateTime, Document, doc};
use prexor_proto::facts;

use super::{MongoConfig, Server};
use crate::{sink::Progress, source::SourceError};

/// How long an election may take. Ten seconds without a heartbeat begin one; a member that was killed needs a while to
/// recover its journal.
const ELECTED_WITHIN: Duration = Duration::from_secs(90);

/// How often work is begun again that lost its primary.
const ATTEMPTS: u32 = 3;

/// How long members that answer may take to have what was written, before a restore goes on without them.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(300);

const ASK_EVERY: Duration = Duration::from_millis(200);

/// Does `work` again when the server went away or lost its primary and there is one again. `work` must be such that it
/// finishes what an earlier attempt began.
pub(super) async fn patiently<T, W: Future<Output = Result<T, SourceError>>>(
    server: &Server,
    mut work: impl FnMut() -> W,
) -> Result<T, SourceError> {
    let mut attempt = 1;
    loop {
        match work().await {
            Err(SourceError::Unavailable(why)) if attempt < ATTEMPTS => {
                tracing::warn!(why, attempt, "waiting for MongoDB's primary");
                if !has_primary_within(server, ELECTED_WITHIN).await {
                    return Err(SourceError::Unavailable(why));
                }
                attempt += 1;
            }
            done => return done,
        }
    }
}

/// Connects, and waits for a server that is away for a while: a restore that has begun does not end for that.
pub(super) async fn open(config: &MongoConfig) -> Result<Server, SourceError> {
    let begun = Instant::now();
    loop {
        match Server::open(config).await {
            Err(SourceError::Unavailable(why)) if begun.elapsed() < ELECTED_WITHIN => {
                tracing::warn!(why, "waiting for MongoDB");
                tokio::time::sleep(ASK_EVERY).await;
            }
            done => return done,
        }
    }
}

async fn has_primary_within(server: &Server, patience: Duration) -> bool {
    let begun = Instant::now();
    loop {
        let hello = server.ask(doc! { "hello": 1 }).await;
        if hello.is_ok_and(|h| matches!(h.get_bool("isWritablePrimary"), Ok(true))) {
            return true;
        }
        if begun.elapsed() > patience {
            return false;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Waits until every member that answers has what was written until now. Says in the log who lags or is absent: a
/// restore does not fail for a member that is down, the majority has the data.
pub(super) async fn caught_up(server: &Server, progress: &Progress) {
    let Some(first) = status(server).await else { return };
    let Some(goal) = first.iter().filter_map(|m| m.written).max() else { return };
    let begun = Instant::now();
    let mut members = first;
    loop {
        let behind: Vec<_> = members.iter().filter(|m| m.answers && m.written.is_some_and(|w| w < goal)).collect();
        if behind.is_empty() {
            break;
        }
        let names = behind.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ");
        if begun.elapsed() > CAUGHT_UP_WITHIN {
            tracing::warn!(members = names, "these members of the replica set lag behind the restore");
            return;
        }
        progress.set_subject(format!("waiting for {names} to catch up"));
        tokio::time::sleep(ASK_EVERY).await;
        let Some(now) = status(server).await else { return };
        members = now;
    }
    let absent = names(members.iter().filter(|m| !m.answers));
    if !absent.is_empty() {
        tracing::warn!(
            members = absent,
            "these members of the replica set are down and have nothing of the restore yet"
        );
    }
}

/// Who does not answer, in words.
pub(super) async fn absent(server: &Server) -> String {
    match status(server).await {
        None => "which of them is down cannot be told without the privilege replSetGetStatus".to_owned(),
        Some(members) => match names(members.iter().filter(|m| !m.answers)) {
            absent if absent.is_empty() => "all of them answer".to_owned(),
            absent => format!("{absent} cannot be reached"),
        },
    }
}

/// Tells what the server is to the others, who of them is down and how far the slowest is behind.
pub(super) async fn tell(server: &Server, tell: &mut impl FnMut(&str, String) -> Option<String>) {
    if let Ok(hello) = server.ask(doc! { "hello": 1 }).await {
        tell(facts::ROLE, role(&hello).to_owned());
    }
    let Some(members) = status(server).await else { return };
    let down = names(members.iter().filter(|m| !m.answers));
    if !down.is_empty() {
        tell(facts::CUT_OFF, down);
    }
    if let Some(lag) = lag(&members) {
        tell(facts::LAG, lag.as_secs().to_string());
    }
}

/// By the answer to `hello`.
fn role(hello: &Document) -> &'static str {
    match hello.get_bool("isWritablePrimary") {
        _ if matches!(hello.get_str("msg"), Ok("isdbgrid")) => "router",
        _ if !hello.contains_key("setName") => "standalone",
        Ok(true) => "primary",
        _ => "secondary",
    }
}

/// How far the slowest member that answers is behind the newest; `None` where there are no two.
fn lag(members: &[Member]) -> Option<Duration> {
    let written = || members.iter().filter(|m| m.answers).filter_map(|m| m.written);
    let behind = written().max()?.timestamp_millis() - written().min()?.timestamp_millis();
    (written().count() > 1).then(|| Duration::from_millis(behind.try_into().unwrap_or_default()))
}

struct Member {
    name: String,
    /// Whether it takes part: primary or secondary. Arbiters have no data and count as well.
    answers: bool,
    /// The wall clock time of its last write; none of an arbiter.
    written: Option<DateTime>,
}

async fn status(server: &Server) -> Option<Vec<Member>> {
    let reply = server.ask_admin(doc! { "replSetGetStatus": 1 }).await?;
    let members = reply.get_array("members").ok()?;
    Some(members.iter().filter_map(Bson::as_document).filter_map(member).collect())
}

fn member(m: &Document) -> Option<Member> {
    Some(Member {
        name: m.get_str("name").ok()?.to_owned(),
        // PRIMARY, SECONDARY and ARBITER.
        answers: matches!(m.get_i32("state"), Ok(1 | 2 | 7)),
        written: m.get_datetime("optimeDate").ok().copied(),
    })
}

fn names<'m>(members: impl Iterator<Item = &'m Member>) -> String {
    members.map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_are_down_are_told_from_arbiters() {
        let down = member(&doc! { "name": "b:1", "state": 8, "stateStr": "(not reachable/healthy)" }).unwrap();
        let arbiter = member(&doc! { "name": "c:1", "state": 7 }).unwrap();
        assert!(!down.answers && arbiter.answers && arbiter.written.is_none());
        assert_eq!(names([&down, &arbiter].into_iter()), "b:1, c:1");
    }

    #[test]
    fn the_lag_is_that_of_the_slowest_member_that_answers() {
        let at = |state: i32, s: i64| {
            let written = DateTime::from_millis(s * 1000);
            member(&doc! { "name": "m", "state": state, "optimeDate": written }).unwrap()
        };
        assert_eq!(lag(&[at(1, 100), at(2, 93), at(2, 99), at(8, 5)]), Some(Duration::from_secs(7)));
        assert_eq!(lag(&[at(1, 100), at(8, 5)]), None);
    }

    #[test]
    fn roles_are_told_apart() {
        assert_eq!(role(&doc! { "isWritablePrimary": true, "setName": "rs0" }), "primary");
        assert_eq!(role(&doc! { "isWritablePrimary": false, "setName": "rs0" }), "secondary");
        assert_eq!(role(&doc! { "isWritablePrimary": true }), "standalone");
        assert_eq!(role(&doc! { "isWritablePrimary": true, "msg": "isdbgrid" }), "router");
    }
}
