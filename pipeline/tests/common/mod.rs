//! A small gateway on heap buffers, and frames built by etherparse, which knows nothing of the pipeline.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use arrayvec::ArrayVec;
use conntrack::table::Timeouts;
use conntrack::{
    Action, L2, LifIndex, MacPair, SessionId, SessionSpec, SessionTable, TableConfig, Timestamp, Tuple,
};
use etherparse::{EtherType, PacketBuilder};
use pipeline::config::{Port, StaticNeighbor, Trap, Underlay};
use pipeline::testing::{Buffer, Pool, Ports};
use pipeline::{
    Burst, Config, Encapsulation, Lif, PORT_BURST, Pipeline, PortIndex, Snapshot, TrapLimits, Worker,
};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

pub const UPLINK: u8 = 0;
pub const KERNEL: u8 = 1;
pub const ACCESS: u8 = 2;
pub const RED: LifIndex = LifIndex(0);
pub const BLUE: LifIndex = LifIndex(1);
pub const GREEN: LifIndex = LifIndex(2);

pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
pub const TRAP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
pub const KERNEL_MAC: [u8; 6] = [2, 0, 0, 0, 0x10, 2];
pub const VTEP_MAC: [u8; 6] = [2, 0, 0, 0, 2, 9];
pub const VTEP2_MAC: [u8; 6] = [2, 0, 0, 0, 2, 8];
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0xaa, 5];
pub const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0xbb, 0xa];
pub const GATEWAY_RED: [u8; 6] = [2, 0, 0, 0, 0xaa, 1];
pub const GATEWAY_BLUE: [u8; 6] = [2, 0, 0, 0, 0xbb, 1];

pub const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const VTEP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
pub const VTEP2: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 8);
pub const TRAP_LOCAL: Ipv4Addr = Ipv4Addr::new(169, 254, 10, 1);
pub const TRAP_KERNEL: Ipv4Addr = Ipv4Addr::new(169, 254, 10, 2);

pub const SECOND: u64 = 1_000_000_000;

/// red: VLAN 100; blue: VXLAN 2000 on underlay VLAN 2; green: untagged on another port.
pub fn config() -> Config {
    let port = |name: &str, mac| Port { name: name.into(), mac };
    let lif = |id, name: &str, port, encapsulation, trap_vni, vteps: &[Ipv4Addr]| Lif {
        id,
        name: name.into(),
        port: PortIndex(port),
        encapsulation,
        trap_vni,
        mtu: 1500,
        vteps: vteps.iter().map(|ip| IpAddr::V4(*ip)).collect(),
    };
    Config {
        ports: vec![
            port("uplink", UPLINK_MAC),
            port("kernel", TRAP_MAC),
            port("access", [2, 0, 0, 0, 0, 0x12]),
        ],
        underlay: Some(Underlay {
            port: PortIndex(UPLINK),
            vlan: 2,
            local_ip: LOCAL.into(),
            udp_port: 4789,
            neighbors: vec![
                StaticNeighbor { ip: VTEP.into(), mac: VTEP_MAC },
                StaticNeighbor { ip: VTEP2.into(), mac: VTEP2_MAC },
            ],
            routes: vec![],
            copies: 100_000,
        }),
        lifs: vec![
            lif(1, "red", UPLINK, Encapsulation::Vlan(100), 10100, &[]),
            lif(2, "blue", UPLINK, Encapsulation::Vxlan(2000), 2000, &[VTEP]),
            lif(3, "green", ACCESS, Encapsulation::Untagged, 10300, &[]),
        ],
        trap: Trap {
            port: PortIndex(KERNEL),
            local_ip: TRAP_LOCAL,
            kernel_ip: TRAP_KERNEL,
            kernel_mac: Some(KERNEL_MAC),
            udp_port: 4789,
            limits: TrapLimits { arp_nd: 1000, new: 100_000, tcp_control: 100_000, exception: 1000 },
        },
    }
}

/// One worker, its ports, and the table behind.
pub struct Gateway {
    pub pipeline: Arc<Pipeline>,
    pub sessions: Arc<SessionTable>,
    pub worker: Worker<Buffer>,
    pub io: Ports,
    pub pool: Pool,
    pub now: u64,
}

