//! How frames are laid out and built: headers of each encapsulation, and checksums as sums of 16-bit words.

use super::flows::Tuple;
use super::profile::{Profile, Protocol, Side, Underlay};
use std::net::Ipv4Addr;
use std::ops::Range;

/// Headers around the inner Ethernet frame of a tunnel, tag left out.
const TUNNEL: usize = 14 + 20 + 8 + 8;
/// Bytes between frame and IP packet as RFC 2544 counts: Ethernet header and FCS.
const ETHERNET: usize = 18;

/// What is around the IP packet of a side's frames.
#[derive(Clone, Debug)]
pub struct Encapsulation {
    vlan: Option<u16>,
    tunnel: Option<Tunnel>,
}

#[derive(Clone, Debug)]
struct Tunnel {
    vni: u32,
    vlan: Option<u16>,
    /// Destination, source.
    macs: [[u8; 6]; 2],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    udp_port: u16,
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The generator.
    Us,
    /// The device under test.
    Gateway,
}

impl Encapsulation {
    /// Of the frames that `sender` sends on `side`.
    pub fn new(profile: &Profile, side: &Side, sender: Sender) -> Self {
        let tunnel = |(vni, underlay): (u32, &Underlay)| {
            let (ours, theirs) =
                ((underlay.mac.0, underlay.ip), (underlay.gateway_mac.0, underlay.gateway_ip));
            let (from, to) = if sender == Sender::Us { (ours, theirs) } else { (theirs, ours) };
            Tunnel {
                vni,
                vlan: (underlay.vlan != 0).then_some(underlay.vlan),
                macs: [to.0, from.0],
                source: from.1,
                destination: to.1,
                udp_port: underlay.udp_port,
            }
        };
        Self { vlan: side.vlan, tunnel: side.vni.zip(profile.underlay.as_ref()).map(tunnel) }
    }

    /// Where things are in such a frame.
    pub fn shape(&self, protocol: Protocol) -> Shape {
        let tag = |vlan: Option<u16>| if vlan.is_some() { 4 } else { 0 };
        let outer = self.tunnel.as_ref().map(|tunnel| 14 + tag(tunnel.vlan));
        let ethernet = outer.map_or(0, |ip| ip - 14 + TUNNEL);
        let ip = ethernet + 14 + tag(self.vlan);
        let l4 = ip + 20;
        let ports = if protocol == Protocol::Icmp { l4 + 4 } else { l4 };
        let checksum = l4
            + match protocol {
                Protocol::Udp => 6,
                Protocol::Tcp => 16,
                Protocol::Icmp => 2,
            };
        Shape { outer, ethernet, ip, l4, ports, checksum, payload: l4 + protocol.header() }
    }
}

/// Offsets in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Outer IP header of a tunnel.
    pub outer: Option<usize>,
    /// The Ethernet header around the inner IP packet.
    pub ethernet: usize,
    /// Inner IP header.
    pub ip: usize,
    /// TCP, UDP or ICMP header.
    pub l4: usize,
    /// Its ports, or identifier and sequence number of ICMP.
    pub ports: usize,
    /// Its checksum.
    pub checksum: usize,
    /// What follows it.
    pub payload: usize,
}

impl Shape {
    /// A frame's bytes in memory, with tags and tunnel, without FCS.
    pub fn len(&self, size: u16) -> usize {
        self.ip + usize::from(size) - ETHERNET
    }

