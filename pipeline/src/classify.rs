//! Group 2, first half, exits: lookup (a key was made), trap (`arp_nd`, `exception`, `new`), drop (`malformed`,
//! `bad_checksum`, `martian`, `unknown_lif`).
//!
//! Parses the tenant's frame once: what is invalid, what only the kernel can answer, and the key of the rest.

use crate::batch::{DropReason, Kind, Meta, Next, TrapClass};
use crate::extension::{self, Walk};
use crate::packet::{CHUNK, Packet};
use crate::related;
use crate::wire::ethernet::{self, ethertype};
use crate::wire::{
    Ethernet, Icmp, Ipv4, Ipv6, Tcp, Udp, icmp, icmpv6, ipv4, ipv6, protocol, tcp, udp, view, view_at,
};
use arrayvec::ArrayVec;
use conntrack::checksum::checksum;
use conntrack::table::{Asked, Burst, Unsettled};
use conntrack::{FlowKeyV4, FlowKeyV6, TcpFlags};
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// The keys of a chunk, as they were asked for under the packets' places in it.
#[derive(Debug, Default)]
pub struct Keys {
    /// Of IPv4 packets.
    pub v4: ArrayVec<Asked<FlowKeyV4>, CHUNK>,
    /// Of IPv6 packets.
    pub v6: ArrayVec<Asked<FlowKeyV6>, CHUNK>,
    /// Of the former and of the latter, what seeking has not settled.
    pub unsettled: [Unsettled; 2],
}

/// What else a packet can be but one with a key.
pub(crate) enum Verdict {
    Drop(DropReason),
    Trap(TrapClass),
}

pub(crate) const MALFORMED: Verdict = Verdict::Drop(DropReason::Malformed);
const MARTIAN: Verdict = Verdict::Drop(DropReason::Martian);
pub(crate) const EXCEPTION: Verdict = Verdict::Trap(TrapClass::Exception);
const NEW: Verdict = Verdict::Trap(TrapClass::New);
const ARP_ND: Verdict = Verdict::Trap(TrapClass::ArpNd);

/// Takes the packets marked classify, and asks `burst` for their keys.
#[inline(never)]
pub fn run<P: Packet>(burst: &Burst<'_>, packets: &[P], metas: &mut [Meta], keys: &mut Keys) {
    keys.v4.clear();
    keys.v6.clear();
    // A chunk has no more packets than there is room for keys.
    for (index, (packet, meta)) in (0u8..).zip(packets.iter().zip(metas)) {
        if meta.next != Next::Classify {
            continue;
        }
        let head = packet.head();
        if let Ok((frame, l4)) = FrameV4::ref_from_prefix(head)
            && frame.ethertype.get() == ethertype::IPV4.swap_bytes()
        {
            if let Err(verdict) = classify_v4(head, frame, l4, meta, |key| {
                let _ = keys.v4.try_push(burst.ask_v4(key, index));
            }) {
                mark(meta, verdict);
                continue;
            }
        } else if let Some(key) = classify_other(head, meta) {
            let _ = keys.v6.try_push(burst.ask_v6(key, index));
        } else {
            continue;
        }
        meta.next = Next::Lookup;
    }
}

#[inline(never)]
fn mark(meta: &mut Meta, verdict: Verdict) {
    match verdict {
        Verdict::Drop(reason) => meta.drop(reason),
        Verdict::Trap(class) => meta.trap(class),
    }
}

/// All but IPv4, out of the way of its registers. None: marked.
#[inline(never)]
fn classify_other(head: &[u8], meta: &mut Meta) -> Option<FlowKeyV6> {
    let key = match view::<Ethernet>(head).map_or(0, |ethernet| ethernet.ethertype.get()) {
        ethertype::IPV6 => classify_v6(head, meta),
        ethertype::IPV4 => Err(short(head, meta)),
        ethertype::ARP => Err(ARP_ND),
        other if ethertype::is_tag(other) => Err(Verdict::Drop(DropReason::UnknownLif)),
        _ => Err(EXCEPTION),
    };
    key.map_err(|verdict| mark(meta, verdict)).ok()
}

/// What is malformed if the frame really ends, and beyond the first segment otherwise.
pub(crate) fn short(head: &[u8], meta: &Meta) -> Verdict {
    if (head.len() as u32) < meta.frame_len { EXCEPTION } else { MALFORMED }
}

/// The first bytes of a frame with an IPv4 packet, in the words they are read in; the lowest byte of each comes first in
/// the packet.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct FrameV4 {
    macs: [u8; 12],
    ethertype: U16,
    /// Version and header length, type of service, total length.
    first: U32,
    /// Identification, flags and fragment offset.
    second: U32,
    /// TTL, protocol, checksum.
    third: U32,
    source: U32,
    destination: U32,
}

