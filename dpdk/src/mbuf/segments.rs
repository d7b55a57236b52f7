//! What is done to single segments, by raw pointer: the next segment is reached through them, and other threads may change
//! the count of a segment's owners, so that a reference to a whole `rte_mbuf` would claim too much.

use std::{iter::FusedIterator, marker::PhantomData};

use super::*;

/// The bytes of a packet's segments, in order. See [`Mbuf::segments`].
#[derive(Debug, Clone)]
pub struct Segments<'a> {
    next: *mut sys::rte_mbuf,
    _packet: PhantomData<&'a Mbuf>,
}

impl Segments<'_> {
    pub(super) fn new(packet: &Mbuf) -> Self {
        Self { next: packet.as_ptr(), _packet: PhantomData }
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.next.is_null() {
            return None;
        }
        // SAFETY: a segment of a well-formed chain, which the packet's borrow keeps alive and unchanged.
        unsafe {
            let bytes = data(self.next);
            self.next = (*self.next).next;
            Some(bytes)
        }
    }
}

impl FusedIterator for Segments<'_> {}

/// # Safety
/// The segment is alive and its data is not written for `'a`.
#[inline]
pub(super) unsafe fn data<'a>(segment: *mut sys::rte_mbuf) -> &'a [u8] {
    // SAFETY: DPDK and this module keep data_off + data_len within buf_len; pool memory is initialised (mapped zeroed).
    unsafe {
        let start = (*segment).buf_addr.cast::<u8>().add(usize::from((*segment).data_off));
        std::slice::from_raw_parts(start, usize::from((*segment).data_len))
    }
}

/// # Safety
/// As for [`data`]; `len` is at most the segment's, and nothing else reads or writes its first `len` bytes for `'a`.
#[inline]
pub(super) unsafe fn data_mut<'a>(segment: *mut sys::rte_mbuf, len: usize) -> &'a mut [u8] {
    // SAFETY: as in `data`; a buffer's address is never 0.
    unsafe {
        let start = (*segment).buf_addr.cast::<u8>().add(usize::from((*segment).data_off));
        std::hint::assert_unchecked(!start.is_null());
        std::slice::from_raw_parts_mut(start, len)
    }
}

/// # Safety
/// The segment is alive.
#[inline]
pub(super) unsafe fn tailroom(segment: *mut sys::rte_mbuf) -> usize {
    // SAFETY: promised by the caller.
    let (size, start, len) = unsafe { ((*segment).buf_len, (*segment).data_off, (*segment).data_len) };
    usize::from(size).saturating_sub(usize::from(start) + usize::from(len))
}

/// # Safety
/// `first` heads a well-formed chain.
#[inline]
pub(super) unsafe fn last(first: *mut sys::rte_mbuf) -> *mut sys::rte_mbuf {
    let mut segment = first;
    // SAFETY: promised by the caller: `next` is null or a segment that is alive.
    unsafe {
        while !(*segment).next.is_null() {
            segment = (*segment).next;
        }
    }
    segment
}

/// The count of the owners of a segment's data: its own, the external buffer's, or that of the mbuf the data lies in.
///
/// # Safety
/// The segment is alive.
#[inline]
pub(super) unsafe fn data_refcnt<'a>(segment: *mut sys::rte_mbuf) -> &'a AtomicU16 {
    // SAFETY: a direct segment counts in itself; an external one has a shinfo; the data of an indirect one follows the
    // struct and private area of the mbuf it lies in, which its count keeps alive. DPDK changes the count atomically.
    unsafe {
        let flags = (*segment).ol_flags;
        let count = if flags & sys::SHIM_MBUF_F_EXTERNAL != 0 {
            &raw mut (*(*segment).shinfo).refcnt
        } else if flags & sys::SHIM_MBUF_F_INDIRECT != 0 {
            let before = size_of::<sys::rte_mbuf>() + usize::from((*segment).priv_size);
            let owner = (*segment).buf_addr.cast::<u8>().sub(before).cast::<sys::rte_mbuf>();
            &raw mut (*owner).refcnt
        } else {
            &raw mut (*segment).refcnt
        };
        AtomicU16::from_ptr(count)
    }
}

/// True if nobody shares the segment's data.
///
/// # Safety
/// The segment is alive.
#[inline]
pub(super) unsafe fn is_exclusive(segment: *mut sys::rte_mbuf) -> bool {
    // SAFETY: promised by the caller. Acquire: what a former owner wrote or read comes before what we write.
    unsafe { data_refcnt(segment).load(Ordering::Acquire) == 1 }
}

/// Whether the segment's data is in its own buffer and nobody else's, as that of nearly all is.
///
/// # Safety
/// As for [`is_exclusive`].
#[inline]
pub(super) unsafe fn is_unshared(segment: *mut sys::rte_mbuf) -> bool {
    // SAFETY: promised by the caller. Acquire: as in `is_exclusive`. A direct segment counts in itself.
    unsafe {
        (*segment).ol_flags & OWNERSHIP_FLAGS == 0
            && AtomicU16::from_ptr(&raw mut (*segment).refcnt).load(Ordering::Acquire) == 1
    }
}

/// Cuts a chain to `len` bytes and frees the segments behind.
///
/// # Safety
/// `first` heads a well-formed chain of at least `len` bytes, owned by the caller.
#[inline]
pub(super) unsafe fn truncate(first: *mut sys::rte_mbuf, len: usize) {
    let (mut segment, mut keep, mut count) = (first, len, 1);
    // SAFETY: promised by the caller; what is cut off is owned here alone, and freed once. `keep` is at most the segment's
    // 16-bit length when it is stored.
    unsafe {
        while keep > usize::from((*segment).data_len) && !(*segment).next.is_null() {
            keep -= usize::from((*segment).data_len);
            segment = (*segment).next;
            count += 1;
        }
        let cut = (*segment).next;
        (*segment).data_len = keep as u16;
        (*first).pkt_len = len as u32;
        if !cut.is_null() {
            (*segment).next = ptr::null_mut();
            (*first).nb_segs = count;
            sys::shim_pktmbuf_free(cut);
        }
    }
}
