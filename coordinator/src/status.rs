//! How everything is: nodes, jobs, the newest backup, the store, and what is wrong, the most urgent first.

use jiff::{SignedDuration, Timestamp};
use prexor_format::text;
use prexor_proto::{
    backup::{Backup, BackupState, GetStatusResponse, Job, JobState, Node, Service, Source},
    convert::{kind_from_wire, time_from_wire},
    facts,
};

use crate::{
    agents::{Look, way_back},
    backups,
    context::Context,
    error::Error,
    jobs,
};

mod last_good;

/// How far a datastore's copies may be behind before it is a problem.
const LAG_WARNING_S: u64 = 60;

/// Certificates that end sooner than this are a problem: agents renew theirs long before.
const CERTIFICATE_WARNING: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The same of the backup CA, whom all of them must leave for another one first.
const CA_WARNING: SignedDuration = SignedDuration::from_hours(90 * 24);

/// How many backups are looked at for damage.
const RECENT: u32 = 100;

/// Looks at everything. Nodes that do not answer, and a store that cannot be used, are in the report as such.
///
/// # Errors
/// When the catalog cannot be read.
pub async fn report(ctx: &Context) -> Result<GetStatusResponse, Error> {
    let mut records = ctx.catalog.all_nodes().await?;
    let revoked: Vec<_> = records.extract_if(.., |n| n.revoked_at.is_some()).collect();
    let nodes = ctx.agents.inspect_all(&records, Look::Plain).await;
    let looked_at = async {
        backups::refresh_index(ctx).await?;
        ctx.store.free_bytes().await
    };
    let store = looked_at.await;
    let recent: Vec<Backup> = ctx.catalog.backups(None, RECENT).await?.into_iter().map(|b| b.backup).collect();
    let any_complete = recent.iter().any(|b| b.state() == BackupState::Complete);
    let mut active_jobs: Vec<Job> = ctx.catalog.active_jobs().await?.into_iter().map(|row| row.job).collect();
    jobs::say_what_they_wait_for(&ctx.catalog, &mut active_jobs, Timestamp::now()).await?;
    let paused = active_jobs.iter().filter(|job| job.state() == JobState::Paused);
    let why = |job: &Job| job.failure.as_ref().map(|f| f.message.clone()).unwrap_or_default();
    let mut problems: Vec<String> = paused.map(|job| format!("{} is paused: {}", job.id, why(job))).collect();
    problems
        .extend(store.as_ref().err().map(|e| format!("the store {} is out of order: {e}", ctx.store.root().display())));
    problems.extend(self::problems(&nodes, &recent, any_complete, Timestamp::now()));
    let (ca, own) = (ctx.ca.roots().issuing().not_after(), ctx.agents.own_certificate_ends());
    problems.extend(certificates(ca, own, Timestamp::now()));
    problems.extend(revoked.iter().filter_map(|n| {
        let (name, at) = (&n.name, n.revoked_at?);
        Some(format!("{name} was revoked at {at} and is left out of everything; {}", way_back(name)))
    }));
    let (latest_backup, last_good) = match store {
        Ok(_) => last_good::of(ctx, &nodes, Timestamp::now()).await?,
        Err(_) => Default::default(),
    };
    problems.extend(last_good::problems(&last_good, any_complete, Timestamp::now()));
    let store_free_bytes = store.unwrap_or_default();
    if let Some(latest) = latest_backup.as_ref().filter(|b| b.size_bytes > store_free_bytes) {
        problems.push(format!(
            "the store has {} free: the newest backup has {}",
            text::bytes(store_free_bytes),
            text::bytes(latest.size_bytes)
        ));
    }
    Ok(GetStatusResponse {
        cluster: ctx.config.cluster.clone(),
        coordinator_version: env!("CARGO_PKG_VERSION").to_owned(),
        ca_fingerprint: ctx.ca.roots().issuing().fingerprint().to_string(),
        active_jobs,
        latest_backup,
        store: ctx.store.root().display().to_string(),
        store_free_bytes,
        problems,
        nodes,
        last_good,
    })
}

fn problems(nodes: &[Node], recent: &[Backup], any_complete: bool, now: Timestamp) -> Vec<String> {
    let mut problems = Vec::new();
    if nodes.is_empty() {
        problems.push("no agent is enrolled: `prexorctl token create`, then `prexorctl setup` on each host".to_owned());
    }
    for node in nodes.iter().filter(|n| !n.reachable) {
        let since = node.unreachable_since.as_ref().and_then(|t| time_from_wire(t).ok());
        let since = since.map(|t| format!(" for {}", text::duration(now.duration_since(t)))).unwrap_or_default();
        problems.push(format!("{} is not reachable{since}: {}", node.name, node.problem));
    }
    for node in nodes {
        for source in node.sources.iter().filter(|s| !s.problem.is_empty()) {
            let kind = kind_from_wire(source.kind).map_or("an unknown source", |k| k.as_str());
            problems.push(format!("{}: {kind}: {}", node.name, source.problem));
        }
        problems.extend(node.services.iter().filter_map(|s| Some(format!("{}: {}", node.name, of_the_service(s)?))));
        problems.extend(node.sources.iter().flat_map(|s| of_the_copies(&node.name, s)));
    }
    for backup in recent.iter().filter(|b| b.state() == BackupState::Damaged) {
        problems.push(format!("{} is damaged: {}", backup.id, backup.problem));
    }
    problems.extend(recent.iter().filter_map(not_good));
    if !any_complete && !nodes.is_empty() {
        problems.push("there is no complete backup yet: `prexorctl backup create` makes one".to_owned());
    }
    for node in nodes {
        let end = node.certificate_not_after.as_ref().and_then(|t| time_from_wire(t).ok());
        if let Some(end) = end.filter(|end| end.duration_since(now) < CERTIFICATE_WARNING) {
            problems.push(format!("{}: the agent's certificate ends at {end}: enrol it again in time", node.name));
        }
    }
    problems
}

