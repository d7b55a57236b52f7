use std::{ptr::NonNull, sync::Arc};

use arrayvec::ArrayVec;
use dpdk_sys as sys;

use crate::{Eal, Error, Mbuf, Reason, SocketId, eal::c_string};

/// Who may use a ring's ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingMode {
    /// One producer and one consumer at a time: the fastest.
    Single,
    /// Any number: [`Producer::try_clone`] and [`Consumer::try_clone`] give more of them.
    Multi,
}

/// Makes a ring of packets: a lock-free queue from [`Producer`]s to [`Consumer`]s. `name` is unique in the process, at most
/// 28 bytes; `size` is a power of two, one more than what the ring holds. Packets left in it are freed with it.
pub fn ring(
    eal: &Eal,
    name: &str,
    size: u32,
    mode: RingMode,
    socket: SocketId,
) -> Result<(Producer, Consumer), Error> {
    let c_name = c_string(name)?;
    let flags = match mode {
        RingMode::Single => sys::SHIM_RING_F_SP_ENQ | sys::SHIM_RING_F_SC_DEQ,
        RingMode::Multi => 0,
    };
    // SAFETY: the EAL is initialised, the name is NUL-terminated; DPDK checks the rest and returns NULL.
    let ring = Reason::check_ptr(|| unsafe { sys::rte_ring_create(c_name.as_ptr(), size, socket.0, flags) })
        .map_err(|reason| Error::Ring { name: name.into(), reason })?;
    let ring = Arc::new(Ring { ring, mode, _eal: eal.clone() });
    Ok((Producer { ring: ring.clone() }, Consumer { ring }))
}

#[derive(Debug)]
struct Ring {
    ring: NonNull<sys::rte_ring>,
    mode: RingMode,
    _eal: Eal,
}

// SAFETY: an rte_ring may be used from any thread, by as many at each end as its mode allows, which the ends see to.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    fn len(&self) -> usize {
        // SAFETY: the ring is alive.
        unsafe { sys::shim_ring_count(self.ring.as_ptr()) as usize }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut object = std::ptr::null_mut();
        // SAFETY: without ends nobody else uses the ring; what is in it are mbufs that it owns.
        unsafe {
            while sys::shim_ring_dequeue_burst(self.ring.as_ptr(), &mut object, 1) == 1 {
                sys::shim_pktmbuf_free(object.cast());
            }
            sys::rte_ring_free(self.ring.as_ptr());
        }
    }
}

/// The end of a [`ring`] where packets go in.
#[derive(Debug)]
pub struct Producer {
    ring: Arc<Ring>,
}

impl Producer {
    /// Puts in from the front of `packets` as many as there is room for; the others move to the front. Returns how many.
    #[inline]
    pub fn enqueue_burst<const N: usize>(&mut self, packets: &mut ArrayVec<Mbuf, N>) -> usize {
        let len = packets.len();
        // SAFETY: the ring is alive and used by one thread at this end, or made for several. It takes over the first `taken`
        // of `len` mbufs, an Mbuf being one pointer; the vector forgets those and keeps the others.
        unsafe {
            let slots = packets.as_mut_ptr();
            let taken =
                sys::shim_ring_enqueue_burst(self.as_ptr(), slots.cast_const().cast(), len as u32) as usize;
            if taken < len {
                std::ptr::copy(slots.add(taken), slots, len - taken);
            }
            packets.set_len(len - taken);
            taken
        }
    }

    /// Puts in all of `packets` or, if there is no room for them, none (and false).
    #[inline]
    pub fn enqueue_bulk<const N: usize>(&mut self, packets: &mut ArrayVec<Mbuf, N>) -> bool {
        // SAFETY: as in `enqueue_burst`, all or none of them.
        unsafe {
            let slots = packets.as_mut_ptr().cast_const().cast();
            let taken = sys::shim_ring_enqueue_bulk(self.as_ptr(), slots, packets.len() as u32) as usize;
            let all = taken == packets.len();
            if all {
                packets.set_len(0);
            }
            all
        }
    }

    /// Another producer; None if the ring is made for one.
    pub fn try_clone(&self) -> Option<Self> {
        (self.ring.mode == RingMode::Multi).then(|| Self { ring: self.ring.clone() })
    }

    /// Packets in the ring.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most packets it holds.
    pub fn capacity(&self) -> usize {
        // SAFETY: the ring is alive.
        unsafe { sys::shim_ring_capacity(self.as_ptr()) as usize }
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::rte_ring {
        self.ring.ring.as_ptr()
    }
}

/// The end of a [`ring`] where packets come out.
#[derive(Debug)]
pub struct Consumer {
    ring: Arc<Ring>,
}

impl Consumer {
    /// Appends packets to `out`, as many as there are and as there is room for; returns how many.
    #[inline]
    pub fn dequeue_burst<const N: usize>(&mut self, out: &mut ArrayVec<Mbuf, N>) -> usize {
        let len = out.len();
        // SAFETY: the ring is alive and used by one thread at this end, or made for several. It gives up to as many owned
        // mbufs as there are free slots behind `len`, an Mbuf being one pointer.
        unsafe {
            let slots = out.as_mut_ptr().add(len).cast();
            let count = sys::shim_ring_dequeue_burst(self.as_ptr(), slots, (N - len) as u32) as usize;
            out.set_len(len + count);
            count
        }
    }

    /// Appends exactly `count` packets to `out` or, if there are not as many or there is no room, none (and false).
    #[inline]
    pub fn dequeue_bulk<const N: usize>(&mut self, count: usize, out: &mut ArrayVec<Mbuf, N>) -> bool {
        let len = out.len();
        if count > N - len {
            return false;
        }
        // SAFETY: as in `dequeue_burst`, `count` of them or none.
        unsafe {
            let slots = out.as_mut_ptr().add(len).cast();
            let got = sys::shim_ring_dequeue_bulk(self.as_ptr(), slots, count as u32) as usize;
            out.set_len(len + got);
            got == count
        }
    }

    /// Another consumer; None if the ring is made for one.
    pub fn try_clone(&self) -> Option<Self> {
        (self.ring.mode == RingMode::Multi).then(|| Self { ring: self.ring.clone() })
    }

    /// Packets in the ring.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::rte_ring {
        self.ring.ring.as_ptr()
    }
}
