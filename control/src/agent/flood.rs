//! Connections made in the kernel's table through ctnetlink, for tests and benchmarks of the agent: as many and as fast as
//! wanted, without packets.

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

const CT_NEW: u16 = 1 << 8;
const CT_DELETE: u16 = 1 << 8 | 2;
/// NLM_F_REQUEST, NLM_F_CREATE and NLM_F_EXCL.
const CREATE: u16 = 0x1 | 0x400 | 0x200;
/// NLM_F_REQUEST and NLM_F_ACK, for the last of a batch.
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const NESTED: u16 = 0x8000;
/// IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED.
const STATUS: u32 = 0x2 | 0x4 | 0x8;
const ESTABLISHED: u8 = 3;
const TCP: u8 = 6;
const TIMEOUT: u32 = 3600;

/// An established TCP connection that is masqueraded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// Who opened it.
    pub client: (Ipv4Addr, u16),
    /// To whom.
    pub server: (Ipv4Addr, u16),
    /// What the server takes the client for.
    pub seen: (Ipv4Addr, u16),
}

/// A way into the connection table of the calling thread's network namespace.
pub struct Flood {
    socket: OwnedFd,
    sequence: u32,
}

impl Flood {
    /// Opens it.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Self> {
        let (kind, flags) = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
        let socket = socket(AddressFamily::Netlink, kind, flags, SockProtocol::NetlinkNetFilter)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes connections; they are there when it returns. At most 200 at once.
    ///
    /// # Errors
    /// The kernel refuses one, as when it is there already.
    pub fn insert(&mut self, connections: &[Connection]) -> io::Result<()> {
        self.execute(CT_NEW, CREATE, connections, |connection, attributes| {
            tuple(attributes, 2, connection.server, connection.seen);
            attribute(attributes, 3, &STATUS.to_be_bytes());
            attribute(attributes, 7, &TIMEOUT.to_be_bytes());
            nest(attributes, 4, |info| nest(info, 1, |tcp| attribute(tcp, 1, &[ESTABLISHED])));
        })
    }

    /// Deletes connections, as [`Self::insert`] makes them.
    ///
    /// # Errors
    /// The kernel refuses one, as when it is gone already.
    pub fn delete(&mut self, connections: &[Connection]) -> io::Result<()> {
        self.execute(CT_DELETE, REQUEST, connections, |_, _| {})
    }

    fn execute(
        &mut self,
        kind: u16,
        flags: u16,
        connections: &[Connection],
        more: impl Fn(&Connection, &mut Vec<u8>),
    ) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(connections.len() * 256);
        for (index, connection) in connections.iter().enumerate() {
            let start = bytes.len();
            let last = index + 1 == connections.len();
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend([0; 4]);
            bytes.extend(kind.to_ne_bytes());
            bytes.extend((flags | if last { ACK } else { 0 }).to_ne_bytes());
            bytes.extend(self.sequence.to_ne_bytes());
            bytes.extend([0; 4]);
            // struct nfgenmsg: AF_INET
            bytes.extend([2, 0, 0, 0]);
            tuple(&mut bytes, 1, connection.client, connection.server);
            more(connection, &mut bytes);
            let length = (bytes.len() - start) as u32;
            bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        }
        if bytes.is_empty() {
            return Ok(());
        }
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        self.await_ack()
    }

    /// The last request's acknowledgement; errors of those before it come first.
    fn await_ack(&self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let header = |range: std::ops::Range<usize>| {
                buffer[..length].get(range).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok())
            };
            let (sequence, error) = (header(8..12), header(16..20));
            match error.map(i32::from_ne_bytes) {
                Some(0) if sequence.map(u32::from_ne_bytes) == Some(self.sequence) => return Ok(()),
                Some(0) => {}
                Some(error) => return Err(io::Error::from_raw_os_error(error.saturating_neg())),
                None => return Err(io::Error::other("a short answer")),
            }
        }
    }
}

fn tuple(out: &mut Vec<u8>, kind: u16, source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) {
    nest(out, kind, |tuple| {
        nest(tuple, 1, |ip| {
            attribute(ip, 1, &source.0.octets());
            attribute(ip, 2, &destination.0.octets());
        });
        nest(tuple, 2, |proto| {
            attribute(proto, 1, &[TCP]);
            attribute(proto, 2, &source.1.to_be_bytes());
            attribute(proto, 3, &destination.1.to_be_bytes());
        });
    });
}

fn nest(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 4]);
    fill(out);
    let length = (out.len() - start) as u16;
    out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    out[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend((value.len() as u16 + 4).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}
