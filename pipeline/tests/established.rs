//! Packets of known sessions, byte for byte, against frames that etherparse builds.

mod common;
use common::*;

fn udp() -> (conntrack::Tuple, conntrack::Tuple) {
    (tuple("10.1.0.5:40000", "198.51.100.10:53"), tuple("203.0.113.1:61000", "198.51.100.10:53"))
}

#[test]
fn vlan_to_vxlan_and_back() {
    for protocol in [6, 17] {
        let mut gateway = Gateway::new();
        let (original, translated) = udp();
        gateway.install(&routed(7, protocol, original, translated));

        let sent = frame((CLIENT_MAC, GATEWAY_RED), protocol, &original, 64, b"question");
        let out = gateway.forward(UPLINK, &vlan(100, &sent), UPLINK);
        let (outer, inner) = unwrap(&untag(2, &out));
        assert_eq!(inner, frame((GATEWAY_BLUE, SERVER_MAC), protocol, &translated, 63, b"question"));
        assert_eq!((outer.macs, outer.ips), ((UPLINK_MAC, VTEP_MAC), (LOCAL, VTEP)));
        assert_eq!(outer.vni, 2000);

        let back = frame((SERVER_MAC, GATEWAY_BLUE), protocol, &swapped(&translated), 64, b"answer");
        let out = gateway.forward(UPLINK, &vlan(2, &Outer::from_vtep().wrap(&back)), UPLINK);
        let expected = frame((GATEWAY_RED, CLIENT_MAC), protocol, &swapped(&original), 63, b"answer");
        assert_eq!(out, vlan(100, &expected));

        let info = gateway.sessions.get(conntrack::SessionId(7)).unwrap();
        assert_eq!((info.counters.in_packets, info.counters.out_packets), (1, 1));
        assert_eq!(info.counters.in_bytes, sent.len() as u64);
        assert_eq!(gateway.other("established"), 2);
        let lifs = gateway.snapshot().lifs;
        assert_eq!((lifs[0].rx_packets, lifs[0].tx_packets), (1, 1));
        assert_eq!((lifs[1].rx_packets, lifs[1].tx_packets), (1, 1));
        assert_eq!(lifs[0].rx_bytes, sent.len() as u64);
    }
}

#[test]
fn every_protocol_and_family_there_and_back() {
    let cases = [
        (1, "10.1.0.5:777", "8.8.8.8", "203.0.113.1:888", "8.8.8.8"),
        (47, "10.1.0.5", "198.51.100.10", "203.0.113.1", "198.51.100.11"),
        (6, "[2001:db8::5]:40000", "[2001:db8:1::1]:443", "[2001:db8:f::1]:61000", "[2001:db8:2::2]:8443"),
        (17, "[2001:db8::5]:40000", "[2001:db8:1::1]:53", "[2001:db8:f::1]:61000", "[2001:db8:1::1]:53"),
        (58, "[2001:db8::5]:777", "2001:db8:1::1", "[2001:db8:f::1]:888", "2001:db8:1::1"),
    ];
    for (protocol, source, destination, new_source, new_destination) in cases {
        let mut gateway = Gateway::new();
        let (original, translated) = (tuple(source, destination), tuple(new_source, new_destination));
        gateway.install(&routed(9, protocol, original, translated));
        let sent = frame((CLIENT_MAC, GATEWAY_RED), protocol, &original, 64, b"odd");
        let out = gateway.forward(UPLINK, &vlan(100, &sent), UPLINK);
        let (outer, inner) = unwrap(&untag(2, &out));
        let expected = frame((GATEWAY_BLUE, SERVER_MAC), protocol, &translated, 63, b"odd");
        assert_eq!(inner, expected, "protocol {protocol}");
        let by_kernel = gateway.forward(KERNEL, &Outer::from_kernel(2000).wrap(&expected), UPLINK);
        let (slow, _) = unwrap(&untag(2, &by_kernel));
        assert_eq!(outer, slow, "one path through the underlay, whichever way a packet takes here");
        let again = gateway.forward(UPLINK, &vlan(100, &sent), UPLINK);
        assert_eq!(unwrap(&untag(2, &again)), (slow, inner), "nor whether the neighbour is known");
        let back = frame((SERVER_MAC, GATEWAY_BLUE), protocol, &swapped(&translated), 200, b"even");
        let out = gateway.forward(UPLINK, &vlan(2, &Outer::from_vtep().wrap(&back)), UPLINK);
        let expected = frame((GATEWAY_RED, CLIENT_MAC), protocol, &swapped(&original), 199, b"even");
        assert_eq!(out, vlan(100, &expected), "protocol {protocol}");
        assert_eq!(gateway.other("established"), 3);
    }
}

