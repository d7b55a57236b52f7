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

    /// Appends the packets that have arrived, as many as there is room for, to `out`; returns how many. Never waits. `M` is
    /// [`Mbuf`], or what wraps one and has nothing else.
    #[inline]
    pub fn rx_burst<M: From<Mbuf>, const N: usize>(&mut self, out: &mut ArrayVec<M, N>) -> usize {
        const { assert_wraps::<M>() };
        let len = out.len();
        let room = (N - len).min(usize::from(u16::MAX)) as u16;
        if room == 0 {
            return 0;
        }
        let Handle { port, queue, .. } = self.handle;
        // SAFETY: the port is started and the queue set up as long as this handle lives, so its function and data are there;
        // `&mut self` makes this the only poll of it. The driver writes at most `room` owned mbufs to the `room` free slots
        // behind `len`, a slot being as large as an Mbuf, which is one pointer, and returns how many. Each is made an M before
        // it counts: if that panics, the others are lost.
        unsafe {
            let ops = ops(port);
            let free = out.as_mut_ptr().add(len);
            let slots = free.cast::<*mut sys::rte_mbuf>();
            let Some(receive) = (*ops).rx_pkt_burst else { return 0 };
            let mut count = receive(*(*ops).rxq.data.add(usize::from(queue)), slots, room);
            let callbacks = callbacks((*ops).rxq.clbk, queue);
            if !callbacks.is_null() {
                count = sys::rte_eth_call_rx_callbacks(port, queue, slots, count, room, callbacks);
            }
            let count = usize::from(count);
            wrap::<M>(free, count);
            out.set_len(len + count);
            count
        }
    }
}

/// That an M in place of an Mbuf takes no more and no less.
const fn assert_wraps<M>() {
    assert!(size_of::<M>() == size_of::<Mbuf>() && align_of::<M>() == align_of::<Mbuf>());
}

/// Makes Ms of the mbufs that are in their places.
///
/// # Safety
/// At `at` there are `count` Mbufs, owned by nobody else, in places for Ms, which are as large; the caller looks at none of them
/// unless this returns.
#[inline]
unsafe fn wrap<M: From<Mbuf>>(at: *mut M, count: usize) {
    for place in 0..count {
        // SAFETY: promised by the caller; what is read is written over or, if `from` panics, never looked at again.
        unsafe {
            let at = at.add(place);
            at.write(M::from(at.cast::<Mbuf>().read()));
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
    /// Never waits. `M` is [`Mbuf`], or what wraps one and has nothing else.
    ///
    /// For a driver that cannot send chains or clones (net_af_xdp) they are copied into one buffer; those larger than one
    /// stay, behind all others.
    #[inline]
    pub fn tx_burst<M: From<Mbuf> + Into<Mbuf>, const N: usize>(
        &mut self,
        packets: &mut ArrayVec<M, N>,
    ) -> usize {
        const { assert_wraps::<M>() };
        let len = packets.len();
        if len == 0 {
            return 0;
        }
        let Handle { port, queue, .. } = self.handle;
        // SAFETY: the vector forgets its first `len` items, which are initialised, so that nobody else has them; each is made
        // the Mbuf it wraps, in its own place, which is as large. If that panics, they are lost.
        let (slots, mbufs) = unsafe {
            packets.set_len(0);
            let slots = packets.as_mut_ptr();
            for place in 0..len {
                let at = slots.add(place);
                at.cast::<Mbuf>().write(at.read().into());
            }
            (slots, std::slice::from_raw_parts_mut(slots.cast::<Mbuf>(), len))
        };
        let sendable = if self.linear { self.make_linear(mbufs) } else { len };
        let mut offered = sendable.min(usize::from(u16::MAX)) as u16;
        // SAFETY: the port is started and the queue set up as long as this handle lives, so its function and data are there;
        // `&mut self` makes this the only use of it. The driver takes the first `sent` of the `offered` mbufs; the others
        // move to the front, are made Ms again, and are the vector's.
        unsafe {
            let raw = slots.cast::<*mut sys::rte_mbuf>();
            let ops = ops(port);
            let mut sent = 0;
            if offered > 0
                && let Some(send) = (*ops).tx_pkt_burst
            {
                let callbacks = callbacks((*ops).txq.clbk, queue);
                if !callbacks.is_null() {
                    offered = sys::rte_eth_call_tx_callbacks(port, queue, raw, offered, callbacks);
                }
                sent = usize::from(send(*(*ops).txq.data.add(usize::from(queue)), raw, offered));
            }
            if sent < len {
                std::ptr::copy(slots.add(sent), slots, len - sent);
                wrap::<M>(slots, len - sent);
            }
            packets.set_len(len - sent);
            sent
        }
    }
}

impl TxQueue {
    /// Moves what a driver for single, direct buffers can send to the front, copied where it takes a copy; returns how many.
    fn make_linear(&self, packets: &mut [Mbuf]) -> usize {
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
