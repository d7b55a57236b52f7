use std::io;

use crate::{Error, SocketId};

/// Has memory that this thread, or a thread it starts from now on, is the first to write to be on `socket`, as long as the node
/// has pages free. Hugepages are meant too, but not DPDK's own heap: pools and rings say where they are to be.
pub fn prefer_memory(socket: SocketId) -> Result<(), Error> {
    let refused = |source| Error::MemoryPolicy { socket, source };
    let node = u32::try_from(socket.0).ok().and_then(|node| 1_u64.checked_shl(node));
    let nodes = node.ok_or_else(|| refused(io::ErrorKind::InvalidInput.into()))?;
    // The kernel reads one bit less than it is told.
    let bits = u64::BITS + 1;
    // SAFETY: the set of nodes is alive for the call and has that many bits; the policy is this thread's alone.
    let code =
        unsafe { libc::syscall(libc::SYS_set_mempolicy, libc::MPOL_PREFERRED, &raw const nodes, bits) };
    if code == 0 { Ok(()) } else { Err(refused(io::Error::last_os_error())) }
}
