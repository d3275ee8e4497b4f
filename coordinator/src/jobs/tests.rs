//! The life of jobs, with a real catalog and store and no agents.

use prexor_format::artifact::ArtifactKind;
use prexor_proto::backup::{Failure, Message, job_event::Event};
use prexor_transport::revoked::Revoked;
use tokio_stream::StreamExt as _;

use super::*;
use crate::{agents::Agents, backups, ca::Ca, config::Config, enrolment::Tries, scope::Scope, store::Store, tls::Tls};

/// A coordinator without listeners; started again on the same directory it finds what it left.
pub(crate) async fn start(dir: &std::path::Path) -> Arc<Context> {
    let file = dir.join("coordinator.yml");
    let (state, store) = (dir.join("state"), dir.join("store"));
    std::fs::write(&file, format!("cluster: c\nstate_dir: {}\nstore: {{path: {}}}", state.display(), store.display()))
        .unwrap();
    let config = Config::load(&file).unwrap();
    let _ = crate::startup::take_state_dir(&config.state_dir).unwrap();
    let (ca, revoked) = (Ca::open(&config).unwrap(), Revoked::default());
    let catalog = Catalog::open(&config.catalog_path()).await.unwrap();
    let tls = Tls::open(&config, &ca, &catalog, revoked.clone()).await.unwrap();
    let epoch = catalog.begin_epoch(Timestamp::now()).await.unwrap();
    Arc::new(Context {
        agents: Agents::new(tls.credential(), config.agents, revoked.clone()),
        jobs: Jobs::new(catalog.clone()),
        store: Store::open(&config.store.path).await.unwrap(),
        config,
        epoch,
        catalog,
        ca,
        revoked,
        tries: Tries::default(),
    })
}

fn record(id: &str) -> NewJob {
    NewJob {
        id: id.to_owned(),
        request_id: id.to_owned(),
        kind: JobKind::Backup,
        spec: Task::Backup { description: None, scope: vec![ArtifactKind::Mongo], compression: None, class: None }
            .spec(),
        backup_id: None,
        requested_by: "root".to_owned(),
        scope: Scope::everywhere([ArtifactKind::Mongo]),
        created_at: Timestamp::now(),
    }
}

/// Records a job and begins to run it with this work.
async fn begin<F>(ctx: &Arc<Context>, id: &str, work: impl FnOnce(Arc<Context>, JobHandle) -> F)
where
    F: Future<Output = Outcome> + Send + 'static,
{
    ctx.catalog.submit_job(&record(id), 0).await.unwrap();
    ctx.jobs.start(ctx, id, JobKind::Backup, work);
}

async fn events(ctx: &Context, id: &str, after: u64) -> Vec<JobEvent> {
    ctx.jobs.watch(id, after).await.unwrap().map(Result::unwrap).collect().await
}

async fn state(ctx: &Context, id: &str) -> JobState {
    ctx.catalog.job(id).await.unwrap().job.state()
}

fn succeeded() -> Outcome {
    Outcome::default()
}

async fn until_cancelled(job: JobHandle) -> Outcome {
    job.cancel().cancelled().await;
    Err(Error::cancelled()).into()
}

#[tokio::test]
async fn watchers_see_everything_whenever_they_come() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = start(dir.path()).await;
    begin(&ctx, "job-1", |_, job| async move {
        for i in 0..300 {
            job.message(format!("{i}")).await;
            tokio::task::yield_now().await;
        }
        succeeded()
    })
    .await;
    let (live, resumed) = tokio::join!(events(&ctx, "job-1", 0), events(&ctx, "job-1", 100));
    let late = events(&ctx, "job-1", 0).await;
    // Running, the messages, succeeded.
    assert_eq!(live.iter().map(|e| e.seq).collect::<Vec<_>>(), (1..=302).collect::<Vec<_>>());
    assert_eq!(live, late);
    assert_eq!(resumed, live[100..]);
    assert_eq!(live.last().unwrap().event, Some(Event::State(JobState::Succeeded as i32)));
    assert!(ctx.jobs.watch("job-9", 0).await.is_err());
}

