//! The way to the coordinator: finds the context, dials its endpoints, repeats calls that got lost, and turns what
//! goes wrong into a [`Failure`].

use std::{
    cell::{Cell, RefCell},
    env,
    future::Future,
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;
use prexor_certs::{
    CertificateDer, Credential,
    tls::{self, Expected},
};
use prexor_proto::{
    backup::{
        RenewRequest, admin_service_client::AdminServiceClient, backup_service_client::BackupServiceClient,
        job_service_client::JobServiceClient, restore_service_client::RestoreServiceClient,
    },
    reason::Reason,
    trust,
};
use prexor_transport::{
    context::{self, Context, ContextError, Contexts},
    dial::{self, DialError, DialErrorKind, Timeouts},
};
use tonic::{Code, Response, Status, transport::Channel};

use crate::{failure::Failure, hints::Hint};

/// How long one call may take. Long work is a job; what is left are look-ups, some of which ask every agent.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// Pauses before a lost call is made again.
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

/// Manifests of clusters with many collections are larger than tonic's default of 4 MiB.
const MAX_MESSAGE: usize = 256 << 20;

/// A connection to the coordinator.
pub struct Client {
    /// Whether the CA has changed since the credential was issued, as the last answer says.
    outdated: Cell<bool>,
    /// Whether it was tried to get another one.
    renewed: Cell<bool>,
    context: Context,
    credential: Credential,
    channel: RefCell<Channel>,
}

/// The context file in use.
pub fn context_file() -> Result<PathBuf, ContextError> {
    context::find(context::candidates(|name| env::var_os(name)))
}

/// Its contents.
pub fn contexts() -> Result<(PathBuf, Contexts), ContextError> {
    let path = context_file()?;
    let contexts = Contexts::load(&path)?;
    Ok((path, contexts))
}

impl From<ContextError> for Failure {
    fn from(error: ContextError) -> Self {
        let failure = Self::local(error.to_string());
        match error {
            ContextError::NotFound(_) => failure.hint(Hint::NoContext),
            _ => failure,
        }
    }
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        let message = format!("cannot reach the coordinator at {error}");
        match error.kind {
            DialErrorKind::Address => Self::local(message),
            DialErrorKind::Untrusted(_) | DialErrorKind::Rejected(_) => {
                Self::refused(Reason::NotAllowed, message).hint(Hint::OtherCredential)
            }
            _ => Self::unreachable(message),
        }
    }
}

impl Client {
    /// Connects to the first endpoint of the current context that answers.
    ///
    /// # Errors
    /// When there is no context, its credential is unusable, or no endpoint answers.
    pub async fn connect() -> Result<Self, Failure> {
        let (path, contexts) = contexts()?;
        let context = contexts.current().map_err(|e| Failure::local(format!("{}: {e}", path.display())))?;
        let credential = Credential::load(&context.credential)
            .map_err(|e| Failure::local(e.to_string()).hint(Hint::OtherCredential))?;
        let channel = RefCell::new(dial_first(context, &credential).await?);
        let client = Self {
            outdated: Cell::new(false),
            renewed: Cell::new(false),
            context: context.clone(),
            credential,
            channel,
        };
        if client.credential.leaf().renew_at() < Timestamp::now() {
            // The one in hand is still good: what this command is for goes first, and the next one tries again.
            let _ = client.renew().await;
        }
        Ok(client)
    }

    fn look_at<T>(&self, answer: &Response<T>) {
        let said = answer.metadata().get(trust::MARK).and_then(|mark| mark.to_str().ok());
        let issuer = self.credential.chain().last().map(AsRef::as_ref).unwrap_or_default();
        if said.is_some_and(|said| said != trust::mark(issuer, self.credential.roots())) {
            self.outdated.set(!self.renewed.get());
        }
    }

    /// Replaces the credential on disk by a new one, over a new key.
    async fn renew(&self) -> Result<(), Failure> {
        self.renewed.set(true);
        let local = |e: &dyn std::fmt::Display| Failure::local(e.to_string());
        let (key, csr_der) = prexor_certs::credential::generate_request().map_err(|e| local(&e))?;
        let answer = self.call_once(RenewRequest { csr_der }, |s, r| async move { s.admin().renew(r).await }).await?;
        let certificates = |ders: Vec<Vec<u8>>| ders.into_iter().map(CertificateDer::from).collect();
        let (chain, roots) = (certificates(answer.chain_der), certificates(answer.roots_der));
        let next = Credential::new(chain, key, roots).map_err(|e| local(&e))?;
        if next.identity() != self.credential.identity() {
            return Err(Failure::contract(format!(
                "the coordinator answered with a certificate of {}",
                next.identity()
            )));
        }
        next.store(&self.context.credential).map_err(|e| local(&e))
    }

    /// Dials again, all endpoints in order.
    ///
    /// # Errors
    /// When none answers.
    pub async fn reconnect(&self) -> Result<(), Failure> {
        let channel = dial_first(&self.context, &self.credential).await?;
        self.channel.replace(channel);
        Ok(())
    }

