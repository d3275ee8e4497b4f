//! Whether the controller says that it is ready: one GET of its readiness URL. Knows nothing of services.

use std::time::Duration;

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::Url;

use super::ServiceError;

/// How long the controller may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whether the URL answers 200.
///
/// # Errors
/// In words, when it does not.
pub async fn check(url: &str) -> Result<(), ServiceError> {
    let parsed = parse(url)?;
    let status = tokio::time::timeout(TIMEOUT, get(&parsed)).await;
    let status = status.map_err(|_| ServiceError(format!("{url} does not answer within {} s", TIMEOUT.as_secs())))?;
    match status.map_err(|e| ServiceError(format!("{url}: {e}")))? {
        hyper::StatusCode::OK => Ok(()),
        other => Err(ServiceError(format!("{url} answers {other}"))),
    }
}

/// The URL, if it is one that can be asked.
pub(super) fn parse(url: &str) -> Result<Url, ServiceError> {
    let bad = |why: &str| ServiceError(format!("services.controller.ready_url '{url}': {why}"));
    let parsed = Url::parse(url).map_err(|e| bad(&e.to_string()))?;
    if parsed.scheme() != "http" || parsed.host_str().is_none() {
        return Err(bad("it must begin with http:// and name a host"));
    }
    Ok(parsed)
}

async fn get(url: &Url) -> Result<hyper::StatusCode, Box<dyn std::error::Error + Send + Sync>> {
    let address = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(80));
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let request = hyper::Request::get(path).header(hyper::header::HOST, host).body(Empty::<bytes::Bytes>::new())?;
    // It ends with the sender, or when the other side hangs up.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?.status())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Answers one request with these bytes; its URL.
    async fn server(answer: &'static str) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/api/v1/system/ready", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            assert!(asked.starts_with(b"GET /api/v1/system/ready HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        url
    }

    #[tokio::test]
    async fn only_200_is_ready() {
        check(&server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await).await.unwrap();
        let starting = server("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
        assert!(check(&starting).await.unwrap_err().0.contains("503"));
        assert!(check(&server("").await).await.is_err(), "it hangs up");
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        parse(&crate::services::ServicesConfig::default().ready_url(Some(80))).unwrap();
        for wrong in ["127.0.0.1:8080", "https://h/ready", "unix:/x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
