//! The gateway's own addresses on the underlay and the trap link, exits: egress (an answer, or used up), drop (`malformed`,
//! `bad_checksum`, `not_for_us`, `not_vxlan`).
//!
//! Answers ARP, Neighbor Solicitations (duplicate address detection's too) and echo requests in the packet they came in; learns from ARP and ND.

use crate::PortIndex;
use crate::batch::{DropReason, Meta, Next};
use crate::counters::Other;
use crate::neighbors::{Address, Link};
use crate::packet::Packet;
use crate::tunnel::Tunnel;
use crate::wire::ethernet::{self, ethertype};
use crate::wire::{
    Arp, Ethernet, Icmp, Ipv4, Ipv6, NeighborMessage, NeighborStart, Sum, VlanTag, arp, icmp, icmpv6, ipv4,
    ipv6, protocol, view_at, view_mut,
};
use crate::worker::Context;
use conntrack::checksum::{ChecksumDelta, checksum};
use std::net::IpAddr;
use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::{U16, U32};

/// What came of it.
enum Outcome {
    Answer,
    Consumed,
}

/// Takes the packets marked local, which arrived on `port`.
#[inline]
pub fn run<P: Packet>(cx: &Context<'_>, port: PortIndex, packets: &mut [P], metas: &mut [Meta]) {
    for (packet, meta) in packets.iter_mut().zip(metas) {
        if meta.next == Next::Local {
            handle(cx, port, packet, meta);
        }
    }
}

#[cold]
fn handle(cx: &Context<'_>, port: PortIndex, packet: &mut impl Packet, meta: &mut Meta) {
    let is_trap = port == cx.shared.trap.port;
    let Some(tunnel) = cx.shared.tunnel(if is_trap { Link::Trap } else { Link::Underlay }) else {
        return meta.drop(DropReason::NotForUs);
    };
    let l2 = usize::from(meta.l2);
    let head = packet.head();
    let l3_type = match l2 {
        ethernet::LEN => view_at::<Ethernet>(head, 0).map(|ethernet| ethernet.ethertype.get()),
        _ => view_at::<VlanTag>(head, ethernet::LEN).map(|tag| tag.ethertype.get()),
    };
    let outcome = match l3_type {
        Some(ethertype::ARP) => arp_message(cx, tunnel, packet.head_mut(), l2),
        Some(ethertype::IPV4) => echo_v4(tunnel, packet.head_mut(), l2),
        Some(ethertype::IPV6) => match is_right_v6(packet, l2) {
            Ok(()) => icmp_v6(cx, tunnel, packet, l2),
            Err(reason) => Err(reason),
        },
        _ => Err(DropReason::NotForUs),
    };
    match outcome {
        Ok(Outcome::Consumed) => meta.next = Next::Consumed,
        Ok(Outcome::Answer) => {
            cx.counters.other(Other::Consumed, 1);
            cx.counters.other(Other::Originated, 1);
            meta.send(tunnel.port);
        }
        Err(reason) => meta.drop(reason),
    }
}

/// RFC 826, "packet reception".
fn arp_message(cx: &Context<'_>, tunnel: &Tunnel, head: &mut [u8], l2: usize) -> Result<Outcome, DropReason> {
    let IpAddr::V4(local) = tunnel.local_ip else { return Err(DropReason::NotForUs) };
    let message = view_mut::<Arp>(head, l2).ok_or(DropReason::Malformed)?;
    if !message.is_ipv4() {
        return Err(DropReason::Malformed);
    }
    let for_us = message.target_ip == local.octets();
    let (mac, ip) = (message.sender_mac, message.sender_ip);
    let sender = Address::from(IpAddr::from(ip));
    let reply = message.operation.get() == arp::REPLY;
    if ip != [0; 4] && ip != local.octets() {
        let confirmed = reply && for_us;
        let create = for_us && !reply;
        note(cx, tunnel.link, sender, mac, confirmed, create);
    }
    match message.operation.get() {
        _ if !for_us => Err(DropReason::NotForUs),
        arp::REQUEST => {
            *message = Arp::new(arp::REPLY, (tunnel.mac, local.octets()), (mac, ip));
            address_back(head, tunnel, mac);
            Ok(Outcome::Answer)
        }
        arp::REPLY => Ok(Outcome::Consumed),
        _ => Err(DropReason::Malformed),
    }
}

fn note(cx: &Context<'_>, link: Link, address: Address, mac: [u8; 6], confirmed: bool, create: bool) {
    if !cx.shared.neighbors.learn(link, address, mac, confirmed, create, cx.now_ms) {
        cx.counters.other(Other::NeighborFull, 1);
    }
}

