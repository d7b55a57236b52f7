//! ICMP errors of sessions, exits: back to lookup, done or refused.
//!
//! An error quotes a packet that left on the LIF it arrives on; the session's flow against that direction is the quoted tuple
//! swapped, and its rewrite says what the other side knows these addresses as (RFC 5508 sections 4.2 and 7): the error goes to
//! the rewrite's destination, the quoted source becomes that destination, the quoted destination becomes the rewrite's source.

use crate::batch::{DropReason, Kind, Meta};
use crate::classify::{EXCEPTION, MALFORMED, Verdict, short};
use crate::extension::{self, Walk};
use crate::nat::Applied;
use crate::packet::Packet;
use crate::wire::{
    Icmp, Ipv4, Ipv6, Sum, Tcp, Udp, ethernet, icmp, icmpv6, ipv4, ipv6, protocol, udp, view_at, view_mut,
};
use conntrack::checksum::{ChecksumDelta, TTL_STEP};
use conntrack::{FlowKeyV4, FlowKeyV6, Rewrite, RewriteFlags, RewriteV4, RewriteV6};
use zerocopy::byteorder::network_endian::U16;

/// The key of the flow that an IPv4 error belongs to.
pub(crate) fn key_v4(head: &[u8], meta: &mut Meta) -> Result<FlowKeyV4, Verdict> {
    let l3 = usize::from(meta.l4) + icmp::LEN;
    let end = ethernet::LEN + meta.ip_len as usize;
    let ip = view_at::<Ipv4>(head, l3).filter(|_| l3 + ipv4::LEN <= end).ok_or(short(head, meta))?;
    if ip.version() != 4 || ip.header_len() < ipv4::LEN {
        return Err(MALFORMED);
    }
    if ip.fragment.get() & 0x1fff != 0 {
        return Err(EXCEPTION);
    }
    let l4 = l3 + ip.header_len();
    let (source_port, destination_port) = quoted_ports(head, meta, ip.protocol, l4, end)?;
    let (source, destination) = (ip.source.into(), ip.destination.into());
    Ok(FlowKeyV4::new(meta.in_lif, ip.protocol, destination, destination_port, source, source_port))
}

/// The key of the flow that an ICMPv6 error belongs to.
pub(crate) fn key_v6(head: &[u8], meta: &mut Meta) -> Result<FlowKeyV6, Verdict> {
    let l3 = usize::from(meta.l4) + icmp::LEN;
    let end = ethernet::LEN + meta.ip_len as usize;
    let ip = view_at::<Ipv6>(head, l3).filter(|_| l3 + ipv6::LEN <= end).ok_or(short(head, meta))?;
    if ip.version() != 6 {
        return Err(MALFORMED);
    }
    let Walk::Upper(upper, l4) = extension::walk(head, ip.next_header, l3 + ipv6::LEN, end) else {
        return Err(EXCEPTION);
    };
    let (source_port, destination_port) = quoted_ports(head, meta, upper, l4, end)?;
    let (source, destination) = (ip.source.into(), ip.destination.into());
    Ok(FlowKeyV6::new(meta.in_lif, upper, destination, destination_port, source, source_port))
}

/// Ports of the quoted packet, of which only the first 8 bytes after its IP header are sure to be there.
fn quoted_ports(
    head: &[u8],
    meta: &mut Meta,
    upper: u8,
    l4: usize,
    end: usize,
) -> Result<(u16, u16), Verdict> {
    meta.kind = Kind::Error;
    meta.quoted_protocol = upper;
    meta.quoted_l4 = l4 as u16;
    let start = || match view_at::<Udp>(head, l4) {
        Some(udp) if l4 + udp::LEN <= end => Ok(udp),
        _ => Err(EXCEPTION),
    };
    match upper {
        protocol::TCP | protocol::UDP => {
            let udp = start()?;
            Ok((u16::from_be_bytes(udp.source_port), u16::from_be_bytes(udp.destination_port)))
        }
        protocol::ICMP | protocol::ICMPV6 => {
            start()?;
            let icmp = view_at::<Icmp>(head, l4).ok_or(EXCEPTION)?;
            let identifier = u16::from_be_bytes(icmp.identifier);
            match query_kind(upper, icmp.kind) {
                Some(Kind::Request) => Ok((identifier, 0)),
                Some(_) => Ok((0, identifier)),
                None => Err(EXCEPTION),
            }
        }
        _ if l4 <= end => Ok((0, 0)),
        _ => Err(EXCEPTION),
    }
}

