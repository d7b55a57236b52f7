//! The demonstration's traffic.

use std::net::IpAddr;

use crate::control::Session;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::plan::{self, A, B, BLUE, BLUE1, C, GREEN1, Host, RED1, RED2, VIOLET1, Vnf};
use crate::process::Process;
use crate::traffic::{DNS_ADDRESS, Iperf, dns_query, dns_server, iperf_server, ping};

/// Rate of the UDP flow, in bits per second.
const UDP_RATE: u64 = 20_000_000;
/// Number of DNS queries, all from one port.
const QUERIES: u32 = 20;
/// Number of pings.
const PINGS: u32 = 20;
/// Source port of the DNS queries.
const QUERY_PORT: u16 = 5353;

/// What a flow consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// iperf3 for so many seconds.
    Tcp(u32),
    /// iperf3 for so many seconds.
    Udp(u32),
    /// Queries from one port.
    Dns,
    /// Echo requests.
    Ping,
}

/// One flow.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    pub(super) name: &'static str,
    /// Whose decision it needs.
    pub(super) vnf: Vnf,
    client: Host,
    server: Host,
    /// Where the client sends to: the server, or the VNF that forwards a port.
    to: IpAddr,
    port: u16,
    server_port: u16,
    pub(super) kind: Kind,
}

/// What became of a flow.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    /// Bits per second at the receiver, and the share of lost packets.
    Throughput(f64, f64),
    /// Answers of so many requests.
    Answers(u32, u32),
}

impl Flow {
    /// Its server, where it needs one.
    pub(super) fn serve(&self, lab: &Lab) -> Result<Option<Process>> {
        match self.kind {
            Kind::Tcp(_) | Kind::Udp(_) => iperf_server(lab, &self.server, self.server_port).map(Some),
            Kind::Dns => dns_server(lab, &self.server).map(Some),
            Kind::Ping => Ok(None),
        }
    }

    /// Runs it to its end.
    pub(super) fn run(&self, lab: &Lab) -> Result<Outcome> {
        let iperf = |seconds, udp_rate| {
            let result =
                Iperf { udp_rate, ..Iperf::tcp(self.to, self.port, seconds) }.run(lab, &self.client)?;
            Ok(Outcome::Throughput(result.bits_per_second, result.loss))
        };
        match self.kind {
            Kind::Tcp(seconds) => iperf(seconds, None),
            Kind::Udp(seconds) => iperf(seconds, Some(UDP_RATE)),
            Kind::Dns => self.query(lab),
            Kind::Ping => Ok(Outcome::Answers(ping(lab, &self.client, self.to, PINGS)?, PINGS)),
        }
    }

    fn query(&self, lab: &Lab) -> Result<Outcome> {
        let mut answers = 0;
        for _ in 0..QUERIES {
            match dns_query(lab, &self.client, self.to, self.port, QUERY_PORT) {
                Ok(answer) => answers += u32::from(answer == DNS_ADDRESS),
                Err(Error::Command { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Outcome::Answers(answers, QUERIES))
    }

    /// Whether `session` is part of it. A bulk flow includes its client's control connection.
    pub(super) fn owns(&self, session: &Session) -> bool {
        session.in_lif == u32::from(self.client.lif.id)
            && session.source.ip() == self.source()
            && session.destination.ip() == self.to
            && session.protocol == self.protocol()
            && (self.kind == Kind::Ping || session.destination.port() == self.port)
    }

    /// nftables' expression for its packets, both ways.
    pub(super) fn nft_match(&self) -> String {
        let family = if self.to.is_ipv4() { "ip" } else { "ip6" };
        let tuple =
            format!("ct original {family} saddr {} ct original {family} daddr {}", self.source(), self.to);
        match self.kind {
            Kind::Ping => format!("meta l4proto {} {tuple}", self.protocol()),
            _ => format!("meta l4proto {} {tuple} ct original proto-dst {}", self.protocol(), self.port),
        }
    }

    fn source(&self) -> IpAddr {
        if self.to.is_ipv4() { self.client.ipv4().into() } else { self.client.ipv6().into() }
    }

    fn protocol(&self) -> u8 {
        match (self.kind, self.to) {
            (Kind::Tcp(_), _) => 6,
            (Kind::Udp(_) | Kind::Dns, _) => 17,
            (Kind::Ping, IpAddr::V4(_)) => 1,
            (Kind::Ping, IpAddr::V6(_)) => 58,
        }
    }
}

/// All of the demonstration's flows, with bulk transfers of so many seconds.
pub(super) fn all(seconds: u32) -> Vec<Flow> {
    let flow = |name, vnf, client: Host, server: Host, port, kind| Flow {
        name,
        vnf,
        client,
        server,
        to: server.ipv4().into(),
        port,
        server_port: port,
        kind,
    };
    let tcp = Kind::Tcp(seconds);
    let forwarded = flow("TCP, VNI 2000 to VLAN 100, port forward", A, BLUE1, RED1, 8080, tcp);
    vec![
        flow("TCP, VLAN 100 to VNI 2000, NAT", A, RED1, BLUE1, 5201, tcp),
        Flow {
            to: BLUE1.ipv6().into(),
            ..flow("TCP over IPv6, VLAN 100 to VNI 2000, NAT", A, RED1, BLUE1, 5202, tcp)
        },
        Flow { to: BLUE.ipv4(plan::A.number).into(), server_port: 80, ..forwarded },
        flow("TCP, VNI 3000 to VLAN 200, NAT", B, VIOLET1, GREEN1, 5201, tcp),
        flow("TCP, VLAN 100 to VNI 3000, routed", C, RED2, VIOLET1, 5204, tcp),
        flow("UDP, VLAN 100 to VNI 2000, NAT", A, RED2, BLUE1, 5203, Kind::Udp(seconds)),
        flow("DNS, VLAN 100 to VNI 2000, NAT", A, RED1, BLUE1, 53, Kind::Dns),
        flow("ping, VLAN 100 to VNI 2000, NAT", A, RED1, BLUE1, 0, Kind::Ping),
        Flow {
            to: GREEN1.ipv6().into(),
            ..flow("ping over IPv6, VNI 3000 to VLAN 200", B, VIOLET1, GREEN1, 0, Kind::Ping)
        },
    ]
}
