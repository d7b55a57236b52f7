//! VTEPs and neighbours: learned, asked for, confirmed, forgotten; replication.

mod common;
use common::*;
use pipeline::config::StaticNeighbor;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

fn to_server() -> Vec<u8> {
    let macs = (GATEWAY_BLUE, SERVER_MAC);
    Outer::from_kernel(2000).wrap(&frame(macs, 17, &tuple("10.1.0.5:1", "10.2.0.1:2"), 64, b"x"))
}

fn from_server(outer: Outer) -> Vec<u8> {
    let macs = (SERVER_MAC, GATEWAY_BLUE);
    vlan(2, &outer.wrap(&frame(macs, 17, &tuple("10.2.0.1:2", "10.1.0.5:1"), 64, b"x")))
}

/// No static neighbours, two VTEPs.
fn resolving() -> pipeline::Config {
    let mut config = config();
    config.underlay.as_mut().unwrap().neighbors.clear();
    config.trap.kernel_mac = None;
    config.lifs[1].vteps = vec![VTEP.into(), VTEP2.into()];
    config
}

#[test]
fn nothing_is_asked_before_it_is_needed() {
    let mut gateway = Gateway::with(resolving());
    for _ in 0..5000 {
        gateway.now += SECOND / 1000;
        gateway.tick();
    }
    assert!(gateway.io.sent.iter().all(Vec::is_empty));
}

#[test]
fn resolves_by_arp_at_most_once_a_second() {
    let mut config = resolving();
    config.lifs[1].vteps.pop();
    let mut gateway = Gateway::with(config);
    gateway.receive_all(KERNEL, &vec![to_server(); 10]);
    let asked = gateway.io.take(UPLINK);
    assert_eq!(asked, [vlan(2, &arp_request((UPLINK_MAC, LOCAL), VTEP))]);
    assert_eq!(gateway.drops("no_neighbor"), 10);
    // While it is wanted it is asked for every second, then no more.
    for _ in 0..30_000 {
        gateway.now += SECOND / 1000;
        gateway.tick();
    }
    let asked = gateway.io.take(UPLINK).len();
    assert!((2..=10).contains(&asked), "{asked} times");

    let reply = arp(2, (VTEP_MAC, VTEP), (UPLINK_MAC, LOCAL), UPLINK_MAC);
    gateway.receive(UPLINK, &vlan(2, &reply));
    assert_eq!(gateway.other("consumed"), 1);
    let (outer, _) = unwrap(&untag(2, &gateway.forward(KERNEL, &to_server(), UPLINK)));
    assert_eq!(outer.macs, (UPLINK_MAC, VTEP_MAC));
}

#[test]
fn an_answer_counts_for_a_while_and_then_is_confirmed() {
    let mut config = resolving();
    config.lifs[1].vteps.pop();
    let mut gateway = Gateway::with(config);
    gateway.receive(KERNEL, &to_server());
    let reply = vlan(2, &arp(2, (VTEP_MAC, VTEP), (UPLINK_MAC, LOCAL), UPLINK_MAC));
    gateway.receive(UPLINK, &reply);
    gateway.io.take(UPLINK);
    // One packet a second: probes only after the answer is 30 s old, to the neighbour alone.
    let probe = vlan(2, &arp(1, (UPLINK_MAC, LOCAL), (VTEP_MAC, VTEP), VTEP_MAC));
    let mut probes = Vec::new();
    for second in 1..=40 {
        gateway.now += SECOND;
        gateway.receive(KERNEL, &to_server());
        let sent = gateway.io.take(UPLINK);
        if sent.contains(&probe) {
            probes.push(second);
            gateway.receive(UPLINK, &reply);
        }
    }
    assert_eq!(probes.len(), 1, "{probes:?}");
    assert!((31..=37).contains(&probes[0]), "{probes:?}");
    assert_eq!(gateway.drops("no_neighbor"), 1);
    // Without answers, and nothing heard, it is in doubt in the end.
    for _ in 0..120 {
        gateway.now += SECOND;
        gateway.receive(KERNEL, &to_server());
    }
    assert!(gateway.drops("no_neighbor") > 10);
}

