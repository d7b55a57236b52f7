//! ICMP errors of sessions: both headers are translated, in both directions and families.

mod common;
use common::*;
use conntrack::Tuple;
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};
use std::net::IpAddr;

const ROUTER: &str = "192.88.99.1";
const ROUTER6: &str = "2001:db8:99::1";

/// An error by `source` that quotes `quoted`, a whole frame, of which the first `len` IP bytes are quoted.
fn error(macs: ([u8; 6], [u8; 6]), source: &str, to: IpAddr, ttl: u8, quoted: &[u8], len: usize) -> Vec<u8> {
    let quoted = &quoted[14..len.saturating_add(14).min(quoted.len())];
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2(macs.0, macs.1);
    match (source.parse().unwrap(), to) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            let kind = Icmpv4Type::Unknown { type_u8: 3, code_u8: 4, bytes5to8: [0, 0, 5, 0] };
            builder.ipv4(source.octets(), to.octets(), ttl).icmpv4(kind).write(&mut bytes, quoted).unwrap();
        }
        (IpAddr::V6(source), IpAddr::V6(to)) => {
            let kind = Icmpv6Type::PacketTooBig { mtu: 1280 };
            builder.ipv6(source.octets(), to.octets(), ttl).icmpv6(kind).write(&mut bytes, quoted).unwrap();
        }
        _ => panic!("families differ"),
    }
    bytes
}

fn cases() -> Vec<(u8, Tuple, Tuple, &'static str)> {
    vec![
        (6, "10.1.0.5:40000", "198.51.100.10:443", "203.0.113.1:61000", "198.51.100.10:443", ROUTER),
        (17, "10.1.0.5:40000", "198.51.100.10:53", "203.0.113.1:61000", "198.51.100.20:5353", ROUTER),
        (1, "10.1.0.5:777", "8.8.8.8", "203.0.113.1:888", "8.8.8.8", ROUTER),
        (47, "10.1.0.5", "198.51.100.10", "203.0.113.1", "198.51.100.10", ROUTER),
        (
            6,
            "[2001:db8::5]:40000",
            "[2001:db8:1::1]:443",
            "[2001:db8:f::1]:61000",
            "[2001:db8:1::1]:443",
            ROUTER6,
        ),
        (
            17,
            "[2001:db8::5]:40000",
            "[2001:db8:1::1]:53",
            "[2001:db8:f::1]:61000",
            "[2001:db8:2::2]:53",
            ROUTER6,
        ),
        (58, "[2001:db8::5]:777", "2001:db8:1::1", "[2001:db8:f::1]:888", "2001:db8:1::1", ROUTER6),
    ]
    .into_iter()
    .map(|(protocol, a, b, c, d, router)| (protocol, tuple(a, b), tuple(c, d), router))
    .collect()
}

/// From outside: what the session sent, translated, meets an error on its way.
#[test]
fn from_outside_to_the_tenant() {
    for (protocol, original, translated, router) in cases() {
        let shortest = if original.source.is_ipv4() { 28 } else { 48 };
        for len in [usize::MAX, 68, shortest] {
            let mut gateway = Gateway::new();
            gateway.install(&routed(7, protocol, original, translated));
            // The quoted packet, as it left, some hops later.
            let macs = (SERVER_MAC, GATEWAY_BLUE);
            let quoted = frame(macs, protocol, &translated, 60, b"payload of some length that was quoted");
            let sent = error(macs, router, translated.source, 64, &quoted, len);
            let out = gateway.forward(UPLINK, &vlan(2, &Outer::from_vtep().wrap(&sent)), UPLINK);

            let quoted = frame(macs, protocol, &original, 60, b"payload of some length that was quoted");
            let expected = error((GATEWAY_RED, CLIENT_MAC), router, original.source, 63, &quoted, len);
            assert_eq!(untag(100, &out), expected, "protocol {protocol}, {len} quoted");
            assert_eq!(gateway.other("related"), 1);
            let info = gateway.sessions.get(conntrack::SessionId(7)).unwrap();
            assert_eq!((info.counters.in_packets, info.counters.out_packets), (0, 0));
        }
    }
}

/// From inside: the tenant itself refuses an answer; the error's source is the session's and must be hidden too.
#[test]
fn from_the_tenant_to_outside() {
    for (protocol, original, translated, router) in cases() {
        let mut gateway = Gateway::new();
        gateway.install(&routed(7, protocol, original, translated));
        let macs = (CLIENT_MAC, GATEWAY_RED);
        let source = original.source.to_string();
        for (source, new_source) in
            [(source.as_str(), translated.source.to_string()), (router, router.to_owned())]
        {
            let quoted = frame(macs, protocol, &swapped(&original), 60, b"answer");
            let sent = error(macs, source, original.destination, 64, &quoted, usize::MAX);
            let out = gateway.forward(UPLINK, &vlan(100, &sent), UPLINK);
            let (_, inner) = unwrap(&untag(2, &out));
            let quoted = frame(macs, protocol, &swapped(&translated), 60, b"answer");
            let macs = (GATEWAY_BLUE, SERVER_MAC);
            let expected = error(macs, &new_source, translated.destination, 63, &quoted, usize::MAX);
            assert_eq!(inner, expected, "protocol {protocol}");
        }
    }
}

#[test]
fn wrong_unknown_and_short_ones() {
    let (protocol, original, translated, router) = cases().remove(0);
    let macs = (SERVER_MAC, GATEWAY_BLUE);
    let quoted = frame(macs, protocol, &translated, 60, b"x");
    let sent = error(macs, router, translated.source, 64, &quoted, 28);
    let wrap = |bytes: &[u8]| vlan(2, &Outer::from_vtep().wrap(bytes));

    // RFC 5508 REQ-3: a bad checksum is the end of an error.
    let mut gateway = Gateway::new();
    gateway.install(&routed(7, protocol, original, translated));
    let mut wrong = sent.clone();
    wrong[36] ^= 1;
    gateway.receive(UPLINK, &wrap(&wrong));
    assert_eq!(gateway.drops("bad_checksum"), 1);

    // Of no session: to the kernel, as it is.
    let mut gateway = Gateway::new();
    let (_, inner) = unwrap(&gateway.forward(UPLINK, &wrap(&sent), KERNEL));
    assert_eq!(inner, sent);
    assert_eq!(gateway.traps("new"), 1);

    // Too little quoted to tell.
    let short = error(macs, router, translated.source, 64, &quoted, 24);
    gateway.forward(UPLINK, &wrap(&short), KERNEL);
    assert_eq!(gateway.traps("exception"), 1);
}

#[test]
fn checksum_over_segments() {
    let (protocol, original, translated, router) = cases().remove(1);
    let macs = (SERVER_MAC, GATEWAY_BLUE);
    let quoted = frame(macs, protocol, &translated, 60, &[3; 500]);
    let sent = vlan(2, &Outer::from_vtep().wrap(&error(macs, router, translated.source, 64, &quoted, 500)));
    for cut in [130, 201, 300] {
        let mut gateway = Gateway::new();
        gateway.install(&routed(7, protocol, original, translated));
        let mut burst = pipeline::Burst::new();
        burst.push(gateway.pool.segments(&[&sent[..cut], &sent[cut..cut + 99], &sent[cut + 99..]]));
        gateway.process(UPLINK, burst);
        assert_eq!(gateway.other("related"), 1, "cut at {cut}");
    }
}
