//! Flow keys: what a packet is looked up by.
//!
//! Ports are in host order in the constructors and big-endian in the key. For ICMP and ICMPv6 queries the identifier
//! stands in for a port on the side that asks: requests have it as source port and 0 as destination port, replies the other
//! way round, so that a reverse flow is always the translated tuple swapped. Protocols without ports have 0 for both.

use crate::LifIndex;
use std::net::{Ipv4Addr, Ipv6Addr};

/// One direction of an IPv4 session on the LIF it arrives on, packed into 16 bytes: compared as one 128-bit number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
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
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
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