/// `l4` is what follows the header if it has no options.
#[inline(always)]
fn classify_v4(
    head: &[u8],
    frame: &FrameV4,
    l4: &[u8],
    meta: &mut Meta,
    mut with: impl FnMut(FlowKeyV4),
) -> Result<(), Verdict> {
    const L3: usize = ethernet::LEN;
    let (first, second, third) = (frame.first.get(), frame.second.get(), frame.third.get());
    let (source, destination) = (frame.source.get(), frame.destination.get());
    let addresses = u64::from(source) | u64::from(destination) << 32;
    if !ipv4::is_plain(first, second) {
        return Err(unusual_v4(head, meta));
    }
    let total_len = first.swap_bytes() & 0xffff;
    if total_len < ipv4::LEN as u32 || L3 as u32 + total_len > meta.frame_len {
        return Err(MALFORMED);
    }
    if !ipv4::sum_is_right(first, second, third, addresses) {
        return Err(Verdict::Drop(DropReason::BadChecksum));
    }
    if is_martian_v4(source, destination) {
        return Err(MARTIAN);
    }
    meta.ip_len = total_len;
    meta.tos = (first >> 8) as u8;
    meta.l4 = (L3 + ipv4::LEN) as u16;
    let l4_len = total_len as usize - ipv4::LEN;
    let protocol = (third >> 8) as u8;
    let ports = match protocol {
        protocol::UDP => udp_ports(l4, meta, l4_len),
        protocol::TCP => tcp_ports(l4, meta, l4_len),
        protocol::ICMP => return icmp_v4(head, addresses, meta, l4_len).map(with),
        _ => Some(0),
    };
    let Some(ports) = ports else { return Err(no_ports(head, l4, meta, protocol, l4_len)) };
    // Not as a result: that would be in memory on its way.
    with(FlowKeyV4::from_wire(meta.in_lif, protocol, addresses, ports));
    Ok(())
}

#[inline(never)]
fn icmp_v4(head: &[u8], addresses: u64, meta: &mut Meta, l4_len: usize) -> Result<FlowKeyV4, Verdict> {
    let Some(icmp) = icmp_header(head, meta, l4_len)? else { return Err(MALFORMED) };
    let ports = match icmp.kind {
        icmp::ECHO_REQUEST | icmp::TIMESTAMP_REQUEST => query(meta, icmp, Kind::Request),
        icmp::ECHO_REPLY | icmp::TIMESTAMP_REPLY => query(meta, icmp, Kind::Reply),
        icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM => {
            return related::key_v4(head, meta);
        }
        _ => return Err(NEW),
    };
    Ok(FlowKeyV4::from_wire(meta.in_lif, protocol::ICMP, addresses, ports))
}

/// Options, fragments and nonsense.
#[cold]
fn unusual_v4(head: &[u8], meta: &Meta) -> Verdict {
    let Some(ip) = view_at::<Ipv4>(head, ethernet::LEN) else { return short(head, meta) };
    let header_len = ip.header_len();
    let total_len = usize::from(ip.total_len.get());
    let too_long = ethernet::LEN + total_len > meta.frame_len as usize;
    if ip.version() != 4 || header_len < ipv4::LEN || total_len < header_len || too_long {
        return MALFORMED;
    }
    match head.get(ethernet::LEN..ethernet::LEN + header_len) {
        None => short(head, meta),
        Some(header) if checksum(&[header]) != 0 => Verdict::Drop(DropReason::BadChecksum),
        _ if is_martian_v4(u32::from_le_bytes(ip.source), u32::from_le_bytes(ip.destination)) => MARTIAN,
        _ => EXCEPTION,
    }
}

