//! A client of the gateway's control interface, for threads that block.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::gateway::v1 as api;
use proto::gateway::v1::closed_event::Event;
use proto::gateway::v1::gateway_client::GatewayClient;
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, Result};

/// A session that is, or was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: u64,
    /// LIF of its first packet.
    pub in_lif: u32,
    /// The other one.
    pub out_lif: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// Source of its packets as they arrive on `in_lif`.
    pub source: SocketAddr,
    /// Their destination.
    pub destination: SocketAddr,
    /// Packets from `in_lif`.
    pub in_packets: u64,
    /// Bytes from `in_lif`.
    pub in_bytes: u64,
    /// Packets from `out_lif`.
    pub out_packets: u64,
    /// Bytes from `out_lif`.
    pub out_bytes: u64,
    /// When it was installed, in seconds and nanoseconds since 1970: ids are used again.
    pub start: (i64, i32),
    /// Why it closed; `None` while it lives.
    pub closed: Option<api::CloseCode>,
}

impl Session {
    /// Packets both ways.
    pub fn packets(&self) -> u64 {
        self.in_packets + self.out_packets
    }

    fn new(
        session: api::Session,
        counters: Option<api::Counters>,
        start: Option<(i64, i32)>,
        closed: Option<i32>,
    ) -> Option<Self> {
        let tuple = session.original?;
        let counters = counters.unwrap_or_default();
        Some(Session {
            id: session.session_id,
            in_lif: session.in_lif,
            out_lif: session.out_lif,
            protocol: u8::try_from(session.protocol).ok()?,
            source: SocketAddr::new(ip(&tuple.source)?, u16::try_from(tuple.source_port).ok()?),
            destination: SocketAddr::new(
                ip(&tuple.destination)?,
                u16::try_from(tuple.destination_port).ok()?,
            ),
            in_packets: counters.in_packets,
            in_bytes: counters.in_bytes,
            out_packets: counters.out_packets,
            out_bytes: counters.out_bytes,
            start: start.unwrap_or_default(),
            closed: closed.map(|code| api::CloseCode::try_from(code).unwrap_or_default()),
        })
    }
}

/// A connection to a gateway, listening for sessions that close from the moment it is made.
#[derive(Debug)]
pub struct Control {
    runtime: Runtime,
    client: GatewayClient<Channel>,
    closed: Arc<Mutex<Closed>>,
}

#[derive(Debug, Default)]
struct Closed {
    sessions: Vec<Session>,
    lost: u64,
}

impl Control {
    /// Connects to `endpoint`, `unix:PATH` or a URL.
    ///
    /// # Errors
    /// [`Error::Rpc`] if the gateway does not answer.
    pub fn connect(endpoint: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(Error::io("start the control client"))?;
        let unavailable =
            |error: tonic::transport::Error| rpc("connect")(Status::unavailable(format!("{error:?}")));
        let endpoint =
            Endpoint::from_shared(endpoint.to_owned()).map_err(unavailable)?.connect_timeout(LIMIT);
        let channel = runtime.block_on(endpoint.connect()).map_err(unavailable)?;
        let client = GatewayClient::new(channel).max_decoding_message_size(64 << 20);
        let control = Control { runtime, client, closed: Arc::default() };
        control.watch()?;
        Ok(control)
    }

    /// The sessions there are, with their counters.
    ///
    /// # Errors
    /// [`Error::Rpc`].
    pub fn sessions(&self) -> Result<Vec<Session>> {
        self.call("ListSessions", async |mut client| {
            let mut sessions = Vec::new();
            let mut cursor = 0;
            loop {
                let page = client
                    .list_sessions(api::ListSessionsRequest { cursor, limit: 0, filter: None })
                    .await?
                    .into_inner();
                let known = |info: api::SessionInfo| {
                    Session::new(
                        info.session?,
                        info.counters,
                        info.start_time.map(|time| (time.seconds, time.nanos)),
                        None,
                    )
                };
                sessions.extend(page.sessions.into_iter().filter_map(known));
                cursor = page.next_cursor;
                if cursor == 0 {
                    return Ok(sessions);
                }
            }
        })
    }

    /// The sessions that closed since the connection was made, in the order of their ends.
    pub fn closed(&self) -> Vec<Session> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).sessions.clone()
    }

    /// Records of closed sessions that the gateway had to drop, as this reader was too slow.
    pub fn lost(&self) -> u64 {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).lost
    }

    /// The sessions there are and those that closed.
    ///
    /// # Errors
    /// [`Error::Rpc`].
    pub fn all(&self) -> Result<Vec<Session>> {
        // A session that closes between the two calls must not be missed, nor counted twice.
        let mut all = self.sessions()?;
        let closed = self.closed();
        all.retain(|live| !closed.iter().any(|session| session.id == live.id && session.start == live.start));
        all.extend(closed);
        Ok(all)
    }

    /// Removes all sessions; returns how many there were.
    ///
    /// # Errors
    /// [`Error::Rpc`].
    pub fn flush(&self) -> Result<u64> {
        self.call("FlushSessions", async |mut client| {
            Ok(client.flush_sessions(api::FlushSessionsRequest {}).await?.into_inner().removed)
        })
    }

    fn call<T>(
        &self,
        name: &'static str,
        call: impl AsyncFnOnce(GatewayClient<Channel>) -> std::result::Result<T, Status>,
    ) -> Result<T> {
        let client = self.client.clone();
        let limited = async { tokio::time::timeout(LIMIT, call(client)).await };
        self.runtime
            .block_on(limited)
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))
            .map_err(rpc(name))
    }

    /// Collects closed sessions until the gateway or this client ends.
    fn watch(&self) -> Result<()> {
        let stream = self
            .call("WatchClosed", async |mut client| client.watch_closed(api::WatchClosedRequest {}).await);
        let mut stream = match stream {
            Ok(stream) => stream.into_inner(),
            Err(error) => return Err(error),
        };
        let closed = Arc::clone(&self.closed);
        self.runtime.spawn(async move {
            while let Ok(Some(message)) = stream.message().await {
                let mut closed = closed.lock().unwrap_or_else(PoisonError::into_inner);
                match message.event {
                    Some(Event::Closed(record)) => {
                        let start = record.start_time.map(|time| (time.seconds, time.nanos));
                        let session = record.session.and_then(|session| {
                            Session::new(session, record.counters, start, Some(record.close_code))
                        });
                        closed.sessions.extend(session);
                    }
                    Some(Event::Lost(lost)) => closed.lost += lost,
                    None => {}
                }
            }
        });
        Ok(())
    }
}

/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(10);

fn rpc(call: &'static str) -> impl FnOnce(Status) -> Error {
    move |status| Error::Rpc { call, status: Box::new(status) }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
