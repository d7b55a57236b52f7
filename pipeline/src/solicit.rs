//! The gateway's own questions, exits: egress. ARP requests and Neighbor Solicitations for neighbours that packets wait for,
//! or whose address needs confirming; to everybody, or to the last known MAC alone.

use crate::counters::Other;
use crate::egress::Out;
use crate::local::finish;
use crate::neighbors::Solicit;
use crate::packet::{Io, Packet};
use crate::tunnel::Tunnel;
use crate::wire::ethernet::{self, BROADCAST, TAG_LEN, ethertype};
use crate::wire::{Arp, Ethernet, Ipv6, NeighborMessage, VlanTag, arp, icmpv6, protocol};
use crate::worker::Context;
use arrayvec::ArrayVec;
use std::net::IpAddr;
use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::{U16, U32};

/// Longest: tagged Ethernet, IPv6, solicitation with one option.
const LONGEST: usize = ethernet::LEN + TAG_LEN + size_of::<Ipv6>() + size_of::<NeighborMessage>();

type Bytes = ArrayVec<u8, LONGEST>;

/// Sends what is due.
#[inline]
pub fn run<P: Packet>(cx: &Context<'_>, out: &mut Out<'_, P, impl Io<P>>) {
    if out.due.is_empty() {
        return;
    }
    for index in std::mem::take(out.due) {
        let Some(solicit) = cx.shared.neighbors.solicitation(index) else { continue };
        let Some(tunnel) = cx.shared.tunnel(solicit.link) else { continue };
        let bytes = build(tunnel, &solicit);
        let packet = out.io.allocate().and_then(|mut packet| {
            packet.append(bytes.len())?;
            packet.head_mut().get_mut(..bytes.len())?.copy_from_slice(&bytes);
            Some(packet)
        });
        match packet {
            Some(packet) => {
                cx.counters.other(Other::Originated, 1);
                out.send(cx, tunnel.port, packet);
            }
            None => cx.counters.other(Other::NoBuffer, 1),
        }
    }
}

fn build(tunnel: &Tunnel, solicit: &Solicit) -> Bytes {
    let mut bytes = Bytes::new();
    let mut put = |part: &[u8]| {
        // LONGEST is the sum of all parts.
        let _ = bytes.try_extend_from_slice(part);
    };
    let (l3_type, group) = match tunnel.local_ip {
        IpAddr::V4(_) => (ethertype::ARP, BROADCAST),
        IpAddr::V6(_) => {
            (ethertype::IPV6, icmpv6::multicast_mac(icmpv6::solicited_node(solicit.address.v6())))
        }
    };
    let first_type = if tunnel.vlan == 0 { l3_type } else { ethertype::VLAN };
    let destination = solicit.mac.unwrap_or(group);
    put(Ethernet { destination, source: tunnel.mac, ethertype: U16::new(first_type) }.as_bytes());
    if tunnel.vlan != 0 {
        put(VlanTag { tci: U16::new(tunnel.vlan), ethertype: U16::new(l3_type) }.as_bytes());
    }
    match tunnel.local_ip {
        IpAddr::V4(local) => {
            let target = (solicit.mac.unwrap_or_default(), solicit.address.v4());
            put(Arp::new(arp::REQUEST, (tunnel.mac, local.octets()), target).as_bytes());
        }
        IpAddr::V6(local) => {
            let target = solicit.address.v6();
            let to = if solicit.mac.is_some() { target } else { icmpv6::solicited_node(target) };
            put(Ipv6 {
                version_class_flow: U32::new(6 << 28),
                payload_len: U16::new(size_of::<NeighborMessage>() as u16),
                next_header: protocol::ICMPV6,
                hop_limit: 255,
                source: local.octets(),
                destination: to,
            }
            .as_bytes());
            let mut message = NeighborMessage {
                kind: icmpv6::NEIGHBOR_SOLICITATION,
                code: 0,
                checksum: U16::ZERO,
                flags: U32::ZERO,
                target,
                option: icmpv6::SOURCE_LINK_LAYER,
                option_len: 1,
                mac: tunnel.mac,
            };
            finish(&mut message, &local.octets(), &to);
            put(message.as_bytes());
        }
    }
    bytes
}
