//! Frames made with etherparse, and `gateway replay` run on them.
#![allow(dead_code, reason = "each test program uses a part")]

use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpFragOffset, IpNumber,
    Ipv4Header, Ipv6Header, SingleVlanHeader, TcpHeader, UdpHeader, VlanId,
};
use nix::unistd::Uid;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapParser, PcapWriter};
use pcap_file::{Endianness, TsResolution};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

pub type Mac = [u8; 6];
pub const UPLINK: Mac = [2, 0, 0, 0, 0, 1];
pub const TRAP: Mac = [2, 0, 0, 0, 0, 2];
pub const KERNEL: Mac = [2, 0, 0, 0, 0x10, 2];
pub const VTEP: Mac = [2, 0, 0, 0, 2, 9];
/// A tenant on the VLAN, and the router it sees.
pub const TENANT: Mac = [2, 0, 0, 0, 0xaa, 5];
pub const ROUTER_A: Mac = [2, 0, 0, 0, 0xaa, 1];
/// The next hop on the VXLAN, and the router it sees.
pub const SERVER: Mac = [2, 0, 0, 0, 0xbb, 0x0a];
pub const ROUTER_B: Mac = [2, 0, 0, 0, 0xbb, 1];

pub const CONFIG: &str = include_str!("../golden/gateway.toml");
pub const L2: &str = r#""l2": {"forward": {"source": "02:00:00:00:bb:01", "destination": "02:00:00:00:bb:0a"}, "reverse": {"source": "02:00:00:00:aa:01", "destination": "02:00:00:00:aa:05"}}"#;

/// An IP packet to be: everything but its payload.
#[derive(Clone, Copy)]
pub struct Ip {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ttl: u8,
    pub tos: u8,
}

pub fn ip(source: &str, destination: &str) -> Ip {
    Ip { source: source.parse().unwrap(), destination: destination.parse().unwrap(), ttl: 64, tos: 0 }
}

impl Ip {
    pub fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    pub fn tos(self, tos: u8) -> Self {
        Self { tos, ..self }
    }

    pub fn packet(&self, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = self.v4(protocol, payload.len(), source, destination);
                [&header.to_bytes()[..], payload].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                [&self.v6(protocol, payload.len(), source, destination).to_bytes()[..], payload].concat()
            }
            _ => panic!("two families"),
        }
    }

    fn v4(&self, protocol: IpNumber, len: usize, source: Ipv4Addr, destination: Ipv4Addr) -> Ipv4Header {
        let mut header =
            Ipv4Header::new(len as u16, self.ttl, protocol, source.octets(), destination.octets()).unwrap();
        header.identification = 0;
        header.dont_fragment = true;
        header.fragment_offset = IpFragOffset::ZERO;
        header.dscp = (self.tos >> 2).try_into().unwrap();
        header.ecn = (self.tos & 3).try_into().unwrap();
        header.header_checksum = header.calc_header_checksum();
        header
    }

    fn v6(&self, protocol: IpNumber, len: usize, source: Ipv6Addr, destination: Ipv6Addr) -> Ipv6Header {
        let mut header = Ipv6Header {
            payload_length: len as u16,
            next_header: protocol,
            hop_limit: self.ttl,
            source: source.octets(),
            destination: destination.octets(),
            ..Ipv6Header::default()
        };
        header.set_dscp((self.tos >> 2).try_into().unwrap());
        header.set_ecn((self.tos & 3).try_into().unwrap());
        header
    }

    pub fn udp(&self, source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
        let header = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let ip = self.v4(IpNumber::UDP, 0, source, destination);
                UdpHeader::with_ipv4_checksum(source_port, destination_port, &ip, payload)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let ip = self.v6(IpNumber::UDP, 0, source, destination);
                UdpHeader::with_ipv6_checksum(source_port, destination_port, &ip, payload)
            }
            _ => panic!("two families"),
        };
        self.packet(IpNumber::UDP, &[&header.unwrap().to_bytes()[..], payload].concat())
    }

    pub fn tcp(&self, source_port: u16, destination_port: u16, flags: &str, payload: &[u8]) -> Vec<u8> {
        let mut header = TcpHeader::new(source_port, destination_port, 1000, 4096);
        header.acknowledgment_number = 2000;
        (header.syn, header.ack) = (flags.contains('S'), flags.contains('A'));
        (header.fin, header.rst) = (flags.contains('F'), flags.contains('R'));
        header.checksum = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), payload).unwrap()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), payload).unwrap()
            }
            _ => panic!("two families"),
        };
        self.packet(IpNumber::TCP, &[&header.to_bytes()[..], payload].concat())
    }

    pub fn icmp(&self, kind: Icmpv4Type, payload: &[u8]) -> Vec<u8> {
        let header = Icmpv4Header::with_checksum(kind, payload);
        self.packet(IpNumber::ICMP, &[&header.to_bytes()[..], payload].concat())
    }

    pub fn icmpv6(&self, kind: Icmpv6Type, payload: &[u8]) -> Vec<u8> {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (self.source, self.destination) else {
            panic!("IPv4")
        };
        let header =
            Icmpv6Header::with_checksum(kind, source.octets(), destination.octets(), payload).unwrap();
        self.packet(IpNumber::IPV6_ICMP, &[&header.to_bytes()[..], payload].concat())
    }
}

