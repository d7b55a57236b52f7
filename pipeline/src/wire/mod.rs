//! Header views on bytes: `repr(C)`, unaligned, big-endian fields. A view exists only if all its bytes do: the constructors
//! (`ref_from_prefix` and its kin) check the length once.

pub mod ethernet;
pub mod arp;
pub mod ipv4;
pub mod ipv6;
pub mod tcp;
pub mod udp;
pub mod icmp;
pub mod icmpv6;
pub mod vxlan;
pub mod sum;

pub use arp::Arp;
pub use ethernet::{Ethernet, VlanTag};
pub use icmp::Icmp;
pub use icmpv6::{Icmpv6, NeighborMessage, NeighborStart};
pub use ipv4::Ipv4;
pub use ipv6::Ipv6;
pub use sum::Sum;
pub use tcp::Tcp;
pub use udp::Udp;
pub use vxlan::Vxlan;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The header at the beginning of `bytes`; None if they are too few.
#[inline(always)]
pub fn view<T: FromBytes + KnownLayout + Immutable + Unaligned>(bytes: &[u8]) -> Option<&T> {
    T::ref_from_prefix(bytes).ok().map(|(header, _)| header)
}

/// The header at `offset`; None if the bytes end before it does.
#[inline(always)]
pub fn view_at<T: FromBytes + KnownLayout + Immutable + Unaligned>(
    bytes: &[u8],
    offset: usize,
) -> Option<&T> {
    bytes.get(offset..).and_then(view)
}

/// The header at `offset`, to change; None if the bytes end before it does.
#[inline(always)]
pub fn view_mut<T: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned>(
    bytes: &mut [u8],
    offset: usize,
) -> Option<&mut T> {
    T::mut_from_prefix(bytes.get_mut(offset..)?).ok().map(|(header, _)| header)
}

/// IP protocol numbers (IANA).
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
}
