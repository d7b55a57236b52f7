//! The lab's plan: who is where, under which address.
//!
//! ```text
//!  fabric                            gw              kernel              VNFs
//!  red1 red2 ── VLAN 100 ──┐                       ┌ br10100/vx10100 ─ A veth0, C veth4
//!  green1    ── VLAN 200 ──┤ up-fab ═ up-gw        ├ br10200/vx10200 ─ B veth3, C veth5
//!  blue1   ─ VNI 2000 ─┐   │        gateway        │
//!  violet1 ─ VNI 3000 ─┴─ VLAN 2   trap-gw ═ trap-k┼ br2000/vx2000 ─── A veth1
//!                     (VTEP 192.0.2.9)             └ br3000/vx3000 ─── B veth2, C veth6
//! ```
//!
//! A: NAT (IPv4 and IPv6 masquerade, port forwarding) from red to blue, VLAN to VXLAN. B: the same from violet to green,
//! VXLAN to VLAN. C: a router without NAT between red, green and violet.

use std::net::{Ipv4Addr, Ipv6Addr};

/// How a LIF's frames look on the uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulation {
    /// 802.1Q tag.
    Vlan(u16),
    /// VXLAN over the underlay VLAN.
    Vni(u32),
}

/// A logical interface of the gateway, and the subnets on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lif {
    /// Its id in the gateway's configuration.
    pub id: u8,
    /// Its name.
    pub name: &'static str,
    /// Its frames on the uplink.
    pub encapsulation: Encapsulation,
    /// The VNI that the kernel sees.
    pub trap_vni: u32,
    subnet: [u8; 3],
}

impl Lif {
    /// The IPv4 address of host `n`, in a /24.
    pub const fn ipv4(&self, n: u8) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, n)
    }

    /// The IPv6 address of host `n`, in a /64.
    pub const fn ipv6(&self, n: u8) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, self.id as u16, 0, 0, 0, 0, n as u16)
    }
}

/// VLAN 100: clients of A.
pub const RED: Lif =
    Lif { id: 1, name: "red", encapsulation: Encapsulation::Vlan(100), trap_vni: 10100, subnet: [10, 1, 0] };
/// VNI 2000: servers, outside of A's NAT.
pub const BLUE: Lif = Lif {
    id: 2,
    name: "blue",
    encapsulation: Encapsulation::Vni(2000),
    trap_vni: 2000,
    subnet: [198, 51, 100],
};
/// VLAN 200: servers, outside of B's NAT.
pub const GREEN: Lif = Lif {
    id: 3,
    name: "green",
    encapsulation: Encapsulation::Vlan(200),
    trap_vni: 10200,
    subnet: [203, 0, 113],
};
/// VNI 3000: clients of B.
pub const VIOLET: Lif = Lif {
    id: 4,
    name: "violet",
    encapsulation: Encapsulation::Vni(3000),
    trap_vni: 3000,
    subnet: [10, 3, 0],
};
/// All LIFs.
pub const LIFS: [Lif; 4] = [RED, BLUE, GREEN, VIOLET];

/// A tenant's machine: a namespace with one interface, `eth0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Its role in the lab.
    pub name: &'static str,
    /// Where it is.
    pub lif: Lif,
    /// Its number in the LIF's subnets.
    pub number: u8,
}

impl Host {
    /// Its IPv4 address.
    pub const fn ipv4(&self) -> Ipv4Addr {
        self.lif.ipv4(self.number)
    }

    /// Its IPv6 address.
    pub const fn ipv6(&self) -> Ipv6Addr {
        self.lif.ipv6(self.number)
    }

    /// Its MAC address.
    pub const fn mac(&self) -> [u8; 6] {
        [2, 0, 0, self.lif.id, 0, self.number]
    }
}

/// A client in red.
pub const RED1: Host = Host { name: "red1", lif: RED, number: 5 };
/// Another client in red.
pub const RED2: Host = Host { name: "red2", lif: RED, number: 6 };
/// A server in blue.
pub const BLUE1: Host = Host { name: "blue1", lif: BLUE, number: 10 };
/// A server in green.
pub const GREEN1: Host = Host { name: "green1", lif: GREEN, number: 10 };
/// A client in violet.
pub const VIOLET1: Host = Host { name: "violet1", lif: VIOLET, number: 5 };
/// All tenants' machines.
pub const HOSTS: [Host; 5] = [RED1, RED2, BLUE1, GREEN1, VIOLET1];

