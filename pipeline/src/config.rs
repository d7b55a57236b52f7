//! What the pipeline is told at start: plain, typed, checked by [`Config::validate`].

pub use crate::validate::ConfigError;
use conntrack::LifIndex;
use std::net::{IpAddr, Ipv4Addr};

/// Position of a port in [`Config::ports`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortIndex(pub u8);

/// A port.
#[derive(Clone, Debug)]
pub struct Port {
    /// Unique.
    pub name: String,
    /// Its own address, the source of what the gateway itself sends there.
    pub mac: [u8; 6],
}

/// How packets of a LIF look on its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encapsulation {
    /// No tag.
    Untagged,
    /// One 802.1Q tag, 1 to 4094.
    Vlan(u16),
    /// VXLAN over the underlay, 24 bits.
    Vxlan(u32),
}

/// A logical interface. Its [`LifIndex`] is its position in [`Config::lifs`].
#[derive(Clone, Debug)]
pub struct Lif {
    /// As configuration and APIs name it: 1 to 2^31 - 1.
    pub id: u32,
    /// Unique.
    pub name: String,
    /// Where it is.
    pub port: PortIndex,
    /// How.
    pub encapsulation: Encapsulation,
    /// The VNI the kernel sees, unique.
    pub trap_vni: u32,
    /// Largest IP packet.
    pub mtu: u16,
    /// Where unknown, broadcast and multicast inner destinations are replicated to, of the underlay's family.
    pub vteps: Vec<IpAddr>,
}

/// A static neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticNeighbor {
    /// Address.
    pub ip: IpAddr,
    /// MAC.
    pub mac: [u8; 6],
}

/// A route on the underlay; what no route leads to is on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// First address of the destinations.
    pub to: IpAddr,
    /// Bits of it that count.
    pub prefix: u8,
    /// The router, on the link.
    pub via: IpAddr,
}

/// VXLAN on the physical ports.
#[derive(Clone, Debug)]
pub struct Underlay {
    /// Its port.
    pub port: PortIndex,
    /// The tag that carries VXLAN; 0 = untagged.
    pub vlan: u16,
    /// The gateway's VTEP address.
    pub local_ip: IpAddr,
    /// RFC 7348: 4789.
    pub udp_port: u16,
    /// Static neighbours.
    pub neighbors: Vec<StaticNeighbor>,
    /// For VTEPs and collectors that are not on the link.
    pub routes: Vec<Route>,
    /// Mirrored and snooped packets per second and LIF that go to collectors; 0 = none.
    pub copies: u32,
}

/// Packets per second that may be trapped per LIF and class; 0 = none pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrapLimits {
    /// ARP and ND.
    pub arp_nd: u32,
    /// Packets of no known session.
    pub new: u32,
    /// SYN, FIN, RST of sessions.
    pub tcp_control: u32,
    /// TTL, MTU, options, fragments.
    pub exception: u32,
}

/// The way to the kernel.
#[derive(Clone, Debug)]
pub struct Trap {
    /// Its port.
    pub port: PortIndex,
    /// The gateway's end.
    pub local_ip: Ipv4Addr,
    /// The kernel's end.
    pub kernel_ip: Ipv4Addr,
    /// None: by ARP.
    pub kernel_mac: Option<[u8; 6]>,
    /// RFC 7348: 4789.
    pub udp_port: u16,
    /// Rate limits.
    pub limits: TrapLimits,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Config {
    /// At most 32.
    pub ports: Vec<Port>,
    /// Needed by VXLAN LIFs.
    pub underlay: Option<Underlay>,
    /// At most 4096.
    pub lifs: Vec<Lif>,
    /// The way to the kernel.
    pub trap: Trap,
}

impl Config {
    /// The LIF with this configured id.
    pub fn lif_by_id(&self, id: u32) -> Option<LifIndex> {
        self.lifs.iter().position(|lif| lif.id == id).and_then(|i| u16::try_from(i).ok()).map(LifIndex)
    }
}
