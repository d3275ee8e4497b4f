//! Captures over TLS, with CAs and certificates of one's own, and over unix sockets.

use super::*;

fn openssl(dir: &Path, script: &str) {
    let done = Command::new("sh").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_unix_sockets() {
    let dir = tempfile::tempdir().unwrap();
    openssl(
        dir.path(),
        "for ca in ca other; do
            openssl req -x509 -newkey rsa:2048 -nodes -keyout $ca.key -out $ca.pem -days 3 -subj /CN=$ca
        done
        printf 'subjectAltName=IP:127.0.0.1\\n' >san
        for who in server client; do
            openssl req -newkey rsa:2048 -nodes -keyout $who.key -out $who.csr -subj /CN=$who
            openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3 -out $who.pem -extfile san
        done",
    );
    let at = |name: &str| dir.path().join(name);
    let (port, d, socket) = (free_port(), dir.path().display(), at("v.sock"));
    let server = builder()
        .setting(&format!("tls-port {port}"))
        .setting(&format!("tls-cert-file {d}/server.pem"))
        .setting(&format!("tls-key-file {d}/server.key"))
        .setting(&format!("tls-ca-cert-file {d}/ca.pem"))
        .setting("tls-auth-clients yes")
        .setting(&format!("unixsocket {}", socket.display()));
    let server = filled(server).await;
    let expected = summary_of_saved(&server).families;
    assert_eq!(server.cli(&["CONFIG", "SET", "requirepass", "pass word"]).trim(), "OK");
    let tls = ValkeyTls { ca: Some(at("ca.pem")), certificate: Some(at("client.pem")), key: Some(at("client.key")) };
    let config = |uri: &str, tls: &ValkeyTls, capture| ValkeyConfig {
        uri: uri.into(),
        tls: tls.clone(),
        capture,
        ..ValkeyConfig::default()
    };
    let rediss = format!("rediss://:pass%20word@127.0.0.1:{port}");
    let unix = format!("unix://:pass%20word@localhost{}", socket.display());
    for (way, name) in WAYS {
        for uri in [&rediss, &unix] {
            let taken = Taken::of(config(uri, &tls, way)).await.unwrap();
            assert_eq!((taken.contents().way.as_str(), &taken.contents().families), (name, &expected), "{uri}");
        }
    }
    let inspection = source(config(&unix, &tls, CaptureWay::Auto)).inspect().await;
    assert_eq!(inspection.target, format!("Valkey on {}", socket.display()));
    for (ca, certificate) in [("other.pem", true), ("ca.pem", false)] {
        let tls = ValkeyTls { ca: Some(at(ca)), ..if certificate { tls.clone() } else { ValkeyTls::default() } };
        let error = Taken::of(config(&rediss, &tls, CaptureWay::Auto)).await.err().unwrap();
        assert!(matches!(error, SourceError::Unavailable(_)), "{error:?}");
        assert!(error.to_string().contains("valkey.tls") && !error.to_string().contains("word"), "{error}");
    }
    for uri in [rediss.replace("pass", "wrong"), unix.replace("pass", "wrong")] {
        let error = Taken::of(config(&uri, &tls, CaptureWay::Replication)).await.err().unwrap();
        assert!(matches!(error, SourceError::Denied(_)) && error.to_string().contains("valkey.uri"), "{error}");
    }
}
