//! Where packets go, resolved: a worker's own cache of headers, so that a packet does not ask the forwarding database and the
//! neighbour table anew. By destination MAC, outer headers; by flow's way, all headers before the tenant's Ethernet type.
//!
//! What is cached holds for the second it was resolved in, and only while no MAC moved, no neighbour changed and no way was
//! given to other flows meanwhile. So ages, uses and solicitations go on as if every packet asked.

use crate::PortIndex;
use crate::batch::Way;
use crate::cache::{Cache, spread};
use crate::packet::Packet;
use crate::tunnel::{Inner, Outer, Shape};
use crate::wire::ethernet::{TAG_LEN, ethertype};
use conntrack::{LifIndex, Macs};

/// Destinations a worker remembers.
const DESTINATIONS: usize = 1024;
/// Ways a worker remembers.
const WAYS: usize = 4096;

/// See the module.
#[derive(Debug)]
pub struct Adjacencies {
    /// Under the FDB's key.
    destinations: Cache<Outer, DESTINATIONS>,
    ways: Cache<Headers, WAYS>,
}

impl Adjacencies {
    /// Empty.
    pub fn new() -> Self {
        Self { destinations: Cache::new(), ways: Cache::new() }
    }

    /// The outer headers kept under an FDB key, if they still hold.
    #[inline]
    pub fn destination(&self, key: u64, validity: u64) -> Option<&Outer> {
        self.destinations.get(spread(key), key, validity)
    }

    /// Keeps outer headers.
    pub fn put_destination(&mut self, key: u64, validity: u64, outer: &Outer) {
        self.destinations.put(spread(key), key, validity, outer.clone());
    }

    /// The headers kept for a way, if they still hold.
    #[inline(always)]
    pub fn way(&self, way: Way, validity: u64) -> Option<&Headers> {
        self.ways.get(way.number() as usize, way.number().into(), validity)
    }

    /// Keeps headers.
    pub fn put_way(&mut self, way: Way, validity: u64, headers: Headers) {
        if way != Way::default() {
            self.ways.put(way.number() as usize, way.number().into(), validity, headers);
        }
    }
}

/// All that goes before a frame's Ethernet type, and where the packet leaves.
#[derive(Debug, Default)]
pub struct Headers {
    /// The LIF.
    pub lif: LifIndex,
    /// Its port.
    pub port: PortIndex,
    link: Link,
}

#[derive(Debug)]
enum Link {
    Untagged([u8; 12]),
    Vlan([u8; 16]),
    VxlanV4(Outer),
    VxlanV4Tagged(Outer),
    VxlanV6(Outer),
}

impl Default for Link {
    fn default() -> Self {
        Self::Untagged([0; 12])
    }
}

impl Headers {
    /// For a LIF without tags.
    pub fn untagged(lif: LifIndex, port: PortIndex, macs: Macs) -> Self {
        Self { lif, port, link: Link::Untagged(zerocopy::transmute!(macs)) }
    }

    /// For a LIF of tag `vlan`.
    pub fn vlan(lif: LifIndex, port: PortIndex, macs: Macs, vlan: u16) -> Self {
        let [a, b, c]: [[u8; TAG_LEN]; 3] = zerocopy::transmute!(macs);
        Self { lif, port, link: Link::Vlan(zerocopy::transmute!([a, b, c, tag(vlan)])) }
    }

    /// For a LIF behind the underlay.
    pub fn vxlan(lif: LifIndex, macs: Macs, outer: Outer) -> Self {
        let link = match outer.shape() {
            Shape::V4 => Link::VxlanV4,
            Shape::V4Tagged => Link::VxlanV4Tagged,
            Shape::V6 | Shape::V6Tagged => Link::VxlanV6,
        };
        Self { lif, port: outer.port, link: link(outer.with_macs(macs)) }
    }

    /// Writes the packet's MACs, and puts before them what the LIF wants; None if there is no headroom.
    #[inline(always)]
    pub fn put(&self, packet: &mut impl Packet, inner: Inner) -> Option<()> {
        // One by one: a jump by a table would cost more than it saves.
        if let Link::VxlanV4(outer) = &self.link {
            outer.put_over_v4(packet, inner)?;
        } else if let Link::VxlanV4Tagged(outer) = &self.link {
            outer.put_over_v4_tagged(packet, inner)?;
        } else if let Link::Vlan(start) = &self.link {
            *packet.replace_front::<12, 16>()? = *start;
        } else if let Link::Untagged(macs) = &self.link {
            *packet.replace_front::<12, 12>()? = *macs;
        } else if let Link::VxlanV6(outer) = &self.link {
            outer.put_over_v6(packet, inner)?;
        }
        Some(())
    }
}

/// An 802.1Q tag, its type included.
pub fn tag(vlan: u16) -> [u8; TAG_LEN] {
    let ([a, b], [c, d]) = (ethertype::VLAN.to_be_bytes(), vlan.to_be_bytes());
    [a, b, c, d]
}
