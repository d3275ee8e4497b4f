//! A coordinator that answers by script, over real mTLS: for faults that a real one shows only by chance, at the very
//! point where a test wants them.

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use prexor_certs::{Authority, EnrolmentToken, Identity, Role, tls};
use prexor_proto::backup::{
    AcceptBackupRequest, ApplyRestoreRequest, Backup, BackupState, CancelJobRequest, CreateBackupRequest,
    DeleteBackupRequest, DeleteBackupResponse, GetBackupRequest, GetBackupResponse, GetJobRequest, ImportBackupRequest,
    Job, JobEvent, JobResult, JobState, ListBackupsRequest, ListBackupsResponse, ListJobsRequest, ListJobsResponse,
    Message, PinBackupRequest, Plan, PlanRestoreRequest, Progress, PruneBackupsRequest, PruneBackupsResponse,
    RestoreReport, ResumeJobRequest, Step, StepEvent, StepState, StepVerb, UnpinBackupRequest, VerifyBackupRequest,
    WatchJobRequest,
    backup_service_server::{BackupService, BackupServiceServer},
    job_event::Event,
    job_result::Result as Outcome,
    job_service_server::{JobService, JobServiceServer},
    restore_service_server::{RestoreService, RestoreServiceServer},
};
use prexor_proto::enroll::{
    EnrolRequest, EnrolResponse,
    enrolment_service_server::{EnrolmentService, EnrolmentServiceServer},
};
use prexor_proto::{reason::Reason, status};
use prexor_transport::{
    context::{Context, Contexts},
    serve,
};
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// What the coordinator was asked, in order.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) request_ids: Vec<String>,
    pub(crate) watched_after: Vec<u64>,
    pub(crate) applied: Vec<ApplyRestoreRequest>,
}

/// A running coordinator and the context of an operator.
pub(crate) struct Scripted {
    pub(crate) dir: tempfile::TempDir,
    /// Where hosts enrol.
    pub(crate) enrolment: String,
    /// The only one that is good.
    pub(crate) token: EnrolmentToken,
    pub(crate) seen: Arc<Mutex<Seen>>,
}

#[derive(Clone)]
struct Script(Arc<Mutex<Seen>>);

impl Scripted {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (now, hour) = (Timestamp::now(), Duration::from_secs(3600));
        let authority = Authority::create(&dir.path().join("ca"), "test", now).unwrap();
        let issue = |role, name| {
            let identity = Identity::new("test", role, name).unwrap();
            authority.issue_credential(&identity, hour, now).unwrap()
        };
        let listener = serve::listener("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let credential = dir.path().join("credential");
        issue(Role::Operator, "anna").store(&credential).unwrap();
        let context = Context { endpoints: vec![address.clone()], cluster: "test".into(), credential };
        Contexts::single("default", context).save(&dir.path().join("config.yml")).unwrap();

        let enrolment = serve::listener("127.0.0.1:0").await.unwrap();
        let enrolment_address = enrolment.local_addr().unwrap().to_string();
        let token = EnrolmentToken::generate(authority.fingerprint());
        let credential = issue(Role::Coordinator, "c1");
        let (_, newest) = watch::channel(tls::enrolment_server_config(&credential).unwrap());
        let (expected, api_address) = (token.to_string(), address);
        let service = EnrolmentServiceServer::new(Enrolment { authority, expected, api_address });
        tokio::spawn(
            serve::server(serve::Limits::default()).add_service(service).serve_with_incoming(serve::incoming(
                enrolment,
                newest,
                serve::Limits::default(),
            )),
        );

        let (_, newest) = watch::channel(tls::server_config(&credential).unwrap());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let script = Script(seen.clone());
        tokio::spawn(
            serve::server(serve::Limits::default())
                .add_service(BackupServiceServer::new(script.clone()))
                .add_service(JobServiceServer::new(script.clone()))
                .add_service(RestoreServiceServer::new(script))
                .serve_with_incoming(serve::incoming(listener, newest, serve::Limits::default())),
        );
        Self { dir, enrolment: enrolment_address, token, seen }
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("config.yml")
    }

    /// `prexorctl` in this context, not yet started.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = ctl(&self.config());
        command.args(args);
        command
    }

    /// Runs `prexorctl` to its end, while the coordinator goes on answering.
    pub(crate) async fn run(&self, args: &[&str]) -> Said {
        let mut command = self.command(args);
        tokio::task::spawn_blocking(move || Said::from(command.output().unwrap())).await.unwrap()
    }
}

