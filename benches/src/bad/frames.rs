//! IP packets of every kind, and the frames they come in: on VLAN 100, untagged, or in a tunnel of the underlay.

use crate::traffic;
use conntrack::Tuple;
use conntrack::checksum::checksum;
use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};
use std::net::{IpAddr, Ipv6Addr};

/// Bytes of an Ethernet header with a tag.
pub const TAGGED: usize = 18;
/// Where the outer IPv4 header of a tunnel packet is.
pub const OUTER_IP: usize = TAGGED;
/// Bytes before the frame in a tunnel packet.
const OUTER: usize = TAGGED + 20 + 8 + 8;
const PAYLOAD: [u8; 18] = [0x5a; 18];

/// UDP.
pub fn udp(tuple: &Tuple) -> Vec<u8> {
    let step = ip(tuple).udp(tuple.source_port, tuple.destination_port);
    written(|out| step.write(out, &PAYLOAD).is_ok())
}

/// TCP with ACK, and FIN if it is to end.
pub fn tcp(tuple: &Tuple, fin: bool, payload: &[u8]) -> Vec<u8> {
    let step = ip(tuple).tcp(tuple.source_port, tuple.destination_port, 1, 1024).ack(1);
    let step = if fin { step.fin() } else { step };
    written(|out| step.write(out, payload).is_ok())
}

/// An ICMP echo request; its identifier is the source port.
pub fn echo(tuple: &Tuple) -> Vec<u8> {
    let step = ip(tuple).icmpv4_echo_request(tuple.source_port, 1);
    written(|out| step.write(out, &PAYLOAD).is_ok())
}

/// "Destination unreachable" about `quoted`, of which as much comes back as must (RFC 792; RFC 4443: all of it).
pub fn unreachable(tuple: &Tuple, quoted: &[u8]) -> Vec<u8> {
    if tuple.source.is_ipv4() {
        let step = ip(tuple).icmpv4_raw(3, 1, [0; 4]);
        return written(|out| step.write(out, &quoted[..28]).is_ok());
    }
    icmp_v6(tuple, 1, quoted)
}

/// An ICMPv6 message of this type.
pub fn icmp_v6(tuple: &Tuple, kind: u8, body: &[u8]) -> Vec<u8> {
    let step = ip(tuple).icmpv6_raw(kind, 0, [0; 4]);
    written(|out| step.write(out, body).is_ok())
}

/// The same IPv4 packet otherwise, its header checksum right.
pub fn but(mut packet: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut packet);
    let len = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = checksum(&[&packet[..len]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// From the tenant, on VLAN 100.
pub fn on_vlan(packet: &[u8]) -> Vec<u8> {
    let mut frame = traffic::frame(0)[..TAGGED].to_vec();
    frame[16..].copy_from_slice(&ethertype(packet));
    [&frame, packet].concat()
}

/// From the tenant, without a tag.
pub fn untagged(packet: &[u8]) -> Vec<u8> {
    [&traffic::frame(0)[..12], &ethertype(packet), packet].concat()
}

/// From the server, in VXLAN.
pub fn tunnelled(packet: &[u8]) -> Vec<u8> {
    let macs = traffic::session(0).l2.map(|l2| l2.forward);
    let [to, from] = macs.map_or([[0; 6]; 2], |macs| [macs.source, macs.destination]);
    let inner = [&to, &from, &ethertype(packet)[..], packet].concat();
    let mut frame = [&traffic::hello()[..OUTER], &inner].concat();
    let udp = (OUTER - OUTER_IP - 20 + inner.len()) as u16;
    frame[OUTER_IP + 2..OUTER_IP + 4].copy_from_slice(&(udp + 20).to_be_bytes());
    frame[OUTER_IP + 24..OUTER_IP + 26].copy_from_slice(&udp.to_be_bytes());
    // No checksum of UDP's, as RFC 7348 section 5 has it.
    frame[OUTER_IP + 26..OUTER_IP + 28].fill(0);
    outside(&frame, |_| {})
}

/// The same tunnel packet with another outer header.
pub fn outside(frame: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let (ethernet, packet) = frame.split_at(OUTER_IP);
    [ethernet, &but(packet.to_vec(), change)].concat()
}

/// From the other end of the underlay, not in a tunnel.
pub fn on_underlay(packet: &[u8]) -> Vec<u8> {
    [&traffic::hello()[..TAGGED], packet].concat()
}

fn ethertype(packet: &[u8]) -> [u8; 2] {
    if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [0x08, 0x00] }
}

fn ip(tuple: &Tuple) -> PacketBuilderStep<IpHeaders> {
    let v6 = |ip| if let IpAddr::V6(ip) = ip { ip } else { Ipv6Addr::UNSPECIFIED };
    match (tuple.source, tuple.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            PacketBuilder::ipv4(source.octets(), destination.octets(), 64)
        }
        (source, destination) => PacketBuilder::ipv6(v6(source).octets(), v6(destination).octets(), 64),
    }
}

fn written(write: impl FnOnce(&mut Vec<u8>) -> bool) -> Vec<u8> {
    let mut packet = Vec::new();
    assert!(write(&mut packet), "a packet cannot be written");
    packet
}