#[test]
fn bump_in_the_wire_leaves_macs_and_ttl() {
    let mut gateway = Gateway::new();
    let (original, _) = udp();
    gateway.install(&bumped(7, 17, original, original));
    let sent = frame((CLIENT_MAC, SERVER_MAC), 17, &original, 1, b"x");
    let (_, inner) = unwrap(&untag(2, &gateway.forward(UPLINK, &vlan(100, &sent), UPLINK)));
    assert_eq!(inner, sent);
}

#[test]
fn udp_without_checksum_stays_without() {
    let mut gateway = Gateway::new();
    let (original, translated) = udp();
    gateway.install(&routed(7, 17, original, translated));
    let mut sent = frame((CLIENT_MAC, GATEWAY_RED), 17, &original, 64, b"x");
    sent[40..42].fill(0);
    let (_, inner) = unwrap(&untag(2, &gateway.forward(UPLINK, &vlan(100, &sent), UPLINK)));
    assert_eq!(inner[40..42], [0, 0]);
}

#[test]
fn padding_stays_and_is_not_counted_for_the_session() {
    let mut gateway = Gateway::new();
    let (original, translated) = udp();
    gateway.install(&routed(7, 17, original, translated));
    let sent = frame((CLIENT_MAC, GATEWAY_RED), 17, &original, 64, b"x");
    let padded = [&sent[..], &[0xee; 17]].concat();
    let (_, inner) = unwrap(&untag(2, &gateway.forward(UPLINK, &vlan(100, &padded), UPLINK)));
    assert_eq!(inner.len(), padded.len());
    assert_eq!(inner[sent.len()..], [0xee; 17]);
    let counters = gateway.sessions.get(conntrack::SessionId(7)).unwrap().counters;
    assert_eq!(counters.in_bytes, sent.len() as u64);
    assert_eq!(gateway.snapshot().lifs[0].rx_bytes, padded.len() as u64);
}

#[test]
fn priority_tags_are_no_vlan() {
    let mut gateway = Gateway::new();
    let (original, translated) = udp();
    gateway.install(&conntrack::SessionSpec { in_lif: GREEN, ..routed(7, 17, original, translated) });
    let sent = frame((CLIENT_MAC, GATEWAY_RED), 17, &original, 64, b"x");
    gateway.forward(ACCESS, &vlan(0, &sent), UPLINK);
    let back = frame((SERVER_MAC, GATEWAY_BLUE), 17, &swapped(&translated), 64, b"y");
    let out = gateway.forward(UPLINK, &vlan(2, &Outer::from_vtep().wrap(&back)), ACCESS);
    assert_eq!(out, frame((GATEWAY_RED, CLIENT_MAC), 17, &swapped(&original), 63, b"y"));
}

