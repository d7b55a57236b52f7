//! A real server over a real table, on a unix socket unless told otherwise.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod http2;
pub mod pki;
pub mod vnf;

use conntrack::table::{Reader, SessionTable, TableConfig, Timeouts};
use conntrack::{FlowKeyV4, LifIndex, TcpFlags};
use control::activation::ActivationConfig;
use control::client::{self, Target};
use control::{Clock, ClosedLog, Endpoint, Handles, Housekeeper, Limits, Server, ServerConfig, TlsFiles};
use pipeline::config::{Port, Trap, Underlay};
use pipeline::stats::{LifCounters, PortCounters};
use pipeline::{Config, Encapsulation, Lif, PortIndex, Snapshot, TrapLimits};
use proto::gateway::v1::GetStatsRequest;
use proto::gateway::v1::gateway_client::GatewayClient;
use proto::openoffload::v2;
use proto::openoffload::v2::session_table_client::SessionTableClient;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tonic::transport::Channel;

pub struct Setup {
    pub capacity: u32,
    pub log: usize,
    pub watch: usize,
    pub limits: Limits,
    pub listen: Vec<Endpoint>,
    pub tls: Option<TlsFiles>,
    pub plaintext: bool,
    /// Our address on the underlay, if there is one.
    pub underlay: Option<IpAddr>,
    pub housekeeping: bool,
    pub activation: Option<ActivationConfig>,
    pub admins: Vec<String>,
    /// Ids of "red" and "blue".
    pub lifs: [u32; 2],
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            capacity: 20_000,
            log: 100_000,
            watch: 1024,
            limits: Limits::default(),
            listen: Vec::new(),
            tls: None,
            plaintext: false,
            underlay: None,
            housekeeping: true,
            activation: None,
            admins: Vec::new(),
            lifs: [1, 2],
        }
    }
}

pub struct Gateway {
    pub server: Server,
    pub handles: Handles,
    pub dir: TempDir,
    pub housekeeper: Option<Housekeeper>,
}

impl Setup {
    pub async fn start(self) -> Gateway {
        let mut handles = handles(self.capacity, self.log, self.watch);
        handles.config = Arc::new(config(self.lifs, self.underlay));
        self.start_with(handles).await
    }

    pub async fn start_with(self, handles: Handles) -> Gateway {
        let dir = TempDir::new().expect("directory");
        let mut listen = self.listen;
        listen.insert(0, Endpoint::Unix(dir.path().join("control.sock")));
        let config = ServerConfig {
            listen,
            tls: self.tls,
            plaintext: self.plaintext,
            limits: self.limits,
            activation: self.activation,
            admins: self.admins,
        };
        let server = Server::start(config, handles.clone()).await.expect("server");
        let housekeeper = self.housekeeping.then(|| {
            Housekeeper::start(handles.table.clone(), handles.clock, handles.closed.clone()).expect("thread")
        });
        Gateway { server, handles, dir, housekeeper }
    }
}

impl Gateway {
    pub async fn start() -> Self {
        Setup::default().start().await
    }

    pub async fn channel(&self) -> Channel {
        client::connect(&Target::from(self.server.endpoints()[0].clone())).await.expect("connection")
    }

    pub async fn v2(&self) -> SessionTableClient<Channel> {
        SessionTableClient::new(self.channel().await)
    }

    pub async fn v1(&self) -> GatewayClient<Channel> {
        GatewayClient::new(self.channel().await)
    }

    /// A worker that sees `flags` of the session [`session`] made from `n`, in its own direction or in the other.
    pub fn observe(&self, reader: &mut Reader, n: u32, reverse: bool, flags: u8) {
        let now = self.handles.clock.now();
        let burst = reader.enter();
        let mut flows = [None; 2];
        burst.lookup_v4(&keys(n), now, &mut flows);
        flows[usize::from(reverse)].expect("session is there").observe(TcpFlags(flags), now);
    }

    /// A worker that forwards `packets` of 100 bytes of the session [`session`] made from `n`, and sees `flags` each way.
    pub fn traffic(&self, reader: &mut Reader, n: u32, packets: u32, flags: &[TcpFlags]) {
        let now = self.handles.clock.now();
        let burst = reader.enter();
        let mut flows = [None; 2];
        burst.lookup_v4(&keys(n), now, &mut flows);
        for flow in flows.into_iter().map(|flow| flow.expect("session is there")) {
            (0..packets).for_each(|_| flow.count(now, 100));
            flags.iter().for_each(|&flags| flow.observe(flags, now));
        }
    }

    /// One of the counters beside packets and sessions.
    pub async fn counter(&self, name: &str) -> u64 {
        let stats = self.v1().await.get_stats(GetStatsRequest {}).await.expect("call").into_inner();
        let counter = stats.other.into_iter().find(|counter| counter.name == name);
        counter.unwrap_or_else(|| panic!("no counter {name}")).value
    }

