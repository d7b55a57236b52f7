//! Captures through `gateway replay`: what comes out is compared byte for byte with frames made independently.
#![forbid(unsafe_code)]

mod common;

use common::*;
use etherparse::{EtherType, IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpNumber, icmpv4};
use serde_json::json;

const TCP: &str = r#""in_lif": 1, "out_lif": 2, "protocol": "tcp", "source": "10.1.0.5:40000", "destination": "198.51.100.10:443", "nat": {"source": "203.0.113.1:61000"}"#;
const UDP: &str = r#""in_lif": 1, "out_lif": 2, "protocol": "udp", "source": "10.1.0.5:40000", "destination": "198.51.100.10:53", "nat": {"source": "203.0.113.1:61000"}"#;
const UDP6: &str = r#""in_lif": 1, "out_lif": 2, "protocol": "udp", "source": "[2001:db8:a::5]:40000", "destination": "[2001:db8:c::10]:53", "nat": {"source": "[2001:db8:b::1]:61000"}"#;
const PING: &str = r#""in_lif": 1, "out_lif": 2, "protocol": "icmp", "source": "10.1.0.5:7", "destination": "8.8.8.8", "nat": {"source": "203.0.113.1:77"}"#;
const PING6: &str = r#""in_lif": 1, "out_lif": 2, "protocol": "icmpv6", "source": "[2001:db8:a::5]:7", "destination": "2001:db8:c::8", "nat": {"source": "[2001:db8:b::1]:77"}"#;

fn routed(session: &str) -> String {
    format!("{session}, {L2}")
}

fn inside() -> Ip {
    ip("10.1.0.5", "198.51.100.10")
}

fn outside() -> Ip {
    ip("203.0.113.1", "198.51.100.10")
}

fn back(ip: Ip) -> Ip {
    Ip { source: ip.destination, destination: ip.source, ..ip }
}

fn echo(id: u16, seq: u16) -> IcmpEchoHeader {
    IcmpEchoHeader { id, seq }
}

#[test]
fn vlan_to_vxlan_and_back_with_nat() {
    let (inside6, outside6) = (ip("2001:db8:a::5", "2001:db8:c::10"), ip("2001:db8:b::1", "2001:db8:c::10"));
    let replay = Replay::new().session(&routed(TCP)).session(&routed(UDP)).session(&routed(UDP6));
    let outcome = replay
        .frame(0, "uplink", from_red(&inside().tcp(40000, 443, "A", b"hello")))
        .frame(1, "uplink", from_blue(&back(outside()).tcp(443, 61000, "A", b"welcome")))
        .frame(2, "uplink", from_red(&inside().udp(40000, 53, b"query")))
        .frame(3, "uplink", from_blue(&back(outside()).udp(53, 61000, b"answer!")))
        .frame(4, "uplink", from_red(&inside6.udp(40000, 53, b"query")))
        .frame(5, "uplink", from_blue(&back(outside6).udp(53, 61000, b"answer!")))
        .run();
    outcome.sent(
        "uplink",
        &[
            (0, to_blue(&outside().ttl(63).tcp(61000, 443, "A", b"hello"))),
            (1, to_red(&back(inside()).ttl(63).tcp(443, 40000, "A", b"welcome"))),
            (2, to_blue(&outside().ttl(63).udp(61000, 53, b"query"))),
            (3, to_red(&back(inside()).ttl(63).udp(53, 40000, b"answer!"))),
            (4, to_blue(&outside6.ttl(63).udp(61000, 53, b"query"))),
            (5, to_red(&back(inside6).ttl(63).udp(53, 40000, b"answer!"))),
        ],
    );
    outcome.sent("kernel", &[]);
    assert_eq!(outcome.count("other", "established"), 6);
    assert_eq!(
        outcome.stats["sessions"],
        json!({"capacity": 100, "active": 3, "installed": 3, "rejected": 0, "closed": 0})
    );
    assert_eq!(outcome.stats["lifs"]["red"]["rx_packets"], 3);
    assert_eq!(outcome.stats["lifs"]["red"]["tx_packets"], 3);
}

