//! Frames and sessions to measure with: tenants on VLAN 100 talk UDP to servers behind VXLAN 2000, masqueraded.

use conntrack::{Action, L2, LifIndex, MacPair, SessionId, SessionSpec, Tuple};
use etherparse::{PacketBuilder, PacketBuilderStep, UdpHeader};
use pipeline::config::{Port, StaticNeighbor, Trap, Underlay};
use pipeline::{Config, Encapsulation, Lif, PortIndex, TrapLimits};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const TENANT: [u8; 6] = [2, 0, 0, 0, 0xaa, 5];
const ROUTER_IN: [u8; 6] = [2, 0, 0, 0, 0xaa, 1];
const ROUTER_OUT: [u8; 6] = [2, 0, 0, 0, 0xbb, 1];
const SERVER: [u8; 6] = [2, 0, 0, 0, 0xbb, 10];
const VTEPS: Vteps =
    Vteps { local: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), remote: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9)) };
const VTEPS_V6: Vteps = Vteps {
    local: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, 1)),
    remote: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, 9)),
};
/// Port of the tenants.
pub const UPLINK: PortIndex = PortIndex(0);

/// Both ends of the tunnel.
struct Vteps {
    local: IpAddr,
    remote: IpAddr,
}

/// One uplink with VLAN LIF "red" and VXLAN LIF "blue" over underlay VLAN 2, and a trap port.
pub fn config() -> Config {
    config_between(VTEPS)
}

/// The same with an IPv6 underlay.
pub fn config_over_v6() -> Config {
    config_between(VTEPS_V6)
}

fn config_between(vteps: Vteps) -> Config {
    let lif = |id, name: &str, encapsulation, trap_vni, vteps| Lif {
        id,
        name: name.into(),
        port: UPLINK,
        encapsulation,
        trap_vni,
        mtu: 1500,
        vteps,
    };
    Config {
        ports: vec![
            Port { name: "uplink".into(), mac: [2, 0, 0, 0, 0, 1] },
            Port { name: "kernel".into(), mac: [2, 0, 0, 0, 0, 2] },
        ],
        underlay: Some(Underlay {
            port: UPLINK,
            vlan: 2,
            local_ip: vteps.local,
            udp_port: 4789,
            neighbors: vec![StaticNeighbor { ip: vteps.remote, mac: [2, 0, 0, 0, 2, 9] }],
            routes: vec![],
            copies: 0,
        }),
        lifs: vec![
            lif(1, "red", Encapsulation::Vlan(100), 10100, vec![]),
            lif(2, "blue", Encapsulation::Vxlan(2000), 2000, vec![vteps.remote]),
        ],
        trap: Trap {
            port: PortIndex(1),
            local_ip: Ipv4Addr::new(169, 254, 10, 1),
            kernel_ip: Ipv4Addr::new(169, 254, 10, 2),
            kernel_mac: Some([2, 0, 0, 0, 0x10, 2]),
            udp_port: 4789,
            limits: TrapLimits { arp_nd: 1000, new: 100_000, tcp_control: 100_000, exception: 1000 },
        },
    }
}

/// Session number `n`, from red to blue, masqueraded and routed.
pub fn session(n: u32) -> SessionSpec {
    let (source, source_port) = tenant(n);
    let nat = Ipv4Addr::from(0xcb00_7100 + n / 60_000);
    let tuple = |source: Ipv4Addr, source_port| Tuple {
        source: source.into(),
        destination: Ipv4Addr::new(198, 51, 100, 10).into(),
        source_port,
        destination_port: 443,
    };
    SessionSpec {
        id: SessionId(u64::from(n) + 1),
        in_lif: LifIndex(0),
        out_lif: LifIndex(1),
        protocol: 17,
        original: tuple(source, source_port),
        translated: tuple(nat, u16::try_from(1024 + n % 60_000).unwrap_or(u16::MAX)),
        l2: Some(L2 {
            forward: MacPair { source: ROUTER_OUT, destination: SERVER },
            reverse: MacPair { source: ROUTER_IN, destination: TENANT },
        }),
        action: Action::Forward,
        idle_timeout: Some(3600),
        hard_timeout: None,
        limit: None,
        owner: 0,
    }
}

/// The same of IPv6 sessions: each tenant has an address for itself, and keeps its port.
pub fn session_v6(n: u32) -> SessionSpec {
    let tuple = |network: u16| Tuple {
        source: address_v6(network, n / 32_768 + 1).into(),
        destination: address_v6(0xd, 10).into(),
        source_port: tenant(n).1,
        destination_port: 443,
    };
    SessionSpec { original: tuple(0xa), translated: tuple(0xb), ..session(n) }
}