impl Gateway {
    pub fn new() -> Self {
        Self::with(config())
    }

    pub fn with(config: Config) -> Self {
        Self::with_workers(config, 1)
    }

    pub fn with_workers(config: Config, workers: usize) -> Self {
        let sessions = SessionTable::new(TableConfig {
            capacity: 1024,
            timeouts: Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 },
            readers: 2,
            hugepages: false,
            hash_secret: [1, 2],
        })
        .unwrap();
        let ports = config.ports.len();
        let pipeline = Pipeline::new(config, sessions.clone(), workers, [3, 4]).unwrap();
        let worker = pipeline.worker(0).unwrap();
        let pool = Pool::new(100_000);
        Self { pipeline, sessions, worker, io: Ports::new(ports, pool.clone()), pool, now: SECOND }
    }

    /// Receives frames as one burst or more.
    pub fn receive_all(&mut self, port: u8, frames: &[Vec<u8>]) {
        for frames in frames.chunks(pipeline::BURST) {
            let packets = frames.iter().map(|frame| self.pool.packet(frame)).collect();
            self.process(port, packets);
        }
    }

    pub fn receive(&mut self, port: u8, frame: &[u8]) {
        self.receive_all(port, &[frame.to_vec()]);
    }

    pub fn process(&mut self, port: u8, mut packets: Burst<Buffer>) {
        self.worker.process(PortIndex(port), &mut packets, self.now, &mut self.io);
        assert!(packets.is_empty());
        self.check_accounts();
    }

    /// Receives frames together, however many.
    pub fn receive_together(&mut self, port: u8, frames: &[Vec<u8>]) {
        let packets = frames.iter().map(|frame| self.pool.packet(frame)).collect();
        self.process_all(port, packets);
    }

    pub fn process_all(&mut self, port: u8, packets: Vec<Buffer>) {
        let mut packets = packets.into_iter();
        while packets.len() > 0 {
            let mut together: ArrayVec<_, PORT_BURST> = packets.by_ref().take(PORT_BURST).collect();
            self.worker.process(PortIndex(port), &mut together, self.now, &mut self.io);
            assert!(together.is_empty());
        }
        self.check_accounts();
    }

    pub fn tick(&mut self) {
        self.worker.tick(self.now, &mut self.io);
        self.check_accounts();
    }

    /// Receives a frame and returns the only one sent, on `port`.
    pub fn forward(&mut self, from: u8, frame: &[u8], port: u8) -> Vec<u8> {
        self.receive(from, frame);
        let mut sent = self.io.take(port);
        let drops: Vec<_> = self.snapshot().drops.into_iter().filter(|(_, n)| *n > 0).collect();
        assert_eq!(sent.len(), 1, "drops so far: {drops:?}");
        assert!(self.io.sent.iter().all(Vec::is_empty), "nothing on other ports");
        sent.pop().unwrap()
    }

    /// Every packet received or made is sent, dropped or used up, and none is left over.
    pub fn check_accounts(&self) {
        let s = self.snapshot();
        let other = |name| count(&s.other, name);
        let rx: u64 = s.ports.iter().map(|p| p.rx_packets).sum();
        let tx: u64 = s.ports.iter().map(|p| p.tx_packets + p.tx_dropped).sum();
        let drops: u64 = s.drops.iter().map(|(_, n)| n).sum();
        let made = other("originated") + other("replicated") + other("mirrored");
        assert_eq!(rx + made, tx + drops + other("consumed"), "{s:?}");
        assert_eq!(self.pool.live(), 0, "packets leaked");
        let limited: u64 = s.trap_limited.iter().map(|(_, n)| n).sum();
        assert_eq!(limited, count(&s.drops, "trap_limited"));
    }

    pub fn snapshot(&self) -> Snapshot {
        self.pipeline.snapshot()
    }

    pub fn drops(&self, name: &str) -> u64 {
        count(&self.snapshot().drops, name)
    }

    pub fn traps(&self, name: &str) -> u64 {
        count(&self.snapshot().traps, name)
    }

    pub fn other(&self, name: &str) -> u64 {
        count(&self.snapshot().other, name)
    }

    pub fn install(&self, spec: &SessionSpec) {
        self.sessions.insert(spec, Timestamp::from_nanos(self.now)).unwrap();
    }
}

