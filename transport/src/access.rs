//! Who may call what, on every listener: one table. What is not in it is denied, and whoever is denied is told of.
//!
//! The door stands before every service; behind it nobody asks again. What becomes of the calls that are to be
//! remembered is the witness's.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    task::{self, Poll},
};

use futures::future::BoxFuture;
use prexor_certs::{Identity, Role};
use prexor_proto::{
    reason::Reason,
    status::{reason, status},
};
use tonic::{Status, body::Body};
use tower::Service;

use crate::serve::PeerInfo;

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Whoever has a certificate of this role.
    Role(Role),
    /// Whoever gets as far as the listener: the call brings its own proof.
    Anybody,
}

/// One method.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// `/package.Service/Method`.
    pub method: &'static str,
    /// Who may call it.
    pub callers: Callers,
    /// Whether the witness hears of calls that were let through too.
    pub witnessed: bool,
}

const fn operators(method: &'static str) -> Rule {
    Rule { method, callers: Callers::Role(Role::Operator), witnessed: false }
}

const fn witnessed(method: &'static str) -> Rule {
    Rule { method, callers: Callers::Role(Role::Operator), witnessed: true }
}

const fn coordinators(method: &'static str) -> Rule {
    Rule { method, callers: Callers::Role(Role::Coordinator), witnessed: false }
}

/// Every method of every service.
pub const TABLE: &[Rule] = &[
    witnessed("/prexorcloud.backup.v1.BackupService/CreateBackup"),
    operators("/prexorcloud.backup.v1.BackupService/GetBackup"),
    operators("/prexorcloud.backup.v1.BackupService/ListBackups"),
    witnessed("/prexorcloud.backup.v1.BackupService/VerifyBackup"),
    witnessed("/prexorcloud.backup.v1.BackupService/DeleteBackup"),
    witnessed("/prexorcloud.backup.v1.BackupService/PruneBackups"),
    witnessed("/prexorcloud.backup.v1.BackupService/PinBackup"),
    witnessed("/prexorcloud.backup.v1.BackupService/UnpinBackup"),
    witnessed("/prexorcloud.backup.v1.BackupService/AcceptBackup"),
    witnessed("/prexorcloud.backup.v1.BackupService/ImportBackup"),
    operators("/prexorcloud.backup.v1.RestoreService/PlanRestore"),
    witnessed("/prexorcloud.backup.v1.RestoreService/ApplyRestore"),
    operators("/prexorcloud.backup.v1.JobService/GetJob"),
    operators("/prexorcloud.backup.v1.JobService/ListJobs"),
    operators("/prexorcloud.backup.v1.JobService/WatchJob"),
    witnessed("/prexorcloud.backup.v1.JobService/CancelJob"),
    witnessed("/prexorcloud.backup.v1.JobService/ResumeJob"),
    operators("/prexorcloud.backup.v1.AdminService/GetStatus"),
    witnessed("/prexorcloud.backup.v1.AdminService/CreateToken"),
    operators("/prexorcloud.backup.v1.AdminService/ListTokens"),
    witnessed("/prexorcloud.backup.v1.AdminService/RevokeToken"),
    witnessed("/prexorcloud.backup.v1.AdminService/Revoke"),
    operators("/prexorcloud.backup.v1.AdminService/ListAudit"),
    witnessed("/prexorcloud.backup.v1.AdminService/Renew"),
    operators("/prexorcloud.backup.v1.AdminService/ShowCa"),
    witnessed("/prexorcloud.backup.v1.AdminService/RotateCa"),
    witnessed("/prexorcloud.backup.v1.AdminService/RebuildCatalog"),
    coordinators("/prexorcloud.agent.v1.AgentService/Inspect"),
    coordinators("/prexorcloud.agent.v1.AgentService/Ping"),
    coordinators("/prexorcloud.agent.v1.AgentService/Trust"),
    coordinators("/prexorcloud.agent.v1.AgentService/Capture"),
    coordinators("/prexorcloud.agent.v1.AgentService/Stage"),
    coordinators("/prexorcloud.agent.v1.AgentService/Prepare"),
    coordinators("/prexorcloud.agent.v1.AgentService/Swap"),
    coordinators("/prexorcloud.agent.v1.AgentService/Check"),
    coordinators("/prexorcloud.agent.v1.AgentService/Revert"),
    coordinators("/prexorcloud.agent.v1.AgentService/Commit"),
    coordinators("/prexorcloud.agent.v1.AgentService/Probe"),
    coordinators("/prexorcloud.agent.v1.AgentService/ControlService"),
    Rule { method: "/prexorcloud.enroll.v1.EnrolmentService/Enrol", callers: Callers::Anybody, witnessed: false },
];

