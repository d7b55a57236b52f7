//! A gateway that keeps sessions in a map and remembers what it was asked.

use prost::Message;
use proto::gateway::v1;
use proto::gateway::v1::wire::gateway_server::{Gateway, GatewayServer};
use proto::gateway::v1::wire::{AddSessionsRequest, ListSessionsResponse};
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{broadcast, oneshot};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

#[derive(Clone, Debug)]
pub enum Asked {
    Add,
    Delete,
    Connect,
}

pub struct State {
    pub sessions: BTreeMap<u64, v1::SessionInfo>,
    pub asked: Vec<(Instant, Asked)>,
    pub capacity: usize,
    /// When each session was accepted.
    pub arrived: Vec<(SystemTime, u64)>,
    /// The flows of all sessions, which must be unique.
    flows: HashSet<(u32, u32, Option<v1::Tuple>)>,
    closed: broadcast::Sender<v1::ClosedSession>,
}

impl State {
    fn remove(&mut self, id: u64) -> Option<v1::SessionInfo> {
        let info = self.sessions.remove(&id)?;
        let session = info.session.as_ref()?;
        self.flows.remove(&(session.in_lif, session.protocol, session.original.clone()));
        Some(info)
    }

    fn report(&mut self, info: v1::SessionInfo, code: v1::CloseCode) -> v1::ClosedSession {
        let closed = v1::ClosedSession {
            session: info.session,
            counters: info.counters,
            close_code: code.into(),
            ..Default::default()
        };
        // Nobody may be watching.
        let _ = self.closed.send(closed.clone());
        closed
    }
}

#[derive(Clone)]
struct Recorder(Arc<Mutex<State>>);

type Events = Pin<Box<dyn Stream<Item = Result<v1::ClosedEvent, Status>> + Send>>;

#[tonic::async_trait]
impl Gateway for Recorder {
    async fn add_sessions(
        &self,
        request: Request<Streaming<AddSessionsRequest>>,
    ) -> Result<Response<v1::AddSessionsResponse>, Status> {
        let mut stream = request.into_inner();
        let mut answer = v1::AddSessionsResponse::default();
        let mut index = 0;
        while let Some(batch) = stream.message().await? {
            let mut state = self.0.lock().unwrap();
            for session in batch.sessions {
                let session = v1::Session::decode(session).unwrap();
                let id = session.session_id;
                state.asked.push((Instant::now(), Asked::Add));
                let flow = (session.in_lif, session.protocol, session.original.clone());
                let status = if state.sessions.len() >= state.capacity {
                    v1::AddStatus::TableFull
                } else if state.sessions.contains_key(&id) || state.flows.contains(&flow) {
                    v1::AddStatus::Exists
                } else {
                    v1::AddStatus::Accepted
                };
                if status == v1::AddStatus::Accepted {
                    answer.accepted += 1;
                    state.flows.insert(flow);
                    state.arrived.push((SystemTime::now(), id));
                    let session = v1::Session { owner: "unix".to_owned(), ..session };
                    let info = v1::SessionInfo { session: Some(session), ..Default::default() };
                    state.sessions.insert(id, info);
                } else {
                    answer.failed += 1;
                    let message = String::new();
                    answer.errors.push(v1::AddError {
                        session_id: id,
                        index,
                        status: status.into(),
                        message,
                    });
                }
                index += 1;
            }
        }
        Ok(Response::new(answer))
    }

    async fn get_session(
        &self,
        request: Request<v1::GetSessionRequest>,
    ) -> Result<Response<v1::SessionInfo>, Status> {
        let id = request.into_inner().session_id;
        let found = self.0.lock().unwrap().sessions.get(&id).cloned();
        found.map(Response::new).ok_or_else(|| Status::not_found("session"))
    }

    async fn list_sessions(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let request = request.into_inner();
        let state = self.0.lock().unwrap();
        // Small pages, so that paging is exercised.
        let limit = (request.limit as usize).clamp(1, 3.max(state.sessions.len() / 4));
        let sessions: Vec<_> =
            state.sessions.range(request.cursor + 1..).take(limit).map(|(_, s)| s.clone()).collect();
        let next_cursor = if sessions.len() < limit {
            0
        } else {
            sessions.last().and_then(|info| info.session.as_ref()).map_or(0, |session| session.session_id)
        };
        let sessions = sessions.iter().map(|info| info.encode_to_vec().into()).collect();
        Ok(Response::new(ListSessionsResponse { sessions, next_cursor }))
    }