pub fn ethernet(destination: Mac, source: Mac, packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 6 { EtherType::IPV6 } else { EtherType::IPV4 };
    typed(destination, source, kind, packet)
}

pub fn typed(destination: Mac, source: Mac, ether_type: EtherType, payload: &[u8]) -> Vec<u8> {
    let header = Ethernet2Header { source, destination, ether_type };
    [&header.to_bytes()[..], payload].concat()
}

/// The frame with an 802.1Q tag.
pub fn tagged(vid: u16, frame: &[u8]) -> Vec<u8> {
    let (macs, rest) = frame.split_at(12);
    let ether_type = EtherType(u16::from_be_bytes([rest[0], rest[1]]));
    let tag = SingleVlanHeader {
        vlan_id: VlanId::try_new(vid).unwrap(),
        ether_type,
        ..SingleVlanHeader::default()
    };
    [macs, &[0x81, 0], &tag.to_bytes()[..], &rest[2..]].concat()
}

/// The frame in VXLAN (RFC 7348) between two addresses, with a given outer UDP source port and no outer UDP checksum.
pub fn vxlan(macs: (Mac, Mac), outer: Ip, source_port: u16, vni: u32, frame: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    let payload = [&[8, 0, 0, 0, a, b, c, 0][..], frame].concat();
    let mut packet = outer.udp(source_port, 4789, &payload);
    packet[26..28].fill(0);
    ethernet(macs.0, macs.1, &packet)
}

/// From a tenant of the VLAN.
pub fn from_red(packet: &[u8]) -> Vec<u8> {
    tagged(100, &ethernet(ROUTER_A, TENANT, packet))
}

/// To a tenant of the VLAN.
pub fn to_red(packet: &[u8]) -> Vec<u8> {
    tagged(100, &ethernet(TENANT, ROUTER_A, packet))
}

/// From the server behind the VTEP, on VNI 2000 over VLAN 2.
pub fn from_blue(packet: &[u8]) -> Vec<u8> {
    let outer = ip("192.0.2.9", "192.0.2.1");
    tagged(2, &vxlan((UPLINK, VTEP), outer, 50_000, 2000, &ethernet(ROUTER_B, SERVER, packet)))
}

/// To the server behind the VTEP.
pub fn to_blue(packet: &[u8]) -> Vec<u8> {
    let outer = ip("192.0.2.1", "192.0.2.9");
    tagged(2, &vxlan((VTEP, UPLINK), outer, 0, 2000, &ethernet(SERVER, ROUTER_B, packet)))
}

/// A frame on its way to the kernel.
pub fn trapped(vni: u32, frame: &[u8]) -> Vec<u8> {
    vxlan((KERNEL, TRAP), ip("169.254.10.1", "169.254.10.2"), 0, vni, frame)
}