impl Rule {
    /// The rule of a method.
    pub fn of(method: &str) -> Option<&'static Self> {
        TABLE.iter().find(|rule| rule.method == method)
    }

    fn admits(&self, caller: Option<&Identity>, cluster: &str) -> bool {
        match self.callers {
            Callers::Anybody => true,
            Callers::Role(role) => caller.is_some_and(|c| c.role() == role && c.cluster() == cluster),
        }
    }
}

/// A call, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Who called; `None`: somebody without a certificate.
    pub who: Option<Identity>,
    /// Where from.
    pub from: Option<SocketAddr>,
    /// `BackupService/DeleteBackup`; as it was asked for, at most 100 characters of it.
    pub action: String,
    /// What the service said it is about; see [`About`].
    pub subject: String,
    /// How it ended. Of calls that stream: how they began.
    pub outcome: Result<(), (Reason, String)>,
}

/// Hears of calls that are denied, and of those that are to be remembered.
pub trait Witness: fmt::Debug + Send + Sync + 'static {
    /// Takes note. The caller gets its answer afterwards.
    fn note(&self, seen: Seen) -> BoxFuture<'_, ()>;
}

/// Among the extensions of every request: where its service says what the call is about.
#[derive(Debug, Clone, Default)]
pub struct About(Arc<Mutex<String>>);

impl About {
    /// That of a request.
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// Says what the call is about; the last word counts.
    pub fn is(&self, subject: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = subject.into();
    }
}

/// Puts the table before every service of a server.
#[derive(Debug, Clone)]
pub struct Door {
    cluster: Arc<str>,
    witness: Arc<dyn Witness>,
}

impl Door {
    /// A door for callers of this cluster.
    pub fn new(cluster: &str, witness: Arc<dyn Witness>) -> Self {
        Self { cluster: cluster.into(), witness }
    }
}

impl<S> tower::Layer<S> for Door {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, door: self.clone() }
    }
}

