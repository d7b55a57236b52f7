//! Large answers: how many of them a connection may have on their way.
//!
//! An answer that its client does not read is kept, and lists have megabytes. So a connection has few of them, the next waits
//! for its turn; and HTTP/2, which would take an answer whole as soon as the client has room for one byte, gets it in pieces,
//! so that what is on its way is known.

use super::connection::Peer;
use http_body::Frame;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Bytes, Service, http};
use tonic::server::NamedService;

/// Large answers of a connection at once.
const AT_ONCE: usize = 2;
/// The methods that have them.
const LARGE: [&str; 3] = ["/ListSessions", "/DeleteSessions", "/GetAllSessions"];
/// What HTTP/2 gets at once, in bytes.
const PIECE: usize = 64 << 10;

/// One connection's slots for large answers.
#[derive(Clone)]
pub(super) struct Slots(Arc<Semaphore>);

impl Default for Slots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Slots {
    /// Waits for one; None is never, as they are not closed.
    async fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone().acquire_owned().await.ok()
    }
}

/// A service whose large answers wait for their turn.
#[derive(Clone)]
pub(super) struct InTurn<S>(pub(super) S);

impl<S: NamedService> NamedService for InTurn<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for InTurn<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let is_large = LARGE.iter().any(|method| request.uri().path().ends_with(method));
        let peer = request.extensions().get::<Peer>().filter(|_| is_large).cloned();
        // A call begins when its answer is first asked for.
        let answer = self.0.call(request);
        Box::pin(async move {
            let Some(peer) = peer else { return answer.await };
            let slot = peer.answers().take().await;
            let answer = answer.await?;
            Ok(answer.map(|body| Body::new(Pieces { body, rest: Bytes::new(), _slot: slot })))
        })
    }
}

/// An answer's body in pieces, with the slot that is free when the last has been taken.
struct Pieces {
    body: Body,
    rest: Bytes,
    _slot: Option<OwnedSemaphorePermit>,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        // Copied: else the last piece would keep all of the answer.
        let piece = Bytes::copy_from_slice(&this.rest.split_to(PIECE.min(this.rest.len())));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }
}
