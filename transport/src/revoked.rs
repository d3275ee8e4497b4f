//! Certificates that were revoked: looked up at every handshake, and what ends a connection that is open already.
//!
//! Who revokes, and where that is remembered, is not known here.

use std::{
    collections::HashSet,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use prexor_certs::tls::Revocations;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};

/// The serial numbers (lower-case hexadecimal) of certificates that are no longer good. Clones share one set.
#[derive(Debug, Clone)]
pub struct Revoked(Arc<watch::Sender<HashSet<String>>>);

impl Default for Revoked {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(HashSet::new())))
    }
}

impl Revocations for Revoked {
    fn is_revoked(&self, serial: &str) -> bool {
        self.0.borrow().contains(serial)
    }
}

impl Revoked {
    /// From here on these are revoked, and no others. Connections of those that are new in the set end at once.
    pub fn set(&self, serials: impl IntoIterator<Item = String>) {
        self.0.send_replace(serials.into_iter().collect());
    }

    /// All of them, in no order.
    pub fn serials(&self) -> Vec<String> {
        self.0.borrow().iter().cloned().collect()
    }

    /// For the verifiers of `prexor_certs::tls`.
    pub fn lookup(&self) -> Arc<dyn Revocations> {
        Arc::new(self.clone())
    }

    /// Ends when this one is revoked.
    async fn happens_to(self, serial: String) {
        let mut newest = self.0.subscribe();
        drop(self);
        if newest.wait_for(|all| all.contains(&serial)).await.is_err() {
            // Nobody is left who could revoke anything.
            std::future::pending::<()>().await;
        }
    }
}

/// A connection that breaks as soon as the certificate at its other end is revoked.
pub(crate) struct Guarded<S> {
    inner: S,
    revoked: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl<S> Guarded<S> {
    /// Guards a connection to the owner of the certificate with this serial number; `None`: to somebody without one.
    pub(crate) fn new(inner: S, serial: Option<&str>, revoked: &Revoked) -> Self {
        let revoked = serial.map(|serial| Box::pin(revoked.clone().happens_to(serial.to_owned())) as _);
        Self { inner, revoked }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.revoked.as_mut().map(|revoked| revoked.as_mut().poll(cx)) {
            None | Some(Poll::Pending) => Ok(()),
            Some(Poll::Ready(())) => {
                // A future that has ended is not polled again.
                self.revoked = Some(Box::pin(std::future::ready(())));
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the certificate at its other end was revoked"))
            }
        }
    }
}

impl<S> std::fmt::Debug for Guarded<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guarded").finish_non_exhaustive()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn an_open_connection_ends_when_its_certificate_is_revoked() {
        let revoked = Revoked::default();
        let (near, _far) = tokio::io::duplex(64);
        let mut guarded = Guarded::new(near, Some("0a"), &revoked);
        let waits = tokio::spawn(async move {
            let first = guarded.read_u8().await.unwrap_err().kind();
            (first, guarded.read_u8().await.unwrap_err().kind())
        });
        revoked.set(["0b".to_owned()]);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waits.is_finished(), "another one was revoked");
        revoked.set(["0b".to_owned(), "0a".to_owned()]);
        let ended = tokio::time::timeout(Duration::from_secs(5), waits).await.unwrap().unwrap();
        assert_eq!(ended, (io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionAborted));
        assert!(revoked.is_revoked("0a") && !revoked.is_revoked("0c"));
    }
}
