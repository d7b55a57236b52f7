//! The rules a configuration keeps to. All that is broken is reported at once.

use crate::config::{Config, Encapsulation, Lif, PortIndex, Route, Underlay};
use crate::routes::is_prefix;
use crate::wire::ethernet::is_group;
use hashbrown::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

/// Most ports.
pub const MAX_PORTS: usize = 32;
/// Most LIFs.
pub const MAX_LIFS: usize = 4096;
/// Smallest and largest MTU of a LIF: RFC 791's minimum, and a jumbo frame.
pub const MTU: std::ops::RangeInclusive<u16> = 68..=9216;

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ConfigError {
    #[error("no ports: configure at least the trap port and one for tenants")]
    NoPorts,
    #[error("{0} ports: at most {MAX_PORTS} are possible")]
    TooManyPorts(usize),
    #[error("{0} lifs: at most {MAX_LIFS} are possible")]
    TooManyLifs(usize),
    #[error("port {0}: a name is needed")]
    PortWithoutName(usize),
    #[error("port \"{0}\" is there twice: give one of them another name")]
    DuplicatePort(String),
    #[error("port \"{0}\": its MAC is zero or a group address: give it one of its own")]
    PortMac(String),
    #[error("{0}: there is no port {1}: name one of the ports configured")]
    NoSuchPort(String, u8),
    #[error("lif {0}: a name is needed")]
    LifWithoutName(u32),
    #[error("lif \"{0}\" is there twice: give one of them another name")]
    DuplicateLif(String),
    #[error("lif \"{0}\": id {1} must be from 1 to 2147483647")]
    LifId(String, u32),
    #[error("lif \"{0}\": id {1} belongs to another lif: give one of them another id")]
    DuplicateLifId(String, u32),
    #[error("lif \"{0}\": vlan {1} must be from 1 to 4094")]
    LifVlan(String, u16),
    #[error("lif \"{0}\": vni {1} must be from 1 to 16777215")]
    LifVni(String, u32),
    #[error("lif \"{0}\": trap_vni {1} must be from 1 to 16777215")]
    TrapVni(String, u32),
    #[error("lif \"{0}\": trap_vni {1} belongs to another lif: give one of them another")]
    DuplicateTrapVni(String, u32),
    #[error("lif \"{0}\": {1} is taken by {2}: use another tag or port")]
    TagTaken(String, String, String),
    #[error("lif \"{0}\": vni {1} belongs to another lif: give one of them another")]
    DuplicateVni(String, u32),
    #[error("lif \"{0}\": mtu {1} must be from 68 to 9216")]
    LifMtu(String, u16),
    #[error("lif \"{0}\" is a VXLAN and there is no underlay: configure one")]
    NoUnderlay(String),
    #[error("lif \"{0}\" is a VXLAN on another port than the underlay: put it on the underlay's port")]
    NotOnUnderlay(String),
    #[error("lif \"{0}\" is no VXLAN and has vteps: remove them")]
    UselessVteps(String),
    #[error("lif \"{0}\": vtep {1} is of another family than the underlay's local_ip: use one of the same")]
    VtepFamily(String, IpAddr),
    #[error("lif \"{0}\": vtep {1} is the gateway itself or no unicast address: remove it")]
    VtepAddress(String, IpAddr),
    #[error("lif \"{0}\": vtep {1} is there twice: remove one")]
    DuplicateVtep(String, IpAddr),
    #[error("lif \"{0}\" is on the trap port, which is the kernel's alone: use another port")]
    LifOnTrapPort(String),
    #[error("the underlay is on the trap port, which is the kernel's alone: use another port")]
    UnderlayOnTrapPort,
    #[error("underlay: vlan {0} must be from 0 (untagged) to 4094")]
    UnderlayVlan(u16),
    #[error("underlay: local_ip {0} is no unicast address: use the gateway's own")]
    UnderlayAddress(IpAddr),
    #[error("{0}: udp_port must not be 0: 4789 is VXLAN's")]
    UdpPort(&'static str),
    #[error(
        "underlay: neighbor {0} is of another family than local_ip, local_ip itself, or no unicast address: remove it"
    )]
    NeighborAddress(IpAddr),
    #[error("underlay: neighbor {0}: its MAC is zero or a group address: use the neighbour's own")]
    NeighborMac(IpAddr),
    #[error("underlay: neighbor {0} is there twice: remove one")]
    DuplicateNeighbor(IpAddr),
    #[error("underlay: route to {0}/{1}: write the prefix's first address and length, of local_ip's family")]
    RoutePrefix(IpAddr, u8),
    #[error("underlay: route to {0}/{1} is there twice: remove one")]
    DuplicateRoute(IpAddr, u8),
    #[error(
        "underlay: route via {0}: a router is another unicast address of local_ip's family, and on the link: name one"
    )]
    RouteVia(IpAddr),
    #[error("trap: {0} {1} is no unicast address: use the address of that end of the trap link")]
    TrapAddress(&'static str, Ipv4Addr),
    #[error("trap: local_ip and kernel_ip are the same: they are two ends of a link")]
    TrapSameAddress,
    #[error("trap: kernel_mac is zero or a group address: use the kernel's own, or leave it out")]
    KernelMac,
    #[error("{0}: no room for another neighbour: configure fewer vteps and neighbors")]
    NeighborTableFull(IpAddr),
}