#[test]
fn several_captures_of_one_port_are_merged() {
    let frame = |payload| from_red(&inside().udp(40000, 53, payload));
    let sent = |payload| to_blue(&outside().ttl(63).udp(61000, 53, payload));
    let outcome = Replay::new()
        .session(&routed(UDP))
        .frame(0, "uplink", frame(b"first"))
        .frame(5, "uplink", frame(b"second"))
        .argument(&["--input", "uplink=uplink-in.pcap"])
        .run();
    let expected = [(0, sent(b"first")), (0, sent(b"first")), (5, sent(b"second")), (5, sent(b"second"))];
    outcome.sent("uplink", &expected);
}

#[test]
fn pings_by_identifier() {
    let (inside, outside) = (ip("10.1.0.5", "8.8.8.8"), ip("203.0.113.1", "8.8.8.8"));
    let (inside6, outside6) = (ip("2001:db8:a::5", "2001:db8:c::8"), ip("2001:db8:b::1", "2001:db8:c::8"));
    let outcome = Replay::new()
        .session(&routed(PING))
        .session(&routed(PING6))
        .frame(0, "uplink", from_red(&inside.icmp(Icmpv4Type::EchoRequest(echo(7, 1)), b"abc")))
        .frame(1, "uplink", from_blue(&back(outside).icmp(Icmpv4Type::EchoReply(echo(77, 1)), b"abc")))
        .frame(2, "uplink", from_red(&inside6.icmpv6(Icmpv6Type::EchoRequest(echo(7, 1)), b"abc")))
        .frame(3, "uplink", from_blue(&back(outside6).icmpv6(Icmpv6Type::EchoReply(echo(77, 1)), b"abc")))
        .run();
    outcome.sent(
        "uplink",
        &[
            (0, to_blue(&outside.ttl(63).icmp(Icmpv4Type::EchoRequest(echo(77, 1)), b"abc"))),
            (1, to_red(&back(inside).ttl(63).icmp(Icmpv4Type::EchoReply(echo(7, 1)), b"abc"))),
            (2, to_blue(&outside6.ttl(63).icmpv6(Icmpv6Type::EchoRequest(echo(77, 1)), b"abc"))),
            (3, to_red(&back(inside6).ttl(63).icmpv6(Icmpv6Type::EchoReply(echo(7, 1)), b"abc"))),
        ],
    );
}

#[test]
fn without_l2_macs_and_ttl_stay() {
    let outcome = Replay::new()
        .session(UDP)
        .frame(0, "uplink", from_red(&inside().tos(0xb8).udp(40000, 53, b"query")))
        .run();
    let inner = ethernet(ROUTER_A, TENANT, &outside().tos(0xb8).udp(61000, 53, b"query"));
    let outer = ip("192.0.2.1", "192.0.2.9").tos(0xb8);
    outcome.sent("uplink", &[(0, tagged(2, &vxlan((VTEP, UPLINK), outer, 0, 2000, &inner)))]);
}

#[test]
fn icmp_errors_are_translated_outside_and_inside() {
    let unreachable = |inner: &[u8]| {
        let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
        ip("198.51.100.10", "203.0.113.1").icmp(kind, inner)
    };
    let translated = |inner: &[u8]| {
        let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
        ip("198.51.100.10", "10.1.0.5").ttl(63).icmp(kind, inner)
    };
    let outer6 = ip("2001:db8:c::1", "2001:db8:b::1");
    let too_big = Icmpv6Type::PacketTooBig { mtu: 1280 };
    let inner6 = ip("2001:db8:b::1", "2001:db8:c::10").ttl(60).udp(61000, 53, b"query");
    let inner6_inside = ip("2001:db8:a::5", "2001:db8:c::10").ttl(60).udp(40000, 53, b"query");
    let outcome = Replay::new()
        .session(&routed(UDP))
        .session(&routed(UDP6))
        .frame(0, "uplink", from_blue(&unreachable(&outside().ttl(60).udp(61000, 53, b"query"))))
        .frame(1, "uplink", from_blue(&outer6.icmpv6(too_big, &inner6)))
        .run();
    let to_tenant6 = ip("2001:db8:c::1", "2001:db8:a::5").ttl(63).icmpv6(too_big, &inner6_inside);
    outcome.sent(
        "uplink",
        &[(0, to_red(&translated(&inside().ttl(60).udp(40000, 53, b"query")))), (1, to_red(&to_tenant6))],
    );
    assert_eq!(outcome.count("other", "related"), 2);
}

