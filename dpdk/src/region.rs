use std::{ffi::c_void, ptr::NonNull, slice};

use dpdk_sys as sys;

use crate::{Eal, Error, SocketId};

/// A zeroed piece of DPDK's heap: on hugepages where the EAL has them. Freed when dropped.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    bytes: usize,
    _eal: Eal,
}

// SAFETY: the region is plain memory that this value alone owns; access follows Rust's borrows.
unsafe impl Send for Region {}
// SAFETY: as above: shared access only reads.
unsafe impl Sync for Region {}

impl Region {
    /// Takes `bytes` bytes, aligned to `align` (a power of two; 0 or less than a cache line: a cache line).
    pub fn zeroed(eal: &Eal, bytes: usize, align: u32, socket: SocketId) -> Result<Self, Error> {
        let unavailable = Error::Memory { bytes, socket };
        if bytes == 0 || (align != 0 && !align.is_power_of_two()) {
            return Err(unavailable);
        }
        // SAFETY: the EAL is initialised; DPDK accepts a NULL type, and returns NULL or `bytes` zeroed bytes.
        let start = unsafe { sys::rte_zmalloc_socket(std::ptr::null(), bytes, align, socket.0) };
        let start = NonNull::new(start.cast::<u8>()).ok_or(unavailable)?;
        Ok(Self { start, bytes, _eal: eal.clone() })
    }

    /// The region's first byte; valid while the region lives.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl std::ops::Deref for Region {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `bytes` initialised bytes start there, owned by self.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl std::ops::DerefMut for Region {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the memory came from rte_zmalloc_socket and is freed once; `_eal` keeps the heap alive until after this.
        unsafe { sys::rte_free(self.start.as_ptr().cast::<c_void>()) };
    }
}