    /// The header field that a byte belongs to, and where that is.
    pub fn field(&self, at: usize) -> (&'static str, Range<usize>) {
        let ethernet = |start: usize, ip: usize| {
            let mut fields = vec![("destination MAC", start, 6), ("source MAC", start + 6, 6)];
            if ip > start + 14 {
                fields.extend([("tag protocol", start + 12, 2), ("VLAN tag", start + 14, 2)]);
            }
            fields.push(("EtherType", ip - 2, 2));
            fields
        };
        let ipv4 = |start: usize| {
            [
                ("IP version", start, 1),
                ("DSCP", start + 1, 1),
                ("IP length", start + 2, 2),
                ("IP identification", start + 4, 2),
                ("IP fragment", start + 6, 2),
                ("TTL", start + 8, 1),
                ("IP protocol", start + 9, 1),
                ("IP checksum", start + 10, 2),
                ("source address", start + 12, 4),
                ("destination address", start + 16, 4),
            ]
        };
        let mut fields = Vec::new();
        if let Some(outer) = self.outer {
            fields.extend(ethernet(0, outer));
            fields.extend(ipv4(outer));
            let udp = outer + 20;
            fields.extend([("UDP source port", udp, 2), ("UDP destination port", udp + 2, 2)]);
            fields.extend([("UDP length", udp + 4, 2), ("UDP checksum", udp + 6, 2)]);
            fields.extend([
                ("VXLAN flags", udp + 8, 4),
                ("VNI", udp + 12, 3),
                ("VXLAN reserved byte", udp + 15, 1),
            ]);
        }
        fields.extend(ethernet(self.ethernet, self.ip));
        fields.extend(ipv4(self.ip));
        let mut fields = fields.into_iter().map(|(name, start, len)| (name, start..start + len));
        fields.find(|(_, range)| range.contains(&at)).unwrap_or(("L4 header", at..at + 1))
    }

    /// Addresses and ports as they are in a frame long enough.
    #[inline]
    pub fn tuple(&self, frame: &[u8]) -> (u64, u32) {
        let addresses = frame[self.ip + 12..].first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        let ports = frame[self.ports..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        (addresses, ports)
    }
}

/// What differs between the frames of one encapsulation.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    /// Destination, source of the Ethernet header around the IP packet.
    pub macs: [[u8; 6]; 2],
    /// Addresses and ports.
    pub tuple: Tuple,
    /// What the packet carries.
    pub protocol: Protocol,
    /// ICMP: a reply instead of a request.
    pub reply: bool,
    /// Time to live.
    pub ttl: u8,
    /// As RFC 2544 counts.
    pub size: u16,
}

/// A whole frame, its payload zero, all checksums right.
pub fn build(encapsulation: &Encapsulation, content: &Content) -> Vec<u8> {
    let shape = encapsulation.shape(content.protocol);
    let len = shape.len(content.size);
    let mut frame = Vec::with_capacity(len);
    if let Some(tunnel) = &encapsulation.tunnel {
        let inner = len - shape.ethernet;
        ethernet(&mut frame, tunnel.macs, tunnel.vlan);
        ipv4(&mut frame, tunnel.source.into(), tunnel.destination.into(), 17, 64, 36 + inner);
        let entropy = content.tuple.source_port ^ (content.tuple.source as u16) | 0xc000;
        for word in [entropy, tunnel.udp_port, (16 + inner) as u16, 0] {
            frame.extend(word.to_be_bytes());
        }
        frame.extend([8, 0, 0, 0]);
        frame.extend((tunnel.vni << 8).to_be_bytes());
    }
    ethernet(&mut frame, content.macs, encapsulation.vlan);
    let Tuple { source, destination, .. } = content.tuple;
    ipv4(&mut frame, source, destination, content.protocol.number(), content.ttl, len - shape.ip);
    l4(&mut frame, content, len - shape.l4);
    frame.resize(len, 0);
    let sum = !fold(l4_sum(&frame, &shape, content.protocol));
    let sum = if sum == 0 && content.protocol == Protocol::Udp { 0xffff } else { sum };
    frame[shape.checksum..shape.checksum + 2].copy_from_slice(&sum.to_ne_bytes());
    frame
}