fn address_back(head: &mut [u8], tunnel: &Tunnel, to: [u8; 6]) {
    if let Some(ethernet) = view_mut::<Ethernet>(head, 0) {
        ethernet.destination = to;
        ethernet.source = tunnel.mac;
    }
}

/// Answers an echo request; the header was checked on the way here.
fn echo_v4(tunnel: &Tunnel, head: &mut [u8], l2: usize) -> Result<Outcome, DropReason> {
    let ip = view_mut::<Ipv4>(head, l2).ok_or(DropReason::Malformed)?;
    if ip.protocol != protocol::ICMP || ip.header_len() != ipv4::LEN {
        return Err(DropReason::NotVxlan);
    }
    let IpAddr::V4(local) = tunnel.local_ip else { return Err(DropReason::NotForUs) };
    let len = usize::from(ip.total_len.get());
    let to = ip.source;
    if len < ipv4::LEN + icmp::LEN {
        return Err(DropReason::Malformed);
    }
    let at = l2 + ipv4::LEN;
    match view_at::<Icmp>(head, at) {
        Some(icmp) if icmp.kind == icmp::ECHO_REQUEST && icmp.code == 0 => {}
        Some(_) => return Err(DropReason::NotVxlan),
        None => return Err(DropReason::Malformed),
    }
    if let Some(icmp) = view_mut::<Icmp>(head, at) {
        let delta = ChecksumDelta::replace(&[icmp::ECHO_REQUEST, 0], &[icmp::ECHO_REPLY, 0]);
        icmp.kind = icmp::ECHO_REPLY;
        icmp.checksum = U16::from_bytes(delta.apply(icmp.checksum.to_bytes()));
    }
    if let Some(ip) = view_mut::<Ipv4>(head, l2) {
        (ip.source, ip.destination) = (local.octets(), to);
        ip.ttl = 64;
        ip.checksum = U16::ZERO;
        ip.checksum = U16::new(checksum(&[ip.as_bytes()]));
    }
    let mac = view_at::<Ethernet>(head, 0).map(|ethernet| ethernet.source).ok_or(DropReason::Malformed)?;
    address_back(head, tunnel, mac);
    Ok(Outcome::Answer)
}

/// Checks lengths and checksum of an ICMPv6 message.
fn is_right_v6(packet: &impl Packet, l2: usize) -> Result<(), DropReason> {
    let ip = view_at::<Ipv6>(packet.head(), l2).ok_or(DropReason::Malformed)?;
    if ip.next_header != protocol::ICMPV6 {
        return Err(DropReason::NotVxlan);
    }
    let start = l2 + ipv6::LEN;
    let len = usize::from(ip.payload_len.get());
    let mut sum = Sum::pseudo(&ip.source, &ip.destination, protocol::ICMPV6, len as u32);
    let mut offset = 0;
    packet.for_each_segment(|segment| {
        let from = start.saturating_sub(offset).min(segment.len());
        let to = (start + len).saturating_sub(offset).min(segment.len());
        sum.add(segment.get(from..to).unwrap_or_default());
        offset += segment.len();
    });
    if sum.checksum() == 0 { Ok(()) } else { Err(DropReason::BadChecksum) }
}

fn icmp_v6(
    cx: &Context<'_>,
    tunnel: &Tunnel,
    packet: &mut impl Packet,
    l2: usize,
) -> Result<Outcome, DropReason> {
    let IpAddr::V6(local) = tunnel.local_ip else { return Err(DropReason::NotForUs) };
    let at = l2 + ipv6::LEN;
    let ip = *view_at::<Ipv6>(packet.head(), l2).ok_or(DropReason::Malformed)?;
    let kind = *packet.head().get(at).ok_or(DropReason::Malformed)?;
    match kind {
        icmpv6::NEIGHBOR_SOLICITATION | icmpv6::NEIGHBOR_ADVERTISEMENT => {
            neighbor_message(cx, tunnel, packet, l2, &ip)
        }
        _ if ip.destination != local.octets() => Err(DropReason::NotForUs),
        icmpv6::ECHO_REQUEST => {
            let head = packet.head_mut();
            let icmp = view_mut::<Icmp>(head, at).ok_or(DropReason::Malformed)?;
            let delta =
                ChecksumDelta::replace(&[icmpv6::ECHO_REQUEST, icmp.code], &[icmpv6::ECHO_REPLY, icmp.code]);
            icmp.kind = icmpv6::ECHO_REPLY;
            icmp.checksum = U16::from_bytes(delta.apply(icmp.checksum.to_bytes()));
            if let Some(header) = view_mut::<Ipv6>(head, l2) {
                (header.source, header.destination) = (ip.destination, ip.source);
                header.hop_limit = 64;
            }
            let mac = view_at::<Ethernet>(head, 0).map(|e| e.source).ok_or(DropReason::Malformed)?;
            address_back(head, tunnel, mac);
            Ok(Outcome::Answer)
        }
        _ => Err(DropReason::NotVxlan),
    }
}

