//! The gRPC server: openoffload.v2 and gateway.v1, health and reflection, all on every endpoint.

mod add_streams;
mod admission;
mod answers;
mod call_rate;
mod connection;
mod door;
mod gateway_v1;
mod identity;
mod incoming;
mod introspection;
mod listen;
mod openoffload_v2;
mod paging;
mod rejected;
mod tls;
mod watch_stats;

pub(crate) use door::Door;
pub(crate) use listen::SocketFile;
pub use tls::TlsFiles;

use crate::activation::{Activation, ActivationConfig};
use crate::session_manager::Context;
use crate::{Clock, ClosedLog, Endpoint};
use add_streams::AddStreams;
use admission::Shared;
use answers::InTurn;
use call_rate::CallRate;
use connection::Connection;
use conntrack::SessionTable;
use identity::Rights;
use pipeline::{Config, Snapshot};
use proto::gateway::v1::wire::gateway_server::GatewayServer;
use proto::openoffload::v2::session_table_server::SessionTableServer;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;

/// Where and how to serve. The default listens nowhere.
#[derive(Clone, Debug, Default)]
pub struct ServerConfig {
    /// Where: at least one.
    pub listen: Vec<Endpoint>,
    /// With it, TCP speaks TLS only; unix sockets never do.
    pub tls: Option<TlsFiles>,
    /// Names of clients that may act on everybody's sessions, where clients are told apart: as [`TlsFiles::client_ca`] says.
    pub admins: Vec<String>,
    /// Allows TCP without `tls`.
    pub plaintext: bool,
    /// What clients may use up.
    pub limits: Limits,
    /// With it, sessions are taken only while a VNF has activated this device.
    pub activation: Option<ActivationConfig>,
}

/// What clients may use up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once to each endpoint, those in their handshake included; more are closed as they come.
    pub connections: usize,
    /// Calls at once per connection.
    pub calls_per_connection: u32,
    /// Calls per second and connection, of openoffload.v2 and gateway.v1 together; a second's worth at once. At least 1.
    pub calls_per_second: u32,
    /// Streams of new sessions at once, all clients together.
    pub add_streams: usize,
    /// Streams of new sessions at once of one client: of all who have its certificate's name; without, of its IPv4 address or
    /// IPv6 /64; or of all on the unix socket.
    pub add_streams_per_client: usize,
    /// Time for TLS and HTTP/2 to begin.
    pub handshake: Duration,
    /// A stream of new sessions that brings none for so long is ended.
    pub stream_idle: Duration,
    /// Silence after which a connection is probed; it is closed if it does not answer within the same time.
    pub keepalive: Duration,
    /// Time for calls to end at shutdown.
    pub shutdown: Duration,
    /// Failures an answer to openoffload.v2 `AddSession` names.
    pub response_errors: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            calls_per_connection: 128,
            calls_per_second: 50_000,
            add_streams: 256,
            add_streams_per_client: 64,
            handshake: Duration::from_secs(10),
            stream_idle: Duration::from_secs(60),
            keepalive: Duration::from_secs(20),
            shutdown: Duration::from_secs(3),
            response_errors: 100_000,
        }
    }
}

/// What the server works on.
#[derive(Clone)]
pub struct Handles {
    /// The sessions.
    pub table: Arc<SessionTable>,
    /// What the pipeline was told: ports and LIFs with their ids and names.
    pub config: Arc<Config>,
    /// The pipeline's counters.
    pub snapshot: Arc<dyn Fn() -> Snapshot + Send + Sync>,
    /// The one the workers use.
    pub clock: Clock,
    /// What a [`crate::Housekeeper`] reports to.
    pub closed: Arc<ClosedLog>,
}

/// Why the server does not start; nothing is left listening.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The list is empty.
    #[error("no control endpoint: name at least one in control.listen")]
    NoEndpoint,
    /// TCP would be in the clear.
    #[error("{0} would be served without TLS: configure control.tls, or set control.plaintext = true")]
    Plaintext(Endpoint),
    /// A file cannot be read.
    #[error("{what} {path}: {source}", path = path.display())]
    Read {
        /// What it is for.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{what} {path}: {reason}", path = path.display())]
    Pem {
        /// What it is for.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What is wrong, and what to put there.
        reason: String,
    },
    /// Certificate and key do not belong together.
    #[error("certificate {cert} and key {key} do not belong together: give the key it was made with", cert = cert.display(), key = key.display())]
    KeyMismatch {
        /// The certificate's path.
        cert: PathBuf,
        /// The key's path.
        key: PathBuf,
    },
    /// Another process serves there.
    #[error("{0} is in use: another process answers there; stop it, or choose another path")]
    InUse(Endpoint),
    /// What is there is no socket.
    #[error("{0} is there already and is no socket: remove it, or choose another path")]
    NotASocket(Endpoint),
    /// The system refuses.
    #[error("cannot listen on {endpoint}: {source}: {}", remedy(source))]
    Listen {
        /// Where.
        endpoint: Endpoint,
        /// The system's reason.
        source: io::Error,
    },
}

/// What to do where the system refuses an address.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "make its directory first, or choose another path",
        io::ErrorKind::PermissionDenied => "choose what this user may listen on",
        io::ErrorKind::AddrInUse => "stop who listens there, or choose another one",
        io::ErrorKind::AddrNotAvailable => "choose an address of this machine",
        _ => "choose another one",
    }
}

