//! Which agents are there, and since when not: each is asked again and again over a connection that stays open. It costs
//! one small call; a process that hangs, a host that is off and a network that is cut all look the same: no answer.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use prexor_certs::Credential;
use prexor_format::{id::NodeName, text};
use tokio_util::sync::CancellationToken;

use super::{AgentClient, Agents, INSPECTIONS_AT_ONCE, upkeep::is_answer};
use crate::{catalog::NodeRecord, context::Context, error::Error, rotation};

/// What is known of an agent since the coordinator was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sight {
    /// When it last answered.
    pub(super) last_seen: Option<Timestamp>,
    /// Since when it does not; `None` when it does.
    pub(super) unreachable_since: Option<Timestamp>,
}

/// What is known of all agents.
#[derive(Debug, Default)]
pub(super) struct Sights(Mutex<BTreeMap<NodeName, Sight>>);

impl Sights {
    /// Takes note of an answer, or of none, and returns what is known now. What changes is logged.
    pub(super) fn note(&self, node: &NodeName, answer: Result<(), &Error>) -> Sight {
        self.note_at(node, answer, Timestamp::now())
    }

    fn note_at(&self, node: &NodeName, answer: Result<(), &Error>, now: Timestamp) -> Sight {
        let mut sights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sight = sights.entry(node.clone()).or_default();
        match answer {
            Ok(()) => {
                if let Some(since) = sight.unreachable_since.take() {
                    tracing::info!(%node, "the agent answers again, after {}", text::duration(now.duration_since(since)));
                }
                sight.last_seen = Some(now);
            }
            Err(e) => {
                if sight.unreachable_since.is_none() {
                    tracing::warn!(%node, "an agent does not answer: {e}");
                    sight.unreachable_since = Some(now);
                }
            }
        }
        sight.clone()
    }

    fn keep(&self, nodes: &[NodeRecord]) {
        let mut sights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sights.retain(|name, _| nodes.iter().any(|n| n.name == *name));
    }
}

/// An open connection, good as long as the node stays where it is and our credential is the same.
struct Line {
    address: String,
    credential: Arc<Credential>,
    client: AgentClient,
}

impl Agents {
    /// Asks every enrolled agent at every heartbeat whether it is there, until `stop` fires.
    pub async fn watch_over(self, ctx: Arc<Context>, stop: CancellationToken) {
        let mut lines: HashMap<NodeName, Line> = HashMap::new();
        let mut beat = tokio::time::interval(self.limits.heartbeat);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(beat.tick()).await.is_some() {
            let nodes = match ctx.catalog.nodes().await {
                Ok(nodes) => nodes,
                Err(e) => {
                    tracing::warn!("it is not known which agents to ask: {e}");
                    continue;
                }
            };
            self.sights.keep(&nodes);
            let asked: Vec<_> = nodes.iter().map(|node| self.ask(&ctx, node, lines.remove(&node.name))).collect();
            let asking = stream::iter(asked).buffer_unordered(INSPECTIONS_AT_ONCE).collect::<Vec<_>>();
            let Some(answers) = stop.run_until_cancelled(asking).await else { return };
            lines = answers.into_iter().flatten().collect();
            rotation::finish_when_all_have_moved(&ctx).await;
        }
    }

    /// Asks one agent, over the line from last time where there is one, and returns the line to use next time.
    async fn ask(&self, ctx: &Context, node: &NodeRecord, line: Option<Line>) -> Option<(NodeName, Line)> {
        let answer = self.line(ctx, node, line).await;
        self.sights.note(&node.name, answer.as_ref().map(drop));
        answer.ok().map(|line| (node.name.clone(), line))
    }

    async fn line(&self, ctx: &Context, node: &NodeRecord, line: Option<Line>) -> Result<Line, Error> {
        let credential = self.credential.borrow().clone();
        let usable = line.filter(|l| l.address == node.address && Arc::ptr_eq(&l.credential, &credential));
        if let Some(line) = usable
            && is_answer(line.client.tend(ctx, &credential).await).is_ok()
        {
            return Ok(line);
        }
        // An agent that was started again closed the line: only a new one tells whether it is there.
        let client = self.connect(node).await?;
        is_answer(client.tend(ctx, &credential).await)?;
        Ok(Line { address: node.address.clone(), credential, client })
    }
}

#[cfg(test)]
mod tests {
    use prexor_proto::reason::Reason;

    use super::*;

    #[test]
    fn silence_counts_from_its_first_moment_and_ends_with_an_answer() {
        let (sights, node) = (Sights::default(), "h1".parse().unwrap());
        let at = |s| Timestamp::from_second(s).unwrap();
        let gone = Error::new(Reason::AgentUnavailable, "connection refused");
        assert_eq!(sights.note_at(&node, Ok(()), at(10)).last_seen, Some(at(10)));
        sights.note_at(&node, Err(&gone), at(20));
        let silent = sights.note_at(&node, Err(&gone), at(30));
        assert_eq!(silent, Sight { last_seen: Some(at(10)), unreachable_since: Some(at(20)) });
        let back = sights.note_at(&node, Ok(()), at(40));
        assert_eq!(back, Sight { last_seen: Some(at(40)), unreachable_since: None });
        sights.keep(&[]);
        assert_eq!(sights.note_at(&node, Err(&gone), at(50)).last_seen, None, "another node of the same name");
    }
}