    /// Makes a call that may be made twice: one that reads, or one with a request id. A lost one is repeated.
    ///
    /// # Errors
    /// What the coordinator answered, or that it does not answer.
    pub async fn call<R: Clone, T, F>(&self, request: R, call: impl Fn(Services, R) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut pauses = PAUSES.into_iter();
        loop {
            match self.attempt(request.clone(), &call).await {
                Ok(answer) => {
                    if self.outdated.replace(false) {
                        // Its roots are good as long as others have not moved either: the next command tries again.
                        let _ = self.renew().await;
                    }
                    return Ok(answer);
                }
                Err(status) if is_lost(&status) => match pauses.next() {
                    Some(pause) => {
                        tokio::time::sleep(pause).await;
                        // When this fails the old channel stays, and the next attempt says why.
                        let _ = self.reconnect().await;
                    }
                    None => return Err(failure(&status)),
                },
                Err(status) => return Err(failure(&status)),
            }
        }
    }

    /// Makes a call that must not be made twice.
    ///
    /// # Errors
    /// What the coordinator answered, or that it does not answer.
    pub async fn call_once<R, T, F>(&self, request: R, call: impl FnOnce(Services, R) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.attempt(request, call).await.map_err(|status| failure(&status))
    }

    async fn attempt<R, T, F>(&self, request: R, call: impl FnOnce(Services, R) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        match tokio::time::timeout(CALL_TIMEOUT, call(self.services(), request)).await {
            Ok(answer) => {
                let answer = answer?;
                self.look_at(&answer);
                Ok(answer.into_inner())
            }
            Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", CALL_TIMEOUT.as_secs()))),
        }
    }

    /// The services on the connection as it is now, for calls that stream.
    pub fn services(&self) -> Services {
        Services(self.channel.borrow().clone())
    }
}

/// The services of the client API on one connection.
pub struct Services(Channel);

impl Services {
    /// Backups.
    pub fn backups(self) -> BackupServiceClient<Channel> {
        BackupServiceClient::new(self.0).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Restores.
    pub fn restores(self) -> RestoreServiceClient<Channel> {
        RestoreServiceClient::new(self.0).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Jobs.
    pub fn jobs(self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.0).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Administration.
    pub fn admin(self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.0).max_decoding_message_size(MAX_MESSAGE)
    }
}

/// The failure behind a status: the coordinator's own answer, or the connection's.
pub fn failure(status: &Status) -> Failure {
    if let Some(dial) = DialError::behind(status) {
        return dial.clone().into();
    }
    if is_lost(status) {
        return Failure::unreachable(format!("lost the connection to the coordinator: {}", status.message()));
    }
    Failure::of_status(status)
}

/// Whether a call failed on its way: no service of ours answered it.
pub fn is_lost(status: &Status) -> bool {
    let on_the_way = [Code::Unavailable, Code::Unknown, Code::Internal, Code::Cancelled, Code::DeadlineExceeded]
        .contains(&status.code());
    let refused = DialError::behind(status)
        .is_some_and(|e| matches!(e.kind, DialErrorKind::Untrusted(_) | DialErrorKind::Rejected(_)));
    on_the_way && !refused && status.details().is_empty()
}

/// A new request id: sortable by time, unique without asking anybody.
pub fn request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

async fn dial_first(context: &Context, credential: &Credential) -> Result<Channel, Failure> {
    let mut errors = Vec::new();
    for endpoint in &context.endpoints {
        let expected = Expected::Coordinator { cluster: context.cluster.clone() };
        let config = tls::client_config(credential, expected).map_err(|e| Failure::local(e.to_string()))?;
        match dial::channel(endpoint, config, Timeouts::default()).await {
            Ok(channel) => return Ok(channel),
            Err(error) => errors.push(error),
        }
    }
    let mut failures = errors.into_iter().map(Failure::from);
    let first = failures.next().unwrap_or_else(|| Failure::local("the context has no endpoints"));
    Err(failures
        .fold(first, |first, next| Failure { message: format!("{}; {}", first.message, next.message), ..first }))
}

#[cfg(test)]
mod tests {
    use prexor_proto::status;

    use super::*;
    use crate::exit::Exit;

    #[test]
    fn only_what_no_service_answered_is_repeated() {
        assert!(is_lost(&Status::unavailable("connection reset")));
        assert!(is_lost(&Status::unknown("h2 protocol error")));
        assert!(!is_lost(&Status::unimplemented("")));
        for reason in Reason::ALL {
            assert!(!is_lost(&status::status(*reason, "answered")), "{reason}");
        }
        assert_eq!(failure(&Status::unavailable("reset")).exit, Exit::Unreachable);
    }

    #[test]
    fn who_is_not_let_in_is_told_so() {
        let dial = |kind| Failure::from(DialError { address: "h:9443".into(), kind });
        assert_eq!(dial(DialErrorKind::Refused).exit, Exit::Unreachable);
        assert_eq!(dial(DialErrorKind::Rejected("certificate expired".into())).exit, Exit::Refused);
        assert_eq!(dial(DialErrorKind::Address).exit, Exit::Failed);
        assert!(dial(DialErrorKind::Refused).message.contains("h:9443"));
    }
}
