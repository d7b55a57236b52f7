use std::{ffi::CStr, fmt};

use dpdk_sys as sys;

use crate::{LcoreId, log};

/// What went wrong, with the object's name and, where DPDK gave one, its reason.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// [`Eal::init`](crate::Eal::init) ran before in this process, whether it succeeded or not.
    #[error("DPDK's EAL starts once per process, and was started before")]
    AlreadyInitialized,
    /// The EAL did not start.
    #[error("DPDK's EAL did not start with `{arguments}`: {reason}")]
    Eal {
        /// The arguments given, as on a command line.
        arguments: String,
        /// DPDK's reason.
        reason: Reason,
    },
    /// A directory for DPDK's run-time files could not be made.
    #[error("no run-time directory for DPDK: {0}")]
    RuntimeDir(#[source] std::io::Error),
    /// A name or device string holds a NUL byte.
    #[error("{0:?} contains a NUL byte")]
    Nul(String),
    /// A mempool could not be created.
    #[error("mempool {name} of {count} buffers: {reason}")]
    Mempool {
        /// The pool's name.
        name: String,
        /// The number of buffers asked for.
        count: u32,
        /// DPDK's reason.
        reason: Reason,
    },
    /// A ring could not be created.
    #[error("ring {name}: {reason}")]
    Ring {
        /// The ring's name.
        name: String,
        /// DPDK's reason.
        reason: Reason,
    },
    /// A hash table could not be created.
    #[error("hash table {name} of {entries} entries: {reason}")]
    Hash {
        /// The table's name.
        name: String,
        /// The number of entries asked for.
        entries: u32,
        /// DPDK's reason.
        reason: Reason,
    },
    /// The kernel does not let memory be preferred on a NUMA node.
    #[error("memory on NUMA node {}: {source}: name a node that has memory; in a container, allow set_mempolicy", socket.0)]
    MemoryPolicy {
        /// The node asked for.
        socket: crate::SocketId,
        /// The system's reason.
        source: std::io::Error,
    },
    /// No driver took the device.
    #[error("device {device}: {reason}")]
    Probe {
        /// The device string.
        device: String,
        /// DPDK's reason.
        reason: Reason,
    },
    /// The device has no port (it is of another class, or its driver made none).
    #[error("device {device}: its driver made no Ethernet port")]
    NoPort {
        /// The device string.
        device: String,
    },
    /// The device is open already.
    #[error("device {device} is already open")]
    InUse {
        /// The device string.
        device: String,
    },
    /// An operation on a port failed.
    #[error("port {device}: {operation}: {reason}")]
    Port {
        /// The device's name.
        device: String,
        /// What was being done.
        operation: &'static str,
        /// DPDK's reason.
        reason: Reason,
    },
    /// The device has fewer queues than asked for.
    #[error("port {device} ({driver}) has {max} {direction} queue(s), {wanted} are needed: {remedy}")]
    Queues {
        /// The device's name.
        device: String,
        /// Its driver.
        driver: String,
        /// "rx" or "tx".
        direction: &'static str,
        /// The number asked for.
        wanted: u16,
        /// The number the device has.
        max: u16,
        /// What to change.
        remedy: &'static str,
    },
    /// The MTU is outside what the device supports.
    #[error("port {device}: MTU {mtu} is outside {min} to {max}")]
    Mtu {
        /// The device's name.
        device: String,
        /// The MTU asked for, bytes.
        mtu: u16,
        /// The smallest the device supports.
        min: u16,
        /// The largest the device supports.
        max: u16,
    },
    /// A frame of this MTU does not fit one buffer, and the driver cannot chain buffers.
    #[error(
        "port {device} ({driver}) cannot chain buffers: MTU {mtu} needs a data room of {needed} bytes, the pool's is {room}"
    )]
    DataRoom {
        /// The device's name.
        device: String,
        /// Its driver.
        driver: String,
        /// The MTU, bytes.
        mtu: u16,
        /// The data room needed, bytes.
        needed: usize,
        /// The pool's data room, bytes.
        room: usize,
    },
    /// A frame of this MTU does not fit a frame of the device's ring, and would be cut.
    #[error(
        "port {device}: MTU {mtu} needs ring frames of {needed} bytes, they have {frame}: add framesz=N, and blocksz=N"
    )]
    FrameSize {
        /// The device's name.
        device: String,
        /// The MTU asked for, bytes.
        mtu: u16,
        /// The frame size needed, bytes.
        needed: usize,
        /// The frame size, bytes.
        frame: usize,
    },
    /// The pool has too few free buffers for the driver to start with.
    #[error(
        "port {device} ({driver}) takes {needed} buffers to start with, mempool {pool} has {available} free: make it larger"
    )]
    Buffers {
        /// The device's name.
        device: String,
        /// Its driver.
        driver: String,
        /// The pool.
        pool: String,
        /// The buffers needed.
        needed: u32,
        /// The buffers free.
        available: u32,
    },
    /// The port is not in the right state for this.
    #[error("port {device}: {problem}")]
    State {
        /// The device's name.
        device: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The lcore is not one of the EAL's workers.
    #[error("{0} is not a worker lcore of this EAL; list it among the workers")]
    NotWorker(LcoreId),
    /// The lcore still runs something.
    #[error("{0} is busy")]
    LcoreBusy(LcoreId),
    /// What ran on the lcore panicked.
    #[error("{lcore} panicked: {message}")]
    LcorePanic {
        /// The lcore.
        lcore: LcoreId,
        /// The panic's message.
        message: String,
    },
    /// The thread could not be registered with DPDK.
    #[error("registering a thread with DPDK: {0}")]
    RegisterThread(Reason),
}