impl Config {
    /// Everything that is wrong, at once.
    pub fn validate(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        self.check_ports(&mut errors);
        self.check_trap(&mut errors);
        if let Some(underlay) = &self.underlay {
            self.check_underlay(underlay, &mut errors);
        }
        self.check_lifs(&mut errors);
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn check_ports(&self, errors: &mut Vec<ConfigError>) {
        if self.ports.is_empty() {
            errors.push(ConfigError::NoPorts);
        }
        if self.ports.len() > MAX_PORTS {
            errors.push(ConfigError::TooManyPorts(self.ports.len()));
        }
        let mut names = HashSet::new();
        for (position, port) in self.ports.iter().enumerate() {
            if port.name.is_empty() {
                errors.push(ConfigError::PortWithoutName(position));
            } else if !names.insert(&port.name) {
                errors.push(ConfigError::DuplicatePort(port.name.clone()));
            }
            if !is_station(&port.mac) {
                errors.push(ConfigError::PortMac(port.name.clone()));
            }
        }
    }

    fn has_port(&self, port: PortIndex, what: &str, errors: &mut Vec<ConfigError>) {
        if usize::from(port.0) >= self.ports.len() {
            errors.push(ConfigError::NoSuchPort(what.to_owned(), port.0));
        }
    }

    fn check_trap(&self, errors: &mut Vec<ConfigError>) {
        let trap = &self.trap;
        self.has_port(trap.port, "trap", errors);
        for (name, ip) in [("local_ip", trap.local_ip), ("kernel_ip", trap.kernel_ip)] {
            if !is_unicast(ip.into()) {
                errors.push(ConfigError::TrapAddress(name, ip));
            }
        }
        if trap.local_ip == trap.kernel_ip {
            errors.push(ConfigError::TrapSameAddress);
        }
        if trap.kernel_mac.is_some_and(|mac| !is_station(&mac)) {
            errors.push(ConfigError::KernelMac);
        }
        if trap.udp_port == 0 {
            errors.push(ConfigError::UdpPort("trap"));
        }
    }

    fn check_underlay(&self, underlay: &Underlay, errors: &mut Vec<ConfigError>) {
        self.has_port(underlay.port, "underlay", errors);
        if underlay.port == self.trap.port {
            errors.push(ConfigError::UnderlayOnTrapPort);
        }
        if underlay.vlan > 4094 {
            errors.push(ConfigError::UnderlayVlan(underlay.vlan));
        }
        if !is_unicast(underlay.local_ip) {
            errors.push(ConfigError::UnderlayAddress(underlay.local_ip));
        }
        if underlay.udp_port == 0 {
            errors.push(ConfigError::UdpPort("underlay"));
        }
        let mut seen = HashSet::new();
        for neighbor in &underlay.neighbors {
            let ip = neighbor.ip;
            if ip.is_ipv4() != underlay.local_ip.is_ipv4() || ip == underlay.local_ip || !is_unicast(ip) {
                errors.push(ConfigError::NeighborAddress(ip));
            }
            if !is_station(&neighbor.mac) {
                errors.push(ConfigError::NeighborMac(ip));
            }
            if !seen.insert(ip) {
                errors.push(ConfigError::DuplicateNeighbor(ip));
            }
        }
        let mut seen = HashSet::new();
        for route in &underlay.routes {
            let Route { to, prefix, via } = *route;
            if to.is_ipv4() != underlay.local_ip.is_ipv4() || !is_prefix(route) {
                errors.push(ConfigError::RoutePrefix(to, prefix));
            } else if !seen.insert((to, prefix)) {
                errors.push(ConfigError::DuplicateRoute(to, prefix));
            }
            if via.is_ipv4() != underlay.local_ip.is_ipv4() || via == underlay.local_ip || !is_unicast(via) {
                errors.push(ConfigError::RouteVia(via));
            }
        }
    }

    fn check_lifs(&self, errors: &mut Vec<ConfigError>) {
        if self.lifs.len() > MAX_LIFS {
            errors.push(ConfigError::TooManyLifs(self.lifs.len()));
        }
        let (mut names, mut ids) = (HashSet::new(), HashSet::new());
        let (mut vnis, mut trap_vnis) = (HashSet::new(), HashSet::new());
        let mut tags: HashMap<(PortIndex, u16), String> = HashMap::new();
        if let Some(underlay) = &self.underlay {
            tags.insert((underlay.port, underlay.vlan), "the underlay".to_owned());
        }
        for lif in &self.lifs {
            let name = || lif.name.clone();
            self.check_lif(lif, errors);
            if !lif.name.is_empty() && !names.insert(&lif.name) {
                errors.push(ConfigError::DuplicateLif(name()));
            }
            if !ids.insert(lif.id) {
                errors.push(ConfigError::DuplicateLifId(name(), lif.id));
            }
            if !trap_vnis.insert(lif.trap_vni) {
                errors.push(ConfigError::DuplicateTrapVni(name(), lif.trap_vni));
            }
            let (tag, words) = match lif.encapsulation {
                Encapsulation::Untagged => (0, "untagged".to_owned()),
                Encapsulation::Vlan(vlan) => (vlan, format!("vlan {vlan}")),
                Encapsulation::Vxlan(vni) => {
                    if !vnis.insert(vni) {
                        errors.push(ConfigError::DuplicateVni(name(), vni));
                    }
                    continue;
                }
            };
            if let Some(owner) = tags.get(&(lif.port, tag)) {
                errors.push(ConfigError::TagTaken(name(), words, owner.clone()));
            } else {
                tags.insert((lif.port, tag), format!("lif \"{}\"", lif.name));
            }
        }
    }

    /// The rules that concern one LIF alone.
    fn check_lif(&self, lif: &Lif, errors: &mut Vec<ConfigError>) {
        let name = || lif.name.clone();
        if lif.name.is_empty() {
            errors.push(ConfigError::LifWithoutName(lif.id));
        }
        if !(1..=0x7fff_ffff).contains(&lif.id) {
            errors.push(ConfigError::LifId(name(), lif.id));
        }
        self.has_port(lif.port, &format!("lif \"{}\"", lif.name), errors);
        if lif.port == self.trap.port {
            errors.push(ConfigError::LifOnTrapPort(name()));
        }
        if !(1..=0xff_ffff).contains(&lif.trap_vni) {
            errors.push(ConfigError::TrapVni(name(), lif.trap_vni));
        }
        if !MTU.contains(&lif.mtu) {
            errors.push(ConfigError::LifMtu(name(), lif.mtu));
        }
        match lif.encapsulation {
            Encapsulation::Vlan(vlan) if !(1..=4094).contains(&vlan) => {
                errors.push(ConfigError::LifVlan(name(), vlan));
            }
            Encapsulation::Vxlan(vni) => self.check_vxlan(lif, vni, errors),
            _ if !lif.vteps.is_empty() => errors.push(ConfigError::UselessVteps(name())),
            _ => {}
        }
    }

    fn check_vxlan(&self, lif: &Lif, vni: u32, errors: &mut Vec<ConfigError>) {
        let name = || lif.name.clone();
        if !(1..=0xff_ffff).contains(&vni) {
            errors.push(ConfigError::LifVni(name(), vni));
        }
        let Some(underlay) = &self.underlay else {
            errors.push(ConfigError::NoUnderlay(name()));
            return;
        };
        if lif.port != underlay.port {
            errors.push(ConfigError::NotOnUnderlay(name()));
        }
        let mut seen = HashSet::new();
        for vtep in &lif.vteps {
            if vtep.is_ipv4() != underlay.local_ip.is_ipv4() {
                errors.push(ConfigError::VtepFamily(name(), *vtep));
            } else if *vtep == underlay.local_ip || !is_unicast(*vtep) {
                errors.push(ConfigError::VtepAddress(name(), *vtep));
            }
            if !seen.insert(vtep) {
                errors.push(ConfigError::DuplicateVtep(name(), *vtep));
            }
        }
    }
}

fn is_unicast(ip: IpAddr) -> bool {
    let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback() && !broadcast
}

fn is_station(mac: &[u8; 6]) -> bool {
    !is_group(mac) && *mac != [0; 6]
}