/// A service behind a [`Door`].
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    inner: S,
    door: Door,
}

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let peer = request.extensions().get::<PeerInfo>();
        let (who, from) = (peer.and_then(PeerInfo::identity).cloned(), peer.map(|p| p.address));
        let rule = Rule::of(path);
        let admitted = rule.is_some_and(|r| r.admits(who.as_ref(), &self.door.cluster));
        let action: String = path.rsplit_once('.').map_or(path, |(_, action)| action).chars().take(100).collect();
        let witness = self.door.witness.clone();
        if !admitted {
            let caller = who.as_ref().map_or_else(|| "somebody without a certificate".to_owned(), ToString::to_string);
            let message = match rule.map(|r| r.callers) {
                Some(Callers::Role(role)) => format!("{caller} may not call {action}: only {role}s may"),
                _ => format!("{caller} may not call {action}"),
            };
            let outcome = Err((Reason::NotAllowed, message.clone()));
            let seen = Seen { who, from, action, subject: String::new(), outcome };
            return Box::pin(async move {
                witness.note(seen).await;
                Ok(status(Reason::NotAllowed, message).into_http())
            });
        }
        if !rule.is_some_and(|r| r.witnessed) {
            return Box::pin(self.inner.call(request));
        }
        let about = About::default();
        request.extensions_mut().insert(about.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            let outcome = match Status::from_header_map(response.headers()) {
                Some(s) if s.code() != tonic::Code::Ok => Err((reason(&s), s.message().to_owned())),
                _ => Ok(()),
            };
            let subject = about.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            witness.note(Seen { who, from, action, subject, outcome }).await;
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, path::Path, time::Duration};

    use jiff::Timestamp;
    use prexor_certs::Authority;
    use tower::{Layer as _, ServiceExt as _};

    use super::*;

    /// `/package.Service/Method` of every method in a `.proto` file.
    fn methods(file: &str) -> Vec<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/prexorcloud").join(file);
        let (mut package, mut service, mut found) = (String::new(), String::new(), Vec::new());
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '.').filter(|w| !w.is_empty());
            match (words.next(), words.next()) {
                (Some("package"), Some(name)) => package = name.to_owned(),
                (Some("service"), Some(name)) => service = name.to_owned(),
                (Some("rpc"), Some(name)) => found.push(format!("/{package}.{service}/{name}")),
                _ => {}
            }
        }
        found
    }

    #[test]
    fn the_table_has_every_method_and_no_other() {
        let files = ["backup/v1/backup.proto", "agent/v1/agent.proto", "enroll/v1/enroll.proto"];
        let mut all: Vec<String> = files.iter().flat_map(|file| methods(file)).collect();
        let mut table: Vec<_> = TABLE.iter().map(|rule| rule.method.to_owned()).collect();
        assert!(all.len() > 25);
        all.sort();
        table.sort();
        assert_eq!(table, all);
    }

    #[derive(Debug, Default)]
    struct Notes(Mutex<Vec<Seen>>);

    impl Witness for Notes {
        fn note(&self, seen: Seen) -> BoxFuture<'_, ()> {
            self.0.lock().unwrap().push(seen);
            Box::pin(async {})
        }
    }

    #[tokio::test]
    async fn each_method_lets_its_callers_in_and_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let leaf = |cluster: &str, role| {
            let authority = Authority::create(&dir.path().join(format!("{cluster}-{role}")), cluster, now).unwrap();
            let identity = Identity::new(cluster, role, "x").unwrap();
            authority.issue_credential(&identity, Duration::from_secs(60), now).unwrap().leaf().clone()
        };
        let roles = [Role::Agent, Role::Coordinator, Role::Operator];
        let callers: Vec<_> = [None]
            .into_iter()
            .chain(["c", "other"].into_iter().flat_map(|c| roles.map(|r| Some(leaf(c, r)))))
            .collect();
        let notes = Arc::new(Notes::default());
        let inner = tower::service_fn(async |r: http::Request<Body>| {
            if let Some(about) = r.extensions().get::<About>() {
                about.is("bk-1");
            }
            Ok::<_, Infallible>(http::Response::new(Body::empty()))
        });
        let door = Door::new("c", notes.clone()).layer(inner);
        let unknown = "/prexorcloud.backup.v1.BackupService/Unknown";
        for method in TABLE.iter().map(|rule| rule.method).chain([unknown, "/", "/x"]) {
            for certificate in &callers {
                let mut request = http::Request::new(Body::empty());
                *request.uri_mut() = method.parse().unwrap();
                let address = ([127, 0, 0, 1], 1).into();
                request.extensions_mut().insert(PeerInfo {
                    address,
                    certificate: certificate.clone(),
                    calls: crate::idle::Calls::default(),
                });
                let response = door.clone().oneshot(request).await.unwrap();
                let passed = !response.headers().contains_key("grpc-status");
                let who = certificate.as_ref().map(|c| &c.identity);
                let expected = match Rule::of(method).map(|r| r.callers) {
                    None => false,
                    Some(Callers::Anybody) => true,
                    Some(Callers::Role(role)) => who.is_some_and(|w| w.role() == role && w.cluster() == "c"),
                };
                assert_eq!(passed, expected, "{method} by {who:?}");
                let noted = notes.0.lock().unwrap().pop();
                let witnessed = Rule::of(method).is_some_and(|r| r.witnessed);
                match (passed, noted) {
                    (true, None) => assert!(!witnessed),
                    (true, Some(n)) => assert!(witnessed && n.outcome.is_ok() && n.subject == "bk-1", "{n:?}"),
                    (false, Some(n)) => assert!(matches!(n.outcome, Err((Reason::NotAllowed, _))), "{n:?}"),
                    (false, None) => panic!("{method} by {who:?}: denied and not noted"),
                }
            }
        }
    }
}
