//! Outer headers: what a tunnel packet must look like on receipt, and the template of what is sent.

use crate::PortIndex;
use crate::batch::DropReason;
use crate::neighbors::{Address, Link};
use crate::packet::Packet;
use crate::wire::ethernet::{self, TAG_LEN, ethertype, is_group};
use crate::wire::{
    Ethernet, Ipv4, Ipv6, Udp, VlanTag, Vxlan, ipv4, ipv6, protocol, udp, view, view_at, vxlan,
};
use conntrack::checksum::checksum;
use conntrack::entropy::{outer_port_l2, outer_port_v4, outer_port_v6};
use conntrack::{ChecksumDelta, Macs};
use std::net::IpAddr;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian;
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

const TTL: u8 = 64;
const LONGEST: usize = V6_TAGGED;
const V4: usize = ethernet::LEN + size_of::<TailV4>();
const V4_TAGGED: usize = V4 + TAG_LEN;
const V6: usize = ethernet::LEN + size_of::<TailV6>();
const V6_TAGGED: usize = V6 + TAG_LEN;
/// Bytes of a frame's MACs.
const MACS: usize = size_of::<Macs>();

/// One of the gateway's two links, with its own address there.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// Which.
    pub link: Link,
    /// The port.
    pub port: PortIndex,
    /// The tag; 0 = untagged.
    pub vlan: u16,
    /// The gateway's MAC.
    pub mac: [u8; 6],
    /// The gateway's address.
    pub local_ip: IpAddr,
    local: Address,
    /// The same in little-endian words; the first of IPv4 is all.
    local_words: [u64; 2],
    /// The first bytes of what is sent to the gateway's MAC, as a little-endian word; two more follow.
    start: u64,
    udp_port: u16,
    template: [u8; LONGEST],
    shape: Shape,
}

/// What outer headers consist of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// IPv4, no tag.
    #[default]
    V4,
    /// IPv4 behind a tag.
    V4Tagged,
    /// IPv6, no tag.
    V6,
    /// IPv6 behind a tag.
    V6Tagged,
}

impl Shape {
    fn new(is_v4: bool, vlan: u16) -> Self {
        match (is_v4, vlan) {
            (true, 0) => Self::V4,
            (true, _) => Self::V4Tagged,
            (false, 0) => Self::V6,
            (false, _) => Self::V6Tagged,
        }
    }

    /// Bytes.
    fn len(self) -> usize {
        match self {
            Self::V4 => V4,
            Self::V4Tagged => V4_TAGGED,
            Self::V6 => V6,
            Self::V6Tagged => V6_TAGGED,
        }
    }
}

/// What a packet received on a link is.
#[derive(Clone, Copy, Debug)]
pub enum Received {
    /// A frame in a tunnel.
    Frame {
        /// Of which network.
        vni: u32,
        /// From which VTEP.
        source: Address,
        /// The outer source MAC.
        mac: [u8; 6],
        /// The outer ECN bits.
        ecn: u8,
        /// Bytes before the frame.
        headers: usize,
        /// Bytes up to the frame's end.
        end: usize,
    },
    /// Something else, that may concern the gateway itself.
    Local,
    /// Invalid, or somebody else's.
    Drop(DropReason),
}

/// A frame in a tunnel, by what its outer headers say.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Of which network.
    pub vni: u32,
    /// From which VTEP.
    pub source: Source,
    /// The outer ECN bits.
    pub ecn: u8,
    /// Bytes before the frame.
    pub headers: usize,
    /// Bytes up to the frame's end.
    pub end: usize,
}

/// A VTEP's address, in little-endian words.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// IPv4.
    V4(u32),
    /// IPv6.
    V6([u64; 2]),
}

/// Outer headers over IPv4 without options, from the Ethernet type on, in the little-endian words they are read in.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct OuterV4 {
    ethertype: little_endian::U16,
    first: little_endian::U32,
    second: little_endian::U32,
    third: little_endian::U32,
    source: little_endian::U32,
    destination: little_endian::U32,
    ports: little_endian::U32,
    len: U16,
    _checksum: U16,
    vxlan: Vxlan,
}