#[tokio::test]
async fn figures_become_events_now_and_then_and_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = start(dir.path()).await;
    begin(&ctx, "job-1", |_, job| async move {
        for done_bytes in 0..10_000 {
            job.progress(prexor_proto::backup::Progress { done_bytes, ..Default::default() });
        }
        succeeded()
    })
    .await;
    let seen = events(&ctx, "job-1", 0).await;
    let figures: Vec<u64> = seen
        .iter()
        .filter_map(|e| match &e.event {
            Some(Event::Progress(p)) => Some(p.done_bytes),
            _ => None,
        })
        .collect();
    assert!(figures.len() <= 3, "{}", figures.len());
    assert_eq!(figures.last(), Some(&9_999));
}

#[tokio::test]
async fn a_cancelled_job_says_by_whom_and_frees_its_lease() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = start(dir.path()).await;
    begin(&ctx, "job-1", |_, job| until_cancelled(job)).await;
    let task = || Task::Backup { description: None, scope: vec![ArtifactKind::Mongo], compression: None, class: None };
    assert_eq!(ctx.jobs.submit(&ctx, task(), Wait::No, "", "root").await.unwrap_err().reason, Reason::Busy);
    ctx.jobs.cancel(&ctx, "job-1", "prexor://c/operator/ann").await.unwrap();
    ctx.jobs.cancel(&ctx, "job-1", "prexor://c/operator/bob").await.unwrap();
    let seen = events(&ctx, "job-1", 0).await;
    let texts: Vec<_> = seen
        .into_iter()
        .filter_map(|e| match e.event {
            Some(Event::Message(Message { text, .. })) => Some(text),
            _ => None,
        })
        .collect();
    assert_eq!(texts, ["cancelled by prexor://c/operator/ann"]);
    assert_eq!(state(&ctx, "job-1").await, JobState::Cancelled);
    // With nobody enrolled the next one fails, but it runs.
    let next = ctx.jobs.submit(&ctx, task(), Wait::InQueue, "r", "root").await.unwrap();
    let again = ctx.jobs.submit(&ctx, task(), Wait::InQueue, "r", "root").await.unwrap();
    assert_eq!(next.id, again.id);
    events(&ctx, &next.id, 0).await;
    let ended = ctx.catalog.job(&next.id).await.unwrap().job;
    assert!(ended.failure.unwrap().message.contains("no agent is enrolled"));
}

#[tokio::test]
async fn a_panic_is_a_failure_of_that_job_only() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = start(dir.path()).await;
    begin(&ctx, "job-1", |_, _| async { panic!("a defect") }).await;
    events(&ctx, "job-1", 0).await;
    let failure: Failure = ctx.catalog.job("job-1").await.unwrap().job.failure.unwrap();
    assert_eq!(failure.reason, "INTERNAL");
}

