//! Flow keys: what a packet is looked up by.
//!
//! Ports are in host order in the constructors and big-endian in the key. For ICMP and ICMPv6 queries the identifier
//! stands in for a port on the side that asks: requests have it as source port and 0 as destination port, replies the other
//! way round, so that a reverse flow is always the translated tuple swapped. Protocols without ports have 0 for both.

use crate::LifIndex;
use std::net::{Ipv4Addr, Ipv6Addr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// One direction of an IPv4 session on the LIF it arrives on, packed into 16 bytes: compared as one 128-bit number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(16))]
pub struct FlowKeyV4 {
    source: [u8; 4],
    destination: [u8; 4],
    source_port: [u8; 2],
    destination_port: [u8; 2],
    lif: [u8; 2],
    protocol: u8,
    reserved: u8,
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
        // In registers, two words to store: sixteen single bytes would have to be collected again to be compared.
        let addresses = u32::from_le_bytes(source.octets()) as u64
            | (u32::from_le_bytes(destination.octets()) as u64) << 32;
        let ports = source_port.to_be().to_le() as u64 | (destination_port.to_be().to_le() as u64) << 16;
        let lif = u16::from_le_bytes(lif.0.to_ne_bytes()) as u64;
        let rest = ports | lif << 32 | (protocol as u64) << 48;
        zerocopy::transmute!([addresses.to_le(), rest.to_le()])
    }
}

impl FlowKeyV4 {
    /// The key of a packet that arrived on `lif`: its two addresses and its two ports as they stand in it.
    #[inline(always)]
    pub const fn from_wire(lif: LifIndex, protocol: u8, addresses: [u8; 8], ports: [u8; 4]) -> Self {
        let lif = u16::from_le_bytes(lif.0.to_ne_bytes()) as u64;
        let rest = u32::from_le_bytes(ports) as u64 | lif << 32 | (protocol as u64) << 48;
        zerocopy::transmute!([addresses, rest.to_le_bytes()])
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

/// What both families' keys can be asked.
macro_rules! accessors {
    ($key:ty, $address:ty, $words:literal) => {
        impl $key {
            /// The LIF that packets arrive on.
            pub const fn lif(&self) -> LifIndex {
                LifIndex(u16::from_ne_bytes(self.lif))
            }

            /// IP protocol number.
            pub const fn protocol(&self) -> u8 {
                self.protocol
            }

            /// Source address.
            pub fn source(&self) -> $address {
                self.source.into()
            }

            /// Destination address.
            pub fn destination(&self) -> $address {
                self.destination.into()
            }

            /// Source port in host order, or the identifier of an ICMP request.
            pub const fn source_port(&self) -> u16 {
                u16::from_be_bytes(self.source_port)
            }

            /// Destination port in host order, or the identifier of an ICMP reply.
            pub const fn destination_port(&self) -> u16 {
                u16::from_be_bytes(self.destination_port)
            }

            /// The key as machine words, as the table stores and compares it.
            #[inline]
            pub(crate) fn words(&self) -> [u64; $words] {
                zerocopy::transmute!(*self)
            }

            pub(crate) fn from_words(words: [u64; $words]) -> Self {
                zerocopy::transmute!(words)
            }
        }
    };
}

accessors!(FlowKeyV4, Ipv4Addr, 2);
accessors!(FlowKeyV6, Ipv6Addr, 5);
