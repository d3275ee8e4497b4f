//! The first contact: pinned by the token, and over once there is a certificate.

use std::time::Duration;

use prexor_certs::{CertificateDer, Credential, credential, tls};
use prexor_proto::enroll::{EnrolRequest, enrolment_service_client::EnrolmentServiceClient};
use prexor_transport::dial::{self, DialErrorKind, Timeouts};

use super::Enrolment;
use crate::{client, failure::Failure, hints::Hint};

/// How long the coordinator may take to sign.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Spends the token for a certificate over a key that is made here.
pub(super) async fn enrol(enrolment: &Enrolment) -> Result<Credential, Failure> {
    let pin = enrolment.token.pin();
    let (key, csr_der) = credential::generate_request().map_err(|e| Failure::local(e.to_string()))?;
    let config = tls::pinned_client_config(pin).map_err(|e| Failure::local(e.to_string()))?;
    let dialled = dial::channel(&enrolment.coordinator, config, Timeouts::default()).await;
    let channel = dialled.map_err(|e| match e.kind {
        DialErrorKind::Untrusted(_) => Failure::from(e).hint(Hint::CreateToken),
        _ => Failure::from(e),
    })?;
    let request = EnrolRequest {
        token: enrolment.token.to_string(),
        csr_der,
        name: enrolment.node.to_string(),
        hostname: enrolment.hostname.clone(),
        address: enrolment.advertise.clone(),
    };
    let mut service = EnrolmentServiceClient::new(channel);
    let answer = tokio::time::timeout(TIMEOUT, service.enrol(request))
        .await
        .map_err(|_| Failure::unreachable(format!("no answer from the coordinator within {} s", TIMEOUT.as_secs())))?
        .map_err(|status| client::failure(&status))?
        .into_inner();
    let certificates = |ders: Vec<Vec<u8>>| ders.into_iter().map(CertificateDer::from).collect();
    Credential::enrolled(certificates(answer.chain_der), key, certificates(answer.roots_der), pin)
        .map_err(|e| Failure::contract(format!("the coordinator's answer cannot be used: {e}")))
}