/// A network function behind the trap port: a namespace with an interface per LIF.
#[derive(Debug, Clone, Copy)]
pub struct Vnf {
    /// Its role in the lab.
    pub name: &'static str,
    /// Its number in each subnet.
    pub number: u8,
    /// Its interfaces.
    pub interfaces: &'static [(&'static str, Lif)],
    /// What nftables does in it.
    pub ruleset: &'static str,
    /// Routes of the hosts that use it: (from, to); no `to` is the default route.
    pub routes: &'static [(Lif, Option<Lif>)],
}

impl Vnf {
    /// The MAC address of its interface in `lif`.
    pub const fn mac(&self, lif: &Lif) -> [u8; 6] {
        [2, 0, 0, lif.id, 0xff, self.number]
    }
}

/// NAT from red to blue.
pub const A: Vnf = Vnf {
    name: "A",
    number: 1,
    interfaces: &[("veth0", RED), ("veth1", BLUE)],
    ruleset: include_str!("../nft/a.nft"),
    routes: &[(RED, None), (BLUE, None)],
};
/// NAT from violet to green.
pub const B: Vnf = Vnf {
    name: "B",
    number: 1,
    interfaces: &[("veth2", VIOLET), ("veth3", GREEN)],
    ruleset: include_str!("../nft/b.nft"),
    routes: &[(VIOLET, None), (GREEN, None)],
};
/// Router between red, green and violet.
pub const C: Vnf = Vnf {
    name: "C",
    number: 254,
    interfaces: &[("veth4", RED), ("veth5", GREEN), ("veth6", VIOLET)],
    ruleset: include_str!("../nft/c.nft"),
    routes: &[(RED, Some(VIOLET)), (VIOLET, Some(RED)), (RED, Some(GREEN)), (GREEN, Some(RED))],
};
/// All network functions.
pub const VNFS: [Vnf; 3] = [A, B, C];

/// The gateway's address on the underlay.
pub const UNDERLAY_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The tenants' VTEP.
pub const UNDERLAY_VTEP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
/// MAC address of the tenants' VTEP.
pub const UNDERLAY_VTEP_MAC: [u8; 6] = [2, 0, 0, 0, 2, 9];
/// MAC address of the gateway's uplink.
pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];
/// The collector's address on the underlay.
pub const COLLECTOR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// The collector's other address, behind the tenants' VTEP as a router.
pub const FAR_COLLECTOR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 77);
/// The lines of `[underlay]` that lead there.
pub const FAR_ROUTE: &str = "routes = [{ to = \"10.9.0.0/24\", via = \"192.0.2.9\" }]\n";
/// The VLAN that carries VXLAN.
pub const UNDERLAY_VLAN: u16 = 2;
/// The gateway's address on the trap link.
pub const TRAP_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 10, 1);
/// The kernel's address on the trap link.
pub const TRAP_KERNEL: Ipv4Addr = Ipv4Addr::new(169, 254, 10, 2);
/// MAC address of the gateway's trap port.
pub const TRAP_GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0x10, 1];
/// MAC address of the kernel's end of the trap link.
pub const TRAP_KERNEL_MAC: [u8; 6] = [2, 0, 0, 0, 0x10, 2];
/// MTU of the tenants, in bytes.
pub const TENANT_MTU: u16 = 1500;
/// MTU of the links that carry VXLAN, in bytes: 1500 and 50 of headers fit, with room to spare.
pub const CARRIER_MTU: u16 = 1600;

/// A MAC address in its usual form.
pub fn mac(bytes: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = bytes;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_machines_share_a_mac_or_an_address() {
        let vnfs = VNFS.iter().flat_map(|vnf| {
            vnf.interfaces.iter().map(|(_, lif)| (vnf.mac(lif), lif.ipv4(vnf.number), lif.ipv6(vnf.number)))
        });
        let all: Vec<_> =
            HOSTS.iter().map(|host| (host.mac(), host.ipv4(), host.ipv6())).chain(vnfs).collect();
        assert_eq!(all.iter().map(|m| m.0).collect::<HashSet<_>>().len(), all.len());
        assert_eq!(all.iter().map(|m| m.1).collect::<HashSet<_>>().len(), all.len());
        assert_eq!(all.iter().map(|m| m.2).collect::<HashSet<_>>().len(), all.len());
    }
}
