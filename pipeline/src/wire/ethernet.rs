//! Ethernet II and 802.1Q.

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of an Ethernet header without tags.
pub const LEN: usize = 14;
/// Length of an 802.1Q tag.
pub const TAG_LEN: usize = 4;

/// An Ethernet header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ethernet {
    /// Destination MAC.
    pub destination: [u8; 6],
    /// Source MAC.
    pub source: [u8; 6],
    /// Type of what follows; below 0x600 a length (802.3).
    pub ethertype: U16,
}

/// An 802.1Q tag, as it follows the type 0x8100.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct VlanTag {
    /// Priority, drop eligibility and VLAN id.
    pub tci: U16,
    /// Type of what follows.
    pub ethertype: U16,
}

impl VlanTag {
    /// The VLAN id; 0 is a priority tag, which belongs to no VLAN.
    #[inline]
    pub const fn id(&self) -> u16 {
        self.tci.get() & 0xfff
    }
}

/// Ethernet types.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// 802.1Q customer tag.
    pub const VLAN: u16 = 0x8100;
    /// 802.1ad service tag.
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// Service tag before 802.1ad.
    pub const OLD_SERVICE_VLAN: u16 = 0x9100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;

    /// Whether a tag follows.
    #[inline]
    pub const fn is_tag(ethertype: u16) -> bool {
        matches!(ethertype, VLAN | SERVICE_VLAN | OLD_SERVICE_VLAN)
    }
}

/// Everybody.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// Broadcast or multicast: the group bit.
#[inline]
pub const fn is_group(mac: &[u8; 6]) -> bool {
    mac[0] & 1 != 0
}