/// A frame from the kernel.
pub fn from_kernel(vni: u32, frame: &[u8]) -> Vec<u8> {
    vxlan((TRAP, KERNEL), ip("169.254.10.2", "169.254.10.1"), 51_000, vni, frame)
}

/// Runs what `nobody` may not reach in the folder it was built in from `dir`, which anybody may enter.
pub fn program_for_nobody(dir: &Path) -> PathBuf {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    let (built, program) = (env!("CARGO_BIN_EXE_gateway"), dir.join("gateway"));
    if !program.exists() && fs::hard_link(built, &program).is_err() {
        fs::copy(built, &program).unwrap();
    }
    program
}

/// Starts a program; a copy may be busy for a moment, as long as a process forked meanwhile has it open.
pub fn spawn(command: &mut Command) -> Child {
    const ATTEMPTS: usize = 100;
    for _ in 0..ATTEMPTS {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                thread::sleep(Duration::from_millis(20))
            }
            other => return other.unwrap(),
        }
    }
    panic!("{command:?} stays busy");
}

/// A replay to be.
pub struct Replay {
    pub dir: TempDir,
    config: String,
    sessions: Vec<String>,
    inputs: BTreeMap<String, Vec<(u64, Vec<u8>)>>,
    arguments: Vec<String>,
}

/// What came out.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub ports: BTreeMap<String, Vec<(u64, Vec<u8>)>>,
    pub stats: Value,
    pub closed: Vec<Value>,
}

pub const MILLISECOND: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MILLISECOND;
/// The first frame's time: some day.
pub const START: u64 = 1_700_000_000 * SECOND;

impl Replay {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (sessions, inputs, arguments) = Default::default();
        Self { dir, config: CONFIG.to_owned(), sessions, inputs, arguments }
    }

    pub fn config(mut self, from: &str, to: &str) -> Self {
        assert_eq!(self.config.matches(from).count(), 1, "{from}");
        self.config = self.config.replace(from, to);
        self
    }

    pub fn session(mut self, fields: &str) -> Self {
        let (id, n) = (self.sessions.len() + 1, fields);
        self.sessions.push(format!("{{\"session_id\": {id}, {n}}}"));
        self
    }

    pub fn argument(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// A frame at a time after the start.
    pub fn frame(mut self, after: u64, port: &str, frame: Vec<u8>) -> Self {
        self.inputs.entry(port.to_owned()).or_default().push((START + after, frame));
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the program as it is installed.
    pub fn output(&self, burst: &str) -> Output {
        self.command(Path::new(env!("CARGO_BIN_EXE_gateway")), burst).output().unwrap()
    }

    /// The same without any privilege, and with a folder for temporary files of its own, `tmp`.
    pub fn output_as_nobody(&self) -> Output {
        const NOBODY: u32 = 65_534;
        let mut command = self.command(&program_for_nobody(self.dir.path()), "1");
        fs::create_dir(self.path("tmp")).unwrap();
        fs::set_permissions(self.path("tmp"), fs::Permissions::from_mode(0o777)).unwrap();
        command.env("TMPDIR", self.path("tmp")).env_remove("XDG_RUNTIME_DIR");
        if Uid::effective().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped())).wait_with_output().unwrap()
    }

    fn command(&self, program: &Path, burst: &str) -> Command {
        fs::write(self.path("gateway.toml"), &self.config).unwrap();
        fs::write(self.path("sessions.jsonl"), self.sessions.join("\n")).unwrap();
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).args([
            "replay",
            "--config",
            "gateway.toml",
            "--json",
            "--burst",
            burst,
        ]);
        command.args(["--sessions", "sessions.jsonl", "--output-dir", "out", "--closed", "closed.jsonl"]);
        for (port, frames) in &self.inputs {
            let file = format!("{port}-in.pcap");
            fs::write(self.path(&file), pcap(frames)).unwrap();
            command.args(["--input", &format!("{port}={file}")]);
        }
        command.args(&self.arguments);
        command
    }

    /// Frame by frame and in bursts: the same comes out, and every packet is accounted for.
    pub fn run(&self) -> Outcome {
        let single = self.outcome("1");
        assert_eq!(self.outcome("32"), single, "bursts make a difference");
        single.check_account();
        single
    }

    fn outcome(&self, burst: &str) -> Outcome {
        let output = self.output(burst);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let closed = fs::read_to_string(self.path("closed.jsonl")).unwrap();
        let ports = ["uplink", "kernel"].map(|port| {
            let content = fs::read(self.path(&format!("out/{port}.pcap"))).unwrap();
            (port.to_owned(), parse(&content))
        });
        Outcome {
            ports: ports.into(),
            stats: serde_json::from_slice(&output.stdout).unwrap(),
            closed: closed.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        }
    }
}

