//! What the generator measures, each started as a process of its own: the gateway, and what one would use instead.

mod process;
pub mod gateway;

pub use process::{Process, Scratch};

/// The worker's core; the generator has core 0.
pub const WORKER_CORE: usize = 1;
/// Descriptors of a memif ring, as a power of two.
pub const RING_BITS: u32 = 10;

/// The generator's end of a memif whose other end is a device's. Zero copy needs hugepages and `--single-file-segments`.
pub fn memif_client(number: usize, socket: &str, zero_copy: bool) -> String {
    let copy = if zero_copy { "yes" } else { "no" };
    format!(
        "net_memif{number},role=client,id=0,socket={socket},socket-abstract=yes,rsize={RING_BITS},zero-copy={copy}"
    )
}

/// A device's end of a memif.
pub fn memif_server(number: usize, socket: &str) -> String {
    format!("net_memif{number},role=server,id=0,socket={socket},socket-abstract=yes,rsize={RING_BITS}")
}