/// The same over IPv6 without extension headers.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct OuterV6 {
    ethertype: little_endian::U16,
    class: U16,
    _flow: U16,
    payload_len: U16,
    next_header: u8,
    _hop_limit: u8,
    source: [little_endian::U64; 2],
    destination: [little_endian::U64; 2],
    ports: little_endian::U32,
    len: U16,
    _checksum: U16,
    vxlan: Vxlan,
}

/// Where a tunnel packet goes.
#[derive(Clone, Copy, Debug)]
pub struct Remote {
    /// Next hop.
    pub mac: [u8; 6],
    /// VTEP.
    pub address: Address,
}

impl Tunnel {
    /// A link and its template.
    pub fn new(
        link: Link,
        port: PortIndex,
        mac: [u8; 6],
        vlan: u16,
        local_ip: IpAddr,
        udp_port: u16,
    ) -> Self {
        let mut template = [0; LONGEST];
        let is_v4 = local_ip.is_ipv4();
        let l3_type = if is_v4 { ethertype::IPV4 } else { ethertype::IPV6 };
        let first_type = if vlan == 0 { l3_type } else { ethertype::VLAN };
        let mut len = 0usize;
        let mut put = |bytes: &[u8]| {
            if let Some(to) = template.get_mut(len..len + bytes.len()) {
                to.copy_from_slice(bytes);
            }
            len += bytes.len();
        };
        put(Ethernet { destination: [0; 6], source: mac, ethertype: U16::new(first_type) }.as_bytes());
        if vlan != 0 {
            put(VlanTag { tci: U16::new(vlan), ethertype: U16::new(l3_type) }.as_bytes());
        }
        match local_ip {
            IpAddr::V4(source) => put(ipv4_header(source.octets()).as_bytes()),
            IpAddr::V6(source) => put(ipv6_header(source.octets()).as_bytes()),
        }
        let port_bytes = udp_port.to_be_bytes();
        put(Udp { source_port: [0; 2], destination_port: port_bytes, len: U16::ZERO, checksum: U16::ZERO }
            .as_bytes());
        put(Vxlan::new(0).as_bytes());
        Self {
            link,
            port,
            vlan,
            mac,
            local_ip,
            local: local_ip.into(),
            local_words: match local_ip {
                IpAddr::V4(ip) => [u32::from_le_bytes(ip.octets()).into(), 0],
                IpAddr::V6(ip) => {
                    let bits = u128::from_le_bytes(ip.octets());
                    [bits as u64, (bits >> 64) as u64]
                }
            },
            start: u64::from_le_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0]),
            udp_port,
            template,
            shape: Shape::new(is_v4, vlan),
        }
    }

    /// The frame in the packet, if it is as usual: over IPv4 without options, to this gateway's own MAC. None says nothing of it:
    /// [`receive`](Self::receive) does.
    #[inline(always)]
    pub fn arrival_v4(&self, head: &[u8], total_len: usize, l2: usize) -> Option<Arrival> {
        let outer: &OuterV4 = view_at(head, l2.checked_sub(size_of::<U16>())?)?;
        let (first, second, third) = (outer.first.get(), outer.second.get(), outer.third.get());
        if !ipv4::is_plain(first, second) || outer.ethertype.get() != ethertype::IPV4.swap_bytes() {
            return None;
        }
        let (source, destination) = (outer.source.get(), outer.destination.get());
        let addresses = u64::from(source) | u64::from(destination) << 32;
        if u64::from(destination) != self.local_words[0]
            || !ipv4::sum_is_right(first, second, third, addresses)
        {
            return None;
        }
        if (third >> 8) as u8 != protocol::UDP || !self.is_ours(head, outer.ports) {
            return None;
        }
        let ip_len = (first.swap_bytes() & 0xffff) as usize;
        let udp_len = usize::from(outer.len.get());
        let fits = l2 + ip_len <= total_len && ipv4::LEN + udp_len <= ip_len;
        if !fits || udp_len < udp::LEN + vxlan::LEN + ethernet::LEN {
            return None;
        }
        let headers = l2 + ipv4::LEN + udp::LEN + vxlan::LEN;
        let end = l2 + ipv4::LEN + udp_len;
        let source = Source::V4(source);
        Some(Arrival { vni: outer.vxlan.vni()?, source, ecn: (first >> 8) as u8 & 3, headers, end })
    }

    /// The same over IPv6 without extension headers.
    #[inline(always)]
    pub fn arrival_v6(&self, head: &[u8], total_len: usize, l2: usize) -> Option<Arrival> {
        let outer: &OuterV6 = view_at(head, l2.checked_sub(size_of::<U16>())?)?;
        let class = outer.class.get();
        if class >> 12 != 6 || outer.ethertype.get() != ethertype::IPV6.swap_bytes() {
            return None;
        }
        let words = |address: [little_endian::U64; 2]| address.map(little_endian::U64::get);
        if words(outer.destination) != self.local_words
            || outer.next_header != protocol::UDP
            || !self.is_ours(head, outer.ports)
        {
            return None;
        }
        let (payload_len, udp_len) = (usize::from(outer.payload_len.get()), usize::from(outer.len.get()));
        let fits = l2 + ipv6::LEN + payload_len <= total_len && udp_len <= payload_len;
        if !fits || udp_len < udp::LEN + vxlan::LEN + ethernet::LEN {
            return None;
        }
        let headers = l2 + ipv6::LEN + udp::LEN + vxlan::LEN;
        let end = l2 + ipv6::LEN + udp_len;
        let source = Source::V6(words(outer.source));
        Some(Arrival { vni: outer.vxlan.vni()?, source, ecn: (class >> 4) as u8 & 3, headers, end })
    }

    /// Whether a packet that begins with `head` is for this gateway's MAC, and of UDP ports `ports` for VXLAN's.
    #[inline(always)]
    fn is_ours(&self, head: &[u8], ports: little_endian::U32) -> bool {
        let to_us = |start: &[u8; 8]| (u64::from_le_bytes(*start) ^ self.start) << 16 == 0;
        (ports.get() >> 16) as u16 == self.udp_port.swap_bytes() && head.first_chunk().is_some_and(to_us)
    }

    /// What the packet is; `l2` bytes come before its network header.
    #[inline]
    pub fn receive(&self, head: &[u8], total_len: usize, l2: usize) -> Received {
        let Some(ethernet) = view::<Ethernet>(head) else { return Received::Drop(DropReason::Malformed) };
        if ethernet.destination != self.mac && !is_group(&ethernet.destination) {
            return Received::Drop(DropReason::NotForUs);
        }
        let l3_type = match l2 {
            ethernet::LEN => ethernet.ethertype.get(),
            _ => view_at::<VlanTag>(head, ethernet::LEN).map_or(0, |tag| tag.ethertype.get()),
        };
        let result = match (l3_type, self.local_ip) {
            (ethertype::IPV4, IpAddr::V4(local)) => self.receive_v4(local.octets(), head, total_len, l2),
            (ethertype::IPV6, IpAddr::V6(local)) => self.receive_v6(local.octets(), head, total_len, l2),
            (ethertype::ARP, IpAddr::V4(_)) => Ok(Received::Local),
            _ => Err(DropReason::NotForUs),
        };
        match result {
            Ok(Received::Frame { vni, source, ecn, headers, end, .. }) => {
                Received::Frame { vni, source, mac: ethernet.source, ecn, headers, end }
            }
            Ok(other) => other,
            Err(reason) => Received::Drop(reason),
        }
    }

    #[inline]
    fn receive_v4(
        &self,
        local: [u8; 4],
        head: &[u8],
        total_len: usize,
        l2: usize,
    ) -> Result<Received, DropReason> {
        let ip: &Ipv4 = view_at(head, l2).ok_or(DropReason::Malformed)?;
        let header_len = ip.header_len();
        let ip_len = usize::from(ip.total_len.get());
        if ip.version() != 4 || header_len < ipv4::LEN || ip_len < header_len || l2 + ip_len > total_len {
            return Err(DropReason::Malformed);
        }
        let header = head.get(l2..l2 + header_len).ok_or(DropReason::Malformed)?;
        if checksum(&[header]) != 0 {
            return Err(DropReason::BadChecksum);
        }
        if ip.destination != local {
            return Err(DropReason::NotForUs);
        }
        if ip.is_fragment() {
            return Err(DropReason::OuterFragment);
        }
        if ip.protocol != protocol::UDP {
            return Ok(Received::Local);
        }
        let source = Address::from(IpAddr::from(ip.source));
        self.receive_udp(head, l2 + header_len, l2 + ip_len, source, ip.tos & 3)
    }

    #[inline]
    fn receive_v6(
        &self,
        local: [u8; 16],
        head: &[u8],
        total_len: usize,
        l2: usize,
    ) -> Result<Received, DropReason> {
        let ip: &Ipv6 = view_at(head, l2).ok_or(DropReason::Malformed)?;
        let ip_len = ipv6::LEN + usize::from(ip.payload_len.get());
        if ip.version() != 6 || l2 + ip_len > total_len {
            return Err(DropReason::Malformed);
        }
        if ip.next_header == protocol::ICMPV6 {
            return Ok(Received::Local);
        }
        if ip.destination != local {
            return Err(DropReason::NotForUs);
        }
        match ip.next_header {
            protocol::UDP => {}
            protocol::FRAGMENT => return Err(DropReason::OuterFragment),
            _ => return Ok(Received::Local),
        }
        let source = Address::from(IpAddr::from(ip.source));
        self.receive_udp(head, l2 + ipv6::LEN, l2 + ip_len, source, ip.traffic_class() & 3)
    }

    #[inline]
    fn receive_udp(
        &self,
        head: &[u8],
        l4: usize,
        ip_end: usize,
        source: Address,
        ecn: u8,
    ) -> Result<Received, DropReason> {
        let udp: &Udp = view_at(head, l4).ok_or(DropReason::Malformed)?;
        if udp.destination_port != self.udp_port.to_be_bytes() {
            return Ok(Received::Local);
        }
        let headers = l4 + udp::LEN + vxlan::LEN;
        let end = l4 + usize::from(udp.len.get());
        if end > ip_end || end < headers + ethernet::LEN {
            return Err(DropReason::Malformed);
        }
        let vxlan: &Vxlan = view_at(head, l4 + udp::LEN).ok_or(DropReason::Malformed)?;
        let vni = vxlan.vni().ok_or(DropReason::Malformed)?;
        Ok(Received::Frame { vni, source, mac: [0; 6], ecn, headers, end })
    }

    /// The outer headers of packets of network `vni` to `remote`.
    pub fn outer(&self, remote: &Remote, vni: u32) -> Outer {
        let mut outer = Outer { port: self.port, shape: self.shape, ..Outer::default() };
        if let Some(bytes) = outer.bytes.first_chunk_mut::<LONGEST>() {
            *bytes = self.template;
        }
        if let Some(mac) = outer.bytes.first_chunk_mut::<6>() {
            *mac = remote.mac;
        }
        if self.local_ip.is_ipv4() {
            if let Some(tail) = outer.tail::<TailV4>() {
                tail.ip.destination = remote.address.v4();
                tail.ip.checksum = U16::new(checksum(&[tail.ip.as_bytes()]));
                tail.vxlan.vni = U32::new(vni << 8);
            }
        } else if let Some(tail) = outer.tail::<TailV6>() {
            tail.ip.destination = remote.address.v6();
            tail.vxlan.vni = U32::new(vni << 8);
        }
        outer
    }

    /// The gateway's address on this link.
    #[inline]
    pub fn local(&self) -> Address {
        self.local
    }
}