    async fn delete_sessions(
        &self,
        request: Request<v1::DeleteSessionsRequest>,
    ) -> Result<Response<v1::DeleteSessionsResponse>, Status> {
        let mut answer = v1::DeleteSessionsResponse::default();
        let mut state = self.0.lock().unwrap();
        for id in request.into_inner().session_ids {
            state.asked.push((Instant::now(), Asked::Delete));
            match state.remove(id) {
                Some(info) => answer.closed.push(state.report(info, v1::CloseCode::Deleted)),
                None => answer.unknown.push(id),
            }
        }
        Ok(Response::new(answer))
    }

    async fn flush_sessions(
        &self,
        _: Request<v1::FlushSessionsRequest>,
    ) -> Result<Response<v1::FlushSessionsResponse>, Status> {
        Err(Status::unimplemented("not part of the agent's life"))
    }

    type WatchClosedStream = Events;

    async fn watch_closed(&self, _: Request<v1::WatchClosedRequest>) -> Result<Response<Events>, Status> {
        let mut state = self.0.lock().unwrap();
        state.asked.push((Instant::now(), Asked::Connect));
        let events = tokio_stream::wrappers::BroadcastStream::new(state.closed.subscribe());
        let events = events.filter_map(|closed| {
            Some(Ok(v1::ClosedEvent { event: Some(v1::closed_event::Event::Closed(closed.ok()?)) }))
        });
        Ok(Response::new(Box::pin(events)))
    }

    type WatchStatsStream = tokio_stream::Empty<Result<v1::StatsEvent, Status>>;

    async fn watch_stats(
        &self,
        _: Request<v1::WatchStatsRequest>,
    ) -> Result<Response<Self::WatchStatsStream>, Status> {
        Err(Status::unimplemented("the agent does not ask for it"))
    }

    async fn get_stats(&self, _: Request<v1::GetStatsRequest>) -> Result<Response<v1::Stats>, Status> {
        Err(Status::unimplemented("not part of the agent's life"))
    }

    async fn list_lifs(
        &self,
        _: Request<v1::ListLifsRequest>,
    ) -> Result<Response<v1::ListLifsResponse>, Status> {
        Err(Status::unimplemented("not part of the agent's life"))
    }
}

/// The recording gateway on a thread of its own, listening on a unix socket.
pub struct Server {
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub fn start(socket: PathBuf) -> Self {
        let state = State {
            sessions: BTreeMap::new(),
            asked: Vec::new(),
            capacity: usize::MAX,
            arrived: Vec::new(),
            flows: HashSet::new(),
            closed: broadcast::channel(1024).0,
        };
        let state = Arc::new(Mutex::new(state));
        let (stop, stopped) = oneshot::channel();
        let recorder = Recorder(state.clone());
        let _ = std::fs::remove_file(&socket);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::UnixListener::bind(socket).unwrap();
                let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
                let serving = tonic::transport::Server::builder()
                    .add_service(GatewayServer::new(recorder))
                    .serve_with_incoming(incoming);
                tokio::select! {
                    result = serving => result.unwrap(),
                    _ = stopped => {}
                }
            });
            // Dropping the runtime breaks every connection, as a killed gateway would.
        });
        Self { state, stop: Some(stop), thread: Some(thread) }
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    pub fn sessions(&self) -> Vec<v1::Session> {
        self.with(|state| state.sessions.values().filter_map(|info| info.session.clone()).collect())
    }

    pub fn adds(&self) -> usize {
        self.with(|state| state.asked.iter().filter(|(_, asked)| matches!(asked, Asked::Add)).count())
    }

    /// The gateway has forwarded so much of the session.
    pub fn forward(&self, id: u64, counters: v1::Counters) {
        self.with(|state| state.sessions.get_mut(&id).unwrap().counters = Some(counters));
    }

    /// The gateway closes the session itself.
    pub fn close(&self, id: u64, code: v1::CloseCode) {
        self.with(|state| {
            let info = state.remove(id).unwrap();
            state.report(info, code);
        });
    }

    /// Waits until exactly `count` sessions are there; how long it took.
    pub fn wait_for(&self, count: usize) -> Duration {
        let began = Instant::now();
        wait(&format!("{count} sessions"), || self.sessions().len() == count);
        began.elapsed()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits up to a minute for `done`: the machine may be slow and busy.
pub fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
