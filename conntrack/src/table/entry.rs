//! Flow entries: one direction of a session each, all that a packet of it needs. IPv4 in one cache line, IPv6 in two, of
//! which a lookup and the counters use the first.
//!
//! All words are atomics, read and written with plain loads and stores: the key and the rewrite are written before the
//! entry is published in the index and stay until no reader can hold it; counters and stamp are written only by the
//! worker that the direction arrives on.

use crate::ChecksumDelta;
use crate::key::{FlowKeyV4, FlowKeyV6};
use crate::plan::Half;
use crate::rewrite::{L2Index, Rewrite, RewriteFlags};
use crate::sync::{AtomicU32, AtomicU64, Ordering::*};

/// What changes, and what decides: in an entry's first line.
#[derive(Default)]
#[repr(C)]
pub(super) struct Hot {
    pub bytes: AtomicU64,
    /// When the last packet was seen: milliseconds, the low 32 bits.
    pub stamp: AtomicU32,
    /// The low 32 bits; see [`super::record::Carry`].
    pub packets: AtomicU32,
    /// Outer source port (16 bits), patience (8), flags (8).
    control: AtomicU32,
    /// New ports, source first, as in the packet.
    ports: AtomicU32,
}

const FLAGS: u32 = 0xff;

/// What an entry's control word said at one time.
#[derive(Clone, Copy)]
pub(super) struct Control(u32);

impl Control {
    #[inline(always)]
    pub fn flags(self) -> RewriteFlags {
        RewriteFlags((self.0 & FLAGS) as u16)
    }

    #[inline(always)]
    pub fn outer_port(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// The largest power of two of milliseconds within a timeout, so that a lookup sees from the entry alone that a flow used
/// that lately has not expired.
fn patience(timeout_ms: u64) -> u8 {
    timeout_ms.max(1).ilog2().min(31) as u8
}

impl Hot {
    #[inline(always)]
    pub fn control(&self) -> Control {
        Control(self.control.load(Relaxed))
    }

    #[inline(always)]
    pub fn flags(&self) -> RewriteFlags {
        self.control().flags()
    }

    /// Ends the flow. No read-modify-write: while a flow can be found nothing else in the word changes, so whoever ends it too
    /// stores the same.
    pub fn bury(&self) {
        self.control.store(self.control.load(Acquire) | u32::from(RewriteFlags::DEAD), Release);
    }

    /// Makes a flow that was written as dead a living one; others may end its session meanwhile.
    pub fn revive(&self) {
        self.control.fetch_and(!u32::from(RewriteFlags::DEAD), AcqRel);
    }

    /// Whether the flow was used so lately that its session cannot have timed out.
    #[inline(always)]
    pub fn is_fresh(&self, control: Control, now: u32) -> bool {
        let idle = now.wrapping_sub(self.stamp.load(Relaxed));
        idle >> (control.0 >> 8 & 31) == 0
    }

    /// New ports, source first.
    #[inline(always)]
    pub fn ports(&self) -> [[u8; 2]; 2] {
        zerocopy::transmute!(self.ports.load(Relaxed))
    }

    fn write<A>(&self, rewrite: &Rewrite<A>, timeout_ms: u64, now: u32) {
        let [p0, p1] = rewrite.source_port;
        let [p2, p3] = rewrite.destination_port;
        self.ports.store(u32::from_ne_bytes([p0, p1, p2, p3]), Relaxed);
        self.bytes.store(0, Relaxed);
        self.packets.store(0, Relaxed);
        self.stamp.store(now, Relaxed);
        let control = u32::from(rewrite.outer_port) << 16
            | u32::from(patience(timeout_ms)) << 8
            | u32::from(rewrite.flags.0) & FLAGS;
        self.control.store(control, Relaxed);
    }
}

fn deltas<A>(rewrite: &Rewrite<A>) -> u32 {
    u32::from(rewrite.l4_delta.0) << 16 | u32::from(rewrite.l3_delta.0)
}

/// The last words of an entry's rewrite.
#[derive(Default)]
#[repr(C)]
pub(super) struct End {
    /// Its half of the session's [`Origin`](super::record::Origin).
    origin: AtomicU64,
    l2: AtomicU32,
    deltas: AtomicU32,
}

impl End {
    #[inline(always)]
    pub fn l2(&self) -> L2Index {
        L2Index(self.l2.load(Relaxed))
    }

    #[inline(always)]
    pub fn l3_delta(&self) -> ChecksumDelta {
        ChecksumDelta(self.deltas.load(Relaxed) as u16)
    }

    #[inline(always)]
    pub fn l4_delta(&self) -> ChecksumDelta {
        ChecksumDelta((self.deltas.load(Relaxed) >> 16) as u16)
    }

    fn write<A>(&self, rewrite: &Rewrite<A>, origin: u64) {
        self.origin.store(origin, Relaxed);
        self.l2.store(rewrite.l2.0, Relaxed);
        self.deltas.store(deltas(rewrite), Relaxed);
    }
}

#[inline(always)]
fn load_u64<const N: usize>(words: &[AtomicU64; N]) -> [u64; N] {
    std::array::from_fn(|i| words.get(i).map_or(0, |word| word.load(Relaxed)))
}

/// An entry of either family.
pub(super) trait Entry: super::memory::Zeroable + 'static {
    type Key: Copy;
    type Address: Copy;

    fn hot(&self) -> &Hot;
    fn matches(&self, key: &Self::Key) -> bool;
    fn key(&self) -> Self::Key;
    fn end(&self) -> &End;
    /// New addresses, source first.
    fn addresses(&self) -> [Self::Address; 2];
    fn origin(&self) -> u64;

    /// All together.
    #[inline(always)]
    fn rewrite(&self) -> Rewrite<Self::Address> {
        let (hot, end) = (self.hot(), self.end());
        let control = hot.control();
        let ([source, destination], [source_port, destination_port]) = (self.addresses(), hot.ports());
        Rewrite {
            source,
            destination,
            source_port,
            destination_port,
            l3_delta: end.l3_delta(),
            l4_delta: end.l4_delta(),
            outer_port: control.outer_port(),
            l2: end.l2(),
            flags: control.flags(),
        }
    }

    fn write(&self, half: &Half<Self::Key, Self::Address>, origin: u64, timeout_ms: u64, now: u32);
    fn hash(hasher: &super::hash::Hasher, key: &Self::Key) -> u64;
    fn protocol(key: &Self::Key) -> u8;
    /// The table's flows of this kind.
    fn family(table: &super::SessionTable) -> &super::Family<Self>
    where
        Self: Sized;
}

/// One direction of an IPv4 session.
#[derive(Default)]
#[repr(C, align(64))]
pub(super) struct EntryV4 {
    key: [AtomicU64; 2],
    hot: Hot,
    addresses: AtomicU64,
    end: End,
}

/// One direction of an IPv6 session.
#[derive(Default)]
#[repr(C, align(64))]
pub(super) struct EntryV6 {
    key: [AtomicU64; 5],
    hot: Hot,
    addresses: [AtomicU64; 4],
    end: End,
    reserved: [AtomicU64; 2],
}

#[cfg(not(feature = "shuttle"))]
const _: () = assert!(size_of::<EntryV4>() == 64 && size_of::<EntryV6>() == 128);

impl Entry for EntryV4 {
    type Key = FlowKeyV4;
    type Address = [u8; 4];