#[test]
fn who_is_heard_need_not_be_asked() {
    let mut gateway = Gateway::with(resolving());
    gateway.receive(UPLINK, &from_server(Outer::from_vtep()));
    gateway.io.sent.iter_mut().for_each(Vec::clear);
    let (outer, _) = unwrap(&untag(2, &gateway.forward(KERNEL, &to_server(), UPLINK)));
    assert_eq!((outer.macs, outer.ips), ((UPLINK_MAC, VTEP_MAC), (LOCAL, VTEP)));
}

#[test]
fn a_neighbor_that_changes_its_mac_is_followed_at_once() {
    let mut config = resolving();
    config.lifs[1].vteps.pop();
    let mut gateway = Gateway::with(config);
    for mac in [VTEP_MAC, VTEP2_MAC, VTEP_MAC] {
        gateway.receive(UPLINK, &from_server(Outer { macs: (mac, UPLINK_MAC), ..Outer::from_vtep() }));
        gateway.io.sent.iter_mut().for_each(Vec::clear);
        for _ in 0..2 {
            let (outer, _) = unwrap(&untag(2, &gateway.forward(KERNEL, &to_server(), UPLINK)));
            assert_eq!(outer.macs, (UPLINK_MAC, mac));
        }
    }
}

#[test]
fn vteps_are_learned_move_and_age() {
    let mut gateway = Gateway::new();
    let third = Ipv4Addr::new(192, 0, 2, 77);
    let third_mac = [2, 0, 0, 0, 2, 77];
    let to =
        |gateway: &mut Gateway| unwrap(&untag(2, &gateway.forward(KERNEL, &to_server(), UPLINK))).0.ips.1;
    assert_eq!(to(&mut gateway), VTEP, "unknown: to the LIF's VTEP");
    gateway.receive(UPLINK, &from_server(Outer { ips: (VTEP2, LOCAL), ..Outer::from_vtep() }));
    gateway.io.take(KERNEL);
    assert_eq!(to(&mut gateway), VTEP2, "learned");
    gateway.receive(
        UPLINK,
        &from_server(Outer { ips: (third, LOCAL), macs: (third_mac, UPLINK_MAC), ..Outer::from_vtep() }),
    );
    gateway.io.take(KERNEL);
    assert_eq!(to(&mut gateway), third, "moved");
    gateway.now += 302 * SECOND;
    assert_eq!(to(&mut gateway), VTEP, "aged");
}

#[test]
fn a_mac_that_moves_is_followed_within_a_burst() {
    let mut gateway = Gateway::new();
    let to =
        |gateway: &mut Gateway| unwrap(&untag(2, &gateway.forward(KERNEL, &to_server(), UPLINK))).0.ips.1;
    let from = |ip| from_server(Outer { ips: (ip, LOCAL), ..Outer::from_vtep() });
    // Both are heard of, then in turn, each more than once: the last to be heard of has it.
    for last in [VTEP, VTEP2, VTEP] {
        let other = if last == VTEP { VTEP2 } else { VTEP };
        gateway.receive_together(UPLINK, &[from(last), from(other), from(other), from(last), from(last)]);
        gateway.io.take(KERNEL);
        assert_eq!(to(&mut gateway), last);
    }
}

#[test]
fn who_is_heard_of_again_and_again_does_not_age() {
    let mut gateway = Gateway::new();
    let to =
        |gateway: &mut Gateway| unwrap(&untag(2, &gateway.forward(KERNEL, &to_server(), UPLINK))).0.ips.1;
    for _ in 0..700 {
        gateway.receive(UPLINK, &from_server(Outer { ips: (VTEP2, LOCAL), ..Outer::from_vtep() }));
        gateway.io.take(KERNEL);
        gateway.now += SECOND / 2;
    }
    assert_eq!(to(&mut gateway), VTEP2, "learned 350 s ago, heard of since");
}

