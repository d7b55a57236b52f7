//! The client's end of a memif, the shared-memory packet interface of VPP and DPDK (protocol version 2.0), without a driver:
//! frames are written and read in the very buffers that the other end reads and writes, and no buffer is ever allocated.
//!
//! A ring has a head and a tail that only count up. On the ring to the server the client fills buffers and moves the head,
//! the server empties them and moves the tail; on a ring from the server the client offers empty buffers by the head, and the
//! server fills them and moves the tail. Buffer and slot belong to the server from the one move to the other.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::OwnedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use arrayvec::ArrayVec;
use nix::sys::{
    memfd::{MFdFlags, memfd_create},
    mman::{MapFlags, ProtFlags, mmap, munmap},
};

mod control;

use crate::mbuf::prefetch;
use control::Control;

/// Frames that [`Memif::receive`] hands over at once, at most.
pub const MEMIF_BURST: usize = 256;

/// How far ahead of the slot in work buffers are fetched.
const AHEAD: u16 = 12;
const COOKIE: u32 = 0x03e3_1f20;
const MASK_INTERRUPTS: u16 = 1;
const CHAINED: u16 = 1;
const HUGE_PAGE: usize = 2 << 20;

/// How a [`Memif`] connects, and to what.
#[derive(Debug, Clone, Copy)]
pub struct MemifOptions<'a> {
    /// The server's socket: a path, or a name in the abstract namespace.
    pub socket: &'a str,
    /// The socket is in the abstract namespace.
    pub abstract_socket: bool,
    /// The interface's number on that socket.
    pub id: u32,
    /// Slots of each ring, as a power of two: 1 to 14.
    pub ring_bits: u8,
    /// Bytes of a buffer: at least as many as the server's buffers have, since DPDK's server checks only its own.
    pub buffer: u16,
    /// Rings to receive from: as many as the server has transmit queues.
    pub rx_rings: u16,
    /// How long to wait for the server.
    pub patience: Duration,
}

impl Default for MemifOptions<'_> {
    /// Rings of 1024 buffers of 2048 bytes, one each way; ten seconds of patience.
    fn default() -> Self {
        Self {
            socket: "/run/memif.sock",
            abstract_socket: false,
            id: 0,
            ring_bits: 10,
            buffer: 2048,
            rx_rings: 1,
            patience: Duration::from_secs(10),
        }
    }
}

/// Why there is no memif.
#[derive(Debug, thiserror::Error)]
pub enum MemifError {
    /// Nobody listens on the socket, or the connection broke.
    #[error("memif {socket}: {operation}: {source}: is the server there?")]
    Socket {
        /// The socket.
        socket: String,
        /// What was being done.
        operation: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The server ended the conversation.
    #[error("memif {socket}: the server refused: {reason}")]
    Refused {
        /// The socket.
        socket: String,
        /// The server's words.
        reason: String,
    },
    /// The server said something else than the protocol wants.
    #[error("memif {socket}: message {got} instead of {wanted}: is it a memif server of version 2?")]
    Unexpected {
        /// The socket.
        socket: String,
        /// The message type that came.
        got: u16,
        /// The message type that should have.
        wanted: u16,
    },
    /// The server cannot have that many rings, or such large ones.
    #[error("memif {socket}: the server takes {rings} rings of 2^{ring_bits} slots at most")]
    Rings {
        /// The socket.
        socket: String,
        /// Rings in one direction.
        rings: u32,
        /// Slots, as a power of two.
        ring_bits: u8,
    },
    /// The rings' buffers do not fit what 32 bits, a descriptor's offset, can tell apart.
    #[error(
        "memif: {rings} rings of 2^{ring_bits} buffers of {buffer} bytes take {bytes} bytes, 4 GiB are possible: \
         use fewer rings, smaller ones (rsize), or smaller buffers (bsize)"
    )]
    TooLarge {
        /// Rings, both directions.
        rings: usize,
        /// Slots of each, as a power of two.
        ring_bits: u8,
        /// Bytes of a buffer.
        buffer: u16,
        /// What all would take.
        bytes: usize,
    },
    /// There is no memory to share.
    #[error("memif: {bytes} bytes of shared memory: {source}")]
    Memory {
        /// The bytes wanted.
        bytes: usize,
        /// The system's reason.
        source: io::Error,
    },
}

