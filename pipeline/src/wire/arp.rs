//! ARP for IPv4 over Ethernet (RFC 826).

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Who has?
pub const REQUEST: u16 = 1;
/// Is at.
pub const REPLY: u16 = 2;

/// An ARP message.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Arp {
    /// 1 = Ethernet.
    pub hardware: U16,
    /// 0x0800 = IPv4.
    pub protocol: U16,
    /// 6.
    pub hardware_len: u8,
    /// 4.
    pub protocol_len: u8,
    /// [`REQUEST`] or [`REPLY`].
    pub operation: U16,
    /// Sender's MAC.
    pub sender_mac: [u8; 6],
    /// Sender's address.
    pub sender_ip: [u8; 4],
    /// Target's MAC.
    pub target_mac: [u8; 6],
    /// Target's address.
    pub target_ip: [u8; 4],
}

impl Arp {
    /// A message of IPv4 over Ethernet.
    pub fn new(operation: u16, sender: ([u8; 6], [u8; 4]), target: ([u8; 6], [u8; 4])) -> Self {
        Self {
            hardware: U16::new(1),
            protocol: U16::new(0x0800),
            hardware_len: 6,
            protocol_len: 4,
            operation: U16::new(operation),
            sender_mac: sender.0,
            sender_ip: sender.1,
            target_mac: target.0,
            target_ip: target.1,
        }
    }

    /// Whether it is about IPv4 over Ethernet.
    pub fn is_ipv4(&self) -> bool {
        self.hardware.get() == 1
            && self.protocol.get() == 0x0800
            && self.hardware_len == 6
            && self.protocol_len == 4
    }
}