#[tokio::test]
async fn a_stop_ends_jobs_as_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = start(dir.path()).await;
    begin(&ctx, "job-1", |_, job| until_cancelled(job)).await;
    ctx.jobs.shut_down(Duration::from_secs(10)).await;
    let job = ctx.catalog.job("job-1").await.unwrap().job;
    assert_eq!((job.state(), job.failure.unwrap().reason.as_str()), (JobState::Failed, "INTERRUPTED"));
    assert!(
        ctx.jobs
            .submit(&ctx, Task::Verify("bk-2026-05-10-001".parse().unwrap(), Reading::Full), Wait::No, "", "root")
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_restart_fails_what_ran_and_removes_what_it_left() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = start(dir.path()).await;
    let id = |n: u32| format!("bk-2026-05-10-{n:03}").parse().unwrap();
    // Killed in the middle of a capture, in the middle of a delete, and between reserving and saying so.
    ctx.catalog.submit_job(&record("job-1"), 0).await.unwrap();
    for n in 1..=4 {
        ctx.store.reserve(&id(n)).await.unwrap();
    }
    std::fs::create_dir(ctx.store.root().join("bk-2026-05-10-001/mongo")).unwrap();
    std::fs::write(ctx.store.root().join("bk-2026-05-10-001/mongo/x.bson.gz#1"), "half").unwrap();
    ctx.catalog.doom_backup(&id(1), Some("job-1")).await.unwrap();
    std::fs::write(ctx.store.root().join("bk-2026-05-10-002/dump.rdb"), "rest").unwrap();
    ctx.catalog.doom_backup(&id(2), None).await.unwrap();
    // Not ours to remove: nobody knows why it has no manifest.
    std::fs::write(ctx.store.root().join("bk-2026-05-10-004/dump.rdb"), "precious").unwrap();
    ctx.catalog.close().await;

    let ctx = start(dir.path()).await;
    recover(&ctx).await.unwrap();
    let job = ctx.catalog.job("job-1").await.unwrap().job;
    assert_eq!((job.state(), job.failure.unwrap().reason.as_str()), (JobState::Failed, "INTERRUPTED"));
    assert!(ctx.catalog.doomed_backups().await.unwrap().is_empty());
    let left: Vec<_> = ctx.store.survey().await.unwrap().into_iter().map(|s| s.id).collect();
    assert_eq!(left, [id(4)]);
    let listed = backups::list(&ctx, None, 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert!(listed[0].backup.problem.contains("no manifest"), "{}", listed[0].backup.problem);
    // It can be deleted, and the lease of the job that was killed is free.
    backups::delete(&ctx, &id(4)).await.unwrap();
    assert!(backups::list(&ctx, None, 10).await.unwrap().is_empty());
    ctx.catalog.submit_job(&record("job-2"), 0).await.unwrap();
}

#[tokio::test]
async fn a_backup_in_use_is_not_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = start(dir.path()).await;
    let id = "bk-2026-05-10-001".parse().unwrap();
    ctx.store.reserve(&id).await.unwrap();
    begin(&ctx, "job-1", |_, job| until_cancelled(job)).await;
    ctx.catalog.set_job_backup("job-1", &id).await.unwrap();
    let e = backups::delete(&ctx, &id).await.unwrap_err();
    assert_eq!(e.reason, Reason::Busy);
    assert!(e.message.contains("job-1"), "{e}");
    ctx.jobs.cancel(&ctx, "job-1", "root").await.unwrap();
    events(&ctx, "job-1", 0).await;
    backups::delete(&ctx, &id).await.unwrap();
    assert_eq!(backups::delete(&ctx, &id).await.unwrap_err().reason, Reason::NotFound);
}

async fn texts(ctx: &Context, id: &str) -> Vec<String> {
    let text = |e: JobEvent| match e.event {
        Some(Event::Message(Message { text, .. })) => Some(text),
        _ => None,
    };
    events(ctx, id, 0).await.into_iter().filter_map(text).collect()
}

fn backup_of(kind: ArtifactKind) -> Task {
    Task::Backup { description: None, scope: vec![kind], compression: None, class: None }
}

#[tokio::test]
async fn a_job_waits_for_what_is_in_its_way_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = start(dir.path()).await;
    begin(&ctx, "job-1", |_, job| until_cancelled(job)).await;
    let submit = async |kind| ctx.jobs.submit(&ctx, backup_of(kind), Wait::InQueue, "", "root").await.unwrap();
    let (second, third) = (submit(ArtifactKind::Mongo).await, submit(ArtifactKind::Mongo).await);
    assert_eq!((second.state(), second.started_at), (JobState::Queued, None));
    let beside = submit(ArtifactKind::Valkey).await;
    assert!(beside.started_at.is_some(), "nothing of Valkey is in its way: {beside:?}");

    let mut jobs = [third.clone()];
    say_what_they_wait_for(&ctx.catalog, &mut jobs, Timestamp::now()).await.unwrap();
    assert!(jobs[0].waits_for.starts_with("job-1 (backup of mongo, running for "), "{}", jobs[0].waits_for);
    assert!(jobs[0].waits_for.ends_with(" and 1 other job"), "{}", jobs[0].waits_for);

    // Whoever watches from before its turn sees all of it.
    let (told, _) = tokio::join!(events(&ctx, &third.id, 0), ctx.jobs.cancel(&ctx, "job-1", "root"));
    let states: Vec<_> =
        told.iter().filter_map(|e| if let Some(Event::State(s)) = e.event { Some(s) } else { None }).collect();
    assert_eq!(states, [JobState::Queued as i32, JobState::Running as i32, JobState::Failed as i32]);
    assert!(texts(&ctx, &second.id).await[0].starts_with("queued behind job-1 (backup of mongo"));
    let told = texts(&ctx, &third.id).await;
    assert!(
        told[0].starts_with("queued behind job-1 (") && told[1].starts_with(&format!("queued behind {} (", second.id)),
        "{told:?}"
    );
    let failed = ctx.catalog.job(&third.id).await.unwrap().job;
    assert!(failed.failure.unwrap().message.contains("no agent is enrolled"), "it did run");
}

