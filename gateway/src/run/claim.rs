//! One process per kernel interface: a second one would end with the first one's XDP program, and nobody would know.

use crate::config::{Config, interface};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt::PeerCredentials,
};
use std::collections::HashSet;
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Interfaces that no other gateway of this network namespace opens while this lives; the kernel ends it with the process.
#[derive(Debug)]
pub(super) struct Claims {
    /// Of abstract names, which are the namespace's own.
    _sockets: Vec<UnixListener>,
}

/// Why an interface is not ours.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClaimError {
    /// Somebody has it.
    #[error(
        "port {port:?}: interface {interface} is used by another gateway{holder}: \
         stop that one first, or write another iface in device"
    )]
    Taken {
        /// The port's name.
        port: String,
        /// The interface's.
        interface: String,
        /// Who.
        holder: Holder,
    },
    /// The system refuses.
    #[error("port {port:?}: interface {interface} cannot be claimed: {source}")]
    Socket {
        /// The port's name.
        port: String,
        /// The interface's.
        interface: String,
        /// Why.
        source: io::Error,
    },
}

/// A process; None where the system does not tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Holder(Option<i32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |pid| write!(f, ", process {pid}"))
    }
}

impl Claims {
    /// Those of all ports that take an interface from the kernel.
    pub(super) fn new(config: &Config) -> Result<Self, ClaimError> {
        let ports = config.ports.iter().zip(&config.pipeline.ports);
        let interfaces = ports.filter_map(|(port, named)| Some((interface(&port.device)?, &named.name)));
        // Ports of this process may share one, each with queues of its own.
        let mut seen = HashSet::new();
        let mine = interfaces.filter(|(interface, _)| seen.insert(*interface));
        let sockets = mine.map(|(interface, port)| claim(interface, port)).collect::<Result<_, _>>()?;
        Ok(Self { _sockets: sockets })
    }
}

fn claim(interface: &str, port: &str) -> Result<UnixListener, ClaimError> {
    let name = format!("openoffload-gateway/port/{interface}");
    let bound = SocketAddr::from_abstract_name(&name).and_then(|address| UnixListener::bind_addr(&address));
    let (port, interface) = (port.to_owned(), interface.to_owned());
    bound.map_err(|source| match source.kind() {
        ErrorKind::AddrInUse => ClaimError::Taken { port, interface, holder: holder(&name) },
        _ => ClaimError::Socket { port, interface, source },
    })
}

/// Whoever listens there. Nobody ever accepts: without waiting.
fn holder(name: &str) -> Holder {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let pid = || {
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
        connect(socket.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes()).ok()?).ok()?;
        // 0: of another PID namespace.
        Some(getsockopt(&socket, PeerCredentials).ok()?.pid()).filter(|pid| *pid > 0)
    };
    Holder(pid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(devices: &[&str]) -> Config {
        let ports = devices
            .iter()
            .enumerate()
            .map(|(position, device)| format!("[[port]]\nname = \"p{position}\"\ndevice = \"{device}\"\n"));
        let text = format!(
            "{}[trap]\nport = \"p0\"\nlocal_ip = \"169.254.10.1\"\nkernel_ip = \"169.254.10.2\"\n",
            ports.collect::<String>()
        );
        Config::parse(Path::new("x.toml"), &text).unwrap()
    }

    #[test]
    fn an_interface_is_claimed_once_and_free_again_afterwards() {
        let own = format!("claim-{}", std::process::id());
        let xdp = config(&["net_null0", &format!("net_af_xdp0,queue_count=2,iface={own}")]);
        let first = Claims::new(&xdp).unwrap();
        let packet = config(&[&format!("net_af_packet3,iface={own}")]);
        let expected = format!(
            "port \"p0\": interface {own} is used by another gateway, process {}: \
             stop that one first, or write another iface in device",
            std::process::id()
        );
        assert_eq!(Claims::new(&packet).unwrap_err().to_string(), expected);
        Claims::new(&config(&[&format!("net_af_packet3,iface={own}x")])).unwrap();
        drop(first);
        let both = [format!("net_af_xdp0,iface={own}"), format!("net_af_xdp1,iface={own},start_queue=1")];
        Claims::new(&config(&both.each_ref().map(String::as_str))).unwrap();
    }
}
