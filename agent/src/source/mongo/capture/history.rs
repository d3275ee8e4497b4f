//! How long a server keeps the history that captures read at one time from, and how it is made to keep more while one runs.
//!
//! The oplog only rolls forward: it cannot bring what is read too late back to the time of what is stored already. So a
//! capture that takes longer than the history begins anew with a longer one, where the account may arrange that.

use std::{sync::Arc, time::Duration};

use bson::{Document, doc};
use tokio::time::timeout;

use super::super::{Server, inspect::number};

const PARAMETER: &str = "minSnapshotHistoryWindowInSeconds";
/// Seconds that a server is asked to keep at least: its own default is 300.
const AT_LEAST: u64 = 3600;
/// How much longer each time.
const FACTOR: u64 = 12;
/// How long putting it back may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A history that is longer than the server's own; it is put back when this is dropped.
#[derive(Debug)]
pub(super) struct Longer {
    server: Arc<Server>,
    /// Seconds.
    before: u64,
    now: u64,
}

impl Longer {
    /// Lets the server that is read from keep a longer history; `None` when the account may not.
    pub(super) async fn arrange(server: &Arc<Server>) -> Option<Self> {
        let before = number(&server.ask_admin(doc! { "getParameter": 1, PARAMETER: 1 }).await?, PARAMETER);
        let mut longer = Self { server: server.clone(), before, now: before };
        longer.still().await.then_some(longer)
    }

    /// Makes it longer still; whether that was allowed.
    pub(super) async fn still(&mut self) -> bool {
        let now = self.now.saturating_mul(FACTOR).max(AT_LEAST);
        let done = self.server.ask_admin(set(now)).await.is_some();
        if done {
            tracing::warn!(
                target = self.server.target(),
                from = self.now,
                to = now,
                "{PARAMETER} is raised for this capture"
            );
            self.now = now;
        }
        done
    }

    /// As it was before.
    pub(super) async fn put_back(mut self) {
        put_back(&self.server, self.before).await;
        self.now = self.before;
    }
}

impl Drop for Longer {
    /// For a capture that is cancelled.
    fn drop(&mut self) {
        if self.now != self.before
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (server, before) = (self.server.clone(), self.before);
            runtime.spawn(async move { put_back(&server, before).await });
        }
    }
}

async fn put_back(server: &Server, seconds: u64) {
    if timeout(PATIENCE, server.ask_admin(set(seconds))).await.ok().flatten().is_none() {
        tracing::warn!(
            target = server.target(),
            "{PARAMETER} could not be put back to {seconds}: it is until the server restarts"
        );
    }
}

fn set(seconds: u64) -> Document {
    doc! { "setParameter": 1, PARAMETER: i32::try_from(seconds).unwrap_or(i32::MAX) }
}