fn query_kind(upper: u8, kind: u8) -> Option<Kind> {
    match (upper, kind) {
        (protocol::ICMP, icmp::ECHO_REQUEST | icmp::TIMESTAMP_REQUEST) => Some(Kind::Request),
        (protocol::ICMP, icmp::ECHO_REPLY | icmp::TIMESTAMP_REPLY) => Some(Kind::Reply),
        (protocol::ICMPV6, icmpv6::ECHO_REQUEST) => Some(Kind::Request),
        (protocol::ICMPV6, icmpv6::ECHO_REPLY) => Some(Kind::Reply),
        _ => None,
    }
}

/// Whether the error's own checksum is right (RFC 5508 REQ-3, RFC 4443 section 2.3), over all segments.
pub(crate) fn checksum_is_right(packet: &impl Packet, meta: &Meta, is_v6: bool) -> bool {
    let start = usize::from(meta.l4);
    let end = ethernet::LEN + meta.ip_len as usize;
    let mut sum = Sum::default();
    if is_v6 {
        let Some(ip) = view_at::<Ipv6>(packet.head(), ethernet::LEN) else { return false };
        let len = end.saturating_sub(start) as u32;
        sum = Sum::pseudo(&ip.source, &ip.destination, protocol::ICMPV6, len);
    }
    let mut offset = 0;
    packet.for_each_segment(|segment| {
        let from = start.saturating_sub(offset).min(segment.len());
        let to = end.saturating_sub(offset).min(segment.len());
        sum.add(segment.get(from..to).unwrap_or_default());
        offset += segment.len();
    });
    sum.checksum() == 0
}

/// Translates an IPv4 error both outside and inside.
pub(crate) fn apply_v4(frame: &mut [u8], meta: &Meta, rewrite: &RewriteV4) -> Applied {
    const L3: usize = ethernet::LEN;
    let icmp_at = usize::from(meta.l4);
    let quoted_at = icmp_at + icmp::LEN;
    let Some(quoted) = view_at::<Ipv4>(frame, quoted_at).copied() else { return Applied::Short };
    let Some(outer) = view_mut::<Ipv4>(frame, L3) else { return Applied::Short };
    let routed = rewrite.flags.any(RewriteFlags::ROUTED);
    if routed && outer.ttl <= 1 {
        return Applied::Expired;
    }
    let mut l3 = ChecksumDelta::default();
    if outer.source == quoted.destination {
        set(&mut outer.source, rewrite.source, &mut l3);
    }
    set(&mut outer.destination, rewrite.destination, &mut l3);
    if routed {
        outer.ttl -= 1;
        l3 = l3.and(TTL_STEP);
    }
    outer.checksum = U16::from_bytes(l3.apply(outer.checksum.to_bytes()));
    // Addresses and header checksum of the quoted packet.
    let mut inside = ChecksumDelta::default();
    let mut pseudo = ChecksumDelta::default();
    if let Some(quoted) = view_mut::<Ipv4>(frame, quoted_at) {
        set(&mut quoted.source, rewrite.destination, &mut pseudo);
        set(&mut quoted.destination, rewrite.source, &mut pseudo);
        let checksum = U16::from_bytes(pseudo.apply(quoted.checksum.to_bytes()));
        inside = inside.and(pseudo);
        set_u16(&mut quoted.checksum, checksum, &mut inside);
    }
    finish(frame, meta, rewrite, inside, pseudo, ChecksumDelta::default())
}

/// Translates an ICMPv6 error both outside and inside.
pub(crate) fn apply_v6(frame: &mut [u8], meta: &Meta, rewrite: &RewriteV6) -> Applied {
    const L3: usize = ethernet::LEN;
    let icmp_at = usize::from(meta.l4);
    let quoted_at = icmp_at + icmp::LEN;
    let Some(quoted) = view_at::<Ipv6>(frame, quoted_at).copied() else { return Applied::Short };
    let Some(outer) = view_mut::<Ipv6>(frame, L3) else { return Applied::Short };
    let routed = rewrite.flags.any(RewriteFlags::ROUTED);
    if routed && outer.hop_limit <= 1 {
        return Applied::Expired;
    }
    let mut own_pseudo = ChecksumDelta::default();
    if outer.source == quoted.destination {
        set(&mut outer.source, rewrite.source, &mut own_pseudo);
    }
    set(&mut outer.destination, rewrite.destination, &mut own_pseudo);
    if routed {
        outer.hop_limit -= 1;
    }
    let mut pseudo = ChecksumDelta::default();
    if let Some(quoted) = view_mut::<Ipv6>(frame, quoted_at) {
        set(&mut quoted.source, rewrite.destination, &mut pseudo);
        set(&mut quoted.destination, rewrite.source, &mut pseudo);
    }
    finish(frame, meta, rewrite, pseudo, pseudo, own_pseudo)
}

