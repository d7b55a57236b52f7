//! The rewrite of established packets, exits: back to lookup, done or refused. Writes what the flow's rewrite says and adds its
//! precomputed deltas to the checksums (RFC 1624): no checksum is ever computed anew, so none is repaired.

use crate::batch::{Kind, Meta};
use crate::wire::{Icmp, Ipv4, Ipv6, Tcp, Udp, view_mut};
use conntrack::{ChecksumDelta, L2Rewrite, Macs, RewriteFlags, Values};
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
pub fn apply_v4(
    frame: &mut [u8],
    meta: &Meta,
    flags: RewriteFlags,
    rewrite: &impl Values<[u8; 4]>,
) -> Applied {
    let Ok((FrameV4 { ip, .. }, rest)) = FrameV4::mut_from_prefix(frame) else { return Applied::Short };
    let routed = flags.any(RewriteFlags::ROUTED);
    if routed && ip.ttl <= 1 {
        return Applied::Expired;
    }
    if flags.any(RewriteFlags::TRANSLATE) {
        if translate(rest, meta.kind, rewrite).is_none() {
            return Applied::Short;
        }
        [ip.source, ip.destination] = rewrite.addresses();
    }
    ip.ttl -= u8::from(routed);
    ip.checksum = U16::from_bytes(rewrite.l3_delta().apply(ip.checksum.to_bytes()));
    Applied::Done
}

/// Rewrites an IPv6 frame, but for its MACs; extension headers may come before `meta.l4`.
#[inline]
pub fn apply_v6(
    frame: &mut [u8],
    meta: &Meta,
    flags: RewriteFlags,
    rewrite: &impl Values<[u8; 16]>,
) -> Applied {
    let Ok((FrameV6 { ip, .. }, rest)) = FrameV6::mut_from_prefix(frame) else { return Applied::Short };
    let routed = flags.any(RewriteFlags::ROUTED);
    if routed && ip.hop_limit <= 1 {
        return Applied::Expired;
    }
    if flags.any(RewriteFlags::TRANSLATE) {
        let extensions = usize::from(meta.l4).saturating_sub(size_of::<FrameV6>());
        let l4 = rest.get_mut(extensions..);
        if l4.and_then(|l4| translate(l4, meta.kind, rewrite)).is_none() {
            return Applied::Short;
        }
        [ip.source, ip.destination] = rewrite.addresses();
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

/// What changes behind the IP header: ports or identifier, and the checksum. None, and nothing changed, if they are not all there.
#[inline(always)]
fn translate<A>(l4: &mut [u8], kind: Kind, rewrite: &impl Values<A>) -> Option<()> {
    // One by one, not by a table: most packets are of these two.
    if kind == Kind::Udp {
        let udp: &mut Udp = view_mut(l4, 0)?;
        [udp.source_port, udp.destination_port] = rewrite.ports();
        udp.checksum = U16::from_bytes(rewrite.l4_delta().apply_udp(udp.checksum.to_bytes()));
    } else if kind == Kind::Tcp {
        let tcp: &mut Tcp = view_mut(l4, 0)?;
        [tcp.source_port, tcp.destination_port] = rewrite.ports();
        tcp.checksum = U16::from_bytes(rewrite.l4_delta().apply(tcp.checksum.to_bytes()));
    } else {
        translate_query(l4, kind, rewrite.ports(), rewrite.l4_delta())?;
    }
    Some(())
}

/// The same for what is neither: the identifier of requests is their source port, that of replies their destination port.
#[cold]
#[inline(never)]
fn translate_query(
    l4: &mut [u8],
    kind: Kind,
    [source_port, destination_port]: [[u8; 2]; 2],
    delta: ChecksumDelta,
) -> Option<()> {
    let identifier = match kind {
        Kind::Request => source_port,
        Kind::Reply => destination_port,
        _ => return Some(()),
    };
    let icmp: &mut Icmp = view_mut(l4, 0)?;
    icmp.identifier = identifier;
    icmp.checksum = U16::from_bytes(delta.apply(icmp.checksum.to_bytes()));
    Some(())
}
