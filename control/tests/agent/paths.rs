//! Paths as the kernel would choose them.

use super::netns::{
    CLIENT_MAC, IN_MAC, MASQUERADE, OUT_MAC, SERVER_MAC, TRACK_ONLY, Talker, exchange, may_run,
};
use super::recorder::wait;
use super::{Setup, assert_macs};

/// A second way to the server, by `out1`; the server's address 10.99.0.1 is reached by either. Entries do not end by themselves
/// meanwhile.
fn two_ways(setup: &Setup) {
    setup.lab.vnf.sh(&format!(
        "ip link add out1 address 02:00:00:84:00:01 type veth peer name eth1 address 02:00:00:84:00:09 netns {}
         ip addr add 10.84.0.1/24 dev out1; ip link set out1 up
         ip route add 10.99.0.1 via 10.84.0.9 dev out1 table 100
         sysctl -qw net.netfilter.nf_conntrack_udp_timeout=600
         sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.out1.rp_filter=0 net.ipv4.conf.out0.rp_filter=0",
        setup.lab.server.name
    ));
    setup.lab.server.sh(
        "ip addr add 10.84.0.9/24 dev eth1; ip link set eth1 up; ip addr add 10.99.0.1/32 dev lo
         sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth1.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0",
    );
    setup.lab.client.sh("ip addr add 10.81.0.6/24 dev eth0");
}

const FROM: &str = r#"
import socket, sys
address, port, source, source_port = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
# UDP, and not connected: else the socket's own hash comes along with its packets, as that of some devices does, and the kernel
# chooses by it.
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20); s.bind((source, source_port)); print('connected')
for line in sys.stdin:
    s.sendto(b'x', (address, port)); s.recvfrom(9); print('ok')
"#;

fn visit(setup: &Setup, port: u16, source: &str, source_port: u16) -> Talker {
    let arguments = ["10.99.0.1", &port.to_string(), source, &source_port.to_string()];
    let mut client = setup.lab.client.python(FROM, &arguments);
    client.expect("connected");
    exchange(&mut client, 1);
    client
}

/// The out LIF of the session from `port`.
fn out_lif(setup: &Setup, port: u16) -> u32 {
    let find = || {
        let sessions = setup.server.sessions();
        sessions.into_iter().find(|s| s.original.as_ref().is_some_and(|t| t.source_port == u32::from(port)))
    };
    wait("the session", || find().is_some());
    find().unwrap().out_lif
}

#[test]
fn rules_by_source_mark_and_interface_choose_the_way() {
    if !may_run("policy routes") {
        return;
    }
    // The mark of packets comes from their connection's, as rulesets with marks do it.
    let marks = "table ip marks { chain pre { type filter hook prerouting priority mangle; \
                 ct state new udp dport 7005 ct mark set 5; meta mark set ct mark; }; }";
    let setup = Setup::new(&format!("{TRACK_ONLY}{marks}"));
    two_ways(&setup);
    setup.lab.vnf.sh(
        "ip route add 10.99.0.1 via 10.82.0.9; ip rule add from 10.81.0.6 lookup 100; ip rule add fwmark 5 lookup 100",
    );
    let _agent = setup.agent("");
    let _listeners = [7000, 7005].map(|port| setup.lab.listen(&setup.lab.server, "udp", "10.99.0.1", port));
    let _clients = [
        visit(&setup, 7000, "10.81.0.5", 48_000),
        visit(&setup, 7000, "10.81.0.6", 48_001),
        visit(&setup, 7005, "10.81.0.5", 48_002),
    ];
    assert_eq!([48_000, 48_001, 48_002].map(|port| out_lif(&setup, port)), [12, 13, 13]);
    // From now on all that comes in there: what was installed is installed anew.
    setup.lab.vnf.sh("ip rule add iif in0 to 10.99.0.1 lookup 100");
    wait("the other way", || out_lif(&setup, 48_000) == 13);
}