    #[inline(always)]
    fn hot(&self) -> &Hot {
        &self.hot
    }

    #[inline(always)]
    fn matches(&self, key: &FlowKeyV4) -> bool {
        let ([a, b], [x, y]) = (load_u64(&self.key), key.words());
        (a ^ x) | (b ^ y) == 0
    }

    fn key(&self) -> FlowKeyV4 {
        FlowKeyV4::from_words(load_u64(&self.key))
    }

    #[inline(always)]
    fn end(&self) -> &End {
        &self.end
    }

    #[inline(always)]
    fn addresses(&self) -> [[u8; 4]; 2] {
        zerocopy::transmute!(self.addresses.load(Relaxed))
    }

    fn origin(&self) -> u64 {
        self.end.origin.load(Relaxed)
    }

    fn write(&self, half: &Half<FlowKeyV4, [u8; 4]>, origin: u64, timeout_ms: u64, now: u32) {
        let Half { key, rewrite, .. } = half;
        self.key.iter().zip(key.words()).for_each(|(word, value)| word.store(value, Relaxed));
        self.addresses.store(zerocopy::transmute!([rewrite.source, rewrite.destination]), Relaxed);
        self.end.write(rewrite, origin);
        self.hot.write(rewrite, timeout_ms, now);
    }

    #[inline(always)]
    fn hash(hasher: &super::hash::Hasher, key: &FlowKeyV4) -> u64 {
        hasher.hash_2(key.words())
    }

    fn protocol(key: &FlowKeyV4) -> u8 {
        key.protocol()
    }

    #[inline(always)]
    fn family(table: &super::SessionTable) -> &super::Family<Self> {
        &table.v4
    }
}

impl Entry for EntryV6 {
    type Key = FlowKeyV6;
    type Address = [u8; 16];

    #[inline(always)]
    fn hot(&self) -> &Hot {
        &self.hot
    }

    #[inline(always)]
    fn matches(&self, key: &FlowKeyV6) -> bool {
        let ([a, b, c, d, e], [u, v, w, x, y]) = (load_u64(&self.key), key.words());
        (a ^ u) | (b ^ v) | (c ^ w) | (d ^ x) | (e ^ y) == 0
    }

    fn key(&self) -> FlowKeyV6 {
        FlowKeyV6::from_words(load_u64(&self.key))
    }

    #[inline(always)]
    fn end(&self) -> &End {
        &self.end
    }

    #[inline(always)]
    fn addresses(&self) -> [[u8; 16]; 2] {
        zerocopy::transmute!(load_u64(&self.addresses))
    }

    fn origin(&self) -> u64 {
        self.end.origin.load(Relaxed)
    }

    fn write(&self, half: &Half<FlowKeyV6, [u8; 16]>, origin: u64, timeout_ms: u64, now: u32) {
        let Half { key, rewrite, .. } = half;
        let addresses: [u64; 4] = zerocopy::transmute!([rewrite.source, rewrite.destination]);
        self.key.iter().zip(key.words()).for_each(|(word, value)| word.store(value, Relaxed));
        self.addresses.iter().zip(addresses).for_each(|(word, value)| word.store(value, Relaxed));
        self.end.write(rewrite, origin);
        self.hot.write(rewrite, timeout_ms, now);
    }

    #[inline(always)]
    fn hash(hasher: &super::hash::Hasher, key: &FlowKeyV6) -> u64 {
        hasher.hash_5(key.words())
    }

    fn protocol(key: &FlowKeyV6) -> u8 {
        key.protocol()
    }

    #[inline(always)]
    fn family(table: &super::SessionTable) -> &super::Family<Self> {
        &table.v6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_a_floor() {
        for seconds in (1..5000u32).chain([7440, 86400, 1 << 20, (1 << 21) - 1, 1 << 21]) {
            let timeout = u64::from(seconds) * 1000;
            let floor = 1u64 << patience(timeout);
            assert!(floor <= timeout && floor * 2 > timeout, "{timeout} {floor}");
        }
    }
}
