//! The service `openoffload.v2.SessionTable`.

use super::admission::{Refusal, Shared};
use super::connection::Peer;
use super::incoming::Incoming;
use super::paging;
use crate::Clock;
use crate::session_manager::{Drain, openoffload_v2 as convert};
use conntrack::SessionId;
use proto::openoffload::v2::session_table_server::SessionTable;
use proto::openoffload::v2::{
    AddSessionResponse, AddSessionStatus, SessionRequest, SessionRequestArgs, SessionResponse,
    SessionResponseError, SessionResponses,
};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};
use tokio_stream::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

/// Most sessions in an answer: under 4 MiB at 93 bytes each, the longest.
const MAX_LIST: u32 = 32_768;
/// Sessions handled between two pauses.
const CHUNK: usize = 256;

pub(super) struct Service(pub(super) Arc<Shared>);

impl Service {
    /// Where a page starts; 0 also if it lies behind the end, which only page 1 does not mean.
    async fn page(&self, peer: Option<&Peer>, size: u32, number: u32) -> u64 {
        if let Some(cursor) = peer.and_then(|peer| peer.pages().find(size, number)) {
            return cursor;
        }
        let count = u64::from(number - 1) * u64::from(size);
        paging::skip(&self.0.handles.table, count).await
    }
}

#[tonic::async_trait]
impl SessionTable for Service {
    async fn add_session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<AddSessionResponse>, Status> {
        let owner = self.0.caller(&request)?.owner;
        let _slot = self.0.add_stream(&request)?;
        let mut incoming = Incoming::new(&self.0, request.into_inner());
        let clock = &self.0.handles.clock;
        let mut response =
            AddSessionResponse { start_time: Some(clock.proto(clock.now())), ..Default::default() };
        let mut position = 0_u64;
        let (mut requests, mut outcomes) = (Vec::new(), Vec::new());
        while incoming.next(CHUNK, &mut requests).await? {
            self.0.install(owner, requests.iter().map(|r| convert::spec(r, &self.0.context)), &mut outcomes);
            for (request, outcome) in requests.drain(..).zip(outcomes.drain(..)) {
                if let Err(refusal) = outcome {
                    tracing::debug!(session = request.session_id, %refusal, "session rejected");
                    failed(
                        &mut response,
                        position,
                        request.session_id,
                        &refusal,
                        self.0.limits.response_errors,
                    );
                }
                position += 1;
            }
            tokio::task::yield_now().await;
        }
        Ok(Response::new(response))
    }

    async fn get_session(
        &self,
        request: Request<proto::openoffload::v2::SessionId>,
    ) -> Result<Response<SessionResponse>, Status> {
        let id = request.into_inner().session_id;
        let handles = &self.0.handles;
        let response = match handles.table.get(SessionId(id)) {
            Some(info) => convert::live(&info, &handles.clock),
            None => convert::nonexistent(id),
        };
        Ok(Response::new(response))
    }

    async fn delete_session(
        &self,
        request: Request<proto::openoffload::v2::SessionId>,
    ) -> Result<Response<SessionResponse>, Status> {
        let scope = self.0.caller(&request)?.scope;
        let id = request.into_inner().session_id;
        let removal = self.0.remove(&[id], scope).await;
        let response = match removal.closed.first() {
            Some(closed) => convert::closed(closed, &self.0.handles.clock),
            None if removal.foreign.is_empty() => convert::nonexistent(id),
            None => convert::foreign(id),
        };
        Ok(Response::new(response))
    }

    async fn get_all_sessions(
        &self,
        request: Request<SessionRequestArgs>,
    ) -> Result<Response<SessionResponses>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let SessionRequestArgs { page_size, page, start_session } = request.into_inner();
        let handles = &self.0.handles;
        let size = if page_size == 0 { MAX_LIST } else { page_size.min(MAX_LIST) };
        let mut cursor = start_session;
        if page_size > 0 && start_session == 0 && page > 1 {
            cursor = self.page(peer.as_ref(), page_size, page).await;
            if cursor == 0 {
                return Ok(Response::new(SessionResponses::default()));
            }
        }
        let (sessions, next_key) = paging::list(&handles.table, cursor, size as usize).await;
        if let Some(peer) = peer
            && size == page_size
            && start_session == 0
        {
            let page = page.max(1);
            peer.pages().remember(page_size, page, cursor);
            peer.pages().remember(page_size, page.saturating_add(1), next_key);
        }
        let session_info = sessions.iter().map(|info| convert::live(info, &handles.clock)).collect();
        Ok(Response::new(SessionResponses { session_info, next_key }))
    }

    type GetClosedSessionsStream = ClosedSessions;

    async fn get_closed_sessions(
        &self,
        request: Request<SessionRequestArgs>,
    ) -> Result<Response<ClosedSessions>, Status> {
        let handles = &self.0.handles;
        let owner = self.0.caller(&request)?.drains;
        let pace = Pace::new(deadline(request.metadata()));
        let drain = Drain::new(handles.closed.clone(), owner, pace.records);
        Ok(Response::new(ClosedSessions {
            drain,
            clock: handles.clock,
            pace,
            ready: Vec::new().into_iter(),
            linger: None,
        }))
    }
}

