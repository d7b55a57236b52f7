use std::{
    mem::ManuallyDrop,
    ptr::{self, NonNull},
    sync::atomic::{AtomicU16, Ordering},
};

use arrayvec::ArrayVec;
use dpdk_sys as sys;

use crate::{Mempool, PortId};

mod segments;

pub use segments::Segments;

/// Flags that say who owns the data buffer; all others describe the packet.
const OWNERSHIP_FLAGS: u64 = sys::SHIM_MBUF_F_INDIRECT | sys::SHIM_MBUF_F_EXTERNAL;

/// Bytes at the start of a packet's first buffer, its headroom of 128 included, that no other packet ever shares: room for
/// headers that are rewritten, and for others before them.
const UNSHARED: usize = 384;

/// A packet buffer, or a chain of them; owned, and given back to its pool when dropped.
///
/// The packet is `pkt_len` bytes in `nb_segs` segments. Bytes are only written where no other packet shares them. What
/// packets share ([`share`](Self::share)) never is among the first 384 bytes of a first buffer; so headers can always be
/// changed, while what writes elsewhere returns None or false (see [`is_exclusive`](Self::is_exclusive)).
#[derive(Debug)]
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: an mbuf belongs to no thread; giving it back is thread-safe (see Mempool), and counts of shared data are atomic.
// It is not Sync: share may change a count without an atomic operation while there is one owner.
unsafe impl Send for Mbuf {}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this is the mbuf's only owner; the pool of a buffer that is out is never freed.
        unsafe { sys::shim_pktmbuf_free(self.0.as_ptr()) }
    }
}

/// Drops all of `mbufs` in one call.
#[inline]
pub fn free_burst<const N: usize>(mbufs: &mut ArrayVec<Mbuf, N>) {
    let count = mbufs.len();
    // SAFETY: an Mbuf is one pointer; the length is reset before DPDK takes the buffers, so none is freed twice.
    unsafe {
        mbufs.set_len(0);
        sys::shim_pktmbuf_free_bulk(mbufs.as_mut_ptr().cast(), count as u32);
    }
}

impl Mbuf {
    /// Takes ownership of a raw mbuf.
    ///
    /// # Safety
    /// The mbuf is the first of its packet, well-formed, and nobody else owns it.
    #[inline]
    pub unsafe fn from_raw(mbuf: NonNull<sys::rte_mbuf>) -> Self {
        Self(mbuf)
    }

    /// Gives up ownership: the caller must see to it that the mbuf is freed.
    #[inline]
    pub fn into_raw(self) -> NonNull<sys::rte_mbuf> {
        ManuallyDrop::new(self).0
    }

    /// A new packet with these bytes, in as many segments as it takes; None if the pool is empty.
    pub fn from_slice(pool: &Mempool, bytes: &[u8]) -> Option<Self> {
        let room = usize::from(pool.data_room()).max(1);
        let mut chunks = bytes.chunks(room);
        let mut packet = pool.alloc()?;
        packet
            .append(chunks.next().unwrap_or_default().len())?
            .copy_from_slice(&bytes[..room.min(bytes.len())]);
        for chunk in chunks {
            let mut segment = pool.alloc()?;
            segment.append(chunk.len())?.copy_from_slice(chunk);
            packet.chain(segment).ok()?;
        }
        Some(packet)
    }

    /// A copy of the packet and its metadata in buffers of `pool`; None if the pool is empty.
    pub fn copy_from(pool: &Mempool, packet: &Mbuf) -> Option<Self> {
        if packet.pkt_len() == 0 {
            // DPDK takes that for a mistake.
            return pool.alloc();
        }
        // SAFETY: the pool and the packet are alive, and rte_pktmbuf_copy only reads the packet.
        let copy = unsafe { sys::rte_pktmbuf_copy(packet.as_ptr(), pool.as_ptr(), 0, u32::MAX) };
        NonNull::new(copy).map(Self)
    }

    /// A second packet with the same bytes: at least `headers` of them are its own, and what follows is shared by buffers of
    /// `pool` without data of their own. The headers of both can be changed, the shared bytes of neither until one is
    /// dropped. Where little can be shared, or not all `headers` lie where the packet's own are, it is a full copy. None if
    /// the pool is empty.
    pub fn share(pool: &Mempool, packet: &Mbuf, headers: usize) -> Option<Self> {
        let own = packet.data_len().min(UNSHARED.saturating_sub(packet.headroom()));
        let enough = own >= headers.min(packet.pkt_len()) && own <= usize::from(pool.data_room());
        if !packet.is_direct() || !enough || own == packet.pkt_len() {
            return Self::copy_from(pool, packet);
        }
        let mut copy = pool.alloc()?;
        copy.append(own)?.copy_from_slice(packet.data().get(..own)?);
        let (mut segment, mut skip) = (packet.as_ptr(), own);
        while !segment.is_null() {
            // SAFETY: a segment of the packet's well-formed chain, kept alive by its borrow. Only this thread can reach the
            // packet (Mbuf is not Sync), and DPDK counts the data's owners with atomic operations once there is more than
            // one. The new buffer is empty and direct, as attaching demands; it shares nothing of a first buffer's start.
            unsafe {
                if usize::from((*segment).data_len) > skip {
                    let mut rest = pool.alloc()?;
                    sys::shim_pktmbuf_attach(rest.as_ptr(), segment);
                    if !rest.adj(skip) || copy.chain(rest).is_err() {
                        return None;
                    }
                }
                segment = (*segment).next;
            }
            skip = 0;
        }
        Some(copy)
    }