/// A connected memif. It disconnects when dropped. One thread uses it.
#[derive(Debug)]
pub struct Memif {
    tx: Ring,
    rx: Vec<Ring>,
    buffer: usize,
    /// A frame that came in several buffers.
    joined: Vec<u8>,
    /// What the rings point into: dropped behind them.
    _shared: Shared,
    control: Control,
}

impl Memif {
    /// Connects to a server, waiting until it listens.
    pub fn connect(options: &MemifOptions<'_>) -> Result<Self, MemifError> {
        let rings = usize::from(options.rx_rings) + 1;
        let layout = Layout::new(options, rings)?;
        let mut control = Control::connect(options)?;
        let shared = Shared::new(layout.bytes)?;
        let ring = |number: usize| Ring::new(&shared, &layout, number);
        let (tx, rx): (Ring, Vec<Ring>) = (ring(0), (1..rings).map(ring).collect());
        control.hand_over(options, &shared, &layout)?;
        // The server has set head and tail to zero.
        rx.iter().for_each(|ring| ring.header().head.store(ring.slots, Ordering::Release));
        Ok(Self { tx, rx, buffer: usize::from(options.buffer), joined: Vec::new(), _shared: shared, control })
    }

    /// Whether the server is there still. It makes a system call.
    pub fn is_connected(&self) -> bool {
        self.control.is_open()
    }

    /// Bytes of the longest frame that can be sent.
    pub fn buffer(&self) -> usize {
        self.buffer
    }

    /// Sends up to `count` frames, as many as there is room for, and returns how many. `write` is given a buffer for each,
    /// holding whatever it held, and returns the frame's length.
    #[inline]
    pub fn send(&mut self, count: usize, mut write: impl FnMut(&mut [u8]) -> usize) -> usize {
        let ring = &mut self.tx;
        let sent = ring.next.wrapping_sub(ring.header().tail.load(Ordering::Acquire));
        let count = count.min(usize::from(ring.slots.saturating_sub(sent))) as u16;
        for n in 0..count {
            let slot = ring.next.wrapping_add(n);
            prefetch_to_write(ring.start(slot.wrapping_add(AHEAD)));
            // SAFETY: the slot is between head and what the server has emptied, so that buffer is ours, and `&mut self` makes
            // this its only use; it lies in the mapping (see Layout), which lives as long as self.
            let buffer = unsafe { std::slice::from_raw_parts_mut(ring.start(slot), self.buffer) };
            let len = write(buffer).min(self.buffer);
            ring.descriptor(slot).set(0, len as u32);
        }
        ring.next = ring.next.wrapping_add(count);
        ring.header().head.store(ring.next, Ordering::Release);
        usize::from(count)
    }

    /// Buffers that have arrived and were not received.
    #[inline]
    pub fn arrived(&self) -> usize {
        self.rx.iter().map(|ring| usize::from(ring.arrived())).sum()
    }

    /// Hands frames that have arrived to `take`, burst by burst of up to [`MEMIF_BURST`], one from each ring; how many.
    #[inline]
    pub fn receive(&mut self, mut take: impl FnMut(&[&[u8]])) -> usize {
        let mut count = 0;
        for ring in &mut self.rx {
            let mut frames: ArrayVec<&[u8], MEMIF_BURST> = ArrayVec::new();
            let arrived = ring.arrived().min(MEMIF_BURST as u16);
            let mut done = 0;
            while done < arrived {
                let slot = ring.next.wrapping_add(done);
                let (flags, len) = ring.descriptor(slot).get();
                if flags & CHAINED != 0 {
                    break;
                }
                let start = ring.start(slot).cast_const();
                prefetch(start);
                prefetch(start.wrapping_add(64));
                // SAFETY: the slot is between what we have received and the tail, so the server has given the buffer back, and
                // it is ours until the head moves, behind the last use of `frames`; it lies in the mapping.
                frames.push(unsafe { std::slice::from_raw_parts(start, (len as usize).min(self.buffer)) });
                done += 1;
            }
            if done == 0 && arrived > 0 {
                done = ring.join(arrived, self.buffer, &mut self.joined);
                frames.push(&self.joined);
            }
            if done == 0 {
                continue;
            }
            count += frames.len();
            take(&frames);
            ring.give_back(done, self.buffer);
        }
        count
    }
}