/// The coordinator's own, which nobody else can tell of.
fn certificates(ca: Timestamp, own: Timestamp, now: Timestamp) -> Vec<String> {
    let soon = |end: Timestamp, warning| end.duration_since(now) < warning;
    let ca_ends = soon(ca, CA_WARNING)
        .then(|| format!("the backup CA ends at {ca}: `prexorctl ca rotate` replaces it while everything goes on"));
    let own_ends = soon(own, CERTIFICATE_WARNING)
        .then(|| format!("the coordinator's certificate ends at {own} and was not renewed: its log says why"));
    ca_ends.into_iter().chain(own_ends).collect()
}

/// Why a complete backup counts as no good one, and what to do.
fn not_good(backup: &Backup) -> Option<String> {
    let id = &backup.id;
    if !backup.verify_problem.is_empty() {
        return Some(format!("{id} is damaged, a verify found: {}", backup.verify_problem));
    }
    let lost = Some(&backup.suspect).filter(|lost| !lost.is_empty())?;
    Some(format!("{id} is suspect, it has {lost}: `prexorctl backup accept {id}` if that was meant to go"))
}

fn of_the_service(service: &Service) -> Option<String> {
    if !service.problem.is_empty() {
        return Some(service.problem.clone());
    }
    if !service.held_for.is_empty() {
        return Some(format!("the controller is held for the restore {}", service.held_for));
    }
    (service.ready == Some(false)).then(|| format!("the controller runs and is not ready: {}", service.not_ready))
}

/// Of a datastore: who does not replicate, or not fast enough.
fn of_the_copies(node: &str, source: &Source) -> Vec<String> {
    let kind = kind_from_wire(source.kind).map_or("an unknown source", |k| k.as_str());
    let cut_off = source.facts.get(facts::CUT_OFF).map(|who| format!("{node}: {kind}: no replication with {who}"));
    let lag = source.facts.get(facts::LAG).and_then(|s| s.parse::<u64>().ok()).filter(|s| *s > LAG_WARNING_S);
    let lag = lag.map(|s| format!("{node}: {kind}: its slowest copy is {s} s behind"));
    cut_off.into_iter().chain(lag).collect()
}

#[cfg(test)]
mod tests {
    use prexor_proto::convert::time_to_wire;

    use super::*;

    #[test]
    fn what_cannot_be_reached_comes_first() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let soon = Some(time_to_wire(now + SignedDuration::from_hours(1)));
        let source = Source { kind: 1, problem: "connection refused".to_owned(), ..Source::default() };
        let copies = [(facts::CUT_OFF, "c:27017, d:27017"), (facts::LAG, "75")];
        let copies = copies.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
        let copied = Source { kind: 1, facts: copies, ..Source::default() };
        let controller = Service { ready: Some(false), not_ready: "it answers 503".to_owned(), ..Service::default() };
        let held = Service { held_for: "job-1".to_owned(), ..Service::default() };
        let up = Node {
            name: "h1".to_owned(),
            reachable: true,
            sources: vec![source, copied],
            services: vec![controller, held],
            certificate_not_after: soon,
            ..Node::default()
        };
        let down = Node {
            name: "h2".to_owned(),
            problem: "no answer".to_owned(),
            unreachable_since: Some(time_to_wire(now - SignedDuration::from_mins(4))),
            ..Node::default()
        };
        let damaged = Backup { id: "bk-1".to_owned(), state: BackupState::Damaged as i32, ..Backup::default() };
        let suspect =
            Backup { suspect: "1 document, 100 in bk-0".to_owned(), id: "bk-2".to_owned(), ..Backup::default() };
        let bad = Backup { verify_problem: "x: is missing".to_owned(), id: "bk-3".to_owned(), ..Backup::default() };
        let found = problems(&[up, down], &[damaged, suspect, bad], false, now);
        let says = [
            "h2 is not reachable for 4 min: no answer",
            "h1: mongo: connection refused",
            "h1: the controller runs and is not ready: it answers 503",
            "h1: the controller is held for the restore job-1",
            "h1: mongo: no replication with c:27017, d:27017",
            "h1: mongo: its slowest copy is 75 s behind",
            "bk-1 is damaged",
            "bk-2 is suspect, it has 1 document, 100 in bk-0: `prexorctl backup accept bk-2`",
            "bk-3 is damaged, a verify found: x: is missing",
            "no complete backup",
            "ends at",
        ];
        assert_eq!(found.len(), says.len());
        for (problem, says) in found.iter().zip(says) {
            assert!(problem.contains(says), "{problem}");
        }
        assert!(problems(&[], &[], false, now)[0].contains("no agent is enrolled"));
    }

    #[test]
    fn certificates_that_nobody_else_sees_end_are_told_of_in_time() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let in_days = |days: i64| now + SignedDuration::from_hours(days * 24);
        assert_eq!(certificates(in_days(91), in_days(8), now), [""; 0]);
        let told = certificates(in_days(89), in_days(6), now);
        assert!(
            told[0].contains("`prexorctl ca rotate`") && told[1].contains("the coordinator's certificate"),
            "{told:?}"
        );
    }
}