fn ethernet(frame: &mut Vec<u8>, macs: [[u8; 6]; 2], vlan: Option<u16>) {
    frame.extend(macs.as_flattened());
    if let Some(vlan) = vlan {
        frame.extend([0x81, 0]);
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend([8, 0]);
}

fn ipv4(frame: &mut Vec<u8>, source: u32, destination: u32, protocol: u8, ttl: u8, len: usize) {
    let start = frame.len();
    frame.extend([0x45, 0]);
    frame.extend((len as u16).to_be_bytes());
    // No identification, and Don't Fragment (RFC 6864).
    frame.extend([0, 0, 0x40, 0, ttl, protocol, 0, 0]);
    frame.extend(source.to_be_bytes());
    frame.extend(destination.to_be_bytes());
    let sum = !fold(sum(&frame[start..]));
    frame[start + 10..start + 12].copy_from_slice(&sum.to_ne_bytes());
}

/// The header; its checksum is zero.
fn l4(frame: &mut Vec<u8>, content: &Content, len: usize) {
    let Tuple { source_port, destination_port, .. } = content.tuple;
    let words: &[u16] = match content.protocol {
        Protocol::Udp => &[source_port, destination_port, len as u16, 0],
        // Sequence and acknowledgement 1, ACK, window 8192.
        Protocol::Tcp => &[source_port, destination_port, 0, 1, 0, 1, 0x5010, 8192, 0, 0],
        // The identifier is the querier's, both ways.
        Protocol::Icmp if content.reply => &[0, 0, destination_port, 0],
        Protocol::Icmp => &[0x0800, 0, source_port, 0],
    };
    words.iter().for_each(|word| frame.extend(word.to_be_bytes()));
}

/// A sum of 16-bit words of memory, in this machine's byte order (RFC 1071, section 2 B: the order does not matter as long as
/// it is the same everywhere). An odd last byte counts as a word with a zero.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let all: u64 = words.iter().map(|word| halves(u64::from_ne_bytes(*word))).sum();
    all + halves(last(bytes, rest.len()))
}

/// The last bytes, fewer than eight, in front of zeroes: without a copy of a length not known when this is compiled.
#[inline]
fn last(bytes: &[u8], count: usize) -> u64 {
    match bytes.last_chunk::<8>() {
        _ if count == 0 => 0,
        Some(last) => (u64::from_le_bytes(*last) >> (64 - 8 * count)).to_le(),
        None => {
            let mut word = [0; 8];
            word[..count].copy_from_slice(bytes);
            u64::from_ne_bytes(word)
        }
    }
}