    /// The bytes of the first segment.
    #[inline]
    pub fn data(&self) -> &[u8] {
        // SAFETY: data_off and data_len lie within the segment's buffer, which lives as long as the mbuf; bytes that others
        // share are not written.
        unsafe { segments::data(self.as_ptr()) }
    }

    /// As [`data_mut`](Self::data_mut); empty if it has none of its own there.
    #[inline]
    pub fn head_mut(&mut self) -> &mut [u8] {
        let mbuf = self.as_ptr();
        // SAFETY: as in `data`; nobody shares the buffer, and `self` is borrowed mutably.
        unsafe {
            if segments::is_unshared(mbuf) {
                return segments::data_mut(mbuf, usize::from((*mbuf).data_len));
            }
        }
        self.own_mut().unwrap_or_default()
    }

    /// The bytes of the first segment, to write to; of a packet that shares some, those before them. None if it has none of
    /// its own there.
    #[inline]
    pub fn data_mut(&mut self) -> Option<&mut [u8]> {
        let mbuf = self.as_ptr();
        // SAFETY: as in `data`; nobody shares the buffer, and `self` is borrowed mutably.
        unsafe {
            if segments::is_unshared(mbuf) {
                return Some(segments::data_mut(mbuf, usize::from((*mbuf).data_len)));
            }
        }
        self.own_mut()
    }

    #[cold]
    #[inline(never)]
    fn own_mut(&mut self) -> Option<&mut [u8]> {
        let own = self.own_len()?;
        // SAFETY: as in `data`; nobody shares the start of a first buffer, and `self` is borrowed mutably.
        unsafe { Some(segments::data_mut(self.as_ptr(), own)) }
    }

    /// How many bytes at the front are its own; None if not even the headroom is.
    #[cold]
    fn own_len(&self) -> Option<usize> {
        if self.is_exclusive() {
            return Some(self.data_len());
        }
        let own = UNSHARED.checked_sub(self.headroom()).filter(|_| self.is_direct())?;
        Some(own.min(self.data_len()))
    }

    /// The packet's bytes in all segments.
    #[inline]
    pub fn pkt_len(&self) -> usize {
        // SAFETY: the mbuf is alive.
        unsafe { (*self.as_ptr()).pkt_len as usize }
    }

    /// The bytes in the first segment.
    #[inline]
    pub fn data_len(&self) -> usize {
        // SAFETY: the mbuf is alive.
        usize::from(unsafe { (*self.as_ptr()).data_len })
    }

    /// The number of segments, 1 or more.
    #[inline]
    pub fn nb_segs(&self) -> usize {
        // SAFETY: the mbuf is alive.
        usize::from(unsafe { (*self.as_ptr()).nb_segs })
    }

    /// Free bytes before the packet.
    #[inline]
    pub fn headroom(&self) -> usize {
        // SAFETY: the mbuf is alive.
        usize::from(unsafe { (*self.as_ptr()).data_off })
    }

    /// Free bytes behind the packet, in its last segment.
    #[inline]
    pub fn tailroom(&self) -> usize {
        // SAFETY: the chain is well-formed, so its last segment is alive.
        unsafe { segments::tailroom(segments::last(self.as_ptr())) }
    }

