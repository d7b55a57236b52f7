//! Packet buffers on the heap and ports that record, for tests of any crate. May panic: a test must see what is wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::PortIndex;
use crate::packet::{Io, Packet};
use arrayvec::ArrayVec;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Bytes in front of a new packet's data, as DPDK has it.
pub const HEADROOM: usize = 128;

/// Where buffers come from; knows how many are out.
#[derive(Clone, Debug)]
pub struct Pool {
    live: Arc<AtomicUsize>,
    size: usize,
}

impl Pool {
    /// At most `size` packets at a time.
    pub fn new(size: usize) -> Self {
        Self { live: Arc::default(), size }
    }

    /// Packets not yet dropped.
    pub fn live(&self) -> usize {
        self.live.load(SeqCst)
    }

    /// A packet with these bytes.
    pub fn packet(&self, bytes: &[u8]) -> Buffer {
        self.segments(&[bytes])
    }

    /// A packet of several segments.
    pub fn segments(&self, segments: &[&[u8]]) -> Buffer {
        let (first, rest) = segments.split_first().expect("a packet has a segment");
        let mut data = vec![0xa5; HEADROOM];
        data.extend_from_slice(first);
        self.live.fetch_add(1, SeqCst);
        Buffer {
            data,
            start: HEADROOM,
            rest: rest.iter().map(|segment| segment.to_vec()).collect(),
            live: self.live.clone(),
        }
    }

    fn allocate(&self) -> Option<Buffer> {
        (self.live() < self.size).then(|| self.packet(&[]))
    }
}

/// A packet.
#[derive(Debug)]
pub struct Buffer {
    data: Vec<u8>,
    start: usize,
    rest: Vec<Vec<u8>>,
    live: Arc<AtomicUsize>,
}

impl Buffer {
    /// All segments in one.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.for_each_segment(|segment| bytes.extend_from_slice(segment));
        bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.live.fetch_sub(1, SeqCst);
    }
}

impl Packet for Buffer {
    fn head(&self) -> &[u8] {
        &self.data[self.start..]
    }

    fn head_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..]
    }

    fn total_len(&self) -> usize {
        self.head().len() + self.rest.iter().map(Vec::len).sum::<usize>()
    }

    fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        self.start = self.start.checked_sub(n)?;
        Some(self.head_mut())
    }

    fn trim_front(&mut self, n: usize) -> bool {
        let fits = n <= self.head().len();
        self.start += if fits { n } else { 0 };
        fits
    }

    fn truncate(&mut self, len: usize) -> bool {
        if len > self.total_len() {
            return false;
        }
        let mut left = len;
        let first = left.min(self.head().len());
        self.data.truncate(self.start + first);
        left -= first;
        for segment in &mut self.rest {
            segment.truncate(left);
            left -= segment.len();
        }
        true
    }

    fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        let last = self.rest.last_mut().unwrap_or(&mut self.data);
        let at = last.len();
        last.resize(at + n, 0);
        Some(&mut last[at..])
    }

    fn for_each_segment(&self, mut f: impl FnMut(&[u8])) {
        f(self.head());
        self.rest.iter().for_each(|segment| f(segment));
    }
}

/// Ports that keep what is sent.
#[derive(Debug)]
pub struct Ports {
    /// Frames by port.
    pub sent: Vec<Vec<Vec<u8>>>,
    /// How often each port was handed packets.
    pub handed: Vec<usize>,
    /// How many packets each port still takes.
    pub room: Vec<usize>,
    /// Where copies and own packets come from.
    pub pool: Pool,
}

impl Ports {
    /// Ports without limits.
    pub fn new(count: usize, pool: Pool) -> Self {
        Self { sent: vec![Vec::new(); count], handed: vec![0; count], room: vec![usize::MAX; count], pool }
    }

    /// What was sent on `port` since the last call.
    pub fn take(&mut self, port: u8) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.sent[usize::from(port)])
    }
}

impl Io<Buffer> for Ports {
    fn transmit<const N: usize>(&mut self, port: PortIndex, packets: &mut ArrayVec<Buffer, N>) {
        let port = usize::from(port.0);
        self.handed[port] += 1;
        let taken = packets.len().min(self.room[port]);
        self.room[port] -= if self.room[port] == usize::MAX { 0 } else { taken };
        self.sent[port].extend(packets.drain(..taken).map(|packet| packet.bytes()));
    }

    fn allocate(&mut self) -> Option<Buffer> {
        self.pool.allocate()
    }

    fn duplicate(&mut self, packet: &Buffer, _headers: usize) -> Option<Buffer> {
        let rest: Vec<&[u8]> = packet.rest.iter().map(Vec::as_slice).collect();
        let mut segments = vec![packet.head()];
        segments.extend(rest);
        (self.pool.live() < self.pool.size).then(|| self.pool.segments(&segments))
    }
}