#[test]
fn all_that_packets_received_together_wait_for_are_asked_for() {
    let mut config = resolving();
    config.lifs[1].vteps = (1..=100).map(|last| Ipv4Addr::new(172, 16, 77, last).into()).collect();
    let mut gateway = Gateway::with(config);
    let macs = (GATEWAY_BLUE, [0xff; 6]);
    let broadcast = frame(macs, 17, &tuple("10.2.0.1:67", "255.255.255.255:68"), 64, b"x");
    gateway.receive_together(KERNEL, &vec![Outer::from_kernel(2000).wrap(&broadcast); 40]);
    assert_eq!(gateway.io.take(UPLINK).len(), 100);
    assert_eq!((gateway.other("originated"), gateway.drops("no_neighbor")), (100, 40));
}

#[test]
fn replication() {
    let mut config = config();
    config.lifs[1].vteps = vec![VTEP.into(), VTEP2.into()];
    let mut gateway = Gateway::with(config.clone());
    let macs = (GATEWAY_BLUE, [0xff; 6]);
    let broadcast = frame(macs, 17, &tuple("10.2.0.1:67", "255.255.255.255:68"), 64, b"x");
    gateway.receive(KERNEL, &Outer::from_kernel(2000).wrap(&broadcast));
    let mut sent: Vec<_> = gateway.io.take(UPLINK).iter().map(|bytes| unwrap(&untag(2, bytes))).collect();
    sent.sort_by_key(|(outer, _)| outer.ips.1);
    assert_eq!(sent.len(), 2);
    assert_eq!((sent[0].0.ips.1, sent[0].0.macs.1), (VTEP2, VTEP2_MAC));
    assert_eq!((sent[1].0.ips.1, sent[1].0.macs.1), (VTEP, VTEP_MAC));
    assert!(sent.iter().all(|(_, inner)| *inner == broadcast));
    assert_eq!(gateway.other("replicated"), 1);
    assert_eq!(gateway.snapshot().lifs[1].tx_packets, 1);

    // The pool is empty: the original still goes.
    let mut gateway = Gateway::with(config.clone());
    gateway.io.pool = pipeline::testing::Pool::new(0);
    gateway.receive(KERNEL, &Outer::from_kernel(2000).wrap(&broadcast));
    assert_eq!(gateway.io.take(UPLINK).len(), 1);
    assert_eq!(gateway.other("replica_failed"), 1);

    config.lifs[1].vteps.clear();
    let mut gateway = Gateway::with(config);
    gateway.receive(KERNEL, &Outer::from_kernel(2000).wrap(&broadcast));
    assert_eq!(gateway.drops("no_vtep"), 1);
}

#[test]
fn the_kernel_is_asked_for_too() {
    let mut gateway = Gateway::with(resolving());
    let new = frame((CLIENT_MAC, GATEWAY_RED), 17, &tuple("10.1.0.5:1", "10.2.0.1:2"), 64, b"hello");
    gateway.receive(UPLINK, &vlan(100, &new));
    assert_eq!(gateway.io.take(KERNEL), [arp_request((TRAP_MAC, TRAP_LOCAL), TRAP_KERNEL)]);
    assert_eq!(gateway.drops("no_neighbor"), 1);
    gateway.receive(KERNEL, &arp(2, (KERNEL_MAC, TRAP_KERNEL), (TRAP_MAC, TRAP_LOCAL), TRAP_MAC));
    let (outer, _) = unwrap(&gateway.forward(UPLINK, &vlan(100, &new), KERNEL));
    assert_eq!(outer.macs, (TRAP_MAC, KERNEL_MAC));
}

#[test]
fn an_arp_flood_in_one_lif_costs_another_nothing() {
    let mut gateway = Gateway::new();
    let request = arp_request((CLIENT_MAC, [10, 1, 0, 5].into()), [10, 1, 0, 1].into());
    gateway.receive_all(UPLINK, &vec![vlan(100, &request); 5000]);
    assert_eq!(gateway.io.take(KERNEL).len(), 1000);
    assert_eq!(gateway.drops("trap_limited"), 4000);
    assert_eq!(count(&gateway.snapshot().trap_limited, "arp_nd"), 4000);
    gateway.forward(ACCESS, &request, KERNEL);
}

const LOCAL6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const VTEP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);

fn ipv6_underlay() -> pipeline::Config {
    let mut config = config();
    let underlay = config.underlay.as_mut().unwrap();
    underlay.local_ip = LOCAL6.into();
    underlay.neighbors = vec![];
    config.lifs[1].vteps = vec![VTEP6.into()];
    config
}

