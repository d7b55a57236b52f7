//! Which LIF a tag or VNI belongs to, and what the stages need to know of it.

use crate::PortIndex;
use crate::config::{Config, Encapsulation};
use crate::neighbors::NeighborIndex;
use crate::wire::ethernet::{TAG_LEN, ethertype};
use crate::wire::{Ethernet, VlanTag, view};
use conntrack::LifIndex;
use hashbrown::HashMap;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Who takes the frames of a tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owner {
    /// Nobody.
    #[default]
    None,
    /// VXLAN over the underlay.
    Underlay,
    /// The way from the kernel.
    Kernel,
    /// A LIF.
    Lif(LifIndex),
}

/// A LIF, as the stages need it.
#[derive(Debug)]
pub struct Entry {
    /// Where it is.
    pub port: PortIndex,
    /// How.
    pub encapsulation: Encapsulation,
    /// Largest IP packet.
    pub mtu: u32,
    /// The VNI the kernel sees.
    pub trap_vni: u32,
    /// Where unknown, broadcast and multicast destinations are replicated to.
    pub vteps: Box<[NeighborIndex]>,
}

/// All LIFs.
#[derive(Debug)]
pub struct Lifs {
    entries: Box<[Entry]>,
    /// By port and VLAN id; 0 is untagged.
    ports: Box<[Box<[Owner; VLANS]>]>,
    least_mtu: u32,
    by_vni: HashMap<u32, LifIndex>,
    by_trap_vni: HashMap<u32, LifIndex>,
}

impl Lifs {
    /// From a valid configuration; `vteps` are those of each LIF.
    pub fn new(config: &Config, mut vteps: impl FnMut(&crate::Lif) -> Box<[NeighborIndex]>) -> Self {
        let tags = |_| Box::new(NOBODY);
        let mut ports: Box<[_]> = config.ports.iter().map(tags).collect();
        let mut own = |port: PortIndex, tag: u16, owner| {
            let tags = ports.get_mut(usize::from(port.0));
            if let Some(slot) = tags.and_then(|tags| tags.get_mut(usize::from(tag))) {
                *slot = owner;
            }
        };
        own(config.trap.port, 0, Owner::Kernel);
        if let Some(underlay) = &config.underlay {
            own(underlay.port, underlay.vlan, Owner::Underlay);
        }
        let mut by_vni = HashMap::new();
        let mut by_trap_vni = HashMap::new();
        for (index, lif) in (0u16..).map(LifIndex).zip(&config.lifs) {
            match lif.encapsulation {
                Encapsulation::Untagged => own(lif.port, 0, Owner::Lif(index)),
                Encapsulation::Vlan(tag) => own(lif.port, tag, Owner::Lif(index)),
                Encapsulation::Vxlan(vni) => {
                    by_vni.insert(vni, index);
                }
            }
            by_trap_vni.insert(lif.trap_vni, index);
        }
        let entries = config.lifs.iter().map(|lif| Entry {
            port: lif.port,
            encapsulation: lif.encapsulation,
            mtu: u32::from(lif.mtu),
            trap_vni: lif.trap_vni,
            vteps: vteps(lif),
        });
        let entries: Box<[Entry]> = entries.collect();
        let least_mtu = entries.iter().map(|lif| lif.mtu).min().unwrap_or(0);
        Self { entries, ports, least_mtu, by_vni, by_trap_vni }
    }

    /// A LIF.
    #[inline]
    pub fn get(&self, lif: LifIndex) -> Option<&Entry> {
        self.entries.get(usize::from(lif.0))
    }

    /// The smallest of all: packets up to it fit everywhere.
    #[inline(always)]
    pub fn least_mtu(&self) -> u32 {
        self.least_mtu
    }

    /// The LIF of a VNI on the underlay.
    #[inline]
    pub fn by_vni(&self, vni: u32) -> Option<LifIndex> {
        self.by_vni.get(&vni).copied()
    }

    /// The LIF of a VNI on the trap link.
    #[inline]
    pub fn by_trap_vni(&self, vni: u32) -> Option<LifIndex> {
        self.by_trap_vni.get(&vni).copied()
    }

    /// What the tags of a port stand for.
    #[inline]
    pub fn tags(&self, port: PortIndex) -> Tags<'_> {
        Tags(self.ports.get(usize::from(port.0)).map_or(&NOBODY, |tags| tags))
    }
}

/// Bytes before the network header of a frame without a tag.
pub const UNTAGGED: u8 = crate::wire::ethernet::LEN as u8;
/// Of a frame with one.
pub const TAGGED: u8 = UNTAGGED + TAG_LEN as u8;
/// Ids of VLANs, 0 and 4095 included.
const VLANS: usize = 4096;
static NOBODY: [Owner; VLANS] = [Owner::None; VLANS];

/// Whose frames arrive on a port, by VLAN id.
#[derive(Clone, Copy, Debug)]
pub struct Tags<'l>(&'l [Owner; VLANS]);

impl Tags<'_> {
    /// Who takes a frame with one tag that begins with `head`; None if it has none, or is too short to tell. What has a second
    /// tag belongs to nobody.
    #[inline(always)]
    pub fn tagged(&self, head: &[u8]) -> Option<Owner> {
        let Tagged { ethertype, tag, .. } = view(head)?;
        if ethertype.get() != ethertype::VLAN {
            return None;
        }
        let inner = tag.ethertype.get();
        let is_plain = inner == ethertype::IPV4 || !ethertype::is_tag(inner);
        Some(if is_plain { self.of(tag.id()) } else { Owner::None })
    }

    /// Who takes any other frame, and how many bytes come before its network header; None if it is too short to tell. A service
    /// tag belongs to nobody.
    #[inline]
    pub fn untagged(&self, head: &[u8]) -> Option<(Owner, u8)> {
        match view::<Ethernet>(head)?.ethertype.get() {
            // Cut short.
            ethertype::VLAN => None,
            other if ethertype::is_tag(other) => Some((Owner::None, TAGGED)),
            _ => Some((self.of(0), UNTAGGED)),
        }
    }

    #[inline(always)]
    fn of(&self, id: u16) -> Owner {
        self.0.get(usize::from(id)).copied().unwrap_or_default()
    }
}

/// The start of a frame with a tag.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Tagged {
    _macs: [u8; 12],
    ethertype: U16,
    tag: VlanTag,
}
