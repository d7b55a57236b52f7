//! Rewrites: all that happens to a packet of a flow, precomputed when its session is installed.

use crate::LifIndex;
use crate::checksum::ChecksumDelta;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What to do with a packet, beside the new values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RewriteFlags(pub u16);

impl RewriteFlags {
    /// Routed: write the MACs, decrement TTL or hop limit.
    pub const ROUTED: u16 = 1;
    /// Addresses or ports change.
    pub const TRANSLATE: u16 = 1 << 1;
    /// Drop instead of forwarding.
    pub const DROP: u16 = 1 << 2;
    /// Copy as received to the collector.
    pub const MIRROR: u16 = 1 << 3;
    /// Copy as sent to the collector.
    pub const SNOOP: u16 = 1 << 4;
    /// Second of the session's two flows: the direction against the request's own tuple.
    pub const REVERSE: u16 = 1 << 5;
    /// The session has ended (RST, FINs both ways, deleted): treat the packet as new.
    pub const DEAD: u16 = 1 << 6;
    /// The session has a rate limit, a hard timeout, or both.
    pub const POLICED: u16 = 1 << 7;

    /// What keeps a packet from just being rewritten and sent on.
    pub const SPECIAL: u16 = Self::DROP | Self::MIRROR | Self::SNOOP | Self::DEAD | Self::POLICED;

    /// Whether any of `mask` is set.
    #[inline]
    pub const fn any(self, mask: u16) -> bool {
        self.0 & mask != 0
    }
}

/// Destination and source MAC, the first twelve bytes of a frame, in the words they are kept and written in.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Macs {
    first: [u8; 8],
    last: [u8; 4],
}

impl Macs {
    /// Of two MACs.
    pub const fn new(destination: [u8; 6], source: [u8; 6]) -> Self {
        zerocopy::transmute!([destination, source])
    }

    /// Destination and source.
    pub const fn split(self) -> [[u8; 6]; 2] {
        zerocopy::transmute!(self)
    }

    #[inline(always)]
    pub(crate) fn words(self) -> (u64, u32) {
        (u64::from_ne_bytes(self.first), u32::from_ne_bytes(self.last))
    }

    #[inline(always)]
    pub(crate) fn from_words(first: u64, last: u32) -> Self {
        Self { first: first.to_ne_bytes(), last: last.to_ne_bytes() }
    }
}

/// How packets leave, below IP: shared by all flows that leave the same way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct L2Rewrite {
    /// New destination and source MAC, as in the Ethernet header, if [`RewriteFlags::ROUTED`]; zeros otherwise.
    pub macs: Macs,
    /// The LIF to leave on.
    pub out_lif: LifIndex,
}

/// Where the session table keeps an [`L2Rewrite`]: dense from 0, below [`MAX_L2_REWRITES`](crate::table::MAX_L2_REWRITES).
/// Stands for the same rewrite as long as a burst lasts; for longer, only while
/// [`SessionTable::l2_generation`](crate::SessionTable::l2_generation) stays the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct L2Index(pub u32);

/// A rewrite with addresses of `A` ([u8; 4] or [u8; 16], network order). All values are those to write, changed or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrite<A> {
    /// New source address.
    pub source: A,
    /// New destination address.
    pub destination: A,
    /// New source port, or ICMP identifier of a request; big-endian.
    pub source_port: [u8; 2],
    /// New destination port, or ICMP identifier of a reply; big-endian.
    pub destination_port: [u8; 2],
    /// For the IPv4 header checksum: addresses, and the TTL's step if [`RewriteFlags::ROUTED`].
    pub l3_delta: ChecksumDelta,
    /// For the TCP or UDP checksum (pseudo header's addresses and the ports), the ICMP checksum (the identifier) or the
    /// ICMPv6 checksum (both).
    pub l4_delta: ChecksumDelta,
    /// The outer UDP source port of the packets as rewritten: see [`entropy`](crate::entropy). Does not hold for IPv6
    /// packets with extension headers, nor for ICMP errors.
    pub outer_port: u16,
    /// Out LIF and MACs.
    pub l2: L2Index,
    /// What to do.
    pub flags: RewriteFlags,
}

/// Of an IPv4 flow.
pub type RewriteV4 = Rewrite<[u8; 4]>;
/// Of an IPv6 flow.
pub type RewriteV6 = Rewrite<[u8; 16]>;

/// What a rewrite writes, value by value: a flow reads each only when it is asked for, so that none waits in a register.
pub trait Values<A> {
    /// As [`Rewrite::source`] and [`Rewrite::destination`].
    fn addresses(&self) -> [A; 2];
    /// As [`Rewrite::source_port`] and [`Rewrite::destination_port`].
    fn ports(&self) -> [[u8; 2]; 2];
    /// As [`Rewrite::l3_delta`].
    fn l3_delta(&self) -> ChecksumDelta;
    /// As [`Rewrite::l4_delta`].
    fn l4_delta(&self) -> ChecksumDelta;
}

impl<A: Copy> Values<A> for Rewrite<A> {
    fn addresses(&self) -> [A; 2] {
        [self.source, self.destination]
    }

    fn ports(&self) -> [[u8; 2]; 2] {
        [self.source_port, self.destination_port]
    }

    fn l3_delta(&self) -> ChecksumDelta {
        self.l3_delta
    }

    fn l4_delta(&self) -> ChecksumDelta {
        self.l4_delta
    }
}