/// A neighbor solicitation (135) or advertisement (136) with one option.
fn nd(kind: u8, macs: ([u8; 6], [u8; 6]), ips: (Ipv6Addr, Ipv6Addr), flags: u8, target: Ipv6Addr) -> Vec<u8> {
    let option = [if kind == 135 { 1 } else { 2 }, 1].into_iter().chain(macs.0);
    let payload: Vec<u8> = target.octets().into_iter().chain(option).collect();
    let kind = etherparse::Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [flags, 0, 0, 0] };
    let mut bytes = Vec::new();
    etherparse::PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv6(ips.0.octets(), ips.1.octets(), 255)
        .icmpv6(kind)
        .write(&mut bytes, &payload)
        .unwrap();
    bytes
}

/// A frame of the server's in network `vni`, over IPv6.
fn from_server_over_v6(source: Ipv6Addr, vni: u8) -> Vec<u8> {
    let inner = frame((SERVER_MAC, GATEWAY_BLUE), 17, &tuple("10.2.0.1:2", "10.1.0.5:1"), 64, b"x");
    let vxlan = [&[8, 0, 0, 0, 0, 7, vni, 0], &inner[..]].concat();
    let mut bytes = Vec::new();
    etherparse::PacketBuilder::ethernet2(VTEP_MAC, UPLINK_MAC)
        .ipv6(source.octets(), LOCAL6.octets(), 64)
        .udp(50_000, 4789)
        .write(&mut bytes, &vxlan)
        .unwrap();
    vlan(2, &bytes)
}

#[test]
fn over_ipv6_a_mac_that_moves_is_followed_within_a_burst() {
    // They differ in the first half of their address, and in the second.
    let vteps = [
        VTEP6,
        Ipv6Addr::new(0x2001, 0xdb9, 0, 0, 0, 0, 0, 9),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 10),
    ];
    let mut config = ipv6_underlay();
    config.underlay.as_mut().unwrap().neighbors =
        vteps.map(|ip| StaticNeighbor { ip: ip.into(), mac: VTEP_MAC }).to_vec();
    let mut gateway = Gateway::with(config);
    for (last, other) in [(0, 1), (1, 2), (2, 0), (0, 2)] {
        let from = |n: usize| from_server_over_v6(vteps[n], 0xd0);
        gateway.receive_together(UPLINK, &[from(last), from(other), from(other), from(last), from(last)]);
        gateway.io.take(KERNEL);
        let sent = untag(2, &gateway.forward(KERNEL, &to_server(), UPLINK));
        assert_eq!(sent[38..54], vteps[last].octets());
    }
}

#[test]
fn a_mac_in_two_networks_is_in_each_of_them() {
    let over_v4 = |vni: u8| {
        let mut bytes = from_server(Outer::from_vtep());
        bytes[52] = vni;
        bytes
    };
    let over_v6 = |vni| from_server_over_v6(VTEP6, vni);
    let families: [(_, &dyn Fn(u8) -> Vec<u8>); 2] = [(config(), &over_v4), (ipv6_underlay(), &over_v6)];
    for (mut config, from) in families {
        let blue = &config.lifs[1];
        let encapsulation = pipeline::Encapsulation::Vxlan(2001);
        config.lifs.push(pipeline::Lif {
            id: 4,
            name: "cyan".into(),
            encapsulation,
            trap_vni: 10400,
            ..blue.clone()
        });
        let mut gateway = Gateway::with(config);
        let networks = [0xd0, 0xd1, 0xd0, 0xd1, 0xd1, 0xd0];
        gateway.receive_together(UPLINK, &networks.map(from));
        let trapped = gateway.io.take(KERNEL).iter().map(|bytes| unwrap(bytes).0.vni).collect::<Vec<_>>();
        assert_eq!(trapped, networks.map(|vni| if vni == 0xd0 { 2000 } else { 10400 }));
    }
}