/// Outer headers to one VTEP, ready but for what differs from packet to packet.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Outer {
    /// The port they leave on.
    pub port: PortIndex,
    shape: Shape,
    /// The headers, and room for the MACs of the frame behind them. An IPv4 header's checksum is that of length and type of
    /// service 0.
    bytes: [u8; LONGEST + MACS],
}

/// What differs from packet to packet.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    /// Outer DSCP and ECN.
    pub tos: u8,
    /// Outer source port: see [`outer_port`].
    pub source_port: u16,
}

impl Inner {
    /// Of `frame`.
    #[inline]
    pub fn of(frame: &[u8]) -> Self {
        Self { tos: inner_tos(frame), source_port: outer_port(frame) }
    }
}

impl Default for Outer {
    fn default() -> Self {
        Self { port: PortIndex::default(), shape: Shape::default(), bytes: [0; LONGEST + MACS] }
    }
}

impl Outer {
    /// With the MACs of the frames inside, for [`put_over_v4`](Self::put_over_v4) and its like.
    pub fn with_macs(mut self, macs: Macs) -> Self {
        if let Some(to) = crate::wire::view_mut(&mut self.bytes, self.shape.len()) {
            *to = macs;
        }
        self
    }

    /// Puts the headers in front of the packet; None if there is no headroom, or it is longer than UDP can tell.
    #[inline]
    pub fn put(&self, packet: &mut impl Packet, inner: Inner) -> Option<()> {
        match self.shape {
            Shape::V4 => self.write_v4::<0, V4>(packet, inner),
            Shape::V4Tagged => self.write_v4::<0, V4_TAGGED>(packet, inner),
            Shape::V6 => self.write_v6::<0, V6>(packet, inner),
            Shape::V6Tagged => self.write_v6::<0, V6_TAGGED>(packet, inner),
        }
    }