#[test]
fn traps_by_class() {
    let new = ethernet(ROUTER_A, TENANT, &ip("10.1.0.6", "198.51.100.10").udp(1, 2, b"new"));
    let syn = ethernet(ROUTER_A, TENANT, &inside().tcp(40000, 443, "S", b""));
    let old = ethernet(ROUTER_A, TENANT, &inside().ttl(1).tcp(40000, 443, "A", b"old"));
    let arp = arp(TENANT, [10, 1, 0, 5], [10, 1, 0, 1]);
    let solicit = solicit();
    let answer = ethernet(ROUTER_B, SERVER, &back(outside()).udp(9, 9, b"unasked"));
    let outer = ip("192.0.2.9", "192.0.2.1");
    let outcome = Replay::new()
        .session(&routed(TCP))
        .frame(0, "uplink", tagged(100, &new))
        .frame(1, "uplink", tagged(100, &syn))
        .frame(2, "uplink", tagged(100, &old))
        .frame(3, "uplink", tagged(100, &arp))
        .frame(4, "uplink", tagged(100, &solicit))
        .frame(5, "uplink", tagged(2, &vxlan((UPLINK, VTEP), outer, 50_000, 2000, &answer)))
        .run();
    outcome.sent(
        "kernel",
        &[
            (0, trapped(10100, &new)),
            (1, trapped(10100, &syn)),
            (2, trapped(10100, &old)),
            (3, trapped(10100, &arp)),
            (4, trapped(10100, &solicit)),
            (5, trapped(2000, &answer)),
        ],
    );
    outcome.sent("uplink", &[]);
    assert_eq!(outcome.stats["traps"], json!({"new": 2, "tcp_control": 1, "arp_nd": 2, "exception": 1}));
}

fn arp(source: Mac, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let request = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &source, &sender, &[0; 6], &target].concat();
    typed([0xff; 6], source, EtherType::ARP, &request)
}

fn solicit() -> Vec<u8> {
    let target = "fe80::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let body = [&[0; 4][..], &target, &[1, 1], &TENANT].concat();
    let kind = Icmpv6Type::Unknown { type_u8: 135, code_u8: 0, bytes5to8: [0; 4] };
    let solicitation = ip("fe80::5", "ff02::1:ff00:1").ttl(255).icmpv6(kind, &body[4..]);
    ethernet([0x33, 0x33, 0xff, 0, 0, 1], TENANT, &solicitation)
}

#[test]
fn from_the_kernel_to_vlan_and_vxlan() {
    let to_tenant = ethernet(TENANT, ROUTER_A, &back(inside()).udp(1, 2, b"down"));
    let to_server = ethernet(SERVER, ROUTER_B, &outside().udp(3, 4, b"up"));
    let outcome = Replay::new()
        .frame(0, "kernel", from_kernel(10100, &to_tenant))
        .frame(1, "kernel", from_kernel(2000, &to_server))
        .frame(2, "kernel", from_kernel(4711, &to_server))
        .run();
    let outer = ip("192.0.2.1", "192.0.2.9");
    outcome.sent(
        "uplink",
        &[(0, tagged(100, &to_tenant)), (1, tagged(2, &vxlan((VTEP, UPLINK), outer, 0, 2000, &to_server)))],
    );
    outcome.sent("kernel", &[]);
    assert_eq!(outcome.count("other", "from_kernel"), 2);
    assert_eq!(outcome.count("drops", "unknown_lif"), 1);
}

#[test]
fn unknown_tags_and_broken_packets_are_counted() {
    let good = inside().udp(40000, 53, b"query");
    let mut bad_checksum = good.clone();
    bad_checksum[10] ^= 0xff;
    let mut bad_length = good.clone();
    bad_length[2] = 0xff;
    let no_flag = {
        let mut frame = from_blue(&back(outside()).udp(53, 61000, b"answer"));
        frame[46] = 0;
        frame
    };
    let outcome = Replay::new()
        .session(&routed(UDP))
        .frame(0, "uplink", tagged(101, &ethernet(ROUTER_A, TENANT, &good)))
        .frame(1, "uplink", ethernet(ROUTER_A, TENANT, &good))
        .frame(2, "uplink", tagged(100, &tagged(100, &ethernet(ROUTER_A, TENANT, &good))))
        .frame(3, "uplink", from_red(&bad_checksum))
        .frame(4, "uplink", from_red(&bad_length))
        .frame(5, "uplink", from_red(&good)[..30].to_vec())
        .frame(6, "uplink", vec![1, 2, 3])
        .frame(7, "uplink", vec![])
        .frame(8, "uplink", no_flag)
        .run();
    outcome.sent("uplink", &[]);
    outcome.sent("kernel", &[]);
    let dropped =
        outcome.stats["drops"].as_object().unwrap().values().filter_map(|n| n.as_u64()).sum::<u64>();
    assert_eq!(dropped, 9, "{}", outcome.stats);
    assert_eq!(outcome.count("drops", "unknown_lif"), 3, "{}", outcome.stats);
    assert_eq!(outcome.count("drops", "bad_checksum"), 1);
    assert_eq!(outcome.count("drops", "session_drop"), 0);
}

