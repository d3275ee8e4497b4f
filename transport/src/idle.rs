//! Who keeps a connection and does nothing with it: connections on which nobody calls end, and so do requests that stand
//! still before they are complete. A ping is no call: whoever answers those and says nothing else is idle.

use std::{
    future::Future as _,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::serve::PeerInfo;

/// The calls of one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calls(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    open: usize,
    /// When the last one ended.
    ended: Option<Instant>,
}

impl Calls {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Call {
        self.state().open += 1;
        Call(self.clone())
    }
}

/// Counts as an open call while it lives.
#[derive(Debug)]
struct Call(Calls);

impl Drop for Call {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.open -= 1;
        state.ended = Some(Instant::now());
    }
}

/// Tells when nobody has called over a connection for so long that it is to end.
#[derive(Debug)]
pub(crate) struct Idle {
    calls: Calls,
    allowed: Duration,
    look: Pin<Box<Sleep>>,
}

impl Idle {
    /// From now on.
    pub(crate) fn new(calls: Calls, allowed: Duration) -> Self {
        Self { calls, allowed, look: Box::pin(sleep(allowed)) }
    }

    /// Ready when the connection is to end.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.look.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let since = match &*self.calls.state() {
                State { open: 0, ended } => *ended,
                _ => Some(now),
            };
            match since {
                Some(since) if since + self.allowed > now => self.look.as_mut().reset(since + self.allowed),
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}

/// Around all services of a server: counts the calls of each connection, and ends requests that stand still.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long the next piece of a request may take while it is waited for; `None`: as long as it likes.
    pub request: Option<Duration>,
}

impl<S> Layer<S> for Patience {
    type Service = Patient<S>;

    fn layer(&self, inner: S) -> Patient<S> {
        Patient { inner, request: self.request }
    }
}

/// What [`Patience`] makes of a service.
#[derive(Debug, Clone)]
pub struct Patient<S> {
    inner: S,
    request: Option<Duration>,
}

impl<S> Service<http::Request<Body>> for Patient<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = request.extensions().get::<PeerInfo>().map(|peer| peer.calls.begin());
        let answer = self.inner.call(match self.request {
            Some(allowed) => request.map(|body| Body::new(Incoming { body, allowed, waiting: None })),
            None => request,
        });
        Box::pin(async move { Ok(answer.await?.map(|body| Body::new(Outgoing { body, _call: call }))) })
    }
}

/// A request's body.
struct Incoming {
    body: Body,
    allowed: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Incoming {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.waiting = None;
            return Poll::Ready(frame);
        }
        let allowed = self.allowed;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + allowed)));
        match waiting.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                let message = format!("the request stood still for {allowed:?} before it was complete");
                Poll::Ready(Some(Err(Status::deadline_exceeded(message))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body; the call is open until it is gone.
struct Outgoing {
    body: Body,
    _call: Option<Call>,
}

impl http_body::Body for Outgoing {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
