//! The service `gateway.v1.Gateway`.

use super::admission::{Refusal, Removal, Shared};
use super::incoming::Incoming;
use super::{Handles, paging, watch_stats};
use crate::session_manager::{Filter, gateway_v1 as convert, listing};
use crate::stats;
use conntrack::{Closed, SessionId};
use proto::gateway::v1::wire::gateway_server::Gateway;
use proto::gateway::v1::wire::{AddSessionsRequest, ListSessionsResponse};
use proto::gateway::v1::{
    AddError, AddSessionsResponse, AddStatus, ClosedEvent, DeleteSessionsRequest, DeleteSessionsResponse,
    FlushSessionsRequest, FlushSessionsResponse, GetSessionRequest, GetStatsRequest, ListLifsRequest,
    ListLifsResponse, ListSessionsRequest, SessionInfo, Stats, StatsEvent, WatchClosedRequest,
    WatchStatsRequest, closed_event::Event,
};
use std::sync::Arc;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Most sessions in an answer: under 4 MiB at 320 bytes each.
const MAX_LIST: u32 = 10_000;
/// Sessions in an answer if the client does not say.
const DEFAULT_LIST: u32 = 1_000;
/// Most ids in a call to delete.
const MAX_DELETE: usize = 10_000;
/// Most failures an answer names (gateway_v1.proto).
const MAX_ERRORS: usize = 10_000;
/// Sessions handled between two pauses.
const CHUNK: usize = 512;
/// Records on their way to a listener, beside the log's buffer.
const WATCH_BUFFER: usize = 64;

pub(super) struct Service(pub(super) Arc<Shared>);

/// How a refusal reads.
fn add_error(session_id: u64, index: u64, refusal: &Refusal) -> AddError {
    let status = match refusal {
        Refusal::Spec(error) => convert::spec_status(error),
        Refusal::Table(error) => convert::insert_status(error),
        Refusal::Inactive => AddStatus::Unavailable,
    };
    AddError { session_id, index, status: status.into(), message: refusal.to_string() }
}

#[tonic::async_trait]
impl Gateway for Service {
    async fn add_sessions(
        &self,
        request: Request<Streaming<AddSessionsRequest>>,
    ) -> Result<Response<AddSessionsResponse>, Status> {
        let owner = self.0.caller(&request)?.owner;
        let _slot = self.0.add_stream(&request)?;
        let mut incoming = Incoming::new(&self.0, request.into_inner());
        let mut response = AddSessionsResponse::default();
        let mut index = 0_u64;
        let mut batches = Vec::new();
        let (mut ids, mut specs, mut outcomes) = (Vec::new(), Vec::new(), Vec::new());
        while incoming.next(1, &mut batches).await? {
            for sessions in batches.iter().flat_map(|batch| batch.sessions.chunks(CHUNK)) {
                let mut broken = None;
                for wire in sessions {
                    match convert::read(wire, &self.0.context) {
                        Ok((id, spec)) => {
                            ids.push(id);
                            specs.push(spec);
                        }
                        Err(error) => {
                            let index = index + ids.len() as u64;
                            let message = format!("session {index} of the stream: {error}");
                            broken = Some(Status::invalid_argument(message));
                            break;
                        }
                    }
                }
                self.0.install(owner, specs.drain(..), &mut outcomes);
                for (id, outcome) in ids.drain(..).zip(outcomes.drain(..)) {
                    match outcome {
                        Ok(()) => response.accepted += 1,
                        Err(refusal) => {
                            response.failed += 1;
                            if response.errors.len() < MAX_ERRORS {
                                response.errors.push(add_error(id, index, &refusal));
                            }
                        }
                    }
                    index += 1;
                }
                if let Some(status) = broken {
                    return Err(status);
                }
                tokio::task::yield_now().await;
            }
            batches.clear();
        }
        Ok(Response::new(response))
    }

