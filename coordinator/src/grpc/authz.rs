//! Who may call what on the API listener: one table. What is not in it is denied.

use std::task::{self, Poll};

use futures::future::{Either, Ready, ready};
use prexor_certs::Role;
use prexor_proto::{reason::Reason, status::status};
use prexor_transport::serve::PeerInfo;
use tonic::body::Body;
use tower::Service;

const OPERATORS: &[Role] = &[Role::Operator];

/// Every method and the roles that may call it.
const TABLE: &[(&str, &[Role])] = &[
    ("/prexorcloud.backup.v1.BackupService/CreateBackup", OPERATORS),
    ("/prexorcloud.backup.v1.BackupService/GetBackup", OPERATORS),
    ("/prexorcloud.backup.v1.BackupService/ListBackups", OPERATORS),
    ("/prexorcloud.backup.v1.BackupService/VerifyBackup", OPERATORS),
    ("/prexorcloud.backup.v1.BackupService/DeleteBackup", OPERATORS),
    ("/prexorcloud.backup.v1.BackupService/ImportBackup", OPERATORS),
    ("/prexorcloud.backup.v1.RestoreService/PlanRestore", OPERATORS),
    ("/prexorcloud.backup.v1.RestoreService/ApplyRestore", OPERATORS),
    ("/prexorcloud.backup.v1.JobService/GetJob", OPERATORS),
    ("/prexorcloud.backup.v1.JobService/ListJobs", OPERATORS),
    ("/prexorcloud.backup.v1.JobService/WatchJob", OPERATORS),
    ("/prexorcloud.backup.v1.JobService/CancelJob", OPERATORS),
    ("/prexorcloud.backup.v1.AdminService/GetStatus", OPERATORS),
    ("/prexorcloud.backup.v1.AdminService/CreateToken", OPERATORS),
];

fn may_call(path: &str, role: Role) -> bool {
    TABLE.iter().any(|(method, roles)| *method == path && roles.contains(&role))
}

/// Puts the table before every service of a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer;

impl<S> tower::Layer<S> for Layer {
    type Service = Authorised<S>;

    fn layer(&self, inner: S) -> Authorised<S> {
        Authorised { inner }
    }
}

/// See [`Layer`].
#[derive(Debug, Clone)]
pub(super) struct Authorised<S> {
    inner: S,
}

impl<S> Service<http::Request<Body>> for Authorised<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let peer = request.extensions().get::<PeerInfo>();
        let identity = peer.and_then(PeerInfo::identity);
        if identity.is_some_and(|i| may_call(path, i.role())) {
            return Either::Left(self.inner.call(request));
        }
        let who = identity.map_or_else(|| "somebody without a certificate".to_owned(), ToString::to_string);
        tracing::warn!(peer = ?peer.map(|p| p.address), who, path, "a call was denied");
        let denied = status(Reason::NotAllowed, format!("{who} may not call {path}: operators may"));
        Either::Right(ready(Ok(denied.into_http())))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
    fn the_table_has_every_method_of_the_client_api_and_no_other() {
        let mut api = methods("backup/v1/backup.proto");
        let mut table: Vec<_> = TABLE.iter().map(|(method, _)| (*method).to_owned()).collect();
        assert!(api.len() > 10);
        api.sort();
        table.sort();
        assert_eq!(table, api);
        for other in methods("agent/v1/agent.proto").iter().chain(&methods("enroll/v1/enroll.proto")) {
            assert!(!may_call(other, Role::Operator), "{other}");
        }
    }

    #[tokio::test]
    async fn a_certificate_of_another_role_or_none_is_stopped_at_the_door() {
        let dir = tempfile::tempdir().unwrap();
        let now = jiff::Timestamp::now();
        let authority = prexor_certs::Authority::create(&dir.path().join("ca"), "c", now).unwrap();
        let call = async |role: Option<Role>| {
            let certificate = role.map(|role| {
                let identity = prexor_certs::Identity::new("c", role, "x").unwrap();
                let credential = authority.issue_credential(&identity, std::time::Duration::from_secs(60), now);
                credential.unwrap().leaf().clone()
            });
            let inner =
                tower::service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new(Body::empty())));
            let mut request = http::Request::new(Body::empty());
            *request.uri_mut() = TABLE[0].0.parse().unwrap();
            request.extensions_mut().insert(PeerInfo { address: ([127, 0, 0, 1], 1).into(), certificate });
            let response = tower::Layer::layer(&Layer, inner).call(request).await.unwrap();
            !response.headers().contains_key("grpc-status")
        };
        assert!(call(Some(Role::Operator)).await);
        assert!(!call(Some(Role::Agent)).await && !call(Some(Role::Coordinator)).await && !call(None).await);
    }

    #[test]
    fn only_operators_get_through() {
        for (method, _) in TABLE {
            assert!(may_call(method, Role::Operator));
            assert!(!may_call(method, Role::Agent) && !may_call(method, Role::Coordinator), "{method}");
        }
        assert!(!may_call("/prexorcloud.backup.v1.BackupService/Unknown", Role::Operator));
    }
}
