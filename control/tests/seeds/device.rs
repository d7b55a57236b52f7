//! A gateway in full but for its devices, and the packets of its tenants.

use crate::common::{Gateway, Setup, handles, session};
use conntrack::LifIndex;
use control::Handles;
use etherparse::{PacketBuilder, SlicedPacket, VlanId};
use pipeline::config::{Port, StaticNeighbor, Trap, Underlay};
use pipeline::testing::{Buffer, Pool, Ports};
use pipeline::{Burst, Config, Encapsulation, Lif, Pipeline, PortIndex, TrapLimits, Worker};
use proto::openoffload::v2::{self, ProtocolId};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

const UPLINK: u8 = 0;
const KERNEL: u8 = 1;
/// Tags of the LIFs, in front of the network function and behind it.
pub const RED: u16 = 100;
pub const BLUE: u16 = 200;
const UNDERLAY: u16 = 2;
const TRAP_VNI: [u32; 2] = [10_001, 10_002];

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0xaa, 5];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0xbb, 10];
const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const TRAP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const KERNEL_MAC: [u8; 6] = [2, 0, 0, 0, 0x10, 2];
const TRAP_LOCAL: Ipv4Addr = Ipv4Addr::new(169, 254, 10, 1);
const TRAP_KERNEL: Ipv4Addr = Ipv4Addr::new(169, 254, 10, 2);
pub const COLLECTOR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

fn config() -> Config {
    let lif = |id: u32, name: &str, tag| Lif {
        id,
        name: name.to_owned(),
        port: PortIndex(UPLINK),
        encapsulation: Encapsulation::Vlan(tag),
        trap_vni: TRAP_VNI[id as usize - 1],
        mtu: 1500,
        vteps: Vec::new(),
    };
    Config {
        ports: vec![
            Port { name: "uplink".to_owned(), mac: UPLINK_MAC },
            Port { name: "kernel".to_owned(), mac: TRAP_MAC },
        ],
        underlay: Some(Underlay {
            port: PortIndex(UPLINK),
            vlan: UNDERLAY,
            local_ip: Ipv4Addr::new(192, 0, 2, 1).into(),
            udp_port: 4789,
            neighbors: vec![StaticNeighbor { ip: COLLECTOR.into(), mac: [2, 0, 0, 0, 2, 9] }],
            routes: Vec::new(),
            copies: 100_000,
        }),
        lifs: vec![lif(1, "red", RED), lif(2, "blue", BLUE)],
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

/// Server, table, pipeline.
pub struct Device {
    pub gateway: Gateway,
    pub pipeline: Arc<Pipeline>,
    pub workers: [Lane; 2],
}

/// A worker with its queues of all ports.
pub struct Lane {
    worker: Worker<Buffer>,
    io: Ports,
    pool: Pool,
    clock: control::Clock,
}

/// What a packet led to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Frames that left on the uplink, tags included.
    pub sent: Vec<Vec<u8>>,
    /// Frames for the network function, by the VNI of the LIF they came on.
    pub trapped: Vec<(u32, Vec<u8>)>,
}

impl Device {
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub async fn with(setup: Setup) -> Self {
        let base = handles(setup.capacity, setup.log, setup.watch);
        let pipeline = Pipeline::new(config(), base.table.clone(), 2, [3, 4]).expect("configuration");
        let snapshot = pipeline.clone();
        let handles =
            Handles { config: Arc::new(config()), snapshot: Arc::new(move || snapshot.snapshot()), ..base };
        let clock = handles.clock;
        let gateway = setup.start_with(handles).await;
        let workers = [0, 1].map(|index| {
            let pool = Pool::new(10_000);
            let worker = pipeline.worker(index).expect("each index once");
            Lane { worker, io: Ports::new(2, pool.clone()), pool, clock }
        });
        Self { gateway, pipeline, workers }
    }

    /// A packet arrives from the network.
    pub fn receive(&mut self, frame: &[u8]) -> Seen {
        self.workers[0].receive(UPLINK, &[frame])
    }

    /// The network function sends a packet on through the LIF with `tag`.
    pub fn network_function_sends(&mut self, tag: u16, frame: &[u8]) -> Seen {
        let [_, a, b, c] = TRAP_VNI[usize::from(tag == BLUE)].to_be_bytes();
        let payload = [&[8, 0, 0, 0, a, b, c, 0], frame].concat();
        let mut outer = Vec::new();
        PacketBuilder::ethernet2(KERNEL_MAC, TRAP_MAC)
            .ipv4(TRAP_KERNEL.octets(), TRAP_LOCAL.octets(), 64)
            .udp(50_000, 4789)
            .write(&mut outer, &payload)
            .expect("packet");
        self.workers[0].receive(KERNEL, &[&outer])
    }

    /// Whether the packet goes on to the other LIF as it is, and nowhere else.
    pub fn forwards(&mut self, frame: &[u8]) -> bool {
        let seen = self.receive(frame);
        seen == Seen { sent: vec![retag(frame)], trapped: Vec::new() }
    }

    /// Whether the packet goes to the network function as it is, and nowhere else.
    pub fn traps(&mut self, frame: &[u8]) -> bool {
        let seen = self.receive(frame);
        let vni = TRAP_VNI[usize::from(tag(frame) == BLUE)];
        seen == Seen { sent: Vec::new(), trapped: vec![(vni, untagged(frame))] }
    }
}

impl Lane {
    /// One burst.
    pub fn receive(&mut self, port: u8, frames: &[&[u8]]) -> Seen {
        let mut packets: Burst<Buffer> = frames.iter().map(|frame| self.pool.packet(frame)).collect();
        self.worker.process(PortIndex(port), &mut packets, self.clock.now_nanos(), &mut self.io);
        assert_eq!(self.pool.live(), 0, "packets leaked");
        let trapped = self.io.take(KERNEL).iter().map(|frame| unwrap(frame, 14)).collect();
        Seen { sent: self.io.take(UPLINK), trapped }
    }

    /// Packets of the uplink that were forwarded.
    pub fn forwarded(&mut self, frames: &[&[u8]]) -> u64 {
        self.receive(UPLINK, frames).sent.len() as u64
    }
}

/// A tunnel packet's VNI and what is in it; `l2` bytes of Ethernet header and tag are in front.
fn unwrap(frame: &[u8], l2: usize) -> (u32, Vec<u8>) {
    let vxlan = &frame[l2 + 28..];
    (u32::from_be_bytes([0, vxlan[4], vxlan[5], vxlan[6]]), vxlan[8..].to_vec())
}

/// The packet in a copy for the collector.
pub fn copy(frame: &[u8]) -> Vec<u8> {
    assert_eq!(tag(frame), UNDERLAY);
    assert_eq!(&frame[34..38], COLLECTOR.octets());
    let (vni, inner) = unwrap(frame, 18);
    assert_eq!(vni, TRAP_VNI[0]);
    inner
}

pub fn tag(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[14], frame[15]]) & 0xfff
}