    /// The segments' bytes, in order.
    #[inline]
    pub fn segments(&self) -> Segments<'_> {
        Segments::new(self)
    }

    /// True if no other packet shares any of the first segment's data, so that all of it may be written to.
    #[inline]
    pub fn is_exclusive(&self) -> bool {
        // SAFETY: the mbuf is alive.
        unsafe { segments::is_exclusive(self.as_ptr()) }
    }

    /// How many buffers share the first segment's data.
    pub fn refcnt(&self) -> u16 {
        // SAFETY: the mbuf is alive; what it points to for its data is alive as long.
        unsafe { segments::data_refcnt(self.as_ptr()).load(Ordering::Acquire) }
    }

    /// Puts `n` bytes before the packet and returns them, to be filled; they hold whatever was there. None, and nothing
    /// changed, if the headroom is smaller or shared.
    #[inline]
    #[must_use]
    pub fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        self.prepend_data(n)?.get_mut(..n)
    }

    /// As [`prepend`](Self::prepend), but returns what [`data_mut`](Self::data_mut) does, the new bytes included.
    #[inline]
    #[must_use]
    pub fn prepend_data(&mut self, n: usize) -> Option<&mut [u8]> {
        let own = self.own_len()?;
        if n > self.headroom() {
            return None;
        }
        // SAFETY: the headroom has `n` bytes, so the fields stay within the buffer (and `n` fits 16 bits); nobody shares it,
        // as it ends where the packet's own bytes begin.
        unsafe {
            let mbuf = self.as_ptr();
            (*mbuf).data_off -= n as u16;
            (*mbuf).data_len += n as u16;
            (*mbuf).pkt_len += n as u32;
            Some(segments::data_mut(mbuf, own + n))
        }
    }

    /// Puts `NEW` bytes, to be filled, in place of the packet's first `OLD`: so headers are written in one go. They hold
    /// whatever was there. None, and nothing changed, if the first segment has fewer bytes, if the headroom is smaller than
    /// what is added, or if either is shared.
    #[inline]
    #[must_use]
    pub fn replace_front<const OLD: usize, const NEW: usize>(&mut self) -> Option<&mut [u8; NEW]> {
        const { assert!(OLD <= NEW) };
        let mbuf = self.as_ptr();
        // SAFETY: the mbuf is alive. The headroom has what is added, so the fields stay within the buffer (and it fits 16
        // bits); nobody shares it; the packet has OLD bytes, so that NEW of them begin where it does now.
        unsafe {
            if !segments::is_unshared(mbuf) {
                return self.replace_own::<OLD, NEW>();
            }
            if usize::from((*mbuf).data_len) < OLD || usize::from((*mbuf).data_off) < NEW - OLD {
                return None;
            }
            (*mbuf).data_off -= (NEW - OLD) as u16;
            (*mbuf).data_len += (NEW - OLD) as u16;
            (*mbuf).pkt_len += (NEW - OLD) as u32;
            let start = (*mbuf).buf_addr.cast::<u8>().add(usize::from((*mbuf).data_off));
            std::hint::assert_unchecked(!start.is_null());
            Some(&mut *start.cast::<[u8; NEW]>())
        }
    }

    #[cold]
    #[inline(never)]
    fn replace_own<const OLD: usize, const NEW: usize>(&mut self) -> Option<&mut [u8; NEW]> {
        if self.own_mut()?.len() < OLD {
            return None;
        }
        self.prepend_data(NEW - OLD)?.first_chunk_mut()
    }

    /// Takes `n` bytes off the front. False, and nothing changed, if the first segment has fewer.
    #[inline]
    #[must_use]
    pub fn adj(&mut self, n: usize) -> bool {
        if n > self.data_len() {
            return false;
        }
        // SAFETY: the segment has `n` bytes, so the fields stay within the buffer and do not underflow.
        unsafe {
            let mbuf = self.as_ptr();
            (*mbuf).data_off += n as u16;
            (*mbuf).data_len -= n as u16;
            (*mbuf).pkt_len -= n as u32;
        }
        true
    }

    /// Takes out `N` bytes behind the first `AT`, which move up to what follows; so a tag leaves a frame. False, and nothing
    /// changed, if the first segment has fewer bytes, or those are not its own.
    #[inline]
    #[must_use]
    pub fn cut<const AT: usize, const N: usize>(&mut self) -> bool {
        let mbuf = self.as_ptr();
        // SAFETY: as in `data` and `adj`: the first AT + N bytes are the packet's, and nobody shares the buffer.
        unsafe {
            if !segments::is_unshared(mbuf) {
                return self.cut_own::<AT, N>();
            }
            if usize::from((*mbuf).data_len) < AT + N {
                return false;
            }
            let start = (*mbuf).buf_addr.cast::<u8>().add(usize::from((*mbuf).data_off));
            (*mbuf).data_off += N as u16;
            (*mbuf).data_len -= N as u16;
            (*mbuf).pkt_len -= N as u32;
            ptr::copy(start, start.add(N), AT);
        }
        true
    }

    #[cold]
    #[inline(never)]
    fn cut_own<const AT: usize, const N: usize>(&mut self) -> bool {
        match self.own_mut() {
            Some(own) if own.len() >= AT + N => own.copy_within(..AT, N),
            _ => return false,
        }
        self.adj(N)
    }

    /// Takes `n` bytes off the end, over as many segments as it takes; segments left empty are freed. False, and nothing
    /// changed, if the packet has fewer.
    #[inline]
    #[must_use]
    pub fn trim(&mut self, n: usize) -> bool {
        let len = self.pkt_len();
        if n > len {
            return false;
        }
        // SAFETY: the chain is well-formed and owned by self.
        unsafe { segments::truncate(self.as_ptr(), len - n) };
        true
    }

    /// Puts `n` bytes behind the packet, in its last segment, and returns them, to be filled; they hold whatever was there.
    /// None, and nothing changed, if the tailroom is smaller or the segment's data is shared.
    #[inline]
    #[must_use]
    pub fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        let first = self.as_ptr();
        // SAFETY: the chain is well-formed; the last segment has `n` bytes of tailroom, so its length stays within the buffer
        // (and `n` fits 16 bits); nobody shares its data.
        unsafe {
            let last = segments::last(first);
            if n > segments::tailroom(last) || !segments::is_exclusive(last) {
                return None;
            }
            let len = usize::from((*last).data_len);
            (*first).pkt_len = (*first).pkt_len.checked_add(n as u32)?;
            (*last).data_len += n as u16;
            Some(&mut segments::data_mut(last, len + n)[len..])
        }
    }

    /// Appends another packet's segments; gives it back if the chain would have more than 65535.
    pub fn chain(&mut self, tail: Mbuf) -> Result<(), Mbuf> {
        let segs = self.nb_segs() + tail.nb_segs();
        let (Ok(segs), Some(len)) =
            (u16::try_from(segs), (self.pkt_len() as u32).checked_add(tail.pkt_len() as u32))
        else {
            return Err(tail);
        };
        let tail = tail.into_raw();
        // SAFETY: both chains are well-formed; the tail is now owned through this chain.
        unsafe {
            let first = self.as_ptr();
            (*segments::last(first)).next = tail.as_ptr();
            (*first).nb_segs = segs;
            (*first).pkt_len = len;
            (*tail.as_ptr()).nb_segs = 1;
            (*tail.as_ptr()).pkt_len = u32::from((*tail.as_ptr()).data_len);
        }
        Ok(())
    }

    /// Makes the packet one segment; false if it does not fit the first one, or that is shared. The packet is then unchanged.
    pub fn linearize(&mut self) -> bool {
        if self.nb_segs() == 1 {
            return true;
        }
        // SAFETY: the chain is well-formed and owned; DPDK checks the room, and nobody shares the buffer it writes to.
        self.is_exclusive() && unsafe { sys::__rte_pktmbuf_linearize(self.as_ptr()) } == 0
    }

    /// Forgets what the receiving port said of the packet and what the sending one is to do with it: offload flags, packet
    /// type, VLAN tags taken off, hash, header lengths. For a packet that goes on.
    #[inline]
    pub fn reset_metadata(&mut self) {
        // SAFETY: the mbuf is alive and owned; the flags that say who owns the data stay.
        unsafe {
            let mbuf = self.as_ptr();
            (*mbuf).ol_flags &= OWNERSHIP_FLAGS;
            (*mbuf).__bindgen_anon_1.packet_type = 0;
            (*mbuf).vlan_tci = 0;
            (*mbuf).vlan_tci_outer = 0;
            (*mbuf).__bindgen_anon_3.tx_offload = 0;
        }
    }

    /// The receiving port's hash over the flow, if it gave one.
    #[inline]
    pub fn rss_hash(&self) -> Option<u32> {
        // SAFETY: the mbuf is alive, and with this flag the union holds the hash.
        unsafe {
            let mbuf = self.as_ptr();
            ((*mbuf).ol_flags & sys::SHIM_MBUF_F_RX_RSS_HASH != 0).then(|| (*mbuf).__bindgen_anon_2.hash.rss)
        }
    }

    /// The port the packet came in by.
    #[inline]
    pub fn port(&self) -> PortId {
        // SAFETY: the mbuf is alive.
        PortId(unsafe { (*self.as_ptr()).port })
    }

    /// Starts loading the mbuf's own first cache line: a burst ahead of looking at the packet.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(self.as_ptr().cast());
    }

    /// Starts loading the packet's first cache line; touches the mbuf itself.
    #[inline]
    pub fn prefetch_data(&self) {
        prefetch(self.data().as_ptr());
    }

    /// True if the first segment's data is in its own buffer: neither a clone's nor external.
    #[inline]
    pub(crate) fn is_direct(&self) -> bool {
        // SAFETY: the mbuf is alive.
        unsafe { (*self.as_ptr()).ol_flags & OWNERSHIP_FLAGS == 0 }
    }

    /// True if the first segment is of this pool.
    #[inline]
    pub(crate) fn is_of(&self, pool: &Mempool) -> bool {
        // SAFETY: the mbuf is alive.
        unsafe { (*self.as_ptr()).pool == pool.as_ptr() }
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut sys::rte_mbuf {
        self.0.as_ptr()
    }
}

/// Starts loading the cache line at `address`.
#[inline]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing the program can see, whatever the address.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
