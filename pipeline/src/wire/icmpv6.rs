//! ICMPv6 (RFC 4443) and Neighbor Discovery (RFC 4861).

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use super::Icmp as Icmpv6;

/// Destination unreachable.
pub const UNREACHABLE: u8 = 1;
/// Parameter problem, the last of the errors that are translated.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Multicast listener query.
pub const MLD_QUERY: u8 = 130;
/// Multicast listener done.
pub const MLD_DONE: u8 = 132;
/// Router solicitation, the first of Neighbor Discovery's messages.
pub const ROUTER_SOLICITATION: u8 = 133;
/// Neighbor solicitation.
pub const NEIGHBOR_SOLICITATION: u8 = 135;
/// Neighbor advertisement.
pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Redirect, the last of Neighbor Discovery's messages.
pub const REDIRECT: u8 = 137;
/// Multicast listener report, version 2.
pub const MLD2_REPORT: u8 = 143;

/// The option that carries the source's MAC.
pub const SOURCE_LINK_LAYER: u8 = 1;
/// The option that carries the target's MAC.
pub const TARGET_LINK_LAYER: u8 = 2;
/// Advertisement: in answer to a solicitation.
pub const SOLICITED: u32 = 1 << 30;
/// Advertisement: replace what is cached.
pub const OVERRIDE: u32 = 1 << 29;

/// A neighbor solicitation or advertisement without options.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NeighborStart {
    /// [`NEIGHBOR_SOLICITATION`] or [`NEIGHBOR_ADVERTISEMENT`].
    pub kind: u8,
    /// 0.
    pub code: u8,
    /// Over the pseudo header and the message.
    pub checksum: U16,
    /// Of an advertisement.
    pub flags: U32,
    /// The address asked about.
    pub target: [u8; 16],
}

/// A neighbor solicitation or advertisement with one link-layer address option.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NeighborMessage {
    /// [`NEIGHBOR_SOLICITATION`] or [`NEIGHBOR_ADVERTISEMENT`].
    pub kind: u8,
    /// 0.
    pub code: u8,
    /// Over the pseudo header and the message.
    pub checksum: U16,
    /// Of an advertisement.
    pub flags: U32,
    /// The address asked about.
    pub target: [u8; 16],
    /// [`SOURCE_LINK_LAYER`] or [`TARGET_LINK_LAYER`].
    pub option: u8,
    /// 1, in 8-byte units.
    pub option_len: u8,
    /// The address.
    pub mac: [u8; 6],
}

/// Length of a message without options.
pub const NEIGHBOR_LEN: usize = size_of::<NeighborStart>();

/// The multicast address of every node on the link (RFC 4291 section 2.7.1).
pub const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// The multicast address that everybody with `target` listens on (RFC 4291 section 2.7.1).
pub fn solicited_node(target: [u8; 16]) -> [u8; 16] {
    let [.., a, b, c] = target;
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]
}

/// The MAC that a multicast address maps to (RFC 2464 section 7).
pub fn multicast_mac(address: [u8; 16]) -> [u8; 6] {
    let [.., a, b, c, d] = address;
    [0x33, 0x33, a, b, c, d]
}