/// Where things are in the shared memory: all rings, then all buffers. Every offset fits 32 bits.
struct Layout {
    slots: u16,
    ring: usize,
    /// From one buffer to the next. An odd number of cache lines, so that the buffers' first lines spread over a cache's sets.
    stride: usize,
    buffers: usize,
    bytes: usize,
}

impl Layout {
    fn new(options: &MemifOptions<'_>, rings: usize) -> Result<Self, MemifError> {
        let slots = 1_u16 << options.ring_bits.clamp(1, 14);
        let ring = size_of::<Header>() + usize::from(slots) * size_of::<Descriptor>();
        let stride = (usize::from(options.buffer).div_ceil(64) | 1) * 64;
        let buffers = (rings * ring).next_multiple_of(64);
        let bytes = (buffers + rings * usize::from(slots) * stride).next_multiple_of(HUGE_PAGE);
        if u32::try_from(bytes).is_err() {
            let MemifOptions { ring_bits, buffer, .. } = *options;
            return Err(MemifError::TooLarge { rings, ring_bits, buffer, bytes });
        }
        Ok(Self { slots, ring, stride, buffers, bytes })
    }

    fn buffer(&self, ring: usize, slot: u16) -> usize {
        self.buffers + (ring * usize::from(self.slots) + usize::from(slot)) * self.stride
    }
}

/// What leads a ring; each end writes a cache line of its own.
#[derive(Debug)]
#[repr(C, align(64))]
struct Header {
    cookie: AtomicU32,
    flags: AtomicU16,
    head: AtomicU16,
    _line: [u8; 56],
    tail: AtomicU16,
    _line_of_tail: [u8; 62],
}

const _: () = assert!(size_of::<Header>() == 128);

/// Which buffer a slot has: flags and region (16 bits each), length; then offset and metadata (32 bits each).
#[derive(Debug)]
#[repr(C, align(16))]
struct Descriptor {
    what: AtomicU64,
    place: AtomicU64,
}

impl Descriptor {
    /// Flags and length.
    #[inline]
    fn get(&self) -> (u16, u32) {
        let bytes = self.what.load(Ordering::Relaxed).to_ne_bytes();
        let [a, b, _, _, l @ ..] = bytes;
        (u16::from_ne_bytes([a, b]), u32::from_ne_bytes(l))
    }

    /// Writes only what changes: frames of one length leave the line to be read by both ends.
    #[inline]
    fn set(&self, flags: u16, len: u32) {
        let ([a, b], [c, d, e, f]) = (flags.to_ne_bytes(), len.to_ne_bytes());
        let what = u64::from_ne_bytes([a, b, 0, 0, c, d, e, f]);
        if self.what.load(Ordering::Relaxed) != what {
            self.what.store(what, Ordering::Relaxed);
        }
    }
}

/// One ring, and where this end has come to.
#[derive(Debug)]
struct Ring {
    header: NonNull<Header>,
    descriptors: NonNull<Descriptor>,
    buffers: NonNull<u8>,
    slots: u16,
    stride: usize,
    /// The next slot to send with, or to receive from; counts up.
    next: u16,
}

