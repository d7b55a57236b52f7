//! The rewrite of established packets, exits: back to lookup, done or refused. Writes what the flow's rewrite says and adds its
//! precomputed deltas to the checksums (RFC 1624): no checksum is ever computed anew, so none is repaired.

use crate::batch::{Kind, Meta};
use crate::wire::{Icmp, Ipv4, Ipv6, Tcp, Udp, view_mut};
use conntrack::{ChecksumDelta, L2Rewrite, Macs, Rewrite, RewriteFlags, RewriteV4, RewriteV6};
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What came of a rewrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The packet can go.
    Done,
    /// TTL or hop limit would reach 0: nothing was changed.
    Expired,
    /// The headers are not all in the first segment: nothing was changed.
    Short,
}

/// An Ethernet header, its MACs together.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Link {
    macs: Macs,
    ethertype: [u8; 2],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct FrameV4 {
    link: Link,
    ip: Ipv4,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct FrameV6 {
    link: Link,
    ip: Ipv6,
}

/// Rewrites an IPv4 frame without options, but for its MACs.
#[inline(always)]
pub fn apply_v4(frame: &mut [u8], meta: &Meta, rewrite: &RewriteV4) -> Applied {
    let Ok((FrameV4 { ip, .. }, rest)) = FrameV4::mut_from_prefix(frame) else { return Applied::Short };
    let routed = rewrite.flags.any(RewriteFlags::ROUTED);
    if routed && ip.ttl <= 1 {
        return Applied::Expired;
    }
    if rewrite.flags.any(RewriteFlags::TRANSLATE) {
        if !rewrite_l4(rest, meta.kind, rewrite) {
            return Applied::Short;
        }
        ip.source = rewrite.source;
        ip.destination = rewrite.destination;
    }
    ip.ttl -= u8::from(routed);
    ip.checksum = U16::from_bytes(rewrite.l3_delta.apply(ip.checksum.to_bytes()));
    Applied::Done
}

/// Rewrites an IPv6 frame, but for its MACs; extension headers may come before `meta.l4`.
#[inline]
pub fn apply_v6(frame: &mut [u8], meta: &Meta, rewrite: &RewriteV6) -> Applied {
    let Ok((FrameV6 { ip, .. }, rest)) = FrameV6::mut_from_prefix(frame) else { return Applied::Short };
    let routed = rewrite.flags.any(RewriteFlags::ROUTED);
    if routed && ip.hop_limit <= 1 {
        return Applied::Expired;
    }
    if rewrite.flags.any(RewriteFlags::TRANSLATE) {
        let extensions = usize::from(meta.l4).saturating_sub(size_of::<FrameV6>());
        let Some(l4) = rest.get_mut(extensions..) else { return Applied::Short };
        if !rewrite_l4(l4, meta.kind, rewrite) {
            return Applied::Short;
        }
        ip.source = rewrite.source;
        ip.destination = rewrite.destination;
    }
    ip.hop_limit -= u8::from(routed);
    Applied::Done
}

/// Writes the MACs of a packet that is routed, where `encap` does not do that with its other headers.
pub fn write_macs(frame: &mut [u8], flags: RewriteFlags, l2: &L2Rewrite) {
    if flags.any(RewriteFlags::ROUTED)
        && let Some(link) = view_mut::<Link>(frame, 0)
    {
        link.macs = l2.macs;
    }
}

/// Ports or identifier, and the checksum; false if they are not all there (nothing changed).
#[inline(always)]
fn rewrite_l4<A>(l4: &mut [u8], kind: Kind, rewrite: &Rewrite<A>) -> bool {
    let delta = rewrite.l4_delta;
    if kind == Kind::Tcp {
        let Some(tcp) = view_mut::<Tcp>(l4, 0) else { return false };
        tcp.source_port = rewrite.source_port;
        tcp.destination_port = rewrite.destination_port;
        tcp.checksum = U16::from_bytes(delta.apply(tcp.checksum.to_bytes()));
        true
    } else if kind == Kind::Udp {
        let Some(udp) = view_mut::<Udp>(l4, 0) else { return false };
        udp.source_port = rewrite.source_port;
        udp.destination_port = rewrite.destination_port;
        udp.checksum = U16::from_bytes(delta.apply_udp(udp.checksum.to_bytes()));
        true
    } else {
        rewrite_query(l4, kind, rewrite.source_port, rewrite.destination_port, delta)
    }
}

/// ICMP's identifier: the source port of requests, the destination port of replies.
#[inline(never)]
fn rewrite_query(l4: &mut [u8], kind: Kind, request: [u8; 2], reply: [u8; 2], delta: ChecksumDelta) -> bool {
    let identifier = match kind {
        Kind::Request => request,
        Kind::Reply => reply,
        _ => return true,
    };
    let Some(icmp) = view_mut::<Icmp>(l4, 0) else { return false };
    icmp.identifier = identifier;
    icmp.checksum = U16::from_bytes(delta.apply(icmp.checksum.to_bytes()));
    true
}
