//! Listening endpoints, and the connections that come through them.

use super::connection::Connection;
use super::listen::{Gate, Listener, SocketFile, TurnedAway};
use super::{Limits, ServerError, TlsFiles, tls};
use crate::Endpoint;
use std::io;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Accepted connections on their way to a tonic server.
const QUEUE: usize = 16;

/// Open endpoints. Sockets' files are removed when it is dropped.
pub(crate) struct Door {
    /// Where it listens, ports chosen by the system filled in.
    pub(crate) endpoints: Vec<Endpoint>,
    /// Connections, TLS done.
    pub(crate) incoming: mpsc::Receiver<io::Result<Connection>>,
    /// What new connections speak.
    pub(crate) tls: watch::Sender<Option<TlsAcceptor>>,
    pub(super) turned_away: Arc<TurnedAway>,
    pub(crate) sockets: Vec<SocketFile>,
}

impl Door {
    /// Checks everything, then listens until `stop`; `kill` ends the connections too.
    pub(crate) fn open(
        listen: &[Endpoint],
        files: Option<&TlsFiles>,
        plaintext: bool,
        limits: &Limits,
        stop: &CancellationToken,
        kill: &CancellationToken,
    ) -> Result<Self, ServerError> {
        if listen.is_empty() {
            return Err(ServerError::NoEndpoint);
        }
        let acceptor = files.map(tls::acceptor).transpose()?;
        let in_the_clear = |e: &&Endpoint| matches!(e, Endpoint::Tcp(_)) && acceptor.is_none() && !plaintext;
        if let Some(endpoint) = listen.iter().find(in_the_clear) {
            return Err(ServerError::Plaintext(endpoint.clone()));
        }
        let mut listeners = Vec::with_capacity(listen.len());
        let mut sockets = Vec::new();
        for endpoint in listen {
            let (listener, socket) = Listener::bind(endpoint)?;
            listeners.push(listener);
            sockets.extend(socket);
        }
        let (connections, incoming) = mpsc::channel(QUEUE);
        let endpoints = listeners.iter().map(|listener| listener.endpoint().clone()).collect();
        let turned_away: Arc<TurnedAway> = Arc::default();
        let (tls, current_tls) = watch::channel(acceptor);
        for listener in listeners {
            let gate = Gate {
                connections: connections.clone(),
                // Its own: strangers at one endpoint leave the others open.
                slots: Arc::new(Semaphore::new(limits.connections)),
                handshake: limits.handshake,
                stop: stop.clone(),
                kill: kill.clone(),
                turned_away: turned_away.clone(),
            };
            tokio::spawn(listener.accept(gate, current_tls.clone()));
        }
        Ok(Self { endpoints, incoming, tls, turned_away, sockets })
    }
}
