//! A TCP transfer that goes on until it is told to stop, each byte checked.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netns_lab::Netns;

/// Longer than a connection is silent when the gateway is gone for a while and TCP backs off.
const SILENCE: Duration = Duration::from_secs(90);
/// A prime, so that no power of two of bytes lost or doubled goes unseen.
const PERIOD: usize = 251;

/// A running transfer.
pub struct Transfer {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<u64>,
}

impl Transfer {
    /// Starts a transfer from a client in `from` to a server at `address` in `to`.
    pub fn start(from: &Netns, to: &Netns, address: SocketAddr) -> Self {
        let listener = to.enter(|| TcpListener::bind(address)).unwrap().unwrap();
        let client = from.enter(|| TcpStream::connect_timeout(&address, SILENCE)).unwrap().unwrap();
        let (server, _) = listener.accept().unwrap();
        client.set_write_timeout(Some(SILENCE)).unwrap();
        server.set_read_timeout(Some(SILENCE)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Transfer {
            sender: thread::spawn(move || send(client, &stopped)),
            receiver: thread::spawn(move || receive(server)),
            stop,
        }
    }

    /// Ends the transfer; every byte sent must have arrived. How many there were.
    pub fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender failed");
        let received = self.receiver.join().expect("the receiver failed");
        assert_eq!(received, sent, "bytes were lost");
        sent
    }
}

fn send(mut stream: TcpStream, stop: &AtomicBool) -> u64 {
    let block: Vec<u8> = (0..PERIOD * 200).map(|i| (i % PERIOD) as u8).collect();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&block).unwrap();
        sent += block.len() as u64;
    }
    sent
}

fn receive(mut stream: TcpStream) -> u64 {
    let mut buffer = vec![0; 64 << 10];
    let mut position = 0;
    loop {
        let length = stream.read(&mut buffer).unwrap();
        if length == 0 {
            return position as u64;
        }
        for (i, byte) in buffer[..length].iter().enumerate() {
            assert_eq!(usize::from(*byte), (position + i) % PERIOD, "byte {} changed", position + i);
        }
        position += length;
    }
}
