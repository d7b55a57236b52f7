//! A client's connection, whatever carries it.

use super::answers::Slots;
use super::call_rate::Bucket;
use super::identity::Identity;
use super::paging::Pages;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// Length of the client's connection preface (RFC 9113 section 3.4), which it sends unasked.
const PREFACE: usize = 24;

/// Bytes read between two turns of the calls. A stream of new sessions handles more in its turn ([`CONNECTION_WINDOW`] says what
/// happens to one that is left behind).
///
/// [`CONNECTION_WINDOW`]: super::CONNECTION_WINDOW
const TURN: usize = 8 << 10;

/// What calls know of the connection they came on.
#[derive(Clone, Default)]
pub(crate) struct Peer {
    pages: Arc<Pages>,
    calls: Arc<Bucket>,
    answers: Slots,
    identity: Identity,
}

impl Peer {
    pub(super) fn pages(&self) -> &Pages {
        &self.pages
    }

    pub(super) fn calls(&self) -> &Bucket {
        &self.calls
    }

    pub(super) fn answers(&self) -> &Slots {
        &self.answers
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity.clone()
    }
}

pub(super) enum Transport {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Transport {
    fn identity(&self) -> Identity {
        match self {
            Self::Tcp(stream) => Identity::at(stream.peer_addr()),
            Self::Unix(_) => Identity::Local,
            Self::Tls(stream) => {
                let (stream, tls) = stream.get_ref();
                let certificate = tls.peer_certificates().and_then(<[_]>::first);
                certificate.and_then(Identity::named).unwrap_or_else(|| Identity::at(stream.peer_addr()))
            }
        }
    }
}

/// Holds one of the server's slots for connections. Ends with an error when the server is killed, or when the client does
/// not begin to speak HTTP/2 in time.
pub(crate) struct Connection {
    transport: Transport,
    peer: Peer,
    killed: Pin<Box<WaitForCancellationFutureOwned>>,
    preface: Option<Preface>,
    /// Bytes in this turn.
    read: usize,
    _slot: OwnedSemaphorePermit,
}

struct Preface {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Connection {
    pub(super) fn new(
        transport: Transport,
        slot: OwnedSemaphorePermit,
        kill: CancellationToken,
        handshake: Duration,
    ) -> Self {
        Self {
            peer: Peer { identity: transport.identity(), ..Peer::default() },
            transport,
            killed: Box::pin(kill.cancelled_owned()),
            preface: Some(Preface { missing: PREFACE, deadline: Box::pin(tokio::time::sleep(handshake)) }),
            read: 0,
            _slot: slot,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.killed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if this.read >= TURN {
            this.read = 0;
            // It wakes this task when the others have run.
            let _ = pin!(tokio::task::yield_now()).poll(cx);
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = match &mut this.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        this.read += buf.filled().len() - before;
        let Some(preface) = &mut this.preface else { return read };
        if read.is_pending() {
            ready!(preface.deadline.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        preface.missing = preface.missing.saturating_sub(buf.filled().len() - before);
        if preface.missing == 0 {
            this.preface = None;
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
