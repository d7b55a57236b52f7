//! Group 2, first half, exits: lookup (a key was made), trap (`arp_nd`, `exception`, `new`), drop (`malformed`,
//! `bad_checksum`, `martian`, `unknown_lif`).
//!
//! Parses the tenant's frame once: what is invalid, what only the kernel can answer, and the key of the rest.

use crate::batch::{DropReason, Kind, Meta, Metas, Next, TrapClass};
use crate::extension::{self, Walk};
use crate::packet::{BURST, Packet};
use crate::related;
use crate::wire::ethernet::{self, ethertype};
use crate::wire::{
    Ethernet, Icmp, Ipv4, Ipv6, Tcp, Udp, icmp, icmpv6, ipv4, ipv6, protocol, tcp, udp, view, view_at,
};
use arrayvec::ArrayVec;
use conntrack::checksum::checksum;
use conntrack::{FlowKeyV4, FlowKeyV6, TcpFlags};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// The keys of a burst, and whose they are.
#[derive(Debug, Default)]
pub struct Keys {
    /// IPv4 keys.
    pub v4: ArrayVec<FlowKeyV4, BURST>,
    /// The packet of each.
    pub v4_packets: ArrayVec<u8, BURST>,
    /// IPv6 keys.
    pub v6: ArrayVec<FlowKeyV6, BURST>,
    /// The packet of each.
    pub v6_packets: ArrayVec<u8, BURST>,
}

impl Keys {
    // A burst holds no more packets than there is room for keys.
    #[inline(always)]
    fn push_v4(&mut self, packet: u8, key: FlowKeyV4) {
        let _ = self.v4.try_push(key);
        let _ = self.v4_packets.try_push(packet);
    }

    #[inline(always)]
    fn push_v6(&mut self, packet: u8, key: FlowKeyV6) {
        let _ = self.v6.try_push(key);
        let _ = self.v6_packets.try_push(packet);
    }

    fn clear(&mut self) {
        self.v4.clear();
        self.v4_packets.clear();
        self.v6.clear();
        self.v6_packets.clear();
    }
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

/// Takes the packets marked classify.
#[inline(never)]
pub fn run<P: Packet>(packets: &[P], metas: &mut Metas, keys: &mut Keys) {
    keys.clear();
    for ((index, packet), meta) in (0u8..).zip(packets).zip(metas) {
        if meta.next != Next::Classify {
            continue;
        }
        let head = packet.head();
        let ethertype = view_at::<Ethernet>(head, 0).map_or(0, |ethernet| ethernet.ethertype.get());
        let verdict = match ethertype {
            ethertype::IPV4 => classify_v4(head, meta, keys, index),
            ethertype::IPV6 => classify_v6(head, meta, keys, index),
            ethertype::ARP => Err(ARP_ND),
            other if ethertype::is_tag(other) => Err(Verdict::Drop(DropReason::UnknownLif)),
            _ => Err(EXCEPTION),
        };
        match verdict {
            Ok(()) => meta.next = Next::Lookup,
            Err(Verdict::Drop(reason)) => meta.drop(reason),
            Err(Verdict::Trap(class)) => meta.trap(class),
        }
    }
}

/// What is malformed if the frame really ends, and beyond the first segment otherwise.
pub(crate) fn short(head: &[u8], meta: &Meta) -> Verdict {
    if (head.len() as u32) < meta.frame_len { EXCEPTION } else { MALFORMED }
}

/// The first bytes of a frame with an IPv4 packet.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct FrameV4 {
    _ethernet: Ethernet,
    ip: Ipv4,
}

#[inline(always)]
fn classify_v4(head: &[u8], meta: &mut Meta, keys: &mut Keys, index: u8) -> Result<(), Verdict> {
    const L3: usize = ethernet::LEN;
    let Ok((FrameV4 { ip, .. }, l4)) = FrameV4::ref_from_prefix(head) else { return Err(short(head, meta)) };
    let total_len = usize::from(ip.total_len.get());
    if ip.version_ihl != 0x45 || ip.is_fragment() {
        return Err(unusual_v4(head, ip, meta));
    }
    if total_len < ipv4::LEN || L3 + total_len > meta.frame_len as usize {
        return Err(MALFORMED);
    }
    if !ip.has_right_checksum() {
        return Err(Verdict::Drop(DropReason::BadChecksum));
    }
    if is_martian_v4(ip.source, ip.destination) {
        return Err(MARTIAN);
    }
    meta.ip_len = total_len as u32;
    meta.tos = ip.tos;
    meta.l4 = (L3 + ipv4::LEN) as u16;
    let l4_len = total_len - ipv4::LEN;
    let ports = match ip.protocol {
        protocol::TCP => tcp_ports(head, l4, meta, l4_len)?,
        protocol::UDP => udp_ports(head, l4, meta, l4_len)?,
        protocol::ICMP => {
            let Some(icmp) = icmp_header(head, meta, l4_len)? else { return Err(MALFORMED) };
            match icmp.kind {
                icmp::ECHO_REQUEST | icmp::TIMESTAMP_REQUEST => query(meta, icmp, Kind::Request),
                icmp::ECHO_REPLY | icmp::TIMESTAMP_REPLY => query(meta, icmp, Kind::Reply),
                icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM => {
                    keys.push_v4(index, related::key_v4(head, meta)?);
                    return Ok(());
                }
                _ => return Err(NEW),
            }
        }
        _ => {
            meta.kind = Kind::Other;
            [0; 4]
        }
    };
    keys.push_v4(index, FlowKeyV4::from_wire(meta.in_lif, ip.protocol, ip.addresses(), ports));
    Ok(())
}