#[test]
fn a_route_that_changes_rewrites_its_sessions() {
    if !may_run("route change") {
        return;
    }
    let setup = Setup::new(TRACK_ONLY);
    two_ways(&setup);
    setup.lab.vnf.sh("ip route add 10.99.0.1 via 10.82.0.9");
    let _agent = setup.agent("");
    let _listener = setup.lab.listen(&setup.lab.server, "udp", "10.99.0.1", 7000);
    let _client = visit(&setup, 7000, "10.81.0.5", 48_010);
    assert_eq!(out_lif(&setup, 48_010), 12);
    let before = setup.only_session();
    setup.lab.vnf.sh("ping -c 1 -W 2 10.84.0.9 >/dev/null || true; ip route replace 10.99.0.1 via 10.84.0.9");
    wait("the other way", || out_lif(&setup, 48_010) == 13);
    let after = setup.only_session();
    assert_eq!(after.session_id, before.session_id);
    assert_macs(&after, [[2, 0, 0, 0x84, 0, 1], [2, 0, 0, 0x84, 0, 9]], [IN_MAC, CLIENT_MAC]);
    // And none at all leaves it to the kernel, which says so to the client.
    setup.lab.vnf.sh("ip route del 10.99.0.1");
    setup.server.wait_for(0);
}

#[test]
fn ports_choose_between_next_hops_as_the_kernel_does() {
    if !may_run("multipath") {
        return;
    }
    // Which way a connection really went: the kernel's choice is marked where it leaves.
    let marks = "table ip marks { chain post { type filter hook postrouting priority mangle; \
                 oifname \"out0\" ct mark set 100; oifname \"out1\" ct mark set 101; }; }";
    let setup = Setup::new(&format!("{TRACK_ONLY}{marks}"));
    two_ways(&setup);
    setup.lab.vnf.sh("sysctl -qw net.ipv4.fib_multipath_hash_policy=1
         ip route add 10.99.0.1 nexthop via 10.82.0.9 dev out0 nexthop via 10.84.0.9 dev out1");
    let _agent = setup.agent("");
    let _listener = setup.lab.listen(&setup.lab.server, "udp", "10.99.0.1", 7000);
    let ports: Vec<u16> = (49_000..49_012).collect();
    let _clients: Vec<_> = ports.iter().map(|port| visit(&setup, 7000, "10.81.0.5", *port)).collect();
    let really = |port: u16| {
        let listed = setup.conntrack(&format!("-L -p udp --orig-port-src {port}"));
        if listed.contains("mark=100") { 12 } else { 13 }
    };
    let ways: Vec<u32> = ports.iter().map(|port| really(*port)).collect();
    assert!(ways.contains(&12) && ways.contains(&13), "{ways:?}");
    assert_eq!(ports.iter().map(|port| out_lif(&setup, *port)).collect::<Vec<_>>(), ways);
}

#[test]
fn behind_a_bridge_the_port_with_the_neighbour_is_the_lif() {
    if !may_run("bridge") {
        return;
    }
    let setup = Setup::new(MASQUERADE);
    let bridge_mac = [2, 0, 0, 0x81, 0, 0xb];
    setup.lab.vnf.sh("ip link add br0 address 02:00:00:81:00:0b type bridge
         ip addr flush dev in0; ip link set in0 master br0
         ip link add idle0 type veth peer name idle1; ip link set idle0 master br0 up
         ip addr add 10.81.0.1/24 dev br0; ip link set br0 up");
    let _agent = setup.agent("");
    let _listener = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 7000);
    let mut client = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7000, 0);
    exchange(&mut client, 1);
    let session = setup.only_session();
    assert_eq!((session.in_lif, session.out_lif), (11, 12));
    assert_macs(&session, [OUT_MAC, SERVER_MAC], [bridge_mac, CLIENT_MAC]);
    // The neighbour moves to a port that has no LIF.
    // Sticky: not back again with the next packet from it.
    setup.lab.vnf.sh("bridge fdb replace 02:00:00:81:00:05 dev idle0 master sticky static");
    setup.server.wait_for(0);
}