pub fn untagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &frame[16..]].concat()
}

/// With the other LIF's tag.
pub fn retag(frame: &[u8]) -> Vec<u8> {
    let other = if tag(frame) == RED { BLUE } else { RED };
    [&frame[..14], &other.to_be_bytes(), &frame[16..]].concat()
}

/// What a tenant sends.
#[derive(Clone, Copy, Debug)]
pub enum Segment<'a> {
    Data(&'a [u8]),
    Syn,
    Fin,
    Rst,
}

/// A connection of client `n` through the device.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub n: u32,
    pub protocol: ProtocolId,
    pub is_v6: bool,
}

impl Flow {
    pub fn tcp(n: u32) -> Self {
        Self { n, protocol: ProtocolId::Tcp, is_v6: false }
    }

    pub fn udp(n: u32) -> Self {
        Self { n, protocol: ProtocolId::Udp, is_v6: false }
    }

    pub fn v6(self) -> Self {
        Self { is_v6: true, ..self }
    }

    /// Client and server.
    fn ends(self) -> [IpAddr; 2] {
        if self.is_v6 {
            [u128::from(self.n) | 1 << 32, 0xffff].map(|low| Ipv6Addr::from(0x2001_0db8 << 96 | low).into())
        } else {
            [0x0A00_0000 + self.n, 0xC633_640A].map(|bits| Ipv4Addr::from(bits).into())
        }
    }

    /// What the network function asks for.
    pub fn request(self) -> v2::SessionRequest {
        let mut request = session(self.n);
        request.set_protocol_id(self.protocol);
        if let [IpAddr::V6(source), IpAddr::V6(destination)] = self.ends() {
            request.set_ip_version(v2::IpVersion::Ipv6);
            (request.source_ip, request.destination_ip) = (0, 0);
            request.source_ipv6 = source.octets().to_vec();
            request.destination_ipv6 = destination.octets().to_vec();
        }
        request
    }

    /// A packet of the client, as it arrives on red.
    pub fn there(self, segment: Segment<'_>) -> Vec<u8> {
        let [client, server] = self.ends();
        self.packet(RED, (CLIENT_MAC, SERVER_MAC), (client, 40_000), (server, 443), segment)
    }

    /// A packet of the server, as it arrives on blue.
    pub fn back(self, segment: Segment<'_>) -> Vec<u8> {
        let [client, server] = self.ends();
        self.packet(BLUE, (SERVER_MAC, CLIENT_MAC), (server, 443), (client, 40_000), segment)
    }

    fn packet(
        self,
        tag: u16,
        macs: ([u8; 6], [u8; 6]),
        from: (IpAddr, u16),
        to: (IpAddr, u16),
        segment: Segment<'_>,
    ) -> Vec<u8> {
        let tagged = PacketBuilder::ethernet2(macs.0, macs.1).single_vlan(VlanId::try_new(tag).expect("tag"));
        let ip = match (from.0, to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => tagged.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => tagged.ipv6(from.octets(), to.octets(), 64),
            _ => panic!("families differ"),
        };
        let mut frame = Vec::new();
        let data = if let Segment::Data(data) = segment { data } else { &[] };
        if self.protocol == ProtocolId::Udp {
            ip.udp(from.1, to.1).write(&mut frame, data).expect("packet");
        } else {
            let tcp = ip.tcp(from.1, to.1, 1000, 2000).ack(7);
            let tcp = match segment {
                Segment::Data(_) => tcp,
                Segment::Syn => tcp.syn(),
                Segment::Fin => tcp.fin(),
                Segment::Rst => tcp.rst(),
            };
            tcp.write(&mut frame, data).expect("packet");
        }
        SlicedPacket::from_ethernet(&frame).expect("a valid packet");
        frame
    }
}

/// What the table says of a session: that it arrives on red and leaves on blue.
pub fn lifs() -> (LifIndex, LifIndex) {
    (LifIndex(0), LifIndex(1))
}
