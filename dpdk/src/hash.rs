use std::{ffi::c_void, ptr::NonNull};

use arrayvec::ArrayVec;
use dpdk_sys as sys;

use crate::{Eal, Error, Reason, SocketId, eal::c_string};

/// Keys that [`HashTable::lookup_bulk`] takes at once, at most.
pub const HASH_BULK: usize = sys::SHIM_HASH_LOOKUP_BULK_MAX as usize;

const KEY_BYTES: usize = 16;

/// How a [`HashTable`] is made.
#[derive(Debug, Clone, Copy)]
pub struct HashOptions<'a> {
    /// A name unique in the process, at most 25 bytes.
    pub name: &'a str,
    /// Keys it can hold at most. Buckets are made for the next power of two; a few percent before they are full, keys begin to
    /// be refused.
    pub entries: u32,
    /// Lookups as they have to be where another thread writes meanwhile, without a lock. (This table does not let another
    /// thread write: it is for measuring what such lookups cost.)
    pub lock_free: bool,
    /// Where the memory is.
    pub socket: SocketId,
}

impl Default for HashOptions<'_> {
    /// 1024 entries, readers and writer in turn.
    fn default() -> Self {
        Self { name: "hash", entries: 1024, lock_free: false, socket: SocketId::ANY }
    }
}

/// DPDK's `rte_hash`: a cuckoo hash from keys of 16 bytes to positions that count from 0, for arrays of the user's own. Its hash
/// function is the default one: CRC32 where the processor has it, Jenkins' otherwise.
#[derive(Debug)]
pub struct HashTable {
    hash: NonNull<sys::rte_hash>,
    _eal: Eal,
}

// SAFETY: an rte_hash is memory that no thread has a share in but by this value.
unsafe impl Send for HashTable {}
// SAFETY: shared access only looks up, which any number of threads may do while none writes; writing takes `&mut self`.
unsafe impl Sync for HashTable {}

impl HashTable {
    /// Makes an empty one.
    pub fn new(eal: &Eal, options: &HashOptions<'_>) -> Result<Self, Error> {
        let name = c_string(options.name)?;
        let parameters = sys::rte_hash_parameters {
            name: name.as_ptr(),
            entries: options.entries,
            key_len: KEY_BYTES as u32,
            socket_id: options.socket.0,
            extra_flag: if options.lock_free { sys::SHIM_HASH_RW_CONCURRENCY_LF } else { 0 },
            ..sys::rte_hash_parameters::default()
        };
        // SAFETY: the EAL is initialised; the parameters and the name, NUL-terminated, live for the call, which copies them.
        let hash = Reason::check_ptr(|| unsafe { sys::rte_hash_create(&parameters) })
            .map_err(|reason| Error::Hash { name: options.name.into(), entries: options.entries, reason })?;
        Ok(Self { hash, _eal: eal.clone() })
    }

    /// Puts a key in: its position, below the number of entries. None if there is no room. A key that is there keeps its
    /// position.
    pub fn insert(&mut self, key: &[u8; KEY_BYTES]) -> Option<u32> {
        // SAFETY: the table is alive and, borrowed mutably, used by nobody else; the key has the table's key length.
        let position = unsafe { sys::rte_hash_add_key(self.hash.as_ptr(), key.as_ptr().cast()) };
        u32::try_from(position).ok()
    }

    /// The positions of `keys`, in their order: negative for a key that is not there. Keys beyond [`HASH_BULK`] are not looked
    /// up, nor those beyond the length of `positions`; returns how many were.
    #[inline]
    pub fn lookup_bulk(&self, keys: &[[u8; KEY_BYTES]], positions: &mut [i32]) -> usize {
        let count = keys.len().min(positions.len()).min(HASH_BULK);
        if count == 0 {
            return 0;
        }
        let mut pointers: ArrayVec<*const c_void, HASH_BULK> =
            keys[..count].iter().map(|key| key.as_ptr().cast()).collect();
        // SAFETY: the table is alive and nobody writes to it, which would take `&mut self`; `count` of both arrays are there, and
        // DPDK wants 1 to HASH_BULK of them; each pointer is to a key of the table's key length.
        unsafe {
            sys::rte_hash_lookup_bulk(
                self.hash.as_ptr(),
                pointers.as_mut_ptr(),
                count as u32,
                positions.as_mut_ptr(),
            )
        };
        count
    }
}

impl Drop for HashTable {
    fn drop(&mut self) {
        // SAFETY: made by rte_hash_create, freed once, and nobody else has it.
        unsafe { sys::rte_hash_free(self.hash.as_ptr()) };
    }
}