impl Ring {
    fn new(shared: &Shared, layout: &Layout, number: usize) -> Self {
        let at = |offset: usize| {
            debug_assert!(offset < layout.bytes);
            // SAFETY: the layout's offsets are below its bytes, which are mapped.
            unsafe { shared.start.add(offset) }
        };
        let start = number * layout.ring;
        let ring = Self {
            header: at(start).cast(),
            descriptors: at(start + size_of::<Header>()).cast(),
            buffers: at(layout.buffer(number, 0)),
            slots: layout.slots,
            stride: layout.stride,
            next: 0,
        };
        ring.header().cookie.store(COOKIE, Ordering::Relaxed);
        ring.header().flags.store(MASK_INTERRUPTS, Ordering::Relaxed);
        for slot in 0..layout.slots {
            let descriptor = ring.descriptor(slot);
            let ([a, b, c, d], rest) = ((layout.buffer(number, slot) as u32).to_ne_bytes(), [0; 4]);
            let place = u64::from_ne_bytes([a, b, c, d, rest[0], rest[1], rest[2], rest[3]]);
            descriptor.place.store(place, Ordering::Relaxed);
            descriptor.set(0, layout.stride as u32);
        }
        ring
    }

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: aligned, inside the mapping, which outlives the ring, and made of atomics, as others write it too.
        unsafe { self.header.as_ref() }
    }

    #[inline]
    fn descriptor(&self, slot: u16) -> &Descriptor {
        // SAFETY: as for the header; the position is below the number of slots, a power of two.
        unsafe { self.descriptors.add(usize::from(slot & (self.slots - 1))).as_ref() }
    }

    #[inline]
    fn start(&self, slot: u16) -> *mut u8 {
        self.buffers.as_ptr().wrapping_add(usize::from(slot & (self.slots - 1)) * self.stride)
    }

    #[inline]
    fn arrived(&self) -> u16 {
        self.header().tail.load(Ordering::Acquire).wrapping_sub(self.next).min(self.slots)
    }

    /// Copies a frame in several buffers to one place; how many buffers of the `arrived` ones it had.
    #[cold]
    fn join(&self, arrived: u16, buffer: usize, joined: &mut Vec<u8>) -> u16 {
        joined.clear();
        for n in 0..arrived {
            let slot = self.next.wrapping_add(n);
            let (flags, len) = self.descriptor(slot).get();
            // SAFETY: as in `receive`; the slice is gone before the head moves.
            joined.extend_from_slice(unsafe {
                std::slice::from_raw_parts(self.start(slot).cast_const(), (len as usize).min(buffer))
            });
            if flags & CHAINED == 0 {
                return n + 1;
            }
        }
        arrived
    }

    /// Offers the next `count` buffers to the server again.
    #[inline]
    fn give_back(&mut self, count: u16, buffer: usize) {
        for n in 0..count {
            self.descriptor(self.next.wrapping_add(n)).set(0, buffer as u32);
        }
        self.next = self.next.wrapping_add(count);
        self.header().head.store(self.next.wrapping_add(self.slots), Ordering::Release);
    }
}

/// Memory that both ends map: on 2 MiB pages if there are any.
#[derive(Debug)]
struct Shared {
    start: NonNull<u8>,
    bytes: usize,
    file: OwnedFd,
}

impl Shared {
    fn new(bytes: usize) -> Result<Self, MemifError> {
        let huge = MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
        Self::map(bytes, huge)
            .or_else(|_| Self::map(bytes, MFdFlags::empty()))
            .map_err(|source| MemifError::Memory { bytes, source })
    }

    fn map(bytes: usize, flags: MFdFlags) -> io::Result<Self> {
        let file = memfd_create(c"memif", MFdFlags::MFD_CLOEXEC | flags)?;
        nix::unistd::ftruncate(&file, i64::try_from(bytes).map_err(io::Error::other)?)?;
        let length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping of a file of that length, at an address of the kernel's choice.
        let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, &file, 0)? };
        Ok(Self { start: start.cast(), bytes, file })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped once with that length, and the rings that point into it are gone or never used again. A failure would
        // leave it mapped, which harms nobody.
        let _ = unsafe { munmap(self.start.cast(), self.bytes) };
    }
}

#[inline]
fn prefetch_to_write(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch changes nothing the program can see, whatever the address.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_ET0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