/// A running server. Dropping it closes everything at once; [`Self::shutdown`] lets calls end.
pub struct Server {
    endpoints: Vec<Endpoint>,
    stop: CancellationToken,
    kill: CancellationToken,
    grace: Duration,
    tls: watch::Sender<Option<TlsAcceptor>>,
    rights: Arc<Rights>,
    serve: JoinHandle<()>,
    activation: Vec<JoinHandle<()>>,
    _sockets: Vec<SocketFile>,
}

impl Server {
    /// Checks everything, then listens, then serves. Unix sockets get mode 0600; a stale one is replaced.
    pub async fn start(config: ServerConfig, handles: Handles) -> Result<Self, ServerError> {
        let limits = config.limits;
        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        let files = config.tls.as_ref();
        let door = Door::open(&config.listen, files, config.plaintext, &limits, &stop, &kill)?;
        let Door { endpoints, incoming, tls, turned_away, sockets } = door;
        let told_apart = files.is_some_and(|files| files.client_ca.is_some());
        let rights = Arc::new(Rights::new(told_apart, config.admins));
        let (state, activation) = Activation::start(config.activation, &stop);
        let shared = Arc::new(Shared {
            context: Context::new(&handles.config),
            limits,
            stop: stop.clone(),
            add_streams: AddStreams::new(&limits),
            refused: AtomicU64::new(0),
            calls_refused: Arc::default(),
            rights: rights.clone(),
            turned_away,
            rejected: Default::default(),
            last_add: AtomicU64::new(handles.clock.now_nanos() / 1_000_000_000),
            activation: state,
            handles,
        });
        let serve = tokio::spawn(serve(incoming, shared));
        let grace = limits.shutdown;
        Ok(Self { endpoints, stop, kill, grace, tls, rights, serve, activation, _sockets: sockets })
    }

    /// Where it listens, ports chosen by the system filled in.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Reads the TLS files again, for connections to come. A server without TLS stays without. On an error all stays as it
    /// was.
    pub fn reload_tls(&self, files: &TlsFiles) -> Result<(), ServerError> {
        if self.tls.borrow().is_some() {
            self.tls.send_replace(Some(tls::acceptor(files)?));
            self.rights.tell_apart(files.client_ca.is_some());
        }
        Ok(())
    }

    /// Who is an admin from now on: [`ServerConfig::admins`].
    pub fn set_admins(&self, names: Vec<String>) {
        self.rights.set_admins(names);
    }

    /// Takes no more connections, deregisters from VNFs, ends streams, lets calls end (for [`Limits::shutdown`] each), and
    /// removes its sockets.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        let deregistered = async {
            for task in std::mem::take(&mut self.activation) {
                // A task that panicked has nothing left to say.
                let _ = task.await;
            }
        };
        if tokio::time::timeout(self.grace, deregistered).await.is_err() {
            tracing::warn!("a VNF did not answer in time to the deregistration");
        }
        if tokio::time::timeout(self.grace, &mut self.serve).await.is_err() {
            tracing::warn!("clients have not ended their calls in time; their connections are closed");
            self.kill.cancel();
            let _ = tokio::time::timeout(self.grace, &mut self.serve).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        self.kill.cancel();
    }
}

/// Largest openoffload.v2 request: each is one session.
const MAX_V2_REQUEST: usize = 64 << 10;
/// Largest gateway.v1 request: a batch of sessions.
const MAX_V1_REQUEST: usize = 4 << 20;
/// What clients take by default.
const MAX_RESPONSE: usize = 4 << 20;
/// HTTP/2 flow control window of a call: what it may have on the way.
const CALL_WINDOW: u32 = 256 << 10;
/// That of a connection. h2 takes half of it as budget for small DATA frames that wait, each at 256 bytes less its own, and ends
/// the connection beyond. C++ and Go clients send each session in a frame of its own, of 30 bytes and more, and a call's window
/// full of those is 2 MB: so one call never ends it.
const CONNECTION_WINDOW: u32 = 4 << 20;

async fn serve(incoming: mpsc::Receiver<io::Result<Connection>>, shared: Arc<Shared>) {
    let (limits, stop) = (shared.limits, shared.stop.clone());
    let rate = CallRate { per_second: limits.calls_per_second, refused: shared.calls_refused.clone() };
    let session_table = SessionTableServer::new(openoffload_v2::Service(shared.clone()))
        .max_decoding_message_size(MAX_V2_REQUEST)
        .max_encoding_message_size(MAX_RESPONSE);
    let gateway = GatewayServer::new(gateway_v1::Service(shared))
        .max_decoding_message_size(MAX_V1_REQUEST)
        .max_encoding_message_size(MAX_RESPONSE);
    let session_table = InterceptedService::new(InTurn(session_table), rate.clone());
    let gateway = InterceptedService::new(InTurn(gateway), rate);
    let (health, reporter) = introspection::health().await;
    // Both are made from descriptors that were checked when this was built.
    let (reflection, reflection_v1alpha) =
        match (introspection::reflection(), introspection::reflection_v1alpha()) {
            (Ok(v1), Ok(v1alpha)) => (v1, v1alpha),
            (Err(error), _) | (_, Err(error)) => {
                return tracing::error!(%error, "the control server cannot describe its services");
            }
        };
    tokio::spawn(introspection::end_with(stop.clone(), reporter));
    let served = tonic::transport::Server::builder()
        .initial_stream_window_size(CALL_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.calls_per_connection)
        .http2_keepalive_interval(Some(limits.keepalive))
        .http2_keepalive_timeout(Some(limits.keepalive))
        .http2_max_header_list_size(16 << 10)
        .add_service(session_table)
        .add_service(gateway)
        .add_service(health)
        .add_service(reflection)
        .add_service(reflection_v1alpha)
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the control server ended");
    }
}