    /// The same for IPv4 without a tag, and writes the frame's MACs.
    #[inline(always)]
    pub fn put_over_v4(&self, packet: &mut impl Packet, inner: Inner) -> Option<()> {
        self.write_v4::<MACS, { V4 + MACS }>(packet, inner)
    }

    /// The same for IPv4 behind a tag.
    #[inline(always)]
    pub fn put_over_v4_tagged(&self, packet: &mut impl Packet, inner: Inner) -> Option<()> {
        self.write_v4::<MACS, { V4_TAGGED + MACS }>(packet, inner)
    }

    /// The same for IPv6.
    #[inline(never)]
    pub fn put_over_v6(&self, packet: &mut impl Packet, inner: Inner) -> Option<()> {
        match self.shape {
            Shape::V6Tagged => self.write_v6::<MACS, { V6_TAGGED + MACS }>(packet, inner),
            _ => self.write_v6::<MACS, { V6 + MACS }>(packet, inner),
        }
    }

    /// What they consist of.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// In place of the packet's first `OLD` bytes, `NEW` of these.
    #[inline(always)]
    fn write_v4<const OLD: usize, const NEW: usize>(
        &self,
        packet: &mut impl Packet,
        inner: Inner,
    ) -> Option<()> {
        let ip_len = u16::try_from(ipv4::LEN + udp::LEN + vxlan::LEN + packet.total_len()).ok()?;
        let headers = packet.replace_front::<OLD, NEW>()?;
        *headers = *self.bytes.first_chunk::<NEW>()?;
        let tail = NEW - OLD - size_of::<TailV4>();
        let template: &TailV4 = view_at(&self.bytes, tail)?;
        let tail: &mut TailV4 = crate::wire::view_mut(headers, tail)?;
        let total_len = U16::new(ip_len);
        // What a word adds to a sum that it was 0 in.
        let adds = |word: [u8; 2]| ChecksumDelta(u16::from_ne_bytes(word));
        let checksum = adds(total_len.to_bytes()).apply(template.ip.checksum.to_bytes());
        tail.ip.tos = inner.tos;
        tail.ip.total_len = total_len;
        tail.ip.checksum = U16::from_bytes(adds([0, inner.tos]).apply(checksum));
        tail.udp.source_port = inner.source_port.to_be_bytes();
        tail.udp.len = U16::new(ip_len - ipv4::LEN as u16);
        Some(())
    }

