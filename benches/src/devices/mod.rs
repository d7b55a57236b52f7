//! What the generator measures, each started as a process of its own: the gateway, and what one would use instead.

mod process;
pub mod gateway;
pub mod testpmd;
pub mod ovs;
pub mod nftables;

pub use process::{Process, Scratch};

/// The worker's core; the generator has core 0.
pub const WORKER_CORE: usize = 1;
/// Descriptors of a memif ring, as a power of two.
pub const RING_BITS: u32 = 10;

/// The generator's end of a memif whose other end is a device's. Without zero copy: with it, the driver (22.11) gives a second
/// memif of the same process a wrong file descriptor, and the link never comes up.
pub fn memif_client(number: usize, socket: &str) -> String {
    format!("net_memif{number},role=client,id=0,socket={socket},socket-abstract=yes,rsize={RING_BITS}")
}

/// A device's end of a memif.
pub fn memif_server(number: usize, socket: &str) -> String {
    format!("net_memif{number},role=server,id=0,socket={socket},socket-abstract=yes,rsize={RING_BITS}")
}
