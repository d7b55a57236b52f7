//! Flow keys: what a packet is looked up by.
//!
//! Ports are in host order in the constructors and big-endian in the key. For ICMP and ICMPv6 queries the identifier
//! stands in for a port on the side that asks: requests have it as source port and 0 as destination port, replies the other
//! way round, so that a reverse flow is always the translated tuple swapped. Protocols without ports have 0 for both.

use crate::LifIndex;
use std::net::{Ipv4Addr, Ipv6Addr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// One direction of an IPv4 session on the LIF it arrives on, packed into two words: what stands in a packet is read as
/// little-endian, so that a packet's fields become a key without being taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowKeyV4 {
    /// Source, and destination above it.
    addresses: u64,
    /// From the lowest bit: source port (16), destination port (16), LIF (16), protocol (8).
    rest: u64,
}

/// One direction of an IPv6 session on the LIF it arrives on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(8))]
pub struct FlowKeyV6 {
    source: [u8; 16],
    destination: [u8; 16],
    source_port: [u8; 2],
    destination_port: [u8; 2],
    lif: [u8; 2],
    protocol: u8,
    reserved: u8,
}

impl FlowKeyV4 {
    /// The key of packets that arrive on `lif`.
    #[inline]
    pub const fn new(
        lif: LifIndex,
        protocol: u8,
        source: Ipv4Addr,
        source_port: u16,
        destination: Ipv4Addr,
        destination_port: u16,
    ) -> Self {
        let addresses = u32::from_le_bytes(source.octets()) as u64
            | (u32::from_le_bytes(destination.octets()) as u64) << 32;
        let ports = source_port.swap_bytes() as u32 | (destination_port.swap_bytes() as u32) << 16;
        Self::from_wire(lif, protocol, addresses, ports)
    }

    /// The key of a packet that arrived on `lif`: its two addresses and its two ports as they stand in it, read as
    /// little-endian words.
    #[inline(always)]
    pub const fn from_wire(lif: LifIndex, protocol: u8, addresses: u64, ports: u32) -> Self {
        Self { addresses, rest: ports as u64 | (lif.0 as u64) << 32 | (protocol as u64) << 48 }
    }

    /// The LIF that packets arrive on.
    pub const fn lif(&self) -> LifIndex {
        LifIndex((self.rest >> 32) as u16)
    }

    /// IP protocol number.
    pub const fn protocol(&self) -> u8 {
        (self.rest >> 48) as u8
    }

    /// Source address.
    pub const fn source(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.addresses as u32).swap_bytes())
    }

    /// Destination address.
    pub const fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(((self.addresses >> 32) as u32).swap_bytes())
    }

    /// Source port in host order, or the identifier of an ICMP request.
    pub const fn source_port(&self) -> u16 {
        (self.rest as u16).swap_bytes()
    }

    /// Destination port in host order, or the identifier of an ICMP reply.
    pub const fn destination_port(&self) -> u16 {
        ((self.rest >> 16) as u16).swap_bytes()
    }

    /// The key as machine words, as the table stores and compares it.
    #[inline(always)]
    pub(crate) const fn words(&self) -> [u64; 2] {
        [self.addresses, self.rest]
    }

    pub(crate) const fn from_words([addresses, rest]: [u64; 2]) -> Self {
        Self { addresses, rest }
    }
}

impl FlowKeyV6 {
    /// The key of packets that arrive on `lif`.
    #[inline]
    pub const fn new(
        lif: LifIndex,
        protocol: u8,
        source: Ipv6Addr,
        source_port: u16,
        destination: Ipv6Addr,
        destination_port: u16,
    ) -> Self {
        Self {
            source: source.octets(),
            destination: destination.octets(),
            source_port: source_port.to_be_bytes(),
            destination_port: destination_port.to_be_bytes(),
            lif: lif.0.to_ne_bytes(),
            protocol,
            reserved: 0,
        }
    }
}

impl FlowKeyV6 {
    /// The LIF that packets arrive on.
    pub const fn lif(&self) -> LifIndex {
        LifIndex(u16::from_ne_bytes(self.lif))
    }

    /// IP protocol number.
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Source address.
    pub fn source(&self) -> Ipv6Addr {
        self.source.into()
    }

    /// Destination address.
    pub fn destination(&self) -> Ipv6Addr {
        self.destination.into()
    }

    /// Source port in host order, or the identifier of an ICMPv6 request.
    pub const fn source_port(&self) -> u16 {
        u16::from_be_bytes(self.source_port)
    }

    /// Destination port in host order, or the identifier of an ICMPv6 reply.
    pub const fn destination_port(&self) -> u16 {
        u16::from_be_bytes(self.destination_port)
    }

    /// The key as machine words, as the table stores and compares it.
    #[inline]
    pub(crate) fn words(&self) -> [u64; 5] {
        zerocopy::transmute!(*self)
    }

    pub(crate) fn from_words(words: [u64; 5]) -> Self {
        zerocopy::transmute!(words)
    }
}
