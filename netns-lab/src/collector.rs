//! What mirror and snoop sessions send, at a real socket: VXLAN packets to the collector's two addresses.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::plan::{COLLECTOR, FAR_COLLECTOR};

/// RFC 7348.
const VXLAN_PORT: u16 = 4789;
const HEADER: usize = 8;

/// A packet the collector got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Which of the collector's addresses it came to.
    pub to: Ipv4Addr,
    /// Its network.
    pub vni: u32,
    /// The tenant's frame.
    pub frame: Vec<u8>,
}

/// The sockets; they listen until dropped.
#[derive(Debug)]
pub struct Collector {
    stop: Arc<AtomicBool>,
    copies: Arc<Mutex<Vec<Copy>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Collector {
    /// Listens on both addresses of the lab's collector, which [`Lab::add_collector`] made.
    ///
    /// # Errors
    /// [`Error::NoNamespace`], [`Error::Io`].
    pub fn start(lab: &Lab) -> Result<Self> {
        let netns = lab.ns("collector")?;
        let mut collector = Collector { stop: Arc::default(), copies: Arc::default(), threads: Vec::new() };
        for to in [COLLECTOR, FAR_COLLECTOR] {
            let socket = netns.enter(|| UdpSocket::bind((to, VXLAN_PORT)))?;
            let socket = socket.map_err(Error::io(format!("bind {to}:{VXLAN_PORT}")))?;
            socket
                .set_read_timeout(Some(Duration::from_millis(50)))
                .map_err(Error::io("the collector's socket"))?;
            let (stop, copies) = (Arc::clone(&collector.stop), Arc::clone(&collector.copies));
            collector.threads.push(thread::spawn(move || collect(&socket, to, &stop, &copies)));
        }
        Ok(collector)
    }

    /// What came so far, in order.
    pub fn copies(&self) -> Vec<Copy> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn collect(socket: &UdpSocket, to: Ipv4Addr, stop: &AtomicBool, copies: &Mutex<Vec<Copy>>) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        // Only the I flag is set, and nothing that is reserved.
        if let Some(([8, 0, 0, 0, a, b, c, 0], frame)) =
            buffer.get(..length).and_then(|packet| packet.split_first_chunk::<HEADER>())
        {
            let copy = Copy { to, vni: u32::from_be_bytes([0, *a, *b, *c]), frame: frame.to_vec() };
            copies.lock().unwrap_or_else(PoisonError::into_inner).push(copy);
        }
    }
}
