//! Datagrams between tenants: an echo server, and a client that gets its flow offloaded.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netns_lab::Netns;
use netns_lab::control::Session;
use nix::errno::Errno;

use crate::bench::{Bench, LIMIT, wait};

/// Sends every datagram back.
pub struct Echo {
    stop: Arc<AtomicBool>,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    pub fn start(netns: &Netns, address: SocketAddr) -> Self {
        let socket = bind(netns, address);
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let peers = Arc::new(Mutex::new(Vec::new()));
        let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&peers));
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                    let mut seen = seen.lock().unwrap();
                    if !seen.contains(&peer) {
                        seen.push(peer);
                    }
                    let _ = socket.send_to(&buffer[..length], peer);
                }
            }
        });
        Echo { stop, peers, thread: Some(thread) }
    }

    /// Who has sent something, in the server's eyes.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.peers.lock().unwrap().clone()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// A socket in `netns`.
pub fn bind(netns: &Netns, address: SocketAddr) -> UdpSocket {
    netns.enter(|| UdpSocket::bind(address)).unwrap().unwrap()
}

/// A socket in `netns` that talks to `peer` only, and waits 2 s for answers.
pub fn connect(netns: &Netns, own: IpAddr, peer: SocketAddr) -> UdpSocket {
    let socket = bind(netns, SocketAddr::new(own, 0));
    socket.connect(peer).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket
}

/// Sends one datagram of `length` bytes; whether it came back. Late answers to earlier ones are passed over.
pub fn exchange(socket: &UdpSocket, length: usize) -> bool {
    static SEQUENCE: AtomicU8 = AtomicU8::new(0);
    let sent = payload(SEQUENCE.fetch_add(1, Ordering::Relaxed), length);
    let mut buffer = [0; 2048];
    // An error of an earlier datagram is reported by whatever comes next.
    if socket.send(&sent).is_err() {
        return false;
    }
    loop {
        match socket.recv(&mut buffer) {
            Ok(received) => {
                let received = &buffer[..received];
                let whole = received.first().is_some_and(|first| received == payload(*first, received.len()));
                assert!(whole, "a datagram came back changed: {received:?}");
                if received == sent {
                    return true;
                }
            }
            Err(error) => {
                let lost = [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::ConnectionRefused];
                let too_long = error.raw_os_error() == Some(Errno::EMSGSIZE as i32);
                assert!(too_long || lost.contains(&error.kind()), "{error}");
                return false;
            }
        }
    }
}

/// As [`exchange`], where nothing may be lost: a slow and busy machine gets longer.
pub fn comes_back(socket: &UdpSocket, length: usize) -> bool {
    let usual = socket.read_timeout().unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let came = exchange(socket, length);
    socket.set_read_timeout(usual).unwrap();
    came
}

/// Bytes that tell one datagram from the next, and show any change.
fn payload(first: u8, length: usize) -> Vec<u8> {
    (0..length).map(|i| first.wrapping_add(i as u8)).collect()
}

/// The session of `socket`, if there is one.
pub fn session(bench: &Bench, socket: &UdpSocket) -> Option<Session> {
    let (own, peer) = (socket.local_addr().unwrap(), socket.peer_addr().unwrap());
    let sessions = bench.control().sessions().unwrap();
    sessions.into_iter().find(|s| s.protocol == 17 && s.source == own && s.destination == peer)
}

/// Talks until the flow of `socket` is a session that packets go through both ways.
pub fn offload(bench: &Bench, socket: &UdpSocket) -> Session {
    let mut found = None;
    wait("the flow is offloaded", || {
        exchange(socket, 64);
        found = session(bench, socket).filter(|s| s.in_packets > 0 && s.out_packets > 0);
        found.is_some()
    });
    found.unwrap()
}
