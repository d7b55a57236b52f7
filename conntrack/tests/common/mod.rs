//! What the table's tests share.
#![allow(dead_code, reason = "not every test uses all of it")]

use conntrack::table::Timeouts;
use conntrack::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

pub const TIMEOUTS: Timeouts = Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 };

/// Milliseconds at whose multiples sessions that timed out are reported.
pub const TICK: u64 = 16;

pub fn table(capacity: u32) -> Arc<SessionTable> {
    let hash_secret = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
    SessionTable::new(TableConfig { capacity, timeouts: TIMEOUTS, readers: 4, hugepages: false, hash_secret })
        .unwrap()
}

pub fn v4(bits: u32) -> IpAddr {
    Ipv4Addr::from_bits(bits).into()
}

pub fn v6(bits: u128) -> IpAddr {
    Ipv6Addr::from_bits(bits).into()
}

pub fn tuple(source: IpAddr, source_port: u16, destination: IpAddr, destination_port: u16) -> Tuple {
    Tuple { source, destination, source_port, destination_port }
}

/// UDP session number `n`, source translated.
pub fn session(n: u32) -> SessionSpec {
    let server = v4(0xc633_640a);
    SessionSpec {
        id: SessionId(u64::from(n) + 1),
        in_lif: LifIndex(1),
        out_lif: LifIndex(2),
        protocol: 17,
        original: tuple(v4(0x0a00_0000 + (n >> 14)), 1024 + (n & 0x3fff) as u16, server, 443),
        translated: tuple(v4(0xcb00_7100 + (n >> 15)), 1024 + (n & 0x7fff) as u16, server, 443),
        l2: None,
        action: Action::Forward,
        idle_timeout: Some(30),
        hard_timeout: None,
        limit: None,
        owner: 0,
    }
}

/// The same over IPv6.
pub fn session_v6(n: u32) -> SessionSpec {
    let (net, server) = (0x2001_0db8_u128 << 96, v6(0x2001_0db8_ffff_u128 << 80 | 1));
    SessionSpec {
        original: tuple(v6(net | u128::from(n >> 14)), 1024 + (n & 0x3fff) as u16, server, 443),
        translated: tuple(v6(net | 1 << 80 | u128::from(n >> 14)), 1024 + (n & 0x3fff) as u16, server, 443),
        ..session(n)
    }
}

/// The keys of both flows of an IPv4 session.
pub fn keys(spec: &SessionSpec) -> [FlowKeyV4; 2] {
    let key = |lif, t: &Tuple| match (t.source, t.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            FlowKeyV4::new(lif, spec.protocol, source, t.source_port, destination, t.destination_port)
        }
        _ => panic!("not IPv4"),
    };
    [key(spec.in_lif, &spec.original), key(spec.out_lif, &swapped(&spec.translated))]
}

/// The keys of both flows of an IPv6 session.
pub fn keys_v6(spec: &SessionSpec) -> [FlowKeyV6; 2] {
    let key = |lif, t: &Tuple| match (t.source, t.destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            FlowKeyV6::new(lif, spec.protocol, source, t.source_port, destination, t.destination_port)
        }
        _ => panic!("not IPv6"),
    };
    [key(spec.in_lif, &spec.original), key(spec.out_lif, &swapped(&spec.translated))]
}

pub fn swapped(t: &Tuple) -> Tuple {
    tuple(t.destination, t.destination_port, t.source, t.source_port)
}

/// Runs maintenance until nothing is left to do.
pub fn settle(table: &SessionTable, now: u64) -> Vec<Closed> {
    let mut closed = Vec::new();
    while table.maintain(Timestamp(now), 1000, &mut |session| closed.push(*session)).more {}
    closed
}

/// Whether a flow is found; counts a packet of `bytes` if so and not 0.
pub fn hit(reader: &mut Reader, key: FlowKeyV4, now: u64, bytes: u32) -> bool {
    let burst = reader.enter();
    let mut flows = [None];
    burst.lookup_v4(&[key], Timestamp(now), &mut flows);
    if let (Some(flow), true) = (&flows[0], bytes > 0) {
        flow.count(Timestamp(now), bytes);
    }
    flows[0].is_some()
}