impl Outcome {
    pub fn count(&self, group: &str, name: &str) -> u64 {
        self.stats[group][name].as_u64().unwrap_or_else(|| panic!("no {group}.{name} in {}", self.stats))
    }

    fn sum(&self, group: &str) -> u64 {
        self.stats[group].as_object().unwrap().values().map(|value| value.as_u64().unwrap()).sum()
    }

    fn ports_sum(&self, name: &str) -> u64 {
        self.stats["ports"].as_object().unwrap().values().map(|port| port[name].as_u64().unwrap()).sum()
    }

    /// Every packet that came in, or was made, went out, was used up, or was dropped under a reason.
    fn check_account(&self) {
        let made = ["originated", "replicated", "mirrored"].map(|name| self.count("other", name));
        let sources = self.ports_sum("rx_packets") + made.iter().sum::<u64>();
        let sinks = self.ports_sum("tx_packets")
            + self.ports_sum("tx_dropped")
            + self.sum("drops")
            + self.count("other", "consumed");
        assert_eq!(sources, sinks, "{}", self.stats);
        for (port, frames) in &self.ports {
            assert_eq!(self.stats["ports"][port]["tx_packets"].as_u64(), Some(frames.len() as u64), "{port}");
        }
    }

    /// What a port sent, exactly; the UDP source port of VXLAN is compared only in that it is of the dynamic range.
    #[track_caller]
    pub fn sent(&self, port: &str, expected: &[(u64, Vec<u8>)]) {
        let found = &self.ports[port];
        for (i, ((at, frame), (after, wanted))) in found.iter().zip(expected).enumerate() {
            assert_eq!(*at, START + after, "{port} {i}: time");
            let mut frame = frame.clone();
            if let Some(entropy) = entropy(&frame) {
                let port = u16::from_be_bytes([frame[entropy], frame[entropy + 1]]);
                assert!(port >= 49152, "source port {port}");
                frame[entropy..entropy + 2].fill(0);
            }
            assert_eq!(hex(&frame), hex(wanted), "{port} {i}");
        }
        assert_eq!(found.len(), expected.len(), "{port}: {}", self.stats);
    }
}

/// Where the UDP source port of a VXLAN frame over IPv4 is.
pub fn entropy(frame: &[u8]) -> Option<usize> {
    let ip = if frame.get(12..14)? == [0x81, 0] { 18 } else { 14 };
    let is_vxlan = frame.get(ip - 2..ip)? == [8, 0]
        && frame.get(ip + 9)? == &17
        && frame.get(ip + 22..ip + 24)? == 4789_u16.to_be_bytes();
    is_vxlan.then_some(ip + 20)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pcap(frames: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let header = PcapHeader {
        endianness: Endianness::Little,
        ts_resolution: TsResolution::NanoSecond,
        snaplen: 262_144,
        ..PcapHeader::default()
    };
    let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
    for (nanos, frame) in frames {
        let packet = PcapPacket::new(Duration::from_nanos(*nanos), frame.len() as u32, frame);
        writer.write_packet(&packet).unwrap();
    }
    writer.into_writer()
}

fn parse(content: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let (mut rest, parser) = PcapParser::new(content).unwrap();
    assert_eq!(parser.header().ts_resolution, TsResolution::NanoSecond);
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (next, packet) = parser.next_packet(rest).unwrap();
        frames.push((packet.timestamp.as_nanos() as u64, packet.data.to_vec()));
        rest = next;
    }
    frames
}