/// DPDK's reason for a failure: an errno and what it logged while failing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The errno, positive; 0 if DPDK gave none.
    pub errno: i32,
    /// The lines DPDK logged in the failing call, oldest first.
    pub log: Vec<String>,
}

impl Reason {
    /// Runs a DPDK call that returns 0 or more on success and a negative errno, or -1 and `rte_errno`, on failure.
    pub(crate) fn check(call: impl FnOnce() -> i32) -> Result<i32, Reason> {
        clear_errno();
        let (result, lines) = log::capture(call, |&code| code < 0);
        match result {
            // Drivers also return -1 and set nothing; EPERM comes with a log line, or as rte_errno.
            -1 => Err(Reason { errno: errno(), log: lines }),
            code if code < 0 => Err(Reason { errno: -code, log: lines }),
            code => Ok(code),
        }
    }

    /// Runs a DPDK call that returns NULL and sets `rte_errno` on failure.
    pub(crate) fn check_ptr<T>(call: impl FnOnce() -> *mut T) -> Result<std::ptr::NonNull<T>, Reason> {
        clear_errno();
        let (pointer, lines) = log::capture(call, |pointer| pointer.is_null());
        std::ptr::NonNull::new(pointer).ok_or_else(|| Reason { errno: errno(), log: lines })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.errno {
            0 => "DPDK gave no error number".into(),
            errno => strerror(errno),
        };
        f.write_str(&text)?;
        for line in &self.log {
            write!(f, "; {line}")?;
        }
        Ok(())
    }
}

/// The thread's `rte_errno`, positive.
fn errno() -> i32 {
    // SAFETY: reads a thread-local variable of DPDK's.
    unsafe { sys::shim_errno() }
}

fn clear_errno() {
    // SAFETY: writes a thread-local variable of DPDK's.
    unsafe { sys::shim_clear_errno() }
}

fn strerror(errno: i32) -> String {
    // SAFETY: rte_strerror returns a NUL-terminated string in static or thread-local memory; it is copied at once.
    unsafe { CStr::from_ptr(sys::rte_strerror(errno)) }.to_string_lossy().into_owned()
}
