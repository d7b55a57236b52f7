//! Which LIF a tag or VNI belongs to, and what the stages need to know of it.

use crate::PortIndex;
use crate::config::{Config, Encapsulation};
use crate::neighbors::NeighborIndex;
use crate::wire::ethernet::{TAG_LEN, ethertype};
use crate::wire::{Ethernet, VlanTag, view, view_at};
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

/// Ids of VLANs, 0 and 4095 included.
const VLANS: usize = 4096;
static NOBODY: [Owner; VLANS] = [Owner::None; VLANS];

/// Whose frames arrive on a port, by VLAN id.
#[derive(Clone, Copy, Debug)]
pub struct Tags<'l>(&'l [Owner; VLANS]);

impl Tags<'_> {
    /// The LIF of a frame with one tag that begins with `head`.
    #[inline(always)]
    pub fn tagged_lif(&self, head: &[u8]) -> Option<LifIndex> {
        let Tagged { ethertype, tag, .. } = view(head)?;
        let inner = tag.ethertype;
        if ethertype.get() != ethertype::VLAN
            || inner.get() != ethertype::IPV4 && ethertype::is_tag(inner.get())
        {
            return None;
        }
        match self.of(tag.id()) {
            Owner::Lif(lif) => Some(lif),
            _ => None,
        }
    }

    /// Who takes a frame that begins with `head`, and how many bytes come before its network header; None if it is too short
    /// to tell. A priority tag (VLAN 0) counts as none; a second tag, and a service tag, belong to nobody.
    #[inline]
    pub fn owner(&self, head: &[u8]) -> Option<(Owner, u8)> {
        let ethernet: &Ethernet = view(head)?;
        const UNTAGGED: u8 = crate::wire::ethernet::LEN as u8;
        const TAGGED: u8 = UNTAGGED + TAG_LEN as u8;
        match ethernet.ethertype.get() {
            ethertype::VLAN => {
                let tag: &VlanTag = view_at(head, usize::from(UNTAGGED))?;
                if ethertype::is_tag(tag.ethertype.get()) {
                    return Some((Owner::None, TAGGED));
                }
                Some((self.of(tag.id()), TAGGED))
            }
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
