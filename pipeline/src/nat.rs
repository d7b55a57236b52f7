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
        let Some(l4) = L4::of(rest, meta.kind) else { return Applied::Short };
        ip.source = rewrite.source;
        ip.destination = rewrite.destination;
        l4.apply(rewrite);
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
        let l4 = rest.get_mut(extensions..).and_then(|l4| L4::of(l4, meta.kind));
        let Some(l4) = l4 else { return Applied::Short };
        ip.source = rewrite.source;
        ip.destination = rewrite.destination;
        l4.apply(rewrite);
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

/// What a rewrite changes behind the IP header.
enum L4<'f> {
    Tcp(&'f mut Tcp),
    Udp(&'f mut Udp),
    Request(&'f mut Icmp),
    Reply(&'f mut Icmp),
    Other,
}

impl<'f> L4<'f> {
    /// None if it is not all there.
    #[inline(always)]
    fn of(bytes: &'f mut [u8], kind: Kind) -> Option<Self> {
        Some(match kind {
            Kind::Udp => Self::Udp(view_mut(bytes, 0)?),
            Kind::Tcp => Self::Tcp(view_mut(bytes, 0)?),
            Kind::Request => Self::Request(view_mut(bytes, 0)?),
            Kind::Reply => Self::Reply(view_mut(bytes, 0)?),
            Kind::Other | Kind::Control | Kind::Error => Self::Other,
        })
    }

    /// Ports or identifier (the source port of requests, the destination port of replies), and the checksum.
    #[inline(always)]
    fn apply<A>(self, rewrite: &Rewrite<A>) {
        let delta = rewrite.l4_delta;
        match self {
            Self::Udp(udp) => {
                udp.source_port = rewrite.source_port;
                udp.destination_port = rewrite.destination_port;
                udp.checksum = U16::from_bytes(delta.apply_udp(udp.checksum.to_bytes()));
            }
            Self::Tcp(tcp) => {
                tcp.source_port = rewrite.source_port;
                tcp.destination_port = rewrite.destination_port;
                tcp.checksum = U16::from_bytes(delta.apply(tcp.checksum.to_bytes()));
            }
            Self::Request(icmp) => rewrite_query(icmp, rewrite.source_port, delta),
            Self::Reply(icmp) => rewrite_query(icmp, rewrite.destination_port, delta),
            Self::Other => {}
        }
    }
}

#[inline(always)]
fn rewrite_query(icmp: &mut Icmp, identifier: [u8; 2], delta: ChecksumDelta) {
    icmp.identifier = identifier;
    icmp.checksum = U16::from_bytes(delta.apply(icmp.checksum.to_bytes()));
}
