//! A safe layer over DPDK: the environment, packet buffers and their pools, ports and their queues, lcores.
//!
//! ```no_run
//! use arrayvec::ArrayVec;
//! use dpdk::{Eal, EalOptions, Mbuf, Mempool, PoolOptions, Port, PortOptions};
//!
//! let eal = Eal::init(&EalOptions { hugepages: false, ..EalOptions::default() })?;
//! let pool = Mempool::new(&eal, &PoolOptions { name: "rx", count: 8191, ..PoolOptions::default() })?;
//! let mut port = Port::open(&eal, "net_null0,size=64")?;
//! port.configure(&PortOptions::default(), &pool)?;
//! let (mut rx, mut tx) = port.start()?;
//! let mut burst = ArrayVec::<Mbuf, 32>::new();
//! rx[0].rx_burst(&mut burst);
//! let sent = tx[0].tx_burst(&mut burst);
//! println!("{sent} packets sent, {} kept", burst.len());
//! # Ok::<(), dpdk::Error>(())
//! ```
//!
//! # Ownership
//!
//! Everything that uses DPDK's memory keeps the [`Eal`] alive, and DPDK is shut down when the last of it is dropped. An
//! [`Mbuf`] has one owner. It holds no reference to its pool, so that it stays one pointer wide: a pool dropped while some of
//! its buffers are still out is not freed, and DPDK then stays up until the process ends.
//!
//! # Threads
//!
//! [`Mempool`], [`Port`] and [`Eal`] may be used from any thread; queues and buffers may be sent to one. A thread that is
//! neither the main lcore nor a worker lcore works without a mempool cache, slowly, unless it calls [`register_thread`].

#![expect(unsafe_code, reason = "this crate is where DPDK's C interface is made safe")]

mod error;
mod log;
mod options;
mod eal;
mod lcore;
mod numa;
mod mempool;
mod mbuf;
mod port;
mod ring;
mod hash;
mod memif;
mod tsc;

pub use eal::Eal;
pub use error::{Error, Reason};
pub use hash::{HASH_BULK, HashOptions, HashTable};
pub use lcore::{LcoreHandle, LcoreId, SocketId, ThreadRegistration, current_lcore, register_thread};
pub use log::set_log_sink;
pub use mbuf::{Mbuf, Segments, free_burst};
pub use memif::{MEMIF_BURST, Memif, MemifError, MemifOptions};
pub use mempool::{Mempool, PoolOptions};
pub use numa::prefer_memory;
pub use options::EalOptions;
pub use port::{
    Capabilities, Link, MacAddr, Port, PortId, PortOptions, PortStats, QueueId, RxQueue, TxQueue,
};
pub use ring::{Consumer, Producer, RingMode, ring};
pub use tsc::{tsc, tsc_hz};

/// DPDK's version, as it names itself ("DPDK 22.11.7").
pub fn version() -> String {
    // SAFETY: rte_version returns a pointer to a static, NUL-terminated string, and needs no initialised EAL.
    unsafe { std::ffi::CStr::from_ptr(dpdk_sys::rte_version()) }.to_string_lossy().into_owned()
}