pub fn count(counters: &[(&'static str, u64)], name: &str) -> u64 {
    counters.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no counter {name}")).1
}

pub fn tuple(source: &str, destination: &str) -> Tuple {
    let parse = |text: &str| match text.parse::<std::net::SocketAddr>() {
        Ok(address) => (address.ip(), address.port()),
        Err(_) => (text.parse().unwrap(), 0),
    };
    let ((source, source_port), (destination, destination_port)) = (parse(source), parse(destination));
    Tuple { source, destination, source_port, destination_port }
}

/// From red to blue, routed.
pub fn routed(id: u64, protocol: u8, original: Tuple, translated: Tuple) -> SessionSpec {
    SessionSpec {
        l2: Some(L2 {
            forward: MacPair { source: GATEWAY_BLUE, destination: SERVER_MAC },
            reverse: MacPair { source: GATEWAY_RED, destination: CLIENT_MAC },
        }),
        ..bumped(id, protocol, original, translated)
    }
}

/// From red to blue, MACs and TTL as they are.
pub fn bumped(id: u64, protocol: u8, original: Tuple, translated: Tuple) -> SessionSpec {
    SessionSpec {
        id: SessionId(id),
        in_lif: RED,
        out_lif: BLUE,
        protocol,
        original,
        translated,
        l2: None,
        action: Action::Forward,
        idle_timeout: None,
        hard_timeout: None,
        limit: None,
        owner: 0,
    }
}

pub fn vlan(vlan: u16, frame: &[u8]) -> Vec<u8> {
    let [a, b] = vlan.to_be_bytes();
    [&frame[..12], &[0x81, 0, a, b], &frame[12..]].concat()
}

pub fn untag(vlan_id: u16, frame: &[u8]) -> Vec<u8> {
    assert_eq!(&frame[12..16], &vlan(vlan_id, &[0; 14])[12..16], "tagged {vlan_id}");
    [&frame[..12], &frame[16..]].concat()
}

/// What carries a frame in a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    pub macs: ([u8; 6], [u8; 6]),
    pub ips: (Ipv4Addr, Ipv4Addr),
    pub vni: u32,
    pub source_port: u16,
    pub tos: u8,
}

impl Outer {
    /// From the other VTEP to the gateway.
    pub fn from_vtep() -> Self {
        Self { macs: (VTEP_MAC, UPLINK_MAC), ips: (VTEP, LOCAL), vni: 2000, source_port: 50_000, tos: 0 }
    }

    pub fn from_kernel(vni: u32) -> Self {
        Self {
            macs: (KERNEL_MAC, TRAP_MAC),
            ips: (TRAP_KERNEL, TRAP_LOCAL),
            vni,
            source_port: 50_000,
            tos: 0,
        }
    }

    /// With outer headers in front, no tag.
    pub fn wrap(&self, frame: &[u8]) -> Vec<u8> {
        let [_, a, b, c] = self.vni.to_be_bytes();
        let payload = [&[8, 0, 0, 0, a, b, c, 0], frame].concat();
        let mut ip = etherparse::Ipv4Header::new(
            (payload.len() + 8) as u16,
            64,
            etherparse::IpNumber::UDP,
            self.ips.0.octets(),
            self.ips.1.octets(),
        )
        .unwrap();
        ip.dscp = (self.tos >> 2).try_into().unwrap();
        ip.ecn = (self.tos & 3).try_into().unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        let udp = [
            &self.source_port.to_be_bytes()[..],
            &4789u16.to_be_bytes(),
            &(payload.len() as u16 + 8).to_be_bytes(),
            &[0, 0],
        ]
        .concat();
        let mut bytes = [&self.macs.1[..], &self.macs.0, &[8, 0]].concat();
        ip.write(&mut bytes).unwrap();
        [bytes, udp, payload].concat()
    }
}

/// Takes a tunnel packet apart, checking everything RFC 7348 says of it.
pub fn unwrap(bytes: &[u8]) -> (Outer, Vec<u8>) {
    let sliced = etherparse::SlicedPacket::from_ethernet(bytes).expect("a valid outer packet");
    let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else { panic!("outer IPv4") };
    let ip = ip.header().to_header();
    assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "outer checksum");
    assert!(ip.dont_fragment && !ip.more_fragments, "outer DF");
    assert_eq!(usize::from(ip.total_len), bytes.len() - 14, "outer length");
    let Some(etherparse::TransportSlice::Udp(udp)) = &sliced.transport else { panic!("outer UDP") };
    assert_eq!(udp.destination_port(), 4789);
    assert_eq!(udp.checksum(), 0);
    assert!(udp.source_port() >= 49_152, "RFC 7348 section 5");
    assert_eq!(usize::from(udp.length()), bytes.len() - 34);
    let vxlan = &bytes[42..50];
    assert_eq!((vxlan[0], &vxlan[1..4], vxlan[7]), (8, &[0u8; 3][..], 0));
    let outer = Outer {
        macs: (bytes[6..12].try_into().unwrap(), bytes[0..6].try_into().unwrap()),
        ips: (ip.source.into(), ip.destination.into()),
        vni: u32::from_be_bytes([0, vxlan[4], vxlan[5], vxlan[6]]),
        source_port: udp.source_port(),
        tos: u8::from(ip.dscp) << 2 | u8::from(ip.ecn),
    };
    (outer, bytes[50..].to_vec())
}

