//! What the pipeline needs of a packet buffer and of the ports, so that it runs on mbufs and in tests alike.

use crate::PortIndex;
use arrayvec::ArrayVec;

/// Packets that pass the stages before the next of those received with them.
pub const BURST: usize = 32;

/// Packets of a burst that pass the stages from classify to encap together: their flows are asked for at once, and memory
/// serves only so many misses at a time (docs/adr/0007-hot-path.md).
pub(crate) const CHUNK: usize = 8;

/// A burst of packets.
pub type Burst<P> = ArrayVec<P, BURST>;

/// Most packets taken from a port, or handed to one, at once: they share what a driver does once per call, as with its rings'
/// indices, which the other side writes too. They pass the stages in bursts.
pub const PORT_BURST: usize = 4 * BURST;

/// A packet in one or more segments. The pipeline looks at and changes headers in the first segment only.
pub trait Packet: Sized {
    /// The first segment.
    fn head(&self) -> &[u8];
    /// The first segment, to change; without what it shares with a duplicate, which begins behind the headers.
    fn head_mut(&mut self) -> &mut [u8];
    /// Bytes of all segments.
    fn total_len(&self) -> usize;
    /// Makes room for `n` bytes in front and returns what `head_mut` does; None if there is no headroom (nothing changed).
    fn prepend(&mut self, n: usize) -> Option<&mut [u8]>;
    /// Puts `NEW` bytes, to be filled, in place of the first `OLD`, which are at most as many; None if the first segment is
    /// shorter or there is no headroom (nothing changed).
    fn replace_front<const OLD: usize, const NEW: usize>(&mut self) -> Option<&mut [u8; NEW]> {
        if self.head_mut().len() < OLD {
            return None;
        }
        self.prepend(NEW.checked_sub(OLD)?)?.first_chunk_mut()
    }
    /// Removes `n` bytes in front; false if the first segment is shorter (nothing changed).
    fn trim_front(&mut self, n: usize) -> bool;
    /// Removes `N` bytes behind the first `AT`; false if the first segment is shorter (nothing changed).
    fn cut<const AT: usize, const N: usize>(&mut self) -> bool {
        let head = self.head_mut();
        if head.len() < AT + N {
            return false;
        }
        head.copy_within(..AT, N);
        self.trim_front(N)
    }
    /// Removes bytes at the end until `len` remain; false if it is shorter already (nothing changed).
    fn truncate(&mut self, len: usize) -> bool;
    /// Adds `n` bytes at the end of the last segment, for packets the pipeline builds; None if there is no room.
    fn append(&mut self, n: usize) -> Option<&mut [u8]>;
    /// Calls `f` with every segment in order.
    fn for_each_segment(&self, f: impl FnMut(&[u8]));
    /// Asks the cache for the first line of data.
    #[inline]
    fn prefetch(&self) {}
}

/// The ports and the buffer pool of one worker.
pub trait Io<P> {
    /// Hands packets, at most [`PORT_BURST`], to `port`'s queue of this worker, from the front; what the queue does not take
    /// stays.
    fn transmit<const N: usize>(&mut self, port: PortIndex, packets: &mut ArrayVec<P, N>);
    /// An empty packet with headroom; None when the pool is exhausted.
    fn allocate(&mut self) -> Option<P>;
    /// A packet with the same bytes. The first `headers` of them may be changed in both, and others put before them; the
    /// rest may be shared. None when the pool is exhausted.
    fn duplicate(&mut self, packet: &P, headers: usize) -> Option<P>;
}