#[test]
fn drop_sessions_count_and_drop() {
    let mut gateway = Gateway::new();
    let (original, translated) = udp();
    gateway.install(&conntrack::SessionSpec {
        action: conntrack::Action::Drop,
        ..routed(7, 6, original, translated)
    });
    gateway.receive(UPLINK, &vlan(100, &frame((CLIENT_MAC, GATEWAY_RED), 6, &original, 64, b"x")));
    assert_eq!(gateway.drops("session_drop"), 1);
    assert_eq!(gateway.sessions.get(conntrack::SessionId(7)).unwrap().counters.in_packets, 1);
    assert!(gateway.io.sent.iter().all(Vec::is_empty));
}

#[test]
fn tcp_control_is_observed_and_trapped_untouched() {
    let mut gateway = Gateway::new();
    let (original, translated) = udp();
    gateway.install(&routed(7, 6, original, translated));
    let fin = with_flags(0x11, &original);
    let (outer, inner) = unwrap(&gateway.forward(UPLINK, &vlan(100, &fin), KERNEL));
    assert_eq!((outer.vni, inner), (10100, fin));
    assert_eq!(gateway.traps("tcp_control"), 1);
    let data = with_flags(0x18, &original);
    gateway.forward(UPLINK, &vlan(100, &data), UPLINK);
    // A RST ends the session within the burst it is in.
    let rst = with_flags(0x04, &original);
    gateway.receive_all(UPLINK, &[vlan(100, &data), vlan(100, &rst), vlan(100, &data)]);
    assert_eq!(gateway.io.take(UPLINK).len(), 1);
    assert_eq!(gateway.io.take(KERNEL).len(), 2);
    assert_eq!((gateway.traps("tcp_control"), gateway.traps("new")), (2, 1));
    let mut closed = Vec::new();
    let now = conntrack::Timestamp::from_nanos(gateway.now);
    gateway.sessions.maintain(now, 100, &mut |c| closed.push(*c));
    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0].code, conntrack::CloseCode::Rst);
    assert_eq!(closed[0].info.counters.in_packets, 2);
}

/// Flows are sought for packets ahead of those that are taken, some in the same chunk and some not: wherever in a burst, of
/// whatever length, a session ends, the packets before it are forwarded and those behind it are of no session.
#[test]
fn a_session_ends_between_any_two_packets_of_a_burst() {
    let (original, translated) = udp();
    let (data, rst) = (vlan(100, &with_flags(0x18, &original)), vlan(100, &with_flags(0x04, &original)));
    for length in [1, 7, 8, 9, 16, 17, 25, 31, pipeline::BURST] {
        for end in [0, length / 2, length - 1] {
            let mut gateway = Gateway::new();
            gateway.install(&routed(7, 6, original, translated));
            gateway.forward(UPLINK, &data, UPLINK);
            let mut burst = vec![data.clone(); length];
            burst[end] = rst.clone();
            gateway.receive_all(UPLINK, &burst);
            assert_eq!(gateway.io.take(UPLINK).len(), end, "{end} of {length}");
            let trapped = (gateway.traps("tcp_control"), gateway.traps("new"));
            assert_eq!(trapped, (1, (length - 1 - end) as u64), "{end} of {length}");
        }
    }
}

#[test]
fn exceptions_go_to_the_kernel_untouched() {
    let (original, translated) = udp();
    let plain = frame((CLIENT_MAC, GATEWAY_RED), 17, &original, 64, &[7; 100]);
    let header = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = plain.clone();
        change(&mut bytes[14..34]);
        bytes[24..26].fill(0);
        let sum = conntrack::checksum::checksum(&[&bytes[14..34]]);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    let big = frame((CLIENT_MAC, GATEWAY_RED), 17, &original, 64, &[7; 1473]);
    let mut options = plain.clone();
    options[14] = 0x46;
    options.splice(34..34, [1, 1, 1, 0]);
    let len = (options.len() - 14) as u16;
    options[16..18].copy_from_slice(&len.to_be_bytes());
    options[24..26].fill(0);
    let sum = conntrack::checksum::checksum(&[&options[14..38]]);
    options[24..26].copy_from_slice(&sum.to_be_bytes());
    let mut lldp = plain.clone();
    lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
    let cases = [
        ("ttl", header(&|ip| ip[8] = 1)),
        ("mtu", big),
        ("options", options),
        ("first fragment", header(&|ip| ip[6] = 0x20)),
        ("last fragment", header(&|ip| ip[7] = 9)),
        ("other ethertype", lldp),
    ];
    for (name, bytes) in cases {
        let mut gateway = Gateway::new();
        gateway.install(&routed(7, 17, original, translated));
        let (_, inner) = unwrap(&gateway.forward(UPLINK, &vlan(100, &bytes), KERNEL));
        assert_eq!(inner, bytes, "{name}");
        assert_eq!(gateway.traps("exception"), 1, "{name}");
    }
}