/// RFC 4861 sections 7.1 and 7.2. Only the first option is looked at.
fn neighbor_message(
    cx: &Context<'_>,
    tunnel: &Tunnel,
    packet: &mut impl Packet,
    l2: usize,
    ip: &Ipv6,
) -> Result<Outcome, DropReason> {
    let (head, at) = (packet.head(), l2 + ipv6::LEN);
    let len = usize::from(ip.payload_len.get());
    if ip.hop_limit != 255 || len < icmpv6::NEIGHBOR_LEN {
        return Err(DropReason::Malformed);
    }
    let start = view_at::<NeighborStart>(head, at).ok_or(DropReason::Malformed)?;
    let (kind, flags, target) = (start.kind, start.flags.get(), start.target);
    let option = view_at::<NeighborMessage>(head, at)
        .filter(|message| len >= size_of::<NeighborMessage>() && message.option_len == 1)
        .map(|message| (message.option, message.mac));
    let from = view_at::<Ethernet>(head, 0).map(|ethernet| ethernet.source).ok_or(DropReason::Malformed)?;
    if kind == icmpv6::NEIGHBOR_ADVERTISEMENT {
        // In answer to a unicast solicitation the option may be absent (section 4.4).
        let mac = match option {
            Some((icmpv6::TARGET_LINK_LAYER, mac)) => mac,
            _ => from,
        };
        let confirmed = flags & icmpv6::SOLICITED != 0;
        note(cx, tunnel.link, IpAddr::from(target).into(), mac, confirmed, false);
        return Ok(Outcome::Consumed);
    }
    let local = tunnel.local().v6();
    if target != local {
        return Err(DropReason::NotForUs);
    }
    let asker = match option {
        Some((icmpv6::SOURCE_LINK_LAYER, mac)) => Some(mac),
        _ => None,
    };
    let (to, to_mac, flags) = match asker {
        // Duplicate address detection: whoever asks has no address yet (RFC 4862 section 5.4.3, RFC 4861 section 7.2.4).
        None if ip.source == [0; 16] && ip.destination == icmpv6::solicited_node(local) => {
            (icmpv6::ALL_NODES, icmpv6::multicast_mac(icmpv6::ALL_NODES), icmpv6::OVERRIDE)
        }
        // Section 7.1.1: then it has no link-layer address to give either, and asks the group.
        _ if ip.source == [0; 16] => return Err(DropReason::Malformed),
        Some(mac) => {
            note(cx, tunnel.link, IpAddr::from(ip.source).into(), mac, false, true);
            (ip.source, mac, icmpv6::SOLICITED | icmpv6::OVERRIDE)
        }
        None => return Err(DropReason::NotVxlan),
    };
    // A question without options is shorter than the answer.
    let missing = (at + size_of::<NeighborMessage>()).saturating_sub(packet.head().len());
    let whole = packet.head().len() == packet.total_len();
    if missing > 0 && !(whole && packet.append(missing).is_some()) {
        return Err(DropReason::Malformed);
    }
    let head = packet.head_mut();
    if let Some(message) = view_mut::<NeighborMessage>(head, at) {
        *message = advertisement(tunnel.mac, local, to, flags);
    }
    if let Some(header) = view_mut::<Ipv6>(head, l2) {
        (header.source, header.destination) = (local, to);
        header.hop_limit = 255;
        // Further options of the question stay behind as padding.
        header.payload_len = U16::new(size_of::<NeighborMessage>() as u16);
    }
    address_back(head, tunnel, to_mac);
    Ok(Outcome::Answer)
}

fn advertisement(mac: [u8; 6], local: [u8; 16], to: [u8; 16], flags: u32) -> NeighborMessage {
    let mut message = NeighborMessage {
        kind: icmpv6::NEIGHBOR_ADVERTISEMENT,
        code: 0,
        checksum: U16::ZERO,
        flags: U32::new(flags),
        target: local,
        option: icmpv6::TARGET_LINK_LAYER,
        option_len: 1,
        mac,
    };
    finish(&mut message, &local, &to);
    message
}

/// Fills in the checksum.
pub(crate) fn finish(message: &mut NeighborMessage, source: &[u8; 16], destination: &[u8; 16]) {
    let len = size_of::<NeighborMessage>() as u32;
    let mut sum = Sum::pseudo(source, destination, protocol::ICMPV6, len);
    message.checksum = U16::ZERO;
    sum.add(message.as_bytes());
    message.checksum = U16::new(sum.checksum());
}