    fn write_v6<const OLD: usize, const NEW: usize>(
        &self,
        packet: &mut impl Packet,
        inner: Inner,
    ) -> Option<()> {
        let udp_len = u16::try_from(udp::LEN + vxlan::LEN + packet.total_len()).ok()?;
        let headers = packet.replace_front::<OLD, NEW>()?;
        *headers = *self.bytes.first_chunk::<NEW>()?;
        let tail: &mut TailV6 = crate::wire::view_mut(headers, NEW - OLD - size_of::<TailV6>())?;
        let flow = u32::from(inner.source_port);
        tail.ip.version_class_flow = U32::new(6 << 28 | u32::from(inner.tos) << 20 | flow);
        tail.ip.payload_len = U16::new(udp_len);
        tail.udp.source_port = inner.source_port.to_be_bytes();
        tail.udp.len = U16::new(udp_len);
        Some(())
    }

    fn tail<T: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned>(&mut self) -> Option<&mut T> {
        crate::wire::view_mut(&mut self.bytes, self.shape.len().checked_sub(size_of::<T>())?)
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct TailV4 {
    ip: Ipv4,
    udp: Udp,
    vxlan: Vxlan,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct TailV6 {
    ip: Ipv6,
    udp: Udp,
    vxlan: Vxlan,
}

fn ipv4_header(source: [u8; 4]) -> Ipv4 {
    Ipv4 {
        version_ihl: 0x45,
        tos: 0,
        total_len: U16::ZERO,
        id: U16::ZERO, // RFC 6864 section 4.1: any value where DF is set
        fragment: U16::new(ipv4::DF),
        ttl: TTL,
        protocol: protocol::UDP,
        checksum: U16::ZERO,
        source,
        destination: [0; 4],
    }
}

fn ipv6_header(source: [u8; 16]) -> Ipv6 {
    Ipv6 {
        version_class_flow: U32::new(6 << 28),
        payload_len: U16::ZERO,
        next_header: protocol::UDP,
        hop_limit: TTL,
        source,
        destination: [0; 16],
    }
}

/// DSCP and ECN of the IP packet in `frame`, for the outer header (RFC 2983 section 3, uniform; RFC 6040 section 4.1); 0 for
/// other frames.
#[inline]
pub fn inner_tos(frame: &[u8]) -> u8 {
    match view::<Ethernet>(frame).map(|ethernet| ethernet.ethertype.get()) {
        Some(ethertype::IPV4) => view_at::<Ipv4>(frame, ethernet::LEN).map_or(0, |ip| ip.tos),
        Some(ethertype::IPV6) => view_at::<Ipv6>(frame, ethernet::LEN).map_or(0, Ipv6::traffic_class),
        _ => 0,
    }
}

/// The outer UDP source port for `frame`: that of its flow, as conntrack tells it for the flow's session too.
#[inline]
pub fn outer_port(frame: &[u8]) -> u16 {
    let Some(ethernet) = view::<Ethernet>(frame) else { return outer_port_l2([0; 6], [0; 6]) };
    let by_macs = || outer_port_l2(ethernet.source, ethernet.destination);
    let ports_at = |protocol, offset: usize| match protocol {
        protocol::TCP | protocol::UDP => view_at::<[u8; 4]>(frame, offset).copied().unwrap_or_default(),
        _ => [0; 4],
    };
    match ethernet.ethertype.get() {
        ethertype::IPV4 => {
            let Some(ip) = view_at::<Ipv4>(frame, ethernet::LEN) else { return by_macs() };
            let ports = match ip.is_fragment() {
                true => [0; 4],
                false => ports_at(ip.protocol, ethernet::LEN + ip.header_len()),
            };
            outer_port_v4(ip.source, ip.destination, ports, ip.protocol)
        }
        ethertype::IPV6 => {
            let Some(ip) = view_at::<Ipv6>(frame, ethernet::LEN) else { return by_macs() };
            let ports = ports_at(ip.next_header, ethernet::LEN + ipv6::LEN);
            outer_port_v6(ip.source, ip.destination, ports, ip.next_header)
        }
        _ => by_macs(),
    }
}
