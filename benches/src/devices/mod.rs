//! What the generator measures, each started as a process of its own: the gateway, and what one would use instead.

mod process;
pub mod gateway;
pub mod testpmd;
pub mod ovs;
pub mod nftables;

pub use process::{Process, Scratch};

use dpdk::{Memif, MemifError, MemifOptions};

/// The worker's core; the generator has core 0.
pub const WORKER_CORE: usize = 1;
/// Descriptors of a memif ring, as a power of two.
pub const RING_BITS: u32 = 10;

/// Connects to a device's memif, with as many rings back as it has transmit queues, for frames of up to `longest` bytes.
pub fn memif_client(socket: &str, rx_rings: u16, longest: usize) -> Result<Memif, MemifError> {
    Memif::connect(&MemifOptions {
        socket,
        abstract_socket: true,
        ring_bits: RING_BITS as u8,
        buffer: u16::try_from(longest.max(2048)).unwrap_or(u16::MAX),
        rx_rings,
        ..MemifOptions::default()
    })
}

/// A device's end of a memif.
pub fn memif_server(number: usize, socket: &str) -> String {
    format!("net_memif{number},role=server,id=0,socket={socket},socket-abstract=yes,rsize={RING_BITS}")
}
