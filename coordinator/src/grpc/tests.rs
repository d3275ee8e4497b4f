//! The listeners, over real TLS: how much they take.

use std::time::Duration;

use prexor_certs::{
    Role,
    tls::{Expected, client_config, pinned_client_config},
};
use prexor_proto::{
    backup::{CreateBackupRequest, backup_service_client::BackupServiceClient},
    enroll::{EnrolRequest, enrolment_service_client::EnrolmentServiceClient},
};
use prexor_transport::dial;
use tonic::Code;

use super::*;
use crate::{jobs::tests::start, tls::Tls};

#[tokio::test]
async fn no_request_is_larger_than_it_needs_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = start(dir.path()).await;
    let tls = Tls::open(&ctx.config, &ctx.ca, &ctx.catalog, ctx.revoked.clone()).await.unwrap();
    let stop = CancellationToken::new();
    let (api, enrolment) =
        (serve::listener("127.0.0.1:0").await.unwrap(), serve::listener("127.0.0.1:0").await.unwrap());
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let (api_address, enrolment_address) = (address(&api), address(&enrolment));
    tokio::spawn(serve_api(ctx.clone(), api, tls.api(), stop.clone()));
    tokio::spawn(serve_enrolment(ctx.clone(), enrolment, tls.enrolment(), stop.clone()));

    let stranger = pinned_client_config(ctx.ca.fingerprint()).unwrap();
    let channel = dial::channel(&enrolment_address, stranger, dial::Timeouts::default()).await.unwrap();
    let mut stranger = EnrolmentServiceClient::new(channel);
    let request = |csr_der: usize| EnrolRequest { csr_der: vec![0; csr_der], ..EnrolRequest::default() };
    assert_eq!(stranger.enrol(request(MAX_ENROLMENT)).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(stranger.enrol(request(1000)).await.unwrap_err().code(), Reason::TokenRefused.code());

    let identity = Identity::new("c", Role::Operator, "ann").unwrap();
    let ann = ctx.ca.issue_credential(&identity, Duration::from_secs(3600), &ctx.catalog).await.unwrap();
    let config = client_config(&ann, Expected::Coordinator { cluster: "c".to_owned() }).unwrap();
    let channel = dial::channel(&api_address, config, dial::Timeouts::default()).await.unwrap();
    let mut ann = BackupServiceClient::new(channel);
    let request = |length: usize| CreateBackupRequest { description: "x".repeat(length), ..Default::default() };
    assert_eq!(ann.create_backup(request(MAX_REQUEST)).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(ann.create_backup(request(5000)).await.unwrap_err().code(), Code::InvalidArgument);
    stop.cancel();
}
