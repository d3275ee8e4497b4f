//! The client against a scripted agent over real TLS: for what a real agent cannot be made to do at will.

use std::{pin::Pin, sync::Mutex, time::Duration};

use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;
use prexor_certs::{Authority, Identity, Role, tls::server_config};
use prexor_format::{
    artifact::ArtifactKind,
    digest::Sha256Digest,
    manifest::{Artifact, Contents, StoredFile, ValkeyContents},
    selection::Selection,
};
use prexor_proto::{
    agent::{
        ApplyEnd, ApplyRequest, ApplyResponse, CaptureRequest, CaptureResponse, Chunk, ControlServiceRequest,
        ControlServiceResponse, Fence, FileBegin, InspectRequest, InspectResponse, PingRequest, PingResponse,
        ProbeRequest, ProbeResponse, StageRequest, StageResponse, TrustRequest, TrustResponse,
        agent_service_server::{AgentService, AgentServiceServer},
        apply_response, capture_response, stage_request,
    },
    backup::Progress,
    status::status,
};
use prexor_transport::serve::{self, Limits};
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::*;

type Frames<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the scripted agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    /// Everything as it should.
    Behave,
    /// Begin streams and then say nothing more.
    Hang,
    /// End streams before their end.
    BreakOff,
    /// Refuse.
    Refuse,
}

struct Scripted {
    script: Script,
    staged: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    fn frames<T: Send + 'static>(&self, first: T, last: T) -> Result<Response<Frames<T>>, Status> {
        let first = stream::iter([Ok(first)]);
        Ok(Response::new(match self.script {
            Script::Behave => first.chain(stream::iter([Ok(last)])).boxed(),
            Script::Hang => first.chain(stream::pending()).boxed(),
            Script::BreakOff => first.boxed(),
            Script::Refuse => return Err(status(Reason::NoSpace, "the disk of h1 is full")),
        }))
    }

    fn apply(&self) -> Result<Response<Frames<ApplyResponse>>, Status> {
        let frame = |frame| ApplyResponse { frame: Some(frame) };
        let progress = Progress { done_bytes: 7, ..Progress::default() };
        let end = ApplyEnd { already_done: true, differences: vec![], corrections: vec![] };
        self.frames(frame(apply_response::Frame::Progress(progress)), frame(apply_response::Frame::End(end)))
    }
}

#[async_trait]
impl AgentService for Scripted {
    type CaptureStream = Frames<CaptureResponse>;
    type PrepareStream = Frames<ApplyResponse>;
    type SwapStream = Frames<ApplyResponse>;
    type CheckStream = Frames<ApplyResponse>;
    type RevertStream = Frames<ApplyResponse>;
    type CommitStream = Frames<ApplyResponse>;

    async fn inspect(&self, _: Request<InspectRequest>) -> Result<Response<InspectResponse>, Status> {
        if self.script == Script::Hang {
            std::future::pending::<()>().await;
        }
        let node = backup::Node { hostname: "controller-1".to_owned(), ..backup::Node::default() };
        Ok(Response::new(InspectResponse { node: Some(node) }))
    }

    async fn ping(&self, _: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        Ok(Response::new(PingResponse::default()))
    }

    async fn trust(&self, _: Request<TrustRequest>) -> Result<Response<TrustResponse>, Status> {
        Ok(Response::new(TrustResponse {}))
    }

    async fn capture(&self, _: Request<CaptureRequest>) -> Result<Response<Self::CaptureStream>, Status> {
        use capture_response::Frame;
        let frame = |frame| CaptureResponse { frame: Some(frame) };
        let chunk = Chunk { file: 0, data: Bytes::from_static(b"abc") };
        self.frames(frame(Frame::Chunk(chunk)), frame(Frame::End(prexor_proto::agent::CaptureEnd::default())))
    }

    async fn stage(&self, request: Request<Streaming<StageRequest>>) -> Result<Response<StageResponse>, Status> {
        let mut frames = request.into_inner();
        let mut staged_bytes = 0;
        while let Some(request) = frames.message().await? {
            match request.frame {
                Some(stage_request::Frame::FileBegin(FileBegin { path, .. })) => {
                    self.staged.lock().unwrap().push(path);
                }
                Some(stage_request::Frame::Chunk(c)) => staged_bytes += c.data.len() as u64,
                _ => {}
            }
            match self.script {
                Script::Behave => {}
                Script::Refuse => return Err(status(Reason::NoSpace, "the disk of h1 is full")),
                Script::Hang => std::future::pending().await,
                Script::BreakOff => return Err(Status::unavailable("going down")),
            }
        }
        Ok(Response::new(StageResponse { staged_bytes }))
    }