#[inline(always)]
fn classify_v6(head: &[u8], meta: &mut Meta) -> Result<FlowKeyV6, Verdict> {
    const L3: usize = ethernet::LEN;
    let Some(ip) = view_at::<Ipv6>(head, L3) else { return Err(short(head, meta)) };
    let ip_len = ipv6::LEN + usize::from(ip.payload_len.get());
    if ip.version() != 6 || L3 + ip_len > meta.frame_len as usize {
        return Err(MALFORMED);
    }
    if is_martian_v6(&ip.source, &ip.destination) {
        return Err(MARTIAN);
    }
    meta.ip_len = ip_len as u32;
    meta.tos = ip.traffic_class();
    let (upper, l4) = match extension::walk(head, ip.next_header, L3 + ipv6::LEN, L3 + ip_len) {
        Walk::Upper(upper, l4) => (upper, l4),
        Walk::Malformed => return Err(short(head, meta)),
        Walk::Exception => return Err(EXCEPTION),
    };
    meta.l4 = l4 as u16;
    let l4_len = L3 + ip_len - l4;
    let rest = head.get(l4..).unwrap_or_default();
    let ports = match upper {
        protocol::TCP => tcp_ports(rest, meta, l4_len),
        protocol::UDP => udp_ports(rest, meta, l4_len),
        protocol::ICMPV6 => {
            let kind = match view_at::<[u8; 4]>(head, l4) {
                Some([kind, ..]) if l4_len >= 4 => *kind,
                _ => return Err(short(head, meta)),
            };
            if is_nd(kind) {
                return Err(ARP_ND);
            }
            let Some(icmp) = icmp_header(head, meta, l4_len)? else { return Err(MALFORMED) };
            match kind {
                icmpv6::ECHO_REQUEST => Some(query(meta, icmp, Kind::Request)),
                icmpv6::ECHO_REPLY => Some(query(meta, icmp, Kind::Reply)),
                icmpv6::UNREACHABLE..=icmpv6::PARAMETER_PROBLEM => return related::key_v6(head, meta),
                _ => return Err(NEW),
            }
        }
        _ => Some(0),
    };
    let Some(ports) = ports else { return Err(no_ports(head, rest, meta, upper, l4_len)) };
    let (source, destination) = (ip.source.into(), ip.destination.into());
    let [a, b, c, d] = ports.to_le_bytes();
    let (source_port, destination_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Ok(FlowKeyV6::new(meta.in_lif, upper, source, source_port, destination, destination_port))
}

fn is_nd(kind: u8) -> bool {
    matches!(
        kind,
        icmpv6::MLD_QUERY..=icmpv6::MLD_DONE
            | icmpv6::ROUTER_SOLICITATION..=icmpv6::REDIRECT
            | icmpv6::MLD2_REPORT
    )
}

/// Both ports of a valid header of TCP.
#[inline(always)]
fn tcp_ports(l4: &[u8], meta: &mut Meta, l4_len: usize) -> Option<u32> {
    let tcp: &Tcp = view(l4)?;
    let flags = TcpFlags(tcp.flags);
    let header_len = tcp.header_len();
    if header_len < tcp::LEN || header_len > l4_len || flags.is_invalid() {
        return None;
    }
    meta.tcp_flags = flags;
    meta.kind = if flags.is_control() { Kind::Control } else { Kind::Tcp };
    Some(first_word(l4))
}

/// Both ports of a valid header of UDP.
#[inline(always)]
fn udp_ports(l4: &[u8], meta: &mut Meta, l4_len: usize) -> Option<u32> {
    let udp: &Udp = view(l4)?;
    let len = usize::from(udp.len.get());
    if len < udp::LEN || len > l4_len {
        return None;
    }
    meta.kind = Kind::Udp;
    Some(first_word(l4))
}

/// What has no valid header of TCP or UDP: malformed, unless the header goes on beyond the first segment.
#[cold]
fn no_ports(head: &[u8], l4: &[u8], meta: &Meta, protocol: u8, l4_len: usize) -> Verdict {
    let header_len = if protocol == protocol::TCP { tcp::LEN } else { udp::LEN };
    if l4.len() < header_len && l4_len >= header_len { short(head, meta) } else { MALFORMED }
}

/// The ICMP header, if the packet is long enough for one.
fn icmp_header<'h>(head: &'h [u8], meta: &Meta, l4_len: usize) -> Result<Option<&'h Icmp>, Verdict> {
    if l4_len < icmp::LEN {
        return Ok(None);
    }
    match view_at::<Icmp>(head, usize::from(meta.l4)) {
        Some(icmp) => Ok(Some(icmp)),
        None => Err(short(head, meta)),
    }
}

fn query(meta: &mut Meta, icmp: &Icmp, kind: Kind) -> u32 {
    meta.kind = kind;
    let identifier = u32::from(u16::from_le_bytes(icmp.identifier));
    if kind == Kind::Request { identifier } else { identifier << 16 }
}

/// Both ports of TCP and UDP, which begin with them, as one little-endian word.
#[inline(always)]
fn first_word(l4: &[u8]) -> u32 {
    l4.first_chunk().map_or(0, |word| u32::from_le_bytes(*word))
}

/// Addresses that no packet on a wire may have (RFC 1122 section 3.2.1.3): loopback either way, multicast or broadcast as
/// source, and both the same (the land attack). Little-endian.
#[inline(always)]
fn is_martian_v4(source: u32, destination: u32) -> bool {
    let (from, to) = (source as u8, destination as u8);
    // Of the first bytes from 224 on, those from 240 to 254 are no multicast: looked at again.
    (from >= 224 || from == 127 || to == 127 || source == destination)
        && (from < 240 || is_martian_from_240(source, destination))
}

/// Of the sources in 240.0.0.0/4, only the broadcast address is martian.
#[cold]
fn is_martian_from_240(source: u32, destination: u32) -> bool {
    source == u32::MAX || destination as u8 == 127 || source == destination
}

#[inline]
fn is_martian_v6(source: &[u8; 16], destination: &[u8; 16]) -> bool {
    const LOOPBACK: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    source[0] == 0xff || *source == LOOPBACK || *destination == LOOPBACK || source == destination
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn martians_are_those_of_rfc_1122() {
        let addresses = || (0..=255u8).flat_map(|first| [[first, 0, 0, 1], [first, 255, 255, 255]]);
        for (source, destination) in addresses().flat_map(|s| addresses().map(move |d| (s, d))) {
            let (from, to) = (Ipv4Addr::from(source), Ipv4Addr::from(destination));
            let expected = from.is_loopback()
                || to.is_loopback()
                || from.is_multicast()
                || from.is_broadcast()
                || from == to;
            let is_martian = is_martian_v4(u32::from_le_bytes(source), u32::from_le_bytes(destination));
            assert_eq!(is_martian, expected, "{from} to {to}");
        }
    }
}
