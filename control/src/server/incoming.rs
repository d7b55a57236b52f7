//! Streams of requests, in the pieces they arrive in.

use super::admission::Shared;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use tokio_stream::Stream;
use tonic::{Status, Streaming};

/// A client's stream. It is ended when it brings nothing for long, or when the server stops.
pub(super) struct Incoming<'s, T> {
    shared: &'s Shared,
    stream: Streaming<T>,
    failed: Option<Status>,
}

impl<'s, T> Incoming<'s, T> {
    pub(super) fn new(shared: &'s Shared, stream: Streaming<T>) -> Self {
        Self { shared, stream, failed: None }
    }

    /// Waits for a message and appends it to `messages`, with those behind it that have arrived, `most` at most. False at
    /// the end of the stream.
    pub(super) async fn next(&mut self, most: usize, messages: &mut Vec<T>) -> Result<bool, Status> {
        if let Some(status) = self.failed.take() {
            return Err(status);
        }
        let Some(first) = self.wait().await? else { return Ok(false) };
        messages.push(first);
        while messages.len() < most {
            let next = poll_fn(|cx| Poll::Ready(Pin::new(&mut self.stream).poll_next(cx))).await;
            match next {
                Poll::Ready(Some(Ok(message))) => messages.push(message),
                // What came before it is handled first.
                Poll::Ready(Some(Err(status))) => {
                    self.failed = Some(status);
                    break;
                }
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Ok(true)
    }

    async fn wait(&mut self) -> Result<Option<T>, Status> {
        let idle = self.shared.limits.stream_idle;
        tokio::select! {
            biased;
            next = tokio::time::timeout(idle, self.stream.message()) => next.unwrap_or_else(|_| {
                let seconds = idle.as_secs_f32();
                Err(Status::deadline_exceeded(format!(
                    "no session for {seconds} s: end the stream to get its answer, and open another when there is more"
                )))
            }),
            () = self.shared.stop.cancelled() => Err(Status::unavailable("the gateway shuts down")),
        }
    }
}
