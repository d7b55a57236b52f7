use std::{
    ffi::c_void,
    sync::Arc,
    sync::atomic::{AtomicPtr, Ordering},
};

use arrayvec::ArrayVec;
use dpdk_sys as sys;

use super::{Inner, PortId, setup::Configured};
use crate::{Mbuf, Mempool};

/// A queue of a port, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u16);

/// A receive queue of a started port. It may be sent to a thread; only one can poll it.
#[derive(Debug)]
pub struct RxQueue {
    handle: Handle,
}

/// A transmit queue of a started port. It may be sent to a thread; only one can fill it.
#[derive(Debug)]
pub struct TxQueue {
    handle: Handle,
    linear: bool,
}

#[derive(Debug)]
struct Handle {
    port: u16,
    queue: u16,
    /// Keeps the port open and started.
    _port: Arc<Inner>,
    /// The pool the port receives into.
    pool: Mempool,
}

impl RxQueue {
    /// The port is started and the queue set up, and not handed out to anyone else.
    pub(super) fn new(port: &Arc<Inner>, queue: u16, setup: &Configured) -> Self {
        Self { handle: Handle::new(port, queue, &setup.pool) }
    }

    /// The port.
    pub fn port(&self) -> PortId {
        PortId(self.handle.port)
    }

    /// The queue's number.
    pub fn queue(&self) -> QueueId {
        QueueId(self.handle.queue)
    }

    /// Appends the packets that have arrived, as many as there is room for, to `out`; returns how many. Never waits.
    #[inline]
    pub fn rx_burst<const N: usize>(&mut self, out: &mut ArrayVec<Mbuf, N>) -> usize {
        let len = out.len();
        let room = (N - len).min(usize::from(u16::MAX)) as u16;
        if room == 0 {
            return 0;
        }
        let Handle { port, queue, .. } = self.handle;
        // SAFETY: the port is started and the queue set up as long as this handle lives, so its function and data are there;
        // `&mut self` makes this the only poll of it. The driver writes at most `room` owned mbufs to the `room` free slots
        // behind `len`, an Mbuf being one pointer, and returns how many.
        unsafe {
            let ops = ops(port);
            let slots = out.as_mut_ptr().add(len).cast::<*mut sys::rte_mbuf>();
            let Some(receive) = (*ops).rx_pkt_burst else { return 0 };
            let mut count = receive(*(*ops).rxq.data.add(usize::from(queue)), slots, room);
            let callbacks = callbacks((*ops).rxq.clbk, queue);
            if !callbacks.is_null() {
                count = sys::rte_eth_call_rx_callbacks(port, queue, slots, count, room, callbacks);
            }
            out.set_len(len + usize::from(count));
            usize::from(count)
        }
    }
}

impl TxQueue {
    /// As [`RxQueue::new`].
    pub(super) fn new(port: &Arc<Inner>, queue: u16, setup: &Configured) -> Self {
        Self { handle: Handle::new(port, queue, &setup.pool), linear: setup.linear_tx }
    }

    /// The port.
    pub fn port(&self) -> PortId {
        PortId(self.handle.port)
    }

    /// The queue's number.
    pub fn queue(&self) -> QueueId {
        QueueId(self.handle.queue)
    }

    /// Sends from the front of `packets` as many as the queue takes, and returns how many; the others move to the front.
    /// Never waits.
    ///
    /// For a driver that cannot send chains or clones (net_af_xdp) they are copied into one buffer; those larger than one
    /// stay, behind all others.
    #[inline]
    pub fn tx_burst<const N: usize>(&mut self, packets: &mut ArrayVec<Mbuf, N>) -> usize {
        let len = packets.len();
        let sendable = if self.linear { self.make_linear(packets) } else { len };
        let offered = sendable.min(usize::from(u16::MAX)) as u16;
        if offered == 0 {
            return 0;
        }
        let Handle { port, queue, .. } = self.handle;
        // SAFETY: the port is started and the queue set up as long as this handle lives, so its function and data are there;
        // `&mut self` makes this the only use of it. The driver takes the first `sent` of the `offered` mbufs; the vector
        // forgets those and keeps the others.
        unsafe {
            let ops = ops(port);
            let slots = packets.as_mut_ptr();
            let raw = slots.cast::<*mut sys::rte_mbuf>();
            let Some(send) = (*ops).tx_pkt_burst else { return 0 };
            let callbacks = callbacks((*ops).txq.clbk, queue);
            let mut offered = offered;
            if !callbacks.is_null() {
                offered = sys::rte_eth_call_tx_callbacks(port, queue, raw, offered, callbacks);
            }
            let sent = usize::from(send(*(*ops).txq.data.add(usize::from(queue)), raw, offered));
            if sent < len {
                std::ptr::copy(slots.add(sent), slots, len - sent);
            }
            packets.set_len(len - sent);
            sent
        }
    }
}

impl TxQueue {
    /// Moves what a driver for single, direct buffers can send to the front, copied where it takes a copy; returns how many.
    fn make_linear<const N: usize>(&self, packets: &mut ArrayVec<Mbuf, N>) -> usize {
        let mut sendable = 0;
        for at in 0..packets.len() {
            let Some(packet) = packets.get_mut(at) else { break };
            if !self.is_linear(packet) {
                let fits = packet.pkt_len() <= usize::from(self.handle.pool.data_room());
                match fits.then(|| Mbuf::copy_from(&self.handle.pool, packet)).flatten() {
                    Some(copy) => *packet = copy,
                    None => continue,
                }
            }
            packets.swap(sendable, at);
            sendable += 1;
        }
        sendable
    }

    /// One direct buffer, of the port's pool or no larger than its buffers: the driver copies others without a look at the room.
    fn is_linear(&self, packet: &Mbuf) -> bool {
        let room = usize::from(self.handle.pool.data_room());
        packet.nb_segs() == 1
            && packet.is_direct()
            && (packet.is_of(&self.handle.pool) || packet.pkt_len() <= room)
    }
}

impl Handle {
    fn new(port: &Arc<Inner>, queue: u16, pool: &Mempool) -> Self {
        Self { port: port.id, queue, _port: port.clone(), pool: pool.clone() }
    }
}

/// The port's functions. A burst goes straight through them, as `rte_eth_rx_burst` does in C, to save the shim's call.
#[inline]
fn ops(port: u16) -> *const sys::rte_eth_fp_ops {
    (&raw const sys::rte_eth_fp_ops).cast::<sys::rte_eth_fp_ops>().wrapping_add(usize::from(port))
}

/// The queue's first callback (packet capture sets some).
///
/// # Safety
/// `table` is a started port's, and has the queue.
#[inline]
unsafe fn callbacks(table: *mut *mut c_void, queue: u16) -> *mut c_void {
    // SAFETY: promised by the caller; other threads store to the entry atomically.
    unsafe { AtomicPtr::from_ptr(table.add(usize::from(queue))).load(Ordering::Relaxed) }
}