#[test]
fn an_ipv6_underlay() {
    let mut gateway = Gateway::with(ipv6_underlay());
    gateway.receive(KERNEL, &to_server());
    let asked = gateway.io.take(UPLINK);
    let group: Ipv6Addr = "ff02::1:ff00:9".parse().unwrap();
    let macs = (UPLINK_MAC, [0x33, 0x33, 0xff, 0, 0, 9]);
    assert_eq!(asked, [vlan(2, &nd(135, macs, (LOCAL6, group), 0, VTEP6))]);
    let answer = nd(136, (VTEP_MAC, UPLINK_MAC), (VTEP6, LOCAL6), 0x60, VTEP6);
    gateway.receive(UPLINK, &vlan(2, &answer));
    let out = untag(2, &gateway.forward(KERNEL, &to_server(), UPLINK));
    assert_eq!(out[0..12], [VTEP_MAC, UPLINK_MAC].concat());
    let sliced = etherparse::SlicedPacket::from_ethernet(&out).unwrap();
    let Some(etherparse::NetSlice::Ipv6(ip)) = sliced.net else { panic!("IPv6") };
    assert_eq!((ip.header().source_addr(), ip.header().destination_addr()), (LOCAL6, VTEP6));
    assert_eq!(usize::from(ip.header().payload_length()), out.len() - 54);
    let Some(etherparse::TransportSlice::Udp(udp)) = sliced.transport else { panic!("UDP") };
    assert_eq!((udp.checksum(), udp.destination_port()), (0, 4789));
    assert_eq!(out[70..], to_server()[50..]);

    // The same outer headers the other way round arrive.
    let macs = (SERVER_MAC, GATEWAY_BLUE);
    let inner = frame(macs, 17, &tuple("10.2.0.1:2", "10.1.0.5:1"), 64, b"x");
    let mut back = [&out[6..12], &out[0..6], &out[12..70]].concat();
    back[22..54].copy_from_slice(&[VTEP6.octets(), LOCAL6.octets()].concat());
    let (_, trapped) = unwrap(&gateway.forward(UPLINK, &vlan(2, &[back, inner.clone()].concat()), KERNEL));
    assert_eq!(trapped, inner);

    let group: Ipv6Addr = "ff02::1:ff00:1".parse().unwrap();
    let question = nd(135, (VTEP_MAC, [0x33, 0x33, 0xff, 0, 0, 1]), (VTEP6, group), 0, LOCAL6);
    let answer = gateway.forward(UPLINK, &vlan(2, &question), UPLINK);
    assert_eq!(untag(2, &answer), nd(136, (UPLINK_MAC, VTEP_MAC), (LOCAL6, VTEP6), 0x60, LOCAL6));
    let mut wrong = vlan(2, &question);
    wrong[70] ^= 1;
    gateway.receive(UPLINK, &wrong);
    assert_eq!(gateway.drops("bad_checksum"), 1);
    // Without the option, as Linux answers a unicast question.
    let mut bare = Vec::new();
    let kind = etherparse::Icmpv6Type::Unknown { type_u8: 136, code_u8: 0, bytes5to8: [0x40, 0, 0, 0] };
    etherparse::PacketBuilder::ethernet2(VTEP2_MAC, UPLINK_MAC)
        .ipv6(VTEP6.octets(), LOCAL6.octets(), 255)
        .icmpv6(kind)
        .write(&mut bare, &VTEP6.octets())
        .unwrap();
    gateway.receive(UPLINK, &vlan(2, &bare));
    let out = untag(2, &gateway.forward(KERNEL, &to_server(), UPLINK));
    assert_eq!(out[0..6], VTEP2_MAC);
    let far = nd(135, (VTEP_MAC, [0x33, 0x33, 0xff, 0, 0, 1]), (VTEP6, group), 0, VTEP6);
    gateway.receive(UPLINK, &vlan(2, &far));
    assert_eq!(gateway.drops("not_for_us"), 1);
}