#[test]
fn wrong_checksums_stay_wrong_and_absent_ones_absent() {
    let wrong = |packet: &[u8], at: usize, by: u16| {
        let mut packet = packet.to_vec();
        let sum = u16::from_be_bytes([packet[at], packet[at + 1]]).wrapping_add(by);
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        packet
    };
    let none = |packet: &[u8]| {
        let mut packet = packet.to_vec();
        packet[26..28].fill(0);
        packet
    };
    let outcome = Replay::new()
        .session(&routed(TCP))
        .session(&routed(UDP))
        .frame(0, "uplink", from_red(&wrong(&inside().tcp(40000, 443, "A", b"hello"), 36, 1)))
        .frame(1, "uplink", from_red(&none(&inside().udp(40000, 53, b"query"))))
        .run();
    outcome.sent(
        "uplink",
        &[
            (0, to_blue(&wrong(&outside().ttl(63).tcp(61000, 443, "A", b"hello"), 36, 1))),
            (1, to_blue(&none(&outside().ttl(63).udp(61000, 53, b"query")))),
        ],
    );
}

#[test]
fn sessions_time_out_and_a_later_packet_is_new() {
    let packet = inside().udp(40000, 53, b"query");
    let outcome = Replay::new()
        .session(&format!("{}, \"timeout\": 30", routed(UDP)))
        .frame(0, "uplink", from_red(&packet))
        .frame(29 * SECOND, "uplink", from_red(&packet))
        .frame(60 * SECOND, "uplink", from_red(&packet))
        .run();
    let out = to_blue(&outside().ttl(63).udp(61000, 53, b"query"));
    outcome.sent("uplink", &[(0, out.clone()), (29 * SECOND, out)]);
    outcome.sent("kernel", &[(60 * SECOND, trapped(10100, &ethernet(ROUTER_A, TENANT, &packet)))]);
    let bytes = 2 * (14 + packet.len());
    assert_eq!(
        outcome.closed,
        [
            json!({"session_id": 1, "close_code": "timeout", "in_packets": 2, "in_bytes": bytes, "out_packets": 0, "out_bytes": 0})
        ]
    );
}

#[test]
fn until_lets_time_go_on_or_ends_it() {
    let packet = inside().udp(40000, 53, b"query");
    let replay = || Replay::new().session(&routed(UDP)).frame(0, "uplink", from_red(&packet));
    assert_eq!(replay().argument(&["--until", "299"]).run().closed, Vec::<serde_json::Value>::new());
    let outcome = replay().argument(&["--until", "301"]).run();
    assert_eq!(outcome.closed[0]["close_code"], "timeout");
    assert_eq!(
        outcome.stats["sessions"],
        json!({"capacity": 100, "active": 0, "installed": 1, "rejected": 0, "closed": 1})
    );
    let outcome = replay().frame(2 * SECOND, "uplink", from_red(&packet)).argument(&["--until", "1.5"]).run();
    assert_eq!(outcome.stats["ports"]["uplink"]["rx_packets"], 1);
}

