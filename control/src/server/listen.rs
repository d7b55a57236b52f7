//! Listening and accepting.

use super::ServerError;
use super::connection::{Connection, Transport};
use crate::Endpoint;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, net};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Connections the kernel holds until they are accepted.
const BACKLOG: i32 = 128;
/// Pause after a failed accept (no file descriptors left, for one).
const PAUSE: Duration = Duration::from_millis(100);

/// Where accepted connections go, and under which conditions.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) connections: mpsc::Sender<io::Result<Connection>>,
    pub(super) slots: Arc<Semaphore>,
    pub(super) handshake: Duration,
    pub(super) stop: CancellationToken,
    pub(super) kill: CancellationToken,
    pub(super) turned_away: Arc<TurnedAway>,
}

/// Connections that did not come to be.
#[derive(Debug, Default)]
pub(super) struct TurnedAway {
    /// Too many were open.
    pub(super) refused: AtomicU64,
    /// The TLS handshake failed or took too long.
    pub(super) handshake_failed: AtomicU64,
}

pub(super) struct Listener {
    endpoint: Endpoint,
    socket: Socket,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The socket's file, removed when this is dropped unless another one has taken its place.
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path) == Some(self.identity) {
            // Nothing is lost by a stale socket: the next server replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    pub(super) fn bind(endpoint: &Endpoint) -> Result<(Self, Option<SocketFile>), ServerError> {
        let error = |source| ServerError::Listen { endpoint: endpoint.clone(), source };
        match endpoint {
            Endpoint::Tcp(address) => {
                let socket = bind_tcp(*address).map_err(error)?;
                let endpoint = Endpoint::Tcp(socket.local_addr().map_err(error)?);
                Ok((Self { endpoint, socket: Socket::Tcp(socket) }, None))
            }
            Endpoint::Unix(path) => {
                remove_stale(endpoint, path)?;
                let socket = bind_unix(path).map_err(error)?;
                let file = identity(path).map(|identity| SocketFile { path: path.clone(), identity });
                Ok((Self { endpoint: endpoint.clone(), socket: Socket::Unix(socket) }, file))
            }
        }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Accepts until the gate says stop. Handshakes run beside, each in its own task.
    /// `tls` may change while it runs.
    pub(super) async fn accept(self, gate: Gate, tls: watch::Receiver<Option<TlsAcceptor>>) {
        let stop = gate.stop.clone();
        let mut full = false;
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.socket.accept() => accepted,
            };
            let transport = match accepted {
                Ok(transport) => transport,
                Err(error) => {
                    tracing::warn!(endpoint = %self.endpoint, %error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(slot) = gate.slots.clone().try_acquire_owned() else {
                gate.turned_away.refused.fetch_add(1, Ordering::Relaxed);
                // Once: whoever floods the endpoint shall not flood the log.
                if !std::mem::replace(&mut full, true) {
                    tracing::warn!(endpoint = %self.endpoint, "connections are refused: too many are open");
                }
                continue;
            };
            full = false;
            let tls = tls.borrow().clone();
            match (transport, tls) {
                (Transport::Tcp(stream), Some(tls)) => {
                    tokio::spawn(handshake(stream, tls, slot, gate.clone()));
                }
                (transport, _) => gate.enter(transport, slot).await,
            }
        }
    }
}

impl Socket {
    async fn accept(&self) -> io::Result<Transport> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Transport::Tcp(stream))
            }
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Transport::Unix(stream)),
        }
    }
}

impl Gate {
    async fn enter(&self, transport: Transport, slot: OwnedSemaphorePermit) {
        let connection = Connection::new(transport, slot, self.kill.clone(), self.handshake);
        // Fails only when the server has stopped, and the connection is dropped with it.
        let _ = self.connections.send(Ok(connection)).await;
    }
}

async fn handshake(stream: TcpStream, tls: TlsAcceptor, slot: OwnedSemaphorePermit, gate: Gate) {
    let shaken = tokio::select! {
        () = gate.stop.cancelled() => return,
        shaken = tokio::time::timeout(gate.handshake, tls.accept(stream)) => shaken,
    };
    match shaken {
        Ok(Ok(stream)) => gate.enter(Transport::Tls(Box::new(stream)), slot).await,
        Ok(Err(error)) => {
            gate.turned_away.handshake_failed.fetch_add(1, Ordering::Relaxed);
            tracing::info!(%error, "TLS handshake failed");
        }
        Err(_) => {
            gate.turned_away.handshake_failed.fetch_add(1, Ordering::Relaxed);
            tracing::info!("TLS handshake took too long");
        }
    }
}

fn bind_tcp(address: net::SocketAddr) -> io::Result<TcpListener> {
    // std sets SO_REUSEADDR, so that a restart does not wait for old connections.
    let socket = net::TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // Before bind, so that the file has this mode from its first moment (unix(7)).
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    UnixListener::from_std(socket.into())
}

/// Removes a socket that nobody listens on any more.
fn remove_stale(endpoint: &Endpoint, path: &Path) -> Result<(), ServerError> {
    let error = |source| ServerError::Listen { endpoint: endpoint.clone(), source };
    let metadata = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata.map_err(error)?,
    };
    if !metadata.file_type().is_socket() {
        return Err(ServerError::NotASocket(endpoint.clone()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(error),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(error(e)),
        Ok(_) => Err(ServerError::InUse(endpoint.clone())),
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