/// `prexorctl` with this context file and nothing else of the environment that matters.
pub(crate) fn ctl(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prexorctl"));
    command.env("PREXORCTL_CONFIG", config).env_remove("PREXORCTL_HANDED_OVER");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a process printed and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

type Events = Pin<Box<dyn Stream<Item = Result<JobEvent, Status>> + Send>>;

pub(crate) fn backup(number: u32) -> Backup {
    Backup {
        id: format!("bk-2026-05-10-{number:03}"),
        state: BackupState::Complete.into(),
        created_at: Some(prost_types::Timestamp { seconds: 1_778_400_000, nanos: 0 }),
        size_bytes: 142 << 20,
        scope: vec![1, 2, 3],
        path: format!("/var/backups/prexorcloud/bk-2026-05-10-{number:03}/"),
        warnings: vec!["a socket was skipped".into()],
        ..Backup::default()
    }
}

pub(crate) fn plan() -> Plan {
    Plan { backup_id: "bk-2026-05-10-001".into(), digest: vec![7; 32], steps: vec![swap_step()], ..Plan::default() }
}

fn swap_step() -> Step {
    Step { number: 1, verb: StepVerb::Swap.into(), title: "drop+restore mongo".into(), ..Step::default() }
}

fn job(id: &str, state: JobState, result: Option<Outcome>) -> Job {
    Job { id: id.into(), state: state.into(), result: result.map(|r| JobResult { result: Some(r) }), ..Job::default() }
}

fn event(seq: u64, event: Event) -> Result<JobEvent, Status> {
    Ok(JobEvent { seq, at: None, event: Some(event) })
}

fn says(seq: u64) -> Result<JobEvent, Status> {
    event(seq, Event::Message(Message { warning: false, text: format!("event {seq}") }))
}

fn progress(tenths: u64) -> Result<JobEvent, Status> {
    let progress = Progress {
        node: "h1".into(),
        artifact_id: "mongo".into(),
        subject: "prexorcloud.audit_log".into(),
        done_bytes: tenths << 20,
        total_bytes: Some(10 << 20),
        done_items: tenths,
    };
    let at = prost_types::Timestamp { seconds: 1_778_400_000 + tenths as i64, nanos: 0 };
    Ok(JobEvent { seq: tenths + 1, at: Some(at), event: Some(Event::Progress(progress)) })
}

fn on_two_hosts() -> Vec<Result<JobEvent, Status>> {
    let step = |number, node: &str, title: &str| Step {
        number,
        verb: StepVerb::Hold.into(),
        node: node.into(),
        title: title.into(),
        ..Step::default()
    };
    let stop = "stop the controller";
    let states = [
        (step(1, "", "look at every host again"), StepState::Done),
        (step(2, "h1", stop), StepState::Started),
        (step(3, "h2", stop), StepState::Started),
        (step(2, "h1", stop), StepState::Done),
    ];
    let events = states.into_iter().zip(1..);
    let event = |(step, state): (Step, StepState)| {
        Event::Step(StepEvent { step: Some(step), state: state.into(), detail: String::new() })
    };
    events.map(|(what, seq)| self::event(seq, event(what))).collect()
}

#[tonic::async_trait]
impl BackupService for Script {
    /// The first call gets lost after it has been heard.
    async fn create_backup(&self, r: Request<CreateBackupRequest>) -> Result<Response<Job>, Status> {
        let mut seen = self.0.lock().unwrap();
        seen.request_ids.push(r.into_inner().request_id);
        if seen.request_ids.len() == 1 {
            return Err(Status::unavailable("connection reset"));
        }
        Ok(Response::new(job("job-000000000001", JobState::Running, None)))
    }

    async fn get_backup(&self, r: Request<GetBackupRequest>) -> Result<Response<GetBackupResponse>, Status> {
        Err(status::status(Reason::NotFound, format!("there is no backup {}", r.into_inner().backup_id)))
    }

    /// Pages of two.
    async fn list_backups(&self, r: Request<ListBackupsRequest>) -> Result<Response<ListBackupsResponse>, Status> {
        let first: u32 = r.into_inner().page_token.parse().unwrap_or(9);
        let next_page_token = if first > 2 { (first - 2).to_string() } else { String::new() };
        Ok(Response::new(ListBackupsResponse { backups: vec![backup(first), backup(first - 1)], next_page_token }))
    }

    async fn verify_backup(&self, _: Request<VerifyBackupRequest>) -> Result<Response<Job>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn prune_backups(&self, _: Request<PruneBackupsRequest>) -> Result<Response<PruneBackupsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn pin_backup(&self, _: Request<PinBackupRequest>) -> Result<Response<Backup>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn unpin_backup(&self, _: Request<UnpinBackupRequest>) -> Result<Response<Backup>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn accept_backup(&self, _: Request<AcceptBackupRequest>) -> Result<Response<Backup>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_backup(&self, _: Request<DeleteBackupRequest>) -> Result<Response<DeleteBackupResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn import_backup(
        &self,
        _: Request<tonic::Streaming<ImportBackupRequest>>,
    ) -> Result<Response<Backup>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl RestoreService for Script {
    async fn plan_restore(&self, _: Request<PlanRestoreRequest>) -> Result<Response<Plan>, Status> {
        Ok(Response::new(plan()))
    }

    async fn apply_restore(&self, r: Request<ApplyRestoreRequest>) -> Result<Response<Job>, Status> {
        self.0.lock().unwrap().applied.push(r.into_inner());
        Ok(Response::new(job("job-000000000002", JobState::Running, None)))
    }
}

#[tonic::async_trait]
impl JobService for Script {
    type WatchJobStream = Events;

    async fn get_job(&self, r: Request<GetJobRequest>) -> Result<Response<Job>, Status> {
        let id = r.into_inner().job_id;
        let after = "Run `systemctl start prexorcloud-controller` to bring the cluster back.".into();
        let outcome = match id.as_str() {
            "job-000000000001" => Outcome::Backup(backup(1)),
            _ => Outcome::Restore(RestoreReport { after, ..RestoreReport::default() }),
        };
        Ok(Response::new(job(&id, JobState::Succeeded, Some(outcome))))
    }

    async fn list_jobs(&self, _: Request<ListJobsRequest>) -> Result<Response<ListJobsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    /// Job 1: the connection breaks after the third of five events. Job 2: a restore's step. Job 3: never ends.
    /// Job 4: progress. Job 5: a restore on two hosts that never ends.
    async fn watch_job(&self, r: Request<WatchJobRequest>) -> Result<Response<Events>, Status> {
        let WatchJobRequest { job_id, after_seq } = r.into_inner();
        self.0.lock().unwrap().watched_after.push(after_seq);
        let step = StepEvent { step: Some(swap_step()), state: StepState::Done.into(), detail: String::new() };
        let events: Events = match (job_id.as_str(), after_seq) {
            ("job-000000000001", 0) => Box::pin(tokio_stream::iter(
                (1..=3).map(says).chain([Err(Status::unavailable("connection reset"))]).collect::<Vec<_>>(),
            )),
            // An event that was sent before comes again: it is not to be shown twice.
            ("job-000000000001", _) => Box::pin(tokio_stream::iter([says(3), says(4), says(5)])),
            ("job-000000000002", _) => Box::pin(tokio_stream::iter([event(1, Event::Step(step))])),
            ("job-000000000003", _) => {
                use tokio_stream::StreamExt;
                Box::pin(tokio_stream::iter([says(1)]).chain(tokio_stream::pending()))
            }
            ("job-000000000005", _) => {
                use tokio_stream::StreamExt;
                Box::pin(tokio_stream::iter(on_two_hosts()).chain(tokio_stream::pending()))
            }
            ("job-000000000004", _) => Box::pin(tokio_stream::iter((0..=10).map(progress).collect::<Vec<_>>())),
            (id, _) => return Err(status::status(Reason::NotFound, format!("there is no job {id}"))),
        };
        Ok(Response::new(events))
    }

    async fn cancel_job(&self, _: Request<CancelJobRequest>) -> Result<Response<Job>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn resume_job(&self, _: Request<ResumeJobRequest>) -> Result<Response<Job>, Status> {
        Err(Status::unimplemented(""))
    }
}

struct Enrolment {
    authority: Authority,
    expected: String,
    api_address: String,
}

#[tonic::async_trait]
impl EnrolmentService for Enrolment {
    async fn enrol(&self, r: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let r = r.into_inner();
        if r.token != self.expected {
            return Err(status::status(Reason::TokenRefused, "the token is unknown, spent or expired"));
        }
        let identity = Identity::new("test", Role::Agent, &r.name).unwrap();
        let chain = self.authority.issue(&r.csr_der, &identity, Duration::from_secs(3600), Timestamp::now()).unwrap();
        Ok(Response::new(EnrolResponse {
            chain_der: chain.iter().map(|c| c.to_vec()).collect(),
            roots_der: vec![self.authority.root_der().to_vec()],
            not_after: None,
            identity: identity.to_string(),
            api_address: self.api_address.clone(),
        }))
    }
}