    async fn prepare(&self, _: Request<ApplyRequest>) -> Result<Response<Self::PrepareStream>, Status> {
        self.apply()
    }
    async fn swap(&self, _: Request<ApplyRequest>) -> Result<Response<Self::SwapStream>, Status> {
        self.apply()
    }
    async fn check(&self, _: Request<ApplyRequest>) -> Result<Response<Self::CheckStream>, Status> {
        self.apply()
    }
    async fn revert(&self, _: Request<ApplyRequest>) -> Result<Response<Self::RevertStream>, Status> {
        self.apply()
    }
    async fn commit(&self, _: Request<ApplyRequest>) -> Result<Response<Self::CommitStream>, Status> {
        self.apply()
    }
    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { staged_paths: vec!["valkey/old".to_owned()], ..ProbeResponse::default() }))
    }
    async fn control_service(
        &self,
        _: Request<ControlServiceRequest>,
    ) -> Result<Response<ControlServiceResponse>, Status> {
        Ok(Response::new(ControlServiceResponse::default()))
    }
}

struct Site {
    agents: Agents,
    record: NodeRecord,
    staged: Arc<Mutex<Vec<String>>>,
    _dir: tempfile::TempDir,
}

/// A scripted agent that calls itself `name`, enrolled as h1.
async fn site(script: Script, name: &str) -> Site {
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp::now();
    let authority = Authority::create(&dir.path().join("ca"), "c", now).unwrap();
    let issue = |role, name: &str| {
        let identity = Identity::new("c", role, name).unwrap();
        authority.issue_credential(&identity, Duration::from_secs(3600), now).unwrap()
    };
    let (tls, config) = tokio::sync::watch::channel(server_config(&issue(Role::Agent, name)).unwrap());
    let listener = serve::listener("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let staged = Arc::new(Mutex::default());
    let service = AgentServiceServer::new(Scripted { script, staged: Arc::clone(&staged) });
    tokio::spawn(async move {
        let _tls = tls;
        let incoming = serve::incoming(listener, config, Limits::default());
        serve::server(Limits::default()).add_service(service).serve_with_incoming(incoming).await.unwrap();
    });
    let credential = tokio::sync::watch::Sender::new(Arc::new(issue(Role::Coordinator, "c1")));
    let short = Duration::from_millis(300);
    let timeouts = AgentLimits {
        heartbeat: short,
        answer: short,
        stall: short,
        sync: short,
        service: short,
        ready: short,
        away: short,
    };
    let record = NodeRecord {
        name: "h1".parse().unwrap(),
        hostname: "at enrolment".to_owned(),
        address,
        serial: String::new(),
        not_after: now,
        enrolled_at: now,
        revoked_at: None,
    };
    Site { agents: Agents::new(credential.subscribe(), timeouts, Revoked::default()), record, staged, _dir: dir }
}

async fn client(script: Script) -> (AgentClient, Site) {
    let site = site(script, "h1").await;
    (site.agents.connect(&site.record).await.unwrap(), site)
}

fn artifact() -> Artifact {
    let file = |path: &str| StoredFile { path: path.to_owned(), size_bytes: 3, sha256: Sha256Digest::of(b"abc") };
    Artifact {
        id: "valkey".to_owned(),
        kind: ArtifactKind::Valkey,
        node: "h1".parse().unwrap(),
        path: "valkey/dump.rdb".to_owned(),
        format: "rdb".to_owned(),
        started_at: Timestamp::UNIX_EPOCH,
        completed_at: Timestamp::UNIX_EPOCH,
        size_bytes: 6,
        files: vec![file("valkey/old"), file("valkey/dump.rdb")],
        contents: Contents::Valkey(ValkeyContents {
            server_version: "8.0.1".to_owned(),
            server_name: "valkey".to_owned(),
            rdb_version: 11,
            way: "bgsave-file".to_owned(),
            consistency: Default::default(),
            role: None,
            append_only: false,
            keys: 0,
            expiring_keys: 0,
            families: Vec::new(),
            used_memory: None,
            fencing: None,
            modules: Vec::new(),
        }),
        warnings: Vec::new(),
    }
}

async fn stage(client: &AgentClient, pieces: Vec<Result<Bytes, Error>>) -> (Result<u64, Error>, u64) {
    let mut done = 0;
    let open = |_: String| {
        let pieces = pieces.clone();
        async move { Ok(stream::iter(pieces)) }
    };
    let staged =
        client.stage(Fence::default(), &artifact(), &Selection::default(), open, |p| done = p.done_bytes).await;
    (staged, done)
}

#[tokio::test]
async fn an_agent_must_be_the_node_that_it_is_dialled_as() {
    let site = site(Script::Behave, "h2").await;
    let e = site.agents.connect(&site.record).await.unwrap_err();
    assert_eq!((e.reason, e.node.as_deref()), (Reason::AgentUnavailable, Some("h1")));
    assert!(e.message.contains("not trusted"), "{e}");
}

#[tokio::test]
async fn nodes_that_do_not_answer_are_listed_with_the_problem() {
    let (up, hung) = (site(Script::Behave, "h1").await, site(Script::Hang, "h1").await);
    let node = &up.agents.inspect_all(std::slice::from_ref(&up.record), Look::Plain).await[0];
    assert!(node.reachable && node.hostname == "controller-1" && node.name == "h1");
    let node = &hung.agents.inspect_all(std::slice::from_ref(&hung.record), Look::Plain).await[0];
    assert!(!node.reachable && node.hostname == "at enrolment" && node.problem.contains("h1"), "{}", node.problem);
}

#[tokio::test]
async fn a_stream_that_does_not_move_or_breaks_off_is_a_failure() {
    for (script, says) in [(Script::Hang, "has not moved"), (Script::BreakOff, "without an end")] {
        let (client, _site) = client(script).await;
        let mut capture = client.capture(Fence::default(), ArtifactKind::Mongo, None).await.unwrap();
        assert!(matches!(capture.next().await, Ok(CaptureFrame::Chunk { .. })));
        let e = capture.next().await.unwrap_err();
        assert!(e.message.contains(says) && e.node.as_deref() == Some("h1"), "{e}");
        let e = client.verb(Verb::Swap, Fence::default(), "mongo", |_| {}).await.unwrap_err();
        assert_eq!(e.node.as_deref(), Some("h1"));
    }
}

#[tokio::test]
async fn verbs_tell_figures_and_their_end() {
    let (client, _site) = client(Script::Behave).await;
    let mut seen = Vec::new();
    let end = client.verb(Verb::Commit, Fence::default(), "mongo", |p| seen.push(p)).await.unwrap();
    assert!(end.already_done && end.differences.is_empty());
    let [p] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!((p.node.as_str(), p.artifact_id.as_str(), p.done_bytes), ("h1", "mongo", 7));
}

#[tokio::test]
async fn staging_sends_what_is_not_there_yet() {
    let (client, site) = client(Script::Behave).await;
    let big = Bytes::from(vec![7; 1_000_000]);
    let (staged, done) = stage(&client, vec![Ok(big.clone()), Ok(big)]).await;
    assert_eq!((staged.unwrap(), done), (2_000_000, 2_000_003));
    assert_eq!(*site.staged.lock().unwrap(), ["valkey/dump.rdb"]);
}

#[tokio::test]
async fn staging_fails_with_the_reason_of_whoever_failed() {
    let piece = || vec![Ok(Bytes::from(vec![7; 8 << 20])); 4];
    for (script, reason) in [
        (Script::Refuse, Reason::NoSpace),
        (Script::Hang, Reason::AgentUnavailable),
        (Script::BreakOff, Reason::AgentUnavailable),
    ] {
        let (client, _site) = client(script).await;
        let e = stage(&client, piece()).await.0.unwrap_err();
        assert_eq!((e.reason, e.node.as_deref()), (reason, Some("h1")), "{script:?}: {e}");
    }
    let (client, _site) = client(Script::Behave).await;
    let unreadable = vec![Err(Error::new(Reason::StoreUnavailable, "bad sector"))];
    let e = stage(&client, unreadable).await.0.unwrap_err();
    assert_eq!((e.reason, e.node), (Reason::StoreUnavailable, None));
}
