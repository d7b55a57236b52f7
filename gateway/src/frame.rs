//! DPDK's packet buffers as the pipeline wants them.

use dpdk::Mbuf;
use pipeline::Packet;

/// An mbuf, and whatever its owner wants to remember with it.
#[derive(Debug)]
#[repr(C)]
pub struct Frame<T = ()> {
    mbuf: Mbuf,
    /// The pipeline neither reads nor changes it.
    pub tag: T,
}

impl<T> Frame<T> {
    /// Wraps a buffer.
    #[inline]
    pub fn new(mbuf: Mbuf, tag: T) -> Self {
        Self { mbuf, tag }
    }

    /// The buffer.
    #[inline]
    pub fn mbuf(&self) -> &Mbuf {
        &self.mbuf
    }

    /// The buffer.
    #[inline]
    pub fn into_mbuf(self) -> Mbuf {
        self.mbuf
    }
}

impl From<Mbuf> for Frame {
    #[inline]
    fn from(mbuf: Mbuf) -> Self {
        Self::new(mbuf, ())
    }
}

impl From<Frame> for Mbuf {
    #[inline]
    fn from(frame: Frame) -> Self {
        frame.mbuf
    }
}

impl<T> Packet for Frame<T> {
    #[inline]
    fn head(&self) -> &[u8] {
        self.mbuf.data()
    }

    /// Empty if another packet shares the headers, which no port and no duplicate of ours does.
    #[inline]
    fn head_mut(&mut self) -> &mut [u8] {
        self.mbuf.head_mut()
    }

    #[inline]
    fn total_len(&self) -> usize {
        self.mbuf.pkt_len()
    }

    #[inline]
    fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        self.mbuf.prepend_data(n)
    }

    #[inline]
    fn replace_front<const OLD: usize, const NEW: usize>(&mut self) -> Option<&mut [u8; NEW]> {
        self.mbuf.replace_front::<OLD, NEW>()
    }

    #[inline]
    fn trim_front(&mut self, n: usize) -> bool {
        self.mbuf.adj(n)
    }

    #[inline]
    fn cut<const AT: usize, const N: usize>(&mut self) -> bool {
        self.mbuf.cut::<AT, N>()
    }

    #[inline]
    fn truncate(&mut self, len: usize) -> bool {
        self.mbuf.pkt_len().checked_sub(len).is_some_and(|n| self.mbuf.trim(n))
    }

    #[inline]
    fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        self.mbuf.append(n)
    }

    #[inline]
    fn for_each_segment(&self, f: impl FnMut(&[u8])) {
        self.mbuf.segments().for_each(f);
    }

    #[inline]
    fn prefetch(&self) {
        self.mbuf.prefetch_data();
    }
}