#[test]
fn fin_both_ways_and_rst_close() {
    let other = TCP.replace("40000", "40001").replace("61000", "61001");
    let fin = inside().tcp(40000, 443, "FA", b"");
    let fin_back = back(outside()).tcp(443, 61000, "FA", b"");
    let rst = inside().tcp(40001, 443, "RA", b"");
    let outcome = Replay::new()
        .session(&routed(TCP))
        .session(&routed(&other))
        .frame(0, "uplink", from_red(&inside().tcp(40000, 443, "A", b"hello")))
        .frame(1, "uplink", from_red(&fin))
        .frame(2, "uplink", from_blue(&fin_back))
        .frame(3, "uplink", from_red(&rst))
        .frame(4, "uplink", from_red(&inside().tcp(40001, 443, "A", b"too late")))
        .run();
    outcome.sent("uplink", &[(0, to_blue(&outside().ttl(63).tcp(61000, 443, "A", b"hello")))]);
    let red = |packet: &[u8]| trapped(10100, &ethernet(ROUTER_A, TENANT, packet));
    outcome.sent(
        "kernel",
        &[
            (1, red(&fin)),
            (2, trapped(2000, &ethernet(ROUTER_B, SERVER, &fin_back))),
            (3, red(&rst)),
            (4, red(&inside().tcp(40001, 443, "A", b"too late"))),
        ],
    );
    assert_eq!(outcome.stats["traps"], json!({"new": 1, "tcp_control": 3, "arp_nd": 0, "exception": 0}));
    let mut codes = outcome
        .closed
        .iter()
        .map(|c| (c["session_id"].as_u64(), c["close_code"].as_str()))
        .collect::<Vec<_>>();
    codes.sort();
    assert_eq!(codes, [(Some(1), Some("finack")), (Some(2), Some("rst"))]);
}

#[test]
fn drop_action_counts_and_drops() {
    let packet = inside().udp(40000, 53, b"query");
    let outcome = Replay::new()
        .session(&format!("{UDP}, \"action\": \"drop\", \"timeout\": 1"))
        .frame(0, "uplink", from_red(&packet))
        .argument(&["--until", "2"])
        .run();
    outcome.sent("uplink", &[]);
    outcome.sent("kernel", &[]);
    assert_eq!(outcome.count("drops", "session_drop"), 1);
    assert_eq!(outcome.closed[0]["in_packets"], 1);
}

#[test]
fn limits_and_hard_timeouts_follow_the_capture() {
    let packet = inside().udp(40000, 53, b"query");
    let times = [0, 1, 2, 1600, 2999, 3000];
    let session = format!("{UDP}, \"limit\": {{\"packets\": 2}}, \"hard_timeout\": 3");
    let replay = times.iter().fold(Replay::new().session(&session), |replay, &at| {
        replay.frame(at * MILLISECOND, "uplink", from_red(&packet))
    });
    let outcome = replay.run();
    assert_eq!(outcome.count("drops", "rate_limited"), 1, "the third within a second");
    assert_eq!(outcome.count("other", "established"), 4);
    assert_eq!(outcome.count("traps", "new"), 1, "the session has ended");
    let closed = &outcome.closed[0];
    assert_eq!((closed["close_code"].as_str(), closed["in_packets"].as_u64()), (Some("timeout"), Some(4)));
}

#[test]
fn larger_than_the_mtu_is_an_exception() {
    let big = back(outside()).udp(53, 61000, &[7; 1473]);
    let fits = back(outside()).udp(53, 61000, &[7; 1472]);
    let outcome = Replay::new()
        .session(&routed(UDP))
        .frame(0, "uplink", from_blue(&big))
        .frame(1, "uplink", from_blue(&fits))
        .run();
    outcome.sent("kernel", &[(0, trapped(2000, &ethernet(ROUTER_B, SERVER, &big)))]);
    outcome.sent("uplink", &[(1, to_red(&back(inside()).ttl(63).udp(53, 40000, &[7; 1472])))]);
    assert_eq!(outcome.count("traps", "exception"), 1);
}

#[test]
fn jumbo_frames_are_chained() {
    let payload = (0..8900).map(|i| i as u8).collect::<Vec<_>>();
    let outcome = Replay::new()
        .session(&routed(UDP))
        .frame(0, "uplink", from_red(&inside().udp(40000, 53, &payload)))
        .run();
    outcome.sent("uplink", &[(0, to_blue(&outside().ttl(63).udp(61000, 53, &payload)))]);
    // The longest there is: 64 KiB of IP.
    let payload = vec![1; 65_507];
    let new = ip("10.1.0.6", "198.51.100.10").udp(1, 2, &payload);
    let outcome = Replay::new().frame(0, "uplink", from_red(&new)).run();
    assert_eq!(outcome.stats["lifs"]["red"]["rx_packets"], 1);
}