/// RFC 4862 section 5.4.3: somebody is about to take the gateway's address, and must learn that it is taken.
#[test]
fn duplicate_address_detection_is_answered_to_all_nodes() {
    let mut gateway = Gateway::with(ipv6_underlay());
    let group: Ipv6Addr = "ff02::1:ff00:1".parse().unwrap();
    let all: Ipv6Addr = "ff02::1".parse().unwrap();
    let claimant = [2, 0, 0, 0, 7, 7];
    // Options as they come: none, or the nonce of RFC 7527.
    let question = |source: Ipv6Addr, destination: Ipv6Addr, options: &[u8]| {
        let kind = etherparse::Icmpv6Type::Unknown { type_u8: 135, code_u8: 0, bytes5to8: [0; 4] };
        let mut bytes = Vec::new();
        etherparse::PacketBuilder::ethernet2(claimant, [0x33, 0x33, 0xff, 0, 0, 1])
            .ipv6(source.octets(), destination.octets(), 255)
            .icmpv6(kind)
            .write(&mut bytes, &[&LOCAL6.octets(), options].concat())
            .unwrap();
        vlan(2, &bytes)
    };
    // Not solicited, override: 0x20.
    let answer = nd(136, (UPLINK_MAC, [0x33, 0x33, 0, 0, 0, 1]), (LOCAL6, all), 0x20, LOCAL6);
    for options in [&[][..], &[14, 1, 1, 2, 3, 4, 5, 6]] {
        let sent = gateway.forward(UPLINK, &question(Ipv6Addr::UNSPECIFIED, group, options), UPLINK);
        assert_eq!(untag(2, &sent), answer, "{options:?}");
    }
    // RFC 4861 section 7.1.1: it cannot know a MAC to tell us, and does not know ours to ask.
    let slla = [&[1, 1][..], &claimant].concat();
    let invalid =
        [question(Ipv6Addr::UNSPECIFIED, group, &slla), question(Ipv6Addr::UNSPECIFIED, LOCAL6, &[])];
    for (n, invalid) in (1..).zip(invalid) {
        gateway.receive(UPLINK, &invalid);
        assert_eq!(gateway.drops("malformed"), n);
    }
    assert!(gateway.io.take(UPLINK).is_empty());
}

#[test]
fn static_neighbors_do_not_move() {
    let mut config = config();
    config.underlay.as_mut().unwrap().neighbors =
        vec![StaticNeighbor { ip: IpAddr::V4(VTEP), mac: VTEP_MAC }];
    let mut gateway = Gateway::with(config);
    let liar = [2, 6, 6, 6, 6, 6];
    gateway.receive(UPLINK, &vlan(2, &arp(2, (liar, VTEP), (UPLINK_MAC, LOCAL), UPLINK_MAC)));
    gateway.receive(UPLINK, &from_server(Outer { macs: (liar, UPLINK_MAC), ..Outer::from_vtep() }));
    gateway.io.take(KERNEL);
    let (outer, _) = unwrap(&untag(2, &gateway.forward(KERNEL, &to_server(), UPLINK)));
    assert_eq!(outer.macs.1, VTEP_MAC);
}

/// A worker keeps headers by the place that out LIF and MACs have in the session table: it must see that a place is used again.
#[test]
fn headers_of_a_session_are_not_those_of_an_earlier_one() {
    let mut gateway = Gateway::new();
    let (original, translated) =
        (tuple("10.1.0.5:40000", "198.51.100.10:53"), tuple("203.0.113.1:61000", "198.51.100.10:53"));
    // More than places are kept aside for.
    for n in 0..6_000u16 {
        let [a, b] = n.to_be_bytes();
        let client = [2, 0, 0, 9, a, b];
        let mut spec = routed(7, 17, original, translated);
        spec.l2.as_mut().unwrap().reverse.destination = client;
        gateway.install(&spec);
        let back = frame((SERVER_MAC, GATEWAY_BLUE), 17, &swapped(&translated), 64, b"answer");
        let out = gateway.forward(UPLINK, &vlan(2, &Outer::from_vtep().wrap(&back)), UPLINK);
        assert_eq!(
            out,
            vlan(100, &frame((GATEWAY_RED, client), 17, &swapped(&original), 63, b"answer")),
            "{n}"
        );
        assert!(gateway.sessions.remove(conntrack::SessionId(7), conntrack::Timestamp(0)));
        assert_eq!(gateway.sessions.maintain(conntrack::Timestamp(0), 10, &mut |_| {}).closed, 1);
    }
    assert_ne!(gateway.sessions.l2_generation(), 0, "places were used again");
}