fn address_v6(network: u16, host: u32) -> Ipv6Addr {
    let [high, low] = [(host >> 16) as u16, host as u16];
    Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, high, low)
}

/// A frame of IPv6 session `n` as it arrives on the uplink: VLAN 100, 84 bytes.
pub fn frame_v6(n: u32) -> Vec<u8> {
    let tuple = session_v6(n).original;
    let octets = |ip| if let IpAddr::V6(ip) = ip { ip.octets() } else { [0; 16] };
    let builder = PacketBuilder::ethernet2(TENANT, ROUTER_IN)
        .single_vlan(100.try_into().unwrap_or_default())
        .ipv6(octets(tuple.source), octets(tuple.destination), 64)
        .udp(tuple.source_port, tuple.destination_port);
    written(builder, &[0x5a; 18])
}

/// A frame of session `n` as it arrives on the uplink: VLAN 100, 64 bytes without FCS of the wire's view.
pub fn frame(n: u32) -> Vec<u8> {
    frame_of(&session(n).original)
}

/// A frame of the session with this IPv4 tuple.
pub fn frame_of(tuple: &Tuple) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(TENANT, ROUTER_IN)
        .single_vlan(100.try_into().unwrap_or_default())
        .ipv4(octets(tuple.source), octets(tuple.destination), 64)
        .udp(tuple.source_port, tuple.destination_port);
    written(builder, &[0x5a; 18])
}

/// The answer to a frame of session `n`, as it arrives on the uplink: in VXLAN, 64 bytes on VLAN 100 when it leaves.
pub fn answer(n: u32) -> Vec<u8> {
    answer_between(VTEPS, n)
}

/// The same over an IPv6 underlay.
pub fn answer_over_v6(n: u32) -> Vec<u8> {
    answer_between(VTEPS_V6, n)
}

fn answer_between(vteps: Vteps, n: u32) -> Vec<u8> {
    let Tuple { source, destination, source_port, destination_port } = session(n).translated;
    let builder = PacketBuilder::ethernet2(SERVER, ROUTER_OUT)
        .ipv4(octets(destination), octets(source), 64)
        .udp(destination_port, source_port);
    tunnelled(vteps, &written(builder, &[0x5a; 18]), u16::try_from(50_000 + n % 10_000).unwrap_or(u16::MAX))
}

/// A frame of the server's as it arrives on the uplink, in VXLAN: the gateway learns from it where the server is.
pub fn hello() -> Vec<u8> {
    hello_between(VTEPS)
}

/// The same over an IPv6 underlay.
pub fn hello_over_v6() -> Vec<u8> {
    hello_between(VTEPS_V6)
}

fn hello_between(vteps: Vteps) -> Vec<u8> {
    tunnelled(vteps, &[&[0xff; 6], &SERVER[..], &[0x88, 0xb5], &[0; 46]].concat(), 50_000)
}

/// As the server's VTEP sends it.
fn tunnelled(vteps: Vteps, frame: &[u8], source_port: u16) -> Vec<u8> {
    let vxlan = [&[0x08, 0, 0, 0, 0, 0x07, 0xd0, 0], frame].concat();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 2, 9], [2, 0, 0, 0, 0, 1])
        .single_vlan(2.try_into().unwrap_or_default());
    let builder = match (vteps.remote, vteps.local) {
        (IpAddr::V6(remote), IpAddr::V6(local)) => builder.ipv6(remote.octets(), local.octets(), 64),
        (remote, local) => builder.ipv4(octets(remote), octets(local), 64),
    };
    written(builder.udp(source_port, 4789), &vxlan)
}

fn octets(ip: IpAddr) -> [u8; 4] {
    if let IpAddr::V4(ip) = ip { ip.octets() } else { [0; 4] }
}

fn written(builder: PacketBuilderStep<UdpHeader>, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, payload).unwrap_or_else(|error| unreachable!("writing to memory: {error}"));
    frame
}

fn tenant(n: u32) -> (Ipv4Addr, u16) {
    (Ipv4Addr::from(0x0a01_0000 + n / 32_768), u16::try_from(1024 + n % 32_768).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    #[test]
    fn frames_are_64_bytes_on_the_wire_with_a_tag() {
        assert_eq!(super::frame(7).len(), 64);
        assert_eq!(super::answer(7).len(), 64 - 4 + 54);
        assert_eq!(super::answer_over_v6(7).len(), 64 - 4 + 74);
        assert_eq!(super::frame_v6(7).len(), 84);
    }
}