/// Ports and checksum of the quoted packet, and the error's own checksum. `inside` is the difference made so far to
/// the quoted bytes, `pseudo` that to the quoted packet's pseudo header, `own_pseudo` that to the error's.
fn finish<A>(
    frame: &mut [u8],
    meta: &Meta,
    rewrite: &Rewrite<A>,
    mut inside: ChecksumDelta,
    pseudo: ChecksumDelta,
    own_pseudo: ChecksumDelta,
) -> Applied {
    let at = usize::from(meta.quoted_l4);
    // What the sender of the quoted packet called source is the destination of the flow the other way.
    let (source_port, destination_port) = (rewrite.destination_port, rewrite.source_port);
    let mut ports = ChecksumDelta::default();
    match meta.quoted_protocol {
        protocol::TCP | protocol::UDP => {
            if let Some(udp) = view_mut::<Udp>(frame, at) {
                set(&mut udp.source_port, source_port, &mut ports);
                set(&mut udp.destination_port, destination_port, &mut ports);
            }
        }
        protocol @ (protocol::ICMP | protocol::ICMPV6) => {
            if let Some(icmp) = view_mut::<Icmp>(frame, at) {
                let request = query_kind(protocol, icmp.kind) == Some(Kind::Request);
                let identifier = if request { source_port } else { destination_port };
                set(&mut icmp.identifier, identifier, &mut ports);
            }
        }
        _ => {}
    }
    inside = inside.and(ports);
    quoted_checksum(frame, meta, pseudo.and(ports), ports, &mut inside);
    if let Some(icmp) = view_mut::<Icmp>(frame, usize::from(meta.l4)) {
        icmp.checksum = U16::from_bytes(inside.and(own_pseudo).apply(icmp.checksum.to_bytes()));
    }
    Applied::Done
}

/// The checksum of the quoted transport header, if that much was quoted.
fn quoted_checksum(
    frame: &mut [u8],
    meta: &Meta,
    with_pseudo: ChecksumDelta,
    ports: ChecksumDelta,
    inside: &mut ChecksumDelta,
) {
    let at = usize::from(meta.quoted_l4);
    let end = ethernet::LEN + meta.ip_len as usize;
    match meta.quoted_protocol {
        protocol::TCP if at + crate::wire::tcp::LEN <= end => {
            if let Some(tcp) = view_mut::<Tcp>(frame, at) {
                let checksum = U16::from_bytes(with_pseudo.apply(tcp.checksum.to_bytes()));
                set_u16(&mut tcp.checksum, checksum, inside);
            }
        }
        protocol::UDP => {
            if let Some(udp) = view_mut::<Udp>(frame, at) {
                let checksum = U16::from_bytes(with_pseudo.apply_udp(udp.checksum.to_bytes()));
                set_u16(&mut udp.checksum, checksum, inside);
            }
        }
        protocol @ (protocol::ICMP | protocol::ICMPV6) => {
            let delta = if protocol == protocol::ICMP { ports } else { with_pseudo };
            if let Some(icmp) = view_mut::<Icmp>(frame, at) {
                let checksum = U16::from_bytes(delta.apply(icmp.checksum.to_bytes()));
                set_u16(&mut icmp.checksum, checksum, inside);
            }
        }
        _ => {}
    }
}

/// Writes `new` and adds the difference to `delta`.
fn set<const N: usize>(field: &mut [u8; N], new: [u8; N], delta: &mut ChecksumDelta) {
    *delta = delta.and(ChecksumDelta::replace(field, &new));
    *field = new;
}

fn set_u16(field: &mut U16, new: U16, delta: &mut ChecksumDelta) {
    *delta = delta.and(ChecksumDelta::replace(&field.to_bytes(), &new.to_bytes()));
    *field = new;
}

/// What an error with a wrong checksum is dropped under.
pub(crate) const WRONG: DropReason = DropReason::BadChecksum;
