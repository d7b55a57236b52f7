//! IPv6 (RFC 8200).

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the fixed header.
pub const LEN: usize = 40;

/// An IPv6 header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub version_class_flow: U32,
    /// Everything after this header.
    pub payload_len: U16,
    /// Protocol or extension header.
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
}

impl Ipv6 {
    /// 6, if it is IPv6.
    #[inline]
    pub const fn version(&self) -> u8 {
        (self.version_class_flow.get() >> 28) as u8
    }

    /// DSCP and ECN.
    #[inline]
    pub const fn traffic_class(&self) -> u8 {
        (self.version_class_flow.get() >> 20) as u8
    }
}

/// The start of an extension header of the common form (hop-by-hop, routing, destination options).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Extension {
    /// What follows it.
    pub next_header: u8,
    /// Its length in 8-byte units, not counting the first.
    pub len: u8,
    /// Option type, or routing type.
    pub kind: u8,
    /// Option length, or the routing header's segments left.
    pub segments_left: u8,
}