    async fn get_session(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Result<Response<SessionInfo>, Status> {
        let id = request.into_inner().session_id;
        let handles = &self.0.handles;
        let info = handles
            .table
            .get(SessionId(id))
            .ok_or_else(|| Status::not_found(format!("there is no session {id}")))?;
        Ok(Response::new(convert::live(&info, &self.0.context, &handles.clock)))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let ListSessionsRequest { cursor, limit, filter } = request.into_inner();
        let limit = if limit == 0 { DEFAULT_LIST } else { limit.min(MAX_LIST) };
        let handles = &self.0.handles;
        let filter = filter.as_ref().map(|filter| Filter::new(filter, &self.0.context)).transpose();
        let filter = filter.map_err(|error| Status::invalid_argument(format!("filter: {error}")))?;
        let (sessions, next_cursor) = match filter.filter(|filter| !filter.is_empty()) {
            Some(filter) => paging::search(&handles.table, cursor, limit as usize, &filter).await,
            None => paging::list(&handles.table, cursor, limit as usize).await,
        };
        let sessions = listing::page(&sessions, &self.0.context, &handles.clock);
        Ok(Response::new(ListSessionsResponse { sessions, next_cursor }))
    }

    async fn delete_sessions(
        &self,
        request: Request<DeleteSessionsRequest>,
    ) -> Result<Response<DeleteSessionsResponse>, Status> {
        let scope = self.0.caller(&request)?.scope;
        let ids = request.into_inner().session_ids;
        if ids.len() > MAX_DELETE {
            let message = format!("{} ids: delete at most {MAX_DELETE} in a call, or flush", ids.len());
            return Err(Status::invalid_argument(message));
        }
        let Removal { closed, unknown, foreign } = self.0.remove(&ids, scope).await;
        let clock = &self.0.handles.clock;
        let closed = closed.iter().map(|record| convert::closed(record, &self.0.context, clock)).collect();
        Ok(Response::new(DeleteSessionsResponse { closed, unknown, refused: foreign }))
    }

    async fn flush_sessions(
        &self,
        request: Request<FlushSessionsRequest>,
    ) -> Result<Response<FlushSessionsResponse>, Status> {
        let scope = self.0.caller(&request)?.scope;
        let Handles { table, clock, .. } = self.0.handles.clone();
        let flush = move || match scope {
            None => table.flush(clock.now()),
            Some(owner) => table.flush_of(owner, clock.now()),
        };
        let removed =
            tokio::task::spawn_blocking(flush).await.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(FlushSessionsResponse { removed }))
    }

    type WatchClosedStream = ReceiverStream<Result<ClosedEvent, Status>>;

    async fn watch_closed(
        &self,
        _request: Request<WatchClosedRequest>,
    ) -> Result<Response<Self::WatchClosedStream>, Status> {
        let (to, from) = mpsc::channel(WATCH_BUFFER);
        let records = self.0.handles.closed.watch();
        tokio::spawn(watch(self.0.clone(), records, to));
        Ok(Response::new(ReceiverStream::new(from)))
    }

    async fn get_stats(&self, _request: Request<GetStatsRequest>) -> Result<Response<Stats>, Status> {
        Ok(Response::new(self.0.stats()))
    }

    type WatchStatsStream = ReceiverStream<Result<StatsEvent, Status>>;

    async fn watch_stats(
        &self,
        request: Request<WatchStatsRequest>,
    ) -> Result<Response<Self::WatchStatsStream>, Status> {
        let interval = watch_stats::interval(request.get_ref().interval_ms)?;
        // One event at most waits here: a slow reader misses some, but what it gets is new.
        let (to, from) = mpsc::channel(1);
        tokio::spawn(watch_stats::watch(self.0.clone(), interval, to));
        Ok(Response::new(ReceiverStream::new(from)))
    }

    async fn list_lifs(
        &self,
        _request: Request<ListLifsRequest>,
    ) -> Result<Response<ListLifsResponse>, Status> {
        let config = &self.0.handles.config;
        let lifs = config.lifs.iter().map(|lif| stats::lif(config, lif)).collect();
        Ok(Response::new(ListLifsResponse { lifs }))
    }
}

/// Passes records on until the listener goes, or the server stops.
async fn watch(
    shared: Arc<Shared>,
    mut records: Receiver<Closed>,
    to: mpsc::Sender<Result<ClosedEvent, Status>>,
) {
    loop {
        let next = tokio::select! {
            () = to.closed() => return,
            () = shared.stop.cancelled() => Err(Status::unavailable("the gateway shuts down")),
            record = records.recv() => match record {
                Ok(record) => {
                    let closed = convert::closed(&record, &shared.context, &shared.handles.clock);
                    Ok(ClosedEvent { event: Some(Event::Closed(closed)) })
                }
                Err(RecvError::Lagged(lost)) => Ok(ClosedEvent { event: Some(Event::Lost(lost)) }),
                Err(RecvError::Closed) => return,
            },
        };
        let last = next.is_err();
        let sent = tokio::select! {
            sent = to.send(next) => sent.is_ok(),
            () = shared.stop.cancelled(), if !last => false,
        };
        if !sent || last {
            return;
        }
    }
}
