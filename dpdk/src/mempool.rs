use std::{ptr::NonNull, sync::Arc};

use arrayvec::ArrayVec;
use dpdk_sys as sys;

use crate::{Eal, Error, Mbuf, Reason, SocketId, eal::c_string};

/// How a [`Mempool`] is made.
#[derive(Debug, Clone, Copy)]
pub struct PoolOptions<'a> {
    /// A name unique in the process, at most 25 bytes.
    pub name: &'a str,
    /// Buffers in the pool. A power of two minus one uses memory best.
    pub count: u32,
    /// Buffers each lcore may keep in a cache of its own: at most 512, and at most two thirds of `count`.
    pub cache: u32,
    /// Packet bytes a buffer takes, headroom (128 bytes) not counted.
    pub data_room: u16,
    /// Where the memory is.
    pub socket: SocketId,
}

impl Default for PoolOptions<'_> {
    /// 8191 buffers of 2048 bytes, 256 cached per lcore.
    fn default() -> Self {
        Self { name: "mbufs", count: 8191, cache: 256, data_room: 2048, socket: SocketId::ANY }
    }
}

/// A pool of packet buffers. Clones are handles to the same pool; any thread may use it.
///
/// It is freed when the last handle goes, ports' included, if all its buffers are back. If some are not, it is left to the
/// end of the process, and so is DPDK. (net_af_xdp of DPDK 22.11 keeps the buffers in its fill ring, 2048 for each queue, when
/// it is closed.)
#[derive(Debug, Clone)]
pub struct Mempool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: NonNull<sys::rte_mempool>,
    name: String,
    data_room: u16,
    /// None only while dropping.
    eal: Option<Eal>,
}

// SAFETY: an rte_mempool made by rte_pktmbuf_pool_create is multi-producer and multi-consumer; its per-lcore caches are picked
// by a thread-local number that no two threads share.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Mempool {
    /// Makes a pool.
    pub fn new(eal: &Eal, options: &PoolOptions<'_>) -> Result<Self, Error> {
        let name = c_string(options.name)?;
        let room = u32::from(options.data_room) + sys::SHIM_PKTMBUF_HEADROOM;
        let failed = |reason| Error::Mempool { name: options.name.into(), count: options.count, reason };
        let room = u16::try_from(room).map_err(|_| {
            failed(Reason {
                errno: libc::EINVAL,
                log: vec!["data room plus headroom is over 65535 bytes".into()],
            })
        })?;
        let pool = Reason::check_ptr(|| {
            // SAFETY: the EAL is initialised, the name is NUL-terminated; DPDK checks the rest and returns NULL.
            unsafe {
                sys::rte_pktmbuf_pool_create(
                    name.as_ptr(),
                    options.count,
                    options.cache,
                    0,
                    room,
                    options.socket.0,
                )
            }
        })
        .map_err(failed)?;
        let inner =
            Inner { pool, name: options.name.into(), data_room: options.data_room, eal: Some(eal.clone()) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Packet bytes a fresh buffer takes.
    pub fn data_room(&self) -> u16 {
        self.inner.data_room
    }

    /// Buffers in the pool, in use or not.
    pub fn capacity(&self) -> u32 {
        // SAFETY: the pool is alive; its size does not change.
        unsafe { (*self.as_ptr()).size }
    }

    /// Buffers free, those in lcores' caches included. Exact while no other thread uses the pool.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool is alive.
        unsafe { sys::rte_mempool_avail_count(self.as_ptr()) }
    }

    /// Buffers in use: held as [`Mbuf`]s or by ports. Exact while no other thread uses the pool.
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool is alive.
        unsafe { sys::rte_mempool_in_use_count(self.as_ptr()) }
    }

    /// Takes an empty buffer; None if there is none left.
    #[inline]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool is alive. The buffer is new, so this is its only owner.
        unsafe { Some(Mbuf::from_raw(NonNull::new(sys::shim_pktmbuf_alloc(self.as_ptr()))?)) }
    }

    /// Appends `count` empty buffers to `out`; all or, if the pool or `out` has not as many, none (and false).
    #[inline]
    #[must_use]
    pub fn alloc_bulk<const N: usize>(&self, count: usize, out: &mut ArrayVec<Mbuf, N>) -> bool {
        let len = out.len();
        if count > N - len {
            return false;
        }
        // SAFETY: `count` slots are free behind `len`, an Mbuf is one pointer, and DPDK fills all of them or fails.
        unsafe {
            let slots = out.as_mut_ptr().add(len).cast::<*mut sys::rte_mbuf>();
            if sys::shim_pktmbuf_alloc_bulk(self.as_ptr(), slots, count as u32) != 0 {
                return false;
            }
            out.set_len(len + count);
        }
        true
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.inner.pool.as_ptr()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: the pool is alive, and without handles nobody takes buffers any more.
        if unsafe { sys::rte_mempool_in_use_count(self.pool.as_ptr()) } == 0 {
            // SAFETY: all buffers are back and no handle is left, so nothing points into the pool.
            unsafe { sys::rte_mempool_free(self.pool.as_ptr()) };
        } else {
            // Buffers are still out and hold no handle: neither the pool nor DPDK may go.
            std::mem::forget(self.eal.take());
        }
    }
}