    /// Waits until so many records are in the log.
    pub async fn closed(&self, records: usize) {
        for _ in 0..2000 {
            if self.handles.closed.len() == records {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} closed, not {records}", self.handles.closed.len());
    }
}

pub fn handles(capacity: u32, log: usize, watch: usize) -> Handles {
    let table = SessionTable::new(TableConfig {
        capacity,
        timeouts: Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 },
        readers: 2,
        hugepages: false,
        hash_secret: [1, 2],
    })
    .expect("table");
    let snapshot = || Snapshot {
        ports: vec![PortCounters { rx_packets: 5, ..Default::default() }],
        lifs: vec![LifCounters { rx_packets: 3, ..Default::default() }, LifCounters::default()],
        drops: vec![("unknown_lif", 2)],
        traps: vec![("new", 1)],
        trap_limited: vec![("new", 0)],
        other: vec![("established", 3)],
    };
    Handles {
        table,
        config: Arc::new(config([1, 2], None)),
        snapshot: Arc::new(snapshot),
        clock: Clock::start(),
        closed: ClosedLog::new(log, watch),
    }
}

/// The LIFs "red" and "blue" with these ids.
fn config(ids: [u32; 2], underlay: Option<IpAddr>) -> Config {
    let lif = |id, name: &str, encapsulation| Lif {
        id,
        name: name.to_owned(),
        port: PortIndex(0),
        encapsulation,
        trap_vni: 10_000 + id,
        mtu: 1500,
        vteps: Vec::new(),
    };
    Config {
        ports: vec![Port { name: "uplink".to_owned(), mac: [2, 0, 0, 0, 0, 1] }],
        underlay: underlay.map(|local_ip| Underlay {
            port: PortIndex(0),
            vlan: 2,
            local_ip,
            udp_port: 4789,
            neighbors: Vec::new(),
            routes: Vec::new(),
            copies: 1,
        }),
        lifs: vec![
            lif(ids[0], "red", Encapsulation::Vlan(100)),
            lif(ids[1], "blue", Encapsulation::Vxlan(2000)),
        ],
        trap: Trap {
            port: PortIndex(0),
            local_ip: Ipv4Addr::new(169, 254, 10, 1),
            kernel_ip: Ipv4Addr::new(169, 254, 10, 2),
            kernel_mac: None,
            udp_port: 4789,
            limits: TrapLimits { arp_nd: 1, new: 1, tcp_control: 1, exception: 1 },
        },
    }
}

/// A valid TCP session with id `n`, its own source address, as a little-endian client sends it.
pub fn session(n: u32) -> v2::SessionRequest {
    v2::SessionRequest {
        session_id: u64::from(n),
        in_lif: 1,
        out_lif: 2,
        source_ip: u32::from_le_bytes((0x0A00_0000 + n).to_be_bytes()),
        source_port: 40_000,
        destination_ip: u32::from_le_bytes([198, 51, 100, 10]),
        destination_port: 443,
        protocol_id: v2::ProtocolId::Tcp.into(),
        action: Some(v2::ActionParameters {
            action_type: v2::ActionType::Forward.into(),
            action_next_hop: 7,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What the packets of [`session`] are found by: there and back.
fn keys(n: u32) -> [FlowKeyV4; 2] {
    let request = session(n);
    let ip = |native: u32| Ipv4Addr::from(native.to_le_bytes());
    let (source, destination) = (ip(request.source_ip), ip(request.destination_ip));
    let (sport, dport) = (request.source_port as u16, request.destination_port as u16);
    [
        FlowKeyV4::new(LifIndex(0), 6, source, sport, destination, dport),
        FlowKeyV4::new(LifIndex(1), 6, destination, dport, source, sport),
    ]
}

pub async fn add(
    client: &mut SessionTableClient<Channel>,
    requests: impl IntoIterator<Item = v2::SessionRequest, IntoIter: Send + Sync + 'static>,
) -> v2::AddSessionResponse {
    client.add_session(tokio_stream::iter(requests)).await.expect("the call succeeds").into_inner()
}

/// Everything that has closed, by one call that ends well.
pub async fn drain(client: &mut SessionTableClient<Channel>) -> Vec<v2::SessionResponse> {
    let mut stream =
        client.get_closed_sessions(v2::SessionRequestArgs::default()).await.expect("call").into_inner();
    let mut records = Vec::new();
    while let Some(record) = stream.message().await.expect("stream ends with OK") {
        records.push(record);
    }
    records
}

pub fn ids(records: &[v2::SessionResponse]) -> Vec<u64> {
    let mut ids: Vec<_> = records.iter().map(|record| record.session_id).collect();
    ids.sort_unstable();
    ids
}