/// A frame with right checksums; `tuple`'s ports are the identifier where the protocol is ICMP.
pub fn frame(macs: ([u8; 6], [u8; 6]), protocol: u8, tuple: &Tuple, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let ethernet = PacketBuilder::ethernet2(macs.0, macs.1);
    let builder = match (tuple.source, tuple.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ethernet.ipv4(source.octets(), destination.octets(), ttl)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ethernet.ipv6(source.octets(), destination.octets(), ttl)
        }
        _ => panic!("families differ"),
    };
    let (source, destination) = (tuple.source_port, tuple.destination_port);
    match protocol {
        6 => builder.tcp(source, destination, 1000, 2000).ack(7).write(&mut bytes, payload).unwrap(),
        17 => builder.udp(source, destination).write(&mut bytes, payload).unwrap(),
        1 if destination == 0 => {
            builder.icmpv4_echo_request(source, 1).write(&mut bytes, payload).unwrap();
        }
        1 => builder.icmpv4_echo_reply(destination, 1).write(&mut bytes, payload).unwrap(),
        58 if destination == 0 => {
            builder.icmpv6_echo_request(source, 1).write(&mut bytes, payload).unwrap();
        }
        58 => builder.icmpv6_echo_reply(destination, 1).write(&mut bytes, payload).unwrap(),
        other => builder.write(&mut bytes, etherparse::IpNumber(other), payload).unwrap(),
    }
    bytes
}

/// A TCP packet from the client with these flags.
pub fn with_flags(flags: u8, original: &Tuple) -> Vec<u8> {
    let mut bytes = frame((CLIENT_MAC, GATEWAY_RED), 6, original, 64, b"");
    let old = bytes[47];
    bytes[47] = flags;
    let checksum = [bytes[50], bytes[51]];
    let delta = conntrack::checksum::ChecksumDelta::replace(&[0, old], &[0, flags]);
    bytes[50..52].copy_from_slice(&delta.apply(checksum));
    bytes
}

pub fn swapped(tuple: &Tuple) -> Tuple {
    Tuple {
        source: tuple.destination,
        destination: tuple.source,
        source_port: tuple.destination_port,
        destination_port: tuple.source_port,
    }
}

/// An ARP request as a tenant sends it.
pub fn arp_request(sender: ([u8; 6], Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    arp(1, sender, ([0; 6], target), [0xff; 6])
}

pub fn arp(operation: u16, sender: ([u8; 6], Ipv4Addr), target: ([u8; 6], Ipv4Addr), to: [u8; 6]) -> Vec<u8> {
    let packet = etherparse::ArpPacket::new(
        etherparse::ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        etherparse::ArpOperation(operation),
        &sender.0,
        &sender.1.octets(),
        &target.0,
        &target.1.octets(),
    )
    .unwrap();
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(sender.0, to).arp(packet).write(&mut bytes).unwrap();
    bytes
}