#[tokio::test]
async fn a_job_that_waits_is_cancelled_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = start(dir.path()).await;
    begin(&ctx, "job-1", |_, job| until_cancelled(job)).await;
    let queued = ctx.jobs.submit(&ctx, backup_of(ArtifactKind::Mongo), Wait::InQueue, "r", "root").await.unwrap();
    let (told, cancelled) = tokio::join!(events(&ctx, &queued.id, 0), ctx.jobs.cancel(&ctx, &queued.id, "ann"));
    assert_eq!(cancelled.unwrap().state(), JobState::Cancelled);
    assert_eq!(
        told.last().unwrap().event,
        Some(Event::State(JobState::Cancelled as i32)),
        "the watcher comes to its end"
    );
    assert!(texts(&ctx, &queued.id).await.contains(&"cancelled by ann".to_owned()));
    assert_eq!(state(&ctx, "job-1").await, JobState::Running);
    let again = ctx.jobs.submit(&ctx, backup_of(ArtifactKind::Mongo), Wait::InQueue, "r", "root").await.unwrap();
    assert_eq!(again.id, queued.id, "a repeated request does not revive it");
}

#[tokio::test]
async fn jobs_that_wait_survive_a_stop_and_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = start(dir.path()).await;
    begin(&ctx, "job-1", |_, job| until_cancelled(job)).await;
    let queued = ctx.jobs.submit(&ctx, backup_of(ArtifactKind::Mongo), Wait::InQueue, "", "root").await.unwrap();
    let watching = tokio::join!(events(&ctx, &queued.id, 0), ctx.jobs.shut_down(Duration::from_secs(10))).0;
    assert!(!watching.is_empty(), "its watchers are let go");
    assert_eq!(state(&ctx, "job-1").await, JobState::Failed);
    assert_eq!(state(&ctx, &queued.id).await, JobState::Queued);
    ctx.catalog.close().await;

    let ctx = start(dir.path()).await;
    recover(&ctx).await.unwrap();
    events(&ctx, &queued.id, 0).await;
    let ended = ctx.catalog.job(&queued.id).await.unwrap().job;
    assert!(ended.failure.unwrap().message.contains("no agent is enrolled"), "its turn came");
}

#[tokio::test]
async fn what_an_agent_last_said_stands_in_the_failure() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = start(dir.path()).await;
    begin(&ctx, "job-1", |_, job| async move {
        let figure = |node: &str, artifact: &str| prexor_proto::backup::Progress {
            node: node.to_owned(),
            artifact_id: artifact.to_owned(),
            subject: "prexorcloud.audit_log".to_owned(),
            done_bytes: 120 << 20,
            ..Default::default()
        };
        job.progress(figure("h1", "mongo"));
        job.progress(figure("h2", "filesystem-h2"));
        Err(Error::new(Reason::AgentUnavailable, "the agent on h1 has not moved for 60 s").on("h1")).into()
    })
    .await;
    events(&ctx, "job-1", 0).await;
    let message = ctx.catalog.job("job-1").await.unwrap().job.failure.unwrap().message;
    assert!(message.contains("; last heard: mongo at 120 MiB (prexorcloud.audit_log), 0 s ago"), "{message}");
    assert!(!message.contains("h2"), "{message}");
}