#[test]
fn trap_limits_follow_the_captures_time() {
    let request = || tagged(100, &arp(TENANT, [10, 1, 0, 5], [10, 1, 0, 1]));
    let mut replay = Replay::new().config("arp_nd = 1000", "arp_nd = 2");
    for i in 0..5 {
        replay = replay.frame(i * MILLISECOND, "uplink", request());
    }
    let outcome = replay.frame(10 * SECOND, "uplink", request()).run();
    assert_eq!(outcome.ports["kernel"].len(), 3, "{}", outcome.stats);
    assert_eq!(outcome.ports["kernel"][2].0, START + 10 * SECOND);
    assert_eq!(outcome.count("trap_limited", "arp_nd"), 3);
    assert_eq!(outcome.count("drops", "trap_limited"), 3);
    let none = Replay::new().config("new = 100000", "new = 0");
    let outcome = none.frame(0, "uplink", from_red(&inside().udp(1, 2, b"new"))).run();
    assert_eq!(outcome.count("trap_limited", "new"), 1);
}

#[test]
fn a_full_table_refuses_and_traffic_goes_to_the_vnf() {
    let packet = inside().udp(40000, 53, b"query");
    let replay = Replay::new()
        .config("capacity = 100", "capacity = 1")
        .session(&routed(TCP))
        .session(&routed(UDP))
        .frame(0, "uplink", from_red(&packet));
    let outcome = replay.run();
    outcome.sent("kernel", &[(0, trapped(10100, &ethernet(ROUTER_A, TENANT, &packet)))]);
    assert_eq!(outcome.stats["sessions"]["rejected"], 1);
    let errors = String::from_utf8(replay.output("1").stderr).unwrap();
    assert_eq!(errors, "warning: sessions.jsonl:2: session 2 is not installed: the session table is full\n");
}

#[test]
fn inputs_are_merged_by_time() {
    let frame = |text: &[u8]| ethernet(TENANT, ROUTER_A, &back(inside()).udp(1, 2, text));
    let new = |text: &[u8]| ethernet(ROUTER_A, TENANT, &inside().udp(1, 2, text));
    let outcome = Replay::new()
        .frame(2 * SECOND, "kernel", from_kernel(10100, &frame(b"b")))
        .frame(SECOND, "uplink", tagged(100, &new(b"a")))
        .frame(3 * SECOND, "uplink", tagged(100, &new(b"c")))
        .run();
    outcome.sent("kernel", &[(SECOND, trapped(10100, &new(b"a"))), (3 * SECOND, trapped(10100, &new(b"c")))]);
    outcome.sent("uplink", &[(2 * SECOND, tagged(100, &frame(b"b")))]);
}

#[test]
fn the_gateway_answers_for_its_own_addresses() {
    let asked = tagged(2, &arp(VTEP, [192, 0, 2, 9], [192, 0, 2, 1]));
    let outcome = Replay::new().frame(0, "uplink", asked).run();
    let reply = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &UPLINK, &[192, 0, 2, 1], &VTEP, &[192, 0, 2, 9]].concat();
    outcome.sent("uplink", &[(0, tagged(2, &typed(VTEP, UPLINK, EtherType::ARP, &reply)))]);
    outcome.sent("kernel", &[]);
}

#[test]
fn nobody_in_particular_can_replay() {
    let replay = Replay::new().frame(0, "uplink", from_red(&inside().udp(1, 2, b"new")));
    let output = replay.output_as_nobody();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let left = std::fs::read_dir(replay.path("tmp")).unwrap().count();
    assert_eq!(left, 0, "run-time files are left behind");
}

#[test]
fn other_protocols_by_addresses() {
    let session = r#""in_lif": 1, "out_lif": 2, "protocol": 47, "source": "10.1.0.5", "destination": "198.51.100.10", "nat": {"source": "203.0.113.1"}"#;
    let gre = IpNumber(47);
    let outcome = Replay::new()
        .session(&routed(session))
        .frame(0, "uplink", from_red(&inside().packet(gre, &[0, 0, 8, 0, 1, 2, 3])))
        .run();
    outcome.sent("uplink", &[(0, to_blue(&outside().ttl(63).packet(gre, &[0, 0, 8, 0, 1, 2, 3])))]);
}