/// Options, fragments and nonsense.
#[cold]
fn unusual_v4(head: &[u8], ip: &Ipv4, meta: &Meta) -> Verdict {
    let header_len = ip.header_len();
    let total_len = usize::from(ip.total_len.get());
    let too_long = ethernet::LEN + total_len > meta.frame_len as usize;
    if ip.version() != 4 || header_len < ipv4::LEN || total_len < header_len || too_long {
        return MALFORMED;
    }
    match head.get(ethernet::LEN..ethernet::LEN + header_len) {
        None => short(head, meta),
        Some(header) if checksum(&[header]) != 0 => Verdict::Drop(DropReason::BadChecksum),
        _ if is_martian_v4(ip.source, ip.destination) => MARTIAN,
        _ => EXCEPTION,
    }
}

#[inline(always)]
fn classify_v6(head: &[u8], meta: &mut Meta, keys: &mut Keys, index: u8) -> Result<(), Verdict> {
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
    let [a, b, c, d] = match upper {
        protocol::TCP => tcp_ports(head, rest, meta, l4_len)?,
        protocol::UDP => udp_ports(head, rest, meta, l4_len)?,
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
                icmpv6::ECHO_REQUEST => query(meta, icmp, Kind::Request),
                icmpv6::ECHO_REPLY => query(meta, icmp, Kind::Reply),
                icmpv6::UNREACHABLE..=icmpv6::PARAMETER_PROBLEM => {
                    keys.push_v6(index, related::key_v6(head, meta)?);
                    return Ok(());
                }
                _ => return Err(NEW),
            }
        }
        _ => {
            meta.kind = Kind::Other;
            [0; 4]
        }
    };
    let (source, destination) = (ip.source.into(), ip.destination.into());
    let (source_port, destination_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let key = FlowKeyV6::new(meta.in_lif, upper, source, source_port, destination, destination_port);
    keys.push_v6(index, key);
    Ok(())
}

fn is_nd(kind: u8) -> bool {
    matches!(
        kind,
        icmpv6::MLD_QUERY..=icmpv6::MLD_DONE
            | icmpv6::ROUTER_SOLICITATION..=icmpv6::REDIRECT
            | icmpv6::MLD2_REPORT
    )
}

#[inline(always)]
fn tcp_ports(head: &[u8], l4: &[u8], meta: &mut Meta, l4_len: usize) -> Result<[u8; 4], Verdict> {
    if l4_len < tcp::LEN {
        return Err(MALFORMED);
    }
    let Some(tcp) = view::<Tcp>(l4) else { return Err(short(head, meta)) };
    let flags = TcpFlags(tcp.flags);
    let header_len = tcp.header_len();
    if header_len < tcp::LEN || header_len > l4_len || flags.is_invalid() {
        return Err(MALFORMED);
    }
    meta.kind = Kind::Tcp;
    meta.tcp_flags = flags;
    Ok(first_word(l4))
}

#[inline(always)]
fn udp_ports(head: &[u8], l4: &[u8], meta: &mut Meta, l4_len: usize) -> Result<[u8; 4], Verdict> {
    if l4_len < udp::LEN {
        return Err(MALFORMED);
    }
    let Some(udp) = view::<Udp>(l4) else { return Err(short(head, meta)) };
    let len = usize::from(udp.len.get());
    if len < udp::LEN || len > l4_len {
        return Err(MALFORMED);
    }
    meta.kind = Kind::Udp;
    Ok(first_word(l4))
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

fn query(meta: &mut Meta, icmp: &Icmp, kind: Kind) -> [u8; 4] {
    meta.kind = kind;
    if kind == Kind::Request { both(icmp.identifier, [0; 2]) } else { both([0; 2], icmp.identifier) }
}

/// Both ports of TCP and UDP, which begin with them.
#[inline(always)]
fn first_word(l4: &[u8]) -> [u8; 4] {
    l4.first_chunk().copied().unwrap_or_default()
}

/// Source and destination port, as they stand in a packet.
fn both([a, b]: [u8; 2], [c, d]: [u8; 2]) -> [u8; 4] {
    [a, b, c, d]
}

/// Addresses that no packet on a wire may have (RFC 1122 section 3.2.1.3): loopback either way, multicast or broadcast as
/// source, and both the same (the land attack).
#[inline(always)]
fn is_martian_v4(source: [u8; 4], destination: [u8; 4]) -> bool {
    let first = source[0];
    // One branch for all.
    (first == 127)
        | (first & 0xf0 == 0xe0)
        | (source == [255; 4])
        | (destination[0] == 127)
        | (source == destination)
}

#[inline]
fn is_martian_v6(source: &[u8; 16], destination: &[u8; 16]) -> bool {
    const LOOPBACK: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    source[0] == 0xff || *source == LOOPBACK || *destination == LOOPBACK || source == destination
}