/// The sum of a word's halves.
#[inline]
pub fn halves(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

/// [`sum`] of an IPv4 header without options.
#[inline]
pub fn header_sum(header: &[u8; 20]) -> u64 {
    let (words, _) = header.as_chunks::<4>();
    words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum()
}

/// A sum in 16 bits.
#[inline]
pub fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The sum over a frame's L4 header and payload, and the pseudo-header where there is one; 0xffff if the checksum is right.
#[inline]
pub fn l4_sum(frame: &[u8], shape: &Shape, protocol: Protocol) -> u64 {
    let body = sum(&frame[shape.l4..]);
    if protocol == Protocol::Icmp {
        return body;
    }
    let len = ((frame.len() - shape.l4) as u16).to_be();
    let number = u16::from_ne_bytes([0, protocol.number()]);
    body + sum(&frame[shape.ip + 12..shape.ip + 20]) + u64::from(len) + u64::from(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::profile::tests::VLAN_TO_VXLAN;
    use etherparse::{LaxPacketHeaders, NetHeaders, TransportHeader};

    fn content(protocol: Protocol, size: u16) -> Content {
        let tuple = Tuple {
            source: 0x0a01_0005,
            destination: 0xc633_640a,
            source_port: 40_000,
            destination_port: 443,
        };
        Content { macs: [[2; 6], [4; 6]], tuple, protocol, reply: false, ttl: 64, size }
    }

    #[test]
    fn bytes_belong_to_fields() {
        let profile = Profile::parse(VLAN_TO_VXLAN).unwrap();
        let shape = |side| Encapsulation::new(&profile, side, Sender::Us).shape(Protocol::Udp);
        let (tagged, tunnelled) = (shape(&profile.inside), shape(&profile.outside));
        for (at, field) in [
            (5, ("destination MAC", 0..6)),
            (6, ("source MAC", 6..12)),
            (15, ("VLAN tag", 14..16)),
            (17, ("EtherType", 16..18)),
            (26, ("TTL", 26..27)),
            (40, ("L4 header", 40..41)),
        ] {
            assert_eq!(tagged.field(at), field);
        }
        for (at, field) in [
            (15, ("VLAN tag", 14..16)),
            (33, ("source address", 30..34)),
            (40, ("UDP destination port", 40..42)),
            (51, ("VNI", 50..53)),
            (54, ("destination MAC", 54..60)),
            (66, ("EtherType", 66..68)),
            (76, ("TTL", 76..77)),
        ] {
            assert_eq!(tunnelled.field(at), field);
        }
    }

    /// Judged by another implementation of the formats.
    #[test]
    fn frames_are_as_the_formats_say() {
        let profile = Profile::parse(VLAN_TO_VXLAN).unwrap();
        for protocol in [Protocol::Udp, Protocol::Tcp, Protocol::Icmp] {
            for size in [80, 81, 594, 1518, 9018] {
                for side in [&profile.inside, &profile.outside] {
                    let encapsulation = Encapsulation::new(&profile, side, Sender::Us);
                    let frame = build(&encapsulation, &content(protocol, size));
                    let shape = encapsulation.shape(protocol);
                    let inner = LaxPacketHeaders::from_ethernet(&frame[shape.ethernet..]).unwrap();
                    let Some(NetHeaders::Ipv4(ip, _)) = &inner.net else { panic!("no IPv4") };
                    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                    assert_eq!(usize::from(ip.total_len), usize::from(size) - 18);
                    let payload = inner.payload.slice();
                    let good = match inner.transport.as_ref().unwrap() {
                        TransportHeader::Udp(udp) => {
                            udp.checksum == udp.calc_checksum_ipv4(ip, payload).unwrap()
                        }
                        TransportHeader::Tcp(tcp) => {
                            tcp.checksum == tcp.calc_checksum_ipv4(ip, payload).unwrap()
                        }
                        TransportHeader::Icmpv4(icmp) => {
                            icmp.checksum == icmp.icmp_type.calc_checksum(payload)
                        }
                        TransportHeader::Icmpv6(_) | TransportHeader::Igmp(_) => false,
                    };
                    assert!(good, "{protocol:?} {size}");
                    assert_eq!(frame.len() - shape.payload, payload.len());
                }
            }
        }
    }

    #[test]
    fn a_tunnel_is_around_the_frame() {
        let profile = Profile::parse(VLAN_TO_VXLAN).unwrap();
        let encapsulation = Encapsulation::new(&profile, &profile.outside, Sender::Gateway);
        let frame = build(&encapsulation, &content(Protocol::Udp, 64));
        assert_eq!(frame.len(), 60 + 54);
        let outer = LaxPacketHeaders::from_ethernet(&frame).unwrap();
        let Some(NetHeaders::Ipv4(ip, _)) = &outer.net else { panic!("no IPv4") };
        assert_eq!((ip.source, ip.destination), ([192, 0, 2, 1], [192, 0, 2, 9]));
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        assert_eq!(usize::from(ip.total_len), frame.len() - 18);
        let Some(TransportHeader::Udp(udp)) = &outer.transport else { panic!("no UDP") };
        assert_eq!(usize::from(udp.length), frame.len() - 38);
        assert_eq!(outer.payload.slice()[..8], [8, 0, 0, 0, 0, 0x07, 0xd0, 0]);
    }

    #[test]
    fn sums_fold_to_sixteen_bits() {
        assert_eq!(fold(0xffff_ffff_ffff), 0xffff);
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(fold(0x1_0001), 2);
        let bytes: Vec<u8> = (1..40).collect();
        for len in 0..bytes.len() {
            let words = bytes[..len].chunks(2).map(|word| [word[0], word.get(1).copied().unwrap_or(0)]);
            let expected: u64 = words.map(|word| u64::from(u16::from_ne_bytes(word))).sum();
            assert_eq!(fold(sum(&bytes[..len])), fold(expected), "{len}");
        }
        assert_eq!(
            fold(sum(&[0x45, 0, 1])),
            fold(u64::from(u16::from_ne_bytes([0x45, 0])) + u64::from(u16::from_ne_bytes([1, 0])))
        );
    }
}