/// Notes in `response` that the session at `position` of the stream was refused; at most `most` are named.
fn failed(response: &mut AddSessionResponse, position: u64, session_id: u64, refusal: &Refusal, most: usize) {
    let status = match refusal {
        Refusal::Spec(_) => AddSessionStatus::SessionRejected,
        Refusal::Table(error) => convert::add_status(error),
        Refusal::Inactive => AddSessionStatus::SessionTableUnavailable,
    };
    if response.request_status() == AddSessionStatus::SessionAccepted {
        response.set_request_status(status);
    }
    if position < 64 {
        response.error_status |= 1 << position;
    }
    if response.response_error.len() < most {
        response.response_error.push(SessionResponseError { session_id, error_status: status.into() });
    }
}

/// Records handed over between two looks at the log.
const BATCH: usize = 256;
/// Time in which a reader that breaks off after the last record is still noticed.
const LINGER: Duration = Duration::from_millis(100);
/// Records a reader gets per millisecond of its deadline: what a slow one can take.
const RECORDS_PER_MILLISECOND: u128 = 4;

/// How much to give in one answer. A reader with a deadline gets what it can take by then, and the rest the next time.
struct Pace {
    records: usize,
    until: Option<Instant>,
    linger: Duration,
}

impl Pace {
    fn new(deadline: Option<Duration>) -> Self {
        let Some(deadline) = deadline else {
            return Self { records: usize::MAX, until: None, linger: LINGER };
        };
        let records = (deadline.as_millis() * RECORDS_PER_MILLISECOND).max(1);
        Self {
            records: usize::try_from(records).unwrap_or(usize::MAX),
            until: Instant::now().checked_add(deadline / 2),
            linger: LINGER.min(deadline / 4),
        }
    }
}

/// The sessions that had closed when it was asked. They count as delivered when the stream has ended; if it breaks before,
/// all of it goes back to the log. So that a break just behind the last record is seen, the end comes a moment later.
pub struct ClosedSessions {
    drain: Drain,
    clock: Clock,
    pace: Pace,
    ready: std::vec::IntoIter<SessionResponse>,
    linger: Option<Pin<Box<Sleep>>>,
}

impl Stream for ClosedSessions {
    type Item = Result<SessionResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(linger) = &mut this.linger {
            ready!(linger.as_mut().poll(cx));
            this.drain.confirm();
            return Poll::Ready(None);
        }
        if let Some(response) = this.ready.next() {
            return Poll::Ready(Some(Ok(response)));
        }
        if this.pace.until.is_none_or(|until| Instant::now() < until) {
            let batch = this.drain.next_batch(BATCH);
            let responses: Vec<_> = batch.iter().map(|record| convert::closed(record, &this.clock)).collect();
            this.ready = responses.into_iter();
        }
        if let Some(response) = this.ready.next() {
            return Poll::Ready(Some(Ok(response)));
        }
        if this.drain.is_unused() {
            return Poll::Ready(None);
        }
        let linger = this.linger.insert(Box::pin(tokio::time::sleep(this.pace.linger)));
        ready!(linger.as_mut().poll(cx));
        this.drain.confirm();
        Poll::Ready(None)
    }
}

/// The call's deadline, from the header `grpc-timeout`: digits and a unit.
fn deadline(metadata: &MetadataMap) -> Option<Duration> {
    let value = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(amount.saturating_mul(60))),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines() {
        let parse = |text: &'static str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().expect("ascii"));
            deadline(&metadata)
        };
        assert_eq!(parse("100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse("99999u"), Some(Duration::from_micros(99_999)));
        assert_eq!(parse("2S"), Some(Duration::from_secs(2)));
        assert_eq!(parse("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(parse("S"), None);
        assert_eq!(parse("5x"), None);
        assert_eq!(deadline(&MetadataMap::new()), None);
    }

    #[test]
    fn a_short_deadline_gets_less() {
        assert_eq!(Pace::new(Some(Duration::from_millis(100))).records, 400);
        assert_eq!(Pace::new(Some(Duration::ZERO)).records, 1);
        assert_eq!(Pace::new(None).records, usize::MAX);
    }
}