/// With IPv6 extension headers between the fixed header and UDP; `chain` is what follows the fixed header.
fn extended(original: &conntrack::Tuple, first: u8, chain: &[u8]) -> Vec<u8> {
    let mut bytes = frame((CLIENT_MAC, GATEWAY_RED), 17, original, 64, b"data");
    bytes[20] = first;
    bytes.splice(54..54, chain.iter().copied());
    let len = (bytes.len() - 54) as u16;
    bytes[18..20].copy_from_slice(&len.to_be_bytes());
    bytes
}

#[test]
fn ipv6_extension_headers() {
    let original = tuple("[2001:db8::5]:40000", "[2001:db8:1::1]:53");
    let translated = tuple("[2001:db8:f::1]:61000", "[2001:db8:1::1]:53");
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let walked: [(&str, Vec<u8>); 3] = [
        ("hop by hop", extended(&original, 0, &options(17))),
        ("destination options", extended(&original, 60, &options(17))),
        ("both and a used up route", {
            extended(&original, 0, &[options(60), options(43), [17, 0, 4, 0, 0, 0, 0, 0]].concat())
        }),
    ];
    for (name, bytes) in walked {
        let mut gateway = Gateway::new();
        gateway.install(&routed(7, 17, original, translated));
        let (_, inner) = unwrap(&untag(2, &gateway.forward(UPLINK, &vlan(100, &bytes), UPLINK)));
        let mut expected = frame((GATEWAY_BLUE, SERVER_MAC), 17, &translated, 63, b"data");
        let chain = bytes[54..bytes.len() - 12].to_vec();
        expected[20] = bytes[20];
        expected.splice(54..54, chain);
        expected[18..20].copy_from_slice(&bytes[18..20]);
        assert_eq!(inner, expected, "{name}");
    }
    let cannot = [
        ("fragment", extended(&original, 44, &[17, 0, 0, 1, 0, 0, 0, 9])),
        ("route", extended(&original, 43, &[17, 0, 4, 1, 0, 0, 0, 0])),
        ("hop by hop in the middle", extended(&original, 60, &[options(0), options(17)].concat())),
        ("too many", extended(&original, 60, &options(60).repeat(9))),
    ];
    for (name, bytes) in cannot {
        let mut gateway = Gateway::new();
        gateway.install(&routed(7, 17, original, translated));
        let (_, inner) = unwrap(&gateway.forward(UPLINK, &vlan(100, &bytes), KERNEL));
        assert_eq!(inner, bytes, "{name}");
        assert_eq!(gateway.traps("exception"), 1, "{name}");
    }
    let mut gateway = Gateway::new();
    gateway.receive(UPLINK, &vlan(100, &extended(&original, 60, &[17, 9, 0, 0, 0, 0, 0, 0])));
    assert_eq!(gateway.drops("malformed"), 1);
}

