//! The connection to the gateway: made again whenever it breaks.

use super::config::Endpoint;
use crate::client::{ClientTls, causes, tls_config};
use proto::gateway::v1;
use proto::gateway::v1::gateway_client::GatewayClient;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::{Notify, mpsc};
use tonic::transport::Channel;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const PAGE: u32 = 2000;
const QUEUE: usize = 1024;

/// A client of the gateway.
pub type Client = GatewayClient<Channel>;

/// What the link tells the agent.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are the largest")]
pub enum LinkEvent {
    /// Connected, closed sessions are being watched, and these sessions are there.
    Up {
        /// To call with.
        client: Client,
        /// Every session of the gateway.
        sessions: Vec<v1::SessionInfo>,
    },
    /// A session closed.
    Closed(v1::ClosedSession),
    /// Records of closed sessions were lost.
    Lost(u64),
    /// The connection broke; it is being made again.
    Down,
}

/// Why the link is not up.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The address, or the TLS files, cannot be used.
    #[error("gateway.connect \"{address}\": {reason}")]
    Endpoint {
        /// As configured.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// No answer.
    #[error(
        "cannot reach the gateway at \"{address}\": {}; is it running, and is its control.listen the same?",
        causes(source)
    )]
    Connect {
        /// As configured.
        address: String,
        /// Of the transport.
        source: tonic::transport::Error,
    },
    /// A call failed.
    #[error("the gateway's answer: {0}")]
    Call(#[from] tonic::Status),
    /// It ended the stream of closed sessions.
    #[error("the gateway ended the connection")]
    Ended,
}

/// The link, kept up by a task of its own until dropped.
pub struct Link {
    /// What happens on it.
    pub events: mpsc::Receiver<LinkEvent>,
    restart: Arc<Notify>,
}

impl Link {
    /// Starts connecting.
    ///
    /// # Errors
    /// The address or TLS files cannot be used.
    pub fn start(endpoint: &Endpoint) -> Result<Self, LinkError> {
        let transport = transport(endpoint)?;
        let (sender, events) = mpsc::channel(QUEUE);
        let restart = Arc::new(Notify::new());
        tokio::spawn(maintain(endpoint.address.clone(), transport, sender, restart.clone()));
        Ok(Self { events, restart })
    }

    /// Drops the connection and makes a new one.
    pub fn restart(&self) {
        self.restart.notify_one();
    }
}

fn transport(endpoint: &Endpoint) -> Result<tonic::transport::Endpoint, LinkError> {
    let wrong = |reason: String| LinkError::Endpoint { address: endpoint.address.clone(), reason };
    let mut transport = tonic::transport::Endpoint::from_shared(endpoint.address.clone())
        .map_err(|error| wrong(error.to_string()))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    if let Some(tls) = &endpoint.tls {
        let tls = ClientTls {
            ca: tls.ca.clone(),
            identity: tls.cert.clone().zip(tls.key.clone()),
            server_name: tls.server_name.clone(),
        };
        let (config, verifier) = tls_config(&tls).map_err(|error| wrong(error.to_string()))?;
        transport = transport
            .tls_config_with_verifier(config, Arc::new(verifier))
            .map_err(|error| wrong(error.to_string()))?;
    }
    Ok(transport)
}

/// Connects once.
///
/// # Errors
/// The address or TLS files cannot be used, or nobody answers.
pub async fn connect(endpoint: &Endpoint) -> Result<Client, LinkError> {
    let channel = transport(endpoint)?.connect().await;
    let refused = |source| LinkError::Connect { address: endpoint.address.clone(), source };
    channel.map(GatewayClient::new).map_err(refused)
}

async fn maintain(
    address: String,
    transport: tonic::transport::Endpoint,
    events: mpsc::Sender<LinkEvent>,
    restart: Arc<Notify>,
) {
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    while !events.is_closed() {
        let began = Instant::now();
        let Err(error) = session(&address, &transport, &events, &restart).await else { return };
        if events.send(LinkEvent::Down).await.is_err() {
            return;
        }
        if began.elapsed() > LONGEST_PAUSE {
            (pause, told) = (FIRST_PAUSE, false);
        }
        if !told {
            tracing::warn!(%error, "no gateway; trying again");
            told = true;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = events.closed() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One connection from its beginning to its end; `Ok` when the agent is gone.
async fn session(
    address: &str,
    transport: &tonic::transport::Endpoint,
    events: &mpsc::Sender<LinkEvent>,
    restart: &Notify,
) -> Result<(), LinkError> {
    let channel = transport
        .connect()
        .await
        .map_err(|source| LinkError::Connect { address: address.to_owned(), source })?;
    let mut client = GatewayClient::new(channel);
    // Before the list, so that nothing that closes meanwhile is missed.
    let mut closed = client.watch_closed(v1::WatchClosedRequest {}).await?.into_inner();
    let mut sessions = Vec::new();
    let mut cursor = 0;
    loop {
        let (page, next) = list_page(&mut client, cursor).await?;
        sessions.extend(page);
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    tracing::info!(gateway = address, sessions = sessions.len(), "connected");
    if events.send(LinkEvent::Up { client, sessions }).await.is_err() {
        return Ok(());
    }
    loop {
        let record = tokio::select! {
            record = closed.message() => record?.ok_or(LinkError::Ended)?,
            () = restart.notified() => return Err(LinkError::Ended),
            () = events.closed() => return Ok(()),
        };
        let event = match record.event {
            Some(v1::closed_event::Event::Closed(session)) => LinkEvent::Closed(session),
            Some(v1::closed_event::Event::Lost(count)) => LinkEvent::Lost(count),
            None => continue,
        };
        if events.send(event).await.is_err() {
            return Ok(());
        }
    }
}

/// A page of the gateway's list from `cursor` on, and the next cursor; 0 = no more.
///
/// # Errors
/// The call failed.
pub async fn list_page(client: &mut Client, cursor: u64) -> Result<(Vec<v1::SessionInfo>, u64), LinkError> {
    let page = client
        .list_sessions(timed(v1::ListSessionsRequest { cursor, limit: PAGE, filter: None }))
        .await?
        .into_inner();
    Ok((page.sessions, page.next_cursor))
}

/// Installs `sessions`.
///
/// # Errors
/// The call failed; what it has done is unknown.
pub async fn add(
    mut client: Client,
    sessions: Vec<v1::Session>,
) -> Result<v1::AddSessionsResponse, LinkError> {
    let request = timed(tokio_stream::once(v1::AddSessionsRequest { sessions }));
    Ok(client.add_sessions(request).await?.into_inner())
}

/// Removes sessions by their ids.
///
/// # Errors
/// The call failed; what it has done is unknown.
pub async fn delete(
    mut client: Client,
    session_ids: Vec<u64>,
) -> Result<v1::DeleteSessionsResponse, LinkError> {
    let request = timed(v1::DeleteSessionsRequest { session_ids });
    Ok(client.delete_sessions(request).await?.into_inner())
}

fn timed<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}