#[test]
fn dscp_and_ecn_cross_the_tunnel() {
    let (original, translated) = udp();
    let mut gateway = Gateway::new();
    gateway.install(&routed(7, 17, original, translated));
    let with_tos = |macs, tuple: &conntrack::Tuple, ttl, tos: u8| {
        let mut bytes = frame(macs, 17, tuple, ttl, b"x");
        bytes[15] = tos;
        bytes[24..26].fill(0);
        let sum = conntrack::checksum::checksum(&[&bytes[14..34]]);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    let sent = with_tos((CLIENT_MAC, GATEWAY_RED), &original, 64, 0xb9);
    let (outer, inner) = unwrap(&untag(2, &gateway.forward(UPLINK, &vlan(100, &sent), UPLINK)));
    assert_eq!(outer.tos, 0xb9);
    assert_eq!(inner, with_tos((GATEWAY_BLUE, SERVER_MAC), &translated, 63, 0xb9));
    // Congestion outside reaches the inside, whose DSCP stays.
    let macs = (SERVER_MAC, GATEWAY_BLUE);
    let back = with_tos(macs, &swapped(&translated), 64, 0xba);
    let congested = Outer { tos: 0x03, ..Outer::from_vtep() };
    let out = gateway.forward(UPLINK, &vlan(2, &congested.wrap(&back)), UPLINK);
    let expected = with_tos((GATEWAY_RED, CLIENT_MAC), &swapped(&original), 63, 0xbb);
    assert_eq!(out, vlan(100, &expected));
    let deaf = with_tos(macs, &swapped(&translated), 64, 0xb8);
    gateway.receive(UPLINK, &vlan(2, &congested.wrap(&deaf)));
    assert_eq!(gateway.drops("ecn_congestion"), 1);
}

#[test]
fn jumbo_frames_in_segments() {
    let (original, translated) = udp();
    let mut config = config();
    config.lifs.iter_mut().for_each(|lif| lif.mtu = 9000);
    let mut gateway = Gateway::with(config);
    gateway.install(&routed(7, 17, original, translated));
    let body: Vec<u8> = (0..8000u32).map(|i| i as u8).collect();
    let sent = vlan(100, &frame((CLIENT_MAC, GATEWAY_RED), 17, &original, 64, &body));
    let mut burst = pipeline::Burst::new();
    burst.push(gateway.pool.segments(&[&sent[..2048], &sent[2048..4096], &sent[4096..]]));
    gateway.process(UPLINK, burst);
    let out = gateway.io.take(UPLINK).pop().unwrap();
    let (_, inner) = unwrap(&untag(2, &out));
    assert_eq!(inner, frame((GATEWAY_BLUE, SERVER_MAC), 17, &translated, 63, &body));
}

#[test]
fn a_port_that_takes_nothing_costs_only_its_own() {
    let (original, translated) = udp();
    let mut gateway = Gateway::new();
    gateway.install(&routed(7, 17, original, translated));
    gateway.io.room[usize::from(UPLINK)] = 3;
    let sent = vlan(100, &frame((CLIENT_MAC, GATEWAY_RED), 17, &original, 64, b"x"));
    gateway.receive_all(UPLINK, &vec![sent; 32]);
    let port = gateway.snapshot().ports[usize::from(UPLINK)];
    assert_eq!((port.tx_packets, port.tx_dropped), (3, 29));
    let sent: usize = gateway.io.take(UPLINK).iter().map(Vec::len).sum();
    assert_eq!(port.tx_bytes, sent as u64);
}

#[test]
fn what_came_together_is_handed_over_together() {
    let (original, translated) = udp();
    let mut gateway = Gateway::new();
    gateway.install(&routed(7, 17, original, translated));
    let received = |n: u16| vlan(100, &frame((CLIENT_MAC, GATEWAY_RED), 17, &original, 64, &n.to_be_bytes()));
    let bodies = |sent: Vec<Vec<u8>>| -> Vec<u16> {
        let body = |frame: &Vec<u8>| u16::from_be_bytes(*unwrap(&untag(2, frame)).1.last_chunk().unwrap());
        sent.iter().map(body).collect()
    };
    for (count, handed) in [(1, 1), (32, 1), (33, 1), (128, 1), (129, 2), (300, 3)] {
        gateway.io.handed = vec![0; 3];
        let frames: Vec<_> = (0..count).map(received).collect();
        gateway.receive_together(UPLINK, &frames);
        assert_eq!(bodies(gateway.io.take(UPLINK)), (0..count).collect::<Vec<_>>());
        assert_eq!(gateway.io.handed[usize::from(UPLINK)], handed, "{count} packets");
    }
}

#[test]
fn what_leaves_by_two_ports_stays_in_order() {
    let (original, translated) = udp();
    let mut gateway = Gateway::new();
    gateway.install(&routed(7, 17, original, translated));
    let known = |n: u8| vlan(100, &frame((CLIENT_MAC, GATEWAY_RED), 17, &original, 64, &[n]));
    let new = tuple("10.1.0.6:40000", "198.51.100.10:53");
    let trapped = |n: u8| vlan(100, &frame((CLIENT_MAC, GATEWAY_RED), 17, &new, 64, &[n]));
    // Bursts of one kind, and bursts of both.
    let frames: Vec<_> = (0..120).map(|n| if n < 40 || n % 3 > 0 { known(n) } else { trapped(n) }).collect();
    gateway.receive_together(UPLINK, &frames);
    for (port, count) in [(UPLINK, 94), (KERNEL, 26)] {
        let last: Vec<_> = gateway.io.take(port).iter().map(|frame| *frame.last().unwrap()).collect();
        assert!(last.is_sorted(), "port {port}: {last:?}");
        assert_eq!((last.len(), gateway.io.handed[usize::from(port)]), (count, 1), "port {port}");
    }
}

#[test]
fn a_port_that_takes_a_part_of_what_came_together() {
    let (original, translated) = udp();
    let mut gateway = Gateway::new();
    gateway.install(&routed(7, 17, original, translated));
    gateway.io.room[usize::from(UPLINK)] = 140;
    let sent = vlan(100, &frame((CLIENT_MAC, GATEWAY_RED), 17, &original, 64, b"x"));
    gateway.receive_together(UPLINK, &vec![sent; 200]);
    let port = gateway.snapshot().ports[usize::from(UPLINK)];
    assert_eq!((port.tx_packets, port.tx_dropped), (140, 60));
    let sent: usize = gateway.io.take(UPLINK).iter().map(Vec::len).sum();
    assert_eq!(port.tx_bytes, sent as u64);
    assert_eq!(gateway.pool.live(), 0);
}

#[test]
fn collectors_get_copies() {
    use conntrack::{Action, SessionSpec};
    let (original, translated) = udp();
    let collector = VTEP2.into();
    for action in [Action::Mirror(collector), Action::Snoop(collector)] {
        let mut gateway = Gateway::new();
        gateway.install(&SessionSpec { action, ..routed(7, 17, original, translated) });
        let sent = frame((CLIENT_MAC, GATEWAY_RED), 17, &original, 64, b"x");
        let rewritten = frame((GATEWAY_BLUE, SERVER_MAC), 17, &translated, 63, b"x");
        gateway.receive(UPLINK, &vlan(100, &sent));
        let out: Vec<_> = gateway.io.take(UPLINK).iter().map(|bytes| unwrap(&untag(2, bytes))).collect();
        let [(copy_outer, copy), (outer, inner)] = &out[..] else { panic!("two packets") };
        assert_eq!((outer.ips.1, outer.vni, inner), (VTEP, 2000, &rewritten));
        assert_eq!((copy_outer.ips.1, copy_outer.vni), (VTEP2, 10100));
        assert_eq!(copy, if action == Action::Mirror(collector) { &sent } else { &rewritten });
        // Of the other direction too, under the same VNI.
        let answer = frame((SERVER_MAC, GATEWAY_BLUE), 17, &swapped(&translated), 64, b"y");
        gateway.receive(UPLINK, &vlan(2, &Outer::from_vtep().wrap(&answer)));
        let out = gateway.io.take(UPLINK);
        let back = frame((GATEWAY_RED, CLIENT_MAC), 17, &swapped(&original), 63, b"y");
        assert_eq!((out.len(), untag(100, &out[1])), (2, back.clone()));
        let (copy_outer, copy) = unwrap(&untag(2, &out[0]));
        assert_eq!((copy_outer.ips.1, copy_outer.vni), (VTEP2, 10100));
        assert_eq!(copy, if action == Action::Mirror(collector) { answer } else { back });
        // Over the limit, and without buffers, the packet itself goes all the same.
        gateway.receive_all(UPLINK, &vec![vlan(100, &sent); 100_001]);
        assert_eq!((gateway.other("mirrored"), gateway.other("mirror_limited")), (100_001, 2));
        gateway.now += SECOND;
        gateway.io.take(UPLINK);
        gateway.io.pool = pipeline::testing::Pool::new(0);
        gateway.receive(UPLINK, &vlan(100, &sent));
        assert_eq!(gateway.io.take(UPLINK).len(), 1);
        assert_eq!(gateway.other("mirror_failed"), 1);
        assert_eq!(gateway.other("established"), 100_004);
    }
}

#[test]
fn copies_do_not_share_what_the_session_rewrites() {
    use conntrack::{Action, SessionSpec};
    // A body long enough to be shared; every way out differs from the packet as received.
    let (original, translated) = udp();
    let body: Vec<u8> = (0..1200).map(|n| n as u8).collect();
    let mut gateway = Gateway::new();
    let action = Action::Mirror(VTEP2.into());
    gateway.install(&SessionSpec { action, ..routed(7, 17, original, translated) });
    let sent = frame((CLIENT_MAC, GATEWAY_RED), 17, &original, 64, &body);
    gateway.receive_all(UPLINK, &vec![vlan(100, &sent); 32]);
    let out: Vec<_> = gateway.io.take(UPLINK).iter().map(|bytes| unwrap(&untag(2, bytes))).collect();
    assert_eq!(out.iter().filter(|(outer, inner)| outer.ips.1 == VTEP2 && *inner == sent).count(), 32);
    assert_eq!(out.iter().filter(|(outer, _)| outer.ips.1 == VTEP).count(), 32);
}

#[test]
fn collectors_beyond_a_router_and_over_ipv6() {
    use conntrack::{Action, SessionSpec};
    use pipeline::config::{Route, StaticNeighbor};
    use std::net::IpAddr;
    let (original, translated) = udp();
    let sent = frame((CLIENT_MAC, GATEWAY_RED), 17, &original, 64, b"x");
    let router: IpAddr = "192.0.2.254".parse().unwrap();
    let mut config = config();
    let underlay = config.underlay.as_mut().unwrap();
    underlay.routes = vec![Route { to: "10.9.0.0".parse().unwrap(), prefix: 16, via: router }];
    underlay.neighbors.push(StaticNeighbor { ip: router, mac: [2, 0, 0, 0, 2, 0xfe] });
    let mut gateway = Gateway::with(config);
    let action = Action::Mirror("10.9.8.7".parse().unwrap());
    gateway.install(&SessionSpec { action, ..routed(7, 17, original, translated) });
    gateway.receive(UPLINK, &vlan(100, &sent));
    let out: Vec<_> = gateway.io.take(UPLINK).iter().map(|bytes| unwrap(&untag(2, bytes))).collect();
    let [(outer, copy), _] = &out[..] else { panic!("two packets") };
    assert_eq!((outer.macs.1, outer.ips.1.to_string()), ([2, 0, 0, 0, 2, 0xfe], "10.9.8.7".to_owned()));
    assert_eq!((outer.vni, copy), (10100, &sent));

    // An underlay of IPv6; its own collector is reached, one of the other family is not.
    let mut config = common::config();
    let underlay = config.underlay.as_mut().unwrap();
    underlay.local_ip = "2001:db8:2::1".parse().unwrap();
    underlay.neighbors = vec![StaticNeighbor { ip: "2001:db8:2::8".parse().unwrap(), mac: VTEP2_MAC }];
    config.lifs[1].vteps.clear();
    let mut gateway = Gateway::with(config);
    for (id, collector, copies) in [(1, "2001:db8:2::8", 1), (2, "192.0.2.8", 0)] {
        let out_lif = GREEN;
        let action = Action::Mirror(collector.parse().unwrap());
        gateway.install(&SessionSpec { action, out_lif, ..routed(id, 17, original, translated) });
        gateway.receive(UPLINK, &vlan(100, &sent));
        assert_eq!(gateway.io.take(ACCESS).len(), 1, "the packet itself");
        let out = gateway.io.take(UPLINK);
        assert_eq!(out.len(), copies);
        for bytes in out {
            let bytes = untag(2, &bytes);
            assert_eq!(&bytes[..14], &[&VTEP2_MAC[..], &UPLINK_MAC, &[0x86, 0xdd]].concat());
            let sliced = etherparse::SlicedPacket::from_ethernet(&bytes).unwrap();
            let Some(etherparse::NetSlice::Ipv6(ip)) = &sliced.net else { panic!("outer IPv6") };
            assert_eq!(ip.header().destination_addr().to_string(), collector);
            assert_eq!(&bytes[14 + 40 + 8..], [&[8, 0, 0, 0, 0, 0x27, 0x74, 0][..], &sent].concat());
        }
        let now = conntrack::Timestamp::from_nanos(gateway.now);
        assert!(gateway.sessions.remove(conntrack::SessionId(id), now));
    }
    assert_eq!((gateway.other("mirrored"), gateway.other("mirror_failed")), (1, 1));
}

#[test]
fn a_rate_of_none_makes_no_copies() {
    use conntrack::{Action, SessionSpec};
    let (original, translated) = udp();
    let mut config = config();
    config.underlay.as_mut().unwrap().copies = 0;
    let mut gateway = Gateway::with(config);
    let action = Action::Snoop(VTEP2.into());
    gateway.install(&SessionSpec { action, ..routed(7, 17, original, translated) });
    gateway.receive(UPLINK, &vlan(100, &frame((CLIENT_MAC, GATEWAY_RED), 17, &original, 64, b"x")));
    assert_eq!((gateway.io.take(UPLINK).len(), gateway.other("mirror_limited")), (1, 1));
}

/// The limit is each LIF's own: a flood in one costs another's collectors nothing.
#[test]
fn copies_of_one_lif_do_not_use_up_anothers() {
    use conntrack::{Action, SessionSpec};
    let mut config = config();
    config.underlay.as_mut().unwrap().copies = 10;
    let mut gateway = Gateway::with(config);
    let action = Action::Mirror(VTEP2.into());
    let loud = tuple("10.3.0.5:1", "198.51.100.10:2");
    gateway.install(&SessionSpec { action, in_lif: GREEN, ..routed(7, 17, loud, loud) });
    let (quiet, translated) = udp();
    gateway.install(&SessionSpec { action, ..routed(8, 17, quiet, translated) });
    let loud = frame((CLIENT_MAC, GATEWAY_RED), 17, &loud, 64, b"x");
    gateway.receive_all(ACCESS, &vec![loud; 100]);
    let limited = gateway.other("mirror_limited");
    assert!(limited >= 80, "{limited} of 100 over 10 a second");
    gateway.io.take(UPLINK);
    gateway.receive(UPLINK, &vlan(100, &frame((CLIENT_MAC, GATEWAY_RED), 17, &quiet, 64, b"x")));
    assert_eq!(gateway.io.take(UPLINK).len(), 2, "the packet and its copy");
    assert_eq!(gateway.other("mirror_limited"), limited);
}
